"""Steering vectors of a group, fitted from the parts that its phase 1 tasks have left."""

from __future__ import annotations

import logging
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa

from cluster.errors import UserActionError
from cluster.parts import read_part
from cluster.storage import Storage
from jobs.stereoset.plan import PlannedTask
from jobs.stereoset.spool import StateSpool
from jobs.stereoset.tables import fold_sums
from steering_core.vector_fits import METHODS, fit_layer
from steering_core.vectors import (
    FoldSums,
    Method,
    SteeringVectors,
    fit_mean_difference,
    mean_stream_norms,
)

logger = logging.getLogger(__name__)


def fit_vectors(
    storage: Storage,
    tasks: Sequence[PlannedTask],
    layers: Sequence[int],
    method: Method,
    num_folds: int,
) -> SteeringVectors:
    """Vectors of one group at some layers, and the norms of the stream that they steer.

    Args:
        tasks: the phase 1 tasks of the group, all done.
        layers: those to fit; the tasks may have pooled more.

    Raises:
        InputError: the examples do not determine a vector.
        UserActionError: the states do not fit on the local disk.
    """
    tasks = [task for task in tasks if set(layers) & set(task.layers)]
    by_task = _sums(storage, tasks, layers)
    if METHODS[method].needs_states:
        fitted = _fit_states(storage, tasks, layers, method, num_folds)
    else:
        fitted = fit_mean_difference([entry for sums in by_task for entry in sums], num_folds)
    return _with_stream(fitted, by_task)


def given_vectors(
    storage: Storage, tasks: Sequence[PlannedTask], whole: Mapping[int, np.ndarray]
) -> SteeringVectors:
    """A file's vectors by layer for one group, and the norms of the stream that they steer."""
    tasks = [task for task in tasks if set(whole) & set(task.layers)]
    return _with_stream(SteeringVectors(whole, {}), _sums(storage, tasks, list(whole)))


def _with_stream(
    vectors: SteeringVectors, by_task: Sequence[Sequence[FoldSums]]
) -> SteeringVectors:
    """The vectors with what phase 1 has measured and counted."""
    sizes: Counter[int] = Counter()
    for sums in by_task:
        sizes.update({entry.fold: entry.num_examples for entry in sums})
    return replace(
        vectors,
        stream_norms=mean_stream_norms(by_task),
        fold_sizes=tuple(sizes[fold] for fold in sorted(sizes)) if vectors.folds else (),
    )


def _fit_states(
    storage: Storage,
    tasks: Sequence[PlannedTask],
    layers: Sequence[int],
    method: Method,
    num_folds: int,
) -> SteeringVectors:
    """Vectors of a method that needs the states of each example."""
    group = tasks[0].group
    whole, folds = {}, {}
    with tempfile.TemporaryDirectory(prefix="steersweep-") as folder:
        spool = StateSpool(Path(folder), layers)
        for part in _parts(storage, tasks, "states"):
            spool.add(part)
        for layer in layers:
            start = time.monotonic()
            whole[layer], of_folds = fit_layer(
                method, spool.chunks(layer), num_folds, f"layer {layer} of {group}"
            )
            if of_folds:
                folds[layer] = of_folds
            took_s = time.monotonic() - start
            logger.info("%s: %s vectors of layer %d, %.1f s", group, method, layer, took_s)
    return SteeringVectors(whole, folds)


def fit_shuffled(
    storage: Storage, tasks: Sequence[PlannedTask], layers: Sequence[int], num_folds: int
) -> SteeringVectors:
    """Mean differences of one group with labels shuffled, whatever the method of its vectors.

    Args:
        tasks, layers: see ``fit_vectors``.

    Raises:
        UserActionError: phase 1 was computed by a version that did not shuffle.
    """
    tasks = [task for task in tasks if set(layers) & set(task.layers)]
    sums = []
    for part in _parts(storage, tasks, "sums"):
        for entry in fold_sums(part):
            if entry.shuffled is None:
                raise UserActionError(
                    f"{storage.uri} was started before `nulls: [shuffled]` was added; leave it "
                    "out, or use --new for a new output"
                )
            if entry.layer in layers:
                sums.append(replace(entry, total=entry.shuffled))
    return fit_mean_difference(sums, num_folds)


def _sums(
    storage: Storage, tasks: Sequence[PlannedTask], layers: Sequence[int]
) -> list[list[FoldSums]]:
    """The sums of each task at some layers."""
    return [
        [entry for entry in fold_sums(part) if entry.layer in layers]
        for part in _parts(storage, tasks, "sums")
    ]


def _parts(storage: Storage, tasks: Sequence[PlannedTask], table: str) -> Iterator[pa.Table]:
    for task in tasks:
        yield read_part(storage, task.parts(task.plan_id)[table], task.plan_id)
