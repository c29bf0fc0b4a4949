"""Section ``fast``: rows x cells per second over batch sizes, next to plain loops.

Every second layer, one coefficient, bfloat16; see ``Sizes``.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import cached_property, partial
from typing import Any

import numpy as np
import torch

from jobs.bench import loops
from jobs.bench.draw import Draw
from jobs.bench.gpu.gauges import entering
from jobs.bench.gpu.kernels import checks_of_kernels, gap_of, kernels_table, usable
from jobs.bench.gpu.models import Scoring
from jobs.bench.gpu.page import Table, gib, number, share
from jobs.bench.gpu.record import SectionRecord
from jobs.bench.gpu.steps import Check, Found, LeftOutError, Setting, Step
from jobs.bench.measure import matmul_flops_per_s
from jobs.bench.noise import distance, float32_copy
from jobs.bench.search import best_plain_batch
from steering_core.certificate import tolerance_for
from steering_core.encoding import EncodedExample
from steering_core.engine import Cell, Engine
from steering_core.kernels import KERNELS
from steering_core.kernels.choice import KernelCheck
from steering_core.memory_gauges import peak_memory_bytes, reset_peak_memory
from steering_core.packing import batches
from steering_core.protocol import PROTOCOLS
from steering_core.slow_engine import SlowEngine
from steering_core.stereoset import Example
from steering_core.timing import neighbours, seconds, spread
from steering_core.vectors import fit_mean_difference

_NEARLY_BEST = 0.97
_SMALL = 16_384
"""Up to this size two batches are timed, so that one can be prepared while another one runs."""
_MOST_RUNS = 3
_SLOWER = 1.3
"""A step is begun if this many times its expected time is left."""
_BATCHES_OF_PLAIN = 2
_ROWS_CHECKED = 8


def steps(setting: Setting) -> list[Step]:
    """The section's steps."""
    bench = _Bench(setting)
    first, *others = setting.sizes.token_sizes
    near = [size for size in others if size <= 4 * first]
    far = [size for size in others if size > 4 * first]

    def sizes(of: Sequence[int]) -> list[Step]:
        return [Step(f"{size:,} tokens a batch", partial(bench.rate, size)) for size in of]

    return [
        Step("rows", bench.rows),
        Step("matrix rate", bench.matrix_rate),
        *sizes([first]),
        Step("plain loop, bfloat16", bench.plain),
        Step("plain loop, float32", bench.plain_float32),
        Step("plain hooks in batches", bench.plain_batched),
        Step("kernels against torch", bench.kernels),
        *(Step(f"kernel {name} alone", partial(bench.with_kernels, name)) for name in KERNELS),
        Step("all kernels", bench.with_kernels),
        *sizes(near),
        Step("unsteered, with pooling", bench.unsteered),
        Step("whole set, projected", bench.projected),
        Step("whole set, in full", bench.in_full),
        Step("whole set, in full, all kernels", partial(bench.in_full, with_kernels=True)),
        *sizes(far),
    ]


@dataclass(frozen=True)
class _Rate:
    """One batch size, measured.

    Attributes:
        took_s: of each run; ``cpu_s``: processor time of this process in the median one.
        matmul_share: needed operations per second, over the rate of large products.
    """

    tokens: int
    rows: int
    batches: int
    padding_share: float
    rows_cells_per_s: float
    took_s: tuple[float, ...]
    cpu_s: float
    needed_flops_per_s: float
    matmul_share: float
    peak_memory_bytes: int

    @property
    def line(self) -> str:
        """In a few words."""
        return f"{self.rows_cells_per_s:.4g} rows x cells/s, {self.matmul_share:.1%} of matrix rate"


class _Bench:
    """What the steps share."""

    def __init__(self, setting: Setting) -> None:
        self._setting = setting
        self._device = setting.device
        self._scoring = Scoring(setting)
        self._rates: dict[int, _Rate] = {}
        self._too_large: int | None = None
        self._pooling_per_s: float | None = None
        self._kernel_checks: dict[str, KernelCheck] = {}

    def rows(self) -> Found:
        """Make the model, and encode every row."""
        scoring = self._scoring
        built_s = seconds(lambda: scoring.model, self._device)
        rows, subject = scoring.rows, scoring.subject
        packed = [row.num_packed_tokens for row in rows]
        encode_ms = 1e3 * scoring.encode_s / len(rows)
        values = {
            "shape": subject.model.name,
            "rows": len(rows),
            "cells": len(subject.cells),
            "layers": [cell.layer for cell in subject.cells],
            "packed_tokens_mean": statistics.fmean(packed),
            "packed_tokens_most": max(packed),
            "needed_flops_per_row_cell": scoring.needed_flops(rows),
            "encode_s": scoring.encode_s,
            "encode_ms_per_row": encode_ms,
            "build_s": built_s,
            "is_packed": subject.is_packed,
            "attention": str(getattr(subject.model.layout.config, "_attn_implementation", None)),
            "last_mlp_found": subject.model.layout.last_mlp is not None,
        }
        checks = [Check.same("rows are packed", subject.is_packed, True)]
        return Found(f"{len(rows):,} rows, encoded in {encode_ms:.3g} ms each", values, checks)

    @cached_property
    def _matrix_rate(self) -> float:
        sizes = self._setting.sizes
        budget_s = max(0.1, sizes.repeat_s)
        return matmul_flops_per_s(self._device, torch.bfloat16, budget_s, sizes.matmul_sizes)

    def matrix_rate(self) -> Found:
        """The rate that shares are given of."""
        rate = self._matrix_rate
        return Found(f"{rate / 1e12:.4g} TFLOP/s in bfloat16", {"flops_per_s": rate})

    # The engine

    def rate(self, tokens: int) -> Found:
        """All cells at one batch size, without kernels."""
        if self._too_large is not None and tokens > self._too_large:
            raise LeftOutError(f"{self._too_large:,} tokens did not fit")
        rate = self._measured(tokens)
        if rate is None:
            self._too_large = tokens
            return Found("does not fit in memory", {"tokens": tokens, "fits": False})
        self._rates[tokens] = rate
        return Found(rate.line, asdict(rate))

    def _measured(self, tokens: int, kernels: Sequence[str] = ()) -> _Rate | None:
        """The rate of all cells; None if memory does not hold a batch of that size."""
        subject = self._scoring.subject
        chosen = self._rows_for(tokens)
        num_pairs = len(chosen) * len(subject.cells)
        if self._rates:
            slowest = min(rate.rows_cells_per_s for rate in self._rates.values())
            self._setting.need(_SLOWER * num_pairs / slowest)
        engine = self._engine(kernels)
        made = list(batches(chosen, tokens, is_packed=subject.is_packed))

        def run(cells: Sequence[Cell]) -> None:
            engine.steered(chosen, tokens, cells, subject.vectors)

        # One cell warms up: the passes of the others have the same shapes.
        with entering(subject.model.layout.decoder) as passes:
            run(self._middle_cell)
        if len(passes) > len(made):
            return None
        reset_peak_memory(self._device)
        took_s: list[float] = []
        cpu_s: list[float] = []
        least_s = self._setting.sizes.repeat_s
        while not took_s or (len(took_s) < _MOST_RUNS and sum(took_s) < least_s):
            before = time.process_time()
            took_s.append(seconds(lambda: run(subject.cells), self._device))
            cpu_s.append(time.process_time() - before)
        median_s = statistics.median_low(took_s)
        needed_per_s = self._scoring.needed_flops(chosen) * num_pairs / median_s
        return _Rate(
            tokens=tokens,
            rows=len(chosen),
            batches=len(made),
            padding_share=1 - sum(b.num_tokens for b in made) / sum(b.input_ids.size for b in made),
            rows_cells_per_s=num_pairs / median_s,
            took_s=tuple(took_s),
            cpu_s=cpu_s[took_s.index(median_s)],
            needed_flops_per_s=needed_per_s,
            matmul_share=needed_per_s / self._matrix_rate,
            peak_memory_bytes=peak_memory_bytes(self._device),
        )

    def _engine(self, kernels: Sequence[str] = ()) -> Engine:
        """An engine that remembers nothing of earlier batches."""
        model, is_packed = self._scoring.model, self._scoring.subject.is_packed
        return Engine(model, PROTOCOLS["as_published"], is_packed=is_packed, kernels=kernels)

    @property
    def _middle_cell(self) -> Sequence[Cell]:
        cells = self._scoring.subject.cells
        return cells[len(cells) // 2 :][:1]

    # Kernels

    def kernels(self) -> Found:
        """Each kernel against torch, on input of this model's shapes."""
        model, num = self._scoring.model, self._setting.sizes.kernel_positions
        self._kernel_checks = checks_of_kernels(model, num, timed=True)
        checks = [Check.at_most(n, gap_of(c), c.limit) for n, c in self._kernel_checks.items()]
        num_faster = sum(check.is_faster for check in self._kernel_checks.values())
        values = {"kernels": {name: asdict(c) for name, c in self._kernel_checks.items()}}
        return Found(f"{num_faster} of {len(checks)} faster than torch", values, checks)

    def with_kernels(self, *names: str) -> Found:
        """The rate at the main batch size with these kernels; with all that are right if none."""
        right = usable(self._kernel_checks)
        if missing := [name for name in names if name not in right]:
            raise LeftOutError(f"{missing[0]} cannot be used")
        used = names or right
        if not used:
            raise LeftOutError("no kernel can be used")
        tokens = self._setting.sizes.main_tokens
        rate = self._measured(tokens, used)
        if rate is None:
            raise LeftOutError(f"{tokens:,} tokens did not fit")
        chosen, subject = self._rows_for(tokens), self._scoring.subject
        scores = [
            self._engine(some).steered(chosen, tokens, self._middle_cell, subject.vectors)[0].scores
            for some in (used, ())
        ]
        gaps = np.abs(scores[0] - scores[1])
        values = asdict(rate) | {
            "kernels": list(used),
            "largest_gap": float(gaps.max()),
            "mean_gap": float(gaps.mean()),
        }
        limit = tolerance_for("bfloat16").score
        checks = [Check.at_most("mean gap to no kernels, nats", values["mean_gap"], limit)]
        return Found(rate.line, values, checks)

    def _rows_for(self, tokens: int) -> list[EncodedExample]:
        """Real rows that fill one or two batches: neighbours in length, spread over all lengths."""
        by_length = self._scoring.by_length
        num_batches = 2 if tokens <= _SMALL else 1
        per_batch = max(1, tokens // by_length[len(by_length) // 2].num_packed_tokens)
        if per_batch > len(by_length):
            raise LeftOutError(f"needs {per_batch:,} rows, there are {len(by_length):,}")
        num = min(len(by_length), num_batches * per_batch)
        return [by_length[n] for n in neighbours(len(by_length), num, per_batch)]

    @property
    def _best(self) -> _Rate:
        """The smallest size within 3 % of the best rate."""
        if not self._rates:
            raise LeftOutError("no batch size was measured")
        enough = _NEARLY_BEST * max(rate.rows_cells_per_s for rate in self._rates.values())
        sizes = (size for size, rate in self._rates.items() if rate.rows_cells_per_s >= enough)
        return self._rates[min(sizes)]

    def unsteered(self) -> Found:
        """The unsteered pass with pooling at every layer, as the first phase of a sweep runs it."""
        subject, tokens = self._scoring.subject, self._best.tokens
        chosen, layers = self._rows_for(tokens), [cell.layer for cell in subject.cells]
        engine = self._engine()

        def run(layers: Sequence[int]) -> float:
            engine.baseline(chosen, tokens, layers)
            cpu = time.process_time()
            took = seconds(lambda: engine.baseline(chosen, tokens, layers), self._device)
            cpus.append(time.process_time() - cpu)
            return took

        cpus: list[float] = []
        pooled_s, alone_s = run(layers), run([])
        self._pooling_per_s = len(chosen) / pooled_s
        values = {
            "tokens": tokens,
            "rows": len(chosen),
            "rows_per_s": self._pooling_per_s,
            "rows_per_s_without_pooling": len(chosen) / alone_s,
            "cpu_s": cpus[0],
            "took_s": pooled_s,
        }
        line = f"{self._pooling_per_s:.4g} rows/s, {len(chosen) / alone_s:.4g} without pooling"
        return Found(line, values)

    # Plain loops

    @cached_property
    def _draw(self) -> Draw:
        """Rows of the plain loops, spread over all lengths."""
        by_length, num = self._scoring.by_length, self._setting.sizes.num_plain
        rows = [by_length[n] for n in spread(len(by_length), num)]
        return Draw(rows, range(len(rows)), [range(len(rows))], len(self._scoring.subject.cells))

    @cached_property
    def _plain(self) -> loops.Timed:
        """The plain loop in bfloat16, warm and run once."""
        return self._timed(loops.alone(self._scoring.subject, self._draw, self._scoring.model))

    def _timed(self, loop: loops.Timed) -> loops.Timed:
        loop.run()
        loop.once(self._device)
        return loop

    def plain(self) -> Found:
        """One sequence at a time with a hook, as the paper's notebook does it."""
        loop = self._plain
        ours = self._engine_scores
        values = self._plain_values(loop) | {"gap": float(np.abs(loop.scores - ours).max())}
        limit = tolerance_for("bfloat16").score
        checks = [Check.at_most("gap to the engine, nats", values["gap"], limit)]
        return Found(self._plain_line(loop), values, checks)

    @cached_property
    def _engine_scores(self) -> np.ndarray:
        """The engine's scores [P, 3] of the pairs that the plain loop runs."""
        subject = self._scoring.subject
        tokens = self._setting.sizes.main_tokens
        found = subject.engine.steered(self._draw.rows, tokens, subject.cells, subject.vectors)
        scores: np.ndarray = np.stack([of.scores for of in found])[self._draw.alone_pairs]
        return scores

    def plain_float32(self) -> Found:
        """The same with a float32 copy of the weights, and how far bfloat16 is from it."""
        model = float32_copy(self._scoring.model)
        if model is None:
            raise LeftOutError("memory does not hold the weights twice")
        loop = self._timed(loops.alone(self._scoring.subject, self._draw, model))
        plain = distance(self._plain.scores, loop.scores)
        engine = distance(self._engine_scores, loop.scores)
        values = self._plain_values(loop) | {"plain": asdict(plain), "engine": asdict(engine)}
        return Found(self._plain_line(loop), values)

    def plain_batched(self) -> Found:
        """Plain hooks in batches, at the best of a few batch sizes."""
        subject, by_length = self._scoring.subject, self._scoring.by_length
        search_s = min(6 * self._setting.sizes.repeat_s, self._setting.left_s / 4)
        size, rates = best_plain_batch(subject, by_length, search_s)
        num = _BATCHES_OF_PLAIN * size
        rows = [by_length[n] for n in neighbours(len(by_length), num, size)]
        chunks = [range(low, min(low + size, len(rows))) for low in range(0, len(rows), size)]
        draw = Draw(rows, [], chunks, len(subject.cells))
        loop = self._timed(loops.together(subject, draw))
        values = self._plain_values(loop) | {"rows_a_batch": size, "tried": rates}
        return Found(f"{self._plain_line(loop)}, {size} rows a batch", values)

    @staticmethod
    def _plain_values(loop: loops.Timed) -> dict[str, Any]:
        return {
            "rows_cells_per_s": loop.per_s,
            "rows_cells": loop.num_pairs,
            "took_s": loop.took_s,
            "peak_memory_bytes": loop.peak_bytes,
        }

    @staticmethod
    def _plain_line(loop: loops.Timed) -> str:
        return f"{loop.per_s:.3g} rows x cells/s"

    # The whole data file

    def projected(self) -> Found:
        """Time of the whole data file, from the rates of the sample."""
        rows, cells = self._scoring.rows, self._scoring.subject.cells
        values = {
            "rows": len(rows),
            "cells": len(cells),
            "tokens": self._best.tokens,
            "encode_s": self._scoring.encode_s,
            "unsteered_s": len(rows) / self._pooling_rate,
            "steered_s": len(rows) * len(cells) / self._best.rows_cells_per_s,
        }
        values["engine_s"] = values["unsteered_s"] + values["steered_s"]
        line = f"{values['engine_s']:.3g} s for {len(rows):,} rows x {len(cells)} cells"
        return Found(line, values)

    @property
    def _pooling_rate(self) -> float:
        if self._pooling_per_s is None:
            raise LeftOutError("the unsteered pass was not measured")
        return self._pooling_per_s

    def in_full(self, *, with_kernels: bool = False) -> Found:
        """Every row of the data file: both phases, group by group, vectors fitted in between."""
        subject, best = self._scoring.subject, self._best
        kernels = usable(self._kernel_checks) if with_kernels else ()
        if with_kernels and not kernels:
            raise LeftOutError("no kernel can be used")
        num_pairs = len(self._scoring.rows) * len(subject.cells)
        expected_s = (
            num_pairs / best.rows_cells_per_s + len(self._scoring.rows) / self._pooling_rate
        )
        self._setting.need(_SLOWER * expected_s)
        groups: dict[tuple[str, str], list[EncodedExample]] = {}
        for row in self._scoring.rows:
            example = row.example
            assert isinstance(example, Example)
            groups.setdefault((example.split, example.bias_type), []).append(row)
        engine, layers = self._engine(kernels), [cell.layer for cell in subject.cells]
        took = {"unsteered_s": 0.0, "steered_s": 0.0}
        largest = 0.0
        reset_peak_memory(self._device)
        cpu = time.process_time()
        for rows in groups.values():
            start = time.perf_counter()
            _, pooled = engine.baseline(rows, best.tokens, layers)
            vectors = fit_mean_difference(pooled.sums(), 1)
            between = time.perf_counter()
            scores = engine.steered(rows, best.tokens, subject.cells, vectors)
            took["steered_s"] += time.perf_counter() - between
            took["unsteered_s"] += between - start
            last = (rows, vectors, scores)
        cpu = time.process_time() - cpu
        rows, vectors, scores = last
        slow = SlowEngine(subject.model, PROTOCOLS["as_published"])
        for n in spread(len(rows), _ROWS_CHECKED):
            index = n % len(subject.cells)
            cell = subject.cells[index]
            wanted = slow.row_scores(rows[n], cell, vectors)
            largest = max(largest, float(np.abs(scores[index].scores[n] - wanted).max()))
        engine_s = sum(took.values())
        values = {
            **took,
            "engine_s": engine_s,
            "encode_s": self._scoring.encode_s,
            "rows": len(self._scoring.rows),
            "cells": len(subject.cells),
            "groups": len(groups),
            "tokens": best.tokens,
            "kernels": list(kernels),
            "cpu_s": cpu,
            "rows_cells_per_s": num_pairs / took["steered_s"],
            "matmul_share": self._scoring.needed_flops(self._scoring.rows)
            * num_pairs
            / took["steered_s"]
            / self._matrix_rate,
            "peak_memory_bytes": peak_memory_bytes(self._device),
        }
        limit = tolerance_for("bfloat16").score
        checks = [Check.at_most("gap to the reference, nats", largest, limit)]
        line = f"{engine_s:.3g} s for {len(self._scoring.rows):,} rows x {len(layers)} cells"
        return Found(line, values, checks)


def tables(section: SectionRecord) -> list[Table]:
    """The section's tables."""
    found = {step.name: step.found for step in section.succeeded()}
    made = []
    if rows := found.get("rows"):
        made.append(_rows_table(rows, found.get("matrix rate")))
    rates = sorted(
        (f for name, f in found.items() if name.endswith("tokens a batch")),
        key=lambda f: f["tokens"],
    )
    if rates:
        made.append(_rates_table(rates))
    if kernels := found.get("kernels against torch"):
        made.append(kernels_table(kernels["kernels"]))
    applied = {name: f for name, f in found.items() if "largest_gap" in f}
    if applied:
        made.append(_applied_table(applied, rates))
    plain = {name: f for name, f in found.items() if name.startswith("plain")}
    if plain:
        made.append(_plain_table(plain, rates))
    if noise := found.get("plain loop, float32"):
        lines = [
            [name, number(noise[key]["largest"], 2), number(noise[key]["mean"], 2),
             str(noise[key]["changed_choices"])]
            for name, key in (("plain loop", "plain"), ("engine", "engine"))
        ]  # fmt: skip
        title = "Scores in bfloat16 against the plain loop in float32"
        header = ("", "largest difference, nats", "mean, nats", "choices changed")
        made.append(Table(title, header, lines))
    if unsteered := found.get("unsteered, with pooling"):
        lines = [
            ["with pooling at every layer", number(unsteered["rows_per_s"], 4)],
            ["without pooling", number(unsteered["rows_per_s_without_pooling"], 4)],
            ["CPU time over wall time", share(unsteered["cpu_s"] / unsteered["took_s"])],
        ]
        title = f"Unsteered pass, {unsteered['tokens']:,} tokens a batch"
        made.append(Table(title, ("", "rows/s"), lines))
    whole = [
        (name, found[f"whole set, {name}"])
        for name in ("projected", "in full", "in full, all kernels")
        if f"whole set, {name}" in found
    ]
    if whole:
        made.append(_whole_table(whole))
    return made


def _rows_table(rows: dict[str, Any], matrix: dict[str, Any] | None) -> Table:
    lines = [
        ["rows", f"{rows['rows']:,}"],
        ["cells", f"{rows['cells']} layers, one coefficient"],
        ["tokens of a packed row, mean and most",
         f"{rows['packed_tokens_mean']:.1f}, {rows['packed_tokens_most']}"],
        ["needed GFLOP per row and cell", number(rows["needed_flops_per_row_cell"] / 1e9)],
        ["encoding, ms a row", number(rows["encode_ms_per_row"])],
        ["attention of the model", rows["attention"]],
        ["last MLP is found", "yes" if rows["last_mlp_found"] else "no"],
    ]  # fmt: skip
    if matrix:
        lines.append(["matrix rate, bfloat16", f"{number(matrix['flops_per_s'] / 1e12)} TFLOP/s"])
    return Table(f"{rows['shape']}, bfloat16", ("", ""), lines)


def _rates_table(rates: Sequence[dict[str, Any]]) -> Table:
    header = ("tokens a batch", "rows x cells/s", "of the matrix rate", "padding", "peak memory",
              "CPU over wall", "batches", "runs")  # fmt: skip
    lines = []
    for rate in rates:
        if rate.get("fits") is False:
            lines.append([f"{rate['tokens']:,}", "does not fit", *[""] * 6])
            continue
        took = statistics.median_low(rate["took_s"])
        lines.append(
            [
                f"{rate['tokens']:,}",
                number(rate["rows_cells_per_s"], 4),
                share(rate["matmul_share"]),
                share(rate["padding_share"]),
                gib(rate["peak_memory_bytes"]),
                share(rate["cpu_s"] / took),
                str(rate["batches"]),
                str(len(rate["took_s"])),
            ]
        )
    note = "`of the matrix rate`: needed FLOPs per second over that of large products."
    return Table("The engine over batch sizes, all cells", header, lines, note)


def _applied_table(applied: dict[str, dict[str, Any]], rates: Sequence[dict[str, Any]]) -> Table:
    tokens = next(iter(applied.values()))["tokens"]
    off = next((r for r in rates if r["tokens"] == tokens and "took_s" in r), None)
    lines = []
    if off:
        lines.append(["no kernels", number(off["rows_cells_per_s"], 4), "",
                      share(off["matmul_share"]), "", ""])  # fmt: skip
    for name, found in applied.items():
        per_s = found["rows_cells_per_s"]
        gain = f"{100 * (per_s / off['rows_cells_per_s'] - 1):+.1f} %" if off else ""
        lines.append([name, number(per_s, 4), gain, share(found["matmul_share"]),
                      number(found["largest_gap"], 2), number(found["mean_gap"], 2)])  # fmt: skip
    header = ("", "rows x cells/s", "gain", "of the matrix rate", "largest gap, nats", "mean gap")
    note = "`gap`: to scores without kernels, of one cell."
    return Table(f"Kernels in the engine, {tokens:,} tokens a batch", header, lines, note)


def _plain_table(plain: dict[str, dict[str, Any]], rates: Sequence[dict[str, Any]]) -> Table:
    best = max((rate.get("rows_cells_per_s", 0.0) for rate in rates), default=0.0)
    lines = []
    for name, found in plain.items():
        per_s = found["rows_cells_per_s"]
        batch = f", {found['rows_a_batch']} rows a batch" if "rows_a_batch" in found else ""
        lines.append(
            [
                f"{name}{batch}",
                number(per_s),
                f"{number(best / per_s)} x" if best and per_s else "",
                str(found["rows_cells"]),
                gib(found["peak_memory_bytes"]),
            ]
        )
    header = ("", "rows x cells/s", "engine is", "rows x cells timed", "peak memory")
    return Table("Plain loops, and the engine at its best batch size", header, lines)


def _whole_table(whole: Sequence[tuple[str, dict[str, Any]]]) -> Table:
    lines = [
        [name, f"{f['rows']:,} x {f['cells']}", number(f["encode_s"]), number(f["unsteered_s"]),
         number(f["steered_s"]), number(f["engine_s"]), share(f.get("matmul_share"))]
        for name, f in whole
    ]  # fmt: skip
    header = ("", "rows x cells", "encoding, s", "unsteered, s", "steered, s", "engine, s",
              "of the matrix rate")  # fmt: skip
    note = "`engine`: unsteered pass with pooling, vectors, all cells, in sample; no encoding."
    return Table("The whole data file", header, lines, note)
