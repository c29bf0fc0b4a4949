"""Made-up sweeps with a known truth: rows of clustered examples, drawn many times.

Shapes: R runs, N examples, K clusters, C coefficients.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from scipy.stats import norm

from steering_core.stats.clusters import Cluster

# StereoSet's development set, intersentence: how many target terms have so many examples.
SIZES = {
    "gender": {21: 3, 23: 1, 24: 1, 26: 3, 27: 2},
    "profession": {22: 1, 24: 1, 25: 2, 26: 2, 27: 10, 28: 4, 29: 4, 30: 5, 31: 1},
    "race": {20: 1, 22: 2, 24: 3, 25: 2, 26: 5, 27: 7, 28: 5, 29: 4, 30: 4, 31: 2, 33: 1},
    "religion": {24: 1, 25: 1, 29: 1},
}


@dataclass(frozen=True)
class Group:
    """Examples of one bias type.

    Attributes:
        cluster: [N] index of each example's target term, ascending.
    """

    name: str
    cluster: np.ndarray

    @property
    def num_clusters(self) -> int:
        return int(self.cluster[-1]) + 1

    @property
    def clusters(self) -> tuple[Cluster, ...]:
        return tuple(Cluster(self.name, str(k)) for k in range(self.num_clusters))

    def sums(self, values_RN: np.ndarray) -> np.ndarray:
        """Sums [K, R] over the examples of each cluster."""
        starts = np.flatnonzero(np.diff(self.cluster, prepend=-1))
        return np.add.reduceat(values_RN, starts, axis=-1).T

    @property
    def sizes(self) -> np.ndarray:
        """Examples of each cluster [K, 1]."""
        return np.bincount(self.cluster).astype(float)[:, None]


def groups(limit: int | None = None, seed: int = 0) -> list[Group]:
    """The four bias types in full, or with so many examples of each, drawn at random."""
    rng = np.random.default_rng(seed)
    made = []
    for name, sizes in SIZES.items():
        of_each = np.repeat(list(sizes), list(sizes.values()))
        cluster = np.repeat(np.arange(len(of_each)), of_each)
        if limit is not None:
            cluster = np.sort(rng.choice(cluster, limit, replace=False))
        made.append(Group(name, np.unique(cluster, return_inverse=True)[1]))
    return made


def latent(group: Group, icc: float, num_runs: int, rng: np.random.Generator) -> np.ndarray:
    """Standard normal numbers [R, N]; ``icc`` is what two examples of a cluster correlate by."""
    of_cluster = rng.standard_normal((num_runs, group.num_clusters))[:, group.cluster]
    own = rng.standard_normal((num_runs, len(group.cluster)))
    return np.sqrt(icc) * of_cluster + np.sqrt(1 - icc) * own


def events(latent_RN: np.ndarray, *shares: float) -> list[np.ndarray]:
    """For each share, which examples [R, N] it happens to; no example has two events."""
    edges = norm.ppf(np.cumsum([0.0, *shares]))
    return [(latent_RN >= low) & (latent_RN < high) for low, high in pairwise(edges)]
