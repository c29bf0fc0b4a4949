"""Rows of a summary against the same estimates made of the rows themselves."""

from __future__ import annotations

from itertools import product
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from jobs.stereoset.estimates import model_estimates
from jobs.stereoset.scored_rows import ScoredRows, SteeredRows
from jobs.stereoset.summary_keys import POOLED, SummaryKey
from jobs.stereoset.summary_sums import GroupSums

SPLITS, BIAS_TYPES, LAYERS, COEFFS = ("inter", "intra"), ("gender", "race"), (1, 2), (5.0, -5.0)
KEYS = sorted(
    {
        key
        for split, bias_type, layer, coeff in product(SPLITS, BIAS_TYPES, LAYERS, COEFFS)
        for key in SummaryKey(split, bias_type, layer, coeff).and_pooled()
    },
    key=str,
)
CELLS = tuple(product(LAYERS, COEFFS))


def scored(rng: np.random.Generator, ids: list[str], targets: list[str]) -> ScoredRows:
    scores = rng.normal(size=(len(ids), 3))
    return ScoredRows(pa.array(ids), np.asarray(targets), scores, scores.argmax(axis=1))


def made() -> dict[tuple[str, str], list[SteeredRows]]:
    """Groups of different sizes in two shards; the splits of a bias type share some terms."""
    rng = np.random.default_rng(0)
    groups: dict[tuple[str, str], list[SteeredRows]] = {}
    for (s, split), (b, bias_type) in product(enumerate(SPLITS), enumerate(BIAS_TYPES)):
        for shard in range(2):
            num = 12 + 5 * s + 3 * b + shard
            ids = [f"{split}-{bias_type}-{shard}-{n}" for n in range(num)]
            targets = [f"{bias_type}-{(n + 2 * s) % 5}" for n in range(num)]
            before = scored(rng, ids, targets)
            scores = rng.normal(size=(len(CELLS), num, 3))
            steered = SteeredRows(before, CELLS, scores, scores.argmax(axis=2))
            groups.setdefault((split, bias_type), []).append(steered)
    return groups


def sums_of(groups: dict[tuple[str, str], list[SteeredRows]]) -> list[GroupSums]:
    return [
        GroupSums.of_rows(*key, [rows.before for rows in shards], shards)
        for key, shards in groups.items()
    ]


def planned() -> dict[SummaryKey, int]:
    counts: dict[SummaryKey, int] = {}
    for split, bias_type, layer, coeff in product(SPLITS, BIAS_TYPES, LAYERS, COEFFS):
        for key in SummaryKey(split, bias_type, layer, coeff).and_pooled():
            counts[key] = counts.get(key, 0) + 1
    return counts


@pytest.fixture(scope="module")
def rows() -> dict[SummaryKey, dict[str, Any]]:
    found = model_estimates(sums_of(made()), planned(), vectors="in_sample")
    return {
        SummaryKey(row["split"], row["bias_type"], row["layer"], row["coeff"]): row
        for row in (*found.cells, *found.pooled)
    }


@pytest.mark.parametrize("key", KEYS, ids=lambda k: f"{k.split}-{k.bias_type}-{k.layer}-{k.coeff}")
def test_a_row_is_what_all_its_rows_give(
    key: SummaryKey, rows: dict[SummaryKey, dict[str, Any]]
) -> None:
    before, after, targets, chosen, chosen_after, ids = [], [], [], [], [], set()
    for (split, bias_type), shards in made().items():
        if key.split not in (split, POOLED) or key.bias_type not in (bias_type, POOLED):
            continue
        for shard, (index, (layer, coeff)) in product(shards, enumerate(CELLS)):
            if key.layer in (layer, None) and key.coeff == coeff:
                before.append(shard.before.scores)
                after.append(shard.scores[index])
                targets.append(shard.before.targets)
                chosen.append(shard.before.choices)
                chosen_after.append(shard.choices[index])
                ids |= set(shard.before.example_ids.to_pylist())
    b, a, t, c, d = map(np.concatenate, (before, after, targets, chosen, chosen_after))
    row = rows[key]
    assert row["num_examples"] == len(ids)
    assert row["num_terms"] == len(set(t))
    change = a - b
    assert row["s2a"] == pytest.approx((change[:, 1] - change[:, 0]).mean())
    assert row["u2a"] == pytest.approx((change[:, 1] - change[:, 2]).mean())
    assert row["flow_s_a"] == pytest.approx(((c == 0) & (d == 1)).mean())
    assert row["changed"] == pytest.approx((c != d).mean())
    assert row["anti_ratio"] == pytest.approx((d == 1).sum() / (c == 1).sum())
    assert row["anti_steered"] == pytest.approx(
        (np.sign(key.coeff) * (change[:, 1] - change[:, 0]) < 0).mean()
    )
    of_terms = [
        [100 * (x[t == term, 0] > x[t == term, 1]).mean() for term in np.unique(t)] for x in (b, a)
    ]
    assert row["ss"] == pytest.approx(np.mean(of_terms[1]))
    assert row["ss_change"] == pytest.approx(np.mean(of_terms[1]) - np.mean(of_terms[0]))
    assert row["s2a_low"] < row["s2a"] < row["s2a_high"]
    assert 0 < row["s2a_p"] <= 1
    assert row["few_terms"] is False


def test_a_cell_that_lacks_a_shard_has_no_row_and_neither_has_what_it_is_pooled_into() -> None:
    groups = made()
    whole = groups["inter", "race"][1]
    groups["inter", "race"][1] = SteeredRows(
        whole.before, whole.cells[1:], whole.scores[1:], whole.choices[1:]
    )
    found = model_estimates(sums_of(groups), planned(), vectors="in_sample")
    lost = SummaryKey("inter", "race", *CELLS[0])
    there = {
        SummaryKey(r["split"], r["bias_type"], r["layer"], r["coeff"])
        for r in (*found.cells, *found.pooled)
    }
    assert set(KEYS) - there == set(lost.and_pooled())
    assert {(row["split"], row["coeff"]) for row in found.headline} == (
        set(product(SPLITS, COEFFS)) - {("inter", CELLS[0][1])}
    )


def test_the_headline_weighs_layers_and_then_bias_types_equally() -> None:
    found = model_estimates(sums_of(made()), planned(), vectors="in_sample")
    by_key = {(r["split"], r["bias_type"], r["layer"], r["coeff"]): r for r in found.cells}
    for row in found.headline:

        def mean(name: str, row: dict[str, Any] = row) -> float:
            return float(
                np.mean(
                    [
                        np.mean([by_key[row["split"], b, n, row["coeff"]][name] for n in LAYERS])
                        for b in BIAS_TYPES
                    ]
                )
            )

        for name in ("s2a", "u2a", "s2u", "flow_s2a", "flow_u2a", "flow_s2u"):
            assert row[name] == pytest.approx(mean(name), abs=1e-12)
            assert row[f"{name}_low"] < row[name] < row[f"{name}_high"]
        assert row["anti_rise_percent"] == pytest.approx(100 * (mean("anti_ratio") - 1))
        assert (row["num_bias_types"], row["num_layers"], row["num_undefined"]) == (2, 2, 0)


def test_a_headline_with_an_undefined_ratio_has_no_rise() -> None:
    groups = made()
    for rows in groups["inter", "gender"]:
        rows.before.choices[rows.before.choices == 1] = 0
    found = model_estimates(sums_of(groups), planned(), vectors="file")
    row = next(row for row in found.headline if row["split"] == "inter")
    assert row["anti_rise_percent"] is None
    assert row["num_undefined"] == 2
    assert row["s2a"] is not None
    assert row["vectors"] == "file"


def test_coefficient_0_is_no_test_and_others_do_not_pay_for_it() -> None:
    rng = np.random.default_rng(1)
    ids, targets = [str(n) for n in range(60)], [f"t{n % 12}" for n in range(60)]
    before = scored(rng, ids, targets)
    shift = np.array([0.0, 0.4, 0.0]) + rng.normal(0, 0.5, (60, 3))
    scores = np.stack([before.scores, before.scores + shift])
    steered = SteeredRows(before, ((1, 0.0), (1, 2.0)), scores, scores.argmax(axis=2))
    sums = GroupSums.of_rows("inter", "race", [before], [steered])
    keys = {SummaryKey("inter", "race", 1, coeff): 1 for coeff in (0.0, 2.0)}
    unsteered, moved = model_estimates([sums], keys, vectors="in_sample").cells
    assert unsteered["s2a_p"] == 1.0
    assert unsteered["s2a_q"] is None
    assert unsteered["anti_steered"] is None
    assert moved["s2a_p"] <= moved["s2a_q"] <= min(1.0, 6 * moved["s2a_p"])
