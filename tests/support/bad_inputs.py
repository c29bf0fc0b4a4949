"""Bad inputs, one by one: what is done to a good spec or its files, and what must be said."""

from __future__ import annotations

import json
import shutil
import socket
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from jobs.resources import local_path

Change = Callable[[dict[str, Any], Path], None]


@dataclass(frozen=True)
class Case:
    """What is done to a good spec (or its files), and what the message must say."""

    name: str
    change: Change
    says: tuple[str, ...]
    options: tuple[str, ...] = ()
    env: Mapping[str, str | None] = field(default_factory=dict)
    "Variables that are set, or unset where None."
    num_mistakes: int = 1
    "Each has a line; several also have a heading."


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


def _not_utf8(document: dict[str, Any], folder: Path) -> None:
    (folder / "dev.json").write_bytes(b'{"data": "\xff"}')
    document["data"] = {"path": str(folder / "dev.json")}


def _data_is_a_folder(document: dict[str, Any], folder: Path) -> None:
    (folder / "dev.json").mkdir()
    document["data"] = {"path": str(folder / "dev.json")}


def _first_sentence(value: Any) -> Callable[[dict[str, Any]], None]:
    def edit(document: dict[str, Any]) -> None:
        _first("intersentence")(document)["sentences"][0] = value

    return edit


def _unknown_label(document: dict[str, Any]) -> None:
    _first("intrasentence")(document)["sentences"][0]["gold_label"] = "neutral"


def _no_sentences(document: dict[str, Any]) -> None:
    del _first("intersentence")(document)["sentences"]


def _split_is_an_object(document: dict[str, Any]) -> None:
    document["data"]["intersentence"] = {"0": document["data"]["intersentence"][0]}


def _no_race(document: dict[str, Any]) -> None:
    for split, rows in document["data"].items():
        document["data"][split] = [row for row in rows if row["bias_type"] != "race"]


def _nothing_in_it(document: dict[str, Any]) -> None:
    document["data"] = {}


def _config(**changes: Any) -> Callable[[Path], None]:
    """Keys of the model's config, set or, where None, removed."""

    def edit(folder: Path) -> None:
        config = json.loads((folder / "config.json").read_text()) | changes
        kept = {key: value for key, value in config.items() if value is not None}
        (folder / "config.json").write_text(json.dumps(kept))

    return edit


def _empty(name: str) -> Callable[[Path], None]:
    return lambda folder: (folder / name).write_bytes(b"")  # type: ignore[func-returns-value]


def _no_shards(folder: Path) -> None:
    (folder / "model.safetensors").unlink()
    shards = {"model.norm.weight": "model-00001-of-00001.safetensors"}
    index = json.dumps({"metadata": {}, "weight_map": shards})
    (folder / "model.safetensors.index.json").write_text(index)


def _gguf(content: bytes, **model: str) -> Change:
    """A folder with the file model.gguf of that content as the spec's model, and more keys."""

    def change(document: dict[str, Any], folder: Path) -> None:
        (folder / "quantized").mkdir()
        (folder / "quantized" / "model.gguf").write_bytes(content)
        document["models"] = {"tiny": {"path": str(folder / "quantized"), **model}}

    return change


def _in_order(*changes: Change) -> Change:
    def change(document: dict[str, Any], folder: Path) -> None:
        for each in changes:
            each(document, folder)

    return change


def _model_is_a_file(document: dict[str, Any], folder: Path) -> None:
    (folder / "model").write_text("mine")
    document["models"] = {"tiny": {"path": str(folder / "model")}}


def _output_below_a_file(document: dict[str, Any], folder: Path) -> None:
    (folder / "file").write_text("mine")
    document["output"] = str(folder / "file" / "deeper" / "out")


def _in_output(name: str, content: bytes) -> Change:
    def change(document: dict[str, Any], _folder: Path) -> None:
        path = Path(document["output"], name)
        path.parent.mkdir(parents=True)
        path.write_bytes(content)

    return change


def _endpoint(url: str) -> Change:
    def change(document: dict[str, Any], _folder: Path) -> None:
        document["output"] = "s3://some-bucket/run"
        document["storage"] = {"endpoint_url": url}

    return change


def _on_ray(document: dict[str, Any], _folder: Path) -> None:
    document["compute"] = {"executor": "ray"}


_S3 = _set("output", "s3://some-bucket/run")
_NO_KEYS = {"AWS_ACCESS_KEY_ID": None, "AWS_SECRET_ACCESS_KEY": None, "AWS_PROFILE": None}

CASES = [
    Case("layer too high", _set("steering.layers", [1, 40]), ("1..6", "tiny", "40")),
    Case("layer 0", _set("steering.layers", [0]), ("1..6", "got 0")),
    Case("layer is a fraction", _set("steering.layers", [1.5]), ("steering.layers.0", "1.5")),
    Case("layer is true", _set("steering.layers", [True]), ("steering.layers.0", "true")),
    Case("no layers", _set("steering.layers", []), ("steering.layers", "at least 1")),
    Case("layer twice", _set("steering.layers", [2, 2]), ("2 is repeated",)),
    Case("coefficient twice", _set("steering.coeffs", [1, 1.0]), ("1 is repeated",)),
    Case("coefficient NaN", _set("steering.coeffs", [float("nan")]), ("steering.coeffs", "finite")),
    Case("coefficient is text", _set("steering.coeffs", ["much"]), ("steering.coeffs", "much")),
    Case("coefficient is huge", _set("steering.coeffs", ["1e99"]), ("steering.coeffs", "1e30")),
    Case("unknown bias type", _set("data.bias_types", ["gendr"]), ("gendr", "profession")),
    Case("unknown split", _set("data.splits", ["inter"]), ("inter", "intersentence")),
    Case("unknown key", _set("stering", {}), ("stering", "did you mean steering?")),
    Case(
        "unknown nested key",
        _set("steering.layer", [1]),
        ("steering.layer", "mean steering.layers?"),
    ),
    Case(
        "unknown key of a model", _set("models.tiny.revison", "a"), ("mean models.tiny.revision?",)
    ),
    Case("unknown job", _set("job", "stereotypes"), ("job", "stereoset")),
    Case("unknown protocol", _set("protocol", "published"), ("as_published", "aligned")),
    Case("unknown dtype", _set("models.tiny.dtype", "float8"), ("dtype", "bfloat16")),
    Case("no models", _set("models", {}), ("models", "at least 1")),
    Case("model name with a slash", _set("models", {"a/b": {"path": "x"}}), ("a/b", "letters")),
    Case("limit 0", _set("data.limit", 0), ("data.limit", "1")),
    Case("replicas 0", _set("compute.replicas", 0), ("compute.replicas", "1")),
    Case("no CUDA here", _set("compute.device", "mps"), ("mps", "cpu")),
    Case(
        "folds of a single target term",
        _set("vectors", {"folds": 5}),
        ("5 folds", "intersentence/gender has the target term", "set vectors.folds to 1"),
        options=("--set", "data.limit=1"),
    ),
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
    Case("override of a scalar", _nothing, ("has no keys",), ("--set", "job.name=x")),
    # Specs.
    Case("models are a list", _set("models", [1]), ("models",)),
    Case("a model is text", _set("models", {"tiny": "path"}), ("models.tiny",)),
    Case("data is text", _set("data", "dev.json"), ("data",)),
    Case("no steering", _set("steering", None), ("steering",)),
    Case("coefficient infinite", _set("steering.coeffs", [float("inf")]), ("steering.coeffs",)),
    Case("coefficient is true", _set("steering.coeffs", [True]), ("steering.coeffs", "number")),
    Case("coefficient is a list", _set("steering.coeffs", [[1]]), ("steering.coeffs", "number")),
    Case("layers are a fraction", _set("steering.layers", 1.5), ("steering.layers", "1-25:2")),
    Case("layers go down", _set("steering.layers", "5-1"), ("steering.layers", "goes up")),
    Case("layers in steps of 0", _set("steering.layers", "1-5:0"), ("at least 1", "1-5:0")),
    Case("layers past the end", _set("steering.layers", "1-7"), ("1..6", "got 7")),
    Case("layer is negative", _set("steering.layers", [-1]), ("1..6", "got -1")),
    Case("limit is text", _set("data.limit", "many"), ("data.limit", "many")),
    Case("seed is a fraction", _set("data.seed", 1.5), ("data.seed", "1.5")),
    Case("bias type twice", _set("data.bias_types", ["race", "race"]), ("race is repeated",)),
    Case("no splits", _set("data.splits", []), ("data.splits", "at least 1")),
    Case("GPUs below 0", _set("compute.gpus_per_replica", -1), ("gpus_per_replica", "-1")),
    Case("no CPUs", _set("compute.cpus_per_replica", 0), ("cpus_per_replica", "1")),
    Case("no tokens in a batch", _set("compute.tokens_per_batch", 0), ("tokens_per_batch",)),
    Case("no examples in a task", _set("compute.examples_per_task", -1), ("examples_per_task",)),
    Case("unknown executor", _set("compute.executor", "dask"), ("dask", "in_process")),
    Case("unknown device", _set("compute.device", "tpu"), ("tpu", "xla")),
    Case("unknown method", _set("vectors.method", "magic"), ("vectors.method", "magic")),
    Case("unknown pooling", _set("vectors.pooling", "max"), ("vectors.pooling", "max")),
    Case("unknown site", _set("vectors.read", "attn"), ("vectors.read", "attn_out")),
    Case("unknown place to steer", _set("steering.apply", "here"), ("steering.apply", "here")),
    Case("unknown positions", _set("steering.positions", "first"), ("positions", "first", "last")),
    Case("unknown operation", _set("steering.operation", "scale"), ("operation", "cap_above")),
    Case("unknown scoring", _set("scoring", "mean"), ("scoring", "mean")),
    Case("no folds", _set("vectors.folds", 0), ("vectors.folds", "1")),
    Case("certificate of -1 rows", _set("certificate.rows_per_task", -1), ("rows_per_task",)),
    Case("tolerance 0", _set("certificate.tolerance", 0), ("certificate.tolerance",)),
    Case("tolerance NaN", _set("certificate.tolerance", float("nan")), ("tolerance",)),
    Case("unknown on_failure", _set("certificate.on_failure", "shrug"), ("shrug", "fall_back")),
    Case("trust as text", _set("models.tiny.trust_remote_code", "yes"), ("trust_remote_code",)),
    Case("revision is a number", _set("models.tiny.revision", 3), ("revision", "3")),
    # Data files.
    Case("data is a folder", _data_is_a_folder, ("dev.json", "UTF-8")),
    Case("data is not UTF-8", _not_utf8, ("dev.json", "UTF-8")),
    Case("data with a BOM", _data_text(lambda t: "\ufeff" + t), ("not valid JSON",)),
    Case("sentence is text", _data(_first_sentence("x")), ("sentence 0", "object")),
    Case("sentence is null", _data(_first_sentence({"sentence": None})), ("sentence 0", "text")),
    Case("unknown label", _data(_unknown_label), ("gold labels", "neutral")),
    Case("no sentences", _data(_no_sentences), ("exactly 3 sentences",)),
    Case("target is a list", _edit_first(target=["a"]), ("target must be text, got list",)),
    Case("id is empty", _edit_first(id=""), ("id is empty",)),
    Case("half a character", _edit_first(context="\ud800"), ("surrogate",)),
    Case("a split is an object", _data(_split_is_an_object), ("must be a list, got dict",)),
    Case("a bias type is not in it", _data(_no_race), ("race",)),
    Case("data holds nothing", _data(_nothing_in_it), ("holds no example",)),
    # Model folders.
    Case("model is a file", _model_is_a_file, ("models.tiny",)),
    Case("config without layers", _model(_config(num_hidden_layers="six")), ("models.tiny",)),
    Case("config of no known kind", _model(_config(model_type="mystery")), ("mystery",)),
    Case("config is empty", _model(_empty("config.json")), ("models.tiny",)),
    Case("tokenizer truncated", _model(_truncate("tokenizer.json")), ("tokenizer",)),
    Case("weights empty", _model(_empty("model.safetensors")), ("model.safetensors",)),
    Case("all shards missing", _model(_no_shards), ("safetensors",)),
    # Outputs.
    Case("output below a file", _output_below_a_file, ("file",)),
    Case("output of another user", _set("output", "~nobody-at-all/x"), ("~nobody-at-all/x",)),
    Case("output on another host", _set("output", "file://host/x"), ("file:///",)),
    Case("bucket with a space", _set("output", "s3://my bucket/x"), ("bucket name",)),
    Case("prefix that climbs", _set("output", "s3://bucket/../x"), ("'..'",)),
    Case("manifest is damaged", _in_output("manifest/0000.parquet", b"x"), ("manifest/0000",)),
    Case("manifest begins at 1", _in_output("manifest/0001.parquet", b""), ("were expected",)),
    Case("a lock that says nothing", _in_output("driver.lock", b""), ("unknown driver",)),
    # Environments.
    Case("no Ray there", _on_ray, ("RAY_ADDRESS",), env={"RAY_ADDRESS": "127.0.0.1:1"}),
    Case("no Ray address", _on_ray, ("HOST:PORT",), env={"RAY_ADDRESS": "nonsense"}),
    Case("no AWS keys", _S3, ("AWS_ACCESS_KEY_ID",), env=_NO_KEYS),
    Case("no AWS profile", _S3, ("AWS",), env={**_NO_KEYS, "AWS_PROFILE": "nobody"}),
    Case("odd endpoint", _S3, ("AWS",), env={"AWS_ENDPOINT_URL": "nonsense"}),
    Case("endpoint by FTP", _endpoint("ftp://host"), ("http(s)://",)),
    # Short forms, models by path, options, and several mistakes at once.
    Case("range that goes down", _set("steering.layers", "25-1"), ("goes up", "25-1")),
    Case("range without an end", _set("steering.layers", "1-x"), ("1-25:2", "'1-x'")),
    Case("layers almost all", _set("steering.layers", "al"), ("or all", "'al'")),
    Case("range past the model", _set("steering.layers", "1-40"), ("1..6", "tiny")),
    Case("range over a layer", _set("steering.layers", [2, "1-3"]), ("2 is repeated",)),
    Case(
        "coefficients of one float64",
        _set("steering.coeffs", ["0.1", "0.10000000000000000001"]),
        ("steering.coeffs", "float64", "0.1"),
    ),
    Case("single coefficient is text", _set("steering.coeffs", "x"), ("steering.coeffs: must",)),
    Case(
        "model by its path alone", _set("models", {"tiny": ""}), ("models.tiny.path: must not be",)
    ),
    Case("path that starts with ./", _set("models.tiny.path", "./gone"), ("folder ./gone does",)),
    Case(
        "path that starts with ~", _set("models.tiny.path", "~nobody-at-all/x"), ("no such user",)
    ),
    Case(
        "no such GGUF file",
        _gguf(b"GGUF", gguf_file="gone.gguf"),
        ("models.tiny", "gone.gguf does not exist", "model.gguf"),
    ),
    Case(
        "not a GGUF file",
        _gguf(b"text", gguf_file="model.gguf"),
        ("models.tiny", "model.gguf is not a GGUF file"),
    ),
    Case("GGUF file unnamed", _gguf(b"GGUF"), ("models.tiny", "set gguf_file: model.gguf")),
    Case("GGUF elsewhere", _gguf(b"GGUF", gguf_file="../x"), ("models.tiny.gguf_file", "'../x'")),
    Case(
        "GGUF file of a packaged model",
        _set("models.tiny", {"path": "embedded:smollm2", "gguf_file": "x.gguf"}),
        ("models.tiny", "leave gguf_file out"),
    ),
    Case("key without its section", _set("seed", 1), ("unknown key seed", "mean data.seed?")),
    Case("key of the other job", _set("judge", {}), ("unknown key judge", "job persona")),
    Case(
        "job is missing",
        _set("job", None),
        ("job is required", "one of stereoset, choices, persona"),
    ),
    Case(
        "override of an unknown key",
        _nothing,
        (
            "error: --set steering.layer=3: unknown key steering.layer",
            "did you mean steering.layers?",
        ),
        ("--set", "steering.layer=3"),
    ),
    Case("override is no YAML", _nothing, ("--set 'data.limit=[1'",), ("--set", "data.limit=[1")),
    Case("output option is empty", _nothing, ("--output ''", "not be empty"), ("--output", "")),
    Case(
        "several mistakes",
        _in_order(_set("steering.layers", []), _set("protocol", "new"), _set("data.limt", 1)),
        (
            "has 3 mistakes:\n",
            "  unknown key data.limt; did you mean data.limit?\n",
            "  protocol: must be 'as_published' or 'aligned', got 'new'\n",
            "  steering.layers: needs at least 1 entry\n",
        ),
        num_mistakes=3,
    ),
    Case(
        "mistakes of the file and of an option",
        _set("steering.layers", []),
        ("and its options have 2 mistakes:\n", "  --set data.limit=0: data.limit: must be"),
        ("--set", "data.limit=0"),
        num_mistakes=2,
    ),
    Case("endpoint with a password", _endpoint("http://u:hunter2@h"), ("AWS_SECRET_ACCESS_KEY",)),
]
