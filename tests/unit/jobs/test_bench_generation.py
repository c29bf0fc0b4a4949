"""The bench of generation: its loops write the same answers, and it says what it measured."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from jobs.bench.__main__ import main
from jobs.bench.generate import (
    GenerateOptions,
    bench_generate,
    in_batches,
    in_slots,
    one_at_a_time,
    rows_of,
)
from jobs.bench.shapes import SHAPES, build_shape
from steersweep.errors import UserError

SMALL = GenerateOptions(
    shape="tiny", coeffs=(0.0, 2.0), device="cpu", threads=1, prompts=5, new_tokens=6,
    rows_at_once=4, alone=3, repeats=1,
)  # fmt: skip


def test_all_loops_write_the_same_answers_at_any_length() -> None:
    torch.set_num_threads(1)
    model = build_shape("tiny", torch.device("cpu"), torch.float32)
    for ends_differ in (False, True):
        rows = rows_of(SMALL, model, ends_differ=ends_differ)
        ends = [row.max_new_tokens for row in rows]
        assert (len(set(ends)) > 1) == ends_differ
        answers = one_at_a_time(model, rows)
        assert [len(answer) for answer in answers] == ends
        assert in_batches(model, rows, 4) == answers
        assert in_slots(model, rows, 4) == answers


def test_answers_are_steered_and_their_lengths_are_drawn_once() -> None:
    torch.set_num_threads(1)
    model = build_shape("tiny", torch.device("cpu"), torch.float32)
    rows = rows_of(SMALL, model, ends_differ=False)
    answers = one_at_a_time(model, rows)
    assert any(answers[n] != answers[n + 1] for n in range(0, len(rows), 2))
    once, twice = (rows_of(SMALL, model, ends_differ=True) for _ in "ab")
    assert [r.max_new_tokens for r in once] == [r.max_new_tokens for r in twice]
    assert [r.prompt_ids for r in once] == [r.prompt_ids for r in rows]


def test_a_bench_of_generation_reports_what_it_measured(tmp_path: Path) -> None:
    said: list[str] = []
    file = tmp_path / "bench.json"
    result = bench_generate(replace(SMALL, json=str(file)), said.append)
    written = json.loads(file.read_text())
    assert written == json.loads(json.dumps(result.as_json()))
    assert written["equal"]["num_tokens"] == 5 * 2 * 6
    assert written["different"]["num_tokens"] < 5 * 2 * 6
    for ends in ("equal", "different"):
        assert written[ends]["alone_equal"] == written[ends]["batched_equal"] == 1
        for other in ("plain", "plain_batched"):
            assert written[f"generate_{ends}_vs_{other}"] > 0
    assert written["mixed_vs_alike"] > 0
    for words in ("(a) one prompt at a time", "(b) plain", "(c) 4 slots", "32 configurations"):
        assert words in said[-1]


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"model": "x"}, "not both"),
        ({"prompts": 0}, "--prompts must be at least 1"),
        ({"new_tokens": 1}, "--new-tokens must be at least 2"),
        ({"coeffs": ()}, "--coeffs"),
        ({"json": "nowhere/f.json"}, "does not exist"),
    ],
)
def test_what_a_user_of_generation_must_change_is_said(
    changed: dict[str, Any], message: str
) -> None:
    with pytest.raises(UserError, match=message):
        bench_generate(replace(SMALL, **changed), lambda _: None)


def test_the_plain_module_takes_generate(capsys: pytest.CaptureFixture[str]) -> None:
    arguments = "--generate --shape tiny --prompts 2 --new-tokens 3 --coeffs 1 --repeats 1"
    assert main([*arguments.split(), "--device", "cpu", "--threads", "1"]) == 0
    assert "(c) 64 slots" in capsys.readouterr().out


def test_qwen_shapes_have_the_parameters_of_the_known_models() -> None:
    from transformers import AutoConfig, AutoModelForCausalLM

    for shape, billions in {"qwen2.5-1.5b": 1.544, "qwen2.5-7b": 7.616}.items():
        family, options = SHAPES[shape]
        with torch.device("meta"):
            model = AutoModelForCausalLM.from_config(AutoConfig.for_model(family, **options))
        assert sum(p.numel() for p in model.parameters()) / 1e9 == pytest.approx(billions, abs=1e-3)
