"""Small summaries and vectors, made without a run."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import product

import numpy as np
import pandas as pd

from jobs.stereoset.summary_keys import POOLED
from jobs.stereoset.summary_tables import cells_schema
from steering_core.quantities import cell_quantities

_KEYS = ["model", "split", "bias_type", "layer", "coeff"]


def cells_frame(
    models: Sequence[str] = ("base", "tuned"),
    splits: Sequence[str] = ("inter",),
    bias_types: Sequence[str] = ("gender", "race"),
    layers: Sequence[int] = (1, 3),
    coeffs: Sequence[float] = (-2.0, 20.0),
    num_examples: Callable[[str], int] = lambda bias_type: 10,
) -> pd.DataFrame:
    """Cells whose estimates are drawn, with intervals of +-0.1."""
    rng = np.random.default_rng(0)
    rows, names = [], cell_quantities()
    for key in product(models, splits, bias_types, layers, coeffs):
        drawn = dict(zip(names, rng.normal(size=len(names)), strict=True))
        rows.append(
            dict(zip(_KEYS, key, strict=True))
            | {"num_examples": num_examples(key[2]), "num_non_finite": 0}
            | drawn
            | {f"{name}_low": value - 0.1 for name, value in drawn.items()}
            | {f"{name}_high": value + 0.1 for name, value in drawn.items()}
        )
    return pd.DataFrame(rows, columns=cells_schema().names)


def pooled_frame(cells: pd.DataFrame) -> pd.DataFrame:
    """Rows over bias types, and over layers as well, each with numbers of its own."""
    over_bias_types = cells.drop_duplicates(["model", "split", "layer", "coeff"])
    over_bias_types = over_bias_types.assign(bias_type=POOLED)
    over_layers = over_bias_types.drop_duplicates(["model", "split", "coeff"]).assign(layer=np.nan)
    pooled = pd.concat([over_bias_types, over_layers])
    return pooled.assign(**{name: pooled[name] + 5.0 for name in cell_quantities()})


def vectors_frame_of(
    vectors: dict[tuple[str, str, str, int, int | None], list[float]],
) -> pd.DataFrame:
    """Vectors by model, split, bias type, layer and fold."""
    rows = [(*key, np.asarray(vector, np.float32)) for key, vector in vectors.items()]
    columns = ["model", "split", "bias_type", "layer", "fold", "vector"]
    return pd.DataFrame(rows, columns=columns).astype({"fold": "Int32"})
