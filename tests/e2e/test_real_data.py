"""The development set through the whole path: every row exactly once."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest

from steering_core.stereoset import OFFICIAL_COUNTS, read_stereoset
from tests.support.stereoset_data import DEV_JSON, needs_dev_json, save_gemma2_pair
from tests.support.sweeps import read_rows, steersweep, write_spec

LAYERS, COEFFS = [1, 3, 5], [20, 400]
# The whole file takes minutes; five of each group are sampled from all of it.
WHOLE_ON_RAY = (pytest.mark.ray, pytest.mark.nightly, pytest.mark.timeout(900))


@needs_dev_json
@pytest.mark.parametrize(
    ("executor", "limit"),
    [("in_process", 5), pytest.param("ray", None, marks=WHOLE_ON_RAY)],
)
def test_every_example_of_both_splits_is_scored_once_in_every_cell(
    executor: str, limit: int | None, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    if executor == "ray":
        request.getfixturevalue("ray_cluster")
    models = save_gemma2_pair(tmp_path)
    spec = write_spec(
        tmp_path / "sweep.yaml",
        models={name: {"path": str(path)} for name, path in models.items()},
        data={"path": str(DEV_JSON), "limit": limit},
        steering={"layers": LAYERS, "coeffs": COEFFS},
        compute={"executor": executor, "replicas": 2 if executor == "ray" else 1},
    )
    finished = steersweep("run", str(spec))
    assert finished.code == 0, finished

    dataset = read_stereoset(DEV_JSON)
    num_wanted = {
        (split, bias_type): min(limit or num, num)
        for split, counts in OFFICIAL_COUNTS.items()
        for bias_type, num in counts.items()
    }
    ids = {
        (e.split, e.bias_type, e.example_id): e.target
        for split, bias_type in num_wanted
        for e in dataset.group(split, bias_type, limit)
    }
    assert len(ids) == sum(num_wanted.values()) == (8 * limit if limit else 4229)
    for table, num_cells in (("baseline", 1), ("steered", len(LAYERS) * len(COEFFS))):
        rows = read_rows(str(tmp_path / "out"), table)
        assert len(rows) == len(models) * len(ids) * num_cells
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
        assert set(group["num_examples"]) == {num_wanted[split, bias_type]}
