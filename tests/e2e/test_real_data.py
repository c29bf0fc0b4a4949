"""The whole development set through the whole path: every row exactly once."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest

from steering_core.stereoset import OFFICIAL_COUNTS, read_stereoset
from tests.support.stereoset_data import DEV_JSON, needs_dev_json, save_gemma2_pair
from tests.support.sweeps import read_rows, steersweep, write_spec

LAYERS, COEFFS = [1, 3, 5], [20, 400]


@needs_dev_json
@pytest.mark.ray
@pytest.mark.slow
@pytest.mark.timeout(900)
def test_every_example_of_both_splits_is_scored_once_in_every_cell(
    ray_cluster: None, tmp_path: Path
) -> None:
    models = save_gemma2_pair(tmp_path)
    spec = write_spec(
        tmp_path / "sweep.yaml",
        models={name: {"path": str(path)} for name, path in models.items()},
        data={"path": str(DEV_JSON)},
        steering={"layers": LAYERS, "coeffs": COEFFS},
        compute={"replicas": 2},
    )
    finished = steersweep("run", str(spec))
    assert finished.code == 0, finished

    ids = {
        (e.split, e.bias_type, e.example_id): e.target for e in read_stereoset(DEV_JSON).examples
    }
    for table, num_cells in (("baseline", 1), ("steered", len(LAYERS) * len(COEFFS))):
        rows = read_rows(str(tmp_path / "out"), table)
        assert len(rows) == len(models) * len(ids) * num_cells == 2 * 4229 * num_cells
        assert not rows.duplicated(
            ["model", "split", "bias_type", "layer", "coeff", "example_id"]
        ).any()
        for (model, layer, coeff), cell in rows.groupby(["model", "layer", "coeff"], dropna=False):
            keys = zip(cell["split"], cell["bias_type"], cell["example_id"], strict=True)
            assert dict(zip(keys, cell["target"], strict=True)) == ids, (model, layer, coeff)
        assert rows[[c for c in rows if c.startswith("score_")]].notna().all(axis=None)

    cells = pd.read_parquet(tmp_path / "out" / "summary" / "cells.parquet")
    assert len(cells) == 2 * 8 * len(LAYERS) * len(COEFFS)
    for (split, bias_type), group in cells.groupby(["split", "bias_type"]):
        assert set(group["num_examples"]) == {OFFICIAL_COUNTS[split][bias_type]}
