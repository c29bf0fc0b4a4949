"""The comparison with lm-evaluation-harness sees every difference, and only on the same tokens."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest

from tests.external.lm_eval.comparison import ScoredCandidate, ScoredRow, compare
from tests.external.lm_eval.environment import SHOWN, is_complete, pins

FIRST = ScoredCandidate("Q: A", context_ids=(5, 6), scored_ids=(7,), log_likelihood=-1.5)
SECOND = ScoredCandidate("Q: B b", context_ids=(5, 6), scored_ids=(8, 9), log_likelihood=-2.5)
ROWS = [ScoredRow(name, (FIRST, SECOND), {"acc": 1.0, "likelihood_diff": 1.0}) for name in "xy"]


def changed(**of_candidate: object) -> list[ScoredRow]:
    """The rows with another second candidate in the last of them."""
    second = replace(SECOND, **of_candidate)  # type: ignore[arg-type]
    return [ROWS[0], replace(ROWS[1], candidates=(FIRST, second))]


def test_rounding_is_no_difference() -> None:
    found = compare("made", ROWS, changed(log_likelihood=-2.50009))
    assert found.problems == []
    assert found.largest == pytest.approx(9e-5)
    assert (found.num_rows, found.num_compared, found.num_candidates) == (2, 2, 4)


@pytest.mark.parametrize("theirs", [-2.5002, -2.4998, -math.inf, math.nan])
def test_another_log_likelihood_is_found(theirs: float) -> None:
    found = compare("made", ROWS, changed(log_likelihood=theirs))
    assert found.differing == ("y",)
    (problem,) = found.problems
    assert problem.startswith("made: log-likelihoods differ by up to") and problem.endswith(": y")


@pytest.mark.parametrize(
    ("values", "differing"),
    [
        ({"acc": 0.0, "likelihood_diff": 1.0}, ["acc"]),
        ({"acc": math.nan, "likelihood_diff": 1.0}, ["acc"]),
        ({"acc": 1.0, "likelihood_diff": 1.0003}, ["likelihood_diff"]),
        ({"acc": 1.0, "likelihood_diff": 1.00015}, []),
    ],
)
def test_another_metric_is_found(values: dict[str, float], differing: list[str]) -> None:
    found = compare("made", ROWS, [replace(ROWS[0], metrics=values), ROWS[1]])
    assert found.problems == [f"made: {name} differs: x" for name in differing]


def test_rows_that_differ_against_each_other_do_not_cancel() -> None:
    wrong = replace(ROWS[0], metrics={"acc": 0.0, "likelihood_diff": 1.0})
    found = compare("made", [wrong, ROWS[1]], [ROWS[0], replace(wrong, example_id="y")])
    assert found.metrics["acc"].ours == found.metrics["acc"].theirs == 0.5
    assert found.problems == ["made: acc differs: x, y"]


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"text": "Q:  B b"}, "text"),
        ({"scored_ids": (8, 10)}, "tokens"),
        ({"context_ids": (1, 6)}, "tokens"),
        ({"context_ids": (5, 6, 8), "scored_ids": (9,)}, "split"),
    ],
)
def test_other_tokens_are_excluded_and_counted(change: dict[str, object], reason: str) -> None:
    found = compare("made", ROWS, changed(log_likelihood=-9.0, **change))
    assert found.excluded == {reason: 1}
    assert found.problems == [] and found.num_compared == 1


def test_nothing_to_compare_is_a_problem() -> None:
    other = [replace(row, candidates=(FIRST, replace(SECOND, text=""))) for row in ROWS]
    assert compare("made", ROWS, other).problems == ["made: no row has the same tokens in both"]


@pytest.mark.parametrize(
    "theirs",
    [
        ROWS[:1],
        ROWS[::-1],
        [replace(row, candidates=(FIRST,)) for row in ROWS],
        [replace(row, metrics={"acc": 1.0}) for row in ROWS],
    ],
    ids=["fewer rows", "another order", "fewer candidates", "other metrics"],
)
def test_what_does_not_belong_together_is_refused(theirs: list[ScoredRow]) -> None:
    with pytest.raises(ValueError, match=r"the rows are not|zip\(\)|the metrics are not"):
        compare("made", ROWS, theirs)


def test_the_environment_has_the_versions_of_the_constraints() -> None:
    assert set(pins()) == set(SHOWN)
    assert is_complete(pins() | {"torch": pins()["torch"] + "+cpu"})
    assert not is_complete(pins() | {"transformers": "5.0.0"})
    assert not is_complete(pins() | {"lm_eval": ""})
