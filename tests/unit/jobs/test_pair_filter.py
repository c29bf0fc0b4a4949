"""Effective pairs, counted by hand."""

from __future__ import annotations

import pytest

from jobs.persona.filter import FilterSpec, check_enough, effective_pairs
from jobs.persona.judges import Judgement, Verdict
from steersweep.errors import UserError

DEFAULT = FilterSpec()  # type: ignore[call-arg]


def verdict(score: float | str) -> Verdict:
    if isinstance(score, str):
        return Verdict(score)  # type: ignore[arg-type]
    return Verdict("scored", float(score))


def judged(trait: float | str, coherence: float | str) -> Judgement:
    return Judgement(verdict(trait), verdict(coherence))


POSITIVE = [
    judged(50, 50),  # kept: both on the threshold
    judged(49.9, 90),  # too weak
    judged(90, 90),  # the negative answer is on the threshold
    judged(90, 49.9),  # incoherent
    judged(90, 90),  # the negative answer is incoherent
    judged("refused", 90),
    judged(90, "failed"),
    judged(10, 10),  # weak and incoherent; the negative answer strong
    judged(100, 100),  # kept
]
NEGATIVE = [
    judged(49.9, 50),
    judged(0, 90),
    judged(50, 90),
    judged(0, 90),
    judged(0, 0),
    judged(0, 90),
    judged(0, 90),
    judged(60, 90),
    judged(0, 100),
]


def test_pairs_are_kept_and_dropped_as_counted_by_hand() -> None:
    pairs = effective_pairs(POSITIVE, NEGATIVE, DEFAULT)
    assert pairs.kept == (0, 8)
    assert pairs.num_pairs == 9
    assert pairs.num_positive_low == 2
    assert pairs.num_negative_high == 2
    assert pairs.num_incoherent == 3
    assert pairs.num_without_score == 2
    assert pairs.line("evil") == (
        "evil: 2 of 9 pairs are effective (trait too weak in the positive answer: 2, too strong in "
        "the negative one: 2, incoherent: 3, without a score: 2)"
    )


@pytest.mark.parametrize(
    ("changed", "kept"),
    [
        ({"positive_at_least": 49.9}, (0, 1, 8)),
        ({"negative_below": 50.1}, (0, 2, 8)),
        ({"coherence_at_least": 49.9}, (0, 3, 8)),
        ({"coherence_at_least": 0}, (0, 3, 4, 8)),
        ({"positive_at_least": 100, "negative_below": 0.1}, (8,)),
    ],
)
def test_thresholds_can_be_set(changed: dict[str, float], kept: tuple[int, ...]) -> None:
    assert effective_pairs(POSITIVE, NEGATIVE, FilterSpec(**changed)).kept == kept  # type: ignore[arg-type]


def test_without_a_score_no_threshold_lets_a_pair_pass() -> None:
    spec = FilterSpec(positive_at_least=0, negative_below=100, coherence_at_least=0)
    good = judged(100, 100)
    for outcome in ("refused", "unparsable", "failed"):
        for bad in (judged(outcome, 100), judged(100, outcome)):
            assert effective_pairs([bad], [judged(0, 100)], spec).kept == ()
            assert effective_pairs([good], [bad], spec).num_without_score == 1


def test_few_pairs_are_a_warning_and_none_an_error() -> None:
    good, bad = judged(100, 100), judged(0, 100)
    enough = effective_pairs([good] * 5, [bad] * 5, DEFAULT)
    assert check_enough(enough, "evil") is None
    few = effective_pairs([good] * 4 + [bad], [bad] * 5, DEFAULT)
    warning = check_enough(few, "evil")
    assert warning is not None
    assert warning.startswith("evil: 4 of 5 pairs are effective")
    with pytest.raises(
        UserError, match=r"no pair is left to make a vector from; evil: 0 of 1 pairs"
    ):
        check_enough(effective_pairs([bad], [bad], DEFAULT), "evil")


def test_pairs_of_unequal_number_are_a_mistake() -> None:
    with pytest.raises(ValueError, match="shorter"):
        effective_pairs(POSITIVE, NEGATIVE[:-1], DEFAULT)


def test_what_has_no_score_cannot_be_given_one() -> None:
    for outcome in ("refused", "unparsable", "failed"):
        with pytest.raises(AssertionError):
            Verdict(outcome, 0.0)  # type: ignore[arg-type]
    with pytest.raises(AssertionError):
        Verdict("scored", None)
