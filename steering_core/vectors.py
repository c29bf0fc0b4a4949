"""Steering vectors: mean differences from float64 sums, cross-fitted or not, and their files."""

from __future__ import annotations

import hashlib
import json
import random
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load as load_tensors
from safetensors.numpy import save as save_tensors

from steering_core.anisotropy import StateSums
from steering_core.errors import InputError

Method = Literal["mean_difference", "pca", "logistic", "whitened"]
"""How vectors are made: ``fit_mean_difference``, or one of ``steering_core.vector_fits``."""


@dataclass(frozen=True)
class FoldSums:
    """Sum of pooled differences over the examples of one fold, at one layer.

    Attributes:
        total: [D] float64, sum of (pooled anti-stereotype - pooled stereotype).
        num_examples: examples in the sum.
        shuffled: [D] float64, the same with labels shuffled (``nulls.label_signs``); None where
            it was not summed.
        states: sums of both pooled states of each example; None where they were not summed.
    """

    layer: int
    fold: int
    total: np.ndarray
    num_examples: int
    shuffled: np.ndarray | None = None
    states: StateSums | None = None


def sums_by_fold(
    layers: Sequence[int],
    differences_LND: np.ndarray,
    states_2LND: np.ndarray,
    folds: Sequence[int],
    signs: np.ndarray | None = None,
) -> list[FoldSums]:
    """Float64 sums of pooled differences and states, ordered by layer, then fold.

    Args:
        folds: [N] fold of each row.
        signs: [N] of shuffled labels, where those are to be summed, too.
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
        )

    return [
        of(layer, index, int(fold))
        for index, layer in enumerate(layers)
        for fold in np.unique(fold_N)
    ]


@dataclass(frozen=True)
class SteeringVectors:
    """Vectors [D] float32 of one group: ``whole[layer]`` and, cross-fitted, ``folds[layer][k]``."""

    whole: Mapping[int, np.ndarray]
    folds: Mapping[int, tuple[np.ndarray, ...]]
    _digests: dict[int, str] = field(default_factory=dict, init=False, repr=False, compare=False)

    def for_fold(self, layer: int, fold: int) -> np.ndarray:
        """The vector that steers examples of a fold: fitted without them where cross-fitted."""
        return self.folds[layer][fold] if layer in self.folds else self.whole[layer]

    def digest(self, layer: int) -> str:
        """SHA-256 over every tensor of a layer."""
        if layer not in self._digests:  # asked for by each of a sweep's tasks
            sha = hashlib.sha256()
            for vector in (self.whole[layer], *self.folds.get(layer, ())):
                sha.update(np.ascontiguousarray(vector, dtype="<f4").tobytes())
            self._digests[layer] = sha.hexdigest()
        return self._digests[layer]


def assign_folds(targets: Sequence[str], num_folds: int, seed: int, group: str) -> tuple[int, ...]:
    """The fold of each example; all examples of a target term share one, and no fold is empty.

    There are ``num_folds`` folds, or one for each term where there are fewer terms. Terms are dealt
    largest first to the fold with the fewest examples, ties in an order drawn with ``seed``.

    Args:
        targets: the target term of each example, at least one.
        num_folds: 1 for no cross-fitting: every example is in fold 0.
        group: its name, for messages.

    Raises:
        InputError: several folds of a single target term: nothing is left to fit its vector from.
    """
    sizes = Counter(targets)
    if num_folds == 1:
        return (0,) * len(targets)
    if len(sizes) == 1:
        (term,) = sizes
        raise InputError(
            f"vectors.folds is {num_folds}, but every example of {group} has the target term "
            f"{term!r}, so nothing is left to fit a held-out vector from; use more examples "
            "(data.limit), leave the group out, or set vectors.folds to 1"
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
        InputError: a layer's sums hold no example, or none outside a fold.
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
        raise InputError(f"there is no example to fit the vector of {what} with")
    return (total / count).astype(np.float32)


def to_safetensors(vectors: SteeringVectors, provenance: Mapping[str, str]) -> bytes:
    """File content: tensors ``layer.<L>`` and ``layer.<L>.fold.<k>``, provenance in metadata."""
    tensors = {f"layer.{layer}": v for layer, v in vectors.whole.items()}
    for layer, folds in vectors.folds.items():
        tensors |= {f"layer.{layer}.fold.{k}": v for k, v in enumerate(folds)}
    digests = {f"digest.layer.{layer}": vectors.digest(layer) for layer in vectors.whole}
    data: bytes = save_tensors(tensors, metadata={**provenance, **digests})
    return data


def from_safetensors(data: bytes, where: str) -> SteeringVectors:
    """Vectors of a file's content, checked against the digests it carries.

    Raises:
        InputError: not such a file, or its tensors do not match its digests.
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
    except (SafetensorError, KeyError, ValueError) as error:
        raise InputError(f"{where}: not a file of steering vectors: {error}") from None
    vectors = SteeringVectors(whole, {layer: f for layer, f in folds.items() if f})
    for layer in whole:
        if metadata.get(f"digest.layer.{layer}") != vectors.digest(layer):
            raise InputError(f"{where}: tensors of layer {layer} do not match their digest")
    return vectors


def safetensors_metadata(data: bytes) -> dict[str, str]:
    """The metadata of a safetensors file: its header is JSON behind 8 bytes of length."""
    size = int.from_bytes(data[:8], "little")
    header = json.loads(data[8 : 8 + size])
    return dict(header.get("__metadata__", {}))
