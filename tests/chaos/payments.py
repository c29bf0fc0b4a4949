"""What the drivers of one trial pay their judge for, and how much of it may be paid for twice."""

from __future__ import annotations

import time
from collections import Counter

from cluster.storage import StorageSpec
from tests.chaos.judge import CONCURRENCY, PaidJudge, num_again, settled
from tests.chaos.result import Result


class Payments:
    """The account of one trial; `tests.chaos.judge` says what is guaranteed."""

    def __init__(self, judge: PaidJudge, output: StorageSpec) -> None:
        """`output`: of the trial, past the proxy."""
        judge.forget()
        self._judge, self._output = judge, output
        self._session = 0
        self._told: Counter[str] = Counter()
        "How often each prompt was paid for whose answer had its scores when the session began."
        self._since: float | None = None
        self._most_again = 0

    def begin_session(self) -> None:
        """A driver is about to start, and none is there."""
        paid = self._judge.paid()
        self._told = Counter({prompt: paid[prompt] for prompt in settled(self._output.open())})
        self._session += 1
        self._since = None

    def num_settled_again(self) -> int:
        """Queries that this session has asked although their scores were there before it."""
        return len((self._judge.paid() - self._told).keys() & self._told.keys())

    def key(self, kind: str) -> str:
        """By which the judge tells this session's drivers of that kind."""
        return f"chaos-{kind}-{self._session}"

    def num_asked(self, kind: str) -> int:
        """Queries of this session's drivers of that kind."""
        return self._judge.num_asked_by(self.key(kind))

    def judged_since(self) -> float | None:
        """When the session's driver was first seen to ask its judge; None until then."""
        if self._since is None and self.num_asked("driver"):
            self._since = time.monotonic()
        return self._since

    def allow_lost(self) -> None:
        """Replies to what is being asked may be lost with the driver, or with the store."""
        self._most_again += CONCURRENCY

    def allow_both(self, asked_before: int, asked_alone: int) -> None:
        """Let two drivers have asked the same where the other one has taken over from the first.

        Each read what was paid for when it began. So the other one asks again what the first had
        under way, and what the first asks before it sees that its lease is lost.

        Args:
            asked_before: queries of other drivers before this one.
            asked_alone: queries of the first driver before both could ask.
        """
        if self.num_asked("other") > asked_before:
            self._most_again += CONCURRENCY + self.num_asked("driver") - asked_alone

    def add_to(self, result: Result) -> None:
        """Write down what came of it; a problem if too much was paid for again."""
        paid = self._judge.paid()
        if not paid:
            return
        result.num_paid, result.num_paid_again = len(paid), num_again(paid)
        result.most_paid_again = self._most_again
        if result.num_paid_again > result.most_paid_again:
            result.problems.append(
                f"{result.num_paid_again} queries were paid for again, where "
                f"{result.most_paid_again} were under way at the faults"
            )
