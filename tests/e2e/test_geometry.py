"""Anisotropy of a run, against a computation over the states that it has stored."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest

from tests.support.sweeps import steersweep, write_spec


def test_anisotropy_is_that_of_all_stored_states(tmp_path: Path) -> None:
    spec = write_spec(
        tmp_path / "sweep.yaml",
        data={"path": "embedded:examples.json", "bias_types": ["gender", "race"]},
        vectors={"method": "pca", "folds": 2},
        compute={"executor": "in_process", "examples_per_task": 2},
    )
    assert steersweep("run", str(spec)).code == 0
    found = pd.read_parquet(tmp_path / "out" / "summary" / "geometry.parquet")
    assert set(found["bias_type"]) == {"gender", "race", "all"}
    assert set(found["split"]) == {"intersentence", "intrasentence", "all"}
    assert len(found) == 3 * 3 * 2
    for row in found.itertuples():
        states = _states(tmp_path / "out", row.split, row.bias_type, row.layer)
        norms = np.linalg.norm(states, axis=1)
        units = states / norms[:, None]
        mean = states.mean(axis=0) / np.linalg.norm(states.mean(axis=0))
        assert row.num_states == len(states)
        assert row.mean_norm == pytest.approx(norms.mean(), rel=1e-6)
        assert row.mean_cosine == pytest.approx((units @ mean).mean(), rel=1e-6)
        pairs = (units @ units.T)[~np.eye(len(units), dtype=bool)]
        assert row.mean_pairwise_cosine == pytest.approx(pairs.mean(), rel=1e-6)


def _states(output: Path, split: str, bias_type: str, layer: int) -> np.ndarray:
    pattern = f"model=tiny/split={split}/bias_type={bias_type}/*.parquet".replace("=all", "=*")
    rows = pd.concat(
        pq.ParquetFile(path).read().to_pandas() for path in (output / "states").glob(pattern)
    )
    rows = rows[rows["layer"] == layer]
    return np.stack([*rows["stereotype"], *rows["anti_stereotype"]]).astype(float)
