"""At most so many folds: small groups run, groups with enough terms keep their folds and ids."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cluster.storage import StorageSpec
from jobs.scoring.plan import packing_for, plan_missing
from jobs.spec import load_spec
from jobs.stereoset.resolve import resolve
from jobs.stereoset.spec import StereoSetSpec
from steering_core.vectors import from_safetensors, safetensors_metadata
from tests.support.stereoset_data import DEV_JSON, needs_dev_json
from tests.support.sweeps import steersweep, write_spec


def digest_of_ids(spec: Path) -> str:
    """One digest of the ids of every task that a new output of the spec would hold."""
    sweep = resolve(load_spec(StereoSetSpec, str(spec)))
    ids = sorted(task.plan_id for task in plan_missing(sweep, (), packing_for(sweep)))
    return hashlib.sha256("".join(ids).encode()).hexdigest()[:16]


@pytest.mark.parametrize(
    ("changes", "wanted"),
    [
        ({"vectors": {"folds": 2}}, "ab9ec2ef80ed0895"),
        pytest.param(
            {"data": {"path": str(DEV_JSON), "bias_types": ["gender", "profession", "race"]}},
            "89037489ec0cd1a6",
            marks=needs_dev_json,
        ),
    ],
    ids=["two folds of two terms", "five folds of the official file"],
)
def test_task_ids_of_groups_with_enough_terms_are_those_of_earlier_versions(
    changes: dict[str, Any], wanted: str, tmp_path: Path
) -> None:
    """The digests were taken before folds were capped by the number of terms."""
    spec = write_spec(tmp_path / "s.yaml", **{"protocol": "aligned"} | changes)
    assert digest_of_ids(spec) == wanted


@needs_dev_json
def test_quick_look_runs_on_the_official_file(tmp_path: Path) -> None:
    """Its religion has three target terms, and `protocol: aligned` asks for five folds."""
    output = tmp_path / "out"
    finished = steersweep(
        *("run", "quick-look", "--output", str(output)),
        *("--set", "models.base.path=embedded:gemma2-tiny"),
        *("--set", f"data.path={DEV_JSON}", "--set", "data.limit=4"),
        *("--set", "steering.layers=[1,2]", "--set", "compute.executor=in_process"),
        *("--set", "compute.tokens_per_batch=1024"),
    )
    assert finished.code == 0, finished

    record = json.loads((output / "run.json").read_text())
    assert record["folds"]["intersentence/religion"] == 3
    assert record["folds"]["intersentence/gender"] == 4
    assert record["identity"]["vectors.folds"] == record["spec"]["vectors"]["folds"] == 5
    page = (output / "report.html").read_text()
    assert "cross-fitted in 5 folds by target term (one for each term where there are fewer" in page
    assert "3 in intersentence/religion" in page
    storage = StorageSpec(str(output)).open()
    data = storage.read("vectors/base/intersentence/religion.safetensors")
    assert safetensors_metadata(data)["folds"] == "3"
    for whole, folds in (
        (vectors.whole[layer], vectors.folds[layer])
        for vectors in [from_safetensors(data, "religion")]
        for layer in (1, 2)
    ):
        assert len(folds) == 3
        assert not any(np.array_equal(whole, fold) for fold in folds)
    assert steersweep("verify", str(output)).code == 0


def test_a_group_of_a_single_term_is_refused_with_several_folds(tmp_path: Path) -> None:
    spec = write_spec(
        tmp_path / "s.yaml",
        protocol="aligned",
        data={"path": "embedded:examples.json", "limit": 1, "bias_types": ["race"]},
    )
    refused = steersweep("run", str(spec))
    assert refused.code == 2
    assert "every example of intersentence/race has the target term" in refused.err
    assert "set vectors.folds to 1" in refused.err
    assert refused.err.count("\n") == 1
    assert not (tmp_path / "out").exists()
    assert steersweep("plan", str(spec), "--set", "vectors.folds=1", "--seconds", "0").code == 0
