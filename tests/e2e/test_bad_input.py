"""Whatever is wrong with an input: one clear line, exit code 2, nothing written."""

from __future__ import annotations

import json
import shutil
import socket
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import yaml

from jobs.resources import local_path
from tests.support.sweeps import Finished, steersweep, write_spec

Change = Callable[[dict[str, Any], Path], None]


@dataclass(frozen=True)
class Case:
    """What is done to a good spec (or its files), and what the message must say."""

    name: str
    change: Change
    says: tuple[str, ...]
    options: tuple[str, ...] = field(default=())


def _set(path: str, value: Any) -> Change:
    def change(document: dict[str, Any], _folder: Path) -> None:
        node = document
        *parents, last = path.split(".")
        for parent in parents:
            node = node.setdefault(parent, {})
        node[last] = value

    return change


def _data(edit: Callable[[dict[str, Any]], None]) -> Change:
    """The embedded examples with an edit, as the spec's data file."""

    def change(document: dict[str, Any], folder: Path) -> None:
        examples = json.loads(Path(local_path("embedded:examples.json")).read_text())
        edit(examples)
        (folder / "dev.json").write_text(json.dumps(examples))
        document["data"] = {"path": str(folder / "dev.json")}

    return change


def _data_text(text: Callable[[str], str]) -> Change:
    def change(document: dict[str, Any], folder: Path) -> None:
        whole = Path(local_path("embedded:examples.json")).read_text()
        (folder / "dev.json").write_text(text(whole))
        document["data"] = {"path": str(folder / "dev.json")}

    return change


def _model(edit: Callable[[Path], None]) -> Change:
    """A copy of the embedded model with an edit, as the spec's model."""

    def change(document: dict[str, Any], folder: Path) -> None:
        copy = folder / "model"
        shutil.copytree(local_path("embedded:gemma2-tiny"), copy)
        edit(copy)
        document["models"] = {"tiny": {"path": str(copy)}}

    return change


def _first(split: str) -> Callable[[dict[str, Any]], dict[str, Any]]:
    return lambda document: document["data"][split][0]


def _remove_token(name: str) -> Callable[[Path], None]:
    def edit(folder: Path) -> None:
        for file in ("tokenizer_config.json", "special_tokens_map.json"):
            content = json.loads((folder / file).read_text())
            content.pop(f"{name}_token", None)
            (folder / file).write_text(json.dumps(content))

    return edit


def _remove(pattern: str) -> Callable[[Path], None]:
    def edit(folder: Path) -> None:
        for file in folder.glob(pattern):
            file.unlink()

    return edit


def _truncate(name: str) -> Callable[[Path], None]:
    def edit(folder: Path) -> None:
        content = (folder / name).read_bytes()
        (folder / name).write_bytes(content[: len(content) // 2])

    return edit


def _shorten_context(folder: Path) -> None:
    config = json.loads((folder / "config.json").read_text())
    config["max_position_embeddings"] = 16
    (folder / "config.json").write_text(json.dumps(config))


def _edit_first(**changes: Any) -> Change:
    return _data(lambda d: _first("intersentence")(d).update(changes))


def _two_stereotypes(document: dict[str, Any]) -> None:
    for sentence in _first("intersentence")(document)["sentences"][:2]:
        sentence["gold_label"] = "stereotype"


def _four_sentences(document: dict[str, Any]) -> None:
    sentences = _first("intrasentence")(document)["sentences"]
    sentences.append(dict(sentences[0]))


def _empty_candidate(document: dict[str, Any]) -> None:
    _first("intersentence")(document)["sentences"][1]["sentence"] = "  "


def _same_id_twice(document: dict[str, Any]) -> None:
    rows = document["data"]["intersentence"]
    rows[1]["id"] = rows[0]["id"]


def _no_target(document: dict[str, Any]) -> None:
    del _first("intersentence")(document)["target"]


def _closed_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


def _unreachable_bucket(document: dict[str, Any], _folder: Path) -> None:
    document["output"] = "s3://some-bucket/run"
    document["storage"] = {"endpoint_url": f"http://127.0.0.1:{_closed_port()}"}


def _foreign_files(document: dict[str, Any], _folder: Path) -> None:
    Path(document["output"]).mkdir()
    (Path(document["output"]) / "thesis.tex").write_text("mine")


def _output_is_a_file(document: dict[str, Any], _folder: Path) -> None:
    Path(document["output"]).write_text("mine")


def _record(content: str) -> Change:
    def change(document: dict[str, Any], _folder: Path) -> None:
        Path(document["output"]).mkdir()
        (Path(document["output"]) / "run.json").write_text(content)

    return change


def _nothing(_document: dict[str, Any], _folder: Path) -> None:
    pass


CASES = [
    Case("layer too high", _set("steering.layers", [1, 40]), ("1..6", "tiny", "40")),
    Case("layer 0", _set("steering.layers", [0]), ("1..6", "got 0")),
    Case("layer is a fraction", _set("steering.layers", [1.5]), ("steering.layers.0", "1.5")),
    Case("layer is true", _set("steering.layers", [True]), ("steering.layers.0", "True")),
    Case("no layers", _set("steering.layers", []), ("steering.layers", "at least 1")),
    Case("layer twice", _set("steering.layers", [2, 2]), ("2 stands twice",)),
    Case("coefficient twice", _set("steering.coeffs", [1, 1.0]), ("1 stands twice",)),
    Case("coefficient NaN", _set("steering.coeffs", [float("nan")]), ("steering.coeffs", "finite")),
    Case("coefficient is text", _set("steering.coeffs", ["much"]), ("steering.coeffs", "much")),
    Case("coefficient is huge", _set("steering.coeffs", ["1e99"]), ("steering.coeffs", "1e30")),
    Case("unknown bias type", _set("data.bias_types", ["gendr"]), ("gendr", "profession")),
    Case("unknown split", _set("data.splits", ["inter"]), ("inter", "intersentence")),
    Case("unknown key", _set("stering", {}), ("stering", "did you mean steering?")),
    Case("unknown nested key", _set("steering.layer", [1]), ("steering.layer", "mean layers?")),
    Case("unknown key of a model", _set("models.tiny.revison", "a"), ("mean revision?",)),
    Case("unknown job", _set("job", "stereotypes"), ("job", "stereoset")),
    Case("unknown protocol", _set("protocol", "published"), ("as_published", "aligned")),
    Case("unknown dtype", _set("models.tiny.dtype", "float8"), ("dtype", "bfloat16")),
    Case("no models", _set("models", {}), ("models", "at least 1")),
    Case("model name with a slash", _set("models", {"a/b": {"path": "x"}}), ("a/b", "letters")),
    Case("limit 0", _set("data.limit", 0), ("data.limit", "1")),
    Case("replicas 0", _set("compute.replicas", 0), ("compute.replicas", "1")),
    Case("no CUDA here", _set("compute.device", "mps"), ("mps", "cpu")),
    Case("more folds than terms", _set("vectors.folds", 5), ("vectors.folds", "target terms")),
    Case("value missing", _set("output", None), ("output",)),
    Case("unknown output scheme", _set("output", "gs://bucket/x"), ("gs://", "s3://")),
    Case("no bucket named", _set("output", "s3://"), ("s3://bucket/prefix",)),
    Case("embedded name unknown", _set("data.path", "embedded:dev.json"), ("examples.json",)),
    Case("no data file", _set("data.path", "nowhere/dev.json"), ("nowhere", "data fetch")),
    Case("data truncated", _data_text(lambda t: t[: len(t) // 2]), ("not valid JSON", "truncated")),
    Case("data empty", _data_text(lambda _: ""), ("not valid JSON",)),
    Case("data is a list", _data_text(lambda _: "[]"), ("'data'",)),
    Case("data nested", _data_text(lambda _: "[" * 100_000), ("dev.json",)),
    Case("two stereotypes", _data(_two_stereotypes), ("intersentence[0]", "once each")),
    Case("four sentences", _data(_four_sentences), ("exactly 3 sentences, got 4",)),
    Case("empty candidate", _data(_empty_candidate), ("sentence 1", "empty")),
    Case("no target", _data(_no_target), ("target is missing",)),
    Case("an id twice", _data(_same_id_twice), ("occurs twice",)),
    Case("bias type of an example", _edit_first(bias_type="age"), ("'age'", "gender")),
    Case("context is a number", _edit_first(context=3), ("context must be text, got int",)),
    Case("no such model", _set("models.tiny.path", "nowhere/model"), ("models.tiny", "nowhere")),
    Case("no tokenizer", _model(_remove("*token*")), ("tokenizer",)),
    Case("no weights", _model(_remove("*.safetensors")), ("safetensors",)),
    Case("weights truncated", _model(_truncate("model.safetensors")), ("model.safetensors",)),
    Case("no config", _model(_remove("config.json")), ("config.json",)),
    Case("config truncated", _model(_truncate("config.json")), ("models.tiny",)),
    Case("tokenizer without BOS", _model(_remove_token("bos")), ("BOS", "aligned", "neither")),
    Case("tokenizer without pad", _model(_remove_token("pad")), ("pad", "aligned", "neither")),
    Case("row too long", _model(_shorten_context), ("16 positions",)),
    Case("bucket unreachable", _unreachable_bucket, ("127.0.0.1",)),
    Case("output holds other files", _foreign_files, ("thesis.tex", "output")),
    Case("output is a file", _output_is_a_file, ("out",)),
    Case("record is not ours", _record("{}"), ("run.json", "record of a run")),
    Case("record is not JSON", _record("{"), ("run.json", "record of a run")),
    Case("record lacks keys", _record('{"record_version": 1}'), ("run.json", "record of a run")),
    Case("record is newer", _record('{"record_version": 99}'), ("version 99",)),
    Case("override without a value", _nothing, ("key.path=value",), ("--set", "seed")),
    Case("override of a scalar", _nothing, ("holds no keys",), ("--set", "job.name=x")),
]


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_bad_input_is_one_clear_line_and_writes_nothing(
    case: Case, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "testing")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "testing")
    path = write_spec(tmp_path / "sweep.yaml")
    document = yaml.safe_load(path.read_text())
    case.change(document, tmp_path)
    path.write_text(yaml.safe_dump(document))
    before = _listing(tmp_path)

    finished = steersweep("run", str(path), *case.options)

    _assert_refused(finished, case.says)
    assert _listing(tmp_path) == before


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("job: [", "not valid YAML"),
        ("- job", "keys and values"),
        ("job: stereoset\njob: stereoset\n", "stands twice"),
        ("a: &a [1]\nb: " + "[" * 2000, "sweep.yaml"),
    ],
    ids=["not YAML", "a list", "key twice", "nested"],
)
def test_a_spec_that_is_no_spec_is_refused(text: str, says: str, tmp_path: Path) -> None:
    (tmp_path / "sweep.yaml").write_text(text)
    _assert_refused(steersweep("run", str(tmp_path / "sweep.yaml")), ("sweep.yaml", says))


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("run", "nowhere.yaml"), "nowhere.yaml"),
        (("run", "."), "folder"),
        (("status", "nowhere"), "holds no run"),
        (("report", "nowhere"), "holds no run"),
        (("data", "fetch", "--from", "nowhere.json"), "nowhere.json"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else None,
)
def test_commands_refuse_what_is_not_there(
    arguments: tuple[str, ...], says: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    _assert_refused(steersweep(*arguments), (says,))
    assert not list(tmp_path.iterdir())


def _assert_refused(finished: Finished, says: tuple[str, ...]) -> None:
    assert finished.code == 2, finished
    assert finished.err.startswith("error: "), finished.err
    assert finished.err.count("\n") == 1, finished.err
    assert "Traceback" not in finished.err + finished.out
    for words in says:
        assert words in finished.err, finished.err


def _listing(folder: Path) -> dict[str, bytes]:
    return {str(f.relative_to(folder)): f.read_bytes() for f in folder.rglob("*") if f.is_file()}
