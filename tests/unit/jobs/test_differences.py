"""Paired differences between sets of rows of the same examples."""

from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from jobs.stereoset.differences import DIFFERENCES_SCHEMA, BetweenModels, differences
from jobs.stereoset.estimates import Stacks, model_estimates
from jobs.stereoset.scored_rows import ScoredRows, SteeredRows
from jobs.stereoset.summary_keys import SummaryKey
from jobs.stereoset.summary_sums import GroupSums

NUM_TERMS, OF_EACH = 20, 15
PLANNED = Counter({SummaryKey("inter", "race", 1, 2.0): 1})


def stacks(
    shift: float, seed: int, *, cells: tuple[tuple[int, float], ...] = ((1, 2.0),)
) -> Stacks:
    """Rows whose terms move by something of their own, the same for every seed, and a shift."""
    rng = np.random.default_rng(seed)
    of_terms = np.random.default_rng(99).normal(0, 1.0, NUM_TERMS).repeat(OF_EACH)
    num = NUM_TERMS * OF_EACH
    before = np.random.default_rng(1).normal(size=(num, 3))
    rows = ScoredRows(
        pa.array([str(n) for n in range(num)]),
        np.repeat([f"t{k}" for k in range(NUM_TERMS)], OF_EACH),
        before,
        before.argmax(axis=1),
    )
    after = before.copy()
    after[:, 1] += shift + of_terms + rng.normal(0, 0.1, num)
    scores = np.stack([after] * len(cells))
    steered = SteeredRows(rows, cells, scores, scores.argmax(axis=2))
    return Stacks([GroupSums.of_rows("inter", "race", [rows], [steered])])


def between(models: dict[str, tuple[Stacks, Counter[SummaryKey]]]) -> list[dict[str, Any]]:
    """The rows of all pairs, as models are added one by one."""
    pairs = BetweenModels(len(models))
    added = [pairs.add(name, *of) for name, of in models.items()]
    return [row for of_model in added for _, rows in of_model for row in rows]


def test_models_of_the_same_examples_differ_clearly_where_their_intervals_overlap() -> None:
    models = {"base": (stacks(0.0, 2), PLANNED), "tuned": (stacks(0.1, 3), PLANNED)}
    rows = between(models)
    by_name = {row["estimate"]: row for row in rows}
    s2a = by_name["s2a"]
    assert (s2a["kind"], s2a["a"], s2a["b"], s2a["model"]) == ("models", "base", "tuned", None)
    assert s2a["difference"] == pytest.approx(-0.1, abs=0.02)
    assert s2a["low"] < s2a["difference"] < s2a["high"] < 0
    assert s2a["p"] < 0.01
    marginal = {
        name: of.get(("inter", "race", False))[1].intervals["s2a"]  # type: ignore[index]
        for name, (of, _) in models.items()
    }
    assert marginal["tuned"][0] < marginal["base"][1]
    assert by_name["s2u"]["difference"] == 0.0
    assert by_name["s2u"]["p"] == 1.0
    assert {"changed", "lms_change", "ss_change", "flow_s2a"} <= by_name.keys()
    pa.Table.from_pylist(rows, schema=DIFFERENCES_SCHEMA)


def test_the_difference_of_a_thing_and_itself_is_nothing() -> None:
    same = ("a", stacks(0.3, 2), PLANNED), ("b", stacks(0.3, 2), PLANNED)
    for row in differences("runs", *same, model="m"):
        assert row["difference"] == row["low"] == row["high"] == 0.0
        assert row["p"] == 1.0


def test_only_rows_that_both_sides_have_are_compared() -> None:
    more = Counter({SummaryKey("inter", "race", layer, 2.0): 1 for layer in (1, 3)})
    one = "a", stacks(0.0, 2, cells=((1, 2.0), (3, 2.0))), more
    rows = list(differences("runs", one, ("b", stacks(0.1, 3), PLANNED), model="m"))
    assert {row["layer"] for row in rows} == {1}
    lacking = Counter({SummaryKey("inter", "race", 1, 2.0): 2})
    assert not list(differences("runs", one, ("b", stacks(0.1, 3), lacking), model="m"))


def test_rows_of_a_summary_are_made_of_the_same_sums() -> None:
    found = model_estimates(stacks(0.2, 4)._groups, PLANNED, vectors="file")
    (row,) = found.cells
    compared = differences(
        "runs", ("a", found.stacks, PLANNED), ("b", stacks(0, 5), PLANNED), model="m"
    )
    (s2a,) = [r for r in compared if r["estimate"] == "s2a"]
    other = stacks(0, 5).get(("inter", "race", False))
    assert other is not None
    assert s2a["difference"] == pytest.approx(row["s2a"] - other[1].value("s2a")[0])


def test_many_models_are_each_compared_with_the_first() -> None:
    models = {f"m{n}": (stacks(0.1 * n, n), PLANNED) for n in range(5)}
    pairs = {(row["a"], row["b"]) for row in between(models)}
    assert pairs == {("m0", f"m{n}") for n in range(1, 5)}
    del models["m4"]
    pairs = {(row["a"], row["b"]) for row in between(models)}
    assert pairs == {(f"m{a}", f"m{b}") for b in range(4) for a in range(b)}
