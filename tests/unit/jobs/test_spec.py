"""The sweep file: defaults, presets, overrides, and errors that say what to change."""

from __future__ import annotations

import json
import math
import shlex
import shutil
from collections.abc import Iterator
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
import yaml
from pydantic import BaseModel, Field

from cluster.storage import StorageSpec
from jobs.persona.spec import PersonaSpec
from jobs.resources import embedded_specs
from jobs.spec import ComputeSpec, ModelSpec, SpecModel, load_spec
from jobs.stereoset.spec import SteeringSpec, StereoSetSpec
from steering_core.protocol import PROTOCOLS, Protocol, ProtocolName
from steersweep.errors import UserError

MINIMAL: dict[str, Any] = {
    "job": "stereoset",
    "models": {"base": {"path": "some/model"}},
    "data": {"path": "dev.json"},
    "steering": {"layers": [1, 3], "coeffs": [400]},
    "output": "runs/x",
}


@pytest.fixture
def spec_file(tmp_path: Path) -> Path:
    path = tmp_path / "sweep.yaml"
    path.write_text(yaml.safe_dump(MINIMAL))
    return path


def load(path: Path, *overrides: str, output: str | None = None) -> StereoSetSpec:
    return load_spec(StereoSetSpec, str(path), overrides, output)


def refused_lines(path: Path, *overrides: str, output: str | None = None) -> list[str]:
    """The lines with which a spec is refused."""
    with pytest.raises(UserError) as caught:
        load(path, *overrides, output=output)
    assert str(caught.value).splitlines() == list(caught.value.lines)
    return list(caught.value.lines)


def refusal(path: Path, *overrides: str, output: str | None = None) -> str:
    """The one line with which a spec is refused that has a single mistake."""
    (line,) = refused_lines(path, *overrides, output=output)
    return line


def written(path: Path, text: str) -> Path:
    path.write_text(text)
    return path


def with_coeffs(path: Path, text: str) -> Path:
    """MINIMAL with the coefficients spelled as given."""
    document = yaml.safe_dump({k: v for k, v in MINIMAL.items() if k != "steering"})
    return written(path, f"{document}steering: {{layers: [1], coeffs: {text}}}\n")


def test_keys_left_out_take_the_defaults_of_the_design(spec_file: Path) -> None:
    spec = load(spec_file)
    assert spec.models == {
        "base": ModelSpec(path="some/model", revision=None, dtype="auto", trust_remote_code=False)
    }
    assert spec.data.splits == ("intersentence", "intrasentence")
    assert spec.data.bias_types == ("gender", "profession", "race", "religion")
    assert (spec.data.limit, spec.data.seed) == (None, 0)
    assert spec.protocol == "as_published"
    assert spec.vectors.method == "mean_difference"
    assert spec.compute == ComputeSpec(
        replicas="auto",
        gpus_per_replica="auto",
        cpus_per_replica=1,
        accelerator_type=None,
        resources={},
        labels={},
        wait_for_nodes_s="auto",
        tokens_per_batch="auto",
        examples_per_task="auto",
        device="auto",
        executor="ray",
    )
    assert (spec.storage.endpoint_url, spec.storage.region) == (None, None)


def test_a_spec_says_where_its_output_is_and_an_endpoint_may_replace_its_own(
    spec_file: Path,
) -> None:
    overrides = ("storage.endpoint_url=http://store:9000", "storage.region=eu")
    spec = load(spec_file, *overrides, output="s3://bucket/run")
    assert spec.storage_spec() == StorageSpec("s3://bucket/run", "http://store:9000", "eu")
    other = StorageSpec("s3://bucket/run", "http://other:9000", "eu")
    assert spec.storage_spec("http://other:9000") == other


def test_presets_are_those_of_the_design() -> None:
    assert {
        "as_published": Protocol(
            read="resid_post",
            apply="resid_pre",
            pooling="all_positions",
            scoring="as_published",
            positions="all",
            folds=1,
        ),
        "aligned": Protocol(
            read="resid_post",
            apply="resid_post",
            pooling="candidate",
            scoring="aligned",
            positions="all",
            folds=5,
        ),
    } == PROTOCOLS


@pytest.mark.parametrize("name", PROTOCOLS)
def test_a_preset_alone_is_that_protocol(spec_file: Path, name: ProtocolName) -> None:
    assert load(spec_file, f"protocol={name}").resolved_protocol() == PROTOCOLS[name]


@pytest.mark.parametrize("name", PROTOCOLS)
@pytest.mark.parametrize(
    ("key", "field", "values"),
    [
        ("vectors.pooling", "pooling", ["all_positions", "candidate"]),
        ("vectors.read", "read", ["resid_pre", "resid_post"]),
        ("vectors.folds", "folds", [1, 7]),
        ("steering.apply", "apply", ["resid_pre", "resid_post"]),
        ("steering.positions", "positions", ["all"]),
        ("scoring", "scoring", ["as_published", "aligned"]),
    ],
)
def test_each_key_of_a_preset_can_be_set_by_itself(
    spec_file: Path, name: ProtocolName, key: str, field: str, values: list[Any]
) -> None:
    preset = PROTOCOLS[name]
    for value in values:
        found = load(spec_file, f"protocol={name}", f"{key}={value}").resolved_protocol()
        assert getattr(found, field) == value
        others = [f for f in Protocol.__dataclass_fields__ if f != field]
        assert all(getattr(found, f) == getattr(preset, f) for f in others)


@pytest.mark.parametrize(
    ("text", "decimal"),
    [
        ("0.1", "0.1"),
        ("4e2", "400"),
        ("4.0e+2", "400"),
        ("400.0", "400"),
        ("400", "400"),
        ("-3", "-3"),
        ("-0", "0"),
        ("-0.0", "0"),
        ("'0.30'", "0.3"),
        ("1e-7", "1E-7"),
        ("1e30", "1E+30"),
    ],
)
def test_coefficients_are_the_decimals_of_the_file(
    spec_file: Path, text: str, decimal: str
) -> None:
    (coeff,) = load(with_coeffs(spec_file, f"[{text}]")).steering.coeffs
    assert isinstance(coeff, Decimal)
    assert coeff == Decimal(decimal)
    # A coefficient of minus zero would make its own rows beside those of zero.
    assert not (coeff == 0 and coeff.is_signed())
    assert math.copysign(1.0, float(coeff)) == (-1.0 if decimal.startswith("-") else 1.0)


@pytest.mark.parametrize("text", ["[400, 4e2]", "[0.1, 0.10]", "[0, -0.0]"])
def test_one_coefficient_in_two_spellings_is_repeated(spec_file: Path, text: str) -> None:
    message = refusal(with_coeffs(spec_file, text))
    assert "steering.coeffs" in message
    assert "is repeated" in message


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("[1, '1.00000000000000000001']", "1 and 1.00000000000000000001 are both 1.0"),
        ("['0.1', '0.10000000000000000001']", "are both 0.1"),
        ("[0, 1e-400]", "must be 0 or at least 1e-30 in size"),
    ],
)
def test_coefficients_that_become_one_float64_are_refused(
    spec_file: Path, text: str, says: str
) -> None:
    assert says in refusal(with_coeffs(spec_file, text))


@pytest.mark.parametrize(
    "text", ["true", ".nan", ".inf", "-.inf", "x", "[1]", "null", "1e31", "''"]
)
def test_a_coefficient_that_is_not_a_finite_number_is_refused(spec_file: Path, text: str) -> None:
    assert "steering.coeffs.1" in refusal(with_coeffs(spec_file, f"[400, {text}]"))


def test_set_replaces_adds_and_reads_yaml(spec_file: Path) -> None:
    spec = load(
        spec_file,
        "data.limit=5",
        "steering.coeffs=[0.5, -3]",
        "compute.device=cpu",
        "models.base.revision=main",
        "models.other={path: another/model}",
        "models.third.path=a=b",
        "data.seed = 4",
    )
    assert (spec.data.limit, spec.data.seed, spec.data.path) == (5, 4, "dev.json")
    assert spec.steering.coeffs == (Decimal("0.5"), Decimal(-3))
    assert spec.steering.layers == (1, 3)
    assert spec.compute.device == "cpu"
    assert spec.models["base"] == ModelSpec(path="some/model", revision="main")
    assert spec.models["other"].path == "another/model"
    assert spec.models["third"].path == "a=b"


def test_the_last_override_wins_and_output_beats_them_all(spec_file: Path) -> None:
    overrides = ("output=runs/a", "data.seed=1", "data.seed=2")
    assert load(spec_file, *overrides).data.seed == 2
    assert load(spec_file, *overrides).output == "runs/a"
    assert load(spec_file, *overrides, output="s3://b/p").output == "s3://b/p"


def test_set_reaches_models_whose_names_hold_dots(spec_file: Path) -> None:
    models = {"qwen2.5": {"path": "a"}, "qwen2.5.it": {"path": "b"}, "qwen2": {"path": "c"}}
    written(spec_file, yaml.safe_dump({**MINIMAL, "models": models}))
    spec = load(
        spec_file, "models.qwen2.5.dtype=float32", "models.qwen2.5.it.path=d", "models.qwen2.path=e"
    )
    assert {name: (m.path, m.dtype) for name, m in spec.models.items()} == {
        "qwen2.5": ("a", "float32"),
        "qwen2.5.it": ("d", "auto"),
        "qwen2": ("e", "auto"),
    }


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("data.limit", "must look like key.path=value"),
        ("=5", "must look like key.path=value"),
        ("data.limit=[1", "the value is not valid YAML at line 1, column 3: expected ',' or ']', "
         "but the file ends here"),
        ("models.base.revision=2024-99-99", "the value is not valid YAML at line 1, column 1: "
         "month must be in 1..12"),
        ("output.deep=1", "output is a single value and has no keys; set it as a whole"),
        ("steering.layers.0=1", "steering.layers is a list and has no keys; set it as a whole"),
    ],
)  # fmt: skip
def test_a_set_that_cannot_be_used_is_quoted(spec_file: Path, override: str, message: str) -> None:
    """As it would be typed in a shell: with quotes where it needs them."""
    assert refusal(spec_file, override) == f"--set {shlex.quote(override)}: {message}"


@pytest.mark.parametrize(
    ("override", "unknown", "near"),
    [
        ("protcol=aligned", "protcol", "protocol"),
        ("data.bias_type=[race]", "data.bias_type", "bias_types"),
        ("vectors.pool=candidate", "vectors.pool", "pooling"),
        ("steering.layer=[1]", "steering.layer", "layers"),
        ("compute.replica=2", "compute.replica", "replicas"),
        ("storage.endpoint=x", "storage.endpoint", "endpoint_url"),
        ("models.base.revison=main", "models.base.revison", "revision"),
        ("models.base.paht=main", "models.base.paht", "path"),
    ],
)
def test_an_unknown_key_names_the_nearest_known_one(
    spec_file: Path, override: str, unknown: str, near: str
) -> None:
    near = f"{unknown.rpartition('.')[0]}.{near}".lstrip(".")
    wanted = f"--set {shlex.quote(override)}: unknown key {unknown}; did you mean {near}?"
    assert refusal(spec_file, override) == wanted


@pytest.mark.parametrize("model", ["path", "revision", "int"])
def test_a_model_may_have_the_name_of_a_key(spec_file: Path, model: str) -> None:
    written(spec_file, yaml.safe_dump({**MINIMAL, "models": {model: {"path": "a"}}}))
    assert list(load(spec_file).models) == [model]
    wanted = f"unknown key models.{model}.dtyp; did you mean models.{model}.dtype?"
    assert refusal(spec_file, f"models.{model}.dtyp=x").endswith(f": {wanted}")


def test_an_unknown_key_near_to_none_lists_those_there_are(spec_file: Path) -> None:
    message = refusal(spec_file, "data.zzz=1")
    assert message.endswith(
        "unknown key data.zzz; known keys: path, splits, bias_types, limit, seed"
    )


@pytest.mark.parametrize("key", MINIMAL)
def test_a_required_key_left_out_is_named(spec_file: Path, key: str) -> None:
    written(spec_file, yaml.safe_dump({k: v for k, v in MINIMAL.items() if k != key}))
    assert refusal(spec_file) == f"{spec_file}: {key} is required"


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("job=persona", "job is persona; this command takes stereoset only"),
        ("protocol=alignd", "protocol: must be 'as_published' or 'aligned', got 'alignd'"),
        ("data.limit=0", "data.limit: must be at least 1, got 0"),
        ("data.limit=1.5", "data.limit: must be a whole number, got 1.5"),
        ("data.limit=true", "data.limit: must be a whole number, got true"),
        ("data.path=''", "data.path:"),
        ("output=''", "output:"),
        ("data.splits=[intra]", "must be one of intersentence, intrasentence, got 'intra'"),
        ("data.splits=[]", "data.splits: needs at least 1 entry"),
        ("data.bias_types=[race, race]", "data.bias_types: race is repeated"),
        ("data.bias_types=race", "data.bias_types: must be a list, got 'race'"),
        ("steering.layers=[]", "steering.layers: needs at least 1 entry"),
        ("steering.layers=[1, 1]", "steering.layers: 1 is repeated"),
        ("steering.layers=[1, x]", "steering.layers.1: must be a whole number, got 'x'"),
        ("steering.coeffs=[]", "steering.coeffs: needs at least 1 entry"),
        (
            "steering.apply=resid_mid",
            "steering.apply: must be 'resid_pre', 'attn_out', 'mlp_out' or 'resid_post', got",
        ),
        (
            "vectors.method=ica",
            "vectors.method: must be 'mean_difference', 'pca', 'logistic' or 'whitened', got 'ica'",
        ),
        ("vectors.method=null", "vectors.method: must be 'mean_difference', 'pca', 'logistic' or"),
        ("vectors.folds=0", "vectors.folds: must be at least 1, got 0"),
        ("vectors.folds=1001", "vectors.folds: must be at most 1000, got 1001"),
        ("models={}", "models: needs at least 1 entry"),
        ("models={a b: {path: x}}", "a name may have letters, digits, '.', '_' and '-'"),
        ("models={../x: {path: x}}", "a name may have letters, digits, '.', '_' and '-'"),
        ("models.base.path=''", "models.base.path:"),
        ("models.base.dtype=int8", "models.base.dtype: must be 'auto', 'float32', 'bfloat16' or"),
        ("models.base.trust_remote_code=1", "trust_remote_code: must be true or false, got 1"),
        ("compute.replicas=0", "compute.replicas: must be 'auto' or "),
        ("compute.replicas=many", "compute.replicas: must be 'auto' or "),
        ("compute.gpus_per_replica=-1", "compute.gpus_per_replica: must be 'auto' or "),
        ("compute.gpus_per_replica=1.5", "or a whole number if it is above 1; only a fraction"),
        ("compute.resources={CPU: 2}", "must not name CPU; use compute.cpus_per_replica"),
        ("compute.resources={memory: 2}", "must not name memory, which Ray manages itself"),
        ("compute.resources={TPU: 0}", "compute.resources.TPU: must be at least 0.0001"),
        ("compute.resources={TPU: yes please}", "compute.resources.TPU: must be a number"),
        ("compute.labels={zone: in()}", "compute.labels.zone: must be value, !value, in("),
        ("compute.labels={a zone: eu}", "must be the name of a label, such as zone"),
        ("compute.labels={zone: 3}", "compute.labels.zone: must be text, got 3"),
        ("compute.wait_for_nodes_s=-1", "compute.wait_for_nodes_s: must be 'auto' or "),
        ("compute.wait_for_node_s=1", "did you mean compute.wait_for_nodes_s?"),
        ("compute.tokens_per_batch=0", "compute.tokens_per_batch: must be 'auto' or "),
        ("compute.device=gpu", "compute.device: must be 'auto', 'cuda', 'xla', 'mps' or 'cpu'"),
    ],
)
def test_a_bad_value_names_its_key_and_what_is_allowed(
    spec_file: Path, override: str, message: str
) -> None:
    found = refusal(spec_file, override)
    key = override.partition("=")[0]
    assert found.startswith((f"--set {key}=", f"--set '{key}="))
    assert message in found


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: 1\nb: 2\na: 3\n", "the key 'a' is given twice: at line 1 and again at line 3"),
        (
            "x: 1\ndata:\n  path: a\n  path: b\n",
            "the key 'path' is given twice: at line 3 and again at line 4",
        ),
        (
            "models: {m: {path: a}, m: {path: b}}\n",
            "key 'm' is given twice: at line 1 and again at line 1",
        ),
        ("a: [1", "not valid YAML"),
        ("a: !!python/object:os.system x", "not valid YAML"),
        ("- a", "must hold a mapping of keys to values, but holds a list"),
        ("", "must hold a mapping of keys to values, but holds nothing"),
        ("a: " + "[" * 5000, "nested more than 20 levels deep"),
        ("revision: 2024-99-99", "not valid YAML"),
        ("revision: " + "1" * 5000, "not valid YAML"),
    ],
    ids=lambda text: text[:24],
)
def test_a_file_that_is_not_one_clear_mapping_is_refused(
    spec_file: Path, text: str, message: str
) -> None:
    found = refused_lines(written(spec_file, text))[0]
    assert found.startswith(f"{spec_file}: ")
    assert message in found


def test_a_key_twice_in_a_set_value_is_refused_too(spec_file: Path) -> None:
    message = refusal(spec_file, "data={path: a, path: b}")
    assert message == "--set data=***: the key 'path' is given twice: at line 1 and again at line 1"


def test_yaml_merge_keys_work(spec_file: Path) -> None:
    """Two models that share their options are what merge keys are for."""
    document = {k: v for k, v in MINIMAL.items() if k != "models"}
    models = "models:\n  a: &a {path: x, dtype: float32}\n  b: {<<: *a, path: y}\n"
    spec = load(written(spec_file, yaml.safe_dump(document) + models))
    assert spec.models["b"] == ModelSpec(path="y", dtype="float32")


def test_a_file_too_large_is_refused_with_its_name_once(spec_file: Path) -> None:
    message = refusal(written(spec_file, "# padding\n" * 110_000))
    assert "larger than 1,048,576 bytes" in message
    assert message.count(str(spec_file)) == 1


def test_a_source_that_is_not_there_lists_the_examples(tmp_path: Path) -> None:
    message = refusal(tmp_path / "absent.yaml")
    assert (
        "no such file, and no packaged sweep has that name (demo, demo-persona, demo-stereoset, "
        in message
    )
    assert "is a folder; give the sweep's YAML file" in refusal(tmp_path)


def test_bytes_that_are_not_text_are_refused(spec_file: Path) -> None:
    spec_file.write_bytes(b"output: \xff\xfe")
    assert "cannot be read as UTF-8 text" in refusal(spec_file)


def test_embedded_specs_validate() -> None:
    names = ["demo-stereoset", "demo-tiny", "gemma2-replication", "quick-look"]
    assert sorted(embedded_specs()) == ["demo-persona", *names]
    assert load_spec(PersonaSpec, "demo-persona").steering.layers == (20,)
    specs = {name: load_spec(StereoSetSpec, name) for name in names}
    assert specs["demo-tiny"].resolved_protocol() == PROTOCOLS["as_published"]
    assert specs["demo-tiny"].steering.coeffs == (Decimal(-3), Decimal("0.5"), Decimal(400))
    assert specs["gemma2-replication"].resolved_protocol() == PROTOCOLS["as_published"]
    replication = specs["gemma2-replication"].models
    assert {n: m.dtype for n, m in replication.items()} == dict.fromkeys(
        ("base", "instruct"), "float32"
    )
    assert specs["quick-look"].resolved_protocol() == PROTOCOLS["aligned"]


def test_a_file_goes_before_an_example_of_the_same_name(
    spec_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("demo", "demo-tiny"):
        shutil.copy(spec_file, spec_file.parent / name)
        monkeypatch.chdir(spec_file.parent)
        assert load_spec(StereoSetSpec, name).output == "runs/x"


def test_a_spec_is_frozen(spec_file: Path) -> None:
    with pytest.raises(ValueError, match="frozen"):
        load(spec_file).steering.layers = (2,)


def models_in(annotation: Any) -> Iterator[type[BaseModel]]:
    """Spec models that an annotation holds, also inside mappings and unions."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    for inner in getattr(annotation, "__args__", ()):
        yield from models_in(inner)


def roles_of(kind: type[BaseModel], at: str = "") -> dict[str, str | None]:
    """Role of every leaf and mapping of a spec, by key path; None where it has none."""
    found: dict[str, str | None] = {}
    for name, field in kind.model_fields.items():
        path = f"{at}{name}"
        nested = list(models_in(field.annotation))
        extra = field.json_schema_extra
        value = extra.get("role") if isinstance(extra, dict) else None
        # A part of the spec takes its roles from its own keys; a mapping also has one itself.
        if value is not None or field.annotation not in nested:
            found[path] = str(value) if value else None
        for inner in nested:
            found |= roles_of(inner, f"{path}.")
    return found


def test_every_field_says_whether_it_is_identity_grid_or_runtime() -> None:
    """A resumed output is compared by these: a field without one would be ignored in silence."""
    roles = roles_of(StereoSetSpec)
    assert {path for path, role in roles.items() if role is None} == set()
    assert set(roles.values()) == {"identity", "grid", "runtime"}


def test_roles_are_those_of_the_design() -> None:
    """What may grow, and what may change on a resume; everything else is identity."""
    roles = roles_of(StereoSetSpec)
    grid = {"models", "data.splits", "data.bias_types", "steering.layers", "steering.coeffs"}
    grid |= {"vectors.held_out"}
    grid |= {f"nulls.{key}" for key in ("random", "shuffled", "layers", "coeffs")}
    grid |= {f"side_effects.{key}" for key in ("cells.layers", "cells.coeffs", "transfer")}
    grid |= {"prompts"}
    assert {path for path, role in roles.items() if role == "grid"} == grid
    runtime = {path for path, role in roles.items() if role == "runtime"}
    assert {path.partition(".")[0] for path in runtime} == {
        "certificate",
        "compute",
        "storage",
        "output",
    }
    identity = {path for path, role in roles.items() if role == "identity"}
    assert {"models.path", "models.dtype", "data.path", "data.seed", "data.limit"} <= identity
    assert {"protocol", "scoring", "vectors.folds", "vectors.method"} <= identity
    assert {"steering.apply"} <= identity


def test_a_new_field_without_a_role_would_be_found() -> None:
    class Grown(SteeringSpec):
        scale: float = Field(1.0, description="New, and nobody said what it is")

    class Whole(SpecModel):
        parts: dict[str, Grown] = Field({}, json_schema_extra={"role": "grid"})
        steering: Grown

    roles = roles_of(Whole)
    assert {path for path, role in roles.items() if role is None} == {
        "parts.scale",
        "steering.scale",
    }


def test_the_json_schema_prints_and_knows_every_key() -> None:
    schema = json.loads(json.dumps(StereoSetSpec.model_json_schema()))
    assert set(schema["properties"]) == set(StereoSetSpec.model_fields)
    assert set(schema["required"]) == set(MINIMAL)
    definitions = schema["$defs"]
    assert definitions["SteeringSpec"]["properties"]["apply"]["role"] == "identity"
    of_sets = definitions.pop("SideEffectsSpec")  # whose keys are names of data sets
    assert of_sets["additionalProperties"] == {"$ref": "#/$defs/ExamplesSpec"}
    assert all(d["additionalProperties"] is False for d in definitions.values())
