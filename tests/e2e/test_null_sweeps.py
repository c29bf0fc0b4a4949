"""Nulls through the whole path: beside the steered cells, added later, told apart."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from safetensors.numpy import load_file

from tests.support.stereoset_data import DEV_JSON, needs_dev_json
from tests.support.sweeps import read_rows, steersweep, write_spec

SCORES = ["score_stereotype", "score_anti_stereotype", "score_unrelated"]
NULLS = ("random", "shuffled")


@pytest.fixture(scope="module")
def output(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A cross-fitted sweep without nulls, then again with them."""
    folder = tmp_path_factory.mktemp("nulls")
    spec = write_spec(
        folder / "sweep.yaml",
        protocol="aligned",
        data={"path": "embedded:examples.json", "bias_types": ["gender", "race"]},
        vectors={"folds": 2},
        steering={"layers": [1, 4], "coeffs": [20]},
    )
    assert steersweep("run", str(spec)).code == 0
    steered = {p: p.stat().st_mtime_ns for p in (folder / "out" / "steered").rglob("*.parquet")}
    grown = steersweep("run", str(spec), "--set", "nulls=[random, shuffled]")
    assert grown.code == 0, grown
    assert "certificate: holds" in grown.out
    assert {p: p.stat().st_mtime_ns for p in steered} == steered
    return folder / "out"


def test_each_null_steers_every_cell_with_vectors_of_the_same_norm(output: Path) -> None:
    frames = {
        "fit": read_rows(str(output)),
        **{null: read_rows(str(output), f"nulls/null={null}") for null in NULLS},
    }
    keys = ["split", "bias_type", "layer", "coeff", "example_id"]
    for null in NULLS:
        pd.testing.assert_frame_equal(frames[null][keys], frames["fit"][keys])
        assert np.abs(frames[null][SCORES] - frames["fit"][SCORES]).to_numpy().max() > 1e-3
        for path in (output / "vectors" / "tiny").rglob("*.safetensors"):
            fitted = load_file(path)
            beside = Path("vectors", f"null={null}", *path.parts[-3:])
            of_null = load_file(output / beside)
            assert of_null.keys() == fitted.keys()
            for name, vector in fitted.items():
                norms = np.linalg.norm(of_null[name]), np.linalg.norm(vector)
                np.testing.assert_allclose(*norms, rtol=1e-5)
                # With one example behind a vector, its label may come out as it was.
                assert null == "shuffled" or not np.allclose(of_null[name], vector)


def test_the_summary_has_them_beside_the_steered_cells(output: Path) -> None:
    cells = pd.read_parquet(output / "summary" / "cells.parquet")
    nulls = pd.read_parquet(output / "summary" / "nulls.parquet")
    assert set(nulls["null"]) == set(NULLS)
    of_cells = nulls[
        (nulls["split"] != "all") & (nulls["bias_type"] != "all") & nulls["layer"].notna()
    ]
    assert len(of_cells) == len(NULLS) * len(cells)
    shown = steersweep("status", str(output)).out
    assert "null: random" in shown
    assert "null: shuffled" in shown
    assert steersweep("verify", str(output), "--rows", "30").code == 0


def test_a_null_may_not_go(output: Path) -> None:
    refused = steersweep("run", str(output.parent / "sweep.yaml"), "--set", "nulls=[random]")
    assert refused.code == 2
    assert "nulls: shuffled is gone" in refused.err


@needs_dev_json
def test_random_weights_show_no_flow_under_a_null_beyond_the_false_discovery_rate(
    tmp_path: Path,
) -> None:
    spec = write_spec(
        tmp_path / "sweep.yaml",
        protocol="aligned",
        data={"path": str(DEV_JSON), "bias_types": ["gender", "race"], "limit": 40},
        steering={"layers": [2, 5], "coeffs": [20]},
        nulls=list(NULLS),
    )
    finished = steersweep("run", str(spec))
    assert finished.code == 0, finished
    nulls = pd.read_parquet(tmp_path / "out" / "summary" / "nulls.parquet")
    q = nulls[[name for name in nulls if name.endswith("_q")]].to_numpy()
    assert np.isfinite(q).any()
    assert (q < 0.05).mean() <= 0.05
