"""Vector methods in the obvious way, on whole matrices [N, D] in float64."""

from __future__ import annotations

import numpy as np


def direct_mean_difference(anti: np.ndarray, stereotype: np.ndarray) -> np.ndarray:
    """Mean of the differences."""
    difference: np.ndarray = (anti - stereotype).mean(axis=0)
    return difference


def direct_pca(anti: np.ndarray, stereotype: np.ndarray) -> np.ndarray:
    """Leading right singular vector of the differences, not centred."""
    _, _, directions = np.linalg.svd(anti - stereotype)
    return _pushed(directions[0], anti, stereotype)


def direct_logistic(anti: np.ndarray, stereotype: np.ndarray) -> np.ndarray:
    """Weight of the probe that Newton's method finds."""
    features, labels, scale = standardised(anti, stereotype)
    return _pushed(newton(features, labels)[:-1] / scale, anti, stereotype)


def direct_whitened(anti: np.ndarray, stereotype: np.ndarray) -> np.ndarray:
    """Within-class covariance^-1 times the mean difference."""
    within = np.concatenate([anti - anti.mean(axis=0), stereotype - stereotype.mean(axis=0)])
    difference = direct_mean_difference(anti, stereotype)
    return _pushed(np.linalg.solve(ledoit_wolf(within), difference), anti, stereotype)


DIRECT_FITS = {
    "pca": direct_pca,
    "logistic": direct_logistic,
    "whitened": direct_whitened,
}


def ledoit_wolf(states: np.ndarray) -> np.ndarray:
    """Ledoit & Wolf 2004, section 3.2, in their words: m, d^2, b^2; states have mean zero."""
    num_states, width = states.shape
    sample = states.T @ states / num_states
    m = np.trace(sample) / width
    d2 = np.sum((sample - m * np.eye(width)) ** 2) / width
    b2 = sum(np.sum((np.outer(x, x) - sample) ** 2) for x in states) / width / num_states**2
    b2 = min(b2, d2)
    return b2 / d2 * m * np.eye(width) + (d2 - b2) / d2 * sample


def standardised(
    anti: np.ndarray, stereotype: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Features [2 N, D], their labels (1: anti-stereotype, 0), and the standard deviations."""
    states = np.concatenate([anti, stereotype])
    labels = np.repeat([1.0, 0.0], len(anti))
    scale = states.std(axis=0)
    return (states - states.mean(axis=0)) / scale, labels, scale


def probe_gradient(features: np.ndarray, labels: np.ndarray, solution: np.ndarray) -> np.ndarray:
    """Of |w|^2 / 2 + sum of log-losses, with the intercept behind the weights."""
    design = np.column_stack([features, np.ones(len(features))])
    probabilities = 1 / (1 + np.exp(-design @ solution))
    return design.T @ (probabilities - labels) + np.append(solution[:-1], 0.0)


def newton(features: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Weights and intercept of the probe: where the gradient is zero."""
    design = np.column_stack([features, np.ones(len(features))])
    penalty = np.diag([1.0] * features.shape[1] + [0.0])
    solution = np.zeros(design.shape[1])
    for _ in range(50):
        probabilities = 1 / (1 + np.exp(-design @ solution))
        weights = probabilities * (1 - probabilities)
        hessian = design.T @ (design * weights[:, None]) + penalty
        solution -= np.linalg.solve(hessian, probe_gradient(features, labels, solution))
    assert np.abs(probe_gradient(features, labels, solution)).max() < 1e-9
    return solution


def _pushed(direction: np.ndarray, anti: np.ndarray, stereotype: np.ndarray) -> np.ndarray:
    """With the norm and the sign of the mean difference."""
    difference = direct_mean_difference(anti, stereotype)
    size = np.linalg.norm(difference) / np.linalg.norm(direction)
    pushed: np.ndarray = direction * size * np.sign(direction @ difference)
    return pushed
