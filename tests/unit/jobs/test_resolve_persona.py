"""What resolving a persona spec decides and refuses; no weights are loaded."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from jobs.persona import resolve as resolve_module
from jobs.persona.resolve import ROWS_PER_TASK, PersonaSweep, resolve
from jobs.persona.spec import PersonaSpec
from jobs.spec import load_spec
from steersweep.errors import UserError
from tests.support.personas import QUESTIONS, save_chat_model, write_persona_spec


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_chat_model(tmp_path_factory.mktemp("resolve") / "model")


def sweep_of(folder: Path, model: Path, device: str = "cpu", **changes: Any) -> PersonaSweep:
    ids = changes.pop("ids", 2)
    spec = write_persona_spec(folder, model, **changes)
    return resolve(load_spec(PersonaSpec, str(spec)), device, ids)


def steering(layers: Any, **more: Any) -> dict[str, Any]:
    return {"layers": layers, "coeffs": [-3, 0, 5], "questions": 2, **more}


def test_a_layer_that_the_model_lacks_is_refused_and_all_are_those_it_has(
    tmp_path: Path, model: Path
) -> None:
    with pytest.raises(UserError, match=r"models\.chat .*5"):
        sweep_of(tmp_path, model, steering=steering([1, 5]))
    assert sweep_of(tmp_path, model, steering=steering("all")).spec.steering.layers == (1, 2, 3, 4)


def test_the_device_decides_dtype_and_the_size_of_tasks_of_a_new_output(
    tmp_path: Path, model: Path
) -> None:
    here, there = sweep_of(tmp_path, model), sweep_of(tmp_path, model, "cuda")
    assert (here.device, here.models["chat"].dtype) == ("cpu", "float32")
    assert (there.device, there.models["chat"].dtype) == ("cuda", "bfloat16")
    assert here.rows_per_task == ROWS_PER_TASK < there.rows_per_task
    assert there.resolved_spec()["compute"]["device"] == "cuda"
    assert there.resolved_spec()["models"]["chat"]["dtype"] == "bfloat16"
    assert resolve(here.spec, "cuda", rows_per_task=7).rows_per_task == 7


def test_a_model_of_the_hub_is_pinned_to_its_commit_and_a_folder_is_not(
    tmp_path: Path, model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    here = sweep_of(tmp_path, model)
    assert here.resolved_spec()["models"]["chat"]["revision"] is None
    chat = here.models["chat"]
    tokenizer = resolve_module.load_tokenizer(chat.source)
    monkeypatch.setattr(resolve_module, "load_tokenizer", lambda _: tokenizer)
    monkeypatch.setattr(
        resolve_module, "read_facts", lambda *_: replace(chat.facts, commit="c0ffee")
    )
    monkeypatch.setattr(resolve_module, "read_eos_ids", lambda *_: chat.eos_ids)
    hub = sweep_of(tmp_path, model, models={"chat": {"path": "someone/chat", "revision": "main"}})
    assert hub.models["chat"].source.revision == "c0ffee"
    assert hub.resolved_spec()["models"]["chat"]["revision"] == "c0ffee"


def test_steered_questions_are_the_first_ones_of_the_trait(tmp_path: Path, model: Path) -> None:
    found = sweep_of(tmp_path, model)
    assert found.traits["sly"].steered_questions == tuple(QUESTIONS[:2])
    assert found.traits["sly"].vectors is None


def test_the_identity_names_what_decides_numbers_and_not_the_grid(
    tmp_path: Path, model: Path
) -> None:
    found = sweep_of(tmp_path, model).identity()
    assert found["ids"] == 2
    assert {key for key in found if key.startswith(("models.", "traits."))} == {
        "models.chat (weights)",
        "models.chat (tokenizer)",
        "models.chat (chat_template)",
        "models.chat (dtype)",
        "models.chat (eos_ids)",
        "models.chat (prompts of kind)",
        "models.chat (prompts of sly)",
        "traits.kind (content)",
        "traits.sly (content)",
    }
    grown = steering([1, 2, 3], positions=["all", "prompt"])
    assert sweep_of(tmp_path, model, steering=grown).identity() == found
    other = {
        "steering": steering([2, 3], rollouts=2),
        "generation": {"max_new_tokens": 13},
    }
    for key, value in other.items():
        assert sweep_of(tmp_path, model, **{key: value}).identity() != found, key


def test_the_identity_of_an_earlier_version_lacks_what_it_did_not_know(
    tmp_path: Path, model: Path
) -> None:
    now, old = (sweep_of(tmp_path, model, ids=ids).identity() for ids in (2, 1))
    assert {key: now[key] for key in old} == old
    assert {key.replace("kind", "T").replace("sly", "T") for key in now.keys() - old.keys()} == {
        "ids",
        "models.chat (eos_ids)",
        "models.chat (prompts of T)",
    }
