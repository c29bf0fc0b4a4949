"""Secrets stay secret, code stays unrun, files stay inside the output."""

from __future__ import annotations

import json
import os
import pickle
import shutil
import stat
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from cluster.ledger import Ledger
from cluster.storage import StorageSpec
from jobs.resources import local_path
from jobs.scoring.fit_task import FitPayload
from jobs.scoring.manifest import to_table
from jobs.scoring.plan import PlannedTask
from jobs.scoring.set_scorer import Payload
from jobs.scoring.worker import ScoredWorker
from jobs.stereoset.groups import group_of
from tests.support.sweeps import steersweep, write_spec

PLANTED = (
    "planted-aws-secret",
    "hf_plantedplantedplanted",
    "plantedc0ffee",
    "AKIAPLANTED000000000",
)


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The output of a finished run, to be copied."""
    folder = tmp_path_factory.mktemp("finished")
    assert steersweep("run", str(write_spec(folder / "sweep.yaml"))).code == 0
    return folder / "out"


def copied(finished: Path, folder: Path) -> tuple[Path, Path]:
    """A copy of the output in this folder, and a spec that names it."""
    shutil.copytree(finished, folder / "out")
    return folder / "out", write_spec(folder / "sweep.yaml")


def plant(monkeypatch: pytest.MonkeyPatch) -> str:
    """Put secrets where a user has them; a text that quotes all of them."""
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", PLANTED[0])
    monkeypatch.setenv("HF_TOKEN", PLANTED[1])
    return (
        f"{PLANTED[0]} was refused for token {PLANTED[1]} at "
        f"https://host/k?X-Amz-Credential={PLANTED[3]}%2Fx&X-Amz-Signature={PLANTED[2]}"
    )


def assert_hidden(where: str, text: str) -> None:
    for secret in PLANTED:
        assert secret not in text, f"{secret} is in {where}"


@pytest.mark.parametrize("bias_types", [["race"], ["gender", "race"]], ids=["stopped", "set aside"])
def test_planted_secrets_are_nowhere(
    bias_types: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = plant(monkeypatch)
    run = ScoredWorker.run

    def quoting(self: ScoredWorker, payload: Payload | FitPayload) -> Any:
        if isinstance(payload, Payload) and payload.examples[0].bias_type == "race":
            raise RuntimeError(text)
        return run(self, payload)

    monkeypatch.setattr(ScoredWorker, "run", quoting)
    spec = write_spec(
        tmp_path / "sweep.yaml",
        data={"path": "embedded:examples.json", "bias_types": bias_types},
        compute={"executor": "in_process", "examples_per_task": 1},
    )
    finished = steersweep("run", str(spec))
    assert finished.code == 1, finished
    assert "was refused for token" in finished.err
    for command in ("status", "report"):
        shown = steersweep(command, str(tmp_path / "out"))
        assert_hidden(command, shown.out + shown.err)
    assert_hidden("the terminal", finished.out + finished.err)
    files = [file for file in (tmp_path / "out").rglob("*") if file.is_file()]
    assert {"run.json", "log"} <= {f.relative_to(tmp_path / "out").parts[0] for f in files}
    for file in files:
        assert_hidden(str(file), file.read_bytes().decode(errors="replace"))
    assert "was refused for token" in (tmp_path / "out" / "run.json").read_text()


def test_the_traceback_of_a_bug_is_shown_without_secrets(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = plant(monkeypatch)

    def bug(*_: object) -> None:
        raise LookupError(text)

    monkeypatch.setattr("jobs.stereoset.job.resolve", bug)
    finished = steersweep("run", str(write_spec(tmp_path / "sweep.yaml")))
    assert finished.code == 1
    assert "Traceback" in finished.err
    assert "LookupError" in finished.err
    assert_hidden("the traceback", finished.out + finished.err)


def test_code_of_a_model_runs_only_where_that_is_asked_by_name(tmp_path: Path) -> None:
    marker, model = tmp_path / "ran", tmp_path / "model"
    shutil.copytree(local_path("embedded:gemma2-tiny"), model)
    config = json.loads((model / "config.json").read_text())
    config["auto_map"] = {"AutoConfig": "mine.MyConfig", "AutoModelForCausalLM": "mine.MyModel"}
    config["model_type"] = "mine"
    (model / "config.json").write_text(json.dumps(config))
    (model / "mine.py").write_text(f"open({str(marker)!r}, 'w').close()\n")
    spec = write_spec(tmp_path / "sweep.yaml", models={"tiny": {"path": str(model)}})
    finished = steersweep("run", str(spec))
    assert finished.code == 2, finished
    assert finished.err.count("\n") == 1
    assert not marker.exists()


class Bomb:
    """Touches a file when it is unpickled."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple[Any, tuple[str]]:
        return os.mkdir, (str(self.marker),)


@pytest.mark.parametrize(
    "key", ["run.json", "driver.lock", "manifest/0000.parquet", "vectors", "part"]
)
def test_nothing_in_an_output_is_unpickled(key: str, finished: Path, tmp_path: Path) -> None:
    marker = tmp_path / "ran"
    output, spec = copied(finished, tmp_path)
    found = {"vectors": "vectors/**/*.safetensors", "part": "steered/**/*.parquet"}
    file = next(output.glob(found[key])) if key in found else output / key
    file.write_bytes(pickle.dumps(Bomb(marker)))
    for command in (("run", str(spec)), ("status", str(output)), ("report", str(output))):
        done = steersweep(*command)
        assert "Traceback" not in done.err, done.err
    assert not marker.exists()


def test_pickled_weights_are_not_loaded(tmp_path: Path) -> None:
    marker, model = tmp_path / "ran", tmp_path / "model"
    shutil.copytree(local_path("embedded:gemma2-tiny"), model)
    (model / "model.safetensors").unlink()
    (model / "pytorch_model.bin").write_bytes(pickle.dumps(Bomb(marker)))
    spec = write_spec(tmp_path / "sweep.yaml", models={"tiny": {"path": str(model)}})
    finished = steersweep("run", str(spec))
    assert (finished.code, finished.err.count("\n")) == (2, 1), finished
    assert "safetensors" in finished.err
    assert not marker.exists()


@pytest.mark.parametrize("name", ["../../elsewhere", "/etc", "a/b", "", "x\x00y"])
def test_names_in_a_manifest_cannot_lead_out_of_the_output(
    name: str, finished: Path, tmp_path: Path
) -> None:
    output, spec = copied(finished, tmp_path)
    for model, plan_id in ((name, "p"), ("tiny", name)):
        shutil.rmtree(output / "manifest")
        group = group_of(model, "intersentence", "race")
        task = PlannedTask(plan_id, group, ("steered",), 0, ("e",), (), ((1, "2"),), 1.0, 100)
        Ledger(StorageSpec(str(output)).open()).append_manifest(to_table([task]), 0, "a")
        before = sorted(tmp_path.rglob("*"))
        for command in (("run", str(spec)), ("status", str(output)), ("report", str(output))):
            refused = steersweep(*command)
            assert refused.code == 2, refused
            assert "manifest" in refused.err
            assert refused.err.count("\n") == 1
        assert sorted(tmp_path.rglob("*")) == before


def test_a_manifest_of_something_else_is_one_line(tmp_path: Path) -> None:
    ledger = Ledger(StorageSpec(str(tmp_path / "out")).open())
    ledger.append_manifest(pa.table({"x": [1]}), 0, "a")
    for command in (
        ("run", str(write_spec(tmp_path / "sweep.yaml"))),
        ("status", str(tmp_path / "out")),
    ):
        finished = steersweep(*command)
        assert (finished.code, finished.err.count("\n")) == (2, 1), finished
        assert "manifest" in finished.err


def test_ids_in_the_data_do_not_become_names_of_files(tmp_path: Path) -> None:
    examples = json.loads(Path(local_path("embedded:examples.json")).read_text())
    for split in examples["data"].values():
        for number, example in enumerate(split):
            example["id"] = f"../../../{number}/{example['id']}"
            example["target"] = "../../target"
    (tmp_path / "dev.json").write_text(json.dumps(examples))
    (tmp_path / "in").mkdir()
    spec = write_spec(tmp_path / "in" / "sweep.yaml", data={"path": str(tmp_path / "dev.json")})
    before = set(tmp_path.rglob("*"))
    assert steersweep("run", str(spec)).code == 0
    out = tmp_path / "in" / "out"
    assert all(out in (file, *file.parents) for file in set(tmp_path.rglob("*")) - before)
    assert not any("target" in file.name for file in out.rglob("*"))


def test_nobody_else_may_write_what_a_run_leaves(tmp_path: Path) -> None:
    old = os.umask(0)
    try:
        assert steersweep("run", str(write_spec(tmp_path / "sweep.yaml"))).code == 0
    finally:
        os.umask(old)
    for path in (tmp_path / "out", *(tmp_path / "out").rglob("*")):
        assert not path.stat().st_mode & stat.S_IWOTH, path
