"""A judge that fails ends no run: what it has judged is kept, and never asked for again."""

from __future__ import annotations

import json
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from jobs.persona.judges.endpoint import PROBE
from tests.support.job_cases import parts_of, written
from tests.support.judge_server import JudgeServer, Reply, first_tokens, judge_server
from tests.support.personas import KEY, judge_spec, save_chat_model, write_persona_spec
from tests.support.sweeps import Finished, steersweep

BAD_GATEWAY, UNAUTHORIZED, NOT_FOUND = 502, 401, 404
KEEP_ALL = {"positive_at_least": 0, "negative_below": 100, "coherence_at_least": 0}


@pytest.fixture(scope="module")
def chat(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_chat_model(tmp_path_factory.mktemp("chat") / "model")


@pytest.fixture(autouse=True)
def environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("OPENAI_BASE_URL", "OPENAI_ORG_ID", "OPENAI_PROJECT_ID"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("NO_PROXY", "*")
    monkeypatch.setenv("OPENAI_API_KEY", KEY)


@dataclass
class Moods:
    """What the server says; ``trouble`` is asked first, and gives a status or None.

    Attributes:
        judged: how often each prompt was answered with a score.
    """

    trouble: Callable[[str, int], int | None] = lambda _prompt, _num: None
    judged: Counter[str] = field(default_factory=Counter)
    lock: threading.Lock = field(default_factory=threading.Lock)

    def answer(self, prompt: str, num_before: int) -> Reply:
        if prompt == PROBE:
            return self.trouble(prompt, 0) or first_tokens({"85": 1.0})
        with self.lock:
            status = self.trouble(prompt, sum(self.judged.values()))
            if status is not None:
                return status
            self.judged[prompt] += 1
        return first_tokens({str(len(prompt) % 90): 0.6, "9": 0.3})


@pytest.fixture
def moods() -> Moods:
    return Moods()


@pytest.fixture
def server(moods: Moods) -> Iterator[JudgeServer]:
    with judge_server(moods.answer) as running:
        yield running


@pytest.fixture
def spec(chat: Path, server: JudgeServer, tmp_path: Path) -> Path:
    judge = judge_spec(server.openai_url) | {"concurrency": 2, "max_retries": 0}
    compute = {"executor": "in_process", "examples_per_task": 4}
    return write_persona_spec(tmp_path, chat, judge=judge, filter=KEEP_ALL, compute=compute)


def run(spec: Path) -> Finished:
    done = steersweep("run", str(spec))
    assert "Traceback" not in done.out + done.err
    assert KEY not in done.out + done.err
    return done


def outcome(spec: Path) -> str:
    record = json.loads((spec.parent / "out" / "run.json").read_text())
    return str(record["outcome"])


def check_the_same_command_finishes(spec: Path, moods: Moods, tmp_path: Path) -> None:
    """What was judged before was not asked for again, and the rows are those of a healthy run."""
    output = spec.parent / "out"
    before = written(output)
    moods.trouble = lambda _prompt, _num: None
    done = run(spec)
    assert done.code == 0, done
    assert outcome(spec) == "done"
    assert set(moods.judged.values()) == {1}, "something was paid for twice"
    now = written(output)
    assert {key: now[key] for key in before} == before
    healthy = steersweep("run", str(spec), "--output", str(tmp_path / "healthy"))
    assert healthy.code == 0, healthy
    assert parts_of(str(output)) == parts_of(str(tmp_path / "healthy"))


def test_some_queries_fail(spec: Path, moods: Moods, tmp_path: Path) -> None:
    moods.trouble = lambda prompt, _: (
        BAD_GATEWAY if len(prompt) % 5 == 0 and prompt != PROBE else None
    )
    done = run(spec)
    assert done.code == 1, done
    assert "verdicts failed; all others are kept" in done.err
    assert outcome(spec) == "failed tasks"
    assert moods.judged
    check_the_same_command_finishes(spec, moods, tmp_path)


def test_a_key_that_is_refused_from_the_start(spec: Path, moods: Moods, tmp_path: Path) -> None:
    moods.trouble = lambda _prompt, _num: UNAUTHORIZED
    done = run(spec)
    assert done.code == 2, done
    (line,) = done.err.splitlines()
    assert "key" in line
    assert not moods.judged
    assert not (spec.parent / "out" / "run.json").exists(), "nothing is written for such a judge"
    moods.trouble = lambda _prompt, _num: None
    assert run(spec).code == 0


def test_a_key_that_is_refused_half_way(spec: Path, moods: Moods, tmp_path: Path) -> None:
    moods.trouble = lambda _prompt, num: UNAUTHORIZED if num >= 9 else None
    done = run(spec)
    assert done.code == 2, done
    assert "key" in done.err.splitlines()[-1]
    assert outcome(spec) == "stopped"
    assert sum(moods.judged.values()) == 9
    check_the_same_command_finishes(spec, moods, tmp_path)


def test_a_judge_that_dies_half_way(spec: Path, moods: Moods, tmp_path: Path) -> None:
    moods.trouble = lambda _prompt, num: BAD_GATEWAY if num >= 9 else None
    done = run(spec)
    assert done.code in (1, 2), done
    assert "queries in a row failed" in done.err or "verdicts failed" in done.err
    assert sum(moods.judged.values()) == 9
    check_the_same_command_finishes(spec, moods, tmp_path)
