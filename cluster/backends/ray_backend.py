"""Replicas as Ray actors: one actor per incarnation, and every failure turned into an event.

An actor is never restarted by Ray and no call is retried by it. An error from Ray does not say
that the call did not run, so who tries again, where, and at whose cost is the scheduler's to
decide; a commit that happened twice is harmless. A lost actor is killed before it is replaced, as
one that is only unreachable would keep its share of the machine.
"""

from __future__ import annotations

import logging
import re
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import ray
from ray import exceptions as ray_errors

from cluster.backends.base import Backend
from cluster.backends.node_watch import NodeWatch
from cluster.lease import LeaseToken
from cluster.placement import Node, Share
from cluster.replica import Replica
from cluster.storage import StorageSpec
from cluster.tasks import (
    REPLICA_IS_LOST,
    Event,
    Failure,
    FailureKind,
    Pool,
    ReplicaDraining,
    ReplicaLost,
    ReplicaPlaced,
    ReplicaReady,
    RoomChanged,
    Task,
    TaskFailed,
    TaskFinished,
)

logger = logging.getLogger(__name__)

_PID = re.compile(r"\bpid: (\d+)")
_REASON = re.compile(r"The actor (?:is dead|died) because (.*)")
_NODE_DIED = "because its node has died"
_OWNER_DIED = "because its owner has died"

RoomOf = Callable[[Sequence[Node]], int]
"""How many replicas nodes have room for."""


@dataclass
class _Actor:
    handle: Any
    call: Any
    "The one object ref under way, or None."
    task_id: str | None = None
    "None while the call under way is `ready`."
    placed: Any = None
    "The object ref of `placed` until it is answered; calls of an actor run one after another."

    @property
    def id(self) -> str:
        """As Ray's tables have it."""
        return str(self.handle._actor_id.hex())


class RayBackend(Backend):
    """Runs replicas on the Ray cluster that this process is connected to."""

    def __init__(
        self,
        storage_spec: StorageSpec,
        lease: LeaseToken | None = None,
        room_of: RoomOf | None = None,
    ) -> None:
        """`lease`: what each replica must find in its storage before it is given work.

        `room_of`: where it is given, `RoomChanged` tells when nodes come and go.
        """
        self._storage_spec, self._lease, self._room_of = storage_spec, lease, room_of
        # Made once: each `ray.remote` of a class sends it to the cluster anew.
        self._actor_class = ray.remote(Replica)
        self._nodes = NodeWatch()
        self._room: int | None = None
        self._seen: object = None
        self._told_draining: set[int] = set()
        self._actors: dict[int, _Actor] = {}
        self._queued: list[Event] = []

    def start(self, slot: int, pool: Pool) -> None:
        """See `Backend.start`; the actor waits until the cluster has room for it."""
        assert slot not in self._actors, f"slot {slot} holds a replica"
        try:
            actor_class = self._actor_class.options(
                **actor_options(pool.share), max_restarts=0, max_task_retries=0
            )
            handle = actor_class.remote(
                pool.factory, self._storage_spec, owns_process=True, lease=self._lease
            )
            placed = handle.placed.remote()
            self._actors[slot] = _Actor(handle, handle.ready.remote(), placed=placed)
            self._watch_actors()
        except Exception as error:  # arguments that do not pickle raise what they like
            failure = Failure.from_exception(FailureKind.RUN, error)
            self._queued.append(ReplicaLost(slot, failure))

    def submit(self, slot: int, task: Task, attempt: str) -> None:
        """See `Backend.submit`."""
        actor = self._actors[slot]
        try:
            actor.call, actor.task_id = actor.handle.run.remote(task, attempt), task.id
        except Exception as error:  # a payload that does not pickle raises what it likes
            failure = Failure.from_exception(FailureKind.TASK, error)
            self._queued.append(TaskFailed(slot, task.id, failure))

    def stop(self, slot: int) -> None:
        """See `Backend.stop`."""
        self._queued = [e for e in self._queued if isinstance(e, RoomChanged) or e.slot != slot]
        self._told_draining.discard(slot)
        actor = self._actors.pop(slot, None)
        if actor is None:
            return
        self._watch_actors()
        try:
            ray.kill(actor.handle, no_restart=True)
        except Exception as error:  # it is being given up: whatever Ray says, go on
            logger.warning("could not kill the replica in slot %d: %s", slot, error)

    def poll(self, timeout_s: float) -> list[Event]:
        """See `Backend.poll`."""
        events, self._queued = [*self._queued, *self._news_of_nodes()], []
        if self._nodes.own_is_dead:
            return events + [self._lost(slot, _no_node()) for slot in list(self._actors)]
        placed = {a.placed: slot for slot, a in self._actors.items() if a.placed is not None}
        calls = {a.call: slot for slot, a in self._actors.items() if a.call is not None}
        # In this order, as a replica that is ready has been placed.
        slots = placed | calls
        if not slots:
            if not events:
                time.sleep(timeout_s)
            return events
        timeout = 0.0 if events else timeout_s
        refs = list(slots)
        done, _ = ray.wait(refs, num_returns=1, timeout=timeout)
        if done:
            done, _ = ray.wait(refs, num_returns=len(refs), timeout=0)
        for ref in sorted(done, key=refs.index):
            if ref in calls:
                events.append(self._collect(calls[ref], ref))
            else:
                events += self._collect_placed(placed[ref], ref)
        return events

    def close(self) -> None:
        """See `Backend.close`."""
        self._nodes.close()
        for slot in list(self._actors):
            self.stop(slot)

    def _collect_placed(self, slot: int, ref: Any) -> list[Event]:
        self._actors[slot].placed = None
        try:
            ray.get(ref)
        except Exception:  # the call behind it fails alike, and says why
            return []
        return [ReplicaPlaced(slot)]

    def _news_of_nodes(self) -> Iterable[Event]:
        """What has become of the nodes since the last look of the thread that watches them."""
        usable = self._nodes.usable
        if self._room_of is not None and usable is not None and usable is not self._seen:
            self._seen, room = usable, self._room_of(usable)
            if room != self._room:
                self._room = room
                yield RoomChanged(room)
        if not self._nodes.draining:
            return
        for slot, actor in self._actors.items():
            deadline = self._nodes.draining_actors.get(actor.id)
            if deadline is not None and slot not in self._told_draining:
                self._told_draining.add(slot)
                yield ReplicaDraining(slot, max(0.0, deadline - time.time()))

    def _watch_actors(self) -> None:
        self._nodes.of_interest = tuple(actor.id for actor in self._actors.values())

    def _collect(self, slot: int, ref: Any) -> Event:
        actor = self._actors[slot]
        task_id, actor.call, actor.task_id = actor.task_id, None, None
        try:
            result = ray.get(ref)
        except Exception as error:  # classified below; Ray's errors share no useful base
            result = classify(error)
        if isinstance(result, Failure):
            if task_id is not None and result.kind not in REPLICA_IS_LOST:
                return TaskFailed(slot, task_id, result)
            return self._lost(slot, result)
        if task_id is None:
            return ReplicaReady(slot, result)
        return TaskFinished(slot, result)

    def _lost(self, slot: int, failure: Failure) -> ReplicaLost:
        self.stop(slot)
        return ReplicaLost(slot, failure)


def actor_options(share: Share) -> dict[str, Any]:
    """Ray's options for an actor that takes this share of a node."""
    options: dict[str, Any] = {
        "num_cpus": share.cpus,
        "num_gpus": share.gpus,
        "resources": dict(share.resources),
    }
    if share.accelerator_type is not None:
        options["accelerator_type"] = share.accelerator_type
    if share.labels:
        options["label_selector"] = dict(share.labels)
    return options


def classify(error: Exception) -> Failure:
    """What an exception of `ray.get` on a replica's call says about who is at fault."""
    if isinstance(error, ray_errors.RayActorError):
        if _OWNER_DIED in str(error):
            return _no_node(str(error))
        # Ray tells a node that died from a process that died in its text alone.
        if error.preempted or _NODE_DIED in str(error):
            return _actor_failure(FailureKind.PREEMPTED, error)
        # Only the constructor can fail so, for instance where this package is not installed.
        if error.actor_init_failed:
            return _traceback_failure(FailureKind.RUN, error)
        return _actor_failure(FailureKind.REPLICA, error)
    if isinstance(error, ray_errors.OutOfMemoryError):
        return _out_of_memory(error)
    if isinstance(error, ray_errors.ActorUnschedulableError | ray_errors.RuntimeEnvSetupError):
        return Failure.from_exception(FailureKind.RUN, error)
    if isinstance(error, ray_errors.RayTaskError):
        # `Replica` returns its failures; what is raised is an argument that did not arrive.
        missing_module = "No module named" in str(error)
        kind = FailureKind.RUN if missing_module else FailureKind.TASK
        return _traceback_failure(kind, error)
    return Failure.from_exception(FailureKind.REPLICA, error)


def _no_node(details: str = "") -> Failure:
    message = (
        "the Ray node that this driver was connected to is gone; when Ray is up, run the same "
        "command again"
    )
    return Failure(FailureKind.RUN, message, details, user_must_act=True)


def _out_of_memory(error: Exception) -> Failure:
    """The failure without Ray's table of processes, whose command lines are not ours to show."""
    said = str(error).partition("\n")[0] or "a process was killed for memory"
    return Failure(FailureKind.MEMORY, f"{type(error).__name__}: {said}", type(error).__name__)


def _actor_failure(kind: FailureKind, error: Exception) -> Failure:
    """The failure without what Ray adds for its users: ids, and causes that it knows of."""
    whole = Failure.from_exception(kind, error)
    said = whole.message.partition("Some common causes include")[0].strip()
    pid = _PID.search(said)
    reason = _REASON.search(said)
    if reason:
        where = f"process {pid[1]}: " if pid else ""
        said = f"{type(error).__name__}: {where}{reason[1]}"
    return replace(whole, message=said)


def _traceback_failure(kind: FailureKind, error: Exception) -> Failure:
    """The failure where Ray's text is a traceback from elsewhere, whose last line is the error."""
    whole = Failure.from_exception(kind, error)
    last_line = str(error).strip().rpartition("\n")[2].strip()
    return replace(whole, message=last_line or whole.message)
