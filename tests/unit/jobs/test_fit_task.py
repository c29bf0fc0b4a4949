"""Vectors of a group from the parts of its phase 1 tasks, without a model."""

from __future__ import annotations

import pickle
import tracemalloc
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from threadpoolctl import threadpool_info, threadpool_limits

from cluster.errors import CorruptPartError
from cluster.parts import commit_part
from cluster.storage import Storage, StorageSpec
from jobs.scoring import fit_task
from jobs.scoring.fit_task import (
    FITS_SCHEMA,
    FitPayload,
    PartRef,
    SetToFit,
    fit,
    fitted_vectors,
    num_layers_at_once,
    stream_norms,
    vectors_from_states,
)
from jobs.scoring.tables import LayerStates, layer_states, states_schema, states_table, sums_table
from steering_core.nulls import label_signs
from steering_core.pooled import PooledStates
from steering_core.vectors import FoldSums, SteeringVectors, fit_mean_difference
from steersweep.errors import UserError
from tests.support.direct_fits import DIRECT_FITS, direct_mean_difference
from tests.support.golden import golden_examples
from tests.support.pairs import correlated_pairs

LAYERS = (2, 5, 7)
WIDTH = 6
NUM_FOLDS, NUM_HELD_OUT_FOLDS = 3, 4
EXAMPLES = golden_examples().examples
SHARDS = (EXAMPLES[:9], EXAMPLES[9:15], EXAMPLES[15:])
IDS = [e.example_id for e in EXAMPLES]
FOLD_OF = {example_id: n % NUM_FOLDS for n, example_id in enumerate(IDS)}
HELD_OUT_OF = {example_id: n * 7 % NUM_HELD_OUT_FOLDS for n, example_id in enumerate(IDS)}
DIRECT = {"mean_difference": direct_mean_difference, **DIRECT_FITS}
SIDES = ("stereotype", "anti_stereotype")


@dataclass(frozen=True)
class Output:
    """Parts of a group's phase 1: the tasks of layers 2 and 5, then those of layer 7.

    Attributes:
        states: [2, L, N, D] float32, stereotype and anti-stereotype.
        sums: of each task, as they were before they were stored.
    """

    storage: Storage
    states: np.ndarray
    sums: dict[str, list[list[FoldSums]]]
    parts: dict[str, tuple[PartRef, ...]]

    def payload(self, *sets: SetToFit, **changes: Any) -> FitPayload:
        payload = FitPayload(
            task_id="fit",
            group="m/s/b",
            method="mean_difference",
            layers=LAYERS,
            sums=self.parts["sums"],
            held_out_sums=self.parts["held_out_sums"],
            states=self.parts["states"],
            sets=sets,
        )
        return replace(payload, **changes)

    def fit_one(self, to_fit: SetToFit, **changes: Any) -> SteeringVectors:
        return fitted_vectors(fit(self.storage, self.payload(to_fit, **changes)), to_fit.table)

    def direct(self, method: str, layer: int, fold_of: dict[str, int], **k: Any) -> np.ndarray:
        """The vector of the examples outside ``fold`` (all of them without), with ``signs``."""
        stereotype, anti = self.states[:, LAYERS.index(layer)].astype(np.float64)
        is_swapped = k.get("signs", np.ones(len(IDS)))[:, None] < 0
        stereotype, anti = (
            np.where(is_swapped, anti, stereotype),
            np.where(is_swapped, stereotype, anti),
        )
        keep = np.asarray([fold_of[i] != k.get("fold") for i in IDS])
        return DIRECT[method](anti[keep], stereotype[keep])


def _pooled(states: np.ndarray, layers: Sequence[int], rows: slice) -> PooledStates:
    there = states[:, [LAYERS.index(layer) for layer in layers], rows]
    norms = np.linalg.norm(there[0], axis=-1).astype(np.float64)
    differences = there[1].astype(np.float64) - there[0]
    num_positions = np.arange(1, there.shape[2] + 1)
    return PooledStates(tuple(layers), differences, there, norms, num_positions)


@pytest.fixture(scope="module")
def output(tmp_path_factory: pytest.TempPathFactory) -> Output:
    storage = StorageSpec(str(tmp_path_factory.mktemp("fit") / "out")).open()
    layers = [correlated_pairs(len(IDS), WIDTH, seed) for seed in range(len(LAYERS))]
    states = np.stack([[p.stereotype for p in layers], [p.anti for p in layers]])
    sums: dict[str, list[list[FoldSums]]] = {"sums": [], "held_out_sums": []}
    parts: dict[str, list[PartRef]] = {"sums": [], "held_out_sums": [], "states": []}

    def commit(table: str, task_id: str, rows: pa.Table) -> None:
        parts[table].append(PartRef(f"{table}/{task_id}.parquet", task_id))
        commit_part(storage, parts[table][-1].key, rows, task_id=task_id, attempt="1")

    for of_layers in ((2, 5), (7,)):
        low = 0
        for number, shard in enumerate(SHARDS):
            pooled = _pooled(states, of_layers, slice(low, low + len(shard)))
            low += len(shard)
            ids = [e.example_id for e in shard]
            task_id = f"task.{of_layers[0]}.{number}"
            folds = [FOLD_OF[i] for i in ids]
            sums["sums"].append(pooled.sums(folds, label_signs(ids)))
            sums["held_out_sums"].append(pooled.sums([HELD_OUT_OF[i] for i in ids]))
            for table in sums:
                commit(table, task_id, sums_table(sums[table][-1]))
            commit("states", task_id, states_table(shard, folds, pooled, SIDES))
    return Output(storage, states, sums, {table: tuple(refs) for table, refs in parts.items()})


def _same(found: SteeringVectors, wanted: SteeringVectors) -> None:
    assert found.whole.keys() == wanted.whole.keys()
    assert found.folds.keys() == wanted.folds.keys()
    for layer, vector in wanted.whole.items():
        np.testing.assert_array_equal(found.whole[layer], vector, strict=True)
        for fold, of_fold in enumerate(wanted.folds.get(layer, ())):
            np.testing.assert_array_equal(found.folds[layer][fold], of_fold, strict=True)


def _close(found: np.ndarray, wanted: np.ndarray) -> bool:
    assert found.dtype == np.float32
    return bool(np.linalg.norm(found - wanted) < 1e-4 * np.linalg.norm(wanted))


@pytest.mark.parametrize(
    ("source", "fold_of", "num_folds"),
    [("sums", FOLD_OF, NUM_FOLDS), ("held_out_sums", HELD_OUT_OF, NUM_HELD_OUT_FOLDS)],
)
@pytest.mark.parametrize("layers", [LAYERS, (7,), (7, 2)])
def test_mean_differences_are_those_of_the_sums_bit_for_bit(
    source: Any, fold_of: dict[str, int], num_folds: int, layers: tuple[int, ...], output: Output
) -> None:
    to_fit = SetToFit("steered", source, fold_of, num_folds)
    found = output.fit_one(to_fit, layers=layers)
    entries = [e for task in output.sums[source] for e in task if e.layer in layers]
    _same(found, fit_mean_difference(entries, num_folds))
    for layer in layers:
        assert _close(found.whole[layer], output.direct("mean_difference", layer, fold_of))
        assert len(found.folds[layer]) == num_folds
        for fold, vector in enumerate(found.folds[layer]):
            assert _close(vector, output.direct("mean_difference", layer, fold_of, fold=fold))


@pytest.mark.parametrize("source", ["sums", "held_out_sums"])
def test_sums_are_added_in_the_order_of_the_parts(
    source: Any, output: Output, tmp_path: Path
) -> None:
    storage = StorageSpec(str(tmp_path / "out")).open()
    refs = []
    for total in (2.0**60, -(2.0**60), 3.0):  # in another order, the 3 is lost
        refs.append(PartRef(f"{source}/{len(refs)}.parquet", f"{len(refs)}"))
        rows = sums_table([FoldSums(2, 0, np.array([total]), 1)])
        commit_part(storage, refs[-1].key, rows, task_id=refs[-1].task_id, attempt="1")
    to_fit = SetToFit("t", source, {"a": 0, "b": 0, "c": 0}, 1)
    payload = output.payload(to_fit, layers=(2,), **{"sums": (), source: tuple(refs)})
    assert fitted_vectors(fit(storage, payload), "t").whole[2].tolist() == [1.0]


@pytest.mark.parametrize("seed", [None, "shuffled/0/1"])
@pytest.mark.parametrize("method", list(DIRECT))
def test_each_method_fits_from_states(method: Any, seed: str | None, output: Output) -> None:
    """By the folds of the set, which are others than those in the parts; with labels shuffled."""
    signs = np.ones(len(IDS)) if seed is None else label_signs(IDS, seed)
    assert (seed is None) == (len(set(signs)) == 1)
    to_fit = SetToFit("held_out", "states", HELD_OUT_OF, NUM_HELD_OUT_FOLDS, seed)
    found = output.fit_one(to_fit, method=method)
    assert tuple(found.whole) == LAYERS
    for layer in LAYERS:
        wanted = output.direct(method, layer, HELD_OUT_OF, signs=signs)
        assert np.linalg.norm(found.whole[layer] - wanted) < 1e-3 * np.linalg.norm(wanted)
        for fold, vector in enumerate(found.folds[layer]):
            wanted = output.direct(method, layer, HELD_OUT_OF, signs=signs, fold=fold)
            assert np.linalg.norm(vector - wanted) < 1e-3 * np.linalg.norm(wanted)
    # What a set is does not depend on the layers and sets that are fitted with it.
    alone = output.payload(
        replace(to_fit, table="other", label_seed="x"), to_fit, method=method, layers=(5,)
    )
    _same(fitted_vectors(fit(output.storage, alone), "held_out"), found.of_layers([5]))


def test_the_old_draw_of_shuffled_labels_comes_from_its_sums(output: Output) -> None:
    table = "nulls/null=shuffled"
    found = output.fit_one(SetToFit(table, "old_shuffled_sums", FOLD_OF, NUM_FOLDS))
    signs = label_signs(IDS)
    for layer in LAYERS:
        wanted = output.direct("mean_difference", layer, FOLD_OF, signs=signs)
        assert _close(found.whole[layer], wanted)
        for fold, vector in enumerate(found.folds[layer]):
            wanted = output.direct("mean_difference", layer, FOLD_OF, signs=signs, fold=fold)
            assert _close(vector, wanted)


def test_an_output_that_was_not_shuffled_at_its_start_says_so(output: Output) -> None:
    to_fit = SetToFit("nulls/null=shuffled", "old_shuffled_sums", HELD_OUT_OF, NUM_HELD_OUT_FOLDS)
    with pytest.raises(UserError, match=r"out was started before `nulls: \[shuffled\]`"):
        output.fit_one(to_fit, sums=output.parts["held_out_sums"])


def test_a_table_has_one_row_for_each_vector_and_the_norms_of_the_stream(output: Output) -> None:
    sets = (
        SetToFit("steered", "sums", FOLD_OF, 1),
        SetToFit("held_out", "states", HELD_OUT_OF, NUM_HELD_OUT_FOLDS),
        SetToFit("file", "none", FOLD_OF, 1),
    )
    payload = output.payload(*sets, layers=(7, 5))
    assert pickle.loads(pickle.dumps(payload)) == payload
    table = fit(output.storage, payload)
    assert table.schema.equals(FITS_SCHEMA)
    by_fold = [None, *range(NUM_HELD_OUT_FOLDS)]
    wanted = [("steered", layer, None) for layer in (7, 5)]
    wanted += [("held_out", layer, fold) for layer in (7, 5) for fold in by_fold]
    wanted += [("file", layer, None) for layer in (7, 5)]
    columns = (table[name].to_pylist() for name in ("table", "layer", "fold"))
    assert list(zip(*columns, strict=True)) == wanted
    assert [v is None for v in table["vector"].to_pylist()] == [t == "file" for t, *_ in wanted]

    num_positions = sum(sum(range(1, len(shard) + 1)) for shard in SHARDS)
    norms = {
        layer: float(np.linalg.norm(output.states[0, LAYERS.index(layer)], axis=-1).sum())
        / num_positions
        for layer in (7, 5)
    }
    assert stream_norms(table) == pytest.approx(norms)
    assert fitted_vectors(table, "held_out").stream_norms == stream_norms(table)
    assert not fitted_vectors(table, "file").whole
    assert fitted_vectors(table, "file").stream_norms == stream_norms(table)
    assert fitted_vectors(table, "steered").folds == {}
    # Layers that were fitted by several tasks are put together.
    pieces = [fit(output.storage, output.payload(*sets, layers=(layer,))) for layer in LAYERS]
    together = fitted_vectors(pa.concat_tables(pieces), "held_out")
    _same(together.of_layers([7, 5]), fitted_vectors(table, "held_out"))


def test_norms_of_streams_that_were_not_measured_are_null(output: Output, tmp_path: Path) -> None:
    storage = StorageSpec(str(tmp_path / "out")).open()
    sums = [replace(e, stream=None) for task in output.sums["sums"] for e in task]
    commit_part(storage, "sums/old.parquet", sums_table(sums), task_id="old", attempt="1")
    to_fit = SetToFit("steered", "sums", FOLD_OF, NUM_FOLDS)
    payload = output.payload(to_fit, sums=(PartRef("sums/old.parquet", "old"),))
    table = fit(storage, payload)
    assert set(table["stream_norm"].to_pylist()) == {None}
    assert stream_norms(table) == {}
    assert tuple(fitted_vectors(table, "steered").whole) == LAYERS


SOURCES = pytest.mark.parametrize("source", ["sums", "held_out_sums", "states"])


def _to_fit(source: Any) -> SetToFit:
    fold_of = HELD_OUT_OF if source == "held_out_sums" else FOLD_OF
    return SetToFit("t", source, fold_of, len(set(fold_of.values())))


@SOURCES
def test_a_layer_that_is_in_no_part_is_an_error(source: str, output: Output) -> None:
    with pytest.raises(ValueError, match=r"layer 3\b"):
        output.fit_one(_to_fit(source), layers=(2, 3))


@SOURCES
@pytest.mark.parametrize("change", ["less", "twice"])
def test_parts_that_lack_or_repeat_examples_are_an_error(
    source: str, change: str, output: Output
) -> None:
    refs = output.parts[source]
    refs = refs[:-1] if change == "less" else (*refs, refs[-1])
    with pytest.raises(ValueError, match=r"layer 7 of m/s/b"):
        output.fit_one(_to_fit(source), **{source: refs})


@SOURCES
def test_a_damaged_part_is_named(source: str, output: Output, tmp_path: Path) -> None:
    storage = StorageSpec(str(tmp_path / "out")).open()
    for ref in {r.key: r for refs in output.parts.values() for r in refs}.values():
        storage.replace(ref.key, output.storage.read(ref.key))
    key = output.parts[source][1].key
    data = bytearray(storage.read(key))
    data[100] ^= 1
    storage.replace(key, bytes(data))
    with pytest.raises(CorruptPartError, match=key):
        fit(storage, output.payload(_to_fit(source)))


@SOURCES
def test_the_part_of_another_task_is_refused(source: str, output: Output) -> None:
    first, *others = output.parts[source]
    refs = (replace(first, task_id="another"), *others)
    with pytest.raises(CorruptPartError, match=r"belongs to task task\.2\.0, not another"):
        output.fit_one(_to_fit(source), **{source: refs})


def test_an_error_of_a_fit_names_method_layer_group_and_fold(output: Output) -> None:
    alone = dict.fromkeys(IDS, 0)  # nothing is left outside the only fold
    with pytest.raises(UserError, match=r"pca vector of layer 2 of m/s/b without fold 0"):
        output.fit_one(SetToFit("t", "states", alone, 2), method="pca")


def test_fits_from_states_get_one_thread_of_blas(
    output: Output, monkeypatch: pytest.MonkeyPatch
) -> None:
    def threads() -> set[int]:
        return {info["num_threads"] for info in threadpool_info() if info["user_api"] == "blas"}

    seen = []

    def noted(*_: Any) -> tuple[np.ndarray, tuple[np.ndarray, ...]]:
        seen.append(threads())
        return np.zeros(WIDTH, np.float32), ()

    monkeypatch.setattr(fit_task, "fit_layer", noted)
    with threadpool_limits(2, user_api="blas"):
        output.fit_one(SetToFit("t", "states", FOLD_OF, 1))
        assert threads() == {2}
    assert seen == [{1}] * len(LAYERS)


@pytest.mark.parametrize("method", list(DIRECT))
@pytest.mark.parametrize(("num_examples", "width"), [(100, 1000), (120, 230), (1000, 50)])
def test_as_many_layers_as_are_said_to_fit_do(
    method: Any, num_examples: int, width: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    states_bytes = 8 * num_examples * width
    products_bytes = 8 * min(2 * num_examples, width) ** 2
    limit = 7 * states_bytes + 2 * products_bytes
    monkeypatch.setattr(fit_task, "_MOST_BYTES", limit)
    assert num_layers_at_once(num_examples, width) == 3
    pairs = correlated_pairs(num_examples, width)
    ids = [f"{n}" for n in range(num_examples)]
    states = dict.fromkeys(range(3), LayerStates(ids, pairs.anti, pairs.stereotype))
    fold_of = {example_id: n % 5 for n, example_id in enumerate(ids)}
    to_fit = SetToFit("t", "states", fold_of, 5, "seed")
    vectors_from_states({0: states[0]}, method, to_fit, "m/s/b")  # loads what is loaded late
    tracemalloc.start()
    vectors_from_states(states, method, to_fit, "m/s/b")
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert 3 * states_bytes + peak < limit


def test_at_least_one_layer_is_fitted_at_once() -> None:
    assert num_layers_at_once(976, 8192) == 1
    assert num_layers_at_once(10**6, 8192) == 1
    assert num_layers_at_once(976, 2304) > 1


def test_states_of_a_layer_come_back_from_a_part() -> None:
    examples = EXAMPLES[:3]
    states = np.random.default_rng(0).normal(size=(2, 2, 3, 4)).astype(np.float32)
    pooled = PooledStates((2, 7), np.zeros((2, 3, 4)), states, np.zeros((2, 3)), np.ones(3, int))
    table = states_table(examples, [1, 0, 1], pooled, SIDES)
    assert table.schema.equals(states_schema(SIDES))
    assert table["layer"].to_pylist() == [2, 2, 2, 7, 7, 7]
    assert table["fold"].to_pylist() == [1, 0, 1, 1, 0, 1]
    for index, layer in enumerate((2, 7)):
        ids, anti, stereotype = layer_states(table, layer)
        assert ids == [e.example_id for e in examples]
        np.testing.assert_array_equal(stereotype, states[0, index])
        np.testing.assert_array_equal(anti, states[1, index])
