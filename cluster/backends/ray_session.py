"""The Ray cluster that a run uses: one that is there, or one of its own for as long as it lasts."""

from __future__ import annotations

import logging
import math
import os
import socket
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import ray

from cluster.errors import UserActionError

# Results go from replicas to storage; the object store carries payloads and receipts only.
OBJECT_STORE_BYTES = 128 * 2**20
REACH_S = 5.0


@contextmanager
def ray_session() -> Iterator[None]:
    """Connect to Ray for as long as the context lasts.

    In this order: the cluster that this process is connected to already, the one that RAY_ADDRESS
    names, the one that `ray start` started on this machine, and else one of its own, which ends
    with the context. Raises `UserActionError` where RAY_ADDRESS cannot be reached, or none be
    started.

    `ray.init` replaces the handler of SIGTERM: install yours inside the context.
    """
    if ray.is_initialized():
        yield
        return
    _connect()
    try:
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


def num_cluster_gpus() -> float:
    """GPUs of the cluster that this process is connected to, in use or not."""
    return float(ray.cluster_resources().get("GPU", 0.0))


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
        ray.shutdown()  # ends what was started of it
        said = " ".join(str(error).split()) or type(error).__name__
        raise UserActionError(
            f"cannot start Ray on this machine ({said}); see its logs in {_ray_folder()}, or set "
            "compute.executor to in_process"
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


def _unreachable(address: str, reason: str) -> UserActionError:
    return UserActionError(
        f"no Ray cluster at {address} ({reason}); start it, name another in RAY_ADDRESS, or set "
        "RAY_ADDRESS=local to run on this machine"
    )


def resolve_num_replicas(
    requested: int | None, cpus_per_replica: float, gpus_per_replica: float, num_tasks: int
) -> int:
    """How many replicas to run: `requested`, or for None what fits the cluster, at least 1.

    Never more than there are tasks. Raises `UserActionError` where the cluster as it is now has
    room for fewer than `requested`, or for none.
    """
    nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    fits = num_fitting(nodes, cpus_per_replica, gpus_per_replica)
    if fits < max(1, requested or 1):
        each = f"{cpus_per_replica:g} CPUs and {gpus_per_replica:g} GPUs"
        num_cpus, num_gpus = (sum(node.get(key, 0.0) for node in nodes) for key in ("CPU", "GPU"))
        raise UserActionError(
            f"asked for {requested or 1} replicas with {each} each, the cluster has room for "
            f"{int(fits)} ({num_cpus:g} CPUs, {num_gpus:g} GPUs on {len(nodes)} nodes); ask for "
            "fewer or smaller replicas"
        )
    wanted = fits if requested is None else requested
    return int(max(1, min(wanted, num_tasks)))


def num_fitting(nodes: Iterable[Mapping[str, float]], cpus_each: float, gpus_each: float) -> float:
    """How many replicas these nodes have room for, given the resources of each."""
    return sum(_num_fitting(node, cpus_each, gpus_each) for node in nodes)


def _num_fitting(node: Mapping[str, float], cpus_each: float, gpus_each: float) -> float:
    def fitting(available: float, each: float) -> float:
        # 0.1 does not divide 1.0 exactly.
        return math.floor(available / each + 1e-9) if each > 0 else math.inf

    return min(fitting(node.get("CPU", 0.0), cpus_each), fitting(node.get("GPU", 0.0), gpus_each))
