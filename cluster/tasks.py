"""What is run, who runs it, and what is said about it: the vocabulary of dispatch.

Nothing here imports Ray. Everything here is frozen and crosses process boundaries by pickle.
"""

from __future__ import annotations

import importlib
import math
import traceback
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import TYPE_CHECKING, Any, Protocol, TypeAlias, cast, runtime_checkable

from cluster.placement import Share
from steersweep.errors import UserError

if TYPE_CHECKING:
    import pyarrow as pa


@dataclass(frozen=True, slots=True)
class Task:
    """One unit of work: it runs on one replica and leaves its parts in storage."""

    id: str
    "Digest of everything that changes the numbers; unique within a run."
    pool: str
    "Name of the pool whose replicas can run it."
    cost: float
    "Expected duration relative to other tasks of the pool (> 0); orders tasks, scales deadlines."
    parts: Mapping[str, str]
    "Table name to storage key, committed in this order: the last one marks the task done."
    payload: Any
    "Handed to `Worker.run` as it is; must survive pickling."
    num_items: int = 0
    "What it computes in the job's own unit (rows, answers), for progress and a monitor."
    is_urgent: bool = False
    """Others wait for it, and it is short: it goes before the rest of its pool, and says nothing
    about how long these take, as with a fit of vectors between tasks of the model."""

    def __post_init__(self) -> None:
        if not (math.isfinite(self.cost) and self.cost > 0):
            raise ValueError(f"cost of task {self.id} must be finite and > 0, got {self.cost}")
        if not self.parts:
            raise ValueError(f"task {self.id} names no part: nothing could mark it done")


class Worker(Protocol):
    """What a replica holds: state that is expensive to load, and a function of payloads."""

    def load(self) -> Mapping[str, str]:
        """Facts for the log (device, revision); may be called again and then loads nothing."""

    def run(self, payload: Any) -> Mapping[str, pa.Table]:
        """The tables of one task by name; a pure function of payload and loaded state."""


@runtime_checkable
class ChecksDevice(Protocol):
    """What a `Worker` may also have: a test of its accelerator."""

    def check_device(self) -> None:
        """Raise if the device can no longer compute anything in this process.

        A replica calls it after `run` has raised. Some CUDA errors (an illegal address, a memory
        fault) break the whole process: every later call on the device fails too.
        """


@dataclass(frozen=True)
class WorkerFactory:
    """Names a callable that builds a `Worker`, so that only text and arguments travel."""

    target: str
    "'package.module:callable'"
    kwargs: Mapping[str, Any] = field(default_factory=dict)

    def build(self) -> Worker:
        """A new worker, not loaded; ImportError or AttributeError where `target` is missing."""
        module, _, name = self.target.partition(":")
        if not (module and name):
            raise ValueError(f"target must be 'package.module:callable', got {self.target!r}")
        make = getattr(importlib.import_module(module), name)
        return cast(Worker, make(**self.kwargs))


@dataclass(frozen=True)
class Pool:
    """Replicas that are alike: the same worker on the same share of a machine."""

    name: str
    factory: WorkerFactory
    share: Share = field(default_factory=Share)


@dataclass(frozen=True, slots=True)
class Receipt:
    """A task is done: its parts are in storage."""

    task_id: str
    attempt: str
    num_rows: int
    num_bytes: int
    duration_s: float
    digests: Mapping[str, str]
    "Table name to content digest of the part that is in storage."


class FailureKind(StrEnum):
    """Whose fault a failure is, which decides what is done about it."""

    TASK = "task"
    "The task's own: an exception raised by `Worker.run`."
    REPLICA = "replica"
    "The replica was lost, hung or unavailable."
    MEMORY = "memory"
    "The machine ran out of memory: too much ran on it at a time, or the task alone is too large."
    PREEMPTED = "preempted"
    "The node died or was taken away; nobody's fault."
    STORAGE = "storage"
    "Storage trouble that may pass."
    RUN = "run"
    "Would meet every task alike: stop everything."


REPLICA_IS_LOST = frozenset({FailureKind.REPLICA, FailureKind.MEMORY, FailureKind.PREEMPTED})
"Failures after which the replica is not used again, whether or not its process lives."


@dataclass(frozen=True)
class Failure:
    """A failure as plain text, so that it travels without the exception's class."""

    kind: FailureKind
    message: str
    "One line: exception type and text, or the bare text of a `UserError`."
    details: str = ""
    "Full traceback for the log; may be empty."
    user_must_act: bool = False
    "True if the message is addressed to the user, as with `UserError`."
    device_is_lost: bool = False
    "True if the replica's device no longer works. Kind REPLICA: only a new process can use it."
    error_type: str = ""
    "Name of the exception's type, if the message does not begin with it."

    @classmethod
    def from_exception(cls, kind: FailureKind, error: BaseException) -> Failure:
        """The failure that `error` is; its text joined to one line."""
        # What may pass is for the run to try again, and for the user only in the end.
        is_for_user = isinstance(error, UserError)
        user_must_act = is_for_user and kind is not FailureKind.STORAGE
        details = "".join(traceback.format_exception(error))
        text = " ".join(str(error).split())
        name = type(error).__name__
        if is_for_user and text:
            return cls(kind, text, details, user_must_act, error_type=name)
        return cls(kind, f"{name}: {text}" if text else name, details, user_must_act)


@dataclass(frozen=True)
class ReplicaPlaced:
    """The slot's replica has its share of a node, and begins to load."""

    slot: int


@dataclass(frozen=True)
class ReplicaReady:
    slot: int
    facts: Mapping[str, str]


@dataclass(frozen=True)
class ReplicaLost:
    """The slot's replica is gone, and with it the task in flight; nothing more comes from it."""

    slot: int
    failure: Failure


@dataclass(frozen=True)
class ReplicaDraining:
    """The slot's node will be taken away; the replica works until then."""

    slot: int
    seconds_left: float
    "inf where the node waits for as long as something runs on it."


@dataclass(frozen=True)
class RoomChanged:
    """The cluster now has room for another number of replicas than it had."""

    num_replicas: int


@dataclass(frozen=True)
class TaskFinished:
    slot: int
    receipt: Receipt


@dataclass(frozen=True)
class TaskFailed:
    """One attempt failed; the replica lives on."""

    slot: int
    task_id: str
    failure: Failure


@dataclass(frozen=True)
class StartReplica:
    slot: int
    pool: Pool


@dataclass(frozen=True)
class RunTask:
    slot: int
    task: Task
    attempt: str


@dataclass(frozen=True)
class StopReplica:
    """End the slot's replica by force; no event of it may follow."""

    slot: int


Event: TypeAlias = (
    ReplicaPlaced
    | ReplicaReady
    | ReplicaLost
    | ReplicaDraining
    | RoomChanged
    | TaskFinished
    | TaskFailed
)
Action: TypeAlias = StartReplica | RunTask | StopReplica
