"""Which answers a persona sweep writes: each once, seeds that pair them, tasks of bounded size."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest

from jobs.persona.plan import answer_tasks, contrast_rows, hook_point, most_tasks, steered_rows
from jobs.persona.resolve import PersonaSweep, resolve
from jobs.persona.spec import PersonaSpec
from jobs.spec import load_spec
from steering_core import xla
from steering_core.errors import InputError
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
    with pytest.raises(InputError, match="device is xla, where job persona does not run"):
        sweep_of(folder, "compute.device=xla")


def test_the_contrast_asks_every_question_under_every_instruction(folder: Path) -> None:
    rows = list(contrast_rows(sweep_of(folder, "contrast.rollouts=2"), "kind"))
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
    rows = list(steered_rows(sweep_of(folder, *changes), "kind"))
    cells = 2 * 3 * 2
    assert len({row.row_id for row in rows}) == len(rows) == 2 * 2 * cells
    assert set(Counter(row.seed for row in rows).values()) == {cells}
    assert {row.apply for row in rows} == {"blocks.1.resid_post", "blocks.2.resid_post"}
    assert str(hook_point(1)) == "blocks.0.resid_post"


def test_tasks_hold_every_row_once_and_are_named_after_what_they_hold(folder: Path) -> None:
    sweep = sweep_of(folder)
    rows = list(steered_rows(sweep, "kind"))
    digests = {2: "a", 3: "b"}

    def tasks(of: PersonaSweep = sweep, vectors: dict[int, str] = digests) -> list[str]:
        model = of.models["chat"]
        made = answer_tasks(of, model, "kind", "steered", rows, ("vectors/v", vectors))
        assert [row for task in made for row in task.payload.rows] == rows
        assert max(len(task.payload.rows) for task in made) <= 8
        return [task.id for task in made]

    assert tasks() == tasks()
    assert len(tasks()) == 2
    assert most_tasks(sweep) == 2 * 2
    assert most_tasks(sweep_of(folder, "steering.questions=3", "steering.rollouts=4")) == 2 * 9
    assert not set(tasks()) & set(tasks(vectors={2: "a", 3: "c"}))
    assert not set(tasks()) & set(tasks(sweep_of(folder, "generation.temperature=0.5")))
    assert tasks() == tasks(sweep_of(folder, "generation.rows_at_once=2"))
