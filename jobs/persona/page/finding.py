"""The finding of a persona sweep in a few sentences, no surer than its tables are."""

from __future__ import annotations

from collections.abc import Iterator

import pandas as pd

from jobs.persona.figures import BROKEN_DOWN
from jobs.persona.summary import PersonaSummary

_FEW_PAIRS = 5


def finding(summary: PersonaSummary) -> Iterator[tuple[str, str]]:
    """(Model and trait, sentences) of each group that has been steered."""
    if summary.steered.empty:
        return
    for (model, trait), rows in summary.steered.groupby(["model", "trait"]):
        yield f"{model}, {trait}", _sentences(rows)


def strongest(rows: pd.DataFrame) -> pd.Series | None:
    """The cell with the highest trait score among those whose text has not broken down."""
    whole = rows[(rows["coherence"] >= BROKEN_DOWN) & rows["trait_score"].notna()]
    return None if whole.empty else whole.iloc[int(whole["trait_score"].argmax())]


def _sentences(rows: pd.DataFrame) -> str:
    best, before = strongest(rows), rows[rows["coeff"] == 0]
    if best is None:
        return "No cell has both a trait score and text that holds together."
    told = (
        f"The trait is strongest at coefficient {best['coeff']:g} of layer {best['layer']} "
        f"({best['apply']}, {best['positions']}): {_estimate(best, 'trait_score')} of 100, with "
        f"coherence {_estimate(best, 'coherence')}."
    )
    if len(before):
        unsteered = before.iloc[0]
        told += f" At coefficient 0 it is {_estimate(unsteered, 'trait_score')}."
        overlap = best["trait_score_low"] <= unsteered["trait_score_high"]
        if best["coeff"] != 0 and overlap:
            told += " The intervals overlap: that steering moved it is not clear."
    broken = rows[rows["coherence"] < BROKEN_DOWN]
    if len(broken):
        coeffs = ", ".join(f"{c:g}" for c in sorted(broken["coeff"].unique()))
        told += f" The text broke down (coherence below {BROKEN_DOWN:g}) at coefficients {coeffs}."
    return told


def cautions(summary: PersonaSummary, missing: str) -> Iterator[str]:
    """What a reader should know before he trusts the numbers."""
    if missing:
        yield f"This sweep is not complete; still to come: {missing}."
    pairs = summary.contrast.groupby(["model", "trait"]) if len(summary.contrast) else ()
    for (model, trait), rows in pairs:
        num = rows["num_effective_pairs"].iloc[0]
        if pd.notna(num) and num < _FEW_PAIRS:
            yield f"{model}, {trait}: the vector comes from {num:.0f} pairs of answers only."
    for name, table in (("contrast", summary.contrast), ("steered", summary.steered)):
        for outcome in ("refused", "unparsable", "failed"):
            columns = [f"num_trait_{outcome}", f"num_coherence_{outcome}"]
            num = 0 if table.empty else int(table[columns].to_numpy().sum())
            if num:
                yield f"{num:,} judgements of {name} answers were {outcome}; they are no score."
        num = 0 if table.empty else int(table["num_empty"].sum())
        if num:
            yield f"{num:,} {name} answers are empty; no state is taken of them."


def _estimate(row: pd.Series, name: str) -> str:
    if pd.isna(row[name]):
        return "not scored"
    return f"{row[name]:.1f} ({row[f'{name}_low']:.1f} to {row[f'{name}_high']:.1f})"
