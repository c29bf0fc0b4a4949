"""The finding of a persona sweep in a few sentences, no more certain than its tables are."""

from __future__ import annotations

from collections.abc import Iterator

import pandas as pd

from jobs.page.words import PERCENT, coefficient, enumerated, largest_of, number
from jobs.persona.figures import BROKEN_DOWN
from jobs.persona.summary import PersonaSummary

SIGNIFICANT = 0.05


def finding(summary: PersonaSummary) -> Iterator[tuple[str, str]]:
    """(Model and trait, sentences) of each group that has been steered."""
    if summary.steered.empty:
        return
    for (model, trait), rows in summary.steered.groupby(["model", "trait"]):
        yield f"{model}, {trait}", _sentences(rows)


def strongest(rows: pd.DataFrame) -> pd.Series | None:
    """The cell with the highest trait score among those whose text has not broken down."""
    whole = _whole(rows)
    return None if whole.empty else whole.iloc[int(whole["trait_score"].argmax())]


def _whole(rows: pd.DataFrame) -> pd.DataFrame:
    return rows[(rows["coherence"] >= BROKEN_DOWN) & rows["trait_score"].notna()]


def _sentences(rows: pd.DataFrame) -> str:
    whole = _whole(rows)
    if whole.empty:
        return "No cell has both a trait score and text that holds together."
    highest, lowest = (whole.iloc[int(at)] for at in _ends(whole["trait_score"]))
    if len(whole) == 1:
        text = f"The trait score at {_place(highest)} is {_estimate(highest, 'trait_score')}."
    elif highest["trait_score"] == lowest["trait_score"]:
        score = number(highest["trait_score"], 1)
        text = f"All {len(whole):,} cells have the same trait score: {score}."
    else:
        text = _extremes(highest, lowest, len(whole))
    text = " ".join((text, *_unsteered(rows, whole)))
    broken = rows[rows["coherence"] < BROKEN_DOWN]
    return " ".join((text, *_broken_down(broken, len(rows))))


def _broken_down(broken: pd.DataFrame, num_cells: int) -> Iterator[str]:
    if broken.empty:
        return
    coeffs = sorted(broken["coeff"].unique())
    word = "coefficient" if len(coeffs) == 1 else "coefficients"
    yield (
        f"This leaves out {len(broken):,} of {num_cells:,} cells, at {word} "
        f"{enumerated([coefficient(c) for c in coeffs])}, whose text broke down (coherence below "
        f"{BROKEN_DOWN:g})."
    )


def _ends(scores: pd.Series) -> tuple[int, int]:
    return int(scores.argmax()), int(scores.argmin())


def _extremes(highest: pd.Series, lowest: pd.Series, num_cells: int) -> str:
    return (
        f"The trait score is highest at {_place(highest)}: {_estimate(highest, 'trait_score')} of "
        f"100 ({largest_of(num_cells)}), with coherence {_estimate(highest, 'coherence')}. It is "
        f"lowest at {_place(lowest)}: {_estimate(lowest, 'trait_score')} (the smallest of "
        f"{num_cells:,} cells)."
    )


def _unsteered(rows: pd.DataFrame, whole: pd.DataFrame) -> Iterator[str]:
    """How the score without steering compares with that of the cell that differs most from it."""
    before = rows[rows["coeff"] == 0]
    if before.empty:
        yield "The grid has no coefficient 0, so it does not show what steering changed."
        return
    changed = whole[whole["trait_score_change"].notna()]
    if changed.empty:
        return
    is_clear = changed["trait_score_change_p"] <= SIGNIFICANT
    changed = changed[is_clear] if is_clear.any() else changed
    most = changed.iloc[int(changed["trait_score_change"].abs().argmax())]
    change = (
        f"{number(most['trait_score_change'], 1)} (95{PERCENT} interval "
        f"{number(most['trait_score_change_low'], 1)} to "
        f"{number(most['trait_score_change_high'], 1)}, which holds for all cells together)"
    )
    yield f"At coefficient 0 it is {_estimate(before.iloc[0], 'trait_score')}."
    if is_clear.any():
        yield f"The largest clear change from that is at {_place(most)}: {change}."
    else:
        yield f"No change from that is clear; the largest is at {_place(most)}: {change}."


def _place(row: pd.Series) -> str:
    return (
        f"coefficient {coefficient(row['coeff'])} of layer {row['layer']} ({row['apply']}, "
        f"positions {row['positions']})"
    )


def _estimate(row: pd.Series, name: str) -> str:
    if pd.isna(row[name]):
        return "not scored"
    value, low, high = (number(row[f"{name}{end}"], 1) for end in ("", "_low", "_high"))
    return f"{value} (95{PERCENT} interval {low} to {high})"
