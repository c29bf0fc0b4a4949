"""Each vector method through the whole path: stored states, vectors from them, resume, growth."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from safetensors.numpy import load_file

from steering_core import probes
from steering_core.engine import Engine
from steering_core.hook_points import HookPoint
from steering_core.protocol import Protocol
from steering_core.vectors import safetensors_metadata
from tests.support.direct_fits import DIRECT_FITS, direct_mean_difference
from tests.support.sweeps import part_keys, read_rows, steersweep, write_spec

BIAS_TYPES = ["gender", "race"]
NUM_FOLDS = 3
DATA = {"path": "embedded:examples.json", "bias_types": BIAS_TYPES}
STEERING = {"layers": [1, 4], "coeffs": [2]}
GROUPS = [(s, b) for s in ("intersentence", "intrasentence") for b in BIAS_TYPES]


def _spec(folder: Path, method: str, **changes: Any) -> Path:
    document: dict[str, Any] = {
        "protocol": "aligned",
        "data": DATA,
        "vectors": {"method": method, "folds": NUM_FOLDS},
        "steering": STEERING,
        "compute": {"executor": "in_process", "examples_per_task": 2},
    }
    return write_spec(folder / "sweep.yaml", **(document | changes))


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The same small sweep with each method."""
    outputs = {}
    for method in ("mean_difference", *DIRECT_FITS):
        folder = tmp_path_factory.mktemp(method)
        finished = steersweep("run", str(_spec(folder, method)))
        assert finished.code == 0, finished
        assert "certificate: holds" in finished.out
        outputs[method] = folder / "out"
    return outputs


methods = pytest.mark.parametrize("method", list(DIRECT_FITS))


def _states(output: Path, split: str, bias_type: str, layer: int) -> pd.DataFrame:
    rows = read_rows(str(output), "states")
    chosen = (rows["split"] == split) & (rows["bias_type"] == bias_type) & (rows["layer"] == layer)
    return rows[chosen]


def _matrix(column: pd.Series) -> np.ndarray:
    return np.stack([np.asarray(v, np.float32) for v in column]).astype(np.float64)


def _vectors_file(output: Path, split: str, bias_type: str) -> Path:
    return output / "vectors" / "tiny" / split / f"{bias_type}.safetensors"


def _contents(output: Path) -> dict[str, bytes]:
    """Every file that holds results."""
    folders = ("vectors", "sums", "states", "baseline", "steered", "manifest")
    files = [f for name in folders for f in (output / name).rglob("*") if f.is_file()]
    return {str(f.relative_to(output)): f.read_bytes() for f in files}


@methods
def test_vectors_are_a_direct_computation_from_the_stored_states(
    method: str, runs: dict[str, Path]
) -> None:
    for split, bias_type in GROUPS:
        tensors = load_file(_vectors_file(runs[method], split, bias_type))
        assert len(tensors) == len(STEERING["layers"]) * (1 + NUM_FOLDS)
        for layer in STEERING["layers"]:
            rows = _states(runs[method], split, bias_type, layer)
            anti, stereotype = _matrix(rows["anti_stereotype"]), _matrix(rows["stereotype"])
            outside = {"": np.ones(len(rows), bool)}
            outside |= {f".fold.{k}": (rows["fold"] != k).to_numpy() for k in range(NUM_FOLDS)}
            for name, keep in outside.items():
                found = tensors[f"layer.{layer}{name}"]
                assert found.dtype == np.float32
                wanted = DIRECT_FITS[method](anti[keep], stereotype[keep])
                gap = np.linalg.norm(found - wanted) / np.linalg.norm(wanted)
                assert gap < 1e-3, (layer, name)
                # A vector that were the mean difference would pass for nothing.
                plain = direct_mean_difference(anti[keep], stereotype[keep])
                assert np.linalg.norm(found - plain) > 1e-2 * np.linalg.norm(plain)
                assert np.linalg.norm(found) == pytest.approx(np.linalg.norm(plain), rel=1e-5)


def test_states_are_those_that_the_sums_are_of(runs: dict[str, Path]) -> None:
    rows = read_rows(str(runs["pca"]), "states")
    assert list(rows.columns[:3]) == ["layer", "fold", "example_id"]
    assert list(rows.columns[3:5]) == ["stereotype", "anti_stereotype"]
    assert not rows.duplicated(["split", "bias_type", "layer", "example_id"]).any()
    assert len(rows) == len(read_rows(str(runs["pca"]), "baseline")) * len(STEERING["layers"])
    sums = read_rows(str(runs["pca"]), "sums")
    keys = ["split", "bias_type", "layer", "fold"]
    for key, of_fold in rows.groupby(keys):
        entries = sums[(sums[keys] == list(key)).all(axis=1)]
        total = np.sum([np.asarray(t, np.float64) for t in entries["total"]], axis=0)
        found = (_matrix(of_fold["anti_stereotype"]) - _matrix(of_fold["stereotype"])).sum(axis=0)
        np.testing.assert_allclose(found, total, rtol=1e-4, atol=1e-5)
        assert entries["num_examples"].sum() == len(of_fold)


@methods
def test_only_the_vectors_differ_from_those_of_the_mean_difference(
    method: str, runs: dict[str, Path]
) -> None:
    for table in ("baseline", "sums"):
        found, wanted = (read_rows(str(runs[m]), table) for m in (method, "mean_difference"))
        drop = [c for c in ("task_id",) if c in found]
        pd.testing.assert_frame_equal(found.drop(columns=drop), wanted.drop(columns=drop))
    found, wanted = (read_rows(str(runs[m])) for m in (method, "mean_difference"))
    assert (found["score_stereotype"] - wanted["score_stereotype"]).abs().max() > 1e-4
    assert not any(key.startswith("states/") for key in part_keys(str(runs["mean_difference"])))


@pytest.mark.parametrize("method", ["mean_difference", *DIRECT_FITS])
def test_the_file_of_vectors_names_its_method_and_source(
    method: str, runs: dict[str, Path]
) -> None:
    metadata = safetensors_metadata(_vectors_file(runs[method], *GROUPS[0]).read_bytes())
    assert metadata["method"] == method
    assert metadata["source"]
    assert metadata["formula"]
    record = json.loads((runs[method] / "run.json").read_text())
    assert record["spec"]["vectors"]["method"] == method


@methods
def test_running_status_and_verify_find_it_done(method: str, runs: dict[str, Path]) -> None:
    output = runs[method]
    before = _contents(output)
    again = steersweep("run", str(output.parent / "sweep.yaml"))
    assert (again.code, "nothing left to compute" in again.out) == (0, True), again
    assert "(100 %)" in steersweep("status", str(output)).out
    verified = steersweep("verify", str(output))
    assert (verified.code, "holds" in verified.out) == (0, True), verified
    assert _contents(output) == before


@methods
def test_what_is_lost_half_way_is_made_again_from_the_states_in_storage(
    method: str, runs: dict[str, Path], tmp_path: Path
) -> None:
    """As a driver leaves it that was killed: no vectors, some tasks without their last part."""
    copy = shutil.copytree(runs[method], tmp_path / "out")
    shutil.rmtree(copy / "vectors")
    gone = [k for k in sorted(part_keys(str(copy))) if k.startswith(("baseline/", "steered/"))][::2]
    for key in gone:
        (copy / key).unlink()
    finished = steersweep("run", str(_spec(tmp_path, method)))
    assert finished.code == 0, finished
    found, wanted = _contents(copy), _contents(runs[method])
    assert found.keys() == wanted.keys()
    for table in ("states", "baseline", "steered"):
        rows = [read_rows(str(o), table) for o in (copy, runs[method])]
        pd.testing.assert_frame_equal(*rows, check_exact=True)


@methods
def test_a_layer_more_brings_its_own_states_and_leaves_the_vectors_that_are_there(
    method: str, runs: dict[str, Path], tmp_path: Path
) -> None:
    small = _spec(tmp_path, method, steering=STEERING | {"layers": [4]})
    assert steersweep("run", str(small)).code == 0
    output = tmp_path / "out"
    before = _contents(output)
    grown = steersweep("run", str(_spec(tmp_path, method)))
    assert grown.code == 0, grown
    after = _contents(output)
    kept = {key for key in before if not key.startswith("vectors/")}
    assert {key: after[key] for key in kept} == {key: before[key] for key in kept}
    for table in ("states", "steered"):
        rows = [read_rows(str(o), table) for o in (output, runs[method])]
        rows = [r.drop(columns="task_id", errors="ignore") for r in rows]
        pd.testing.assert_frame_equal(*rows, check_exact=True)
    for split, bias_type in GROUPS:
        found, wanted = (
            load_file(_vectors_file(o, split, bias_type)) for o in (output, runs[method])
        )
        assert found.keys() == wanted.keys()
        assert all((found[name] == wanted[name]).all() for name in found)


@pytest.mark.parametrize(
    ("before", "after"),
    [("mean_difference", "pca"), ("pca", "mean_difference"), ("pca", "logistic")],
)
def test_another_method_on_a_started_output_is_refused(
    before: str, after: str, runs: dict[str, Path], tmp_path: Path
) -> None:
    kept = _contents(runs[before])
    finished = steersweep("run", str(_spec(tmp_path, after, output=str(runs[before]))))
    assert finished.code == 2, finished
    assert finished.err.count("\n") == 1
    assert f"changed: vectors.method: {before} -> {after}" in finished.err
    assert _contents(runs[before]) == kept


def test_an_output_from_before_there_were_methods_is_one_of_the_mean_difference(
    runs: dict[str, Path], tmp_path: Path
) -> None:
    copy = shutil.copytree(runs["mean_difference"], tmp_path / "out")
    record = json.loads((copy / "run.json").read_text())
    del record["identity"]["vectors.method"], record["spec"]["vectors"]["method"]
    (copy / "run.json").write_text(json.dumps(record))
    assert steersweep("verify", str(copy)).code == 0
    refused = steersweep("run", str(_spec(tmp_path, "whitened")))
    assert (refused.code, "vectors.method: mean_difference -> whitened" in refused.err) == (2, True)
    assert (
        "nothing left to compute" in steersweep("run", str(_spec(tmp_path, "mean_difference"))).out
    )


class _ReadsOneBlockOff(Protocol):
    def read_at(self, layer: int) -> HookPoint:
        return HookPoint(layer, self.read)


class _OffEngine(Engine):
    """Pools the states of the next block."""

    def __init__(self, model: Any, protocol: Protocol, **options: Any) -> None:
        fields = {name: getattr(protocol, name) for name in Protocol.__dataclass_fields__}
        super().__init__(model, _ReadsOneBlockOff(**fields), **options)


class _SwappedEngine(Engine):
    """Takes one candidate's states for the other's; scores and differences are right."""

    def baseline(self, *arguments: Any, **options: Any) -> Any:
        scores, pooled = super().baseline(*arguments, **options)
        assert pooled.states is not None
        return scores, replace(pooled, states=pooled.states[::-1])


@pytest.mark.parametrize("engine", [_OffEngine, _SwappedEngine])
def test_wrong_states_are_noticed_and_those_of_the_slow_path_are_stored(
    engine: type[Engine], runs: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    steering = STEERING | {"layers": [1, 3]}
    with monkeypatch.context() as patched:
        patched.setattr(probes, "Engine", engine)
        finished = steersweep("run", str(_spec(tmp_path, "whitened", steering=steering)))
    assert finished.code == 0, finished
    summary = json.loads((tmp_path / "out" / "certificate.json").read_text())["overall"]
    assert summary["num_tasks_fell_back"] == 2 * len(GROUPS)
    assert summary["worst_row"]["quantity"] == "pooled"
    found, wanted = (_states(o, *GROUPS[0], 1) for o in (tmp_path / "out", runs["whitened"]))
    assert found["example_id"].tolist() == wanted["example_id"].tolist()
    for label in ("stereotype", "anti_stereotype"):
        np.testing.assert_allclose(_matrix(found[label]), _matrix(wanted[label]), atol=1e-5)


class _SameStatesEngine(Engine):
    """Gives the stereotype's states for both candidates."""

    def baseline(self, *arguments: Any, **options: Any) -> Any:
        scores, pooled = super().baseline(*arguments, **options)
        assert pooled.states is not None
        return scores, replace(pooled, states=pooled.states[[0, 0]])


def test_a_group_without_a_direction_stops_the_run_with_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(probes, "Engine", _SameStatesEngine)
    finished = steersweep("run", str(_spec(tmp_path, "pca", certificate={"rows_per_task": 0})))
    assert finished.code == 2, finished
    assert finished.err.startswith("error: ")
    assert finished.err.count("\n") == 1
    assert "mean difference is zero" in finished.err
    assert "pca vector of layer 1 of tiny/intersentence/gender" in finished.err
