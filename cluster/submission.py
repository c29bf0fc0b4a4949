"""Ray's job API: the one way in that needs no more than the address of a cluster's dashboard."""

from __future__ import annotations

import json
import logging
import os
import re
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import urlsplit

import requests
from ray.dashboard.modules.dashboard_sdk import SubmissionClient
from ray.exceptions import RayError
from ray.job_submission import JobDetails, JobSubmissionClient

from cluster.errors import ClusterError
from steersweep.errors import UserError

CONNECT_S, READ_S = 5.0, 30.0
_AGENT_WAIT_S = 30.0
_ADDRESS_VARIABLE = "RAY_API_SERVER_ADDRESS"
_HEADERS_VARIABLE = "RAY_JOB_HEADERS"
_NO_AGENT = "No available agent"
_ENDED = ("STOPPED", "SUCCEEDED", "FAILED")

# They tell of each upload, on the standard error of whoever uses them.
for _module in (SubmissionClient.__module__, JobSubmissionClient.__module__):
    logging.getLogger(_module).setLevel(logging.ERROR)

T = TypeVar("T")


class JobTakenError(ClusterError):
    """A job of that id is there already."""


class ServerAwayError(ClusterError):
    """The job server did not answer a request; it may do so later."""


@dataclass(frozen=True)
class JobRequest:
    """A job to submit.

    Attributes:
        package: zip that becomes the working directory of the driver and of its replicas.
        env_vars: plain settings; they can be read by anybody who reaches the dashboard.
        pip: requirements that the nodes install first.
        num_cpus: CPUs that the driver itself asks for; with 0 it runs on the head.
    """

    id: str
    entrypoint: str
    package: Path
    metadata: Mapping[str, str]
    env_vars: Mapping[str, str] = field(default_factory=dict)
    pip: tuple[str, ...] = ()
    num_cpus: float = 0.0


@dataclass(frozen=True)
class Job:
    """What the server says of a job.

    Attributes:
        exit_code: of its entrypoint, where that has ended by itself.
        message: Ray's own words, often many lines.
    """

    id: str
    status: str
    message: str
    error_type: str | None
    exit_code: int | None
    metadata: Mapping[str, str]

    @property
    def is_ended(self) -> bool:
        return self.status in _ENDED


class JobServer:
    """The job server of a Ray cluster.

    Every request ends: within 5 s where nothing answers, and within 30 s where something does that
    says nothing.
    """

    def __init__(self, address: str) -> None:
        """Connect. Raises `UserError` if no job server answers at the address."""
        self.address = _checked(address)
        headers = _headers()
        try:
            with _asked_for(self.address):
                self._client = _Client(self.address, headers=headers)
        except _ANSWERS as error:
            reason = _reason(error)
            raise UserError(
                f"no Ray job server at {self.address} ({reason}); give the address of the "
                "head's dashboard, http://HEAD:8265"
            ) from error

    def jobs(self) -> list[Job]:
        """Every submitted job that the cluster remembers."""
        found = self._ask(self._client.list_jobs)
        return [_job(details) for details in found if details.submission_id]

    def job(self, job_id: str) -> Job:
        """The job as it is now."""
        return _job(self._ask(lambda: self._client.get_job_info(job_id)))

    def log(self, job_id: str) -> str:
        """Everything that the driver has printed so far; empty where it has not begun."""
        return str(self._ask(lambda: self._client.get_job_logs(job_id)) or "")

    def stop(self, job_id: str) -> None:
        """Send SIGTERM to the driver, if it runs."""
        self._ask(lambda: self._client.stop_job(job_id))

    def submit(self, request: JobRequest) -> None:
        """Start a job.

        Raises:
            JobTakenError: one of that id was submitted before; of several submitters one gets it.
            UserError: the server refuses it.
            ServerAwayError: no answer; whether it was started is not known.
        """
        environment: dict[str, Any] = {
            "working_dir": str(request.package),
            "env_vars": dict(request.env_vars),
        }
        if request.pip:
            environment["pip"] = list(request.pip)
        give_up = time.monotonic() + _AGENT_WAIT_S
        while True:
            try:
                self._client.submit_job(
                    entrypoint=request.entrypoint,
                    submission_id=request.id,
                    runtime_env=environment,
                    metadata=dict(request.metadata),
                    entrypoint_num_cpus=request.num_cpus,
                )
                return
            except (RuntimeError, ValueError, requests.RequestException) as error:
                said = str(error)
                if "already exists" in said:
                    raise JobTakenError(f"job {request.id} already exists") from error
                if isinstance(error, requests.RequestException):
                    raise ServerAwayError(_reason(error)) from error
                reason = _reason(error)
                if _NO_AGENT in said:
                    reason = "no job agent runs on its head; see dashboard_agent.log there"
                # A head that has just started has none for some seconds.
                if _NO_AGENT not in said or time.monotonic() > give_up:
                    raise UserError(f"{self.address} refused the job: {reason}") from error
            time.sleep(1.0)

    def _ask(self, question: Callable[[], T]) -> T:
        try:
            return question()
        except _ANSWERS as error:
            raise ServerAwayError(f"{self.address}: {_reason(error)}") from error


# What the client raises: its own for a status, those of HTTP, and those of an answer that is none.
_ANSWERS = (
    RuntimeError,
    ConnectionError,
    ValueError,
    KeyError,
    TypeError,
    RayError,
    requests.RequestException,
)


class _Client(JobSubmissionClient):  # type: ignore[misc]
    """Ray's client, which waits for an answer for ever, with a limit on each request."""

    def _do_request(self, *args: Any, **kwargs: Any) -> requests.Response:
        limits = {"timeout": (CONNECT_S, READ_S)}
        return super()._do_request(*args, **(limits | kwargs))


@contextmanager
def _asked_for(address: str) -> Iterator[None]:
    """An address in the environment would win over the one that is asked for."""
    saved = os.environ.get(_ADDRESS_VARIABLE)
    os.environ[_ADDRESS_VARIABLE] = address
    try:
        yield
    finally:
        if saved is None:
            del os.environ[_ADDRESS_VARIABLE]
        else:
            os.environ[_ADDRESS_VARIABLE] = saved


def _checked(address: str) -> str:
    try:
        parts = urlsplit(address)
        fits = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:  # a port that is none
        fits = False
    if not fits:
        raise UserError(
            f"the address must be http(s)://HOST:PORT of the head's dashboard, got {address!r}",
            cause="wrong_address",
        )
    if "@" in parts.netloc:
        # It would stand in every command that is printed.
        raise UserError(
            "the address must not contain credentials; put a header into "
            f"{_HEADERS_VARIABLE} as JSON",
            cause="wrong_address",
        )
    return address.rstrip("/")


def _headers() -> dict[str, str]:
    """Headers for a proxy in front of the dashboard, from where Ray's own commands take them."""
    text = os.environ.get(_HEADERS_VARIABLE)
    if not text:
        return {}
    try:
        headers = json.loads(text)
    except ValueError:
        headers = None
    if not isinstance(headers, dict):
        raise UserError(f'{_HEADERS_VARIABLE} must be JSON, {{"name": "value"}}')
    return {str(name): str(value) for name, value in headers.items()}


def _job(details: JobDetails) -> Job:
    return Job(
        id=str(details.submission_id),
        status=str(details.status),
        message=details.message or "",
        error_type=details.error_type,
        exit_code=details.driver_exit_code,
        metadata=dict(details.metadata or {}),
    )


def _reason(error: BaseException) -> str:
    """The last line of what an error says; of a failed connection, what the system said."""
    while isinstance(error, requests.ConnectionError | ConnectionError) and error.__context__:
        error = error.__context__
    if isinstance(error, requests.Timeout):
        return "no answer"
    cause = getattr(error, "reason", error)
    lines = [line.strip() for line in str(cause).splitlines() if line.strip(" .")]
    text = lines[-1] if lines else type(error).__name__
    return re.sub(r"^.*?(object at 0x[0-9a-f]+>|Connection(Pool)?\(.*?\)): ", "", text)[:300]
