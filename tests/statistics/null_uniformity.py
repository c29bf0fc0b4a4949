"""Whether p-values among shuffled nulls are uniform where labels mean nothing.

    python -m tests.statistics.null_uniformity            # 104 relabelings of 19 draws, 15 minutes
    python -m tests.statistics.null_uniformity --relabelings 16

The labels of real StereoSet examples are drawn at random, and a tiny random model is steered by
vectors fitted to them, in whole sweeps: every group of a sweep has labels of its own. With k draws
a p-value takes one of k + 1 values, each as likely as the others, for in-sample vectors and for
held-out ones. Two tests of that are printed: chi-square, and the largest distance from the uniform
distribution function, held against simulated uniform p-values of the same discrete values.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pandas as pd
import yaml
from scipy.stats import chisquare

import steersweep
from steering_core.stereoset import BIAS_TYPES, SPLITS
from tests.support.stereoset_data import DEV_JSON

LAYER, DOSE = 2, 0.3
SIMULATIONS = 20_000


def with_random_labels(content: dict[str, object], seed: int) -> dict[str, object]:
    """A StereoSet file in which stereotype and anti-stereotype change places at random."""
    rng = np.random.default_rng(seed)
    other = {"stereotype": "anti-stereotype", "anti-stereotype": "stereotype"}
    relabeled = json.loads(json.dumps(content))
    for examples in relabeled["data"].values():
        for example in examples:
            if rng.random() < 0.5:
                for sentence in example["sentences"]:
                    label = sentence["gold_label"]
                    sentence["gold_label"] = other.get(label, label)
    return dict(relabeled)


def p_values(folder: Path, seed: int, num_draws: int, limit: int) -> pd.DataFrame:
    """The tests of one sweep's groups: columns ``vectors`` and ``p`` among others."""
    content = json.loads(DEV_JSON.read_text())
    (folder / "dev.json").write_text(json.dumps(with_random_labels(content, seed)))
    spec = {
        "job": "stereoset",
        "models": {"tiny": "embedded:gemma2-tiny"},
        # The seed also draws other examples, folds and shuffles.
        "data": {"path": str(folder / "dev.json"), "limit": limit, "seed": seed},
        "protocol": "aligned",
        "vectors": {"folds": 1, "held_out": True},
        "steering": {"layers": LAYER, "coeffs": DOSE, "unit": "stream"},
        "nulls": {"shuffled": num_draws},
        "compute": {"executor": "in_process", "tokens_per_batch": 1024, "device": "cpu"},
        "certificate": {"rows_per_task": 0},
        "output": str(folder / "out"),
    }
    (folder / "sweep.yaml").write_text(yaml.safe_dump(spec))
    steersweep.run(str(folder / "sweep.yaml"), figures=False)
    tests = steersweep.load(str(folder / "out")).null_tests
    is_cell = (tests["split"] != "all") & (tests["bias_type"] != "all")
    return tests[is_cell & (tests["estimate"] == "s2a")]


def distance(p: np.ndarray, num_values: int) -> np.ndarray:
    """Largest distance of the distribution function of p [..., n] from that of 1/k, 2/k, ..., 1."""
    values = np.arange(1, num_values + 1) / num_values
    empirical = (p[..., None] <= values + 1e-9).mean(axis=-2)
    largest: np.ndarray = np.abs(empirical - values).max(axis=-1)
    return largest


def uniformity(p: np.ndarray, num_values: int, rng: np.random.Generator) -> tuple[float, float]:
    """p-values of the two tests."""
    counts = np.bincount(np.rint(p * num_values).astype(int), minlength=num_values + 1)[1:]
    drawn = rng.integers(1, num_values + 1, (SIMULATIONS, len(p))) / num_values
    simulated = np.concatenate([distance(some, num_values) for some in np.split(drawn, 20)])
    return float(chisquare(counts).pvalue), float(
        (1 + (simulated >= distance(p, num_values)).sum()) / (1 + SIMULATIONS)
    )


def _sweeps(num: int, num_draws: int, limit: int, seed: int) -> Iterator[pd.DataFrame]:
    for number in range(num):
        with tempfile.TemporaryDirectory() as folder:
            yield p_values(Path(folder), seed + number, num_draws, limit)


def main() -> int:
    """Print the tests; returns 1 if either kind of vectors fails one at 1 %."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--relabelings", type=int, default=104, help="8 make one sweep")
    parser.add_argument("--draws", type=int, default=19)
    parser.add_argument("--limit", type=int, default=30, help="examples of each group")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    start = time.monotonic()
    per_sweep = len(BIAS_TYPES) * len(SPLITS)
    num_sweeps = -(-options.relabelings // per_sweep)
    found = pd.concat(_sweeps(num_sweeps, options.draws, options.limit, options.seed))
    rng, num_values, holds = np.random.default_rng(options.seed), options.draws + 1, True
    print(
        f"{'vectors':<10} {'tests':>6} {'mean p':>7} {'p <= 0.05':>9} {'chi2':>6} {'distance':>9}"
    )
    for vectors, of in found.groupby("vectors"):
        p = of["p"].to_numpy()
        chi2, largest = uniformity(p, num_values, rng)
        holds &= min(chi2, largest) > 0.01
        small = (p <= 0.05 + 1e-9).mean()
        print(
            f"{vectors:<10} {len(p):>6} {p.mean():>7.3f} {small:>9.3f} {chi2:>6.3f} {largest:>9.3f}"
        )
    print(
        f"expected: mean {(num_values + 1) / 2 / num_values:.3f}, seed {options.seed}, "
        f"{time.monotonic() - start:.0f} s"
    )
    return 0 if holds else 1


if __name__ == "__main__":
    sys.exit(main())
