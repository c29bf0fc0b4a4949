"""The logistic probe on pooled states, as a steering vector.

Shapes: N pairs, 2 N states, D width.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.optimize import minimize
from scipy.special import expit

from steering_core.pairs import PairMeans, Pairs, centered_states
from steersweep.errors import UserError

# Largest entry of the gradient of the loss per state at which L-BFGS stops; at 1e-7 the vector is
# within 1e-4 of the optimum (relative), measured on correlated states with D up to 2304.
_GRADIENT_SOUGHT = 1e-7
_GRADIENT_ACCEPTED = 1e-5
_MOST_STEPS = 5000


def fit_logistic(pairs: Pairs, what: str) -> np.ndarray:
    """The weight [D] float64 of a logistic probe, in the stream's own coordinates.

    The probe tells anti-stereotype (1) from stereotype (0) states: with an intercept, on features
    standardized by mean and standard deviation over all 2 N states, minimizing
    ``|w|^2 / 2 + sum of log-losses`` (scikit-learn's C = 1.0) by L-BFGS. Its weight, divided by
    the standard deviations, gets the sign and the norm of the mean difference.

    Args:
        pairs: at least one.
        what: names what is fitted, for messages.

    Raises:
        UserError: no pair, a state that is not finite, a mean difference that is zero or too
            small compared with the spread of the states, or L-BFGS does not converge.

    Source: probes, Alain & Bengio 2016, "Understanding intermediate layers using linear classifier
    probes"; their weight as a steering direction, Li et al. 2023, "Inference-Time Intervention".
    """
    means = PairMeans.of(pairs, what)
    loss = _Loss.of(pairs, means)
    start = np.zeros(means.difference.size + 1)
    options = {
        "gtol": _GRADIENT_SOUGHT,
        "ftol": 0.0,
        "maxiter": _MOST_STEPS,
        "maxfun": 2 * _MOST_STEPS,
    }
    found = minimize(loss, start, jac=True, method="L-BFGS-B", options=options)
    steepest = float(np.abs(found.jac).max())
    if not steepest <= _GRADIENT_ACCEPTED:
        raise UserError(
            f"the logistic probe of {what} did not converge: its gradient is {steepest:.1e} after "
            f"{found.nit} steps and must be below {_GRADIENT_ACCEPTED:g}",
            cause="no_convergence",
        )
    weights_D: np.ndarray = found.x[:-1]
    if not weights_D.any():
        raise UserError(
            "the mean difference is so small compared with the spread of the states that the "
            f"logistic probe of {what} cannot be fitted; use more examples or another method"
        )
    return means.push_along(weights_D / loss.scale)


@dataclass(frozen=True)
class _Loss:
    """Penalized log-loss per state and its gradient, of parameters (weights [D], intercept).

    Attributes:
        features: [2 N, D] float64, the standardized states.
        labels: [2 N], +1 or -1 for anti-stereotype or stereotype.
        scale: [D], the standard deviation of each feature; 1 if it does not vary.
    """

    features: np.ndarray
    labels: np.ndarray
    scale: np.ndarray

    @classmethod
    def of(cls, pairs: Pairs, means: PairMeans) -> _Loss:
        center_D = (means.anti + means.stereotype) / 2
        features_ND = centered_states(pairs, center_D, center_D)
        num_states = len(features_ND)
        variance_D = np.einsum("nd,nd->d", features_ND, features_ND) / num_states
        # Rounding of the mean gives a feature that does not vary a tiny variance: not its scale.
        rounding_D = (num_states * np.finfo(np.float64).eps * center_D) ** 2
        scale_D = np.where(variance_D > rounding_D, np.sqrt(variance_D), 1.0)
        features_ND /= scale_D
        return cls(features_ND, np.repeat([1.0, -1.0], len(pairs)), scale_D)

    def __call__(self, parameters: np.ndarray) -> tuple[float, np.ndarray]:
        weights_D, intercept = parameters[:-1], parameters[-1]
        margins_N = self.labels * (self.features @ weights_D + intercept)
        loss = float(weights_D @ weights_D) / 2 + float(np.logaddexp(0.0, -margins_N).sum())
        slopes_N = -self.labels * expit(-margins_N)
        gradient = np.append(slopes_N @ self.features + weights_D, slopes_N.sum())
        return loss / len(self.labels), gradient / len(self.labels)
