"""Watching a job from outside: what its driver says, until it is healthy or has ended."""

from __future__ import annotations

import re
import time
from collections.abc import Callable

from cluster.errors import ClusterError
from cluster.submission import Job, JobServer, ServerAwayError
from jobs.console import REPLICA_IS_READY, quote
from steersweep.errors import UserError

START_S = 60.0
"""So long the start of a job is watched; loading a large model may take longer."""

_AWAY_S = 60.0
_ENTRYPOINT = "Running entrypoint for job "
_ERROR, _WARNING = "error: ", "warning: "
_TRACEBACK = "Traceback (most recent call last):"
_INTERRUPTED = 130
# Of a driver that ends by a signal: Ctrl-C, SIGTERM.
_SIGNALS = (130, 143)


class Follower:
    """Shows what the driver of a job says, each line once."""

    def __init__(self, server: JobServer, job_id: str, show: Callable[[str], None] = quote) -> None:
        self._server, self._job_id, self._show = server, job_id, show
        self._num_shown = 0
        self._last_answer = time.monotonic()
        self._lines: list[str] = []
        self._is_bug = False
        self.is_healthy = False

    def until_healthy(self, within_s: float) -> Job:
        """The job once a replica of it is ready, or it has ended, or the time is over.

        Raises:
            UserError: the server does not answer any more.
        """
        give_up = time.monotonic() + within_s
        while True:
            job = self._look()
            if job is not None and (job.is_ended or self.is_healthy or time.monotonic() > give_up):
                return job
            time.sleep(0.5)

    def until_ended(self) -> Job:
        """The job once it has ended. Raises as `until_healthy` does."""
        while True:
            job = self._look()
            if job is not None and job.is_ended:
                return job
            time.sleep(0.5 if not self.is_healthy else 3.0)

    def exit_code(self, job: Job) -> int:
        """Of a job that has ended, as `steersweep run` would have given it.

        Raises:
            UserError: Ray could not start it, or its driver says that the user must act.
            ClusterError: it failed otherwise; in the driver's words, else in Ray's.
        """
        assert job.is_ended, job.status
        if job.status == "SUCCEEDED":
            return 0
        if job.status == "STOPPED" or job.exit_code in _SIGNALS:
            return _INTERRUPTED
        cause = f"job {job.id}: {failure(job, self._lines)}"
        # Ray could not start it, or the driver says that the user must act.
        if job.exit_code is None or job.exit_code == 2:
            raise UserError(cause)
        raise ClusterError(cause)

    def _look(self) -> Job | None:
        """The job, after its new lines were shown; None where the server does not answer now."""
        try:
            job = self._server.job(self._job_id)
            log = self._server.log(self._job_id)
        except ServerAwayError as error:
            if time.monotonic() - self._last_answer > _AWAY_S:
                raise UserError(
                    f"{error}; job {self._job_id} keeps running; submit again to follow it"
                ) from error
            return None
        self._last_answer = time.monotonic()
        whole = log if job.is_ended else log[: log.rfind("\n") + 1]
        self._lines = _of_driver(whole.splitlines())
        for line in self._lines[self._num_shown :]:
            self._is_bug |= line.startswith(_TRACEBACK)
            # An error is raised at the end.
            if not (self._is_bug or line.startswith(_ERROR)):
                self._show(line)
            self.is_healthy |= line.startswith(REPLICA_IS_READY)
        self._num_shown = len(self._lines)
        return job


def failure(job: Job, lines: list[str]) -> str:
    """Why a job failed, in one line: what its driver says, else the telling line of Ray's."""
    for start in (_ERROR, _WARNING):
        said = [line.removeprefix(start) for line in lines if line.startswith(start)]
        if said:
            return said[-1]
    if job.exit_code is not None:
        last = lines[-1] if lines else f"the driver exited with code {job.exit_code}"
        return _of_entrypoint(last)
    return _of_ray(job)


def _of_driver(lines: list[str]) -> list[str]:
    """What comes after Ray's own lines at the start of a job's log."""
    begins = next((n for n, line in enumerate(lines) if line.startswith(_ENTRYPOINT)), None)
    return [] if begins is None else [line for line in lines[begins + 1 :] if line.strip()]


def _of_entrypoint(line: str) -> str:
    if "No module named" in line or "cannot import name" in line:
        return (
            f"{line}: the cluster's image does not have it; install it there or submit with --pip"
        )
    if "not found" in line and "python" in line:
        return f"{line}: there is no `python` on the PATH of the head's Ray"
    return line


def _of_ray(job: Job) -> str:
    lines = [line.strip() for line in job.message.splitlines() if line.strip()]
    telling = [line for line in lines if re.match(r"(ERROR|\w*(Error|Exception)):? ", line)]
    line = (telling or lines or [job.error_type or "it failed without a message"])[-1]
    if job.error_type == "RUNTIME_ENV_SETUP_FAILURE":
        return f"its environment cannot be built: {line}"
    return line
