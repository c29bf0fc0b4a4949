"""Shards whose cells are cut into several tasks, as on CUDA; here with CPU tasks cut by force."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from jobs.scoring import plan
from jobs.scoring.plan import PlannedTask, _equal_parts, packing_for, plan_missing
from jobs.spec import load_spec
from jobs.stereoset.resolve import Sweep, resolve
from jobs.stereoset.spec import StereoSetSpec
from steering_core.models import ModelFacts
from tests.support.sweeps import part_keys, read_rows, steersweep, write_spec

GRID = {"layers": [1, 2, 4], "coeffs": [-3, 2, 400]}
GROWN = {"layers": [1, 2, 3, 4], "coeffs": [-3, 2, 7, 400]}
# The same shards cut or not, so that batches are the same and rows equal to the last bit.
COMPUTE = {"executor": "in_process", "examples_per_task": 4}
DATA = {
    "path": "embedded:examples.json",
    "splits": ["intersentence"],
    "bias_types": ["gender", "religion"],
}
TABLES = ("baseline", "steered", "nulls")


def cut_by_force(patch: pytest.MonkeyPatch, on: str = "cpu") -> None:
    """Have the CPU plan as CUDA does, for a device on which the tiny model takes minutes."""
    patch.setattr(plan, "_CUTS_CELLS_ON", frozenset({on}))
    patch.setattr(plan, "_FLOPS_PER_S_CUTTING_CELLS", 1e7)


def spec_of(folder: Path, grid: dict[str, Any] = GRID, **changes: Any) -> Path:
    options = {"data": DATA, "steering": grid, "nulls": ["random"], "compute": COMPUTE} | changes
    return write_spec(folder / "sweep.yaml", **options)


def rows(output: Path, table: str) -> pd.DataFrame:
    # A row's task is another one where its cells are cut.
    return read_rows(str(output), table).drop(columns="task_id")


def assert_same_rows(output: Path, other: Path) -> None:
    for table in TABLES:
        pd.testing.assert_frame_equal(rows(output, table), rows(other, table), check_exact=True)


@pytest.fixture(scope="module")
def uncut(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("uncut")
    assert steersweep("run", str(spec_of(folder))).code == 0
    assert "cuts_cells" in json.loads((folder / "out" / "run.json").read_text())
    return folder / "out"


@pytest.fixture(scope="module")
def finished_cut(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a finished output whose cells were cut, with its plan."""
    folder = tmp_path_factory.mktemp("cut")
    with pytest.MonkeyPatch.context() as patch:
        cut_by_force(patch)
        spec = spec_of(folder)
        numbers = folder / "plan.json"
        planned = steersweep("plan", str(spec), "--seconds", "0", "--json-file", str(numbers))
        assert planned.code == 0, planned
        finished = steersweep("run", str(spec))
        assert finished.code == 0, finished
    return folder


@pytest.fixture
def cut(finished_cut: Path, tmp_path: Path) -> Path:
    """An output of its own for each test."""
    shutil.copytree(finished_cut, tmp_path, dirs_exist_ok=True)
    spec_of(tmp_path)
    return tmp_path / "out"


def steered_parts(output: Path) -> list[Path]:
    return sorted(output.glob("steered/**/*.parquet"))


def test_a_run_with_cut_cells_has_the_rows_of_one_without(uncut: Path, cut: Path) -> None:
    assert_same_rows(cut, uncut)
    baselines = len(list(cut.glob("baseline/**/*.parquet")))
    assert len(steered_parts(uncut)) == baselines
    assert len(steered_parts(cut)) > 2 * baselines
    left = json.loads((cut.parent / "plan.json").read_text())["left"]
    # Draws for in-sample vectors and for held-out ones are steered by the same tasks.
    num_nulls = len(list(cut.glob("nulls/null=*/vectors=in_sample/**/*.parquet")))
    assert num_nulls == len(steered_parts(cut))
    assert left["num_tasks"] == baselines + len(steered_parts(cut)) + num_nulls
    session = json.loads((cut / "run.json").read_text())["sessions"][-1]
    assert session["actual"]["num_tasks"] == session["planned"]["num_tasks"] == left["num_tasks"]
    for name in ("cells", "pooled", "nulls"):
        summaries = [pd.read_parquet(o / "summary" / f"{name}.parquet") for o in (cut, uncut)]
        pd.testing.assert_frame_equal(*summaries, check_exact=True)
    checked = json.loads((cut / "certificate.json").read_text())
    assert json.dumps(checked)
    assert steersweep("verify", str(cut), "--rows", "8").code == 0
    status = steersweep("status", str(cut))
    assert "100 %" in status.out


@pytest.mark.parametrize("lost", [(), ("manifest",), ("run.json",)], ids=str)
def test_what_is_missing_is_computed_again_and_nothing_else_also_where_nothing_is_cut(
    lost: tuple[str, ...], uncut: Path, cut: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As when an output of CUDA goes on on the CPU, where a new output would not be cut."""
    cut_by_force(monkeypatch, on="cuda")
    for path in steered_parts(cut)[::3]:
        path.unlink()
    kept = {path: path.stat().st_mtime_ns for path in cut.glob("*/**/model=*/**/*.parquet")}
    if "manifest" in lost:
        for path in cut.glob("manifest/*"):
            path.unlink()
    if "run.json" in lost:
        (cut / "run.json").unlink()
    again = steersweep("run", str(cut.parent / "sweep.yaml"))
    assert again.code == 0, again
    assert {path: path.stat().st_mtime_ns for path in kept} == kept
    assert_same_rows(cut, uncut)
    assert json.loads((cut / "run.json").read_text())["cuts_cells"] is (lost != ("run.json",))


def test_a_grid_that_grows_is_cut_too_and_ends_with_the_same_rows(
    cut: Path, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    cut_by_force(monkeypatch, on="cuda")
    before = set(steered_parts(cut))
    grown = spec_of(cut.parent, GROWN)
    assert steersweep("run", str(grown)).code == 0
    baselines = len(list(cut.glob("baseline/**/*.parquet")))
    assert before < set(steered_parts(cut))
    assert len(set(steered_parts(cut)) - before) > 2 * baselines
    folder = tmp_path_factory.mktemp("grown")
    assert steersweep("run", str(spec_of(folder, GROWN))).code == 0
    assert_same_rows(cut, folder / "out")


def test_an_output_that_began_without_goes_on_without(
    uncut: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec = spec_of(tmp_path)
    assert steersweep("run", str(spec)).code == 0
    before = part_keys(str(tmp_path / "out"))
    record = json.loads((tmp_path / "out" / "run.json").read_text())
    del record["cuts_cells"]  # as earlier versions left it
    (tmp_path / "out" / "run.json").write_text(json.dumps({**record, "outcome": "stopped"}))
    for path in tmp_path.glob("out/manifest/*"):
        path.unlink()
    cut_by_force(monkeypatch)
    assert steersweep("run", str(spec)).code == 0
    assert part_keys(str(tmp_path / "out")) == before


# -- the plan alone -----------------------------------------------------------------------------


def sweep_on_cuda(folder: Path, num_params: float, **changes: Any) -> Sweep:
    """A sweep of the embedded examples over a model of that many parameters."""
    options = {"compute": {"executor": "in_process"}, "nulls": []} | changes
    sweep = resolve(load_spec(StereoSetSpec, str(spec_of(folder, **options))), "cuda")
    model = sweep.models["tiny"]
    facts: ModelFacts = replace(model.facts, num_params=int(num_params))
    return replace(sweep, models={"tiny": replace(model, facts=facts)})


def tasks_by_shard(sweep: Sweep) -> dict[tuple[str, int], list[PlannedTask]]:
    shards: dict[tuple[str, int], list[PlannedTask]] = {}
    for task in plan_missing(sweep, [], packing_for(sweep)):
        shards.setdefault((str(task.group), task.shard), []).append(task)
    return shards


def test_shards_fill_a_batch_and_tasks_take_half_a_minute(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fewest, num_params = 100, 8e12
    monkeypatch.setattr(plan, "_FEWEST_TOKENS", fewest)  # the examples are few
    sweep = sweep_on_cuda(tmp_path, num_params, data={"path": "embedded:examples.json"})
    cells = {(layer, str(coeff)) for layer in GRID["layers"] for coeff in GRID["coeffs"]}
    held: dict[str, list[str]] = {}
    num_cut = 0
    shards = tasks_by_shard(sweep)
    assert len(shards) > len(sweep.groups), "the test would show nothing"
    for (group, _), tasks in shards.items():
        first, *steered = tasks
        by_id = sweep.by_id[first.group.key]
        counts = sweep.models["tiny"].counts([by_id[i][0] for i in first.example_ids])
        num_tokens = sum(row.num_packed for row in counts)
        held.setdefault(group, []).extend(first.example_ids)
        of_group = sweep.models["tiny"].counts([example for example, _ in by_id.values()])
        longest = max(row.num_packed for row in of_group)
        assert num_tokens > fewest - longest or len(first.example_ids) == len(by_id)
        assert all(task.example_ids == first.example_ids for task in steered)
        found = [cell for task in steered for cell in task.cells]
        assert len(found) == len(cells)
        assert set(found) == cells
        for task in steered:
            passes = (task.cost / len(task.example_ids)) - 1
            seconds = passes * 2 * num_params * num_tokens / 3e14
            assert seconds <= 30.0 * 1.5 or len(task.cells) == 1
        num_cut += len(steered) > 1
    assert num_cut
    for key, (examples, _) in sweep.groups.items():
        ids = sorted(held[f"tiny/{'/'.join(key)}"])
        assert ids == sorted(example.example_id for example in examples)


def test_a_small_model_has_one_shard_a_group_and_one_task_with_all_cells(tmp_path: Path) -> None:
    shards = tasks_by_shard(sweep_on_cuda(tmp_path, 1e6))
    assert {shard for _, shard in shards} == {0}
    assert all(len(tasks) == 2 for tasks in shards.values())


def test_a_given_number_of_examples_a_task_holds_and_cells_are_cut_all_the_same(
    tmp_path: Path,
) -> None:
    sweep = sweep_on_cuda(tmp_path, 3e12, compute={**COMPUTE, "examples_per_task": 2})
    shards = tasks_by_shard(sweep)
    assert all(len(task.example_ids) <= 2 for tasks in shards.values() for task in tasks)
    assert any(len(tasks) > 2 for tasks in shards.values())


@pytest.mark.parametrize("num_parts", [1, 2, 3, 7, 30])
def test_parts_of_nearly_equal_weight(num_parts: int) -> None:
    for weights in ([1.0] * 7, [5.0, 1, 1, 1, 1, 1, 0, 0], [0.0, 0.0, 0.0], [9.0]):
        bounds = _equal_parts(weights, num_parts)
        assert len(bounds) == min(num_parts, len(weights))
        assert [at for low, high in bounds for at in range(low, high)] == [*range(len(weights))]
        assert all(low < high for low, high in bounds)
    assert _equal_parts([4.0, 2.0, 2.0, 4.0], 2) == [(0, 2), (2, 4)]
    assert _equal_parts([6.0, 1.0, 1.0, 1.0, 3.0], 2) == [(0, 1), (1, 5)]
