"""What came of a trial, and the rows that it left."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

from cluster.parts import read_part
from cluster.storage import StorageSpec
from cluster.table_digest import table_digest
from tests.chaos.machines import World
from tests.chaos.plan import Trial

TABLES = ("sums", "rows", "baseline", "steered", "answers", "scores", "projections")
"Of all jobs: each has some of them."

Rows = dict[str, str]
"""Digest of the rows of each part, by its key."""


@dataclass
class Result:
    """What came of a trial."""

    trial: Trial
    equal: bool = False
    num_lost: int = 0
    num_doubled: int = 0
    num_partial: int = 0
    num_hangs: int = 0
    num_done_again: int = 0
    num_second_attempts: int = 0
    "Of slow tasks, by an idle replica."
    most_done_again: int = 0
    "Tasks in flight at the faults, and second attempts: no more may be done again."
    num_paid: int = 0
    "Queries that a judge has answered, each counted once."
    num_paid_again: int = 0
    most_paid_again: int = 0
    "Queries under way at the faults: no more may be paid for again (`tests.chaos.judge`)."
    num_sessions: int = 0
    seconds: float = 0.0
    recovery_s: dict[str, list[float]] = field(default_factory=dict)
    faults_done: Counter[str] = field(default_factory=Counter)
    s3_faults: Counter[str] = field(default_factory=Counter)
    problems: list[str] = field(default_factory=list)

    @property
    def is_good(self) -> bool:
        counts = (self.num_lost, self.num_doubled, self.num_partial, self.num_hangs)
        return self.equal and not any(counts) and not self.problems


def read_rows(world: World, uri: str, result: Result) -> Rows:
    """Every row that is there, past the proxy; counts parts that are not whole."""
    storage = StorageSpec(uri, world.s3_endpoint).open()
    rows = {}
    for table in TABLES:
        for entry in storage.list(f"{table}/"):
            try:
                rows[entry.key] = table_digest(read_part(storage, entry.key))
            except Exception as error:  # whatever is wrong with it, it is not a whole part
                result.num_partial += 1
                result.problems.append(f"{entry.key}: {error}")
    return rows
