"""The headline against the notebook's formulas, written out over the golden scores."""

from __future__ import annotations

from collections import Counter
from itertools import product
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from jobs.stereoset.estimates import model_estimates
from jobs.stereoset.headline import averages, sentences
from jobs.stereoset.scored_rows import ScoredRows, SteeredRows
from jobs.stereoset.summary_keys import SummaryKey
from jobs.stereoset.summary_sums import GroupSums
from steering_core.stereoset import LABELS
from tests.support.golden import MODELS, golden_numbers

S, A, U = range(3)


def by_label(group: dict[str, Any], values: list[list[float]], keep: int) -> np.ndarray:
    """Scores [N, 3] of the first examples, by ``LABELS``."""
    order = [[row.index(label) for label in LABELS] for row in group["labels"]]
    return np.take_along_axis(np.asarray(values), np.asarray(order), axis=1)[:keep]


def chosen(group: dict[str, Any], choice: list[int], keep: int) -> np.ndarray:
    pairs = zip(group["labels"], choice, strict=True)
    return np.asarray([LABELS.index(labels[index]) for labels, index in pairs])[:keep]


def headline_of(groups: list[dict[str, Any]], keep: dict[str, int]) -> list[dict[str, Any]]:
    """What the summary makes of the golden groups, some with fewer examples."""
    sums, planned = [], Counter[SummaryKey]()
    for group in groups:
        num = keep[group["bias_type"]]
        before = ScoredRows(
            pa.array(group["example_ids"][:num]),
            np.asarray(["term"] * num),
            by_label(group, group["baseline"], num),
            chosen(group, group["baseline_choice"], num),
        )
        cells = tuple((cell["layer"], float(cell["coeff"])) for cell in group["cells"])
        steered = SteeredRows(
            before,
            cells,
            np.stack([by_label(group, cell["scores"], num) for cell in group["cells"]]),
            np.stack([chosen(group, cell["choice"], num) for cell in group["cells"]]),
        )
        key = group["split"], group["bias_type"]
        sums.append(GroupSums.of_rows(*key, [before], [steered]))
        planned.update(SummaryKey(*key, *cell) for cell in cells)
    return model_estimates(sums, planned, vectors="in_sample").headline


def notebook(groups: list[dict[str, Any]], keep: dict[str, int], coeff: float) -> dict[str, float]:
    """The notebook's own steps: means over examples, over layers, over bias types."""
    changes = {"s2a": (A, S), "u2a": (A, U), "s2u": (U, S)}
    ways = {"s2a": (S, A), "u2a": (U, A), "s2u": (S, U)}
    of_types: dict[str, list[float]] = {}
    for group in groups:
        num = keep[group["bias_type"]]
        before = by_label(group, group["baseline"], num)
        first = chosen(group, group["baseline_choice"], num)
        of_layers: dict[str, list[float]] = {}
        for cell in (cell for cell in group["cells"] if cell["coeff"] == coeff):
            change = by_label(group, cell["scores"], num) - before
            after = chosen(group, cell["choice"], num)
            for name, (to, source) in changes.items():
                of_layers.setdefault(name, []).append((change[:, to] - change[:, source]).mean())
            for name, (source, to) in ways.items():
                there = ((first == source) & (after == to)).mean()
                back = ((first == to) & (after == source)).mean()
                of_layers.setdefault(f"flow_{name}", []).append(there - back)
            num_before = (first == A).sum()
            ratio = (after == A).sum() / num_before if num_before else np.nan
            of_layers.setdefault("ratio", []).append(ratio)
        for name, values in of_layers.items():
            of_types.setdefault(name, []).append(float(np.mean(values)))
    means = {name: float(np.mean(values)) for name, values in of_types.items()}
    return means | {"anti_rise_percent": 100 * (means.pop("ratio") - 1)}


@pytest.mark.parametrize(
    ("model", "is_unequal"), product(MODELS, [False, True]), ids=lambda value: str(value)
)
def test_the_headline_is_the_notebooks(model: str, is_unequal: bool) -> None:
    golden = golden_numbers(model)
    keep = dict.fromkeys(("gender", "profession", "race", "religion"), 3)
    if is_unequal:
        keep |= {"gender": 1, "race": 2}
    for split in ("intersentence", "intrasentence"):
        groups = [group for group in golden["groups"] if group["split"] == split]
        rows = headline_of(groups, keep)
        assert [row["coeff"] for row in rows] == sorted(map(float, golden["coeffs"]))
        for row in rows:
            wanted = notebook(groups, keep, row["coeff"])
            for name, value in wanted.items():
                if np.isnan(value):
                    assert row[name] is None
                    assert row["num_undefined"] > 0
                else:
                    assert row[name] == pytest.approx(value, rel=0, abs=1e-9), (split, name)
            if not is_unequal and not np.isnan(wanted["anti_rise_percent"]):
                ratios = [
                    group["anti_stereotype_ratio_mean_over_layers"][str(row["coeff"])]
                    for group in groups
                ]
                if None not in ratios:
                    rise = 100 * (np.mean(ratios) - 1)
                    assert row["anti_rise_percent"] == pytest.approx(rise, rel=0, abs=1e-9)


def test_the_interval_of_the_rise_never_goes_below_a_fall_to_nothing() -> None:
    rng = np.random.default_rng(0)
    before = rng.normal(size=(12, 3))
    rows = ScoredRows(
        pa.array([str(n) for n in range(12)]),
        np.repeat(["x", "y", "z"], 4),
        before,
        np.asarray([A, S, S, U] * 3),
    )
    after = np.asarray([[A, S, A, A, S, S, U, S, S, A, S, U]])
    steered = SteeredRows(rows, ((1, 20.0),), before[None], after)
    groups = [GroupSums.of_rows("inter", "race", [rows], [steered])]
    planned = Counter({SummaryKey("inter", "race", 1, 20.0): 1})
    (row,) = model_estimates(groups, planned, vectors="in_sample").headline
    assert row["anti_rise_percent_low"] == -100.0
    assert row["anti_rise_percent_high"] > row["anti_rise_percent"] > 0


def test_the_sentence_is_the_notebooks_and_says_which_average_it_is() -> None:
    row = {
        "model": "base", "split": "inter", "coeff": 20.0, "vectors": "in_sample",
        "num_layers": 13, "num_bias_types": 4, "num_undefined": 0,
        "anti_rise_percent": 21.44, "anti_rise_percent_low": 3.0, "anti_rise_percent_high": 40.0,
    }  # fmt: skip
    assert sentences([row]) == [
        "base, inter, coefficient 20, in-sample vectors: the ratio of anti-stereotypical answers "
        "rose by 21.4 % (95 % interval of the change +3.0 to +40.0)."
    ]
    assert averages([row]) == (
        "Mean over 13 layers within a bias type, then over 4 bias types, all with equal weight, as "
        "in the paper's notebook."
    )
    (fell,) = sentences([row | {"anti_rise_percent": -5.0}])
    assert "fell by 5.0 %" in fell
    (same,) = sentences([row | {"anti_rise_percent": 0.0}])
    assert same.endswith("the ratio of anti-stereotypical answers did not change.")
    (undefined,) = sentences([row | {"anti_rise_percent": None, "num_undefined": 2}])
    assert "not defined, because in 2 cells none was chosen before steering" in undefined


def test_in_sample_and_held_out_vectors_of_one_place_share_a_sentence() -> None:
    row = {
        "model": "base", "split": "inter", "coeff": 20.0, "num_undefined": 0,
        "anti_rise_percent_low": None, "anti_rise_percent_high": None,
    }  # fmt: skip
    rows = [
        row | {"vectors": vectors, "coeff": coeff, "anti_rise_percent": rise}
        for vectors, rises in (("in_sample", (48.9, 0.0)), ("held_out", (3.1, -2.0)))
        for coeff, rise in zip((20.0, 40.0), rises, strict=True)
    ]
    assert sentences(rows) == [
        "base, inter, coefficient 20: with in-sample vectors, the ratio of anti-stereotypical "
        "answers rose by 48.9 %; with held-out vectors, it rose by 3.1 %.",
        "base, inter, coefficient 40: with in-sample vectors, the ratio of anti-stereotypical "
        "answers did not change; with held-out vectors, it fell by 2.0 %.",
    ]
