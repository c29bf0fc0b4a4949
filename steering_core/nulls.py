"""Vectors that mean nothing: what steering does whatever the direction.

A finding about a vector has to stand out from what these do at the same layer, with the same norm
and the same coefficient.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import replace
from typing import Literal, get_args

import numpy as np

from steering_core.vectors import SteeringVectors

Null = Literal["random", "shuffled"]
NULLS: tuple[Null, ...] = get_args(Null)


def random_vectors(like: SteeringVectors, seed: str) -> SteeringVectors:
    """Vectors in directions drawn evenly, each with the norm of the one that it stands for.

    They steer the same stream in the same unit.
    """

    def drawn(vector_D: np.ndarray, name: str) -> np.ndarray:
        number = int.from_bytes(hashlib.sha256(f"{seed}/{name}".encode()).digest()[:8], "big")
        return with_norm(np.random.default_rng(number).standard_normal(len(vector_D)), vector_D)

    return replace(
        like,
        whole={layer: drawn(vector, f"{layer}") for layer, vector in like.whole.items()},
        folds={
            layer: tuple(drawn(vector, f"{layer}/{fold}") for fold, vector in enumerate(folds))
            for layer, folds in like.folds.items()
        },
    )


def with_norms_of(vectors: SteeringVectors, like: SteeringVectors) -> SteeringVectors:
    """The same directions, each with the norm of the vector that it stands for."""
    return replace(
        like,
        whole={
            layer: with_norm(vector, like.whole[layer]) for layer, vector in vectors.whole.items()
        },
        folds={
            layer: tuple(
                with_norm(vector, its) for vector, its in zip(folds, like.folds[layer], strict=True)
            )
            for layer, folds in vectors.folds.items()
        },
    )


def with_norm(vector_D: np.ndarray, like_D: np.ndarray) -> np.ndarray:
    """The vector [D] float32 with another's norm; a vector of zero stays."""
    norm = np.linalg.norm(vector_D.astype(np.float64))
    if norm == 0:
        return vector_D.astype(np.float32)
    scaled: np.ndarray = vector_D * (np.linalg.norm(like_D.astype(np.float64)) / norm)
    return scaled.astype(np.float32)


def label_signs(example_ids: Sequence[str]) -> np.ndarray:
    """+1 or -1 for each example [N]: -1 where stereotype and anti-stereotype change places.

    Depends on the example's id alone, so that a mean difference with shuffled labels can be summed
    up shard by shard.
    """
    bits = [hashlib.sha256(f"label/{i}".encode()).digest()[0] & 1 for i in example_ids]
    return 1.0 - 2.0 * np.asarray(bits)
