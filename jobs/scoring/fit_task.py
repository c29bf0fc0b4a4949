"""Fits the steering vectors of a group at some layers, from the parts of its phase 1 tasks.

Pure functions of storage and payload, so that any replica can run a fit and get the same bits. A
part is read as a whole, since its digest covers all of it, but only the layers of the payload stay
in memory.
"""

from __future__ import annotations

import logging
import time
from collections import Counter, defaultdict
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from threadpoolctl import threadpool_limits

from cluster.parts import read_part
from cluster.storage import Storage
from jobs.scoring.tables import LayerStates, fold_sums, layer_states
from jobs.sweeps.parts import PartRef
from steering_core.nulls import label_signs
from steering_core.pairs import Pairs
from steering_core.vector_fits import fit_layer
from steering_core.vectors import (
    FoldSums,
    SteeringVectors,
    fit_mean_difference,
    mean_stream_norms,
)
from steersweep.errors import StopRunError

logger = logging.getLogger(__name__)

Source = Literal["sums", "held_out_sums", "states", "old_shuffled_sums", "none"]
"""What a set of vectors is fitted from. ``old_shuffled_sums``: the one draw of shuffled labels of
an output that an earlier version began. ``none``: vectors of a file, for which only the norms of
the stream are read."""


@dataclass(frozen=True)
class SetToFit:
    """One set of vectors of the group.

    Attributes:
        table: the table of rows that the vectors steer, which names the set.
        fold_of: the fold of every example of the group. The folds in ``states`` parts are not read,
            since held-out vectors are fitted from the states of an in-sample sweep.
        num_folds: 1 for no vectors by fold.
        label_seed: of ``states``, shuffle the labels first (``nulls.label_signs``).
    """

    table: str
    source: Source
    fold_of: Mapping[str, int]
    num_folds: int
    label_seed: str | None = None


@dataclass(frozen=True)
class FitPayload:
    """What a fit needs to know; the parts are those of all phase 1 tasks of a group.

    Attributes:
        group: its name, for messages.
        method: of sets whose source is ``states``; the others are mean differences.
        layers: at which each set is fitted; see ``num_layers_at_once``.
        sums: in the order in which sums are added up, which decides the last bits. Without them,
            the norms of the stream are unknown.
        held_out_sums: likewise.
        states: in any order that stays the same.
    """

    task_id: str
    group: str
    method: str
    layers: tuple[int, ...]
    sums: tuple[PartRef, ...]
    held_out_sums: tuple[PartRef, ...]
    states: tuple[PartRef, ...]
    sets: tuple[SetToFit, ...]


FITS_SCHEMA = pa.schema(
    [
        ("table", pa.string()),
        ("layer", pa.int32()),
        ("fold", pa.int32()),
        ("vector", pa.list_(pa.float32())),
        ("stream_norm", pa.float64()),
    ]
)
"""One row for each vector: of all examples (fold is null), and of those outside each fold.
``stream_norm`` is that of the layer; null if it was not measured. A set from a file has one row for
each layer, whose vector is null."""


def fit(storage: Storage, payload: FitPayload) -> pa.Table:
    """The vectors of each set, with columns ``FITS_SCHEMA``, ordered by set, layer, fold.

    Draws of shuffled labels come as fitted: without the norm of the vectors that they stand for.

    Raises:
        UserError: the examples do not determine a vector.
        StopRunError: a draw is wanted that the output's version did not make.
        CorruptPartError: a damaged part.
        ValueError: the parts do not hold every example of the group at each layer.
    """
    sources = {to_fit.source for to_fit in payload.sets}
    layers = payload.layers
    sums = read_sums(storage, payload.sums, layers)
    held_out = (
        read_sums(storage, payload.held_out_sums, layers) if "held_out_sums" in sources else []
    )
    states = read_states(storage, payload.states, layers) if "states" in sources else {}
    norms = mean_stream_norms(sums)

    def vectors_of(to_fit: SetToFit) -> SteeringVectors:
        if to_fit.source == "none":
            return SteeringVectors({}, {})
        if to_fit.source == "states":
            return vectors_from_states(states, payload.method, to_fit, payload.group)
        tasks = held_out if to_fit.source == "held_out_sums" else sums
        _check_sums(tasks, layers, to_fit, payload.group)
        if to_fit.source == "old_shuffled_sums":
            tasks = shuffled_sums(tasks, storage.uri)
        return vectors_from_sums(tasks, to_fit.num_folds)

    rows = [
        row
        for to_fit in payload.sets
        for row in _rows(to_fit.table, vectors_of(to_fit), norms, layers)
    ]
    return pa.Table.from_pylist(rows, schema=FITS_SCHEMA)


def _rows(
    table: str, vectors: SteeringVectors, norms: Mapping[int, float], layers: Sequence[int]
) -> Iterator[dict[str, object]]:
    for layer in layers:
        of_layer = {"table": table, "layer": layer, "stream_norm": norms.get(layer)}
        yield {**of_layer, "fold": None, "vector": vectors.whole.get(layer)}
        for fold, vector in enumerate(vectors.folds.get(layer, ())):
            yield {**of_layer, "fold": fold, "vector": vector}


def fitted_vectors(table: pa.Table, name: str) -> SteeringVectors:
    """One set of a ``fit``, or of several that are concatenated, with the norms of its stream.

    It lacks what a fit does not know: the unit and the sizes of the folds.

    Args:
        name: of the set: ``SetToFit.table``.
    """
    rows = table.filter(pc.equal(table["table"], name))
    whole: dict[int, np.ndarray] = {}
    by_fold: dict[int, dict[int, np.ndarray]] = defaultdict(dict)
    for layer, fold, vector in zip(
        rows["layer"].to_pylist(), rows["fold"].to_pylist(), rows["vector"], strict=True
    ):
        if not vector.is_valid:
            continue
        array = vector.values.to_numpy(zero_copy_only=False).copy()
        if fold is None:
            whole[layer] = array
        else:
            by_fold[layer][fold] = array
    folds = {layer: tuple(of[k] for k in sorted(of)) for layer, of in by_fold.items()}
    return SteeringVectors(whole, folds, stream_norms(rows))


def stream_norms(table: pa.Table) -> dict[int, float]:
    """The mean norm of the unsteered stream by layer; layers that were not measured are absent."""
    norms = zip(table["layer"].to_pylist(), table["stream_norm"].to_pylist(), strict=True)
    return {layer: norm for layer, norm in norms if norm is not None}


_MOST_BYTES = 256 << 20


def num_layers_at_once(num_examples: int, width: int) -> int:
    """Layers that a fit from states can take with less than 256 MB; at least one.

    Each keeps 8 bytes for each example and dimension. The fit of one of them needs four times as
    much for itself (shuffled labels, the examples outside a fold, both of these in float64), and
    twice the products of its states or of its features.
    """
    states_bytes = 8 * num_examples * width
    products_bytes = 8 * min(2 * num_examples, width) ** 2
    room = _MOST_BYTES - 4 * states_bytes - 2 * products_bytes
    return max(1, room // max(1, states_bytes))


def read_sums(
    storage: Storage, parts: Sequence[PartRef], layers: Collection[int]
) -> list[list[FoldSums]]:
    """The sums of each part at some layers, in the order of the parts and of their rows.

    Raises:
        CorruptPartError: a damaged part.
    """
    return [fold_sums(_rows_at(read_part(storage, p.key, p.task_id), layers)) for p in parts]


def read_states(
    storage: Storage, parts: Sequence[PartRef], layers: Collection[int]
) -> dict[int, LayerStates]:
    """The pooled states of every example by layer, in the order of the parts.

    Raises:
        CorruptPartError: a damaged part.
        ValueError: no part has a layer.
    """
    chunks: dict[int, list[LayerStates]] = {layer: [] for layer in layers}
    for part in parts:
        rows = _rows_at(read_part(storage, part.key, part.task_id), layers)
        for layer in pc.unique(rows["layer"]).to_pylist():
            chunks[layer].append(layer_states(rows, layer))
    # One layer after the other gives its chunks back, so that no two copies of all are held.
    return {layer: _joined(layer, chunks.pop(layer)) for layer in layers}


def _rows_at(part: pa.Table, layers: Collection[int]) -> pa.Table:
    return part.filter(pc.is_in(part["layer"], pa.array(sorted(layers), pa.int32())))


def _joined(layer: int, chunks: Sequence[LayerStates]) -> LayerStates:
    if not chunks:
        raise ValueError(f"no part holds states of layer {layer}")
    return LayerStates(
        [example_id for chunk in chunks for example_id in chunk.example_ids],
        np.concatenate([chunk.positive for chunk in chunks]),
        np.concatenate([chunk.negative for chunk in chunks]),
    )


def vectors_from_sums(tasks: Sequence[Sequence[FoldSums]], num_folds: int) -> SteeringVectors:
    """Mean differences at the layers of the sums.

    Raises:
        UserError: the examples do not determine a vector.
    """
    return fit_mean_difference([entry for sums in tasks for entry in sums], num_folds)


def shuffled_sums(tasks: Sequence[Sequence[FoldSums]], uri: str) -> list[list[FoldSums]]:
    """The same sums with shuffled labels, of an output that an earlier version began.

    Args:
        uri: of the output, for messages.

    Raises:
        StopRunError: phase 1 was computed by a version that did not shuffle.
    """
    return [[_shuffled(entry, uri) for entry in sums] for sums in tasks]


def _shuffled(entry: FoldSums, uri: str) -> FoldSums:
    if entry.shuffled is None:
        raise StopRunError(
            f"{uri} was started before `nulls: [shuffled]` was added; leave it out, or use --new "
            "for a new output"
        )
    return replace(entry, total=entry.shuffled)


def vectors_from_states(
    states: Mapping[int, LayerStates], method: str, to_fit: SetToFit, group: str
) -> SteeringVectors:
    """Vectors at each layer of the states.

    Args:
        group: its name, for messages.

    Raises:
        UserError: the examples do not determine a vector.
        ValueError: the states are not those of every example of the set.
    """
    whole, folds = {}, {}
    # How BLAS splits a product among threads shows in the last bits: with one thread they do not
    # depend on the machine's cores.
    with threadpool_limits(1, user_api="blas"):
        for layer, of_layer in states.items():
            what = f"layer {layer} of {group}"
            start = time.monotonic()
            pairs = _pairs(of_layer, to_fit, what)
            whole[layer], by_fold = fit_layer(method, pairs, to_fit.num_folds, what)
            if by_fold:
                folds[layer] = by_fold
            logger.info("%s vectors of %s, %.1f s", method, what, time.monotonic() - start)
    return SteeringVectors(whole, folds)


def _pairs(states: LayerStates, to_fit: SetToFit, what: str) -> Pairs:
    ids = states.example_ids
    if len(ids) != len(to_fit.fold_of) or set(ids) != to_fit.fold_of.keys():
        raise ValueError(
            f"the parts hold {len(ids)} states of {what}, which are not those of the "
            f"{len(to_fit.fold_of)} examples of its group"
        )
    folds = np.asarray([to_fit.fold_of[example_id] for example_id in ids], np.int32)
    pairs = Pairs(states.positive, states.negative, folds)
    if to_fit.label_seed is None:
        return pairs
    return pairs.with_labels(label_signs(ids, to_fit.label_seed))


def _check_sums(
    tasks: Sequence[Sequence[FoldSums]], layers: Sequence[int], to_fit: SetToFit, group: str
) -> None:
    """Raise ValueError unless the sums count every example of the set, by fold, at each layer."""
    counts: dict[int, Counter[int]] = {layer: Counter() for layer in layers}
    for entry in (entry for sums in tasks for entry in sums):
        counts[entry.layer][entry.fold] += entry.num_examples
    wanted = Counter(to_fit.fold_of.values())
    for layer, num_examples in counts.items():
        if num_examples != wanted:
            raise ValueError(
                f"{to_fit.source} of layer {layer} of {group} are over {dict(num_examples)} "
                f"examples by fold, not {dict(wanted)}"
            )
