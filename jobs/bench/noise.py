"""What a half-precision dtype does to scores: both loops against float32, on the same pairs.

Shapes: P pairs of a cell and a row.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass

import numpy as np
import torch

from jobs.bench import loops
from jobs.bench.draw import Draw
from jobs.bench.loops import Loop
from jobs.bench.subject import Subject
from steering_core.layout import find_layout
from steering_core.memory_gauges import available_memory_bytes
from steering_core.models import LoadedModel
from steering_core.scoring import choose


@dataclass(frozen=True)
class Distance:
    """Scores against those of the plain loop in float32.

    Attributes:
        largest, mean: absolute difference of the scores of each pair, in nats.
        changed_choices: pairs for which another candidate has the highest score.
    """

    largest: float
    mean: float
    changed_choices: int


@dataclass(frozen=True)
class Noise:
    """The plain loop in float32, and how far the loops in the bench's own dtype are from it."""

    plain_float32: Loop
    num_pairs: int
    plain: Distance
    engine: Distance


def measure_noise(
    subject: Subject, draw: Draw, plain: np.ndarray, engine: np.ndarray
) -> Noise | None:
    """Run the plain loop in float32 once; None where there is nothing to compare.

    That is: where the bench's dtype is float32, or a second copy of the weights does not fit.

    Args:
        plain, engine: scores [P, C] in the bench's dtype over ``draw.alone_pairs``.
    """
    model = float32_copy(subject.model)
    if model is None:
        return None
    loop = loops.alone(subject, draw, model)
    loop.once(model.device)
    return Noise(
        plain_float32=loops.measured_alone(loop, subject, draw),
        num_pairs=loop.num_pairs,
        plain=distance(plain, loop.scores),
        engine=distance(engine, loop.scores),
    )


def distance(found: np.ndarray, wanted: np.ndarray) -> Distance:
    """How far scores [P, C] are from those in float32; NaN if a row has no such candidate."""
    apart = np.abs(found - wanted)
    return Distance(float(np.nanmax(apart)), float(np.nanmean(apart)), num_changed(found, wanted))


def num_changed(found: np.ndarray, wanted: np.ndarray) -> int:
    """Rows for which another candidate has the highest score."""
    is_there = ~np.isnan(wanted)
    return int((choose(found, is_there) != choose(wanted, is_there)).sum())


def float32_copy(model: LoadedModel) -> LoadedModel | None:
    """The same weights in float32; None if they are that, or memory does not hold them twice."""
    num_bytes = sum(4 * p.numel() for p in model.module.parameters())
    # Half: each parameter is there in both dtypes for a moment, and the loop needs room, too.
    if model.dtype == torch.float32 or num_bytes > available_memory_bytes(model.device) // 2:
        return None
    module = copy.deepcopy(model.module).float()
    return LoadedModel(
        module, find_layout(module, model.name), model.device, torch.float32, model.name
    )
