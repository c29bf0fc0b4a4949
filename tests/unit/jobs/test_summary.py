"""Sums of cells and of cells pooled, against the same estimates made of the rows themselves."""

from __future__ import annotations

import numpy as np
import pytest

from jobs.stereoset.plan import Group
from jobs.stereoset.scored_rows import GroupRows, ScoredRows
from jobs.stereoset.summary_keys import POOLED, SummaryKey
from jobs.stereoset.summary_sums import ModelSums, examples_drawn
from steering_core.metrics import (
    estimates,
    example_sums,
    stereoset_estimates,
    term_counts,
    term_sums,
)

SPLITS, BIAS_TYPES, LAYERS, COEFF = ("inter", "intra"), ("gender", "race"), (1, 2), 5.0


def _rows(rng: np.random.Generator, ids: list[str], targets: list[str]) -> ScoredRows:
    scores = rng.normal(size=(len(ids), 3))
    return ScoredRows(np.asarray(ids), np.asarray(targets), scores, scores.argmax(axis=1))


def _groups() -> dict[tuple[str, str], GroupRows]:
    """Groups of different sizes; the splits of a bias type share some of their terms."""
    rng = np.random.default_rng(0)
    groups = {}
    for s, split in enumerate(SPLITS):
        for b, bias_type in enumerate(BIAS_TYPES):
            num = 12 + 5 * s + 3 * b
            ids = [f"{split}-{bias_type}-{n}" for n in range(num)]
            targets = [f"{bias_type}-{(n + 2 * s) % 5}" for n in range(num)]
            groups[split, bias_type] = GroupRows(
                Group("m", split, bias_type),
                _rows(rng, ids, targets),
                {(layer, COEFF): _rows(rng, ids, targets) for layer in LAYERS},
            )
    return groups


def _taken_in() -> ModelSums:
    sums = ModelSums()
    for rows in _groups().values():
        sums.take_in(rows)
    return sums


KEYS = sorted(
    {
        key
        for split in SPLITS
        for bias_type in BIAS_TYPES
        for layer in LAYERS
        for key in SummaryKey(split, bias_type, layer, COEFF).and_pooled()
    },
    key=str,
)


@pytest.mark.parametrize("key", KEYS, ids=lambda k: f"{k.split}-{k.bias_type}-{k.layer}")
def test_what_is_pooled_is_what_all_its_rows_give(key: SummaryKey) -> None:
    chosen = [
        (group.before, group.after[layer, COEFF])
        for (split, bias_type), group in _groups().items()
        if key.split in (split, POOLED) and key.bias_type in (bias_type, POOLED)
        for layer in LAYERS
        if key.layer in (layer, None)
    ]
    before, after = (ScoredRows.joined(list(side)) for side in zip(*chosen, strict=True))
    sums = _taken_in()
    cell = sums.cell(key)
    assert cell is not None
    assert cell.num_cells == len(chosen)
    assert sums.num_examples(key) == len(set(before.example_ids))
    wanted = estimates(
        example_sums(before.scores, after.scores, before.choices, after.choices).sum(axis=0)
    )
    found = estimates(cell.whole)
    for name, value in wanted.items():
        assert found[name] == pytest.approx(value, abs=1e-12), name
    _, term = np.unique(before.targets, return_inverse=True)
    for side, rows in zip(sums.terms(key), (before, after), strict=True):
        direct = term_sums(term_counts(rows.scores, term, term.max() + 1)).sum(axis=0)
        assert stereoset_estimates(side.whole) == pytest.approx(stereoset_estimates(direct))


def test_cells_of_a_group_draw_the_same_examples_and_pooled_ones_those_of_their_groups() -> None:
    groups, sums = _groups(), _taken_in()
    rows = groups["inter", "race"]
    drawn = examples_drawn(rows)
    for layer in LAYERS:
        after = rows.after[layer, COEFF]
        contributions = example_sums(
            rows.before.scores, after.scores, rows.before.choices, after.choices
        )
        cell = sums.cell(SummaryKey("inter", "race", layer, COEFF))
        assert cell is not None
        np.testing.assert_allclose(cell.drawn, drawn @ contributions)
    cells = [sums.cell(SummaryKey("inter", b, 1, COEFF)) for b in BIAS_TYPES]
    pooled = sums.cell(SummaryKey("inter", POOLED, 1, COEFF))
    assert pooled is not None
    np.testing.assert_allclose(pooled.drawn, sum(c.drawn for c in cells if c is not None))
