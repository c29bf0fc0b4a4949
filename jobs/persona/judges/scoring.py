"""Answers scored for a trait and for coherence, with what it cost and what gave no score."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from cluster.storage import Storage
from jobs.identity import digest
from jobs.persona.judges.base import Judge, Query, Verdict
from jobs.persona.judges.prompts import COHERENCE_PROMPT, fill
from jobs.persona.judges.replies import ReplyStore, known_verdicts
from jobs.persona.traits import COHERENCE, Trait
from jobs.words import count
from steersweep.errors import StopRunError

MOST_FAILURES_IN_A_ROW = 20


@dataclass(frozen=True)
class Answer:
    """What a model said to a question."""

    question: str
    text: str


@dataclass(frozen=True)
class Judgement:
    """What a judge says of an answer: how much of the trait, and how coherent."""

    trait: Verdict
    coherence: Verdict


@dataclass(frozen=True)
class Usage:
    """What judging has cost in this session.

    Attributes:
        num_calls: queries that the judge was asked.
        num_cached: queries whose verdict was there already.
    """

    num_calls: int = 0
    num_cached: int = 0
    num_tokens_in: int = 0
    num_tokens_out: int = 0

    def line(self, judge: str) -> str:
        """One line for the user."""
        line = f"judge {judge}: {count(self.num_calls, 'query', 'queries')}"
        if self.num_tokens_in or self.num_tokens_out:
            line += f" ({self.num_tokens_in:,} tokens in, {self.num_tokens_out:,} tokens out)"
        if self.num_cached:
            line += f"; {count(self.num_cached, 'verdict was', 'verdicts were')} reused"
        return line


class Scorer:
    """Asks a judge, a bounded number of queries at a time, and keeps what it says.

    Attributes:
        judge: who is asked.
        usage: of this session.
    """

    def __init__(
        self,
        judge: Judge,
        storage: Storage | None = None,
        *,
        coherence_prompt: str = COHERENCE_PROMPT,
        on_verdict: Callable[[], None] = lambda: None,
    ) -> None:
        """Take up what the storage has.

        Args:
            storage: of the run; None keeps nothing.
            on_verdict: called for each verdict that the judge gives.

        Raises:
            StorageUnavailableError: the store cannot be read.
        """
        self.judge = judge
        self._identity = dict(judge.identity())
        keeps = storage is not None and judge.is_worth_keeping
        self._store = ReplyStore(storage, judge.name) if keeps and storage is not None else None
        self._coherence_prompt, self._on_verdict = coherence_prompt, on_verdict
        self._num_failed_in_a_row = 0
        self._stopped_by: StopRunError | None = None
        self._is_stopped = False
        self.usage = Usage()

    def score(self, trait: Trait, answers: Sequence[Answer]) -> list[Judgement]:
        """Judgements of answers, in their order.

        Verdicts are stored as they come; failed ones are not, so that the next session asks again.
        Answers that are alike are judged once.

        Raises:
            StopRunError: the judge refuses the key, or fails again and again; or the store
                cannot be written. What was scored is kept.
        """
        queries = [
            Query(subject, answer.question, answer.text, fill(prompt, answer.question, answer.text))
            for answer in answers
            for subject, prompt in (
                (trait.name, trait.eval_prompt),
                (COHERENCE, self._coherence_prompt),
            )
        ]
        verdicts = self._verdicts(queries)
        return [Judgement(*verdicts[at : at + 2]) for at in range(0, len(verdicts), 2)]

    def stop(self) -> None:
        """Ask nothing more; may be called from another thread.

        Queries that are under way may be paid for: they end, and are stored.
        """
        self._is_stopped = True

    def cost_line(self) -> str:
        """One line for the user on what this session has cost."""
        return self.usage.line(self.judge.name)

    def _verdicts(self, queries: Sequence[Query]) -> list[Verdict]:
        keys = [self._key(query) for query in queries]
        found = known_verdicts(self._store, keys)
        missing = {k: q for k, q in zip(keys, queries, strict=True) if k not in found}
        self._count(num_cached=len(queries) - len(missing))
        if missing:
            asyncio.run(self._ask_all(missing, found))
        return [found[key] for key in keys]

    def _key(self, query: Query) -> str:
        return digest(
            {
                "judge": self._identity,
                "subject": query.subject,
                "prompt": query.prompt,
                "question": query.question,
                "answer": query.answer,
            }
        )

    async def _ask_all(self, missing: Mapping[str, Query], found: dict[str, Verdict]) -> None:
        left = iter(missing.items())
        if self._store is not None:
            self._store.begin()
        self._stopped_by = None
        try:
            async with self.judge, asyncio.TaskGroup() as group:
                for _ in range(min(self.judge.concurrency, len(missing))):
                    group.create_task(self._ask_some(left, found))
        except BaseExceptionGroup as errors:
            # The others were cancelled, or failed alike.
            raise _first(errors) from None
        if self._stopped_by is not None:
            raise self._stopped_by from None
        if not missing.keys() <= found.keys():
            raise StopRunError("the judge was stopped before it was asked everything")
        if self._store is not None:
            await asyncio.to_thread(self._store.pack)

    @property
    def _has_ended(self) -> bool:
        return self._is_stopped or self._stopped_by is not None

    async def _ask_some(self, left: Iterator[tuple[str, Query]], found: dict[str, Verdict]) -> None:
        while not self._has_ended and (entry := next(left, None)) is not None:
            key, query = entry
            try:
                verdict = await self.judge.ask(query)
            except StopRunError as error:
                # Queries that are under way may be paid for: they end, and are stored.
                self._stopped_by = self._stopped_by or error
                return
            if self._store is not None and verdict.outcome != "failed":
                await self._store.put(key, query.subject, verdict)
            found[key] = verdict
            self._count(1, 0, verdict.num_tokens_in, verdict.num_tokens_out)
            self._on_verdict()
            self._stop_if_down(verdict)

    def _stop_if_down(self, verdict: Verdict) -> None:
        has_failed = verdict.outcome == "failed"
        self._num_failed_in_a_row = self._num_failed_in_a_row + 1 if has_failed else 0
        if self._num_failed_in_a_row >= MOST_FAILURES_IN_A_ROW and self._stopped_by is None:
            self._stopped_by = StopRunError(
                f"judge {self.judge.name}: {self._num_failed_in_a_row} queries in a row failed; "
                f"the last error: {verdict.said}; finished scores are kept, run again later"
            )

    def _count(
        self,
        num_calls: int = 0,
        num_cached: int = 0,
        num_tokens_in: int = 0,
        num_tokens_out: int = 0,
    ) -> None:
        of = self.usage
        self.usage = Usage(
            of.num_calls + num_calls,
            of.num_cached + num_cached,
            of.num_tokens_in + num_tokens_in,
            of.num_tokens_out + num_tokens_out,
        )


def _first(error: BaseException) -> BaseException:
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error
