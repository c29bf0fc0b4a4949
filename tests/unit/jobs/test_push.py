"""Doses of a summary's rows, the line that tells them, and the warnings."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from jobs.scoring.push import push_of
from jobs.stereoset.push import add_doses
from steering_core.vectors import SteeringVectors


def vectors(norm: float, stream_norm: float | None) -> SteeringVectors:
    norms = {} if stream_norm is None else {3: stream_norm, 5: 2 * stream_norm}
    vector = np.full(4, norm / 2, np.float32)
    return SteeringVectors({3: vector, 5: vector}, {}, norms)


def row(bias_type: str, layer: int | None, num_examples: int, coeff: float = -2.0) -> Any:
    key = {"split": "inter", "bias_type": bias_type, "layer": layer, "coeff": coeff}
    return {**key, "num_examples": num_examples}


def test_cells_have_the_dose_of_their_vectors_and_pooled_rows_the_mean_over_examples() -> None:
    cells = [row("race", 3, 30), row("race", 5, 30), row("gender", 3, 10), row("gender", 5, 10)]
    pooled = [row("all", 3, 40), row("race", None, 30), row("all", None, 40)]
    groups = {("inter", "race"): vectors(1.0, 10.0), ("inter", "gender"): vectors(3.0, 10.0)}
    add_doses(cells, pooled, groups)
    assert [cell["dose"] for cell in cells] == pytest.approx([0.2, 0.1, 0.6, 0.3])
    assert [found["dose"] for found in pooled] == pytest.approx([0.3, 0.15, 0.225])


def test_what_was_not_measured_has_no_dose_and_pools_to_none() -> None:
    cells, pooled = [row("race", 3, 30), row("gender", 3, 10)], [row("all", 3, 40)]
    groups = {("inter", "race"): vectors(1.0, 10.0), ("inter", "gender"): vectors(3.0, None)}
    add_doses(cells, pooled, groups)
    assert cells[0]["dose"] == pytest.approx(0.2)
    assert cells[1]["dose"] is None
    assert pooled[0]["dose"] is None
    assert push_of([cells[1], {"coeff": 3.0}, {"coeff": 0.0, "dose": 0.0}]) is None


def pushed(*doses: float, coeff: float = 4.0) -> Any:
    return push_of([{"coeff": -coeff, "dose": dose} for dose in doses])


def test_the_line_says_how_hard_the_sweep_pushed() -> None:
    assert pushed(0.081, 0.1703).sentence() == (
        "Steering pushed by 0.081 to 0.17 of the stream's norm."
    )
    assert pushed(0.1, 0.1).sentence() == "Steering pushed by 0.1 of the stream's norm."
    assert pushed(0.02, 3.0).warnings("vector") == []


def test_a_warning_says_which_coefficients_would_be_modest() -> None:
    (weak,) = pushed(0.004, 0.019, 0.5).warnings("vector")
    assert weak.startswith("In 2 of 3 cells, steering pushed by less than 0.02")
    # 4 * 0.1 / 0.5 and 4 * 0.1 / 0.004.
    assert "a coefficient of 0.8 to 100 here" in weak
    assert "steering.unit=stream" in weak
    (strong,) = pushed(0.5, 3.1).warnings("stream")
    assert strong.startswith("In 1 of 2 cells, steering pushed by more than 3 times")
    assert "Choose steering.coeffs from 0.02 to 3" in strong
    assert "steering.unit=stream" not in strong
