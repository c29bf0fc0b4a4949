"""Another persona run next to this one: the cells that both have, and how their scores differ."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from cluster.storage import Storage
from jobs.console import print_tables, say
from jobs.persona.output import PersonaOutput
from jobs.persona.summary import CELL, SCORES, PersonaSummary, at_each_cell, summarise
from jobs.sweeps.compared import names_of
from jobs.words import coefficient, p_value
from steering_core.stats.clusters import Cluster, means
from steering_core.stats.flips import p_values, signs
from steersweep.errors import UserError

KEYS = ("model", "trait", "layer", "positions", "coeff")
_PAIR = ["question", "rollout"]
_MOST_ROWS = 20


@dataclass(frozen=True)
class Comparison:
    """Two runs side by side.

    Attributes:
        name, other: what each is called, see ``names_of``.
        rows: of ``summary/compared``: the rows of ``steered`` that both have, named by ``run``.
        differences: of ``summary/differences``: this run minus the other.
    """

    name: str
    other: str
    rows: pd.DataFrame
    differences: pd.DataFrame


def compare(output: PersonaOutput, summary: PersonaSummary, with_run: Storage) -> Comparison:
    """This run's scores next to those of another run.

    Raises:
        UserError: damaged parts at the other place, or no cell that both have.
    """
    other = PersonaOutput.read(with_run)
    theirs = summarise(with_run, other.index)
    common = _common(summary.steered, theirs.steered)
    if common.empty:
        raise UserError(
            f"{with_run.uri} has no cell in common with {output.storage.uri}; compare runs whose "
            "models and traits have the same names and that share layers, positions and "
            "coefficients"
        )
    name, name_of_other = names_of(output.storage, with_run)
    rows = [
        of.steered.merge(common, on=CELL).assign(run=run)
        for run, of in ((name, summary), (name_of_other, theirs))
    ]
    both = pd.concat(rows, ignore_index=True)
    found = _differences(
        _answers(output, summary).merge(common, on=CELL),
        _answers(other, theirs).merge(common, on=CELL),
    )
    named = [{"kind": "runs", "a": name, "b": name_of_other, **row} for row in found]
    return Comparison(
        name,
        name_of_other,
        both[["run", *(column for column in both if column != "run")]],
        pd.DataFrame(named),
    )


def _common(mine: pd.DataFrame, theirs: pd.DataFrame) -> pd.DataFrame:
    if mine.empty or theirs.empty:
        return pd.DataFrame(columns=CELL)
    return mine[CELL].merge(theirs[CELL], on=CELL)


def _answers(output: PersonaOutput, summary: PersonaSummary) -> pd.DataFrame:
    """Scores of steered answers, those at coefficient 0 at each layer and positions."""
    steered = summary.answers[summary.answers["phase"] == "steered"]
    rows = at_each_cell(steered, output.index)[[*CELL, *_PAIR, *SCORES]]
    return rows.astype({"layer": np.int64}).drop_duplicates([*CELL, *_PAIR])


def _differences(mine: pd.DataFrame, theirs: pd.DataFrame) -> Iterator[dict[str, Any]]:
    """Paired by question and rollout; the answers to a question are a cluster."""
    pairs = mine.merge(theirs, on=[*CELL, *_PAIR], suffixes=("", "_other"))
    for key, rows in pairs.groupby(CELL):
        of_cell = dict(zip(CELL, key, strict=True))
        for name in SCORES:
            values = (rows[name] - rows[f"{name}_other"]).to_numpy(float)
            is_pair = ~np.isnan(values)
            if not is_pair.any():
                continue
            asked, of_row = np.unique(rows["question"][is_pair], return_inverse=True)
            clusters = [Cluster("questions", str(question)) for question in asked]
            estimate = means(values[is_pair][:, None], of_row, clusters)
            (low,), (high,) = estimate.interval()
            (p,) = p_values(estimate, signs(len(clusters)))
            yield {
                **{column: of_cell[column] for column in KEYS},
                "estimate": name,
                "num_pairs": int(is_pair.sum()),
                "difference": float(estimate.value[0]),
                "low": float(low),
                "high": float(high),
                "p": float(p),
            }


def print_comparisons(comparisons: Sequence[Comparison]) -> None:
    """Print the differences of trait scores, and of coherence."""
    for comparison in comparisons:
        say(f"\n{comparison.name} minus {comparison.other} (paired by question and rollout)")
        rows = comparison.differences.to_dict("records")
        tables = []
        for estimate, title in (("trait_score", "trait score"), ("coherence", "coherence")):
            of = [_shown(row) for row in rows if row["estimate"] == estimate]
            more = f" (the first {_MOST_ROWS} of {len(of):,} cells)" if len(of) > _MOST_ROWS else ""
            tables.append((f"\n{title}{more}", of[:_MOST_ROWS]))
        columns = ("", "layer", "positions", "coeff", "difference (95 % interval)", "p")
        print_tables(columns, [(title, of) for title, of in tables if of])


def _shown(row: Mapping[Any, Any]) -> list[str]:
    interval = "-" if pd.isna(row["low"]) else f"{row['low']:+.1f}, {row['high']:+.1f}"
    return [
        f"{row['model']}, {row['trait']}",
        str(row["layer"]),
        str(row["positions"]),
        coefficient(row["coeff"]),
        f"{row['difference']:+.1f} ({interval})",
        p_value(row["p"]),
    ]
