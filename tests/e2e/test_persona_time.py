"""The time that ``plan`` gives for a persona sweep, held against the run that follows."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from cluster.replica import Replica
from cluster.tasks import Receipt
from steering_core.layout import text_config
from tests.support.personas import save_chat_model, save_judge_model, write_persona_spec
from tests.support.sweeps import steersweep

WORDS = {"kind": "word_list", "words": {name: ["a", "e", "i"] for name in ("kind", "sly")}}
PASSING = {"positive_at_least": 0, "negative_below": 100, "coherence_at_least": 0}
FACTOR = 3.0


@pytest.fixture(scope="module")
def chat(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_chat_model(tmp_path_factory.mktemp("chat") / "model")


def planned(spec: Path, *options: str) -> tuple[dict[str, Any], str]:
    found = steersweep("plan", str(spec), "--json", *options)
    assert found.code == 0, found
    said = steersweep("plan", str(spec), "--seconds", "0")
    return json.loads(found.out), said.out


def test_the_time_is_that_of_the_run(
    chat: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec = write_persona_spec(
        tmp_path, chat, judge=WORDS, filter=PASSING,
        generation={"max_new_tokens": 48},
        contrast={"rollouts": 4},
        steering={"layers": [2, 3], "coeffs": [-3, 0, 5], "rollouts": 4},
        compute={"executor": "in_process", "examples_per_task": 48},
    )  # fmt: skip
    plan, without = planned(spec)
    assert "time unknown on 1 replica (cpu)" in without
    assert "not measured (--seconds 0)" in without
    most = plan["at_most_seconds"] - plan["startup_seconds"]
    assert plan["seconds"] is None, "no answer is there, so no mean length is known"
    assert set(plan["measured"]["chat"]["phases"]) == {"contrast", "steered"}
    took = []
    run = Replica.run

    def noting(replica: Replica, *args: Any) -> Any:
        outcome = run(replica, *args)
        if isinstance(outcome, Receipt):
            took.append(outcome.duration_s)
        return outcome

    monkeypatch.setattr(Replica, "run", noting)
    assert steersweep("run", str(spec), "--no-figures").code == 0
    monkeypatch.undo()
    # Random weights end few answers early: the bound is also an estimate.
    assert 1 / FACTOR < most / sum(took) < FACTOR

    grown, _ = planned(spec, "--set", "steering.coeffs=[-3, 0, 5, 7]")
    mean = grown["measured"]["chat"]["mean_new_tokens"]
    assert 0 < mean <= 48
    assert 0 < grown["seconds"] <= grown["at_most_seconds"] * 1.001
    done, _ = planned(spec)
    assert done["seconds"] is None
    assert done["measured"] == {}


def test_replicas_divide_the_time_and_a_local_judge_is_measured(chat: Path, tmp_path: Path) -> None:
    judge = {"kind": "local", "path": str(save_judge_model(tmp_path / "judge"))}
    spec = write_persona_spec(tmp_path, chat, judge=judge, filter=PASSING)
    plan, _ = planned(spec, "--replicas", "2", "--seconds", "2")
    assert plan["num_replicas"] == 2
    assert plan["measured"]["judge"]["query_s"] > 0
    alone, _ = planned(spec, "--seconds", "2")
    assert alone["num_replicas"] == 1
    work = [of["at_most_seconds"] - of["startup_seconds"] for of in (plan, alone)]
    assert work[0] < work[1]
    assert "judge" not in plan["not_in_seconds"]


def test_memory_is_weights_and_the_cache_of_all_slots(chat: Path, tmp_path: Path) -> None:
    spec = write_persona_spec(tmp_path, chat, judge=WORDS, generation={"max_new_tokens": 200})
    plan, said = planned(spec, "--seconds", "0")
    assert plan["at_most_seconds"] is None
    memory = plan["memory"]["chat"]
    from transformers import AutoConfig

    config = text_config(AutoConfig.from_pretrained(chat))
    width = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    per_column = 2 * 4 * config.num_hidden_layers * config.num_key_value_heads * width
    num_columns = memory["streams_bytes"] / per_column / 8  # eight answers of a task at a time
    assert num_columns == int(num_columns)
    assert 200 < num_columns < 400
    assert memory["weights_bytes"] > 0
    assert "memory" in said
