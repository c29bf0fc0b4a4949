"""Another sweep in an output: every changed key with both values and the reason."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from cluster.ledger import Ledger
from cluster.storage import StorageSpec
from jobs.persona.job import PersonaJob
from jobs.persona.output import PersonaOutput
from jobs.persona.resolve import resolve as resolve_persona
from jobs.persona.spec import PersonaSpec
from jobs.spec import load_spec
from jobs.stereoset.resolve import resolve
from jobs.stereoset.spec import StereoSetSpec
from jobs.sweeps.same_sweep import (
    changes_of,
    check_same_sweep,
    different_sweep,
    removals_of,
)
from steersweep.errors import UserError
from tests.support.personas import save_chat_model, write_persona_spec
from tests.support.sweeps import write_spec


@pytest.fixture(scope="module")
def persona_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("persona")
    save_chat_model(folder / "model")
    return folder


def persona_sweep(folder: Path, *changes: str) -> Any:
    spec = write_persona_spec(folder, folder / "model")
    return resolve_persona(load_spec(PersonaSpec, str(spec), changes))


def test_each_key_has_a_reason_of_its_kind(persona_folder: Path, tmp_path: Path) -> None:
    spec = load_spec(StereoSetSpec, str(write_spec(tmp_path / "s.yaml")))
    for identity in (resolve(spec).identity(), persona_sweep(persona_folder).identity()):
        changes = changes_of(identity, dict.fromkeys(identity, "other"))
        assert len(changes) == len(identity)
        for key, change in zip(sorted(identity), changes, strict=True):
            assert change.startswith(f"{key}: ")
            assert " -> other (" in change
            assert not change.endswith("(numbers depend on it)"), change


@pytest.mark.parametrize(
    ("key", "reason"),
    [
        ("data.limit", "it decides which examples are scored and fitted on"),
        ("vectors.folds", "it decides the steering vectors, and so every steered row"),
        ("scoring", "it decides what a score is, so every number would change"),
        ("models.a.b (weights)", "these are other weights: every number of the model would change"),
        ("models.a.dtype", "every number of the model depends on its precision"),
        ("models.a (prompts of evil)", "these are the prompts that were answered"),
        ("judge.model", "it decides every score"),
    ],
)
def test_a_reason_fits_its_key(key: str, reason: str) -> None:
    assert changes_of({key: 1, "old": 2}, {key: 2, "new": 3}) == [f"{key}: 1 -> 2 ({reason})"]


def test_one_change_is_one_line_and_several_are_a_line_each() -> None:
    one = different_sweep("runs/a", ["scoring: x -> y (why)"], "layers and models")
    assert one.lines == (
        "runs/a belongs to a different sweep; changed: scoring: x -> y (why). Only layers and "
        "models may be added: put the spec back, name another output, or use --new to write to a "
        "new one",
    )
    two = different_sweep("runs/a", ["a: 1 -> 2 (why)", "b: 3 -> 4 (how)"], "layers")
    assert two.lines[:3] == (
        "runs/a belongs to a different sweep; 2 changes:",
        "  a: 1 -> 2 (why)",
        "  b: 3 -> 4 (how)",
    )
    assert two.lines[3].startswith("Only layers may be added: ")


def test_what_a_grid_lost_is_spelled_exactly() -> None:
    held = {"steering.coeffs": {1.0000001, 400.0}, "models": {"a"}}
    wanted = {"steering.coeffs": {1.0000002, 400.0, 7.0}, "models": {"a", "b"}}
    (line,) = removals_of(held, wanted)
    assert line.startswith("steering.coeffs: 1.0000001 is gone (")


def test_a_persona_output_of_another_sweep_is_refused_with_reasons(
    persona_folder: Path, tmp_path: Path
) -> None:
    storage = StorageSpec(str(tmp_path)).open()
    sweep = persona_sweep(persona_folder)
    record = {"identity": sweep.identity(), "spec": sweep.resolved_spec(), "outcome": "done"}
    output = PersonaOutput(storage, Ledger(storage), record)
    job = PersonaJob()
    check_same_sweep(job, persona_sweep(persona_folder, "steering.coeffs=[7]"), output)
    with pytest.raises(UserError) as caught:
        check_same_sweep(job, persona_sweep(persona_folder, "generation.seed=5"), output)
    (line,) = caught.value.lines
    assert "generation.seed: 0 -> 5 (it decides the text of every answer)" in line
    assert "Only models, traits, layers, coeffs, positions, data sets of side effects" in line
