"""Ranks and p-values among draws of nulls."""

from __future__ import annotations

from typing import Any

import pytest

from jobs.stereoset.null_tests import null_tests


def _row(s2a: float | None, flow: float, coeff: float = 1.0, **more: Any) -> dict[str, Any]:
    key = {"model": "m", "split": "s", "bias_type": "race", "layer": 3, "coeff": coeff}
    return {**key, "s2a": s2a, "flow_s2a": flow, **more}


def _draws(
    values: list[float], null: str = "shuffled", vectors: str | None = "in_sample", **more: Any
) -> list[dict[str, Any]]:
    return [
        _row(value, value / 10, null=null, vectors=vectors, draw=draw, **more)
        for draw, value in enumerate(values)
    ]


def _p(rows: list[Any], **key: str) -> dict[str, tuple[int, float]]:
    return {
        row["estimate"]: (row["rank"], row["p"])
        for row in rows
        if all(row[name] == value for name, value in key.items())
    }


def test_the_rank_counts_draws_that_are_at_least_as_large() -> None:
    draws = _draws([0.1, 0.5, -0.9, 0.2])
    found = list(null_tests({"in_sample": [_row(0.2, 0.07)]}, draws, has_intent=True))
    assert _p(found) == {"s2a": (3, 3 / 5), "flow_s2a": (1, 1 / 5)}
    assert {row["num_draws"] for row in found} == {4}


def test_a_negative_coefficient_is_meant_to_push_the_other_way() -> None:
    draws = _draws([0.1, 0.5, -0.9], coeff=-2.0)
    found = list(null_tests({"in_sample": [_row(-0.4, -0.2, -2.0)]}, draws, has_intent=True))
    assert _p(found) == {"s2a": (2, 0.5), "flow_s2a": (1, 0.25)}


def test_without_intent_size_counts() -> None:
    draws = _draws([0.1, 0.5, -0.9], vectors="file")
    found = list(null_tests({"file": [_row(-0.4, 0.0)]}, draws, has_intent=False))
    assert _p(found)["s2a"] == (3, 0.75)


def test_each_kind_of_vectors_is_held_against_its_own_draws() -> None:
    draws = [*_draws([1.0]), *_draws([-1.0], vectors="held_out"), *_draws([9.0], null="random")]
    fitted = {"in_sample": [_row(0.0, 0.0)], "held_out": [_row(0.0, 0.0)]}
    found = list(null_tests(fitted, draws, has_intent=True))
    assert _p(found, null="shuffled", vectors="in_sample")["s2a"] == (2, 1.0)
    assert _p(found, null="shuffled", vectors="held_out")["s2a"] == (1, 0.5)
    # One draw of random directions serves both.
    assert _p(found, null="random", vectors="held_out")["s2a"] == (2, 1.0)


@pytest.mark.parametrize("row", [_row(None, 0.1), _row(1.0, 0.1, coeff=0.0)])
def test_what_is_not_defined_or_not_steered_has_no_rank(row: dict[str, Any]) -> None:
    found = null_tests({"in_sample": [row]}, _draws([1.0], coeff=row["coeff"]), has_intent=True)
    assert "s2a" not in _p(list(found))
