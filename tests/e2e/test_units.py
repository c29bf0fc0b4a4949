"""``steering.unit: stream``: pushes in units of the stream's norm, through the whole path."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from safetensors.numpy import load_file

from steering_core.exchange.formats import read_vectors, write_vectors
from steering_core.vectors import SteeringVectors, from_safetensors, safetensors_metadata
from tests.support.sweeps import Finished, part_keys, read_rows, steersweep, write_spec

SCORES = ["score_stereotype", "score_anti_stereotype", "score_unrelated"]
GRID = {"layers": [1, 4], "coeffs": [-0.1, 0.3]}


def sweep(folder: Path, **changes: Any) -> Finished:
    folder.mkdir(exist_ok=True)
    options = {
        "protocol": "aligned",
        "data": {"path": "embedded:examples.json", "bias_types": ["gender", "race"]},
        "vectors": {"folds": 2},
        "steering": GRID,
    }
    return steersweep("run", str(write_spec(folder / "sweep.yaml", **(options | changes))))


STREAM = {**GRID, "unit": "stream"}


@pytest.fixture(scope="module")
def by_vector(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("by_vector")
    assert sweep(folder).code == 0
    return folder / "out"


@pytest.fixture(scope="module")
def by_stream(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("by_stream")
    finished = sweep(folder, steering=STREAM, nulls=["random", "shuffled"])
    assert finished.code == 0, finished
    # The slow path adds c m v / |v| as it is written.
    assert "certificate: holds" in finished.out
    return folder / "out"


def vector_files(output: Path, below: str = "vectors/tiny") -> dict[Path, SteeringVectors]:
    """Those of each group, by their path below the folder."""
    paths = sorted((output / below).rglob("*.safetensors"))
    return {
        path.relative_to(output / below): from_safetensors(path.read_bytes(), str(path))
        for path in paths
    }


def test_only_steered_rows_differ_between_units(by_vector: Path, by_stream: Path) -> None:
    vector_files_of_both = vector_files(by_vector), vector_files(by_stream)
    for path, vectors in vector_files_of_both[0].items():
        streams = vector_files_of_both[1][path]
        assert (vectors.unit, streams.unit) == ("vector", "stream")
        assert set(vectors.stream_norms) == {1, 4}
        assert streams.stream_norms == vectors.stream_norms
        one, other = (load_file(o / "vectors/tiny" / path) for o in (by_vector, by_stream))
        assert one.keys() == other.keys()
        assert all(np.array_equal(one[name], other[name]) for name in one)
        assert all(streams.digest(layer) != vectors.digest(layer) for layer in (1, 4))
    for table in ("baseline", "sums"):
        one, other = (
            read_rows(str(o), table).drop(columns="task_id", errors="ignore")
            for o in (by_vector, by_stream)
        )
        assert one.equals(other)
    assert not part_keys(str(by_vector)) & part_keys(str(by_stream))


@pytest.fixture(scope="module")
def in_sample(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("in_sample")
    assert sweep(folder, vectors={"folds": 1}, steering=STREAM).code == 0
    return folder / "out"


def test_rows_are_those_of_the_converted_coefficient(in_sample: Path, tmp_path: Path) -> None:
    """By the layer's own norms, which are another group's for all other rows."""
    path, group = next(iter(vector_files(in_sample).items()))
    norm = float(np.linalg.norm(group.whole[4].astype(np.float64)))
    steering = {"layers": [4], "coeffs": [0.3 * group.stream_norms[4] / norm]}
    assert sweep(tmp_path, vectors={"folds": 1}, steering=steering).code == 0
    found = read_rows(str(in_sample)).query("layer == 4 and coeff == 0.3")
    wanted = read_rows(str(tmp_path / "out"))
    assert list(found["example_id"]) == list(wanted["example_id"])
    gaps = np.abs(found[SCORES].to_numpy(float) - wanted[SCORES].to_numpy(float)).max(axis=1)
    own = (wanted["split"] == path.parts[0]) & (wanted["bias_type"] == path.stem)
    assert gaps[own].max() < 1e-5
    assert gaps[~own].max() > 1e-4


def test_the_norms_do_not_depend_on_folds(by_stream: Path, in_sample: Path) -> None:
    for path, vectors in vector_files(in_sample).items():
        assert vectors.stream_norms == vector_files(by_stream)[path].stream_norms


def test_nulls_push_as_far(by_stream: Path) -> None:
    for null in ("random", "shuffled"):
        below = f"vectors/null={null}/vectors=held_out/draw=0/tiny"
        of_null = vector_files(by_stream, below)
        for path, fitted in vector_files(by_stream).items():
            assert of_null[path].unit == "stream"
            assert of_null[path].stream_norms == fitted.stream_norms
            for layer in (1, 4):
                assert of_null[path].dose(layer, -0.1) == fitted.dose(layer, -0.1) == 0.1


def test_the_dose_is_the_same_in_every_row_and_told_on_console_and_page(
    by_stream: Path, by_vector: Path
) -> None:
    for table in ("cells", "pooled", "nulls"):
        rows = pd.read_parquet(by_stream / "summary" / f"{table}.parquet")
        assert (rows["dose"] == rows["coeff"].abs()).all()
    said = "Steering pushed by 0.1 to 0.3 of the stream"
    reported = steersweep("report", str(by_stream), "--no-figures")
    assert said in reported.out
    assert said in (by_stream / "report.html").read_text()
    rows = pd.read_parquet(by_vector / "summary" / "cells.parquet")
    for path, vectors in vector_files(by_vector).items():
        of_group = rows[(rows["split"] == path.parts[0]) & (rows["bias_type"] == path.stem)]
        for layer, coeff, dose in of_group[["layer", "coeff", "dose"]].itertuples(index=False):
            assert dose == vectors.dose(layer, coeff)
            norms = [np.linalg.norm(vectors.for_fold(layer, fold)) for fold in (0, 1)]
            doses = abs(coeff) * np.asarray(norms) / vectors.stream_norms[layer]
            assert doses.min() * (1 - 1e-6) <= dose <= doses.max() * (1 + 1e-6)


def test_stored_rows_are_verified_and_a_finished_run_is_settled(by_stream: Path) -> None:
    verified = steersweep("verify", str(by_stream), "--rows", "12")
    assert verified.code == 0, verified
    again = sweep(by_stream.parent, steering=STREAM, nulls=["random", "shuffled"])
    assert "nothing left to compute" in again.out


def test_a_norm_that_was_changed_is_noticed(by_stream: Path, tmp_path: Path) -> None:
    copy = shutil.copytree(by_stream, tmp_path / "out")
    path = next((copy / "vectors/tiny").rglob("*.safetensors"))
    content = path.read_bytes()
    text = safetensors_metadata(content)["stream_norm.layer.4"].encode()
    path.write_bytes(content.replace(text, text[::-1].replace(b".", b"1") + b"", 1))
    refused = steersweep("status", str(copy))
    assert refused.code == 2
    assert path.name in refused.err


def test_vectors_of_a_file_are_pushed_by_the_stream_of_each_group(tmp_path: Path) -> None:
    group = {"path": "embedded:examples.json", "splits": ["intersentence"], "bias_types": ["race"]}
    fitted, given = tmp_path / "fitted", tmp_path / "given"
    in_sample = {"folds": 1, "held_out": False}  # a file has nothing to hold out
    assert sweep(fitted, data=group, vectors=in_sample, steering=STREAM).code == 0
    (own,) = (fitted / "out" / "vectors").rglob("*.safetensors")
    _, file = read_vectors(own.read_bytes(), str(own))
    # The unit belongs to the sweep: a file of its vectors is the same in any unit.
    assert file.vectors.unit == "vector"
    (tmp_path / "v.pt").write_bytes(write_vectors("persona_vectors", file, num_blocks=6).data)
    vectors = {"file": str(tmp_path / "v.pt")}
    done = sweep(given, data=group, vectors=vectors, steering=STREAM)
    assert done.code == 0, done
    one, other = (read_rows(str(folder / "out")) for folder in (fitted, given))
    assert one[SCORES].equals(other[SCORES])
    assert set(one["task_id"]) == set(other["task_id"])
    (kept,) = vector_files(given / "out").values()
    assert kept.stream_norms == next(iter(vector_files(fitted / "out").values())).stream_norms
    again = tmp_path / "again"
    assert sweep(again, data=group, vectors={"file": str(own)}, steering=STREAM).code == 0
    assert set(read_rows(str(again / "out"))["task_id"]) == set(one["task_id"])


def test_vectors_of_a_method_that_needs_states_are_pushed_as_far(
    by_stream: Path, tmp_path: Path
) -> None:
    vectors = {"folds": 2, "method": "pca"}
    assert sweep(tmp_path, vectors=vectors, steering=STREAM).code == 0
    for path, found in vector_files(tmp_path / "out").items():
        wanted = vector_files(by_stream)[path]
        assert found.stream_norms == wanted.stream_norms
        assert found.fold_sizes == wanted.fold_sizes


@pytest.mark.parametrize(("before", "after"), [("vector", "stream"), ("stream", "vector")])
def test_another_unit_on_a_started_output_is_refused(
    before: str, after: str, by_vector: Path, by_stream: Path
) -> None:
    output = by_vector if before == "vector" else by_stream
    refused = sweep(output.parent, steering={**GRID, "unit": after})
    assert refused.code == 2
    assert f"steering.unit: {before} -> {after}" in refused.err


def test_an_output_from_before_the_key_was_there_is_of_unit_vector(
    by_vector: Path, tmp_path: Path
) -> None:
    copy = shutil.copytree(by_vector, tmp_path / "out")
    record = json.loads((copy / "run.json").read_text())
    del record["identity"]["steering.unit"], record["spec"]["steering"]["unit"]
    (copy / "run.json").write_text(json.dumps(record))
    refused = sweep(tmp_path, steering=STREAM)
    assert refused.code == 2
    assert "steering.unit: vector -> stream" in refused.err
    assert "nothing left to compute" in sweep(tmp_path).out


@pytest.mark.parametrize("operation", ["project_out", "cap_above", "cap_below"])
def test_a_coefficient_that_is_no_multiple_has_no_unit(operation: str, tmp_path: Path) -> None:
    refused = sweep(tmp_path, steering={**STREAM, "operation": operation})
    assert refused.code == 2
    assert refused.err.strip().count("\n") == 0
    assert "steering" in refused.err
    assert "unit: stream" in refused.err
    assert f"operation: {operation}" in refused.err
    assert not (tmp_path / "out").exists()
