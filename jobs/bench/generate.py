"""Steered generation: one prompt at a time, plain batches, and slots of mixed configurations.

All loops write the same answers: the likeliest tokens, each answer to a length drawn once for its
prompt and coefficient, since random weights do not end their answers. No loop may look ahead: a
plain batch runs to its longest answer, and the slots do not sort by a length they could not know.

Shapes: D width.
"""

from __future__ import annotations

import json
import os
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers

from jobs.bench.machine import Machine, bench_device, machine_of
from jobs.bench.measure import matmul_flops_per_s
from jobs.bench.options import check_one_model, check_options
from jobs.bench.report import grid
from jobs.bench.shapes import build_shape
from jobs.resources import model_source
from steering_core.generation import GenerationRow, generate
from steering_core.hook_points import HookPoint
from steering_core.interventions import Intervention
from steering_core.models import LoadedModel, load_model, resolve_dtype
from steering_core.sampling import Sampling
from steering_core.steerer import ActivationSteerer
from steering_core.timing import seconds

COEFFS = (0.0, 0.5, 1.0, 1.5, 2.0, 2.5)
_SHORTEST_PROMPT, _LONGEST_PROMPT = 24, 72
_NUM_MIXED, _NEW_TOKENS_MIXED, _REPEATS_MIXED = 32, 16, 8


@dataclass(frozen=True)
class GenerateOptions:
    """What to measure.

    Attributes:
        shape: name of a random-weight shape; ``qwen2-small`` where neither is given.
        model: a local folder or a hub id, instead of a shape.
        coeffs: each prompt is answered under each.
        device, dtype, threads: as for the scoring bench.
        prompts: number of prompts, 24 to 72 random tokens each.
        new_tokens: most tokens of an answer.
        rows_at_once: slots, and prompts of a plain batch.
        alone: answers that are written one at a time; that loop is slow and its rate is steady.
        repeats: times that each loop is timed; the median counts.
        json: file for the results.
    """

    shape: str | None = None
    model: str | None = None
    coeffs: tuple[float, ...] = COEFFS
    device: str = "auto"
    dtype: str = "auto"
    threads: int | None = None
    prompts: int = 64
    new_tokens: int = 64
    rows_at_once: int = 64
    alone: int = 12
    repeats: int = 3
    json: str | None = None

    def check(self) -> None:
        """Raise UserError for a number that cannot be measured."""
        check_one_model(self.shape, self.model)
        at_least = {"prompts": 1, "new_tokens": 2, "rows_at_once": 1, "alone": 1, "repeats": 1}
        check_options(self, at_least)


@dataclass(frozen=True)
class Rates:
    """Tokens of answers per second, one way their lengths are drawn.

    Attributes:
        num_tokens: of all answers.
        alone, batched, slots: rates of the three loops.
        alone_equal, batched_equal: share of the answers that the slots wrote to the same token.
    """

    num_tokens: int
    alone: float
    batched: float
    slots: float
    alone_equal: float
    batched_equal: float


@dataclass(frozen=True)
class GenerateResult:
    """Everything that a bench of generation measured.

    Attributes:
        equal, different: answers of one length, and of lengths from 1 to the most, each as likely.
        mixed_s, alike_s: best wall time of 32 rows with 32 configurations, and of 32 with one.
    """

    machine: Machine
    shape: str
    block: int
    options: GenerateOptions
    equal: Rates
    different: Rates
    mixed_s: float
    alike_s: float

    def as_json(self) -> dict[str, Any]:
        """Plain data: the names other tools rely on at the top, details below them."""
        details = asdict(self)
        machine = details.pop("machine")
        named: dict[str, float] = {}
        for ends, rates in (("equal", self.equal), ("different", self.different)):
            named |= {
                f"generate_{ends}_vs_plain": rates.slots / rates.alone,
                f"generate_{ends}_vs_plain_batched": rates.slots / rates.batched,
                f"generate_{ends}_tokens_per_s": rates.slots,
            }
        return {**named, "mixed_vs_alike": self.mixed_s / self.alike_s, **machine, **details}


def bench_generate(options: GenerateOptions, say: Callable[[str], None]) -> GenerateResult:
    """Measure, print the table, and write the JSON file where one is asked for.

    Sets torch's number of threads and random seed.

    Raises:
        UserError: something the user must change; raised before anything is measured.
    """
    options.check()
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    transformers.logging.disable_progress_bar()
    transformers.logging.set_verbosity_error()
    if options.threads is not None:
        torch.set_num_threads(options.threads)
    started = time.monotonic()
    model = _load(options)
    say(f"{model.name} is ready after {time.monotonic() - started:.0f} s; measuring")
    block = model.layout.num_blocks // 2
    result = GenerateResult(
        machine=machine_of(model, matmul_flops_per_s(model.device, model.dtype)),
        shape=model.name,
        block=block,
        options=options,
        equal=_rates(model, rows_of(options, model, ends_differ=False), options),
        different=_rates(model, rows_of(options, model, ends_differ=True), options),
        **_mixed(model, options),
    )
    if options.json is not None:
        text = json.dumps(result.as_json(), indent=2) + "\n"
        Path(options.json).expanduser().write_text(text, encoding="utf-8")
    say(table(result))
    return result


def rows_of(
    options: GenerateOptions, model: LoadedModel, *, ends_differ: bool
) -> list[GenerationRow]:
    """Every prompt under every coefficient, prompt by prompt, with the length of its answer."""
    rng = np.random.default_rng(0)
    config = model.layout.config
    vector = rng.standard_normal(int(config.hidden_size)).astype(np.float32)
    point = HookPoint(model.layout.num_blocks // 2, "resid_post")
    lengths = rng.integers(_SHORTEST_PROMPT, _LONGEST_PROMPT + 1, options.prompts)
    prompts = [tuple(rng.integers(3, int(config.vocab_size), n).tolist()) for n in lengths]
    most = options.new_tokens
    ends = rng.integers(1, most + 1, (options.prompts, len(options.coeffs)))
    return [
        GenerationRow(
            prompt_ids=prompt,
            steering=Intervention(point, vector, coeff),
            positions="response",
            max_new_tokens=int(ends[n, c]) if ends_differ else most,
        )
        for n, prompt in enumerate(prompts)
        for c, coeff in enumerate(options.coeffs)
    ]


def one_at_a_time(model: LoadedModel, rows: Sequence[GenerationRow]) -> list[tuple[int, ...]]:
    """Answers as the persona-vectors code writes them: ``model.generate`` with a hook."""
    return [_plain(model, [row])[0] for row in rows]


def in_batches(
    model: LoadedModel, rows: Sequence[GenerationRow], rows_at_once: int
) -> list[tuple[int, ...]]:
    """Answers of ``model.generate`` in batches, padded on the left, a coefficient at a time.

    Prompts of a batch are neighbours in length.
    """
    answers: dict[int, tuple[int, ...]] = {}
    coeffs = [0.0 if row.steering is None else row.steering.coeff for row in rows]
    for coeff in dict.fromkeys(coeffs):
        own = [number for number in range(len(rows)) if coeffs[number] == coeff]
        own.sort(key=lambda number: -len(rows[number].prompt_ids))
        for low in range(0, len(own), rows_at_once):
            numbers = own[low : low + rows_at_once]
            answers |= dict(zip(numbers, _plain(model, [rows[n] for n in numbers]), strict=True))
    return [answers[number] for number in range(len(rows))]


def in_slots(
    model: LoadedModel, rows: Sequence[GenerationRow], rows_at_once: int
) -> list[tuple[int, ...]]:
    """Answers of ``generate``."""
    most = max(row.max_new_tokens or 1 for row in rows)
    sampling = Sampling(max_new_tokens=most, eos_ids=(), greedy=True)
    found = generate(model, rows, sampling, rows_at_once=rows_at_once)
    return [answer.token_ids for answer in found]


def _plain(model: LoadedModel, rows: Sequence[GenerationRow]) -> list[tuple[int, ...]]:
    """Answers to the prompts of rows that are steered alike, each cut to its length."""
    steering = rows[0].steering
    assert steering is not None
    longest = max(len(row.prompt_ids) for row in rows)
    ids = torch.zeros(len(rows), longest, dtype=torch.int64)
    mask = torch.zeros_like(ids)
    for index, row in enumerate(rows):
        ids[index, longest - len(row.prompt_ids) :] = torch.tensor(row.prompt_ids)
        mask[index, longest - len(row.prompt_ids) :] = 1
    vector, block = torch.from_numpy(steering.vector).to(model.device), steering.point.block
    ends = [row.max_new_tokens or 1 for row in rows]
    with ActivationSteerer(model.module, vector, steering.coeff, block, rows[0].positions):
        found = model.module.generate(  # type: ignore[operator]
            ids.to(model.device),
            attention_mask=mask.to(model.device),
            max_new_tokens=max(ends),
            do_sample=False,
            eos_token_id=int(model.layout.config.vocab_size),  # no token: no answer ends early
            pad_token_id=0,
        )
    answers = found[:, longest:].tolist()
    return [tuple(answer[:end]) for answer, end in zip(answers, ends, strict=True)]


def _rates(model: LoadedModel, rows: list[GenerationRow], options: GenerateOptions) -> Rates:
    step = max(1, len(rows) // options.alone)
    # The step must not meet one coefficient only.
    few = [rows[(n * (step + 1)) % len(rows)] for n in range(min(options.alone, len(rows)))]
    at_few = [(n * (step + 1)) % len(rows) for n in range(len(few))]
    loops: dict[str, tuple[Callable[[], list[tuple[int, ...]]], Sequence[GenerationRow]]] = {
        "alone": (lambda: one_at_a_time(model, few), few),
        "batched": (lambda: in_batches(model, rows, options.rows_at_once), rows),
        "slots": (lambda: in_slots(model, rows, options.rows_at_once), rows),
    }
    one_at_a_time(model, few[:1])
    in_slots(model, rows[: options.rows_at_once], options.rows_at_once)
    took: dict[str, list[float]] = {name: [] for name in loops}
    answers: dict[str, list[tuple[int, ...]]] = {}

    def run(name: str) -> None:
        answers[name] = loops[name][0]()

    for _ in range(options.repeats):
        for name in loops:
            took[name].append(seconds(lambda name=name: run(name), model.device))  # type: ignore[misc]
    per_s = {
        name: sum(row.max_new_tokens or 0 for row in of) / statistics.median(took[name])
        for name, (_, of) in loops.items()
    }
    ours = answers["slots"]
    return Rates(
        num_tokens=sum(row.max_new_tokens or 0 for row in rows),
        **per_s,
        alone_equal=_share_equal(answers["alone"], [ours[n] for n in at_few]),
        batched_equal=_share_equal(answers["batched"], ours),
    )


def _share_equal(found: Sequence[tuple[int, ...]], wanted: Sequence[tuple[int, ...]]) -> float:
    return sum(a == b for a, b in zip(found, wanted, strict=True)) / len(wanted)


def _mixed(model: LoadedModel, options: GenerateOptions) -> dict[str, float]:
    """Best wall time of rows that differ in block, vector and coefficient, and of equal ones.

    The best of several in turn: a few per cent are less than what a busy machine adds to a median.
    """
    rng = np.random.default_rng(1)
    few = min(options.new_tokens, _NEW_TOKENS_MIXED)
    shaped = replace(options, prompts=_NUM_MIXED, coeffs=(1.0,), new_tokens=few)
    alike = rows_of(shaped, model, ends_differ=False)
    mixed = [
        replace(
            row,
            steering=Intervention(
                HookPoint(number % model.layout.num_blocks, "resid_post"),
                rng.standard_normal(int(model.layout.config.hidden_size)).astype(np.float32),
                0.1 * number,
            ),
        )
        for number, row in enumerate(alike)
    ]
    took: dict[str, list[float]] = {"mixed_s": [], "alike_s": []}
    for repeat in range(1 + _REPEATS_MIXED):
        for name, rows in (("mixed_s", mixed), ("alike_s", alike)):
            s = seconds(lambda rows=rows: in_slots(model, rows, _NUM_MIXED), model.device)  # type: ignore[misc]
            if repeat:
                took[name].append(s)
    return {name: min(times) for name, times in took.items()}


def _load(options: GenerateOptions) -> LoadedModel:
    device = bench_device(options.device)
    if options.model is not None:
        source = model_source(options.model)
        return load_model(source, device=options.device, dtype=options.dtype)
    dtype = resolve_dtype(options.dtype, device)
    return build_shape(options.shape or "qwen2-small", device, dtype)


def table(result: GenerateResult) -> str:
    """The result for a reader."""
    machine, options = result.machine, result.options
    equal, different = result.equal, result.different
    loops = {
        "(a) one prompt at a time": (equal.alone, different.alone),
        f"(b) plain, {options.rows_at_once} rows a batch": (equal.batched, different.batched),
        f"(c) {options.rows_at_once} slots": (equal.slots, different.slots),
    }
    lines = [
        [
            name,
            f"{same:,.0f}",
            f"{equal.slots / same:.2f} x",
            f"{drawn:,.0f}",
            f"{different.slots / drawn:.2f} x",
        ]
        for name, (same, drawn) in loops.items()
    ]
    return "\n".join(
        [
            f"{result.shape}, {machine.dtype}, {machine.device_name} ({machine.device}), "
            f"{machine.threads} threads, torch {machine.torch}, transformers "
            f"{machine.transformers}, {machine.date}",
            f"{options.prompts} prompts x {len(options.coeffs)} coefficients at block "
            f"{result.block}; answers of {options.new_tokens} tokens, and of 1 to "
            f"{options.new_tokens}; median of {options.repeats}",
            "",
            *grid(["tokens/s", "equal lengths", "(c) is", "different lengths", "(c) is"], lines),
            "",
            f"answers that agree to their ends: {equal.alone_equal:.0%} of (a), "
            f"{equal.batched_equal:.1%} of (b)",
            f"{_NUM_MIXED} configurations in a batch: {result.mixed_s:.3g} s, one: "
            f"{result.alike_s:.3g} s ({result.mixed_s / result.alike_s - 1:+.1%})",
        ]
    )
