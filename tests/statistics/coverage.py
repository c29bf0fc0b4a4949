"""How often intervals hold the truth, how often nothing is called clear, and what is found.

    python -m tests.statistics.coverage             # everything; about ten minutes on two cores
    python -m tests.statistics.coverage --runs 400  # rougher

Made-up sweeps with StereoSet's own cluster sizes and a known truth (``worlds``). Seeds are fixed.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable, Iterator, Mapping

import numpy as np

from steering_core.stats import discrete
from steering_core.stats.clusters import (
    ClusterEstimate,
    combine,
    log_ratio,
    means_of_sums,
    means_over_clusters,
)
from steering_core.stats.flips import signs, simultaneous
from tests.statistics.worlds import Group, events, groups, latent

ICCS = (0.0, 0.02, 0.05, 0.1)
RUNS = 4000
COLUMNS = ("gender", "profession", "race", "religion", "pooled", "macro")

Covered = Mapping[str, float]
"""By column, the share of runs whose interval holds the truth."""


def covered(low: np.ndarray, high: np.ndarray, truth: float) -> float:
    """Share of the runs with an interval whose interval holds the truth."""
    defined = np.isfinite(low) & np.isfinite(high)
    return float(((low <= truth) & (truth <= high))[defined].mean())


def pooled_weights(all_groups: list[Group]) -> list[float]:
    """Each group's share of all examples."""
    sizes = np.asarray([len(group.cluster) for group in all_groups], float)
    return list(sizes / sizes.sum())


def log_likelihood(icc: float, runs: int, rng: np.random.Generator) -> Covered:
    """A mean change of 0.1 nats among examples that vary by 1."""
    truth, of_groups = 0.1, groups()
    parts = [
        means_of_sums(
            group.sums(truth + latent(group, icc, runs, rng)), group.sizes, group.clusters
        )
        for group in of_groups
    ]
    found = {g.name: covered(*p.interval(), truth) for g, p in zip(of_groups, parts, strict=True)}
    return found | _pooled_and_macro(of_groups, parts, truth)


def share(of_examples: float, icc: float, runs: int, rng: np.random.Generator) -> Covered:
    """A share of the examples."""
    of_groups, parts, found = groups(), [], {}
    for group in of_groups:
        (is_there_RN,) = events(latent(group, icc, runs, rng), of_examples)
        num = is_there_RN.sum(axis=1).astype(float), None, float(len(group.cluster))
        part = means_of_sums(group.sums(is_there_RN.astype(float)), group.sizes, group.clusters)
        found[group.name] = covered(*discrete.interval(part, *num), of_examples)
        parts.append(part.of_examples(group.name, discrete.example_sd(*num)))
    return found | _pooled_and_macro(of_groups, parts, of_examples)


def net_flow(there: float, back: float, icc: float, runs: int, rng: np.random.Generator) -> Covered:
    """Shares of the examples that move one way and back; clusters lean to one of them."""
    of_groups, parts, found = groups(), [], {}
    for group in of_groups:
        z_RN = latent(group, icc, runs, rng)
        there_RN, back_RN = events(z_RN, there)[0], events(-z_RN, back)[0]
        net_RN = there_RN.astype(float) - back_RN
        num = there_RN.sum(axis=1), back_RN.sum(axis=1), float(len(group.cluster))
        part = means_of_sums(group.sums(net_RN), group.sizes, group.clusters)
        found[group.name] = covered(*discrete.interval(part, *num), there - back)
        parts.append(part.of_examples(group.name, discrete.example_sd(*num)))
    return found | _pooled_and_macro(of_groups, parts, there - back)


def anti_ratio(icc: float, runs: int, rng: np.random.Generator) -> Covered:
    """Choices after over before, of 35 % and 38.5 % of examples; most stay what they were."""
    before, truth, of_groups = 0.35, 1.1, groups()
    aboves, belows = [], []
    for group in of_groups:
        z_RN = latent(group, icc, runs, rng)
        moved_RN = 0.95 * z_RN + np.sqrt(1 - 0.95**2) * rng.standard_normal(z_RN.shape)
        for into, z, part in ((belows, z_RN, before), (aboves, moved_RN, truth * before)):
            (chosen_RN,) = events(z, part)
            into.append(
                means_of_sums(group.sums(chosen_RN.astype(float)), group.sizes, group.clusters)
            )
    ratios = [log_ratio(a, b) for a, b in zip(aboves, belows, strict=True)]
    found = {
        group.name: covered(*np.exp(ratio.interval()), truth)
        for group, ratio in zip(of_groups, ratios, strict=True)
    }
    weights = pooled_weights(of_groups)
    pooled = log_ratio(combine(weights, aboves), combine(weights, belows))
    plain = [
        ClusterEstimate(np.exp(r.value), np.exp(r.value) * r.influence, r.clusters) for r in ratios
    ]
    macro = combine([1 / len(plain)] * len(plain), plain)
    return found | {
        "pooled": covered(*np.exp(pooled.interval()), truth),
        "macro": covered(*macro.interval(), truth),
    }


def stereoset(chance: float, icc: float, runs: int, rng: np.random.Generator) -> Covered:
    """LMS or SS: means over terms of the share of a term's examples."""
    of_groups, parts = groups(), []
    for group in of_groups:
        (is_there_RN,) = events(latent(group, icc, runs, rng), chance)
        terms_KR = group.sums(is_there_RN.astype(float)) / group.sizes
        parts.append(means_over_clusters(terms_KR, group.clusters))
    found = {g.name: covered(*p.interval(), chance) for g, p in zip(of_groups, parts, strict=True)}
    num = np.asarray([group.num_clusters for group in of_groups], float)
    return found | _pooled_and_macro(of_groups, parts, chance, list(num / num.sum()))


def _pooled_and_macro(
    of_groups: list[Group],
    parts: list[ClusterEstimate],
    truth: float,
    weights: list[float] | None = None,
) -> Covered:
    pooled = combine(weights or pooled_weights(of_groups), parts)
    macro = combine([1 / len(parts)] * len(parts), parts)
    return {
        name: covered(*e.interval(), truth) for name, e in (("pooled", pooled), ("macro", macro))
    }


ESTIMATES: Mapping[str, Callable[[float, int, np.random.Generator], Covered]] = {
    "log-likelihood change": log_likelihood,
    "net flow 6 %/6 %": lambda *world: net_flow(0.06, 0.06, *world),
    "net flow 2 %/1 %": lambda *world: net_flow(0.02, 0.01, *world),
    "share 2 %": lambda *world: share(0.02, *world),
    "share 10 %": lambda *world: share(0.10, *world),
    "share 30 %": lambda *world: share(0.30, *world),
    "anti_ratio": anti_ratio,
    "LMS (80 %)": lambda *world: stereoset(0.80, *world),
    "SS (55 %)": lambda *world: stereoset(0.55, *world),
}


def coverage(runs: int, seed: int = 0) -> Iterator[tuple[float, str, Covered]]:
    """(ICC, estimate, coverage by column) of every interval."""
    for icc in ICCS:
        for number, (name, measure) in enumerate(ESTIMATES.items()):
            rng = np.random.default_rng([seed, number, round(1000 * icc)])
            yield icc, name, measure(icc, runs, rng)


def family(
    of_groups: list[Group],
    num_coeffs: int,
    icc: float,
    runs: int,
    rng: np.random.Generator,
    shift: float = 0.0,
) -> ClusterEstimate:
    """What a finding may choose from [R, 6 C]: three log-likelihood changes and three net flows of
    each coefficient, pooled by examples.

    Of two coefficients half of what moves an example is the same.

    Args:
        shift: what the s-to-a net flow truly is.
    """
    parts = []
    for group in of_groups:
        common = [latent(group, icc, runs, rng) for _ in range(3)]
        columns = []
        for _ in range(num_coeffs):
            labels = [np.sqrt(0.5) * (same + latent(group, icc, runs, rng)) for same in common]
            # Changes of stereotype, anti-stereotype and unrelated, and the gaps between them.
            s, a, u = labels
            columns += [a - s, a - u, u - s]
            for index, z in enumerate((a - s, a - u, u - s)):
                up = 0.03 + (shift if index == 0 else 0.0)
                there, back = events(-z / np.sqrt(2), up)[0], events(z / np.sqrt(2), 0.03)[0]
                columns.append(there.astype(float) - back)
        sums_KRE = np.stack([group.sums(values_RN) for values_RN in columns], axis=-1)
        sizes_KRE = np.broadcast_to(group.sizes[:, :, None], sums_KRE.shape)
        parts.append(means_of_sums(sums_KRE, sizes_KRE, group.clusters))
    return combine(pooled_weights(of_groups), parts)


def false_findings(
    limit: int | None, num_coeffs: int, icc: float, runs: int, num_flips: int, at_once: int = 100
) -> float:
    """Share of runs without any effect in which something is called clear."""
    found = 0
    for first in range(0, runs, at_once):
        rng = np.random.default_rng([first, num_coeffs, round(1000 * icc), limit or 0])
        some = min(at_once, runs - first)
        estimate = family(groups(limit, seed=first), num_coeffs, icc, some, rng)
        flips = signs(len(estimate.clusters), num_flips)
        found += int((simultaneous(estimate, flips).p <= 0.05).any(axis=-1).sum())
    return found / runs


def smallest_flow(limit: int | None, icc: float, runs: int, num_flips: int) -> float:
    """The smallest net flow s to a that is called clear in 80 % of runs, one coefficient."""

    def power(shift: float) -> float:
        rng = np.random.default_rng([7, round(1000 * icc), limit or 0])
        estimate = family(groups(limit), 1, icc, runs, rng, shift)
        p_R = simultaneous(estimate, signs(len(estimate.clusters), num_flips)).p[:, 3]
        return float((p_R <= 0.05).mean())

    low, high = 0.0, 0.5
    while high - low > 0.002:
        middle = (low + high) / 2
        low, high = (low, middle) if power(middle) >= 0.8 else (middle, high)
    return high


def main(arguments: list[str] | None = None) -> int:
    """Print the tables."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--runs", type=int, default=RUNS, help="runs of each world")
    parser.add_argument("--flips", type=int, default=999, help="flips of signs of each test")
    parser.add_argument("--parts", default="coverage,findings,power", help="which tables")
    given = parser.parse_args(arguments)
    started = time.monotonic()
    parts = given.parts.split(",")
    if "coverage" in parts:
        print(f"Coverage of 95 % intervals, {given.runs:,} runs each")
        print(f"{'ICC':<6}{'estimate':<24}" + "".join(f"{c:>12}" for c in COLUMNS))
        for icc, name, by_column in coverage(given.runs):
            numbers = "".join(f"{by_column[c]:>12.3f}" for c in COLUMNS)
            print(f"{icc:<6}{name:<24}{numbers}", flush=True)
        print(f"{time.monotonic() - started:.0f} s\n", flush=True)
    if "findings" in parts:
        print(
            f"Runs without an effect in which something is called clear, {given.runs:,} runs each"
        )
        print(f"{'ICC':<6}{'examples':<26}" + "".join(f"{c:>6} coeff" for c in (1, 2, 6, 12)))
        for icc in (0.0, 0.05, 0.1):
            for limit in (None, 30):
                rows = "all" if limit is None else f"{limit} of each bias type"
                shares = "".join(
                    f"{false_findings(limit, c, icc, given.runs, given.flips):>12.3f}"
                    for c in (1, 2, 6, 12)
                )
                print(f"{icc:<6}{rows:<26}{shares}", flush=True)
        print(f"{time.monotonic() - started:.0f} s\n", flush=True)
    if "power" in parts:
        print("Smallest net flow that is found in 80 % of runs, one coefficient")
        for icc in (0.0, 0.05, 0.1):
            for limit in (None, 30):
                rows = "all" if limit is None else f"{limit} of each bias type"
                flow = smallest_flow(limit, icc, given.runs // 4, given.flips)
                print(f"{icc:<6}{rows:<26}{100 * flow:>11.1f} %", flush=True)
        print(f"{time.monotonic() - started:.0f} s", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
