"""What a trial is, drawn from a seed."""

from __future__ import annotations

import random
from dataclasses import asdict, dataclass
from typing import Any

from tests.chaos.machines import SHAPES

ANYWHERE = {
    "kill driver": 4,
    "interrupt driver": 3,
    "kill replica": 4,
    "kill raylet": 2,
    "stop driver": 2,
    "stop replica": 3,
    "second driver": 2,
    "wrong clock": 1,
}
WORKERS = {"cheap": 75, "persona": 15, "stereoset": 10}
"How often each job is drawn, in percent."
FIRST_FAULT_S = {"cheap": 4.0, "persona": 6.0, "stereoset": 6.0}
"The first fault comes anywhere in a run, within these seconds: a sweep first reads its models."
WHILE_JUDGING = 0.7
"Share of the faults of a persona sweep that wait for its judge to be asked."
ON_S3 = {"s3 down": 3}
ON_DISK = {"disk full": 3}
ON_THREE_NODES = {"remove node": 3, "drain node": 3, "add node": 2}


@dataclass(frozen=True)
class Fault:
    """What happens, so many seconds after the session or the fault before it began."""

    kind: str
    after_s: float
    number: int
    "Which of several, such as nodes or signals."
    amount: float
    "Seconds: of an outage, or until a process goes on, a node is gone, Ctrl-C comes again."
    while_judging: bool = False
    "Whether `after_s` counts from the session's first query to its judge."


@dataclass(frozen=True)
class Trial:
    """One trial, all of it."""

    seed: int
    number: int
    storage: str
    shape: str
    worker: str
    s3_share: float
    "Share of requests to S3 that go wrong all the time."
    faults: tuple[Fault, ...]

    def as_json(self) -> dict[str, Any]:
        return asdict(self)


def draw(seed: int, number: int) -> Trial:
    """The trial of that number; the same for the same seed and number."""
    rng = random.Random(f"{seed}/{number}")
    storage = rng.choice(["local", "s3"])
    shape = rng.choice(list(SHAPES))
    worker = rng.choices(list(WORKERS), list(WORKERS.values()))[0]
    weights = dict(ANYWHERE)
    weights |= ON_S3 if storage == "s3" else ON_DISK
    weights |= ON_THREE_NODES if shape == "three nodes" else {}
    kinds = rng.choices(list(weights), list(weights.values()), k=rng.choice([1, 2, 3, 4]))
    latest = [FIRST_FAULT_S[worker]] + [2.0] * len(kinds)  # the others come soon after
    faults = tuple(
        Fault(
            kind,
            rng.uniform(0.0, until),
            rng.randrange(12),
            rng.uniform(0.5, 4.0),
            while_judging=worker == "persona" and rng.random() < WHILE_JUDGING,
        )
        for kind, until in zip(kinds, latest, strict=False)
    )
    share = rng.choice([0.0, 0.1, 0.25]) if storage == "s3" else 0.0
    return Trial(seed, number, storage, shape, worker, share, faults)
