"""A job's interface: what a kind of sweep provides to be run, planned, reported and read.

A job is one object, registered under the name that ``job:`` of a sweep file gives
(``registry.py``). Everything that is the same for all jobs is done around it: the run loop
(``runner.py``), the check that an output belongs to the sweep (``same_sweep.py``), resuming
(``parts.py``, ``steps.py``), progress, the record, signals.

    spec --resolve--> sweep --workflow--> steps of tasks --(replicas)--> parts
    parts --summarise--> tables, page
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar, Generic, Protocol, Self, TypeVar, cast

import pyarrow as pa

from cluster.errors import ObjectNotFoundError
from cluster.ledger import Ledger
from cluster.placement import Share
from cluster.storage import Storage, StorageSpec
from cluster.tasks import Pool, Receipt, Task, Worker
from cluster.threads import thread_pool
from jobs.examples_file import EXAMPLES_KEY
from jobs.spec import JobSpec
from jobs.sweeps.parts import StoredParts
from jobs.sweeps.same_sweep import changes_of, removals_of
from jobs.sweeps.steps import Stage, Step

if TYPE_CHECKING:
    from jobs.results import Results
    from jobs.sweeps.estimate import Estimate, PlanOptions
    from jobs.sweeps.report import ReportOptions
    from jobs.sweeps.session import DriverState


class Sweep(Protocol):
    """A resolved sweep: a spec whose inputs were read and checked."""

    @property
    def device(self) -> str:
        """The replicas' kind of device: ``cuda``, ``xla``, ``mps`` or ``cpu``."""

    def resolved_spec(self) -> dict[str, Any]:
        """The spec as plain data, with what decides numbers filled in."""

    def identity(self) -> dict[str, Any]:
        """Flat description of what decides the numbers, but for the grid, which may grow."""


SpecT = TypeVar("SpecT", bound=JobSpec)
SweepT = TypeVar("SweepT", bound=Sweep)
OutputT = TypeVar("OutputT", bound="StoredOutput")

_WRITERS = 16


@dataclass(frozen=True)
class StoredOutput:
    """An output as it was when a command opened it. A job's own type adds what it keeps there.

    Attributes:
        record: what ``run.json`` says; None if there is none.
    """

    storage: Storage
    ledger: Ledger
    record: Mapping[str, Any] | None

    @classmethod
    def read(cls, storage: Storage) -> Self:
        """The output in a storage.

        Raises:
            UserError: ``run.json`` is not the record of a run, or a newer version wrote it.
        """
        ledger = Ledger(storage)
        return cls(storage, ledger, ledger.read_record())

    @property
    def outcome(self) -> str | None:
        """How the last session ended; None if no run has begun, or that is not known."""
        return None if self.record is None else str(self.record["outcome"])

    @property
    def last_session(self) -> Mapping[str, Any]:
        """What ``run.json`` says of the last session."""
        sessions: Sequence[Mapping[str, Any]] = (self.record or {}).get("sessions") or [{}]
        return sessions[-1]


class Files:
    """Files that follow from results, such as vectors and indexes.

    Nothing may be written before the output is claimed, but what a step leads to may be known by
    then: a resumed run merges the fits that an earlier one left. So these files wait until
    ``release``.
    """

    def __init__(self, storage: Storage) -> None:
        self._storage = storage
        self._waiting: dict[str, bytes] | None = {}

    def replace(self, key: str, data: bytes) -> None:
        """Write a file, now or once the output is claimed."""
        self.replace_all({key: data})

    def replace_all(self, files: Mapping[str, bytes]) -> None:
        """Write several files; many at a time, as hundreds of draws of nulls have a file each."""
        if self._waiting is None:
            self._write(files)
        else:
            self._waiting |= files

    @property
    def is_empty(self) -> bool:
        """Whether nothing waits."""
        return not self._waiting

    def settle(self) -> None:
        """Forget waiting files that are in the output as they are to be."""
        for key, data in list((self._waiting or {}).items()):
            with suppress(ObjectNotFoundError):
                if self._waiting is not None and self._storage.read(key) == data:
                    del self._waiting[key]

    def release(self) -> None:
        """Write what waits, and everything later at once."""
        waiting, self._waiting = self._waiting or {}, None
        self._write(waiting)

    def _write(self, files: Mapping[str, bytes]) -> None:
        with thread_pool(min(_WRITERS, len(files) or 1)) as pool:
            list(pool.imap(lambda key: self._storage.replace(key, files[key]), files))


@dataclass(frozen=True)
class DriverPool:
    """Tasks that run in a thread of the driver: they need no replica, only a server that is asked.

    Attributes:
        worker: loaded already.
    """

    name: str
    worker: Worker


@dataclass(frozen=True)
class Replicas:
    """What pools need to know of where replicas run."""

    storage: StorageSpec
    share: Share


class Workflow(ABC):
    """What a sweep does in one output: its steps, and what there is to say about them.

    Made before anything is written; may read the output.

    Attributes:
        stored: the output's parts.
        is_settled: nothing is left to write down either, if no task is left.
        is_read_only: an output of an earlier version that is finished: reported, never written to.
    """

    stored: StoredParts
    is_settled: bool = True
    is_read_only: bool = False

    @abstractmethod
    def steps(self) -> Iterable[Step]:
        """The first steps; the others follow from them."""

    @abstractmethod
    def totals(self) -> Mapping[Stage, int]:
        """Items (rows, answers) of each stage that progress counts, as far as they can be known."""

    @abstractmethod
    def most_tasks(self) -> int:
        """Tasks that could run at the same time: more replicas would have nothing to do."""

    @abstractmethod
    def pools(self, replicas: Replicas) -> Sequence[Pool | DriverPool]:
        """The replicas by what they hold: a pool for each model, and for a judge."""

    def needs_replicas(self, ready: Sequence[Task]) -> bool:  # noqa: ARG002
        """Whether tasks of this session run on replicas; if not, it does not wait for room.

        Args:
            ready: the tasks that can run now, given what the output holds.
        """
        return True

    def headlines(self) -> Sequence[str]:
        """What the run is about, a line each; printed before anything is done."""
        return ()

    def warnings(self) -> Sequence[str]:
        """What the user should know before the run begins."""
        return ()

    def check(self) -> None:  # noqa: B027 - most jobs need none
        """Try what tasks will need, such as a paid judge, if there is something left to do.

        Raises:
            UserError: it does not work.
        """

    def examples(self) -> pa.Table | None:
        """The texts behind the ids of rows, for ``examples.parquet``."""
        return None

    def texts(self) -> Mapping[str, pa.Table]:
        """All texts behind ids, by the key of their file."""
        examples = self.examples()
        return {} if examples is None else {EXAMPLES_KEY: examples}

    def record(self) -> Mapping[str, Any]:
        """What ``run.json`` says of the whole run beside spec and identity."""
        return {}

    def planned(self) -> Mapping[str, Any]:
        """What ``run.json`` says of the session before its first task."""
        return {}

    def write_plan(self) -> None:  # noqa: B027 - most jobs need none
        """Write down what was decided for the output; called once it is claimed."""

    def done(self, task: Task, receipt: Receipt) -> None:  # noqa: B027 - most jobs need none
        """Take note of a task that this session has done."""

    def session(self, elapsed_s: float) -> Mapping[str, Any]:  # noqa: ARG002
        """What ``run.json`` says of the session so far.

        Args:
            elapsed_s: since the first replica was ready.
        """
        return {}

    def set_aside(self, task: Task, step: Step, reason: str) -> Mapping[str, Any]:
        """What ``run.json`` and ``status`` say of a task that failed for good."""
        return {
            "task_id": task.id,
            "table": [*task.parts][-1],
            "group": step.group,
            "reason": reason,
        }

    def replica_warnings(self, facts: Mapping[str, str]) -> Sequence[str]:  # noqa: ARG002
        """What the user should know of a replica that is ready."""
        return ()

    def last_lines(self) -> Sequence[str]:
        """What to say when the session has ended, however it ended."""
        return ()

    def stop(self) -> None:  # noqa: B027 - most jobs need none
        """The session ends early: begin nothing new in threads of the driver."""


@dataclass(frozen=True)
class Growth:
    """A key of the grid, to which values may be added in a finished output.

    Attributes:
        words: what it is called in a sentence: ``layers``.
        keeps: whether values that the output holds must stay in the spec.
    """

    words: str
    keeps: bool = True


@dataclass(frozen=True)
class Shipment:
    """What of a spec a cluster gets, and what it must have there itself.

    Attributes:
        files: contents by the path that the shipped spec names.
        document: the spec as plain data, naming these files.
        models: (key, path) of models, which every node must have.
        head_files: (key, path) of files that the driver reads, and the cluster's head must have.
    """

    document: Mapping[str, Any]
    files: Mapping[str, bytes] = field(default_factory=dict)
    models: Sequence[tuple[str, str]] = ()
    head_files: Sequence[tuple[str, str]] = ()


class Job(ABC, Generic[SpecT, SweepT, OutputT]):
    """A kind of sweep.

    Attributes:
        name: of the job in sweep files.
        spec_type: its sweep file.
        owns: keys and prefixes that its runs leave in an output, beside those of every job.
        marker: one of these, by which an output of this job is known if ``run.json`` is lost
            (``has_run``).
        grows: by key of the spec, what may be added to a finished output.
        reasons: by key of the identity, why it cannot change; for keys of this job alone.
        output_type: what it reads of an output beside the record.
    """

    name: ClassVar[str]
    spec_type: ClassVar[type[JobSpec]]
    owns: ClassVar[tuple[str, ...]]
    marker: ClassVar[str]
    grows: ClassVar[Mapping[str, Growth]]
    reasons: ClassVar[Mapping[str, str]] = {}
    output_type: ClassVar[type[StoredOutput]] = StoredOutput

    def open(self, output: StoredOutput) -> OutputT:
        """The output as this job reads it."""
        return cast(OutputT, self.output_type(output.storage, output.ledger, output.record))

    def has_run(self, output: StoredOutput) -> bool:
        """Whether an output whose record is lost holds a run of this job."""
        return next(iter(output.storage.list(self.marker)), None) is not None

    # -- a run ----------------------------------------------------------------------------------

    @abstractmethod
    def resolve(self, spec: SpecT, device: str | None, output: OutputT | None) -> SweepT:
        """The sweep of a spec. Everything that a user can get wrong is found here.

        Args:
            device: the replicas' kind of device if the caller knows it; otherwise the spec's, on
                this machine.
            output: where it will run, which may have decided something; None: anywhere.

        Raises:
            UserError: an input is missing or wrong.
        """

    @abstractmethod
    def workflow(self, sweep: SweepT, output: OutputT, files: Files) -> Workflow:
        """What the sweep does in an output. Writes nothing but to ``files``.

        Raises:
            UserError: the output holds damaged parts, or cannot take this sweep.
        """

    def held(self, output: OutputT) -> Mapping[str, Iterable[Any]]:
        """Values of ``grows`` that an output holds; by default, those of its recorded spec."""
        spec = (output.record or {}).get("spec", {})
        return {key: _values_at(spec, key) for key, growth in self.grows.items() if growth.keeps}

    def wanted(self, sweep: SweepT) -> Mapping[str, Iterable[Any]]:
        """Values of ``grows`` that a sweep has."""
        spec = sweep.resolved_spec()
        return {key: _values_at(spec, key) for key, growth in self.grows.items() if growth.keeps}

    def changes(self, sweep: SweepT, output: OutputT) -> list[str]:
        """What of the spec is not what the output was started with and may not differ, in words."""
        record = output.record
        found: list[str] = []
        if record is not None:
            before = self.recorded_identity(record)
            found = changes_of(before, sweep.identity(), self.reasons)
        return found + removals_of(self.held(output), self.wanted(sweep))

    def recorded_identity(self, record: Mapping[str, Any]) -> Mapping[str, Any]:
        """The identity in a run's record, with what keys meant before they were there."""
        identity: Mapping[str, Any] = record["identity"]
        return identity

    # -- an output ------------------------------------------------------------------------------

    @abstractmethod
    def report(self, output: OutputT, options: ReportOptions) -> Mapping[str, Any]:
        """Make tables, figures and page from the parts alone; returns the printed result as plain
        data.

        Raises:
            UserError: no run at this place, or damaged parts.
        """

    def show(self, output: OutputT) -> bool:  # noqa: ARG002
        """Print what the last report left; False if it has to be made again."""
        return False

    @abstractmethod
    def status(self, output: OutputT, driver: DriverState) -> Mapping[str, Any]:
        """Print how far a run has come, and return it as plain data."""

    @abstractmethod
    def verify(self, output: OutputT, num_rows: int, seed: int) -> Mapping[str, Any]:
        """Recompute some stored rows in the slow and obvious way, print and return what came of it.

        Returns:
            Plain data with ``verdict``: ``holds``, ``broken`` or ``not checked``.
        """

    def plan(self, spec: SpecT, options: PlanOptions) -> Estimate:  # noqa: ARG002
        """What a run would have to do; runs nothing and writes nothing to the output.

        By default, its steps are counted.
        """
        from jobs.sweeps.estimate import counted

        return counted(self, spec)

    @abstractmethod
    def results(self, output: OutputT) -> Results:
        """The tables of an output for a notebook."""

    # -- a cluster ------------------------------------------------------------------------------

    def shipment(self, spec: SpecT) -> Shipment:
        """What of a spec travels to a cluster.

        Raises:
            UserError: a file that should travel is missing or wrong.
        """
        return Shipment(spec.model_dump(mode="json", exclude_unset=True), models=models_of(spec))


AnyJob = Job[Any, Any, Any]


def models_of(spec: JobSpec) -> list[tuple[str, str]]:
    """(key, path) of the models of any spec that has some."""
    models = getattr(spec, "models", {})
    return [(f"models.{name}.path", model.path) for name, model in models.items()]


def _values_at(spec: Mapping[str, Any], key: str) -> list[Any]:
    """The values at a key path of a recorded spec: names of a mapping, entries of a list."""
    value: Any = spec
    for part in key.split("."):
        value = value.get(part, ()) if isinstance(value, Mapping) else ()
    return list(value) if isinstance(value, Mapping | list | tuple) else [value]
