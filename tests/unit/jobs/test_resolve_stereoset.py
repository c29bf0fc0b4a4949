"""What resolving a StereoSet spec decides and refuses; no weights are loaded."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cluster.storage import StorageSpec
from jobs.resources import local_path
from jobs.scoring import resolve as resolve_module
from jobs.scoring.output import with_held_out
from jobs.spec import load_spec
from jobs.stereoset.output import StereoSetOutput
from jobs.stereoset.resolve import Sweep, recorded_identity, resolve
from jobs.stereoset.spec import StereoSetSpec
from steering_core.vectors import SteeringVectors, assign_folds, to_safetensors
from steersweep.errors import UserError
from tests.support.sweeps import write_spec

GROUP = ("intersentence", "race")
DATA = {"path": "embedded:examples.json", "splits": ["intersentence"], "bias_types": ["race"]}


def sweep_of(folder: Path, device: str | None = "cpu", **changes: Any) -> Sweep:
    spec = write_spec(folder / "sweep.yaml", **{"data": DATA, **changes})
    return resolve(load_spec(StereoSetSpec, str(spec)), device)


def steering(layers: Any) -> dict[str, Any]:
    return {"layers": layers, "coeffs": [-3, 400]}


def test_a_layer_that_the_model_lacks_is_refused_by_name(tmp_path: Path) -> None:
    num_blocks = sweep_of(tmp_path).models["tiny"].facts.num_blocks
    sweep_of(tmp_path, steering=steering([1, num_blocks]))
    with pytest.raises(UserError, match=rf"models\.tiny .*{num_blocks + 1}"):
        sweep_of(tmp_path, steering=steering([1, num_blocks + 1]))


def test_all_layers_are_those_of_the_model(tmp_path: Path) -> None:
    found = sweep_of(tmp_path, steering=steering("all"))
    num_blocks = found.models["tiny"].facts.num_blocks
    assert found.spec.steering.layers == tuple(range(1, num_blocks + 1))
    assert found.resolved_spec()["steering"]["layers"] == list(range(1, num_blocks + 1))


def test_layers_of_nulls_must_be_of_the_grid_once_all_is_numbers(tmp_path: Path) -> None:
    num_blocks = sweep_of(tmp_path).models["tiny"].facts.num_blocks
    nulls: dict[str, Any] = {"random": 1, "layers": [num_blocks]}
    found = sweep_of(tmp_path, steering=steering("all"), nulls=nulls)
    assert found.spec.nulls.layers == (num_blocks,)
    nulls["layers"] = [num_blocks + 1]
    with pytest.raises(UserError, match=rf"layers.*{num_blocks + 1}"):
        sweep_of(tmp_path, steering=steering("all"), nulls=nulls)


def test_a_group_without_examples_is_refused_with_what_there_is(tmp_path: Path) -> None:
    document = Path(local_path("embedded:examples.json")).read_text()
    (tmp_path / "dev.json").write_text(document.replace('"religion"', '"race"'))
    data = {**DATA, "path": str(tmp_path / "dev.json"), "bias_types": ["religion"]}
    with pytest.raises(UserError, match="no religion example in intersentence; it holds"):
        sweep_of(tmp_path, data=data)


def test_the_device_is_the_callers_or_this_machines(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert sweep_of(tmp_path, "cuda").device == "cuda"
    assert sweep_of(tmp_path, "cuda").models["tiny"].dtype == "bfloat16"
    monkeypatch.setattr(resolve_module, "device_kind", lambda asked: f"kind of {asked}")
    monkeypatch.setattr(resolve_module.torch, "device", lambda _: "cpu")
    monkeypatch.setattr(resolve_module, "resolve_dtype", lambda *_: "torch.float32")
    assert sweep_of(tmp_path, None).device == "kind of auto"


def test_a_model_of_the_hub_is_pinned_to_its_commit_and_a_folder_is_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    here = sweep_of(tmp_path)
    assert here.resolved_spec()["models"]["tiny"]["revision"] is None
    source = here.models["tiny"].source
    facts = replace(here.models["tiny"].facts, commit="c0ffee")
    tokenizer = resolve_module.load_tokenizer(source)
    monkeypatch.setattr(resolve_module, "load_tokenizer", lambda _: tokenizer)
    monkeypatch.setattr(resolve_module, "read_facts", lambda *_: facts)
    models = {"tiny": {"path": "someone/tiny", "revision": "main"}}
    hub = sweep_of(tmp_path, models=models)
    assert hub.models["tiny"].source.revision == "c0ffee"
    assert hub.resolved_spec()["models"]["tiny"]["revision"] == "c0ffee"


def test_held_out_folds_are_those_that_five_folds_would_have(tmp_path: Path) -> None:
    found = sweep_of(tmp_path)
    examples, folds = found.groups[GROUP]
    assert set(folds) == {0}
    wanted = assign_folds([e.target for e in examples], 5, found.spec.data.seed, "/".join(GROUP))
    assert found.held_out_folds == {GROUP: wanted}
    assert found.num_folds(GROUP) == 1
    assert found.num_folds(GROUP, held_out=True) == max(wanted) + 1
    assert found.main_vectors == "in_sample"


def test_cross_fitted_vectors_and_those_of_a_file_have_no_held_out_ones_beside_them(
    tmp_path: Path,
) -> None:
    crossed = sweep_of(tmp_path, vectors={"folds": 3})
    assert (crossed.held_out_folds, crossed.main_vectors) == ({}, "held_out")
    whole = {n: np.ones(64, np.float32) for n in (1, 4)}
    file = tmp_path / "v.safetensors"
    file.write_bytes(to_safetensors(SteeringVectors(whole, {}), {}))
    given = sweep_of(tmp_path, vectors={"file": str(file)})
    assert (given.held_out_folds, given.main_vectors) == ({}, "file")


def test_a_group_of_one_target_term_has_no_held_out_vectors(tmp_path: Path) -> None:
    document = json.loads(Path(local_path("embedded:examples.json")).read_text())
    for example in document["data"]["intersentence"]:
        if example["bias_type"] == "race":
            example["target"] = "the same"
    (tmp_path / "dev.json").write_text(json.dumps(document))
    data = {**DATA, "path": str(tmp_path / "dev.json"), "bias_types": ["race", "gender"]}
    found = replace(sweep_of(tmp_path, data=data), has_held_out=True)
    assert [*found.held_out_folds] == [("intersentence", "gender")]
    assert not found.holds_out(GROUP)
    assert found.without_held_out == ["intersentence/race"]


def test_the_output_decides_about_held_out_rows_if_the_spec_does_not(tmp_path: Path) -> None:
    output = StereoSetOutput.read(StorageSpec(str(tmp_path / "out")).open())
    found = sweep_of(tmp_path)
    assert with_held_out(found, output).has_held_out, "a new output has them"
    begun = replace(output, record={"spec": {"vectors": {}}})
    assert not with_held_out(found, begun).has_held_out, "one of an earlier version goes on"
    recorded = replace(output, record={"spec": {"vectors": {"held_out": True}}})
    assert with_held_out(found, recorded).has_held_out
    without = sweep_of(tmp_path, vectors={"held_out": False})
    assert not with_held_out(without, recorded).has_held_out


def test_vectors_of_a_file_must_be_of_the_site_that_the_spec_reads(tmp_path: Path) -> None:
    whole = {n: np.ones(64, np.float32) for n in (1, 4)}
    file = tmp_path / "v.safetensors"
    point = sweep_of(tmp_path).protocol.read_at(4)
    for said, is_right in ((str(point), True), ("blocks.2.resid_pre", False)):
        file.write_bytes(to_safetensors(SteeringVectors(whole, {}), {"read.layer.4": said}))
        if is_right:
            assert sweep_of(tmp_path, vectors={"file": str(file)}).vectors is not None
        else:
            with pytest.raises(UserError, match=r"vectors\.file: layer 4 .* was read at"):
                sweep_of(tmp_path, vectors={"file": str(file)})


def test_the_identity_has_every_key_that_decides_numbers_and_none_of_the_grid(
    tmp_path: Path,
) -> None:
    found = sweep_of(tmp_path).identity()
    assert set(found) == {
        "job",
        "data (content)",
        "data.limit",
        "data.seed",
        "vectors.method",
        "vectors.file (content)",
        "vectors.pooling",
        "vectors.read",
        "vectors.folds",
        "steering.apply",
        "steering.positions",
        "steering.operation",
        "steering.unit",
        "scoring",
        "measures",
        "models.tiny (weights)",
        "models.tiny (tokenizer)",
        "models.tiny.dtype",
        "models.tiny.trust_remote_code",
    }
    grown = sweep_of(tmp_path, steering={"layers": [2], "coeffs": [1]}, nulls={"random": 2})
    assert grown.identity() == found
    assert sweep_of(tmp_path, data={**DATA, "seed": 3}).identity() != found


def test_a_record_of_an_earlier_version_means_what_was_the_only_way_then(tmp_path: Path) -> None:
    later = (
        "vectors.method",
        "steering.operation",
        "steering.unit",
        "measures",
        "vectors.file (content)",
    )
    now = sweep_of(tmp_path).identity()
    before = {key: value for key, value in now.items() if key not in later}
    assert recorded_identity({"identity": before}) == now
    assert recorded_identity({"identity": {**before, "measures": ["kl"]}})["measures"] == ["kl"]
