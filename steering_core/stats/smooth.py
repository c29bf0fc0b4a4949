"""Estimates that are smooth functions of means, by the delta method.

Shapes: K clusters, E estimates (any number of dimensions), T terms of each.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from steering_core.stats.clusters import ClusterEstimate

Function = Callable[[np.ndarray], np.ndarray]
"""Takes means [..., T] to values [...]."""

_STEP = np.finfo(float).eps ** (1 / 3)
"""Part of a mean's scale that central differences go to each side: the best in double precision."""
_NUM_PROBES, _SAME = 8, 1e-9


def is_affine(function: Function, num_terms: int) -> bool:
    """Whether a function of means is a weighted sum of them and a constant.

    The change of such an estimate is itself a mean over examples, which a sign flip can test.
    It is tried at points of its own, so that the answer does not depend on data.
    """
    drawn = np.random.default_rng(0).uniform(0.1, 0.9, (2, _NUM_PROBES, num_terms))
    with np.errstate(all="ignore"):
        ends, middle = function(drawn), function(drawn.mean(axis=0))
    size = np.abs(ends).max()
    return bool(np.abs(ends.mean(axis=0) - middle).max() <= _SAME * max(size, 1e-300))


def gradient(function: Function, at: np.ndarray, scale: np.ndarray) -> np.ndarray:
    """Derivatives [..., T] by central differences, exact to rounding for affine functions.

    Args:
        at: [..., T].
        scale: [..., T], positive: over what distance each mean may change by as much as itself.
    """
    num_terms = at.shape[-1]
    step = np.ones_like(at) if is_affine(function, num_terms) else _STEP * scale
    derivatives = np.empty_like(at)
    with np.errstate(all="ignore"):
        for term in range(num_terms):
            aside = np.zeros_like(at)
            aside[..., term] = step[..., term]
            rise = function(at + aside) - function(at - aside)
            derivatives[..., term] = rise / (2 * step[..., term])
    return derivatives


def function_of_means(means: ClusterEstimate, function: Function) -> ClusterEstimate:
    """A smooth function of means over the same examples.

    Its ``total`` is linear: influence + share x value. That of an affine function without a
    constant is exact, and so is that of a difference of two affine ones.

    Args:
        means: [..., T], with totals; all T have the same shares.

    Returns:
        [...]; NaN where the function is not finite.
    """
    assert means.share is not None, "not an estimate of means"
    error = np.sqrt((means.influence**2).sum(axis=0))
    scale = np.maximum(np.abs(means.value), error)
    slope = gradient(function, means.value, np.where(scale > 0, scale, 1.0))
    with np.errstate(all="ignore"):
        value = np.asarray(function(means.value), float)
    value = np.where(np.isfinite(value), value, np.nan)
    influence = (means.influence * slope).sum(axis=-1)
    share = means.share[..., 0]
    return ClusterEstimate(value, influence, means.clusters, influence + share * value, share)
