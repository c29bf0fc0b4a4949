"""Methods for steering vectors other than the mean difference, and their cross-fitting.

Each fit takes all pooled states of a group at one layer and computes in float64. Its vector gets
the sign and the norm of the mean difference of the same examples, so that a coefficient means the
same size of push for each method.

A group usually has fewer examples than the stream has dimensions. Then the fits go by the products
of examples [N, N], not by those of features [D, D]: at width 8192 the latter take 512 MB.

Shapes: N pairs, or 2 N states, D width.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
from scipy.linalg import LinAlgError, cho_factor, cho_solve, eigh

from steering_core.datasets.base import Contrast
from steering_core.logistic_probe import fit_logistic
from steering_core.pairs import PairMeans, Pairs, centered_states
from steersweep.errors import UserError


def fit_pca(pairs: Pairs, what: str) -> np.ndarray:
    """The first principal direction [D] float64 of the differences, not centered.

    Centering would take away the very shift between the two candidates. Without it this is the PCA
    of the differences taken with both signs, whose mean is zero. The direction gets the sign and
    the norm of the mean difference.

    Args:
        pairs: at least one.
        what: names what is fitted, for messages.

    Raises:
        UserError: no pair, a state that is not finite, or a mean difference of zero.

    Source: Zou et al. 2023, "Representation Engineering" (LAT).
    """
    means = PairMeans.of(pairs, what)
    differences_ND = pairs.differences()
    num_pairs, width = differences_ND.shape
    # X^T X and X X^T have the same largest eigenvalue; u of the latter is X^T u of the former.
    if num_pairs < width:
        direction_D = _leading_eigenvector(differences_ND @ differences_ND.T) @ differences_ND
    else:
        direction_D = _leading_eigenvector(differences_ND.T @ differences_ND)
    return means.push_along(direction_D)


def _leading_eigenvector(symmetric_MM: np.ndarray) -> np.ndarray:
    last = len(symmetric_MM) - 1
    _, vectors_M1 = eigh(symmetric_MM, subset_by_index=[last, last], overwrite_a=True)
    leading_M: np.ndarray = vectors_M1[:, 0]
    return leading_M


def fit_whitened(pairs: Pairs, what: str) -> np.ndarray:
    """Within-class covariance^-1 times the mean difference [D] float64.

    The covariance is that of all 2 N states around the mean of their own class, shrunk towards a
    multiple of the identity. The direction gets the sign and the norm of the mean difference.

    Args:
        pairs: at least two.
        what: names what is fitted, for messages.

    Raises:
        UserError: no pair, a state that is not finite, a mean difference of zero, or states that
            vary too little within their class.

    Source: Fisher 1936, "The use of multiple measurements in taxonomic problems"; as a probe of
    language models, Marks & Tegmark 2023, "The Geometry of Truth". Shrinkage: Ledoit & Wolf 2004,
    "A well-conditioned estimator for large-dimensional covariance matrices".
    """
    means = PairMeans.of(pairs, what)
    states_ND = centered_states(pairs, means.anti, means.stereotype)
    try:
        direction_D = _whiten(states_ND, means.difference)
    except LinAlgError:
        raise UserError(
            f"states vary too little within their class to fit {what} by whitening; use more "
            "examples",
            cause="too_little_variance",
        ) from None
    return means.push_along(direction_D)


def _whiten(states_ND: np.ndarray, difference_D: np.ndarray) -> np.ndarray:
    """The difference [D] times the inverse of Ledoit and Wolf's estimate of the covariance.

    With N states x_i around their class means as rows of X, S = X^T X / N and m = trace(S) / D, the
    estimate is ``b m I + (1 - b) S``, where b is the mean of |x_i x_i^T - S|^2, divided by
    N |S - m I|^2, and at most 1.

    Raises:
        LinAlgError: the estimate is singular.
    """
    num_states, width = states_ND.shape
    by_state = num_states < width
    products = states_ND @ states_ND.T if by_state else states_ND.T @ states_ND
    # Trace and norm of S are those of either product.
    size = float(np.trace(products)) / num_states / width
    norm = float(np.vdot(products, products)) / num_states**2  # |S|^2
    squares_N = np.einsum("nd,nd->n", states_ND, states_ND)
    # The sum of |x x^T - S|^2 is that of |x|^4 less N |S|^2; |S - m I|^2 is |S|^2 less D m^2.
    noise = (float(squares_N @ squares_N) / num_states - norm) / num_states
    spread = norm - width * size**2
    shrinkage = min(max(noise / spread, 0.0), 1.0) if spread > 0 else 1.0
    ridge, weight = shrinkage * size, (1.0 - shrinkage) / num_states

    products *= weight
    products[np.diag_indices_from(products)] += ridge
    direction_D: np.ndarray
    if not by_state:
        direction_D = cho_solve(cho_factor(products, overwrite_a=True), difference_D)
        return direction_D
    if ridge <= 0:  # fewer states than dimensions: only the ridge makes it invertible
        raise LinAlgError("singular")
    # Woodbury: (r I + w X^T X)^-1 d = (d - X^T (r I + w X X^T)^-1 w X d) / r.
    factor = cho_factor(products, overwrite_a=True)
    solved_N = cho_solve(factor, weight * (states_ND @ difference_D))
    direction_D = difference_D - solved_N @ states_ND
    direction_D /= ridge
    return direction_D


def _mean_difference(pairs: Pairs, what: str) -> np.ndarray:
    return PairMeans.of(pairs, what).difference


_ANY = Contrast(("positive",), ("negative",))


@dataclass(frozen=True)
class VectorMethod:
    """A way to make steering vectors, and all that a sweep says about it.

    Attributes:
        formula: for the metadata of files of vectors, see ``formula_of``.
        source: the papers that it comes from.
        words: for a sentence of a report: ``mean difference times ...``, see ``words_of``.
        fit: takes pairs and the name of what is fitted, returns a vector [D] float64; None for the
            mean difference, which needs sums alone (``fit_mean_difference``).
    """

    formula: str
    source: str
    words: str
    fit: Callable[[Pairs, str], np.ndarray] | None = None

    def formula_of(self, contrast: Contrast | None) -> str:
        """``formula`` with the contrast's labels for ``{positive}`` and ``{negative}``."""
        return self.formula.format(**(contrast or _ANY).names())

    def words_of(self, contrast: Contrast | None) -> str:
        """``words`` with the contrast's labels, likewise."""
        return self.words.format(**(contrast or _ANY).names())

    @property
    def needs_states(self) -> bool:
        """Whether it is fitted from the states of each example."""
        return self.fit is not None


_METHODS: dict[str, VectorMethod] = {
    "mean_difference": VectorMethod(
        "mean over examples of (pooled {positive} - pooled {negative})",
        "Rimsky et al. 2023, Steering Llama 2 via Contrastive Activation Addition",
        "mean over examples of (pooled {positive} minus pooled {negative})",
    ),
    "pca": VectorMethod(
        "first principal direction of the differences, not centred, with the sign and the norm of "
        "their mean",
        "Zou et al. 2023, Representation Engineering",
        "first principal direction of (pooled {positive} minus pooled {negative})",
        fit_pca,
    ),
    "logistic": VectorMethod(
        "weight of a logistic probe (L2, C = 1, standardised features) in the stream's "
        "coordinates, with the sign and the norm of the mean difference",
        "Alain & Bengio 2016, Understanding intermediate layers using linear classifier probes; "
        "Li et al. 2023, Inference-Time Intervention",
        "weight of a logistic probe between {positive} and {negative}",
        fit_logistic,
    ),
    "whitened": VectorMethod(
        "within-class covariance (Ledoit-Wolf)^-1 times the mean difference, with the norm of it",
        "Fisher 1936, The use of multiple measurements in taxonomic problems; Ledoit & Wolf 2004, "
        "A well-conditioned estimator for large-dimensional covariance matrices; Marks & Tegmark "
        "2023, The Geometry of Truth",
        "mean difference times the inverse within-class covariance",
        fit_whitened,
    ),
}
METHODS: Mapping[str, VectorMethod] = _METHODS
"""By the name in sweep files. A method is one entry: specs, plans, fits, files of vectors and
reports read it from here."""


@contextmanager
def registered(name: str, method: VectorMethod) -> Iterator[None]:
    """Know one more method for as long as the context lasts, in this process: for tests."""
    assert name not in _METHODS, f"{name} is a method already"
    _METHODS[name] = method
    try:
        yield
    finally:
        del _METHODS[name]


def fit_layer(
    method: str, pairs: Pairs, num_folds: int, what: str
) -> tuple[np.ndarray, tuple[np.ndarray, ...]]:
    """Vectors [D] float32 of one layer: of all examples, and of those outside each fold.

    Args:
        method: one of ``METHODS``; the mean difference can also be fitted from sums
            (``fit_mean_difference``).
        pairs: the layer's examples.
        num_folds: 1 for no vectors by fold.
        what: the layer and its group, for messages.

    Raises:
        UserError: the pairs do not determine a vector; see the method's fit.
    """
    fit = METHODS[method].fit or _mean_difference
    name = f"the {method} vector of {what}"
    whole = fit(pairs, name).astype(np.float32)
    folds = range(num_folds if num_folds > 1 else 0)
    return whole, tuple(
        fit(pairs.outside(fold), f"{name} without fold {fold}").astype(np.float32) for fold in folds
    )
