"""A sweep whose vectors come from a file instead of a fit."""

from __future__ import annotations

import io
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file

from steering_core.exchange.formats import read_vectors, write_vectors
from tests.support.sweeps import Finished, read_rows, steersweep, write_spec

GROUP = {"splits": ["intersentence"], "bias_types": ["gender"]}
OPTIONS: dict[str, Any] = {
    "protocol": "aligned",
    "data": {"path": "embedded:examples.json", **GROUP},
    "steering": {"layers": [1, 4], "coeffs": [20]},
}
SCORES = ["score_stereotype", "score_anti_stereotype", "score_unrelated"]


def sweep(folder: Path, **changes: Any) -> Finished:
    folder.mkdir(exist_ok=True)
    return steersweep("run", str(write_spec(folder / "sweep.yaml", **{**OPTIONS, **changes})))


@pytest.fixture(scope="module")
def fitted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The vectors that a sweep of one group has fitted, in another tool's file."""
    folder = tmp_path_factory.mktemp("fitted")
    # Without held-out rows, which vectors of a file have not.
    assert sweep(folder, vectors={"folds": 1, "held_out": False}).code == 0
    (own,) = (folder / "out" / "vectors" / "tiny").rglob("*.safetensors")
    _, file = read_vectors(own.read_bytes(), str(own))
    data = write_vectors("persona_vectors", file, num_blocks=5).data
    (folder / "vectors.pt").write_bytes(data)
    return folder


def test_rows_are_those_of_the_sweep_that_fitted_them(fitted: Path, tmp_path: Path) -> None:
    done = sweep(tmp_path, vectors={"file": str(fitted / "vectors.pt")})
    assert done.code == 0, done
    assert "certificate: holds" in done.out
    one, other = (read_rows(str(folder / "out")) for folder in (fitted, tmp_path))
    assert list(one["example_id"]) == list(other["example_id"])
    assert one[SCORES].equals(other[SCORES])
    assert set(one["task_id"]) == set(other["task_id"])  # the same numbers, so the same tasks
    (kept,) = (tmp_path / "out" / "vectors" / "tiny").rglob("*.safetensors")
    _, file = read_vectors(kept.read_bytes(), "x")
    assert file.provenance["method"] == "file"
    assert file.provenance["file"] == str(fitted / "vectors.pt")
    assert file.provenance["file.imported_from"].startswith("persona_vectors")
    page = (tmp_path / "out" / "report.html").read_text()
    assert "vectors.pt, the same for every group" in page
    assert steersweep("verify", str(tmp_path / "out")).code == 0


def test_every_group_gets_the_same_vectors_and_nulls_have_their_norms(
    fitted: Path, tmp_path: Path
) -> None:
    data = {"path": "embedded:examples.json", "bias_types": ["gender", "race"]}
    nulls = ["random", "shuffled"]
    vectors = {"file": str(fitted / "vectors.pt")}
    assert sweep(tmp_path, vectors=vectors, data=data, nulls=nulls).code == 0
    given = torch.load(fitted / "vectors.pt", weights_only=True).numpy()
    paths = list((tmp_path / "out" / "vectors").rglob("*.safetensors"))
    assert len(paths) == 4 * 3
    for path in paths:
        tensors = load_file(path)
        assert set(tensors) == {"layer.1", "layer.4"}
        for layer in (1, 4):
            is_null = "null=" in str(path)
            vector = tensors[f"layer.{layer}"]
            assert np.array_equal(vector, given[layer]) is not is_null
            np.testing.assert_allclose(
                np.linalg.norm(vector), np.linalg.norm(given[layer]), rtol=1e-5
            )


def test_a_started_sweep_keeps_its_vectors(fitted: Path, tmp_path: Path) -> None:
    path = tmp_path / "mine.pt"
    path.write_bytes((fitted / "vectors.pt").read_bytes())
    assert sweep(tmp_path, vectors={"file": str(path)}).code == 0
    again = sweep(tmp_path, vectors={"file": str(path)}, steering={"layers": [1], "coeffs": [20]})
    assert "layers: 4 is gone" in again.err
    # The same vectors in another format are the same.
    _, file = read_vectors(path.read_bytes(), "x")
    (tmp_path / "mine.gguf").write_bytes(write_vectors("repeng", file).data)
    assert sweep(tmp_path, vectors={"file": str(tmp_path / "mine.gguf")}).code == 0
    changed = io.BytesIO()
    torch.save(2 * torch.load(path, weights_only=True), changed)
    path.write_bytes(changed.getvalue())
    for vectors in ({"file": str(path)}, {"folds": 1}):
        refused = sweep(tmp_path, vectors=vectors)
        assert refused.code == 2
        assert "vectors.file (content)" in refused.err
    refused = sweep(fitted, vectors={"file": str(path)})
    assert refused.code == 2
    assert "vectors.file (content)" in refused.err


def test_an_output_from_before_the_key_was_there_has_fitted_vectors(
    fitted: Path, tmp_path: Path
) -> None:
    shutil.copytree(fitted / "out", tmp_path / "out")
    path = tmp_path / "out" / "run.json"
    record = json.loads(path.read_text())
    del record["identity"]["vectors.file (content)"]
    path.write_text(json.dumps(record))
    refused = sweep(tmp_path, vectors={"file": str(fitted / "vectors.pt")})
    assert refused.code == 2
    assert "vectors.file (content): None -> " in refused.err
    assert sweep(tmp_path, vectors={"folds": 1}).code == 0


@pytest.mark.parametrize(
    ("vectors", "steering", "message"),
    [
        ({"file": "gone.pt"}, {}, "gone.pt: no such vector file"),
        ({"file": "{it}", "method": "pca"}, {}, "must not set method or folds together"),
        ({"file": "{it}", "folds": 2}, {}, "must not set method or folds together"),
        ({"file": "{it}"}, {"layers": [2], "coeffs": [1]}, "has no vector of layer 2; it has 1, 4"),
        ({"file": "{it}", "read": "mlp_out"}, {}, "read at blocks.0.resid_post, but vectors.read"),
        ({"file": "{wide}"}, {}, "have width 3, but models.tiny"),
    ],
)
def test_a_file_that_does_not_fit_is_one_line_and_nothing_is_written(
    fitted: Path, tmp_path: Path, vectors: dict[str, Any], steering: Any, message: str
) -> None:
    wide = tmp_path / "wide.pt"
    torch.save(torch.ones(6, 3), wide)
    told = {k: str(v).format(it=fitted / "vectors.pt", wide=wide) for k, v in vectors.items()}
    told |= {"folds": vectors["folds"]} if "folds" in vectors else {}
    changes = {"steering": steering} if steering else {}
    refused = sweep(tmp_path, vectors=told, **changes)
    assert refused.code == 2
    assert message in refused.err
    assert not (tmp_path / "out").exists()
