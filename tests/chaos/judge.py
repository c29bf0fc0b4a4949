"""A judge behind an API that keeps account of what it was paid for, and the bound on paying twice.

What a persona sweep guarantees, and the trials hold it to:

- A query whose answer has its scores stored is never asked again, by no later session.
- A reply that is stored under `judge/replies/` is not asked for again either, though the part of
  its scores is not there yet. A reply is stored before the next query of its place is asked. So
  whatever ends a driver costs `CONCURRENCY` queries at most: those that were under way, answered or
  not.

What it does not guarantee: a query that was under way when its driver was killed, or when the
store could not be written, may have been paid for, and is asked again. And a driver that was
stopped for longer than its lease goes on asking when it wakes, until it sees that another one has
taken over: a matter of milliseconds, in which both may ask the same.
"""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from cluster.parts import read_part
from cluster.storage import Storage
from jobs.persona.judges.endpoint import PROBE
from jobs.persona.judges.prompts import COHERENCE_PROMPT, fill
from tests.support.judge_server import JudgeServer, Reply, judge_server
from tests.support.personas import eval_prompt, judge_spec, moody

CONCURRENCY = 2
DELAY_S = 0.1
"Of each answer: judging takes seconds, so that faults fall into it."


class PaidJudge:
    """The running judge: scores, refusals, words, and errors that cost nothing, by the prompt."""

    def __init__(self) -> None:
        self._answer = moody()
        self._paid: Counter[str] = Counter()
        self._lock = threading.Lock()
        self._server: JudgeServer | None = None

    @property
    def server(self) -> JudgeServer:
        assert self._server is not None, "the judge is not running"
        return self._server

    @property
    def spec(self) -> dict[str, Any]:
        """The `judge` of a sweep file."""
        return judge_spec(self.server.openai_url) | {"concurrency": CONCURRENCY}

    @contextmanager
    def running(self) -> Iterator[PaidJudge]:
        with judge_server(self._reply) as self._server:
            self._server.delay_s = DELAY_S
            yield self

    def forget(self) -> None:
        """Begin anew, for another output; nobody may be asking."""
        self._paid.clear()
        self.server.forget()

    def paid(self) -> Counter[str]:
        """How often each prompt was answered, once nothing is under way any more.

        It is paid for whether or not somebody was still there to hear it.
        """
        while self.server.num_at_once:
            time.sleep(0.01)
        with self._lock:
            return self._paid.copy()

    def num_asked_by(self, key: str) -> int:
        """Queries so far that carried the key, whatever became of them; the test query is none."""
        with self.server.lock:
            asked = list(zip(self.server.keys, self.server.prompts, strict=True))
        return sum(of == f"Bearer {key}" and prompt != PROBE for of, prompt in asked)

    def _reply(self, prompt: str, num_before: int) -> Reply:
        reply = self._answer(prompt, num_before)
        if not isinstance(reply, int) and prompt != PROBE:
            with self._lock:
                self._paid[prompt] += 1
        return reply


def num_again(paid: Counter[str]) -> int:
    """Answers beyond the first of each prompt."""
    return paid.total() - len(paid)


def settled(storage: Storage) -> set[str]:
    """The prompts of all answers whose scores are stored: nothing of these may be asked again."""
    answers = {(group, row["row_id"]): row for group, row in _rows(storage, "answers")}
    found = set()
    for group, scores in _rows(storage, "scores"):
        row = answers[group, scores["row_id"]]
        for prompt in (eval_prompt(_trait(group)), COHERENCE_PROMPT):
            found.add(fill(prompt, row["question"], row["answer"]))
    return found


def _rows(storage: Storage, table: str) -> Iterator[tuple[str, dict[str, Any]]]:
    """Each row of a table, after the folders that say which model, trait and phase it is of."""
    for entry in storage.list(f"{table}/"):
        group = entry.key.removeprefix(f"{table}/").rpartition("/")[0]
        for row in read_part(storage, entry.key).to_pylist():
            yield group, row


def _trait(group: str) -> str:
    return dict(folder.split("=", 1) for folder in group.split("/"))["trait"]
