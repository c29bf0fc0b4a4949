"""What a judge is asked, and what it says."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal, Self, get_args

from jobs.persona.traits import Trait
from jobs.spec import ModelSpec, SpecModel

Outcome = Literal["scored", "refused", "unparsable", "failed"]
OUTCOMES: tuple[Outcome, ...] = get_args(Outcome)
"""``refused``: the judge says that the answer is a refusal, or refuses itself; ``unparsable``: it
said something else than a score; ``failed``: it could not be asked. None of them is a score."""


@dataclass(frozen=True)
class Query:
    """An answer to be scored.

    Attributes:
        subject: what it is scored for: a trait's name, or ``coherence``.
        prompt: the whole text that a model judge reads; it holds question and answer.
    """

    subject: str
    question: str
    answer: str
    prompt: str


@dataclass(frozen=True)
class Verdict:
    """What came of a query.

    Attributes:
        score: 0..100; None unless ``outcome`` is scored.
        said: where there is no score, what came instead, in a few words.
        num_tokens_in, num_tokens_out: as the judge counts them, 0 where it does not.
    """

    outcome: Outcome
    score: float | None = None
    said: str = ""
    num_tokens_in: int = 0
    num_tokens_out: int = 0

    def __post_init__(self) -> None:
        assert (self.score is not None) == (self.outcome == "scored")


class Judge(ABC):
    """Scores answers. An async context: connections are open inside of it only.

    Attributes:
        name: for messages.
        concurrency: queries under way at a time.
        is_worth_keeping: whether a verdict costs money or time enough to be stored.
        needs_replica: whether it holds a model of its own: it is then asked on replicas, and what
            they find is stored as their other results are.
    """

    name: str
    concurrency: int = 1
    is_worth_keeping: bool = True
    needs_replica: bool = False

    @abstractmethod
    def identity(self) -> Mapping[str, object]:
        """Everything beside the query that changes an answer; part of a stored verdict's key."""

    @abstractmethod
    def check(self) -> None:
        """Prove that the judge answers, before anything is made for it to score.

        Raises:
            UserError: one line that says what to change.
        """

    @abstractmethod
    async def ask(self, query: Query) -> Verdict:
        """The verdict; a query that fails is one, too, and never a score.

        Raises:
            StopRunError: no query can succeed any more, as with a key that was refused.
        """

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        return None


class JudgeSettings(SpecModel, ABC):
    """The settings of one kind of judge in a sweep file: what a user can set, and how to open it.

    A subclass has a field ``kind`` with the one name of this kind, and a role for each field:
    ``identity`` if it changes scores, ``runtime`` if it does not.

    Attributes:
        is_server: whether a server is asked. Queries may then cost money, and a plan cannot tell
            how long they take.
    """

    is_server: ClassVar[bool] = False

    @property
    def local_model(self) -> ModelSpec | None:
        """The model that replicas load for this judge; None without one."""
        return None

    @abstractmethod
    def open(self, traits: Sequence[Trait], device: str = "auto", gpu_share: float = 1.0) -> Judge:
        """The judge. A model is loaded when it is first asked.

        Args:
            traits: those that will be scored, for a judge that counts words.
            device: of a local model; a kind that this machine need not have.
            gpu_share: part of a GPU that a local model may take.

        Raises:
            UserError: a local model that is missing or is no chat model.
        """
