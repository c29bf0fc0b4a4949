"""Whatever is wrong with a persona sweep's inputs: one clear line, exit code 2, nothing written."""

from __future__ import annotations

import json
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from jobs.persona.judges.spec import LocalJudgeSpec
from tests.support.judge_server import judge_server
from tests.support.personas import (
    KEY,
    TEMPLATE,
    judge_spec,
    save_chat_model,
    write_persona_spec,
)
from tests.support.sweeps import steersweep

Document = dict[str, Any]


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("models")
    return {
        "chat": save_chat_model(folder / "chat"),
        "base": save_chat_model(folder / "base", template=None),
        "dated": save_chat_model(
            folder / "dated",
            "{% if date_string is not defined %}{% set date_string = strftime_now('%d %b %Y') %}"
            "{% endif %}{{ date_string }}" + TEMPLATE,
        ),
        "always dated": save_chat_model(
            folder / "always-dated", "{{ strftime_now('%d %b %Y') }}" + TEMPLATE
        ),
        "no system": save_chat_model(
            folder / "no-system",
            "{% if messages[0]['role'] == 'system' %}{{ raise_exception('no system') }}{% endif %}"
            "{% for m in messages %}{{ m['content'] }}{% endfor %}",
        ),
    }


def trait(**changed: Any) -> Callable[[Document, Path], None]:
    """Another content of the first trait's file; a key that is None is left out."""

    def change(document: Document, _folder: Path) -> None:
        path = Path(document["traits"]["kind"]["path"])
        content = {**json.loads(path.read_text()), **changed}
        path.write_text(json.dumps({k: v for k, v in content.items() if v is not None}))

    return change


def key(name: str, value: Any) -> Callable[[Document, Path], None]:
    def change(document: Document, _folder: Path) -> None:
        *parents, last = name.split(".")
        at = document
        for parent in parents:
            at = at.setdefault(parent, {})
        at[last] = value

    return change


CASES: dict[str, tuple[Callable[[Document, Path], None], tuple[str, ...]]] = {
    "no trait file": (key("traits.kind.path", "nowhere.json"), ("nowhere.json", "cannot be read")),
    "missing key": (trait(eval_prompt=None), ("kind.json", "eval_prompt is missing")),
    "no answer": (trait(eval_prompt="How kind? {question}"), ("kind.json", "has no {answer}")),
    "no questions": (trait(questions=[]), ("kind.json", "no questions")),
    "half a pair": (trait(instruction=[{"pos": "Be kind."}]), ("instruction 1", "pos and neg")),
    "layer": (key("steering.layers", [2, 9]), ("layer must be in 1..4", "got 9")),
    "no traits": (key("traits", {}), ("traits", "needs at least 1 entry")),
    "judge": (key("judge", {"kind": "oracle"}), ("judge", "oracle")),
    "a key in the file": (
        key("judge", {"kind": "openai", "model": "m", "key_variable": KEY}),
        ("key_variable", "environment variable"),
    ),
    "unknown key": (key("generation.max_tokens", 5), ("generation.max_tokens", "max_new_tokens")),
    "no judge model": (
        key("judge", {"kind": "openai"}),
        ("judge.model is required with kind: openai",),
    ),
    "no judge kind": (key("judge", {}), ("judge.kind is required; one of openai, anthropic",)),
    "key of another judge": (
        key("judge.temperature", 1),
        ("unknown key judge.temperature with kind: word_list; that is for kind: openai",),
    ),
    "key of the other job": (key("protocol", "aligned"), ("it belongs to job stereoset",)),
    "key without its section": (key("seed", 1), ("did you mean generation.seed?",)),
    "range of layers": (key("steering.layers", "3-1"), ("steering.layers: must be", "goes up")),
    "positions": (key("steering.positions", ["answer"]), ("steering.positions", "answer")),
    "one float64": (
        key("steering.coeffs", ["0.1", "0.10000000000000000001"]),
        ("steering.coeffs", "are both 0.1"),
    ),
    "long question": (
        trait(questions=["How are you?", "why " * 500]),
        (
            "models.chat: trait kind, question 'why why",
            "under negative instruction 1",
            "and up to 12 new ones (generation.max_new_tokens)",
            "1,024 positions",
            "5 prompts are too long",
        ),
    ),
    "long answer": (
        key("generation.max_new_tokens", 1020),
        ("models.chat: trait ", "up to 1,020 new ones", "lower generation.max_new_tokens"),
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_bad_input_is_one_clear_line_and_writes_nothing(
    name: str, models: dict[str, Path], tmp_path: Path
) -> None:
    change, says = CASES[name]
    refused_before_anything(tmp_path, models["chat"], change, says)


@pytest.mark.parametrize(
    ("model", "generation", "says"),
    [
        ("base", {}, ("models.chat", "has no chat template", "instruction-tuned")),
        ("no system", {"system": "refuse"}, ("has no system role", "merge_into_user")),
        (
            "dated",
            {},
            (
                "models.chat: the chat template writes today's date",
                'generation.template: {date_string: "26 Jul 2024"}',
            ),
        ),
        (
            "always dated",
            {"template": {"date_string": "26 Jul 2024"}},
            ("writes today's date", "no option for the date"),
        ),
    ],
)
def test_a_model_that_cannot_be_asked_is_refused(
    model: str,
    generation: Document,
    says: tuple[str, ...],
    models: dict[str, Path],
    tmp_path: Path,
) -> None:
    change = key("generation", generation)
    refused_before_anything(tmp_path, models[model], change, says)


def test_a_judge_whose_template_writes_the_date_is_refused_until_the_spec_fixes_it(
    models: dict[str, Path], tmp_path: Path
) -> None:
    judge = {"kind": "local", "path": str(models["dated"])}
    says = ("judge (", "writes today's date", 'set judge.template: {date_string: "26 Jul 2024"}')
    refused_before_anything(tmp_path, models["chat"], key("judge", judge), says)
    fixed = LocalJudgeSpec.model_validate({**judge, "template": {"date_string": "1 May 2026"}})
    assert fixed.open([]).identity()["template"] == {"date_string": "1 May 2026"}


def test_a_dated_template_is_taken_once_the_spec_fixes_the_date(
    models: dict[str, Path], tmp_path: Path
) -> None:
    generation = {"template": {"date_string": "1 May 2026"}}
    spec = write_persona_spec(tmp_path, models["dated"], generation=generation)
    planned = steersweep("plan", str(spec))
    assert planned.code == 0, planned


def test_a_judge_that_is_not_there_or_refuses_the_key_is_known_at_once(
    models: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NO_PROXY", "*")
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{unused.getsockname()[1]}/v1"
        change = key("judge", judge_spec(url))
        refused_before_anything(tmp_path, models["chat"], change, ("judge m", "127.0.0.1"))
    with judge_server(lambda *_: 401) as server:
        change = key("judge", judge_spec(server.openai_url))
        says = ("refused the key in OPENAI_API_KEY", "HTTP 401")
        refused_before_anything(tmp_path, models["chat"], change, says)
    monkeypatch.delenv("OPENAI_API_KEY")
    change = key("judge", {"kind": "openai", "model": "m"})
    refused_before_anything(tmp_path, models["chat"], change, ("OPENAI_API_KEY",))


def refused_before_anything(
    folder: Path, model: Path, change: Callable[[Document, Path], None], says: tuple[str, ...]
) -> None:
    path = write_persona_spec(folder, model)
    document = yaml.safe_load(path.read_text())
    change(document, folder)
    path.write_text(yaml.safe_dump(document))
    before = sorted(p for p in folder.rglob("*"))
    refused = steersweep("run", str(path))
    assert refused.code == 2, refused
    line = " ".join(refused.err.split())
    assert line.startswith("error: ")
    assert all(text in line for text in says), line
    assert KEY not in line
    assert "Traceback" not in line
    assert sorted(p for p in folder.rglob("*")) == before


def test_stated_rates_give_no_time_of_generation(models: dict[str, Path], tmp_path: Path) -> None:
    spec = write_persona_spec(tmp_path, models["chat"])
    refused = steersweep("plan", str(spec), "--device", "h100")
    assert refused.code == 2
    assert "generation times are only measured" in " ".join(refused.err.split())
