"""Steering vectors: mean differences from float64 sums, cross-fitted or not, and their files."""

from __future__ import annotations

import hashlib
import json
import random
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal, get_args

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load as load_tensors
from safetensors.numpy import save as save_tensors

from steering_core.anisotropy import StateSums
from steersweep.errors import UserError

Unit = Literal["vector", "stream"]
"""What a coefficient c multiplies. ``vector``: stream + c v; ``stream``: stream + c m v / |v|, with
the mean norm m of the unsteered stream at the place that is steered."""
UNITS: tuple[Unit, ...] = get_args(Unit)


@dataclass(frozen=True, slots=True)
class StreamSums:
    """Norms of the unsteered stream where a layer is steered, of all examples of one task.

    Attributes:
        norm_total: float64 sum of the norms over real positions; those that an example's candidates
            share count once.
        num_positions: positions in the sum.
    """

    norm_total: float
    num_positions: int


@dataclass(frozen=True)
class FoldSums:
    """Sum of pooled differences over the examples of one fold, at one layer.

    Attributes:
        total: [D] float64, sum of (pooled anti-stereotype - pooled stereotype).
        num_examples: examples in the sum.
        shuffled: [D] float64, the same with labels shuffled (``nulls.label_signs``); None where
            it was not summed.
        states: sums of both pooled states of each example; None where they were not summed.
        stream: of the layer's stream, over the examples of all folds of the task, so that it does
            not depend on how they are split; None where it was not measured.
    """

    layer: int
    fold: int
    total: np.ndarray
    num_examples: int
    shuffled: np.ndarray | None = None
    states: StateSums | None = None
    stream: StreamSums | None = None


def sums_by_fold(
    layers: Sequence[int],
    differences_LND: np.ndarray,
    states_2LND: np.ndarray,
    folds: Sequence[int],
    signs: np.ndarray | None = None,
    streams: Sequence[StreamSums] | None = None,
) -> list[FoldSums]:
    """Float64 sums of pooled differences and states, ordered by layer, then fold.

    Args:
        folds: [N] fold of each row.
        signs: [N] of shuffled labels, where those are to be summed, too.
        streams: [L] of all rows, where they were measured.
    """
    fold_N = np.asarray(folds)
    width = differences_LND.shape[-1]

    def of(layer: int, index: int, fold: int) -> FoldSums:
        there = fold_N == fold
        difference_ND = differences_LND[index, there]
        return FoldSums(
            layer=layer,
            fold=fold,
            total=difference_ND.sum(axis=0),
            num_examples=len(difference_ND),
            shuffled=None if signs is None else signs[there] @ difference_ND,
            states=StateSums.of(states_2LND[:, index, there].reshape(-1, width)),
            stream=None if streams is None else streams[index],
        )

    return [
        of(layer, index, int(fold))
        for index, layer in enumerate(layers)
        for fold in np.unique(fold_N)
    ]


@dataclass(frozen=True)
class SteeringVectors:
    """Vectors [D] float32 of one group: ``whole[layer]`` and, cross-fitted, ``folds[layer][k]``.

    Attributes:
        stream_norms: by layer, the mean norm of the unsteered stream where it is steered: m. A
            layer whose stream was not measured is absent.
        fold_sizes: examples of each fold, for ``dose``; empty where it is not known.
        unit: what coefficients are multiples of.
    """

    whole: Mapping[int, np.ndarray]
    folds: Mapping[int, tuple[np.ndarray, ...]]
    stream_norms: Mapping[int, float] = field(default_factory=dict)
    fold_sizes: tuple[int, ...] = ()
    unit: Unit = "vector"
    _digests: dict[int, str] = field(default_factory=dict, init=False, repr=False, compare=False)
    _norms: dict[tuple[int, int], float] = field(
        default_factory=dict, init=False, repr=False, compare=False
    )

    def for_fold(self, layer: int, fold: int) -> np.ndarray:
        """The vector that steers examples of a fold: fitted without them where cross-fitted."""
        return self.folds[layer][fold] if layer in self.folds else self.whole[layer]

    def multiplier(self, layer: int, fold: int, coeff: float) -> float:
        """What the vector of a fold is multiplied with before it is added, in float64.

        A vector of zero has no direction: in unit ``stream`` its multiplier is 0.
        """
        if self.unit == "vector":
            return coeff
        norm = self._norm(layer, fold)
        return coeff * self.stream_norms[layer] / norm if norm > 0 else 0.0

    def dose(self, layer: int, coeff: float) -> float | None:
        """Norm of what is added, relative to the stream's mean norm: a mean over the examples.

        Cross-fitted, each example counts with the vector of its own fold. In unit ``stream`` it is
        the size of the coefficient. None where the stream was not measured.
        """
        stream_norm = self.stream_norms.get(layer, 0.0)
        sizes = self.fold_sizes if layer in self.folds else (1,)
        if not (sizes and stream_norm > 0):
            return None
        norms_K = np.asarray([self._norm(layer, fold) for fold in range(len(sizes))])
        steps_K = norms_K / stream_norm if self.unit == "vector" else np.sign(norms_K)
        return abs(coeff) * float(np.average(steps_K, weights=sizes))

    def _norm(self, layer: int, fold: int) -> float:
        """Norm of the vector of a fold in float64; asked for by each row of a task."""
        if (layer, fold) not in self._norms:
            vector_D = self.for_fold(layer, fold).astype(np.float64)
            self._norms[layer, fold] = float(np.linalg.norm(vector_D))
        return self._norms[layer, fold]

    def digest(self, layer: int) -> str:
        """SHA-256 over every tensor of a layer, and the stream's norm if it decides the step."""
        if layer not in self._digests:  # asked for by each of a sweep's tasks
            sha = hashlib.sha256()
            for vector in (self.whole[layer], *self.folds.get(layer, ())):
                sha.update(np.ascontiguousarray(vector, dtype="<f4").tobytes())
            if self.unit == "stream":  # ids of the other unit are older than the norm
                sha.update(np.float64(self.stream_norms[layer]).astype("<f8").tobytes())
            self._digests[layer] = sha.hexdigest()
        return self._digests[layer]

    def of_layers(self, layers: Iterable[int]) -> SteeringVectors:
        """Those of some layers, all of which must be there."""
        chosen = tuple(layers)
        return replace(
            self,
            whole={layer: self.whole[layer] for layer in chosen},
            folds={layer: self.folds[layer] for layer in chosen if layer in self.folds},
            stream_norms={n: self.stream_norms[n] for n in chosen if n in self.stream_norms},
        )

    def without_folds(self) -> SteeringVectors:
        """The vectors of all examples alone, which steer data that none was fitted to."""
        return replace(self, folds={}, fold_sizes=())

    def with_layers_of(self, other: SteeringVectors) -> SteeringVectors:
        """The layers of both; ``other`` has what is not a layer's own."""
        return replace(
            other,
            whole={**self.whole, **other.whole},
            folds={**self.folds, **other.folds},
            stream_norms={**self.stream_norms, **other.stream_norms},
        )


def assign_folds(targets: Sequence[str], num_folds: int, seed: int, group: str) -> tuple[int, ...]:
    """The fold of each example; all examples of a target term share one, and no fold is empty.

    There are ``num_folds`` folds, or one for each term where there are fewer terms. Terms are dealt
    largest first to the fold with the fewest examples, ties in an order drawn with ``seed``.

    Args:
        targets: the target term of each example, at least one.
        num_folds: 1 for no cross-fitting: every example is in fold 0.
        group: its name, for messages.

    Raises:
        UserError: several folds of a single target term: nothing is left to fit its vector from.
    """
    sizes = Counter(targets)
    if num_folds == 1:
        return (0,) * len(targets)
    if len(sizes) == 1:
        (term,) = sizes
        raise UserError(
            f"there should be {num_folds} folds, but every example of {group} has the target term "
            f"{term!r}, so nothing is left to fit a held-out vector from",
            cause="single_target_term",
        )
    num_folds = min(num_folds, len(sizes))
    terms = sorted(sizes)
    random.Random(seed).shuffle(terms)  # noqa: S311 - a split of data, not a secret
    filled = [0] * num_folds
    fold_of: dict[str, int] = {}
    for term in sorted(terms, key=lambda t: -sizes[t]):
        fold = filled.index(min(filled))
        fold_of[term] = fold
        filled[fold] += sizes[term]
    return tuple(fold_of[t] for t in targets)


def fit_mean_difference(sums: Iterable[FoldSums], num_folds: int) -> SteeringVectors:
    """Vectors from the sums of a group: mean difference, float64 sums, stored as float32.

    Sums are added in the order given, so equal input gives equal bits. The vector of fold k is the
    mean over the examples outside k.

    Raises:
        UserError: a layer's sums hold no example, or none outside a fold.
    """
    totals: dict[int, dict[int, tuple[np.ndarray, int]]] = {}
    for entry in sums:
        folds = totals.setdefault(entry.layer, {})
        total, count = folds.get(entry.fold, (np.zeros_like(entry.total, dtype=np.float64), 0))
        folds[entry.fold] = (total + entry.total, count + entry.num_examples)
    whole, cross = {}, {}
    for layer, folds in sorted(totals.items()):
        total = np.sum([t for _, (t, _) in sorted(folds.items())], axis=0)
        count = sum(c for _, c in folds.values())
        whole[layer] = _mean(total, count, f"layer {layer}")
        if num_folds > 1:
            cross[layer] = tuple(
                _mean(total - folds[k][0], count - folds[k][1], f"layer {layer} without fold {k}")
                for k in range(num_folds)
            )
    return SteeringVectors(whole, cross)


def _mean(total: np.ndarray, count: int, what: str) -> np.ndarray:
    if count < 1:
        raise UserError(f"there is no example to fit the vector of {what} with")
    return (total / count).astype(np.float32)


def mean_stream_norms(tasks: Iterable[Sequence[FoldSums]]) -> dict[int, float]:
    """The stream's mean norm by layer, from the sums of each task of a group.

    Added in the order given, so equal input gives equal bits. Layers that a task did not measure
    are left out, as are those whose mean is not a positive number.
    """
    totals: dict[int, list[StreamSums | None]] = {}
    for sums in tasks:
        # One entry for each layer: those of other folds say the same.
        for layer, stream in {entry.layer: entry.stream for entry in sums}.items():
            totals.setdefault(layer, []).append(stream)
    means = {}
    for layer, streams in totals.items():
        measured = [stream for stream in streams if stream is not None]
        if len(measured) == len(streams):
            num_positions = sum(stream.num_positions for stream in measured)
            mean = sum(stream.norm_total for stream in measured) / num_positions
            if np.isfinite(mean) and mean > 0:
                means[layer] = mean
    return means


STREAM_NORM_KEY = "stream_norm.layer."
"""Of a file's metadata, before a layer's number: its stream's mean norm."""
FOLD_SIZES_KEY = "fold_sizes"
UNIT_KEY = "unit"


def to_safetensors(vectors: SteeringVectors, provenance: Mapping[str, str]) -> bytes:
    """File content: tensors ``layer.<L>`` and ``layer.<L>.fold.<k>``, all else in metadata.

    A norm of the stream is written so that it reads as the same float64.
    """
    tensors = {f"layer.{layer}": v for layer, v in vectors.whole.items()}
    for layer, folds in vectors.folds.items():
        tensors |= {f"layer.{layer}.fold.{k}": v for k, v in enumerate(folds)}
    digests = {f"digest.layer.{layer}": vectors.digest(layer) for layer in vectors.whole}
    measured = {f"{STREAM_NORM_KEY}{n}": repr(float(m)) for n, m in vectors.stream_norms.items()}
    if vectors.fold_sizes:
        measured[FOLD_SIZES_KEY] = json.dumps(vectors.fold_sizes)
    if vectors.unit != "vector":
        measured[UNIT_KEY] = vectors.unit
    data: bytes = save_tensors(tensors, metadata={**provenance, **measured, **digests})
    return data


def from_safetensors(data: bytes, where: str) -> SteeringVectors:
    """Vectors of a file's content, checked against the digests it carries.

    Raises:
        UserError: not such a file, or its tensors do not match its digests.
    """
    try:
        tensors = load_tensors(data)
        metadata = safetensors_metadata(data)
        whole = {int(n.split(".")[1]): t for n, t in tensors.items() if n.count(".") == 1}
        folds = {
            layer: tuple(
                tensors[f"layer.{layer}.fold.{k}"]
                for k in range(sum(n.startswith(f"layer.{layer}.fold.") for n in tensors))
            )
            for layer in whole
        }
        vectors = SteeringVectors(
            whole, {layer: f for layer, f in folds.items() if f}, **_measured(metadata)
        )
        digests = {layer: vectors.digest(layer) for layer in whole}
    except (SafetensorError, KeyError, ValueError) as error:
        raise UserError(f"{where}: not a file of steering vectors: {error}") from None
    for layer in whole:
        if metadata.get(f"digest.layer.{layer}") != digests[layer]:
            raise UserError(f"{where}: tensors of layer {layer} do not match their digest")
    return vectors


def _measured(metadata: Mapping[str, str]) -> dict[str, Any]:
    """What metadata says of the stream, of which files of earlier versions say nothing.

    Raises:
        ValueError: no such unit.
    """
    unit = metadata.get(UNIT_KEY, "vector")
    if unit not in UNITS:
        raise ValueError(f"the unit is {unit!r}, not one of {', '.join(UNITS)}")
    norms = {
        int(key.removeprefix(STREAM_NORM_KEY)): float(text)
        for key, text in metadata.items()
        if key.startswith(STREAM_NORM_KEY)
    }
    sizes = tuple(json.loads(metadata.get(FOLD_SIZES_KEY, "[]")))
    return {"stream_norms": norms, "fold_sizes": sizes, "unit": unit}


def safetensors_metadata(data: bytes) -> dict[str, str]:
    """The metadata of a safetensors file: its header is JSON behind 8 bytes of length."""
    size = int.from_bytes(data[:8], "little")
    header = json.loads(data[8 : 8 + size])
    return dict(header.get("__metadata__", {}))
