"""Stops a run that would only burn hours: everything fails alike, or too much is set aside."""

from __future__ import annotations

from cluster.policy import Policy
from cluster.tasks import Failure, FailureKind


class Breaker:
    """Watches attempts that ran to an end of their own: a success or a failure of the task."""

    def __init__(self, policy: Policy) -> None:
        self._policy = policy
        self._any_success = False
        self._kinds_of_error: list[str] = []

    def saw_success(self) -> None:
        """An attempt succeeded: from now on only the share of tasks set aside counts."""
        self._any_success = True

    def saw_failure(self, failure: Failure, num_set_aside: int, num_tasks: int) -> Failure | None:
        """Take in a failed attempt; returns why the run must stop, if it must."""
        policy = self._policy
        first = policy.breaker_first
        if failure.kind is FailureKind.TASK and len(self._kinds_of_error) < first:
            # Messages name examples and sizes; the type of the exception is what is alike.
            name = failure.error_type or failure.message.partition(":")[0]
            self._kinds_of_error.append(name)
            full = len(self._kinds_of_error) == first
            if full and not self._any_success and len(set(self._kinds_of_error)) == 1:
                said = f"the first {first} attempts all failed in the same way; the last:"
                return Failure(FailureKind.RUN, f"{said} {failure.message}", failure.details)
        too_many = num_set_aside > policy.max_set_aside_share * num_tasks
        if num_set_aside >= policy.min_set_aside and too_many:
            share = f"{policy.max_set_aside_share:.0%}"
            said = (
                f"{num_set_aside} of {num_tasks} tasks were set aside, more than {share}; the last:"
            )
            return Failure(FailureKind.RUN, f"{said} {failure.message}", failure.details)
        return None
