"""Formulas of persona vectors, by hand."""

from __future__ import annotations

import numpy as np
import pytest

from steering_core.projections import cosines, projections
from steersweep.errors import UserError


def test_a_projection_is_in_units_of_the_state() -> None:
    states = np.array([[3.0, 4.0], [1.0, 0.0], [-2.0, 5.0]])
    np.testing.assert_allclose(projections(states, np.array([10.0, 0.0])), [3.0, 1.0, -2.0])
    np.testing.assert_allclose(projections(states[0], np.array([3.0, 4.0])), 5.0)
    by_layer = projections(states.reshape(1, 3, 2), np.array([0.0, -2.0], np.float32))
    np.testing.assert_allclose(by_layer, [[-4.0, 0.0, -5.0]])


def test_cosines_of_a_few_vectors() -> None:
    found = cosines(np.array([[1.0, 0.0], [0.0, 7.0], [-2.0, 0.0], [3.0, 3.0]], np.float32))
    half = 0.5**0.5
    wanted = [[1, 0, -1, half], [0, 1, 0, half], [-1, 0, 1, -half], [half, half, -half, 1]]
    np.testing.assert_allclose(found, wanted, atol=1e-12)
    assert found.max() <= 1.0


@pytest.mark.parametrize("vector", [[0.0, 0.0], [np.nan, 1.0], [np.inf, 1.0]])
def test_a_vector_without_a_direction_is_refused(vector: list[float]) -> None:
    with pytest.raises(UserError, match="has no direction"):
        projections(np.ones((2, 2)), np.array(vector))
    with pytest.raises(UserError, match="has no direction"):
        cosines(np.array([[1.0, 1.0], vector]))
