"""Methods for steering vectors beside the mean difference, and their cross-fitting.

Each fit streams over pairs of pooled states, a few passes of it, in float64: memory is bounded by
[D, D] and one chunk, never by the number of examples. Its vector gets the sign and the norm of the
mean difference of the same examples, so that a coefficient means the same size of push whatever
the method.

Shapes: N pairs, n pairs of one chunk, D width.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

import numpy as np
from scipy.linalg import LinAlgError, cho_factor, cho_solve
from scipy.sparse.linalg import eigsh

from steering_core.errors import InputError
from steering_core.logistic_probe import fit_logistic
from steering_core.pairs import OutsideFold, PairMeans, Pairs, StateChunk, in_float64
from steering_core.vectors import Method


def fit_pca(pairs: Pairs, what: str) -> np.ndarray:
    """The first principal direction [D] float64 of the differences, not centred.

    Centring would take away the very shift between the two candidates. Without it this is the PCA
    of the differences taken with both signs, whose mean is zero. The direction gets the sign and
    the norm of the mean difference. Two passes: means, second moments [D, D].

    Args:
        pairs: see ``Pairs``.
        what: is fitted, for messages.

    Raises:
        InputError: no pair, a state that is not finite, or a mean difference of zero.

    Source: Zou et al. 2023, "Representation Engineering" (LAT).
    """
    means = PairMeans.of(pairs, what)
    width = means.difference.size
    moments_DD = np.zeros((width, width))
    for anti, stereotype in in_float64(pairs):
        differences_nD = anti - stereotype
        moments_DD += differences_nD.T @ differences_nD
    # Lanczos needs a start; a fixed one, so that equal input gives equal bits.
    start_D = np.random.default_rng(0).normal(size=width)
    _, directions = eigsh(moments_DD / means.num_pairs, k=1, which="LA", v0=start_D)
    direction_D: np.ndarray = directions[:, 0]
    return means.push_along(direction_D)


def fit_whitened(pairs: Pairs, what: str) -> np.ndarray:
    """Within-class covariance^-1 times the mean difference [D] float64.

    The covariance is that of all 2 N states around the mean of their own class, shrunk towards a
    multiple of the identity. The direction gets the sign and the norm of the mean difference. Two
    passes: means, covariance [D, D].

    Args:
        pairs: see ``Pairs``.
        what: is fitted, for messages.

    Raises:
        InputError: no pair, a state that is not finite, a mean difference of zero, or states that
            vary too little within their class.

    Source: Fisher 1936, "The use of multiple measurements in taxonomic problems"; as a probe of
    language models, Marks & Tegmark 2023, "The Geometry of Truth". Shrinkage: Ledoit & Wolf 2004,
    "A well-conditioned estimator for large-dimensional covariance matrices".
    """
    means = PairMeans.of(pairs, what)
    try:
        factor = cho_factor(_shrunk_covariance(pairs, means))
    except LinAlgError:
        raise InputError(
            f"states vary too little within their class to fit {what} by whitening; use more "
            "examples, or another vectors.method"
        ) from None
    direction_D: np.ndarray = cho_solve(factor, means.difference)
    return means.push_along(direction_D)


def _shrunk_covariance(pairs: Pairs, means: PairMeans) -> np.ndarray:
    """Ledoit and Wolf's estimate [D, D] of the within-class covariance.

    With states x_i around their class means, S = mean of x_i x_i^T and m = trace(S) / D it is
    ``b m I + (1 - b) S``, where b is the mean of |x_i x_i^T - S|^2 over the 2 N states, divided by
    2 N |S - m I|^2, and at most 1.
    """
    width, num_states = means.difference.size, 2 * means.num_pairs
    covariance_DD = np.zeros((width, width))
    fourth = 0.0
    for anti, stereotype in in_float64(pairs):
        for states_nD, mean_D in ((anti, means.anti), (stereotype, means.stereotype)):
            centred_nD = states_nD - mean_D
            covariance_DD += centred_nD.T @ centred_nD
            fourth += float(((centred_nD**2).sum(axis=1) ** 2).sum())
    covariance_DD /= num_states
    diagonal = np.einsum("dd->d", covariance_DD)
    size = float(diagonal.mean())
    # The sum of |x x^T - S|^2 is that of |x|^4 less 2 N |S|^2.
    noise = (fourth / num_states - float((covariance_DD**2).sum())) / num_states
    diagonal -= size
    spread = float((covariance_DD**2).sum())
    shrinkage = min(max(noise / spread, 0.0), 1.0) if spread > 0 else 1.0
    covariance_DD *= 1.0 - shrinkage
    diagonal += size
    return covariance_DD


def _mean_difference(pairs: Pairs, what: str) -> np.ndarray:
    return PairMeans.of(pairs, what).difference


@dataclass(frozen=True)
class VectorMethod:
    """A way to make steering vectors, as their provenance tells it.

    Attributes:
        fit: vector [D] float64 of pairs and of what is fitted; None for the mean difference, which
            needs sums alone (``fit_mean_difference``).
    """

    formula: str
    source: str
    fit: Callable[[Pairs, str], np.ndarray] | None = None

    @property
    def needs_states(self) -> bool:
        """Whether the states of each example have to be kept for it."""
        return self.fit is not None


METHODS: Mapping[Method, VectorMethod] = {
    "mean_difference": VectorMethod(
        "mean over examples of (pooled anti-stereotype - pooled stereotype)",
        "Rimsky et al. 2023, Steering Llama 2 via Contrastive Activation Addition",
    ),
    "pca": VectorMethod(
        "first principal direction of the differences, not centred, with the sign and the norm of "
        "their mean",
        "Zou et al. 2023, Representation Engineering",
        fit_pca,
    ),
    "logistic": VectorMethod(
        "weight of a logistic probe (L2, C = 1, standardised features) in the stream's "
        "coordinates, with the sign and the norm of the mean difference",
        "Alain & Bengio 2016, Understanding intermediate layers using linear classifier probes; "
        "Li et al. 2023, Inference-Time Intervention",
        fit_logistic,
    ),
    "whitened": VectorMethod(
        "within-class covariance (Ledoit-Wolf)^-1 times the mean difference, with the norm of it",
        "Fisher 1936, The use of multiple measurements in taxonomic problems; Ledoit & Wolf 2004, "
        "A well-conditioned estimator for large-dimensional covariance matrices; Marks & Tegmark "
        "2023, The Geometry of Truth",
        fit_whitened,
    ),
}


def fit_layer(
    method: Method, chunks: Iterable[StateChunk], num_folds: int, what: str
) -> tuple[np.ndarray, tuple[np.ndarray, ...]]:
    """Vectors [D] float32 of one layer: of all examples, and of those outside each fold.

    Args:
        method: any; the mean difference can be fitted from sums as well (``fit_mean_difference``).
        chunks: the layer's examples; must start anew with each iteration.
        num_folds: 1 for no vectors by fold.
        what: the layer and its group, for messages.

    Raises:
        InputError: what the method cannot be fitted from; see its fit.
    """
    fit = METHODS[method].fit or _mean_difference
    name = f"the {method} vector of {what}"
    whole = fit(OutsideFold(chunks), name).astype(np.float32)
    folds = range(num_folds if num_folds > 1 else 0)
    return whole, tuple(
        fit(OutsideFold(chunks, fold), f"{name} without fold {fold}").astype(np.float32)
        for fold in folds
    )
