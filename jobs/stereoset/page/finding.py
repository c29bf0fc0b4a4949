"""The finding in a few sentences, made from the numbers and no more certain than they are.

The sentences about a model use its widest rows: those pooled over splits, bias types and layers, as
far as these are complete. They use one coefficient for all models: the one that moved the most
choices on balance. Since it was picked for that, the sentences say so.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from jobs.page.words import PERCENT, coefficient, enumerated, largest_of
from jobs.stereoset.labels import FLOWS, INTENDED, way
from jobs.stereoset.page.estimate import Estimate
from jobs.stereoset.page.words import name_of
from jobs.stereoset.summary import Summary
from jobs.stereoset.summary_keys import POOLED

SIGNIFICANT = 0.05
_AXES = ("split", "bias_type", "layer")
_PLURALS = {"split": "splits", "bias_type": "bias types", "layer": "layers"}

Row = Mapping[str, Any]


@dataclass(frozen=True)
class Finding:
    """Sentences about all models together and about each.

    Attributes:
        coeff: the coefficient that they are about.
        note: why it was picked, if there are several.
    """

    lead: str | None
    of_model: Mapping[str, tuple[str, ...]]
    coeff: float | None
    note: str | None


@dataclass(frozen=True)
class _Flow:
    """A net flow in the direction in which it went, in percent of examples."""

    name: str
    is_reversed: bool
    share: Estimate
    coeff: float

    @property
    def way(self) -> str:
        return way(self.name, is_reversed=self.is_reversed)

    @property
    def role(self) -> str:
        if self.name != INTENDED:
            return "a side effect"
        if self.coeff < 0:  # it pushes from anti-stereotype to stereotype
            return f"{'as' if self.is_reversed else 'not as'} a negative coefficient is meant to"
        return "against what was intended" if self.is_reversed else "as intended"

    @property
    def measured(self) -> str:
        return (
            f"{self.share.text()}{PERCENT} of examples (95{PERCENT} interval {self.share.range()})"
        )


def finding(summary: Summary) -> Finding:
    """What the complete cells of a summary show."""
    rows = widest_rows(summary)
    strongest = _strongest([row for of_model in rows.values() for row in of_model])
    coeff = None if strongest is None else strongest["coeff"]
    at_coeff = {
        model: [row for row in of_model if row["coeff"] == coeff] or of_model
        for model, of_model in rows.items()
    }
    chosen = {model: _strongest(of_model) for model, of_model in at_coeff.items()}
    # The coefficient was picked by one row among all; others were picked among those at it.
    num_compared = {
        model: sum(map(len, rows.values())) if row is strongest else len(at_coeff[model])
        for model, row in chosen.items()
    }
    tests = {model: _tests(summary, model) for model in rows}
    coeffs = {row["coeff"] for of_model in rows.values() for row in of_model}
    return Finding(
        lead=_lead(chosen) if len(chosen) > 1 else None,
        of_model={
            model: (*_sentences(row, num_compared[model]), tests[model])
            for model, row in chosen.items()
        },
        coeff=coeff,
        note=f"Of {len(coeffs):,} coefficients, the sentences above are about "
        f"{coefficient(coeff)}, which moved the most choices on balance. The table has them all."
        if coeff is not None and len(coeffs) > 1
        else None,
    )


def widest_rows(summary: Summary) -> dict[str, list[Row]]:
    """By model, the rows that are pooled over the most: one per coefficient if all is complete."""
    return widest([*summary.pooled.to_pylist(), *summary.cells.to_pylist()])


def is_cell(row: Row) -> bool:
    """Whether a row is not pooled."""
    return not any(row[axis] in (POOLED, None) for axis in _AXES)


def widest(rows: Iterable[Row]) -> dict[str, list[Row]]:
    """As ``widest_rows``, of any rows of cells and pooled cells."""
    by_model: dict[str, dict[int, list[Row]]] = {}
    for row in rows:
        num_pooled = sum(row[axis] in (POOLED, None) for axis in _AXES)
        by_model.setdefault(row["model"], {}).setdefault(num_pooled, []).append(row)
    return {model: widths[max(widths)] for model, widths in sorted(by_model.items())}


def _strongest(rows: Sequence[Row]) -> Row | None:
    """The row with the largest net flow, or change in log-likelihood if no choice moved."""

    def strength(row: Row) -> tuple[float, float]:
        flows, change = _flows(row), Estimate.of(row, "s2a")
        return (
            flows[0].share.value if flows else -1.0,
            abs(change.value) if change is not None else -1.0,
        )

    return max(rows, key=strength, default=None)


def _flows(row: Row) -> list[_Flow]:
    """Net flows, largest first; none if no choice is defined."""
    found = []
    for name in FLOWS:
        share = Estimate.of(row, name, times=100)
        if share is not None:
            if is_reversed := share.value < 0:
                share = Estimate(-share.value, -share.high, -share.low)
            found.append(_Flow(name, is_reversed, share, row["coeff"]))
    return sorted(found, key=lambda flow: -flow.share.value)


def _lead(chosen: Mapping[str, Row | None]) -> str | None:
    largest = {
        model: flows[0]
        for model, row in chosen.items()
        if row is not None and (flows := _flows(row)) and flows[0].share.is_clear
    }
    if len(largest) < 2:
        return None
    first, *others = largest.values()
    if all(flow.way == first.way for flow in others):
        shares = enumerated(
            [f"{flow.share.text()}{PERCENT} in {model}" for model, flow in largest.items()]
        )
        return (
            f"The largest net flow of choices is {first.way}, {first.role}, in each of these "
            f"models: {shares}.{_most(largest)}"
        )
    ways = enumerated(
        [
            f"{flow.way} in {model} ({flow.role}, {flow.share.text()}{PERCENT})"
            for model, flow in largest.items()
        ]
    )
    return f"The models differ in their largest net flow of choices: {ways}."


def _most(largest: Mapping[str, _Flow]) -> str:
    ordered = sorted(largest, key=lambda model: -largest[model].share.value)
    top = largest[ordered[0]].share
    if all(top.compared(largest[model].share) == "larger" for model in ordered[1:]):
        return f" It is largest in {ordered[0]}."
    return " Their intervals overlap, so none is clearly the largest."


def _sentences(row: Row | None, num_compared: int) -> tuple[str, ...]:
    flows = [] if row is None else _flows(row)
    if row is None or not flows:
        return ("No score is finite, so no flow is defined.",)
    place = f"At coefficient {coefficient(row['coeff'])}, {_place(row)}"
    if num_compared > 1:
        place += f" ({largest_of(num_compared, 'cell' if is_cell(row) else 'pooled result')})"
    if flows[0].share.value == 0:
        return (f"{place}, no choice moved on balance.", _lms(row))
    return (_largest(place, flows), _against_side_effects(flows), _lms(row))


def _place(row: Row) -> str:
    pooled = [_PLURALS[axis] for axis in _AXES if row[axis] in (POOLED, None)]
    fixed = [
        f"layer {row[axis]}" if axis == "layer" else name_of(axis, row[axis])
        for axis in _AXES
        if row[axis] not in (POOLED, None)
    ]
    return ", ".join([*fixed, *([f"over all {enumerated(pooled)}"] if pooled else [])])


def _largest(place: str, flows: Sequence[_Flow]) -> str:
    top = flows[0]
    if top.share.is_clear:
        return f"{place}, the largest net flow is {top.way}, {top.role}: {top.measured}."
    if any(flow.share.is_clear for flow in flows):
        return (
            f"{place}, the largest net flow is {top.way}: {top.measured}; the interval contains "
            "0, so even its direction is uncertain."
        )
    return (
        f"{place}, no net flow is clearly different from 0: the largest, {top.way}, is "
        f"{top.measured}, and the interval contains 0."
    )


def _against_side_effects(flows: Sequence[_Flow]) -> str:
    intended = next(flow for flow in flows if flow.name == INTENDED)
    compared: dict[str, list[str]] = {}
    for flow in flows:
        if flow is not intended:
            how = intended.share.size.compared(flow.share.size)
            measured = (
                "" if flow is flows[0] else f" ({flow.share.text()}{PERCENT}, {flow.share.range()})"
            )
            compared.setdefault(how, []).append(f"{flow.way}{measured}")
    words = {
        "larger": "larger than",
        "smaller": "smaller than",
        "unclear": "not clearly larger or smaller than",
    }
    relations = " and ".join(f"{words[how]} {enumerated(which)}" for how, which in compared.items())
    if intended is flows[0]:
        return f"It is {relations}."
    went = ", went the other way:" if intended.is_reversed else ", is"
    return (
        f"The intended flow, {way(INTENDED, is_reversed=False)}{went} {intended.measured}, "
        f"{relations}."
    )


def _lms(row: Row) -> str:
    after, change = Estimate.of(row, "lms"), Estimate.of(row, "lms_change")
    if after is None or change is None:
        return "LMS is not defined."
    if not change.is_clear:
        return (
            f"LMS did not clearly change: {change.text()} points "
            f"(95{PERCENT} interval {change.range()})."
        )
    before = Estimate(after.value - change.value, 0, 0)
    return (
        f"LMS {'rose' if change.value > 0 else 'fell'} by {change.size.text()} points (95{PERCENT} "
        f"interval {change.size.range()}), from {before.text()} to {after.text()}."
    )


def _tests(summary: Summary, model: str) -> str:
    q = [
        row[f"{name}_q"]
        for row in summary.cells.select(["model", *(f"{name}_q" for name in FLOWS)]).to_pylist()
        if row["model"] == model
        for name in FLOWS
        if row[f"{name}_q"] is not None
    ]
    num = sum(value < SIGNIFICANT for value in q)
    if not num:
        return (
            f"In single cells nothing is significant: none of {len(q):,} net flows has q < "
            f"{SIGNIFICANT} after Benjamini-Hochberg, so what single cells show may be chance."
        )
    return (
        f"In single cells, {num:,} of {len(q):,} net flows are significant after "
        f"Benjamini-Hochberg (q < {SIGNIFICANT})."
    )
