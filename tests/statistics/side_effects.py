"""How often the matrix of side effects calls nothing clear, and what fidelity and picks are worth.

    python -m tests.statistics.side_effects             # about four minutes
    python -m tests.statistics.side_effects --runs 200  # rougher

Made-up data sets of clustered examples with a known truth. Seeds are fixed.

Shapes: N examples, M metrics of a data set.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from jobs.side_effects.matrix import statements
from jobs.side_effects.pick import parse_pick, picked
from jobs.side_effects.summary import Summary, summarise
from steering_core.stats.clusters import Cluster, ClusterEstimate, means_of_sums, sums_by_cluster
from steering_core.stats.fidelity import NUM_DRAWS, Changes, fidelity
from steering_core.stats.standardized import Moments, standard_deviation, standardized
from tests.support.side_effects import AXES, column, measured, share

RUNS = 1_000
NOISE, ICC, ALIKE = 0.7, 0.1, 0.5
"""How much changes of examples differ, and how alike those of a cluster and of two metrics are."""


@dataclass(frozen=True)
class World:
    """Data sets of examples in clusters; the first is the sweep's own, and its first metric the
    target.

    Attributes:
        num_clusters: of each data set.
        change: of each data set, the true change of each of its metrics, in standard deviations.
        size: examples of a cluster.
    """

    num_clusters: Sequence[int]
    change: Sequence[Sequence[float]]
    size: int = 5

    @property
    def intended(self) -> float:
        """The true change of the target."""
        return self.change[0][0]

    @property
    def roots(self) -> list[float]:
        """Of each data set, the root of the mean square of what changes besides the target."""
        others = [self.change[0][1:], *self.change[1:]]
        return [float(np.sqrt(np.mean(np.square(of_set)))) for of_set in others if of_set]

    @property
    def unintended(self) -> float:
        """What is true of ``fidelity``'s."""
        return float(np.linalg.norm(self.roots))

    @property
    def fidelity(self) -> float:
        """What is true of ``fidelity``'s."""
        return self.intended / (abs(self.intended) + self.unintended)


def clustered(cluster_N: np.ndarray, num_metrics: int, rng: np.random.Generator) -> np.ndarray:
    """[N, M] numbers of variance 1, alike in a cluster and over metrics."""

    def of(num: int) -> np.ndarray:
        common, each = rng.standard_normal((num, 1)), rng.standard_normal((num, num_metrics))
        return np.sqrt(ALIKE) * common + np.sqrt(1 - ALIKE) * each

    of_clusters = of(int(cluster_N.max()) + 1)[cluster_N]
    return np.asarray(np.sqrt(ICC) * of_clusters + np.sqrt(1 - ICC) * of(len(cluster_N)))


WORLDS = {
    "nothing else moves": World([40] * 5, [[0.5, 0.0], *[[0.0, 0.0]] * 4]),
    "nothing else moves, ten sets": World([40] * 11, [[0.5], *[[0.0, 0.0, 0.0]] * 10]),
    "one of ten moves": World([40] * 11, [[0.5], [0.4] * 3, *[[0.0] * 3] * 9]),
    "everything moves a little": World([40] * 5, [[0.5, 0.1], *[[0.1, 0.1]] * 4]),
    "everything moves": World([40] * 5, [[0.5, 0.3], *[[0.3, -0.3]] * 4]),
    "the target moves by 2": World([40] * 5, [[2.0, 0.3], *[[0.5, -0.3]] * 4]),
    "ten clusters each": World([10] * 5, [[0.5, 0.3], *[[0.3, -0.3]] * 4]),
    "ten clusters, nothing else moves": World([10] * 5, [[0.5, 0.0], *[[0.0, 0.0]] * 4]),
}


@dataclass(frozen=True)
class Covered:
    """Shares of the runs whose interval holds the truth, and errors of ``unintended``.

    Attributes:
        sum_of_roots: of another definition, which adds the root of each data set (never below 0).
        bias: mean of estimate less truth.
        naive_bias: the same without subtracting what noise adds.
    """

    intended: float
    unintended: float
    fidelity: float
    sum_of_roots: float
    bias: float
    naive_bias: float


def fidelity_coverage(world: World, runs: int, seed: int = 0) -> Covered:
    """What holds of a world's intervals."""
    rng = np.random.default_rng(seed)
    truths = (world.intended, world.unintended, world.fidelity)
    held, held_by_sum = np.zeros(3), 0
    bias = naive = 0.0
    units = [n for n, metrics in enumerate(world.change) for _ in metrics][1:]
    for run in range(runs):
        changes = [
            estimate
            for n, (num, truth) in enumerate(zip(world.num_clusters, world.change, strict=True))
            for estimate in _changes(f"set {n}", num, world.size, truth, rng)
        ]
        joint = Changes.of(changes)
        found = fidelity(joint, units, 1.0, seed=run)
        ends = (found.intended, found.unintended, found.fidelity)
        held += [_is_in(truth, e.low, e.high) for e, truth in zip(ends, truths, strict=True)]
        held_by_sum += _is_in(sum(world.roots), *_sum_of_roots(joint, np.asarray(units), run))
        bias += found.unintended.value - world.unintended
        means = [np.mean(joint.value[1:][np.equal(units, unit)] ** 2) for unit in set(units)]
        naive += float(np.sqrt(np.sum(means))) - world.unintended
    return Covered(*(held / runs), held_by_sum / runs, bias / runs, naive / runs)


def _is_in(truth: float, low: float, high: float) -> bool:
    """An interval that ends at what it cannot exceed holds it, but for rounding."""
    return low - 1e-9 <= truth <= high + 1e-9


def _sum_of_roots(changes: Changes, unit_U: np.ndarray, seed: int) -> np.ndarray:
    """Ends [2] of the interval of a sum with a root for each data set."""
    drawn_DU = changes.draws(NUM_DRAWS, seed)[:, 1:]
    square_DU = drawn_DU**2 - (changes.variance * (1 + changes.widening**2))[1:]
    of_sets = [square_DU[:, unit_U == unit].mean(axis=1) for unit in np.unique(unit_U)]
    drawn_D = np.sqrt(np.maximum(of_sets, 0.0)).sum(axis=0)
    return np.quantile(drawn_D, [0.025, 0.975])


def _changes(
    name: str, num: int, size: int, truth: Sequence[float], rng: np.random.Generator
) -> list[ClusterEstimate]:
    """A standardized change [1] for each metric of a data set."""
    cluster_N = np.repeat(np.arange(num), size)
    clusters = tuple(Cluster("", f"{name} {k}") for k in range(num))
    before_NM = clustered(cluster_N, len(truth), rng)
    change_NM = np.asarray(truth) + NOISE * clustered(cluster_N, len(truth), rng)
    num_K = np.full((num, 1), float(size))
    found = []
    for m in range(len(truth)):
        change = means_of_sums(sums_by_cluster(change_NM[:, [m]], cluster_N, num), num_K, clusters)
        moments = Moments.of(before_NM[:, [m]], cluster_N, num)
        deviation = standard_deviation(moments, lambda means: means[..., 0], clusters)
        found.append(standardized(change, deviation))
    return found


def made_up(
    world: World, steerings: int, rng: np.random.Generator, *, is_share: bool = False
) -> Summary:
    """A summary of a world, where each of several steerings has the same true changes.

    Args:
        is_share: the metrics of all but the own data are shares of examples.
    """
    sets = []
    for n, (num, truth) in enumerate(zip(world.num_clusters, world.change, strict=True)):
        cluster_N = np.repeat(np.arange(num), world.size)
        before = clustered(cluster_N, len(truth), rng)
        cells = [
            (layer, 1.0, 0.1, before + truth + NOISE * clustered(cluster_N, len(truth), rng))
            for layer in range(steerings)
        ]
        make = share if is_share and n else column
        metrics = [make("gap" if (n, m) == (0, 0) else f"m{m}", m) for m in range(len(truth))]
        about: dict[str, Any] = {"cluster": list(cluster_N), "has_parts": False}
        if n:
            about |= {"data": f"set{n}", "kind": "bias"}
        sets.append(measured(before, cells, metrics, **about))
    return summarise(sets, AXES)


def false_findings(runs: int, num_flips: int, seed: int = 0) -> float:
    """Share of runs in which the matrix calls something clear though nothing moves."""
    rng = np.random.default_rng(seed)
    # The smallest set is too small to be part of the statements, as it should be.
    world = World([20, 12, 30, 3], [[0.0, 0.0]] * 4)
    found = 0
    for run in range(runs):
        summary = made_up(world, 6, rng, is_share=bool(run % 2))
        cells = {
            (steering, measure): data[measure.data]
            for steering, data in summary.cells.items()
            for measure in summary.matrix_measures
        }
        found += any(said.is_clear for said in statements(cells, num_flips).values())
    return found / runs


@dataclass(frozen=True)
class Picked:
    """Means over runs of the numbers of what is picked, less the truth."""

    change_choosing: float
    change: float
    unintended_choosing: float
    unintended: float


def pick_bias(runs: int, seed: int = 0, steerings: int = 12) -> Picked:
    """Errors of the first pick of steerings that all do the same."""
    rng = np.random.default_rng(seed)
    world = World([40, 40, 40], [[0.1], [0.3, 0.3], [0.2, -0.2]])
    errors = []
    for run in range(runs):
        summary = made_up(world, steerings, rng)
        rows = picked(summary, parse_pick("gap >= 0.1"), seed=run).to_pylist()
        if rows:
            names = ("change_choosing", "change", "unintended_choosing", "unintended")
            truth = (world.intended, world.intended, world.unintended, world.unintended)
            errors.append([rows[0][name] - true for name, true in zip(names, truth, strict=True)])
    return Picked(*np.mean(errors, axis=0))


def main(arguments: Sequence[str] | None = None) -> int:
    """Print everything."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=RUNS)
    given = parser.parse_args(arguments)
    started = time.monotonic()
    print("Coverage of 95 % intervals, bias of unintended (without correction)")
    print(f"{'':<36}{'intended':>11}{'unintended':>11}{'fidelity':>11}{'sum':>11}{'bias':>11}")
    for name, world in WORLDS.items():
        c = fidelity_coverage(world, given.runs)
        print(
            f"{name:<36}{c.intended:>11.3f}{c.unintended:>11.3f}{c.fidelity:>11.3f}"
            f"{c.sum_of_roots:>11.3f}{c.bias:>11.3f} ({c.naive_bias:.3f})",
            flush=True,
        )
    print(f"Runs in which something is called clear: {false_findings(given.runs, 999):.3f}")
    print(f"First pick, errors: {pick_bias(given.runs // 5)}")
    print(f"{time.monotonic() - started:.0f} s")
    return 0


if __name__ == "__main__":
    sys.exit(main())
