"""Estimates pooled over bias types, from the summary where it has them, else from its cells."""

from __future__ import annotations

import pandas as pd

from jobs.stereoset.summary_keys import POOLED
from steering_core.quantities import TESTED

_KEYS = ("model", "split", "bias_type", "layer", "coeff")


def over_bias_types(cells: pd.DataFrame, pooled: pd.DataFrame) -> pd.DataFrame:
    """One row per (model, split, layer, coeff).

    Where not all bias types are complete, the means over examples are those of the complete ones,
    weighted by examples; they have no interval then, and the other estimates are null.
    """
    rows = _rows(cells, pooled, ("bias_type",))
    return rows.astype({"layer": int})


def over_bias_types_and_layers(cells: pd.DataFrame, pooled: pd.DataFrame) -> pd.DataFrame:
    """One row per (model, split, coeff), as ``over_bias_types``."""
    return _rows(cells, pooled, ("bias_type", "layer"))


def _rows(cells: pd.DataFrame, pooled: pd.DataFrame, over: tuple[str, ...]) -> pd.DataFrame:
    keys = [key for key in _KEYS if key not in over]
    rows = pd.concat([cells, pooled], ignore_index=True) if len(pooled) else cells
    is_wanted = pd.Series(True, index=rows.index)
    for axis in ("split", "bias_type", "layer"):
        is_pooled = rows[axis].isna() | rows[axis].eq(POOLED)
        # A model with a single value has no pooled rows: its cells say the same.
        has_one = rows["model"].map(cells.groupby("model")[axis].nunique().eq(1))
        is_wanted &= (is_pooled | has_one) if axis in over else ~is_pooled
    found = rows[is_wanted].set_index(keys)
    means = _means(cells, keys)
    lacking = means[~means.index.isin(found.index)]
    whole = pd.concat([found, lacking]) if len(lacking) else found
    return whole.sort_index().reset_index()


def _means(cells: pd.DataFrame, keys: list[str]) -> pd.DataFrame:
    """Means over the cells, weighted by examples; a cell without a mean has no weight."""
    by = [cells[key] for key in keys]
    weights = {name: cells["num_examples"].where(cells[name].notna()) for name in TESTED}
    return pd.DataFrame(
        {
            name: (cells[name] * weight).groupby(by).sum(min_count=1)
            / weight.groupby(by).sum(min_count=1)
            for name, weight in weights.items()
        }
    )
