"""Reads the rows of groups and adds them up: here, in several processes, or as tasks on a cluster.

Rows are read once and dropped, group by group. What is kept of a group are sums by target term and
cell, so memory does not grow with the number of rows. The sums are the same to the last bit,
whoever adds them up: the order of their additions is that of the parts and of the rows in them.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from functools import partial

import pyarrow as pa

from cluster.storage import Storage
from jobs.cores import num_cores
from jobs.processes.in_order import Begin, Call, Value, here, in_order, processes
from jobs.stereoset.scored_rows import READERS, GroupParts, baseline_shards, steered_rows
from jobs.stereoset.summary_sums import GroupSums

_FEWEST_ROWS = 2_000_000
"""Below, other processes do not pay off: they take 2 s to start, reading so many rows takes 4 s."""
_MOST_PROCESSES = 8
"""Each takes about 250 MB while it reads."""
_MOST_TASKS = 64
"""On a cluster. More would wait for the driver, which makes the estimates."""
_READERS_OF_EACH = 3
"""Of several processes: more would only add to the memory, as others read meanwhile."""
_WHAT = "adding up rows"


def sums_of_parts(storage: Storage, parts: GroupParts, readers: int = READERS) -> GroupSums:
    """Read the rows of a group, so many parts at a time, and add them up.

    Raises:
        UserError: a part that holds other examples than its baseline.
        CorruptPartError: a damaged part.
    """
    shards = baseline_shards(storage, parts, readers)
    steered = steered_rows(storage, parts, shards, readers)
    sums = GroupSums.of_rows(parts.split, parts.bias_type, list(shards.values()), steered)
    pa.default_memory_pool().release_unused()  # Arrow would keep it for the next group
    return sums


@contextmanager
def added_up(storage: Storage, groups: Sequence[GroupParts]) -> Iterator[Iterator[GroupSums]]:
    """The sums of each group, in order; used as a context, which ends the processes it started.

    Several groups are read at a time where that pays off.

    Raises:
        UserError: as ``sums_of_parts``.
    """
    place = _where(groups)
    with place.begin as begin:
        calls = (partial(sums_of_parts, storage, parts, place.readers) for parts in groups)
        yield in_order(calls, begin, place.ahead)


@dataclass(frozen=True)
class _Place:
    """Who adds up.

    Attributes:
        ahead: groups that are begun ahead of the one that is wanted.
        readers: parts that each reads at a time.
    """

    begin: AbstractContextManager[Begin]
    ahead: int = 0
    readers: int = READERS


def _where(groups: Sequence[GroupParts]) -> _Place:
    if len(groups) < 2 or sum(parts.num_rows for parts in groups) < _FEWEST_ROWS:
        return _Place(here())
    if _num_nodes() > 1:
        num = min(_cores_of_cluster(), _MOST_TASKS, len(groups))
        return _Place(_cluster(), num, _READERS_OF_EACH)
    num = min(num_cores(), _MOST_PROCESSES, len(groups))
    if num < 2 or not sys.executable:
        return _Place(here())
    # One more than processes: each begins the next group as soon as it is done with one.
    return _Place(processes(num, _WHAT), num + 1, _READERS_OF_EACH)


def _num_nodes() -> int:
    """Nodes of the Ray cluster that this process is connected to already; 0 without one.

    On a single node, processes do the same without waiting for Ray to start workers.
    """
    if "ray" not in sys.modules:
        return 0
    from cluster.backends.ray_calls import num_nodes

    return num_nodes()


def _cores_of_cluster() -> int:
    from cluster.backends.ray_nodes import num_cluster

    return max(2, int(num_cluster("CPU")))


@contextmanager
def _cluster() -> Iterator[Begin]:
    from cluster.backends import ray_calls

    def begin(call: Call[Value], /) -> Call[Value]:
        return ray_calls.begin(call, _WHAT)

    yield begin
