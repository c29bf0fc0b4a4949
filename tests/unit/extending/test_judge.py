"""A new judge, made with the public interface alone: its settings, and what it says."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import pytest
from pydantic import Field, TypeAdapter

from cluster.storage import StorageSpec
from jobs.persona.judges import (
    Answer,
    Judge,
    JudgeSettings,
    JudgeSpec,
    Query,
    Scorer,
    Verdict,
)
from jobs.persona.traits import COHERENCE, Trait
from jobs.spec import role
from tests.support.traits import TRAIT


class ShoutingSpec(JudgeSettings):
    """Counts capital letters."""

    kind: Literal["shouting"] = Field(json_schema_extra=role("identity"))
    letters_for_100: int = Field(10, json_schema_extra=role("identity"))

    def open(self, traits: Sequence[Trait], device: str = "auto", gpu_share: float = 1.0) -> Judge:
        return ShoutingJudge(self)


class ShoutingJudge(Judge):
    """The more capital letters, the more of any trait; an answer without letters is no answer."""

    name = "shouting"

    def __init__(self, spec: ShoutingSpec) -> None:
        self._letters_for_100 = spec.letters_for_100

    def identity(self) -> Mapping[str, object]:
        return {"kind": "shouting", "letters_for_100": self._letters_for_100}

    def check(self) -> None:
        """There is nothing that could fail."""

    async def ask(self, query: Query) -> Verdict:
        if not any(letter.isalpha() for letter in query.answer):
            return Verdict("unparsable", said="no letter")
        capitals = sum(letter.isupper() for letter in query.answer)
        if query.subject == COHERENCE:
            return Verdict("scored", 100.0)
        return Verdict("scored", min(100.0, 100.0 * capitals / self._letters_for_100))


SPECS: TypeAdapter[Any] = TypeAdapter(
    Annotated[JudgeSpec | ShoutingSpec, Field(discriminator="kind")]
)


def scorer_in(folder: Path, **settings: Any) -> Scorer:
    spec = SPECS.validate_python({"kind": "shouting", **settings})
    return Scorer(spec.open([TRAIT]), StorageSpec(str(folder)).open())


def test_it_scores_answers_and_has_no_score_for_what_is_no_answer(tmp_path: Path) -> None:
    answers = [Answer("?", text) for text in ("HELLO", "hello", "...")]
    loud, quiet, none = scorer_in(tmp_path).score(TRAIT, answers)
    assert (loud.trait.score, quiet.trait.score) == (50.0, 0.0)
    assert loud.coherence.score == 100.0
    assert (none.trait.outcome, none.trait.score) == ("unparsable", None)


def test_its_verdicts_are_kept_and_those_of_other_settings_are_not_taken(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[str] = []
    ask = ShoutingJudge.ask

    async def noted(judge: ShoutingJudge, query: Query) -> Verdict:
        asked.append(query.subject)
        return await ask(judge, query)

    monkeypatch.setattr(ShoutingJudge, "ask", noted)
    for settings, score, num_asked in (
        ({}, 50.0, 2),
        ({}, 50.0, 2),
        ({"letters_for_100": 5}, 100.0, 4),
    ):
        (judged,) = scorer_in(tmp_path, **settings).score(TRAIT, [Answer("?", "HELLO")])
        assert (judged.trait.score, len(asked)) == (score, num_asked)
