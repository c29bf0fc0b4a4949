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


def random_vectors(
    like: SteeringVectors, seed: str, *, one_direction: bool = True
) -> SteeringVectors:
    """Vectors in directions drawn evenly, each with the norm of the one that it stands for.

    They steer the same stream in the same unit.

    Args:
        one_direction: draw one direction for each layer, which all folds share, since fitted
            vectors of different folds nearly agree, too. False: another one for each fold, as
            earlier versions did.
    """

    def drawn(vector_D: np.ndarray, name: str) -> np.ndarray:
        number = int.from_bytes(hashlib.sha256(f"{seed}/{name}".encode()).digest()[:8], "big")
        return with_norm(np.random.default_rng(number).standard_normal(len(vector_D)), vector_D)

    def name(layer: int, fold: int) -> str:
        return f"{layer}" if one_direction else f"{layer}/{fold}"

    return replace(
        like,
        whole={layer: drawn(vector, f"{layer}") for layer, vector in like.whole.items()},
        folds={
            layer: tuple(drawn(vector, name(layer, fold)) for fold, vector in enumerate(folds))
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


OLD_LABEL_SEED = "label"
"""Of the only draw of shuffled labels that earlier versions made."""


def label_signs(example_ids: Sequence[str], seed: str = OLD_LABEL_SEED) -> np.ndarray:
    """+1 or -1 for each example [N]: -1 if stereotype and anti-stereotype change places.

    A sign depends on the example's id and the seed alone, so a mean difference with shuffled labels
    can be summed up shard by shard, and a summary knows the labels without storing them.

    Args:
        seed: of the draw (``draw_seed``); left out: the only draw of earlier versions.
    """
    bits = [hashlib.sha256(f"{seed}/{i}".encode()).digest()[0] & 1 for i in example_ids]
    return 1.0 - 2.0 * np.asarray(bits)


def draw_seed(null: Null, seed: int, draw: int) -> str:
    """The text that a draw of a null is seeded with.

    Args:
        seed: the sweep's.
        draw: its number, from 0 on.
    """
    return f"{null}/{seed}/{draw}"
