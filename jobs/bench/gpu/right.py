"""Section ``right``: the engine against the model's own forward, one sequence at a time.

Shapes: C cells, N rows, D width.
"""

from __future__ import annotations

import hashlib
import itertools
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import cached_property, lru_cache
from typing import Any

import numpy as np
import torch

from jobs.bench.generate import one_at_a_time
from jobs.bench.gpu.gauges import entering, held_bytes, limited_memory
from jobs.bench.gpu.kernels import checks_of_kernels, gap_of, usable
from jobs.bench.gpu.models import FAMILIES, Family, Texts, small_model, spread_rows
from jobs.bench.gpu.options import GpuOptions
from jobs.bench.gpu.page import Table, gib, number
from jobs.bench.gpu.record import SectionRecord, StepRecord
from jobs.bench.gpu.steps import Check, Found, Setting, Step
from jobs.bench.noise import float32_copy
from steering_core.answer_check import check_answer
from steering_core.certificate import Deviation, tolerance_for
from steering_core.encoding import EncodedExample
from steering_core.engine import Cell, Engine, Scores
from steering_core.generation import GenerationRow, generate
from steering_core.hook_points import SITES, HookPoint
from steering_core.interventions import OPERATIONS, Intervention, Positions
from steering_core.memory_gauges import peak_memory_bytes, reset_peak_memory
from steering_core.models import LoadedModel
from steering_core.packing import batches
from steering_core.probes import engine_for
from steering_core.protocol import PROTOCOLS, ProtocolName
from steering_core.reference import reference_scores
from steering_core.sampling import Sampling
from steering_core.slow_engine import SlowEngine
from steering_core.steerer import GENERATION_POSITIONS
from steering_core.timing import seconds
from steering_core.vectors import SteeringVectors, fit_mean_difference

_PLAIN = next(family for family in FAMILIES if family.name == "llama")
_DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}
_POSITIONS: tuple[Positions, ...] = ("all", "question", "candidate", "last")
_BEHIND: tuple[Positions, ...] = ("candidate", "last")
"""Positions that leave the prefix to the trunk."""
_TIMES_AS_FAR = 2.0
"""In bfloat16 the engine may be this many times as far from float32 as the plain loop is."""
_ON_THE_BORDER = 1e-4
"""Probability by which a token may miss being the one chosen: rounding decides there."""
_SLOTS = 4
_RUNS = 3
_ROOM_SHARES = (0.6, 0.3, 0.15)


def steps(setting: Setting) -> list[Step]:
    """The section's steps."""
    bench = _Bench(setting)

    def step(name: str, work: Callable[..., Found], *arguments: object) -> Step:
        return Step(name, lambda: work(*arguments))

    pairs = [
        (family, dtype)
        for index, family in enumerate(FAMILIES)
        for dtype in _DTYPES
        if dtype == "float32" or index < setting.sizes.num_half
    ]
    return [
        *(step(f"{f.name}, {dtype}", bench.scores, f, dtype) for f, dtype in pairs),
        *(
            step(f"{f.name}, {dtype}: operations", bench.operations, f, dtype)
            for f, dtype in pairs
            if dtype == "float32" or setting.sizes.tries_all
        ),
        *(step(f"{family.name}: answers", bench.answers, family) for family in FAMILIES),
        *(
            step(f"{family.name}: kernels", bench.kernels, family)
            for family in FAMILIES[: setting.sizes.num_half]
        ),
        step("two processes", bench.two_processes),
        step("out of memory", bench.out_of_memory),
    ]


class _Bench:
    """The models and rows that the steps share."""

    def __init__(self, setting: Setting) -> None:
        self._setting = setting
        self._sizes = setting.sizes
        self._device = setting.device
        # One at a time: steps come family by family.
        self.model = lru_cache(maxsize=1)(self._model)
        self.rows = lru_cache(maxsize=2)(self._rows)

    @cached_property
    def _texts(self) -> Texts:
        return Texts.of(self._setting)

    @cached_property
    def _tokenizer(self) -> Any:
        return self._texts.tokenizer(self._sizes.small["vocab_size"])

    def _model(self, family: Family, dtype: str) -> LoadedModel:
        return small_model(family, self._sizes, self._device, _DTYPES[dtype])

    def _rows(self, protocol: ProtocolName) -> list[EncodedExample]:
        num = self._sizes.num_rows
        return spread_rows(self._texts, self._tokenizer, PROTOCOLS[protocol], num)

    # Scores and pooled states

    def scores(self, family: Family, dtype: str) -> Found:
        """Unsteered, pooled and steered, in every way in which rows can run."""
        model, protocol = self.model(family, dtype), PROTOCOLS["as_published"]
        rows, tokens = self.rows("as_published"), self._sizes.fewest_tokens
        few = rows[: self._sizes.num_checked]
        layers = (1, model.layout.num_blocks // 2 + 1)
        limit = tolerance_for(dtype)

        engine = engine_for(model, protocol)
        plain, pooled = engine.baseline(rows, tokens, layers)
        vectors = fit_mean_difference(pooled.sums(), 1)
        cells = [Cell(layers[0], 20.0), Cell(layers[1], -20.0)]

        def run(one: Engine, size: int = tokens) -> np.ndarray:
            return _stacked(one.steered(rows, size, cells, vectors))

        slow = SlowEngine(model, protocol)
        slow_plain, slow_pooled = slow.baseline(few, layers)
        wanted = _stacked(slow.steered(few, cells, vectors, [0] * len(few)))
        packed, separate = run(engine), Engine(model, protocol, is_packed=False)
        pooled_gap = max(
            Deviation.of_pooled(found, wanted).largest
            for index in range(len(layers))
            for found, wanted in zip(
                pooled.differences[index], slow_pooled.differences[index], strict=False
            )
        )
        effect = _gap(packed, plain.scores[None])
        checks = [
            Check.same("rows are packed", engine.is_packed, True),
            Check.same("last MLP is found", model.layout.last_mlp is not None, True),
            Check.same("all sites are found", None not in model.layout.outputs, True),
            Check.at_most("unsteered", _gap(plain.scores, slow_plain.scores), limit.score),
            Check.at_most("packed", _gap(packed, wanted), limit.score),
            Check.at_most("separate", _gap(run(separate), wanted), limit.score),
            *self._kept_prefix(model, cells, vectors, limit.score),
            Check.at_most("pooled", pooled_gap, limit.pooled),
            Check.at_most("same task again", _gap(run(engine), packed), 0.0),
            Check.at_most("other batches", _gap(run(engine, 4 * tokens), packed), limit.score),
            Check("steering moves scores", effect, f"above {limit.score:g}", effect > limit.score),
        ]
        if dtype != "float32":
            checks.append(_noise(model, few, cells, vectors, packed, wanted))
        nats = [c.found for c in checks[3:7] if isinstance(c.found, float)]
        return Found(f"{len(checks)} checks, largest gap {max(nats):.2g} nats", {}, checks)

    def _kept_prefix(
        self,
        model: LoadedModel,
        cells: Sequence[Cell],
        vectors: SteeringVectors,
        limit: float,
        kernels: Sequence[str] = (),
    ) -> list[Check]:
        """Positions that leave the prefix alone, so that a fork computes the rest only."""
        rows = self.rows("aligned")
        few = rows[: self._sizes.num_checked]
        protocol = replace(PROTOCOLS["aligned"], positions="candidate")
        engine = engine_for(model, protocol, kernels)
        found = _stacked(engine.steered(rows, self._sizes.fewest_tokens, cells, vectors))
        slow = SlowEngine(model, protocol).steered(few, cells, vectors, [0] * len(few))
        return [
            Check.same("prefix is kept", engine.reuses_prefix, True),
            Check.at_most("kept prefix", _gap(found, _stacked(slow)), limit),
        ]

    def operations(self, family: Family, dtype: str) -> Found:
        """Every operation at every site and position, a row each, in one pass."""
        model, limit = self.model(family, dtype), tolerance_for(dtype).score
        rows, tokens = self.rows("aligned"), self._sizes.main_tokens
        own = _interventions(model, tries_all=self._sizes.tries_all)
        few = [rows[n % len(rows)] for n in range(len(own))]
        engine = engine_for(model, PROTOCOLS["aligned"])
        found = engine.side_by_side(few, tokens, own).scores
        wanted = np.stack(
            [reference_scores(model, row, i) for row, i in zip(few, own, strict=True)]
        )
        unsteered = engine.baseline(few, tokens)[0].scores
        num_moved = int((np.abs(found - unsteered).max(axis=1) > 0).sum())
        kept = [
            self._operation_behind_prefix(model, rows, operation, positions)
            for operation in OPERATIONS
            for positions in _BEHIND
        ]
        checks = [
            Check.at_most("side by side", _gap(found, wanted), limit),
            Check.same("interventions that move a score", num_moved, len(own)),
            Check.at_most("behind a kept prefix", max(kept), limit),
        ]
        line = f"{len(own)}, largest gap {checks[0].found:.2g} nats"
        return Found(line, {"interventions": len(own)}, checks)

    def _operation_behind_prefix(
        self,
        model: LoadedModel,
        rows: Sequence[EncodedExample],
        operation: str,
        positions: Positions,
    ) -> float:
        """Largest gap of an operation where the engine keeps the prefix."""
        layer = model.layout.num_blocks // 2
        protocol = replace(PROTOCOLS["aligned"], operation=operation, positions=positions)
        engine = Engine(model, protocol, is_packed=True, reuses_prefix=True)
        vectors = SteeringVectors({layer: _vector(model, 0)}, {})
        cell, few = Cell(layer, OPERATIONS[operation].trial_coeff), rows[:2]
        found = engine.steered(few, self._sizes.main_tokens, [cell], vectors)
        wanted = SlowEngine(model, protocol).steered(few, [cell], vectors, [0] * len(few))
        return _gap(_stacked(found), _stacked(wanted))

    # Answers

    def answers(self, family: Family) -> Found:
        """Answers in float32, token for token."""
        model = self.model(family, "float32")
        rows, most = self._answer_rows(model), self._sizes.answer_tokens
        greedy = Sampling(most, (), greedy=True)
        ours = [a.token_ids for a in generate(model, rows, greedy, rows_at_once=_SLOTS)]
        theirs = one_at_a_time(model, rows)
        num_equal = sum(a == b for a, b in zip(ours, theirs, strict=True))

        # What model.generate cannot be asked: each token against one plain forward of the answer.
        mixed = self._mixed_rows(model)
        checked = {}
        for name, sampling in (("greedy", greedy), ("top_p", Sampling(most, (), top_p=0.9))):
            written = generate(model, mixed, sampling, rows_at_once=_SLOTS)
            checked[name] = [
                check_answer(model, row, answer, sampling)
                for row, answer in zip(mixed, written, strict=True)
            ]
        # Where rounding decides between two tokens, an answer may go on in another way.
        apart = [
            check_answer(model, row, answer, greedy).furthest
            for row, answer, other in zip(
                rows, generate(model, rows, greedy, rows_at_once=_SLOTS), theirs, strict=True
            )
            if answer.token_ids != other
        ]
        checks = [
            Check.at_most("missed by, model.generate", max(apart, default=0.0), _ON_THE_BORDER),
            *(
                Check.at_most(f"missed by, {name}", max(c.furthest for c in of), _ON_THE_BORDER)
                for name, of in checked.items()
            ),
        ]
        num_other = sum(check.num_other for of in checked.values() for check in of)
        values = {
            "answers": len(rows),
            "equal_to_generate": num_equal,
            "tokens_checked": sum(check.num_tokens for of in checked.values() for check in of),
            "tokens_on_the_border": num_other,
        }
        line = f"{num_equal} of {len(rows)} equal model.generate's"
        return Found(line, values, checks)

    def _answer_rows(self, model: LoadedModel) -> list[GenerationRow]:
        """Prompts that are steered in different ways, all of which ``model.generate`` can do."""
        return [
            GenerationRow(
                prompt_ids=_prompt(model, seed),
                seed=seed,
                steering=Intervention(
                    HookPoint(seed % model.layout.num_blocks, "resid_post"),
                    _vector(model, seed),
                    0.2 * (seed % 4),
                ),
                positions=GENERATION_POSITIONS[seed % len(GENERATION_POSITIONS)],
                max_new_tokens=self._sizes.answer_tokens,
            )
            for seed in range(self._sizes.num_answers)
        ]

    def _mixed_rows(self, model: LoadedModel) -> list[GenerationRow]:
        """The same prompts under every operation, at every site."""
        rows = self._answer_rows(model)
        mixed = []
        for seed, (operation, site) in enumerate(itertools.product(OPERATIONS, SITES)):
            row = rows[seed % len(rows)]
            assert row.steering is not None
            point = HookPoint(row.steering.point.block, site)
            steering = Intervention(
                point, row.steering.vector, OPERATIONS[operation].trial_coeff, operation
            )
            mixed.append(replace(row, seed=seed, steering=steering))
        return mixed

    # Kernels

    def kernels(self, family: Family) -> Found:
        """Each kernel against torch, and the engine with all of them against the reference."""
        model = self.model(family, "bfloat16")
        found = checks_of_kernels(model, self._sizes.kernel_positions)
        names, limit = usable(found), tolerance_for("bfloat16").score
        rows, tokens = self.rows("as_published"), self._sizes.fewest_tokens
        few = rows[: self._sizes.num_checked]
        layer = model.layout.num_blocks // 2
        cells, vectors = [Cell(layer, 1.0)], SteeringVectors({layer: _vector(model, 0)}, {})
        engine = engine_for(model, PROTOCOLS["as_published"], names)
        slow = SlowEngine(model, PROTOCOLS["as_published"])
        wanted = _stacked(slow.steered(few, cells, vectors, [0] * len(few)))
        with_kernels, again = (
            _stacked(engine.steered(rows, tokens, cells, vectors)) for _ in range(2)
        )
        checks = [
            *(Check.at_most(name, gap_of(check), check.limit) for name, check in found.items()),
            Check.at_most("packed, nats", _gap(with_kernels, wanted), limit),
            *self._kept_prefix(model, cells, vectors, limit, names)[1:],
            Check.at_most("same task again", _gap(again, with_kernels), 0.0),
            _noise(model, few, cells, vectors, with_kernels, wanted),
        ]
        return Found(f"{', '.join(names)} are right", {"kernels": list(names)}, checks)

    # The process

    def two_processes(self) -> Found:
        """The same task in this process and in another one at the same time."""
        family, dtype = FAMILIES[0], "bfloat16"
        ours = [self.digest(family, dtype)]
        command = "import sys; from jobs.bench.gpu.right import twin; twin(sys.argv[1])"
        with subprocess.Popen(  # noqa: S603 - this interpreter, our own function
            [sys.executable, "-c", command, self._setting.options.as_text()],
            stdout=subprocess.PIPE,
            text=True,
        ) as process:
            try:
                assert process.stdout is not None
                process.stdout.readline()  # it is ready: from now on both compute
                ours += [self.digest(family, dtype) for _ in range(_RUNS)]
                theirs = process.stdout.read().split()
            finally:
                process.kill()
        checks = [
            Check.same("distinct results in this process", len(set(ours)), 1),
            Check.same("runs of the other process", len(theirs), _RUNS),
            Check.same("distinct results in both", len({*ours, *theirs}), 1),
        ]
        return Found(f"{2 * _RUNS} runs, same bits", {"runs": 2 * _RUNS}, checks)

    def digest(self, family: Family, dtype: str) -> str:
        """SHA-256 of the steered scores of one task."""
        model, rows = self.model(family, dtype), self.rows("as_published")
        engine = engine_for(model, PROTOCOLS["as_published"])
        layer = model.layout.num_blocks // 2
        vectors = SteeringVectors({layer: _vector(model, 0)}, {})
        found = engine.steered(rows, self._sizes.fewest_tokens, [Cell(layer, 1.0)], vectors)
        return hashlib.sha256(found[0].scores.tobytes()).hexdigest()[:16]

    def out_of_memory(self) -> Found:
        """A batch that memory does not hold is halved, and leaves the same rows."""
        model, device = self.model(_PLAIN, "float32"), self._device
        tokens, rows = self._sizes.memory_tokens, self.rows("as_published")
        engine = engine_for(model, PROTOCOLS["as_published"])
        many = rows * (1 + tokens // sum(row.num_packed_tokens for row in rows))
        num_batches = len(list(batches(many, tokens)))
        engine.baseline(many, tokens // 8)
        reset_peak_memory(device)
        before, held = peak_memory_bytes(device), held_bytes(device)
        whole = engine.baseline(many, tokens)[0].scores
        need = peak_memory_bytes(device) - before
        # How much the allocator keeps from before is its own affair: with less and less room, one
        # of these is too little for the batch and enough for a part of it.
        for room in (int(need * room_share) for room_share in _ROOM_SHARES):
            found, took_s, at = self._with_room(engine.anew(), many, tokens, room)
            if len(at) > 2 * num_batches:
                break
        values = {
            "needed_bytes": need,
            "room_bytes": room,
            "batches": num_batches,
            "passes": len(at),
            "largest_batch": tokens,
            "largest_pass_again": max(at[len(at) // 2 :]),
            "took_s": took_s,
            "left_over_bytes": held_bytes(device) - held,
        }
        limit = tolerance_for("float32").score
        checks = [
            Check.same("batches were halved", len(at) > 2 * num_batches, True),
            Check.at_most("rows, first run", _gap(found[0].scores, whole), limit),
            Check.at_most("rows, second run", _gap(found[1].scores, whole), limit),
            Check.same("tensors left over", values["left_over_bytes"], 0),
        ]
        line = f"{num_batches} batches became {len(at)} passes in two runs, same rows"
        return Found(line, values, checks)

    def _with_room(
        self, engine: Engine, rows: Sequence[EncodedExample], tokens: int, room: int
    ) -> tuple[list[Scores], list[float], list[int]]:
        """Scores and time of two runs with so much memory, and the size of each pass."""
        found: list[Scores] = []
        model = self.model(_PLAIN, "float32")

        def run() -> None:
            found.append(engine.baseline(rows, tokens)[0])

        with limited_memory(self._device, room), entering(model.layout.decoder) as passes:
            took_s = [seconds(run, self._device) for _ in range(2)]
        return found, took_s, passes


def twin(text: str) -> None:
    """The other process of ``two_processes``: a line when it is ready, then a digest a line.

    Args:
        text: the options, see ``GpuOptions.as_text``.
    """
    bench = _Bench(Setting.of(GpuOptions.parse(text), time.monotonic()))
    for index in range(1 + _RUNS):
        digest = bench.digest(FAMILIES[0], "bfloat16")
        sys.stdout.write(f"{digest if index else 'ready'}\n")
        sys.stdout.flush()


def _noise(
    model: LoadedModel,
    rows: Sequence[EncodedExample],
    cells: Sequence[Cell],
    vectors: SteeringVectors,
    engine_scores: np.ndarray,
    plain_scores: np.ndarray,
) -> Check:
    """Whether the engine is as near to float32 as the plain loop in the same dtype."""
    exact = float32_copy(model)
    assert exact is not None, "no memory for a float32 copy"
    slow = SlowEngine(exact, PROTOCOLS["as_published"])
    exact_scores = _stacked(slow.steered(rows, cells, vectors, [0] * len(rows)))
    plain = float(np.abs(plain_scores - exact_scores).mean())
    engine = float(np.abs(engine_scores[:, : len(rows)] - exact_scores).mean())
    return Check.at_most("distance ratio", engine / plain, _TIMES_AS_FAR)


def _interventions(model: LoadedModel, *, tries_all: bool) -> list[Intervention]:
    """Every operation at every site and position, along vectors of their own; or a Latin square,
    in which every two of the three meet once."""
    made: list[Intervention] = []
    names = [*OPERATIONS]
    for numbers in itertools.product(range(len(names)), range(len(SITES)), range(4)):
        if not tries_all and sum(numbers) % 4:
            continue
        number = len(made)
        operation, site = names[numbers[0]], SITES[numbers[1]]
        positions = _POSITIONS[numbers[2]]
        point = HookPoint(number % model.layout.num_blocks, site)
        vector, coeff = _vector(model, number), OPERATIONS[operation].trial_coeff
        made.append(Intervention(point, vector, coeff, operation, positions))
    return made


def _vector(model: LoadedModel, seed: int) -> np.ndarray:
    """A random vector [D] float32 whose entries are about 1."""
    width = int(model.layout.config.hidden_size)
    return np.random.default_rng(seed).standard_normal(width).astype(np.float32)


def _prompt(model: LoadedModel, seed: int) -> tuple[int, ...]:
    rng = np.random.default_rng(seed)
    ids = rng.integers(3, int(model.layout.config.vocab_size), int(rng.integers(20, 60)))
    return tuple(ids.tolist())


def _stacked(scores: Sequence[Scores]) -> np.ndarray:
    return np.stack([of_cell.scores for of_cell in scores])


def _gap(found: np.ndarray, wanted: np.ndarray) -> float:
    """Largest difference of scores [..., N, 3]; of the first rows, if one side has fewer.

    Infinite if a score is finite on one side only.
    """
    num = min(found.shape[-2], wanted.shape[-2])
    found, wanted = np.broadcast_arrays(found[..., :num, :], wanted[..., :num, :])
    deviation = Deviation.between(found, wanted)
    return float("inf") if deviation.num_one_sided else deviation.largest


def tables(section: SectionRecord) -> list[Table]:
    """The section's tables."""
    by_kind: dict[str, list[StepRecord]] = {
        "scores": [], "operations": [], "answers": [], "kernels": [],
    }  # fmt: skip
    for step in section.succeeded():
        if step.name in ("two processes", "out of memory"):
            continue
        by_kind[step.name.partition(": ")[2] or "scores"].append(step)
    made = []
    titles = {
        "scores": "Largest gaps of scores in nats, per scored token",
        "operations": "Every operation, site and position, a row each: largest gaps in nats",
        "answers": "Answers in float32: by how much probability a token missed being chosen",
        "kernels": "Kernels in bfloat16: relative gaps to torch, and the engine with all of them",
    }
    notes = {
        "scores": "Against the model's own forward of one sequence, in the same dtype; `same task "
        "again` must be 0, `other batches` is the difference between two batch sizes; pooled "
        "states relative; `distance ratio`: mean distance of the engine from float32 over that of "
        "the plain loop in bfloat16.",
        "operations": "",
        "kernels": "A kernel's own column is empty if the model has no place for it.",
        "answers": "`equal`: answers that equal those of `model.generate` with a hook, to the last "
        "token. A token on the border of two may fall either way.",
    }
    for kind, found in by_kind.items():
        if found:
            made.append(_pivot(titles[kind], found, notes[kind]))
    rest = [_process_table(section.step(name)) for name in ("two processes", "out of memory")]
    return [*made, *(table for table in rest if table is not None)]


def _pivot(title: str, steps_found: Sequence[StepRecord], note: str) -> Table:
    """A line for each step, a column for each of its checks that is a number, and the limits."""
    columns: dict[str, None] = {}
    for step in steps_found:
        columns |= dict.fromkeys(
            c["what"] for c in step.found["checks"] if not isinstance(c["found"], str)
        )
    extra = ["equal"] if "equal_to_generate" in steps_found[0].found else []
    rows = []
    limits: dict[str, dict[str, Any]] = {}
    for step in steps_found:
        checks = {check["what"]: check for check in step.found["checks"]}
        _, comma, dtype = step.name.partition(": ")[0].rpartition(", ")
        of_dtype = limits.setdefault(f"limit{comma}{dtype if comma else ''}", {})
        of_dtype |= {name: checks[name]["limit"] for name in columns if name in checks}
        cells = [_verdict(checks.get(name)) for name in columns]
        broken = [c["what"] for c in checks.values() if not c["holds"]]
        equal = f"{step.found['equal_to_generate']} of {step.found['answers']}" if extra else ""
        rows.append(
            [
                step.name.partition(": ")[0],
                *([equal] if extra else []),
                *cells,
                "yes" if not broken else f"NO: {', '.join(broken)}",
            ]
        )
    for name, of_dtype in limits.items():
        cells = [_limit(of_dtype.get(column)) for column in columns]
        rows.append([name, *([""] if extra else []), *cells, ""])
    return Table(title, ["", *extra, *columns, "all hold"], rows, note)


def _limit(limit: float | str | None) -> str:
    return limit if isinstance(limit, str) else number(limit, 2)


def _verdict(check: dict[str, Any] | None) -> str:
    if check is None:
        return ""
    if check["found"] is None:
        return "not finite"
    text = "0" if check["found"] == 0 else number(check["found"], 2)
    return text if check["holds"] else f"**{text}**"


def _process_table(step: StepRecord | None) -> Table | None:
    if step is None or not step.found:
        return None
    rows = [
        [check["what"], str(check["found"]), str(check["limit"]), "yes" if check["holds"] else "NO"]
        for check in step.found["checks"]
    ]
    note = ""
    if "needed_bytes" in step.found:
        found = step.found
        note = (
            f"{found['batches']} batches of at most {found['largest_batch']:,} tokens need "
            f"{gib(found['needed_bytes'])}; with {gib(found['room_bytes'])} they ran in "
            f"{found['passes']} passes over two runs, which took "
            f"{' and '.join(number(s) + ' s' for s in found['took_s'])}."
        )
    return Table(step.name.capitalize(), ("", "found", "limit", "holds"), rows, note)
