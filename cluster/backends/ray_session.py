"""The Ray cluster that a run uses: one that is there, or one of its own for as long as it lasts."""

from __future__ import annotations

import logging
import os
import signal
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import ray
from ray._private import utils as ray_utils

from steersweep.errors import UserError

# Results go from replicas to storage; the object store carries payloads and receipts only.
OBJECT_STORE_BYTES = 128 * 2**20
REACH_S = 5.0


@contextmanager
def ray_session() -> Iterator[None]:
    """Connect to Ray for as long as the context lasts.

    In this order: the cluster that this process is connected to already, the one that RAY_ADDRESS
    names, the one that `ray start` started on this machine, and else one of its own, which ends
    with the context. Raises `UserError` where RAY_ADDRESS cannot be reached, or none be
    started.

    The handlers of signals stay what they were.
    """
    if ray.is_initialized():
        yield
        return
    try:
        with _sigterm_kept():
            _connect()
        yield
    finally:
        # Disconnects; ends the cluster only where it was started here.
        ray.shutdown()


def cluster_to_join() -> str | None:
    """Address of the running cluster that `ray_session` would join, or None where it starts one."""
    if ray.is_initialized():
        return str(ray.get_runtime_context().gcs_address)
    named = os.environ.get("RAY_ADDRESS", "")
    if named == "local":
        return None
    return named if named not in ("", "auto") else _address_of_ray_start()


@contextmanager
def _sigterm_kept() -> Iterator[None]:
    """Keep the handler of SIGTERM, which `ray.init` replaces by one that leaves with code 15.

    Its C++ side takes the signal as well: until `ray.init` is through, that writes where it was,
    calls the handler that was there before, and aborts the process three seconds later.
    """
    if threading.current_thread() is not threading.main_thread():
        yield  # Ray takes no handler there
        return
    handler = signal.getsignal(signal.SIGTERM)
    take = ray_utils.set_sigterm_handler
    ray_utils.set_sigterm_handler = lambda _handler: None
    try:
        yield
    except (KeyboardInterrupt, SystemExit):
        signal.alarm(0)
        raise
    finally:
        ray_utils.set_sigterm_handler = take
        signal.signal(signal.SIGTERM, handler)


def _connect() -> None:
    address = cluster_to_join()
    if address is None:
        _start()
        return
    _require_reachable(address)
    try:
        ray.init(address=address, log_to_driver=False, logging_level=logging.ERROR)
    except Exception as error:  # Ray raises many types for one fact
        raise _unreachable(address, " ".join(str(error).split())) from error


def _start() -> None:
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    # Under `uv run`, Ray would otherwise upload the working directory.
    os.environ.setdefault("RAY_ENABLE_UV_RUN_RUNTIME_ENV", "0")
    try:
        ray.init(
            address="local",
            include_dashboard=False,
            log_to_driver=False,
            logging_level=logging.ERROR,
            object_store_memory=OBJECT_STORE_BYTES,
        )
    except Exception as error:  # Ray raises many types for one fact
        said = " ".join(str(error).split()) or type(error).__name__
        raise UserError(
            f"cannot start Ray on this machine ({said}); see its logs in {_ray_folder()}",
            cause="ray_does_not_start",
        ) from error


def _address_of_ray_start() -> str | None:
    """Address that `ray start` noted on this machine, where something listens there.

    Not address="auto": that also takes a private cluster of any other process on the machine.
    """
    try:
        address = (_ray_folder() / "ray_current_cluster").read_text().strip()
    except OSError:
        return None
    return address if address and _why_unreachable(address) is None else None


def _ray_folder() -> Path:
    """Where Ray keeps its sessions on this machine."""
    folder = os.environ.get("RAY_TMPDIR") or os.environ.get("TMPDIR") or "/tmp"  # noqa: S108
    return Path(folder, "ray")


def _require_reachable(address: str) -> None:
    # Ray itself takes up to minutes to give up on a head that is not there.
    reason = None if "://" in address else _why_unreachable(address)
    if reason is not None:
        raise _unreachable(address, reason)


def _why_unreachable(address: str) -> str | None:
    host, _, port = address.rpartition(":")
    if not (host and port.isdecimal()):
        return "it must be HOST:PORT"
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=REACH_S).close()
    except (OSError, OverflowError) as error:
        return str(error)
    return None


def _unreachable(address: str, reason: str) -> UserError:
    return UserError(
        f"no Ray cluster at {address} ({reason}); start it, set RAY_ADDRESS to another one, or set "
        "RAY_ADDRESS=local to run on this machine"
    )
