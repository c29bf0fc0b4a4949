"""States of a group on local disk: a layer's examples come back in order, as often as asked."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from cluster.errors import UserActionError
from jobs.stereoset import spool
from jobs.stereoset.spool import StateSpool
from jobs.stereoset.tables import STATES_SCHEMA, layer_states, states_table
from steering_core.nulls import label_signs
from steering_core.pooled import PooledStates
from steering_core.stereoset import Example
from tests.support.golden import golden_examples

LAYERS = (2, 7)
WIDTH = 3


def part(examples: tuple[Example, ...], folds: list[int], seed: int) -> tuple[pa.Table, np.ndarray]:
    """A part, and its states [2, L, N, D]."""
    shape = (len(LAYERS), len(examples), WIDTH)
    states = np.random.default_rng(seed).normal(size=(2, *shape)).astype(np.float32)
    counts = np.ones(len(examples), np.int64)
    pooled = PooledStates(LAYERS, np.zeros(shape), states, np.zeros(shape[:2]), counts)
    return states_table(examples, folds, pooled), states


def test_the_table_has_one_row_for_each_layer_and_example() -> None:
    examples = golden_examples().group("intersentence", "race")
    table, states = part(examples, [1, 0, 1], seed=0)
    assert table.schema.equals(STATES_SCHEMA)
    assert table["layer"].to_pylist() == [2, 2, 2, 7, 7, 7]
    assert table["fold"].to_pylist() == [1, 0, 1, 1, 0, 1]
    assert table["example_id"].to_pylist() == [e.example_id for e in examples] * 2
    for index, layer in enumerate(LAYERS):
        ids, (folds, anti, stereotype) = layer_states(table, layer)
        assert ids == [e.example_id for e in examples]
        assert folds.tolist() == [1, 0, 1]
        np.testing.assert_array_equal(stereotype, states[0, index])
        np.testing.assert_array_equal(anti, states[1, index])


@pytest.mark.parametrize("examples_per_chunk", [1, 2, 5, 100])
def test_a_layer_comes_back_whole_and_in_order(
    examples_per_chunk: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(spool, "_EXAMPLES_PER_CHUNK", examples_per_chunk)
    examples = golden_examples().group("intersentence", "race")
    others = golden_examples().group("intersentence", "gender")[:2]
    first, first_states = part(examples, [0, 0, 0], seed=1)
    second, second_states = part(others, [0, 0], seed=2)
    kept = StateSpool(tmp_path)
    kept.add(first)
    kept.add(second)
    wanted = np.concatenate([first_states[:, 1], second_states[:, 1]], axis=1)
    ids = [e.example_id for e in (*examples, *others)]
    fold_of = dict(zip(ids, [0, 1, 0, 2, 1], strict=True))
    for _ in range(2):
        chunks = list(kept.pairs(7, fold_of))
        assert max(len(c.folds) for c in chunks) <= examples_per_chunk
        assert np.concatenate([c.folds for c in chunks]).tolist() == [0, 1, 0, 2, 1]
        np.testing.assert_array_equal(np.concatenate([c.stereotype for c in chunks]), wanted[0])
        np.testing.assert_array_equal(np.concatenate([c.anti for c in chunks]), wanted[1])


def test_shuffled_labels_swap_both_states_of_an_example(tmp_path: Path) -> None:
    examples = golden_examples().group("intersentence", "race")
    table, states = part(examples, [0, 0, 0], seed=1)
    kept = StateSpool(tmp_path)
    kept.add(table)
    ids = [e.example_id for e in examples]
    # A seed under which some change places and some do not.
    seed = next(f"{n}" for n in range(99) if len(set(label_signs(ids, f"{n}"))) == 2)
    (chunk,) = kept.pairs(2, dict.fromkeys(ids, 0), seed)
    for at, sign in enumerate(label_signs(ids, seed)):
        stereotype, anti = states[:, 0, at][:: int(sign)]
        np.testing.assert_array_equal(chunk.stereotype[at], stereotype)
        np.testing.assert_array_equal(chunk.anti[at], anti)


def test_layers_of_later_tasks_are_kept_beside_those_of_earlier_ones(tmp_path: Path) -> None:
    examples = golden_examples().group("intersentence", "race")
    table, states = part(examples, [0, 0, 0], seed=1)
    kept = StateSpool(tmp_path)
    kept.add(table.slice(0, 3))
    kept.add(table.slice(3, 3))
    for index, layer in enumerate(LAYERS):
        (chunk,) = kept.pairs(layer, {e.example_id: 0 for e in examples})
        np.testing.assert_array_equal(chunk.anti, states[1, index])


def test_a_disk_that_takes_nothing_is_the_users_to_change(tmp_path: Path) -> None:
    table, _ = part(golden_examples().group("intersentence", "race"), [0, 0, 0], seed=0)
    with pytest.raises(UserActionError, match=r"cannot write .* to .*gone: No such .*; set TMPDIR"):
        StateSpool(tmp_path / "gone").add(table)
