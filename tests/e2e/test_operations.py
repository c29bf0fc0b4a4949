"""Operations and positions through the whole path: certified, verified, told apart."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from jobs.resources import local_path
from steering_core.models import ModelSource, load_tokenizer
from tests.support.sweeps import read_rows, steersweep, write_spec
from tests.support.tiny_models import save_model

SCORES = ["score_stereotype", "score_anti_stereotype", "score_unrelated"]
STEERED = {
    "add": {"coeffs": [5]},
    "question": {"coeffs": [5], "positions": "question"},
    "candidate": {"coeffs": [5], "positions": "candidate"},
    "last": {"coeffs": [5], "positions": "last"},
    "attn_out": {"coeffs": [0.5], "operation": "project_out", "apply": "attn_out"},
    "mlp_out": {"coeffs": [0.5], "operation": "project_out", "apply": "mlp_out"},
    "project_out": {"coeffs": [1], "operation": "project_out"},
    "cap_below": {"coeffs": [1], "operation": "cap_below"},
    "cap_above": {"coeffs": [-1], "operation": "cap_above", "positions": "candidate"},
}


def _spec(folder: Path, steering: dict[str, Any]) -> Path:
    return write_spec(
        folder / "sweep.yaml",
        protocol="aligned",
        data={
            "path": "embedded:examples.json",
            "splits": ["intersentence"],
            "bias_types": ["gender", "race"],
        },
        vectors={"folds": 2},
        steering={"layers": [1, 4], **steering},
        compute={"executor": "in_process"},
    )


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The same small sweep, steered in several ways."""
    outputs = {}
    for name, steering in STEERED.items():
        folder = tmp_path_factory.mktemp(name)
        finished = steersweep("run", str(_spec(folder, steering)))
        assert finished.code == 0, finished
        # The slow path, one candidate at a time, gave the same.
        assert "certificate: holds" in finished.out
        outputs[name] = folder / "out"
    return outputs


def test_each_way_of_steering_gives_scores_of_its_own(runs: dict[str, Path]) -> None:
    scores = {}
    for name, output in runs.items():
        rows = read_rows(str(output), "steered").sort_values(["split", "example_id", "layer"])
        scores[name] = rows[SCORES].to_numpy()
    names = list(scores)
    for index, name in enumerate(names):
        for other in names[index + 1 :]:
            assert np.abs(scores[name] - scores[other]).max() > 1e-3, (name, other)


@pytest.mark.parametrize("name", ["question", "cap_below"])
def test_a_finished_output_is_verified(runs: dict[str, Path], name: str) -> None:
    verified = steersweep("verify", str(runs[name]))
    assert verified.code == 0, verified


@pytest.mark.parametrize(
    ("change", "key"),
    [
        ({"coeffs": [5], "operation": "project_out"}, "steering.operation"),
        ({"coeffs": [5], "positions": "last"}, "steering.positions"),
    ],
)
def test_another_way_on_a_started_output_is_refused(
    runs: dict[str, Path], change: dict[str, Any], key: str
) -> None:
    refused = steersweep("run", str(_spec(runs["add"].parent, change)))
    assert refused.code == 2
    assert key in refused.err


def test_an_unknown_operation_is_one_line(tmp_path: Path) -> None:
    refused = steersweep("run", str(_spec(tmp_path, {"coeffs": [5], "operation": "subtract"})))
    assert refused.code == 2
    assert "steering.operation" in refused.err
    assert "subtract" in refused.err
    assert "Traceback" not in refused.err
    assert not (tmp_path / "out").exists()


def test_a_site_that_the_model_lacks_is_one_line(tmp_path: Path) -> None:
    tokenizer = load_tokenizer(ModelSource(local_path("embedded:gemma2-tiny")))
    save_model(tmp_path / "opt", "opt", tokenizer)
    path = _spec(tmp_path, {"layers": [1], "coeffs": [1], "apply": "attn_out"})
    refused = steersweep("run", str(path), "--set", f"models.tiny.path={tmp_path / 'opt'}")
    assert refused.code == 2, refused
    assert "blocks.0.attn_out" in refused.err
    assert "choose resid_pre or resid_post" in refused.err
    assert refused.err.strip().count("\n") == 0
