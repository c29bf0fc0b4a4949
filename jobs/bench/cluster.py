"""What the cluster layer costs and gains: one replica in process, one and several on Ray.

The same tasks of a sweep go through the parts of a run: scheduler, driver loop, backend, worker,
certificate, commit to a temporary folder. Models are loaded and warm before anything is timed, and
the three ways take turns. Needs Ray and Arrow, unlike the rest of the bench.
"""

from __future__ import annotations

import json
import os
import statistics
import tempfile
import time
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
import transformers

from cluster.backends.base import Backend
from cluster.backends.in_process import InProcessBackend
from cluster.driver import execute
from cluster.placement import Share
from cluster.scheduler import Scheduler
from cluster.storage import StorageSpec
from cluster.tasks import Pool, Task, WorkerFactory
from jobs.bench.machine import Machine, machine_of
from jobs.bench.options import check_options
from jobs.bench.report import grid
from jobs.bench.rows import draw_examples, train_tokenizer
from jobs.bench.shapes import build_shape
from jobs.identity import digest
from jobs.scoring.batch_size import tuning_key
from jobs.scoring.set_scorer import Payload, SteeringOf
from jobs.scoring.tables import part_key, vectors_key
from jobs.spec import CertificateSpec
from jobs.stereoset.groups import group_of
from jobs.stereoset.tables import StereoSetRows
from jobs.sweeps.worker import StoredVectors
from steering_core.engine import Cell
from steering_core.hook_points import check_layers
from steering_core.models import ModelSource
from steering_core.nulls import random_vectors
from steering_core.protocol import PROTOCOLS
from steering_core.stereoset import Example
from steering_core.vectors import SteeringVectors, to_safetensors
from steersweep.errors import UserError

_POOL = "bench"
_WHERE = group_of("shape", "intersentence", "gender")
_PROTOCOL = PROTOCOLS["as_published"]
_MOST_EXAMPLES = 4096
_FIRST_EXAMPLES = 4
_NUM_FITS = 2


@dataclass(frozen=True)
class ClusterOptions:
    """What to measure.

    Attributes:
        shape: name of a random-weight shape.
        data: StereoSet's dev.json; the embedded examples, repeated, where left out.
        layers: 1-based; every second layer where empty.
        coeffs: coefficients at each layer.
        replicas: number that is held against one; each has ``threads`` of torch.
        task_seconds: length that tasks are made to have, by their number of examples.
        tasks: of each way in each repeat; a multiple of ``replicas``, so that all have the same.
        tokens_per_batch: positions of one forward pass.
        repeats: times that each way is timed, in turn; the median counts.
        json: file for the results.
    """

    shape: str = "qwen2-small"
    data: str | None = None
    layers: tuple[int, ...] = ()
    coeffs: tuple[float, ...] = (20.0,)
    replicas: int = 2
    threads: int = 1
    task_seconds: float = 5.0
    tasks: int = 4
    tokens_per_batch: int = 1024
    repeats: int = 3
    json: str | None = None

    def check(self) -> None:
        """Raise UserError for a number that cannot be measured."""
        at_least = {"replicas": 2, "threads": 1, "tasks": 1, "tokens_per_batch": 1, "repeats": 1}
        check_options(self, at_least)
        if self.tasks % self.replicas:
            raise UserError(
                f"--tasks must be a multiple of --replicas ({self.replicas}), so that no replica "
                f"waits for another; got {self.tasks}"
            )
        if self.task_seconds <= 0:
            raise UserError(f"--task-seconds must be more than 0, got {self.task_seconds}")


@dataclass(frozen=True)
class ClusterResult:
    """Everything that was measured.

    Attributes:
        num_examples, num_cells: of each task.
        rows_cells_per_s: by way, the median.
        took_s: by way, wall time of each repeat.
        task_s: by way, median of what replicas say that a task took, commit included.
        driver_cpu_s_per_task: processor time of the driver process, for the ways on Ray.
    """

    machine: Machine
    options: ClusterOptions
    num_examples: int
    num_cells: int
    rows_cells_per_s: Mapping[str, float]
    took_s: Mapping[str, list[float]]
    task_s: Mapping[str, float]
    driver_cpu_s_per_task: Mapping[str, float]

    @property
    def speedup(self) -> float:
        """Rate of all replicas over that of one, both on Ray."""
        return self.rows_cells_per_s[_several(self.options)] / self.rows_cells_per_s[_ONE]

    @property
    def overhead(self) -> float:
        """Share of its time that one replica on Ray takes more than in process."""
        return self.rows_cells_per_s[_IN_PROCESS] / self.rows_cells_per_s[_ONE] - 1

    def as_json(self) -> dict[str, Any]:
        """Plain data: the names other tools rely on at the top, details below them."""
        details = asdict(self)
        machine = details.pop("machine")
        named = {"cluster_speedup": self.speedup, "cluster_overhead": self.overhead}
        return {**named, **machine, **details}


_IN_PROCESS, _ONE = "in process", "1 replica on Ray"


def _several(options: ClusterOptions) -> str:
    return f"{options.replicas} replicas on Ray"


def bench_cluster(options: ClusterOptions, say: Callable[[str], None]) -> ClusterResult:
    """Measure on this machine's CPU, print the table, and write the JSON file where asked for.

    Starts a Ray of its own. Sets torch's number of threads and random seed.

    Raises:
        UserError: Ray cannot be started, or something else must be changed; raised before
            anything is measured.
    """
    options.check()
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    os.environ["RAY_ADDRESS"] = "local"
    transformers.logging.disable_progress_bar()
    torch.set_num_threads(options.threads)
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="steersweep-bench-")))
        work = _Work.made(folder, options)
        say(f"{options.shape} is ready; starting Ray and {1 + options.replicas} replicas")
        sessions = _sessions(work, stack)
        num = _fit(work, sessions[_IN_PROCESS])
        say(f"{num} examples x {len(work.cells)} cells a task; measuring")
        result = _measure(work, num, sessions)
    if options.json is not None:
        text = json.dumps(result.as_json(), indent=2) + "\n"
        Path(options.json).expanduser().write_text(text, encoding="utf-8")
    say(table(result))
    return result


@dataclass(frozen=True)
class _Work:
    """What tasks are made of."""

    options: ClusterOptions
    machine: Machine
    folder: Path
    examples: tuple[Example, ...]
    cells: tuple[Cell, ...]
    vectors: SteeringVectors

    @classmethod
    def made(cls, folder: Path, options: ClusterOptions) -> _Work:
        """A model of the shape with a tokenizer, written as a model folder; its tasks' parts."""
        examples, of_file = draw_examples(options.data, _MOST_EXAMPLES)
        model = build_shape(options.shape, torch.device("cpu"), torch.float32)
        num_blocks = model.layout.num_blocks
        layers = options.layers or tuple(range(1, num_blocks + 1, 2))
        check_layers(layers, num_blocks, options.shape)
        tokenizer = train_tokenizer(of_file, int(model.layout.config.vocab_size))
        model.module.save_pretrained(folder / "model")  # type: ignore[operator]
        tokenizer.save_pretrained(folder / "model")
        width = int(model.layout.config.hidden_size)
        ones = {layer: torch.ones(width).numpy() for layer in layers}
        return cls(
            options=options,
            machine=machine_of(model, 0.0),
            folder=folder,
            examples=tuple(e for e in examples if isinstance(e, Example)),
            cells=tuple(Cell(layer, coeff) for layer in layers for coeff in options.coeffs),
            vectors=random_vectors(SteeringVectors(ones, {}), "bench"),
        )

    def storage(self, name: str) -> StorageSpec:
        """An output that holds the vectors."""
        spec = StorageSpec(str(self.folder / name))
        spec.open().replace(vectors_key(_WHERE), to_safetensors(self.vectors, {}))
        return spec

    def pool(self, storage: StorageSpec) -> Pool:
        """Replicas of the model; they ask Ray for no CPU, since those that wait stay there."""
        kwargs = {
            "source": ModelSource(str(self.folder / "model")),
            "protocol": _PROTOCOL,
            "layers": tuple(self.vectors.whole),
            "rows": StereoSetRows(),
            "device": "cpu",
            "dtype": "float32",
            "num_threads": self.options.threads,
            "storage": storage,
            "certificate": CertificateSpec(
                rows_per_task=2, tolerance="auto", on_failure="fall_back"
            ),
            "tuning_key": tuning_key(_POOL),
        }
        factory = WorkerFactory("jobs.scoring.worker:ScoredWorker", kwargs)
        return Pool(_POOL, factory, share=Share(cpus=0.0))

    def task(self, number: int, num_examples: int) -> Task:
        """A task of its own id, on the same examples as every other of this size."""
        task_id = digest({"bench": number})
        examples = self.examples[:num_examples]
        folds = (0,) * len(examples)
        digests = {layer: self.vectors.digest(layer) for layer in self.vectors.whole}
        payload = Payload(
            task_id=task_id,
            group=_WHERE,
            tables=("steered",),
            examples=examples,
            folds=folds,
            tokens_per_batch=self.options.tokens_per_batch,
            cells=self.cells,
            vectors={"steered": SteeringOf(StoredVectors(vectors_key(_WHERE), digests), folds)},
        )
        parts = {"steered": part_key("steered", _WHERE, task_id)}
        return Task(task_id, _POOL, float(num_examples), parts, payload)


class _Session:
    """A scheduler and a backend whose replicas stay loaded between rounds of tasks."""

    def __init__(self, work: _Work, storage: StorageSpec, backend: Backend, replicas: int) -> None:
        self._work, self._backend = work, backend
        self._scheduler = Scheduler([work.pool(storage)], replicas)
        self._num_tasks = 0
        while self._scheduler.progress().num_ready_replicas < replicas:
            self.round(2 * replicas, _FIRST_EXAMPLES)

    def round(self, num_tasks: int, num_examples: int) -> tuple[float, float, list[float]]:
        """Wall time of that many tasks, the driver's processor time, and what each task took."""
        first, self._num_tasks = self._num_tasks, self._num_tasks + num_tasks
        tasks = [self._work.task(n, num_examples) for n in range(first, self._num_tasks)]
        wall, cpu = time.perf_counter(), time.process_time()
        self._scheduler.add(tasks)
        outcome = execute(self._backend, self._scheduler)
        wall_s, cpu_s = time.perf_counter() - wall, time.process_time() - cpu
        if not outcome.complete:
            reason = outcome.stop.message if outcome.stop else outcome.set_aside[0].reason
            raise UserError(f"the bench's tasks cannot run: {reason}")
        return wall_s, cpu_s, [outcome.done[task.id].duration_s for task in tasks]


def _sessions(work: _Work, stack: ExitStack) -> dict[str, _Session]:
    from cluster.backends.ray_backend import RayBackend
    from cluster.backends.ray_session import ray_session

    stack.enter_context(ray_session())
    found = {}
    ways = {_IN_PROCESS: 1, _ONE: 1, _several(work.options): work.options.replicas}
    for number, (name, replicas) in enumerate(ways.items()):
        storage = work.storage(f"output-{number}")
        backend: Backend = RayBackend(storage) if number else InProcessBackend(storage)
        stack.enter_context(backend)
        found[name] = _Session(work, storage, backend, replicas)
    return found


def _fit(work: _Work, session: _Session) -> int:
    """Examples of a task of the length asked for, by what a few take."""
    num = _FIRST_EXAMPLES
    for _ in range(_NUM_FITS):
        took_s, _, _ = session.round(1, num)
        num = max(1, min(len(work.examples), round(num * work.options.task_seconds / took_s)))
    return num


def _measure(work: _Work, num_examples: int, sessions: Mapping[str, _Session]) -> ClusterResult:
    options = work.options
    took: dict[str, list[float]] = {name: [] for name in sessions}
    cpu: dict[str, list[float]] = {name: [] for name in sessions}
    of_tasks: dict[str, list[float]] = {name: [] for name in sessions}
    for repeat in range(options.repeats):
        # There and back: a machine that slows down slows each way alike.
        for name in list(sessions)[:: 1 if repeat % 2 == 0 else -1]:
            wall_s, cpu_s, each_s = sessions[name].round(options.tasks, num_examples)
            took[name].append(wall_s)
            cpu[name].append(cpu_s / options.tasks)
            of_tasks[name] += each_s
    num = options.tasks * num_examples * len(work.cells)
    return ClusterResult(
        machine=replace(work.machine, threads=options.threads),
        options=options,
        num_examples=num_examples,
        num_cells=len(work.cells),
        rows_cells_per_s={name: num / statistics.median(all_s) for name, all_s in took.items()},
        took_s=took,
        task_s={name: statistics.median(all_s) for name, all_s in of_tasks.items()},
        driver_cpu_s_per_task={
            name: statistics.median(all_s) for name, all_s in cpu.items() if name != _IN_PROCESS
        },
    )


def table(result: ClusterResult) -> str:
    """The result for a reader."""
    machine, options = result.machine, result.options
    lines = [
        [
            name,
            f"{rate:.4g}",
            f"{result.task_s[name]:.3g} s",
            f"{1e3 * result.driver_cpu_s_per_task[name]:.3g} ms"
            if name in result.driver_cpu_s_per_task
            else "",
            *(f"{s:.3g}" for s in result.took_s[name]),
        ]
        for name, rate in result.rows_cells_per_s.items()
    ]
    header = ["", "rows x cells/s", "a task", "driver CPU a task", "seconds of each repeat"]
    header += [""] * (options.repeats - 1)
    return "\n".join(
        [
            f"{options.shape}, {machine.dtype}, {machine.device_name}, {options.threads} threads a "
            f"replica, torch {machine.torch}, transformers {machine.transformers}, {machine.date}",
            f"{options.tasks} tasks of {result.num_examples} examples x {result.num_cells} cells; "
            f"median of {options.repeats}, in turn",
            "",
            *grid(header, lines),
            "",
            f"{options.replicas} replicas over one: {result.speedup:.2f} x",
            f"driver and Ray over the in-process twin: {result.overhead:+.1%} of the time",
        ]
    )
