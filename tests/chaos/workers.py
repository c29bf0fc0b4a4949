"""Workers of the trials: one that costs nothing, and those of the sweeps. All note what they do."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from cluster.storage import StorageSpec
from tests.chaos import conditions, stopwatch

if TYPE_CHECKING:  # replicas of the cheap job are to start without torch
    from jobs.sweeps.worker import ModelWorker

NUM_ROWS = 200


@dataclass(frozen=True)
class Shard:
    """A task of the cheap job. `factor_key` is that of the group's factor, for phase 2."""

    task_id: str
    group: int
    number: int
    factor_key: str = ""


class SumWorker:
    """Phase 1 draws rows and their sum; phase 2 multiplies the rows with the group's factor.

    As with steering vectors, the factor comes from the sums of all shards of a group.
    """

    def __init__(self, *, storage: StorageSpec, log: str, seconds: float, full_flag: str) -> None:
        conditions.hurry()
        conditions.fill_disk_while(full_flag)
        self._storage, self._log, self._seconds = storage.open(), log, seconds

    def load(self) -> Mapping[str, str]:
        stopwatch.note(self._log, "load")
        return {"device": "none"}

    def run(self, payload: Shard) -> Mapping[str, pa.Table]:
        stopwatch.note(self._log, "start", payload.task_id)
        tables = self._tables(payload)
        time.sleep(self._seconds)
        stopwatch.note(self._log, "end", payload.task_id)
        return tables

    def _tables(self, shard: Shard) -> Mapping[str, pa.Table]:
        values = drawn(shard.group, shard.number)
        rows = {
            "group": [shard.group] * NUM_ROWS,
            "row": [f"{shard.number}-{index}" for index in range(NUM_ROWS)],
        }
        if not shard.factor_key:
            return {
                "sums": pa.table({"total": [float(values.sum())]}),
                "rows": pa.table({**rows, "value": values}),
            }
        factor = np.frombuffer(self._storage.read(shard.factor_key))[0]
        return {"steered": pa.table({**rows, "value": values * factor})}


def drawn(group: int, number: int) -> np.ndarray:
    """The numbers of one shard, the same everywhere."""
    return np.random.default_rng([group, number]).standard_normal(NUM_ROWS)


class CountedWorker:
    """A sweep's own worker, noting each task."""

    def __init__(
        self,
        worker: ModelWorker,
        name_of: Callable[[Any], str],
        *,
        log: str,
        full_flag: str,
    ) -> None:
        conditions.hurry()
        conditions.fill_disk_while(full_flag)
        stopwatch.note(log, "load")
        self._worker, self._name_of, self._log = worker, name_of, log

    def load(self) -> Mapping[str, str]:
        return self._worker.load()

    def check_device(self) -> None:
        self._worker.check_device()

    def run(self, payload: Any) -> Mapping[str, pa.Table]:
        name = self._name_of(payload)
        stopwatch.note(self._log, "start", name)
        tables = self._worker.run(payload)
        stopwatch.note(self._log, "end", name)
        return tables


def counted_stereoset_worker(*, log: str, full_flag: str, **kwargs: Any) -> CountedWorker:
    """StereoSet's worker, noting each task."""
    from jobs.scoring.worker import ScoredWorker

    worker = ScoredWorker(**kwargs)
    return CountedWorker(worker, lambda of: str(of.task_id), log=log, full_flag=full_flag)


def counted_persona_worker(*, log: str, full_flag: str, **kwargs: Any) -> CountedWorker:
    """The persona job's worker, noting each task."""
    from jobs.persona.worker import PersonaWorker

    return CountedWorker(PersonaWorker(**kwargs), _persona_task, log=log, full_flag=full_flag)


def _persona_task(payload: Any) -> str:
    """A name for the task: of a part of answers, there is one task of each other kind at most."""
    kind = type(payload).__name__
    of_answers = getattr(payload, "answers", payload)
    return f"{kind}-{of_answers.task_id}"
