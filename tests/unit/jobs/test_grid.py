"""The forms in which a sweep file writes its layers and coefficients, for both jobs."""

from __future__ import annotations

import re
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
import yaml

from jobs.grid import ALL_LAYERS, with_all_layers
from jobs.persona.spec import PersonaSpec
from jobs.stereoset.resolve import resolve
from jobs.stereoset.spec import StereoSetSpec
from jobs.sweeps.registry import load_any_spec
from steersweep.errors import UserError

MINIMAL: dict[str, dict[str, Any]] = {
    "stereoset": {"data": {"path": "embedded:examples.json"}},
    "persona": {
        "traits": {"evil": {"path": "evil.json"}},
        "judge": {"kind": "word_list", "words": {"evil": ["cruel"]}},
    },
}
JOBS = pytest.mark.parametrize("job", MINIMAL)


def spec_of(job: str, folder: Path, steering: str) -> Any:
    """The validated spec of a file whose ``steering`` is this YAML."""
    document = {
        "job": job,
        "models": {"tiny": {"path": "embedded:gemma2-tiny"}},
        "output": str(folder / "out"),
        **MINIMAL[job],
    }
    path = folder / "sweep.yaml"
    path.write_text(f"{yaml.safe_dump(document)}steering: {steering}\n")
    return load_any_spec(str(path))


@JOBS
@pytest.mark.parametrize(
    ("text", "layers"),
    [
        ("13", (13,)),
        ("[13]", (13,)),
        ("1-5", (1, 2, 3, 4, 5)),
        ("1-25:8", (1, 9, 17, 25)),
        ("'2-9:3'", (2, 5, 8)),
        ("7-7", (7,)),
        ("[1, '3-9:2', 20]", (1, 3, 5, 7, 9, 20)),
        ("[' 1 - 3 ']", (1, 2, 3)),
        ("all", ALL_LAYERS),
    ],
)
def test_forms_of_layers(job: str, text: str, layers: tuple[int, ...], tmp_path: Path) -> None:
    assert spec_of(job, tmp_path, f"{{layers: {text}, coeffs: [1]}}").steering.layers == layers


@JOBS
@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("[]", "needs at least 1 entry"),
        ("25-1", "must be a range that goes up, such as 1-25, got '25-1'"),
        ("[2, 25-1:2]", "must be a range that goes up, such as 1-25, got '25-1:2'"),
        ("1-25:0", "must be a range with a step of at least 1, got '1-25:0'"),
        ("1-999999", "must be a range of at most 10,000 layers"),
        ("odd", "must be a layer number, a range such as 1-25 or 1-25:2, a list of these, or all"),
        ("[all]", "a list of these, or all, got 'all'"),
        ("1-", "or all, got '1-'"),
        ("-1-3", "or all, got '-1-3'"),
        ("1.5", "or all, got 1.5"),
        ("true", "or all, got true"),
        ("null", "or all, got null"),
        ("{1: 2}", "or all"),
        ("[1.5]", "must be a whole number, got 1.5"),
        ("[1, '1-3']", "1 is repeated"),
    ],
)
def test_what_is_no_layer_is_one_clear_line(job: str, text: str, says: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=rf"steering\.layers[.\d]*: .*{re.escape(says)}") as caught:
        spec_of(job, tmp_path, f"{{layers: {text}, coeffs: [1]}}")
    assert "\n" not in str(caught.value)


@JOBS
def test_a_single_coefficient_needs_no_list(job: str, tmp_path: Path) -> None:
    for text, coeffs in (("20", [20]), ("-0.5", ["-0.5"]), ("[20, 400]", [20, 400])):
        spec = spec_of(job, tmp_path, f"{{layers: 1, coeffs: {text}}}")
        assert spec.steering.coeffs == tuple(Decimal(c) for c in coeffs)
    for text, says in (("many", "must be a number, got 'many'"), ("[]", "needs at least 1 entry")):
        with pytest.raises(UserError, match=rf"steering\.coeffs: {says}"):
            spec_of(job, tmp_path, f"{{layers: 1, coeffs: {text}}}")


@JOBS
def test_all_layers_are_every_block_of_models_of_one_depth(job: str, tmp_path: Path) -> None:
    spec = spec_of(job, tmp_path, "{layers: all, coeffs: [1]}")
    assert with_all_layers(spec, {"a": 3, "b": 3}).steering.layers == (1, 2, 3)
    with pytest.raises(UserError) as caught:
        with_all_layers(spec, {"a": 26, "b": 42})
    assert "but a has 26, b has 42; give a range that every model has, such as 1-26" in str(
        caught.value
    )
    listed = spec_of(job, tmp_path, "{layers: [2], coeffs: [1]}")
    assert with_all_layers(listed, {"a": 26, "b": 42}) is listed


def test_a_resolved_sweep_holds_the_numbers(tmp_path: Path) -> None:
    spec = spec_of("stereoset", tmp_path, "{layers: all, coeffs: 3}")
    sweep = resolve(spec)
    assert sweep.resolved_spec()["steering"]["layers"] == [1, 2, 3, 4, 5, 6]
    again = StereoSetSpec.model_validate(sweep.resolved_spec())
    assert again.steering.layers == sweep.spec.steering.layers


@pytest.mark.parametrize("kind", [StereoSetSpec, PersonaSpec])
def test_the_json_schema_knows_every_form(kind: type[StereoSetSpec] | type[PersonaSpec]) -> None:
    jsonschema = pytest.importorskip("jsonschema")
    definitions = kind.model_json_schema()["$defs"]
    name = next(n for n in definitions if n in ("SteeringSpec", "PersonaSteeringSpec"))
    check = jsonschema.Draft202012Validator({**definitions[name], "$defs": definitions})
    for layers in (13, "1-25:2", "1-5", "all", [1, 3], [1, "3-9:2"]):
        for coeffs in (20, [20, "0.1"]):
            assert check.is_valid({"layers": layers, "coeffs": coeffs}), (layers, coeffs)
    for layers in ("odd", [], 0, [0], None):
        assert not check.is_valid({"layers": layers, "coeffs": 1}), layers
