"""Section ``text``: tokens per second of steered generation, every answer steered differently."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache, partial
from typing import Any

import numpy as np

from jobs.bench.gpu.gauges import busy_of, profiled
from jobs.bench.gpu.models import text_model
from jobs.bench.gpu.options import TextShape
from jobs.bench.gpu.page import Table, gib, number, share
from jobs.bench.gpu.record import SectionRecord
from jobs.bench.gpu.steps import Check, Found, Setting, Step
from steering_core.generation import Generated, GenerationCounts, GenerationRow, generate
from steering_core.hook_points import HookPoint
from steering_core.interventions import Intervention
from steering_core.memory_gauges import peak_memory_bytes, reset_peak_memory
from steering_core.models import LoadedModel
from steering_core.sampling import Sampling
from steering_core.timing import seconds

_SHORTEST_PROMPT, _LONGEST_PROMPT = 24, 72
_TEMPERATURE, _TOP_P = 0.25, 0.9
"""Random weights give flat distributions. At this temperature a few hundred tokens share most of
the probability, as with a trained model."""
_PROFILED_TOKENS = 8
_MOST_RUNS = 3
_FIRST_S = 5.0


def steps(setting: Setting) -> list[Step]:
    """The section's steps, a model after the other."""
    bench = _Bench(setting)
    samplings = {
        "greedy": Sampling(setting.sizes.new_tokens, (), greedy=True),
        "top_p": Sampling(setting.sizes.new_tokens, (), temperature=_TEMPERATURE, top_p=_TOP_P),
    }
    return [
        Step(f"{shape.name}, {slots} at once, {name}", partial(bench.rate, shape, slots, sampling))
        for shape in setting.sizes.text_shapes
        # The largest first: it says most.
        for slots in sorted(setting.sizes.slots, reverse=True)
        for name, sampling in samplings.items()
    ]


class _Bench:
    """One model at a time."""

    def __init__(self, setting: Setting) -> None:
        self._setting = setting
        self._device = setting.device
        self._model = lru_cache(maxsize=1)(partial(text_model, device=setting.device))

    def rate(self, shape: TextShape, slots: int, sampling: Sampling) -> Found:
        """Tokens per second with so many answers side by side."""
        self._setting.need(_FIRST_S if self._device.type == "cuda" else 0.0)
        model = self._model(shape)
        rows = rows_of(model, slots)
        answers: list[Generated] = []
        counts = GenerationCounts()

        def run() -> None:
            nonlocal counts
            counts = GenerationCounts()
            answers[:] = generate(model, rows, sampling, rows_at_once=slots, counts=counts)

        run()
        reset_peak_memory(self._device)
        took: list[float] = []
        while not took or (len(took) < _MOST_RUNS and sum(took) < self._setting.sizes.repeat_s):
            took.append(seconds(run, self._device))
        took_s = min(took)
        num_tokens = sum(len(answer.token_ids) for answer in answers)
        wall_s = took_s / counts.steps
        busy_s = self._busy_s(model, rows, sampling)
        values = {
            "shape": shape.name,
            "slots": slots,
            "is_greedy": sampling.greedy,
            "tokens": num_tokens,
            "took_s": took_s,
            "tokens_per_s": num_tokens / took_s,
            "steps": counts.steps,
            "step_s": wall_s,
            "device_s_per_step": busy_s,
            "host_gap_s_per_step": max(0.0, wall_s - busy_s),
            "peak_memory_bytes": peak_memory_bytes(self._device),
        }
        checks = [Check.same("tokens", num_tokens, slots * sampling.max_new_tokens)]
        line = f"{values['tokens_per_s']:,.0f} tokens/s, {1e3 * wall_s:.3g} ms a step"
        return Found(line, values, checks)

    def _busy_s(
        self, model: LoadedModel, rows: Sequence[GenerationRow], sampling: Sampling
    ) -> float:
        """Time of a step in which the device computes: less the prompts, from two short runs."""
        short, long = 1, min(_PROFILED_TOKENS, sampling.max_new_tokens)

        def busy(num: int) -> tuple[float, int]:
            counts = GenerationCounts()
            fewer = Sampling(num, (), sampling.greedy, sampling.temperature, sampling.top_p)
            events = profiled(
                lambda: generate(model, rows, fewer, rows_at_once=len(rows), counts=counts),
                self._device,
                with_host=False,
            )
            return busy_of(events, self._device).busy_s, counts.steps

        (first_s, first), (last_s, last) = busy(short), busy(long)
        # On a busy CPU the shorter run may be the slower one.
        return max(0.0, last_s - first_s) / max(1, last - first)


def rows_of(model: LoadedModel, num: int) -> list[GenerationRow]:
    """Answers to write: each with a prompt, a block, a vector and a coefficient of its own."""
    rng = np.random.default_rng(0)
    config = model.layout.config
    lengths = rng.integers(_SHORTEST_PROMPT, _LONGEST_PROMPT + 1, num)
    return [
        GenerationRow(
            prompt_ids=tuple(rng.integers(3, int(config.vocab_size), length).tolist()),
            seed=number_,
            steering=Intervention(
                HookPoint(number_ % model.layout.num_blocks, "resid_post"),
                rng.standard_normal(int(config.hidden_size)).astype(np.float32),
                0.1 * (1 + number_ % 10),
            ),
            positions="response",
        )
        for number_, length in enumerate(lengths)
    ]


def tables(section: SectionRecord) -> list[Table]:
    """The section's tables."""
    by_shape: dict[str, list[dict[str, Any]]] = {}
    for step in section.succeeded():
        by_shape.setdefault(step.found["shape"], []).append(step.found)
    header = ("slots", "tokens/s", "a step, ms", "device, ms", "host gap, ms", "gap", "peak memory")
    note = (
        "As many different configurations as slots, prompts of "
        f"{_SHORTEST_PROMPT} to {_LONGEST_PROMPT} tokens, whose time counts too. `host gap`: time "
        f"of a step in which the device waits. `top_p`: {_TOP_P} at temperature {_TEMPERATURE}."
    )
    return [
        Table(
            f"{shape}, bfloat16",
            header,
            [
                [
                    f"{f['slots']}, {'greedy' if f['is_greedy'] else 'top_p'}",
                    f"{f['tokens_per_s']:,.0f}",
                    number(1e3 * f["step_s"]),
                    number(1e3 * f["device_s_per_step"]),
                    number(1e3 * f["host_gap_s_per_step"]),
                    share(f["host_gap_s_per_step"] / f["step_s"]),
                    gib(f["peak_memory_bytes"]),
                ]
                for f in sorted(rates, key=lambda f: (f["slots"], not f["is_greedy"]))
            ],
            note,
        )
        for shape, rates in by_shape.items()
    ]
