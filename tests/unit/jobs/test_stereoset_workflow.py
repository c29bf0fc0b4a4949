"""Which vectors a StereoSet sweep fits in which tasks, and what it stores of them; no model."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from cluster.parts import commit_part
from cluster.storage import Storage, StorageSpec
from cluster.tasks import Task
from jobs.scoring import workflow as workflow_module
from jobs.scoring.fit_task import FitPayload, fit
from jobs.scoring.set_scorer import Payload
from jobs.scoring.tables import FITS, HELD_OUT_SUMS, states_table, sums_table
from jobs.spec import load_spec
from jobs.stereoset.job import StereoSetJob
from jobs.stereoset.output import StereoSetOutput
from jobs.stereoset.spec import StereoSetSpec
from jobs.stereoset.tables import StereoSetRows
from jobs.stereoset.workflow import StereoSetWorkflow
from jobs.sweeps.job import Files
from jobs.sweeps.steps import Steps
from steering_core.nulls import draw_seed, label_signs
from steering_core.pooled import PooledStates
from steering_core.stereoset import Example
from steering_core.vectors import SteeringVectors, from_safetensors, to_safetensors
from tests.support.sweeps import write_spec

WIDTH = 64
SIDES = StereoSetRows().sides


def states_of(examples: tuple[Example, ...], layers: tuple[int, ...]) -> np.ndarray:
    """[2, L, N, D]: what a model might have made of the examples; the same whenever it is asked."""
    drawn = [
        [
            np.random.default_rng([layer, *e.example_id.encode()]).standard_normal((2, WIDTH))
            for e in examples
        ]
        for layer in layers
    ]
    return np.moveaxis(np.asarray(drawn, np.float32), 2, 0)


def phase_1(payload: Payload) -> dict[str, pa.Table]:
    states = states_of(payload.examples, payload.layers)
    differences = states[1].astype(np.float64) - states[0]
    norms = np.linalg.norm(states[0], axis=-1).astype(np.float64)
    num_positions = np.arange(1, len(payload.examples) + 1)
    pooled = PooledStates(payload.layers, differences, states, norms, num_positions)
    signs = label_signs([e.example_id for e in payload.examples])
    made = {"baseline": pa.table({"score": [0.0]})}
    for table in payload.tables:
        if table == "sums":
            made[table] = sums_table(pooled.sums(payload.folds, signs))
        elif table == HELD_OUT_SUMS:
            made[table] = sums_table(pooled.sums(payload.held_out_folds))
        elif table == "states":
            made[table] = states_table(payload.examples, payload.folds, pooled, SIDES)
    return {table: made[table] for table in payload.tables}


@dataclass
class Driven:
    """A sweep with phase 1 and fits done.

    Attributes:
        fits: tasks, in the order in which they were handed out.
        steered: tasks that are left.
    """

    storage: Storage
    workflow: StereoSetWorkflow
    fits: list[Task] = field(default_factory=list)
    steered: list[Task] = field(default_factory=list)

    @property
    def payloads(self) -> list[FitPayload]:
        return [task.payload for task in self.fits]

    @property
    def sets(self) -> list[list[tuple[str, str]]]:
        """The table and the source of each set of each fit."""
        return [[(of.table, of.source) for of in p.sets] for p in self.payloads]

    def vectors(self, table: str = "steered") -> SteeringVectors:
        planned = self.workflow.inventory.planned
        (key,) = {of.key for task in planned for of in task.vector_sets if of.table == table}
        return from_safetensors(self.storage.read(key), key)

    def keys(self) -> list[str]:
        return [entry.key for entry in self.storage.list("vectors/")]

    def tensors(self) -> dict[str, bytes]:
        """What is in each file; the order of its metadata is not the same twice."""
        found = {}
        for key in self.keys():
            data = self.storage.read(key)
            found[key] = data[8 + int.from_bytes(data[:8], "little") :]
        return found


def drive(folder: Path, **changes: Any) -> Driven:
    folder.mkdir(exist_ok=True)
    data = {"path": "embedded:examples.json", "splits": ["intersentence"], "bias_types": ["race"]}
    spec = write_spec(folder / "sweep.yaml", **{"data": data, **changes})
    job = StereoSetJob()
    storage = StorageSpec(str(folder / "out")).open()
    output = job.open(StereoSetOutput.read(storage))
    sweep = job.resolve(load_spec(StereoSetSpec, str(spec)), "cpu", output)
    files = Files(storage)
    workflow = job.workflow(sweep, output, files)
    driven = Driven(storage, workflow)
    steps = Steps(workflow.stored)
    ready = steps.begin(workflow.steps())
    workflow.write_plan()
    files.release()
    while ready:
        task = ready.pop(0)
        if isinstance(task.payload, FitPayload):
            driven.fits.append(task)
            made = {FITS: fit(storage, task.payload)}
        elif task.payload.cells:
            driven.steered.append(task)
            continue
        else:
            made = phase_1(task.payload)
        for table, rows in made.items():
            commit_part(storage, task.parts[table], rows, task_id=task.id, attempt="1")
        ready += steps.finished(task)
    return driven


def direct(
    driven: Driven, layer: int, fold_of: dict[str, int] | None = None, fold: int | None = None
) -> np.ndarray:
    """The mean difference of the group's examples outside a fold, in the obvious way."""
    examples, _ = driven.workflow.sweep.groups["intersentence", "race"]
    chosen = tuple(e for e in examples if fold_of is None or fold_of[e.example_id] != fold)
    stereotype, anti = states_of(chosen, (layer,))[:, 0].astype(np.float64)
    difference: np.ndarray = (anti - stereotype).mean(axis=0)
    return difference


def close(found: np.ndarray, wanted: np.ndarray) -> bool:
    return bool(np.linalg.norm(found - wanted) < 1e-5 * np.linalg.norm(wanted))


def test_one_task_fits_in_sample_and_held_out_vectors_of_a_group(tmp_path: Path) -> None:
    driven = drive(tmp_path)
    assert driven.sets == [[("steered", "sums"), ("held_out", "held_out_sums")]]
    (task,), (payload,) = driven.fits, driven.payloads
    assert task.is_urgent
    assert (payload.layers, payload.method, payload.states) == ((1, 4), "mean_difference", ())
    in_sample, held_out = payload.sets
    assert in_sample.num_folds == 1
    assert held_out.num_folds == max(held_out.fold_of.values()) + 1 > 1
    for layer in (1, 4):
        assert close(driven.vectors().whole[layer], direct(driven, layer))
        by_fold = driven.vectors("held_out").folds[layer]
        assert len(by_fold) == held_out.num_folds
        for fold, vector in enumerate(by_fold):
            assert close(vector, direct(driven, layer, dict(held_out.fold_of), fold))
    sizes = Counter(held_out.fold_of.values())
    assert driven.vectors("held_out").fold_sizes == tuple(sizes[k] for k in sorted(sizes))
    assert driven.vectors().fold_sizes == ()


def test_steered_tasks_are_planned_with_the_vectors_that_are_in_the_files(tmp_path: Path) -> None:
    driven = drive(tmp_path)
    assert driven.steered
    for task in driven.steered:
        for table, of in task.payload.vectors.items():
            assert of.stored.are_in(driven.vectors(table))
            assert of.stored.digests.keys() == {cell.layer for cell in task.payload.cells}


def test_fits_from_states_are_cut_by_layers_and_merged_to_the_same_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    options: dict[str, Any] = {"vectors": {"method": "pca"}}
    whole = drive(tmp_path / "whole", **options)
    assert [p.layers for p in whole.payloads] == [(1, 4)]
    assert whole.sets == [[("steered", "states"), ("held_out", "states")]]
    assert whole.payloads[0].held_out_sums == ()
    asked: list[tuple[int, int]] = []

    def one(num_examples: int, width: int) -> int:
        asked.append((num_examples, width))
        return 1

    monkeypatch.setattr(workflow_module, "num_layers_at_once", one)
    cut = drive(tmp_path / "cut", **options)
    assert [p.layers for p in cut.payloads] == [(1,), (4,)]
    num_examples = len(cut.workflow.sweep.groups["intersentence", "race"][0])
    assert set(asked) == {(num_examples, WIDTH)}
    assert cut.tensors() == whole.tensors()
    assert len({task.id for task in (*cut.fits, *whole.fits)}) == 3


def test_sums_are_fitted_at_all_layers_at_once_however_large_states_would_be(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(workflow_module, "num_layers_at_once", lambda *_: 1)
    assert [p.layers for p in drive(tmp_path).payloads] == [(1, 4)]


def test_shuffled_draws_are_fitted_sixteen_at_a_time_and_random_ones_not_at_all(
    tmp_path: Path,
) -> None:
    driven = drive(
        tmp_path,
        vectors={"held_out": False},
        nulls={"shuffled": 20, "random": 3},
    )
    draw = "nulls/null=shuffled/vectors=in_sample/draw={}"
    assert driven.sets == [
        [("steered", "sums")],
        [(draw.format(n), "states") for n in range(16)],
        [(draw.format(n), "states") for n in range(16, 20)],
    ]
    seeds = [of.label_seed for p in driven.payloads[1:] for of in p.sets]
    assert seeds == [draw_seed("shuffled", 0, n) for n in range(20)]
    fitted = driven.vectors()
    names = [draw.format(n) for n in range(20)]
    names += [f"nulls/null=random/vectors=in_sample/draw={n}" for n in range(3)]
    directions: dict[str, set[bytes]] = {"random": set(), "shuffled": set()}
    for name in names:
        for layer, vector in driven.vectors(name).whole.items():
            norm = np.linalg.norm(fitted.whole[layer])
            assert np.linalg.norm(vector) == pytest.approx(norm, rel=1e-5)
            directions["random" if "random" in name else "shuffled"].add(vector.tobytes())
    assert len(directions["random"]) == 3 * 2, "another direction for every draw and layer"
    assert len(directions["shuffled"]) > 5 * 2, "three labels have eight shuffles"
    # Draw 7 by hand: labels swapped where the seed says so.
    examples, _ = driven.workflow.sweep.groups["intersentence", "race"]
    signs = label_signs([e.example_id for e in examples], draw_seed("shuffled", 0, 7))
    stereotype, anti = states_of(examples, (4,))[:, 0].astype(np.float64)
    wanted = ((anti - stereotype) * np.asarray(signs)[:, None]).mean(axis=0)
    wanted *= np.linalg.norm(fitted.whole[4]) / np.linalg.norm(wanted)
    assert close(driven.vectors(draw.format(7)).whole[4], wanted)


def test_random_draws_alone_need_no_states(tmp_path: Path) -> None:
    driven = drive(tmp_path, vectors={"held_out": False}, nulls={"random": 2})
    assert driven.sets == [[("steered", "sums")]]


def test_vectors_of_a_file_are_taken_as_they_are_and_only_norms_are_read(tmp_path: Path) -> None:
    given = {n: np.full(WIDTH, n, np.float32) for n in (1, 4, 5)}
    file = tmp_path / "given.safetensors"
    file.write_bytes(to_safetensors(SteeringVectors(given, {}), {}))
    driven = drive(tmp_path, vectors={"file": str(file)})
    assert driven.sets == [[("steered", "none")]]
    found = driven.vectors()
    assert found.whole.keys() == {1, 4}
    assert found.stream_norms.keys() == {1, 4}
    for layer in (1, 4):
        np.testing.assert_array_equal(found.whole[layer], given[layer])


def test_a_cross_fitted_sweep_fits_its_folds_and_nothing_beside_them(tmp_path: Path) -> None:
    driven = drive(tmp_path, vectors={"folds": 3})
    assert driven.sets == [[("steered", "sums")]]
    (of,) = driven.payloads[0].sets
    assert of.num_folds == 3
    assert len(driven.vectors().folds[4]) == 3


def test_ids_of_fits_are_the_same_again_and_cover_what_they_are_made_of(tmp_path: Path) -> None:
    def ids(name: str, **changes: Any) -> set[str]:
        return {task.id for task in drive(tmp_path / name, **changes).fits}

    first = ids("first")
    assert ids("again") == first
    data = {"path": "embedded:examples.json", "splits": ["intersentence"], "bias_types": ["race"]}
    others = {
        "layers": {"steering": {"layers": [1], "coeffs": [-3, 400]}},
        "folds": {"data": {**data, "seed": 7}},
        "parts": {"compute": {"executor": "in_process", "examples_per_task": 2}},
        "method": {"vectors": {"method": "pca"}},
        "sets": {"vectors": {"held_out": False}},
        "batches": {"compute": {"executor": "in_process", "tokens_per_batch": 512}},
    }
    found = [ids(name, **changes) for name, changes in others.items()]
    assert all(len(each) == 1 for each in found)
    assert len(set.union(first, *found)) == 1 + len(found)
    # What steers with them is not part of them.
    assert ids("coeffs", steering={"layers": [1, 4], "coeffs": [7]}) == first


def test_what_is_stored_is_not_fitted_again_and_a_new_layer_is_fitted_alone(
    tmp_path: Path,
) -> None:
    first = drive(tmp_path)
    before = first.tensors()
    again = drive(tmp_path)
    assert again.fits == []
    assert {task.id for task in again.steered} == {task.id for task in first.steered}
    assert again.tensors() == before
    grown = drive(tmp_path, steering={"layers": [1, 2, 4], "coeffs": [-3, 400]})
    assert [p.layers for p in grown.payloads] == [(2,)]
    vectors, old = grown.vectors(), first.vectors
    assert sorted(vectors.whole) == [1, 2, 4]
    assert close(vectors.whole[2], direct(grown, 2))
    assert set(before) == set(grown.tensors())
    assert {vectors.digest(layer) for layer in (1, 4)} == {old().digest(n) for n in (1, 4)}
