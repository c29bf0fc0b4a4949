"""Which answers a persona sweep writes: each once, seeds that pair them, tasks of bounded size."""

from __future__ import annotations

import json
import shutil
from collections import Counter
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from jobs.identity import changed_keys
from jobs.persona.plan import answer_tasks, contrast_rows, hook_point, most_tasks, steered_rows
from jobs.persona.resolve import PersonaSweep, resolve
from jobs.persona.spec import GenerationSpec, PersonaSpec
from jobs.persona.worker import sampling_of
from jobs.spec import load_spec
from steering_core import xla
from steering_core.chat import ChatFormat
from steersweep.errors import UserError
from tests.support.personas import save_chat_model, write_persona_spec


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("plan")
    save_chat_model(folder / "model")
    return folder


def sweep_of(folder: Path, *changes: str) -> PersonaSweep:
    spec = write_persona_spec(folder, folder / "model")
    return resolve(load_spec(PersonaSpec, str(spec), changes))


def test_xla_is_refused_by_name(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(xla, "is_installed", lambda: True)
    with pytest.raises(UserError, match="device is xla, which job persona does not support"):
        sweep_of(folder, "compute.device=xla")


def test_the_contrast_asks_every_question_under_every_instruction(folder: Path) -> None:
    sweep = sweep_of(folder, "contrast.rollouts=2")
    rows = list(contrast_rows(sweep, sweep.models["chat"], "kind"))
    assert len({row.row_id for row in rows}) == len(rows) == 2 * 3 * 2 * 2
    assert len({row.seed for row in rows}) == len(rows)
    assert {row.system for row in rows} == {
        "You are a kind assistant. Be kind.",
        "You are a kind assistant. Smile.",
        "You are a helpful assistant. Be cold.",
        "You are a helpful assistant. Frown.",
    }
    assert {row.apply for row in rows} == {None}


def test_cells_of_a_question_and_rollout_share_their_random_numbers(folder: Path) -> None:
    changes = ("steering.rollouts=2", "steering.positions=[all, response]")
    sweep = sweep_of(folder, *changes)
    rows = list(steered_rows(sweep, sweep.models["chat"], "kind"))
    cells = 2 * 2 * 2 + 1
    assert len({row.row_id for row in rows}) == len(rows) == 2 * 2 * cells
    assert set(Counter(row.seed for row in rows).values()) == {cells}
    assert {row.apply for row in rows} == {None, "blocks.1.resid_post", "blocks.2.resid_post"}
    unsteered = [row for row in rows if row.coeff == 0]
    assert [row.row_id for row in unsteered] == ["q0.r0.c0", "q0.r1.c0", "q1.r0.c0", "q1.r1.c0"]
    assert {(row.layer, row.positions) for row in unsteered} == {(None, None)}
    assert str(hook_point(1)) == "blocks.0.resid_post"


def test_tasks_hold_every_row_once_and_are_named_after_what_they_hold(folder: Path) -> None:
    sweep = sweep_of(folder)
    rows = list(steered_rows(sweep, sweep.models["chat"], "kind"))
    digests = {2: "a", 3: "b"}

    def tasks(of: PersonaSweep = sweep, vectors: dict[int, str] = digests) -> list[str]:
        model = of.models["chat"]
        made = answer_tasks(of, model, "kind", "steered", rows, ("vectors/v", vectors))
        assert [row for task in made for row in task.payload.rows] == rows
        assert max(len(task.payload.rows) for task in made) <= 8
        return [task.id for task in made]

    assert tasks() == tasks()
    assert len(tasks()) == 2
    # Twelve contrasted answers of each trait; then 2 that nothing steers, and 8 that are steered.
    assert most_tasks(sweep) == 2 * 2
    more = sweep_of(folder, "steering.questions=3", "steering.rollouts=4")
    assert most_tasks(more) == 2 * (2 + 6)
    unsteered, steered = tasks()
    others = tasks(vectors={2: "a", 3: "c"})
    assert others[0] == unsteered, "these answers depend on no vector"
    assert others[1] != steered
    assert not set(tasks()) & set(tasks(sweep_of(folder, "generation.temperature=0.5")))
    assert tasks() == tasks(sweep_of(folder, "generation.rows_at_once=2"))


def test_cuda_gets_larger_tasks_and_more_slots_unless_the_output_or_the_spec_says_otherwise(
    folder: Path,
) -> None:
    changes = ("compute.examples_per_task=auto", "contrast.rollouts=100")
    changes += ("models.chat.dtype=float32",)
    spec = load_spec(PersonaSpec, str(write_persona_spec(folder, folder / "model")), changes)

    def tasks(device: str, *, rows_per_task: int | None = None, size: Any = "auto") -> list[Any]:
        compute = spec.compute.model_copy(update={"examples_per_task": size})
        own = spec.model_copy(update={"compute": compute})
        sweep = resolve(own, device, rows_per_task=rows_per_task)
        model = sweep.models["chat"]
        rows = list(contrast_rows(sweep, model, "kind"))
        assert len(rows) == 1200
        return answer_tasks(sweep, model, "kind", "contrast", rows)

    def sizes(of: list[Any]) -> list[int]:
        return [len(task.payload.rows) for task in of]

    assert sizes(tasks("cpu")) == sizes(tasks("mps")) == [128] * 9 + [48]
    assert sizes(tasks("cuda")) == [1024, 176]
    assert [t.id for t in tasks("cuda", rows_per_task=128)] == [t.id for t in tasks("cpu")]
    assert [t.id for t in tasks("cpu", rows_per_task=1024)] == [t.id for t in tasks("cuda")]
    assert sizes(tasks("cuda", size=700)) == sizes(tasks("cpu", size=700)) == [700, 500]

    assert [spec.generation.num_slots(device) for device in ("cpu", "mps", "cuda")] == [64, 64, 256]
    given = load_spec(
        PersonaSpec, str(folder / "persona.yaml"), ("generation.rows_at_once=7",)
    ).generation
    assert given.num_slots("cuda") == given.num_slots("cpu") == 7
    with pytest.raises(UserError, match="rows_at_once"):
        load_spec(PersonaSpec, str(folder / "persona.yaml"), ("generation.rows_at_once=0",))


def test_coefficients_that_differ_in_the_eighth_digit_have_ids_of_their_own(folder: Path) -> None:
    sweep = sweep_of(folder, "steering.coeffs=[1.0000001, 1.0000002, -3]", "steering.layers=[2]")
    rows = list(steered_rows(sweep, sweep.models["chat"], "kind"))
    assert [row.row_id for row in rows if row.question_index == 0] == [
        "q0.r0.L2.c1.0000001.response",
        "q0.r0.L2.c1.0000002.response",
        "q0.r0.L2.c-3.response",
    ]


def ids_of_all(sweep: PersonaSweep) -> list[str]:
    model = sweep.models["chat"]
    return [
        task.id
        for phase, rows_of in (("contrast", contrast_rows), ("steered", steered_rows))
        for task in answer_tasks(
            sweep, model, "kind", phase, list(rows_of(sweep, model, "kind")),
            ("vectors/v", {2: "a", 3: "b"}),
        )
    ]  # fmt: skip


def test_ids_cover_what_is_asked_and_what_ends_an_answer(folder: Path, tmp_path: Path) -> None:
    shutil.copytree(folder / "model", tmp_path / "model")
    sweep = sweep_of(tmp_path)
    before, identity = ids_of_all(sweep), sweep.identity()

    generation = tmp_path / "model" / "generation_config.json"
    content = json.loads(generation.read_text())
    generation.write_text(json.dumps({**content, "eos_token_id": [1, 17]}))
    ends_otherwise = sweep_of(tmp_path)
    assert not set(before) & set(ids_of_all(ends_otherwise))
    assert changed_keys(identity, ends_otherwise.identity()) == [
        "models.chat (eos_ids): [1] -> [1, 17]"
    ]
    generation.write_text(json.dumps(content))
    assert ids_of_all(sweep_of(tmp_path)) == before

    # The template writes the token's text: same template, same ids of special tokens.
    settings = tmp_path / "model" / "tokenizer_config.json"
    settings.write_text(json.dumps(json.loads(settings.read_text()) | {"bos_token": "<eos>"}))
    asks_otherwise = sweep_of(tmp_path)
    assert not set(before) & set(ids_of_all(asks_otherwise))
    changed = changed_keys(identity, asks_otherwise.identity())
    assert [line.split(":")[0] for line in changed] == [
        "models.chat (prompts of kind)", "models.chat (prompts of sly)", "models.chat (tokenizer)",
    ]  # fmt: skip


def test_each_prompt_is_rendered_once_however_many_cells_ask_it(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rendered: list[tuple[str, str | None]] = []
    prompt_ids = ChatFormat.prompt_ids

    def counted(self: ChatFormat, user: str, system: str | None = None) -> tuple[int, ...]:
        rendered.append((user, system))
        return prompt_ids(self, user, system)

    monkeypatch.setattr(ChatFormat, "prompt_ids", counted)
    sweep = sweep_of(folder, "steering.coeffs=[1,2,3,4,5,6,7,8,9]", "steering.rollouts=20")
    rows = list(steered_rows(sweep, sweep.models["chat"], "kind"))
    ids_of_all(sweep)
    assert len(rows) == 2 * 20 * 2 * 9
    assert max(Counter(rendered).values()) == 1


def test_a_replica_that_ends_answers_otherwise_is_refused() -> None:
    config = SimpleNamespace(eos_token_id=[2, 7])
    model: Any = SimpleNamespace(name="m", module=SimpleNamespace(config=config))
    spec = GenerationSpec.model_validate({"max_new_tokens": 3})
    tokenizer = SimpleNamespace(eos_token_id=2)
    assert sampling_of(spec, model, tokenizer, (2, 7)).eos_ids == (2, 7)
    with pytest.raises(UserError, match=r"ends answers with the tokens \[2, 7\].*read \[2\] from"):
        sampling_of(spec, model, tokenizer, (2,))
