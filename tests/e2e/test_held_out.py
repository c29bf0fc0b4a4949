"""Held-out vectors beside in-sample ones: the same rows as a cross-fitted sweep, added or from the
start."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from safetensors.numpy import load_file

from tests.support.sweeps import read_rows, steersweep, write_spec

_STEERING = {"layers": [1, 4], "coeffs": [-3, 20]}


def _sweep(folder: Path, **vectors: Any) -> Path:
    """The output of a finished sweep with these vectors."""
    folder.mkdir(exist_ok=True)
    spec = write_spec(folder / "sweep.yaml", vectors=vectors, steering=_STEERING)
    finished = steersweep("run", str(spec))
    assert finished.code == 0, finished
    return folder / "out"


def _rows(output: Path, table: str) -> pd.DataFrame:
    return read_rows(str(output), table).drop(columns=["task_id"])


def _vectors(output: Path, folder: str) -> dict[str, dict[str, np.ndarray]]:
    files = sorted((output / folder / "tiny").rglob("*.safetensors"))
    return {"/".join(path.parts[-2:]): load_file(path) for path in files}


def _same_vectors(
    found: dict[str, dict[str, np.ndarray]], wanted: dict[str, dict[str, np.ndarray]]
) -> None:
    assert found.keys() == wanted.keys()
    for file, tensors in wanted.items():
        assert found[file].keys() == tensors.keys()
        for name, tensor in tensors.items():
            np.testing.assert_array_equal(found[file][name], tensor)


@pytest.fixture(scope="module")
def outputs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """With both, in-sample alone, and cross-fitted alone."""
    folder = tmp_path_factory.mktemp("held_out")
    return {
        "both": _sweep(folder / "both", folds=1),
        "in_sample": _sweep(folder / "in_sample", folds=1, held_out=False),
        "folds": _sweep(folder / "folds", folds=5),
    }


def test_held_out_rows_are_those_of_a_cross_fitted_sweep(outputs: dict[str, Path]) -> None:
    found = _rows(outputs["both"], "held_out")
    pd.testing.assert_frame_equal(found, _rows(outputs["folds"], "steered"), check_exact=True)
    _same_vectors(
        _vectors(outputs["both"], "vectors/held_out"), _vectors(outputs["folds"], "vectors")
    )
    in_sample = _rows(outputs["both"], "steered")
    assert not found["score_stereotype"].equals(in_sample["score_stereotype"])


def test_in_sample_rows_do_not_change(outputs: dict[str, Path]) -> None:
    for table in ("baseline", "steered"):
        found = _rows(outputs["both"], table)
        pd.testing.assert_frame_equal(found, _rows(outputs["in_sample"], table), check_exact=True)
    _same_vectors(_vectors(outputs["both"], "vectors"), _vectors(outputs["in_sample"], "vectors"))
    assert not (outputs["in_sample"] / "held_out").exists()


def test_an_output_without_them_stays_so_and_gains_them_when_asked(
    outputs: dict[str, Path], tmp_path: Path
) -> None:
    output = _sweep(tmp_path / "grown", folds=1, held_out=False)
    spec = write_spec(tmp_path / "grown" / "sweep.yaml", vectors={"folds": 1}, steering=_STEERING)
    resumed = steersweep("run", str(spec))
    assert resumed.code == 0, resumed
    assert "nothing left to compute" in resumed.out
    before = {p: p.stat().st_mtime_ns for p in (output / "steered").rglob("*.parquet")}
    grown = steersweep("run", str(spec), "--set", "vectors.held_out=true")
    assert grown.code == 0, grown
    assert before == {p: p.stat().st_mtime_ns for p in (output / "steered").rglob("*.parquet")}
    found, wanted = (_rows(of, "held_out") for of in (output, outputs["both"]))
    pd.testing.assert_frame_equal(found, wanted, check_exact=True)
    again = steersweep("run", str(spec))  # it has them now, without being told again
    assert again.code == 0
    assert "nothing left to compute" in again.out
    assert steersweep("verify", str(output), "--rows", "60").code == 0
    refused = steersweep("run", str(spec), "--set", "vectors.held_out=false")
    assert refused.code == 2
    assert "vectors.held_out: true is gone" in refused.err


def test_states_of_an_earlier_method_serve_both(tmp_path: Path) -> None:
    both = _sweep(tmp_path / "both", folds=1, method="pca")
    cross = _sweep(tmp_path / "folds", folds=5, method="pca")
    pd.testing.assert_frame_equal(
        _rows(both, "held_out"), _rows(cross, "steered"), check_exact=True
    )


@pytest.mark.parametrize(
    ("vectors", "text"),
    [
        ({"folds": 2, "held_out": True}, "vectors.held_out must be left out where folds is 2"),
        ({"file": "v.safetensors", "held_out": True}, "must not set held_out together with file"),
    ],
)
def test_vectors_that_are_held_out_already_are_refused(
    vectors: dict[str, Any], text: str, tmp_path: Path
) -> None:
    spec = write_spec(tmp_path / "sweep.yaml", vectors=vectors, steering=_STEERING)
    refused = steersweep("run", str(spec))
    assert refused.code == 2
    assert text in refused.err
    assert not (tmp_path / "out").exists()
