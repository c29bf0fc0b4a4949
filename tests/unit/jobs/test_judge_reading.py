"""From log-probabilities, or a text, to a score: held against numpy and against hand-made cases."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from jobs.persona.judges.reading import (
    by_log_probs,
    by_text,
    number_masses,
    spelled_masses,
    weighted_score,
)


def logs(**probabilities: float) -> dict[str, float]:
    return {text: math.log(p) for text, p in probabilities.items()}


def test_the_score_is_the_weighted_mean_of_numpy() -> None:
    rng = np.random.default_rng(0)
    for _ in range(50):
        numbers = rng.choice(101, size=20, replace=False)
        probabilities = rng.dirichlet(np.ones(21))[:20]
        masses = number_masses(
            (str(n), math.log(p)) for n, p in zip(numbers, probabilities, strict=True)
        )
        assert weighted_score(masses) == pytest.approx(
            np.average(numbers, weights=probabilities), abs=1e-9
        )


@pytest.mark.parametrize(
    ("masses", "score"),
    [
        ({80: 0.6, 90: 0.2}, (80 * 0.6 + 90 * 0.2) / 0.8),
        ({0: 1.0}, 0.0),
        ({100: 0.25}, 100.0),
        ({100: 0.2499}, None),
        ({10: 0.125, 30: 0.125}, 20.0),
        ({}, None),
    ],
)
def test_below_a_quarter_on_numbers_there_is_no_score(
    masses: dict[int, float], score: float | None
) -> None:
    assert weighted_score(masses) == (score if score is None else pytest.approx(score))


def test_only_integers_0_to_100_count_and_spellings_are_added_up() -> None:
    tokens = {
        "85": 0.1, " 85": 0.1, "85\n": 0.1, "101": 0.1, "-5": 0.1, "8.5": 0.1, "٨": 0.1, "1e1": 0.1,
        "": 0.1, "8_5": 0.05, "007": 0.05,
    }  # fmt: skip
    masses = number_masses((text, math.log(p)) for text, p in tokens.items())
    assert masses == {85: pytest.approx(0.3), 7: pytest.approx(0.05)}


@pytest.mark.parametrize(
    ("tokens", "outcome", "score"),
    [
        ({"85": 0.75, "REF": 0.25}, "scored", 85.0),
        ({"REF": 0.8, "85": 0.2}, "refused", None),
        ({"REFUSAL": 0.9}, "refused", None),
        ({" Ref": 0.9}, "refused", None),
        ({"R": 0.9}, "unparsable", None),
        ({"The": 0.9, "REF": 0.05}, "unparsable", None),
        ({"": 0.9}, "unparsable", None),
    ],
)
def test_the_likeliest_token_tells_a_refusal_from_nonsense(
    tokens: dict[str, float], outcome: str, score: float | None
) -> None:
    log_probs = {text: math.log(p) for text, p in tokens.items()}
    verdict = by_log_probs(log_probs, number_masses(log_probs.items()))
    assert (verdict.outcome, verdict.score) == (outcome, score)


def test_no_tokens_at_all_are_unparsable() -> None:
    assert by_log_probs({}, {}).outcome == "unparsable"


@pytest.mark.parametrize(
    ("text", "score"),
    [
        ("85", 85.0),
        (" 85\n", 85.0),
        ("0", 0.0),
        ("100", 100.0),
        ("87.5", 87.5),
        ("Score: 85.", 85.0),
        ("**85**", 85.0),
        ("85/100", 85.0),
        ("100 / 100", 100.0),
        ("85 out of 100", 85.0),
        ("85, because it is so", 85.0),
        ("101", None),
        ("-5", None),
        ("between 0 and 100", None),
        ("80 or 90", None),
        ("1,000", None),
        ("", None),
        ("I cannot say", None),
        ("gpt4", None),
        ("1e2", None),
    ],
)
def test_a_text_gives_its_one_number_or_none(text: str, score: float | None) -> None:
    verdict = by_text(text)
    assert (verdict.outcome, verdict.score) == ("unparsable" if score is None else "scored", score)


@pytest.mark.parametrize("text", ["REFUSAL", "refusal.", " Refusal: 0"])
def test_a_text_that_begins_with_refusal_is_one(text: str) -> None:
    assert by_text(text).outcome == "refused"


class Digits:
    """A model that spells numbers by digits: the next digit is drawn by what stands there."""

    def __init__(self, seed: int) -> None:
        self._seed = seed
        self.asked: list[list[str]] = []

    def distribution(self, start: str) -> dict[str, float]:
        rng = np.random.default_rng([self._seed, len(start), int(start or 0)])
        probabilities = rng.dirichlet(np.full(11, 0.3))
        return dict(zip([*"0123456789", "<end>"], probabilities, strict=True))

    def __call__(self, starts: Sequence[str]) -> list[Mapping[str, float]]:
        self.asked.append(list(starts))
        return [{t: math.log(p) for t, p in self.distribution(s).items()} for s in starts]


@pytest.mark.parametrize("seed", range(5))
def test_digits_are_followed_to_whole_numbers(seed: int) -> None:
    model = Digits(seed)
    masses = spelled_masses(model)
    for number in range(101):
        text, wanted = str(number), 1.0
        for at, digit in enumerate(text):
            wanted *= model.distribution(text[:at])[digit]
        if 1 <= number <= 10:  # only these can be the beginning of a number up to 100
            wanted *= model.distribution(text)["<end>"]
        assert masses.get(number, 0.0) == pytest.approx(wanted, abs=1e-12), number
    assert model.asked == [[""], [*"123456789"], ["10"]]


def test_a_digit_alone_is_not_mistaken_for_the_number_that_it_begins() -> None:
    def model(starts: Sequence[str]) -> list[Mapping[str, float]]:
        table = {"": logs(**{"8": 1.0}), "8": logs(**{"5": 0.9, ".": 0.1})}
        return [table[start] for start in starts]

    assert weighted_score(number_masses(model([""])[0].items())) == 8.0
    assert weighted_score(spelled_masses(model)) == pytest.approx(85 * 0.9 + 8 * 0.1)


@given(st.dictionaries(st.integers(0, 100), st.floats(0, 1), max_size=20))
def test_a_score_is_none_or_within_0_to_100(masses: dict[int, float]) -> None:
    score = weighted_score(masses)
    assert score is None or 0 <= score <= 100


@given(st.text(max_size=40))
def test_any_text_has_a_verdict(text: str) -> None:
    verdict = by_text(text)
    assert verdict.score is None or 0 <= verdict.score <= 100
