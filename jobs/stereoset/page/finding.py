"""The finding in a few sentences, made from the numbers and no more certain than they are.

The sentences about a model use its widest rows: those pooled over splits, bias types and layers, as
far as these are complete. What is called clear is so simultaneously: over every coefficient, the
three changes in log-likelihood and the three net flows that the text may choose from. So it may
pick the largest one without overstating it.

An effect is called intended only if steering adds vectors that were fitted to the contrast of
anti-stereotype and stereotype. A negative coefficient is then meant to push the other way.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from jobs.page.estimate import Estimate
from jobs.page.words import PERCENT, coefficient, enumerated, number
from jobs.stereoset.labels import CHANGES, FLOWS, INTENDED, ROLES
from jobs.stereoset.page.words import name_of
from jobs.stereoset.summary import Summary
from jobs.stereoset.summary_keys import AXES, POOLED, is_cell, widest

SIGNIFICANT = 0.05
_PLURALS = {"split": "splits", "bias_type": "bias types", "layer": "layers"}
_VECTORS = {
    "in_sample": "In-sample (the vectors were fitted to the examples that they steer)",
    "held_out": "With held-out vectors",
    "file": "With vectors from a file",
}
_NULLS = {
    "random": "{} of random direction",
    "shuffled": "{} fitted to shuffled labels",
}
_MOST_NULL_PLACES = 2
_INTENDED = (CHANGES[0], INTENDED)
"""What steering is meant to move, in both measures; everything else is a side effect."""

Row = Mapping[str, Any]


@dataclass(frozen=True)
class Finding:
    """Paragraphs about each model: what steering did, and what other vectors do.

    Attributes:
        coeff: the coefficient that those about the first model use.
        note: what the intervals in the sentences hold for.
    """

    of_model: Mapping[str, tuple[str, ...]]
    coeff: float | None
    note: str | None


@dataclass(frozen=True)
class _Statement:
    """One estimate of one row, with its simultaneous interval."""

    name: str
    row: Row
    estimate: Estimate
    p: float

    @property
    def is_flow(self) -> bool:
        return self.name in FLOWS

    @property
    def is_clear(self) -> bool:
        """Whether the test finds it and its interval excludes 0.

        The interval of a net flow also allows for moves that are rare, and over several layers it
        is wider than the test asks. A sentence must not call clear what its own interval does not.
        """
        return self.p <= SIGNIFICANT and self.estimate.is_clear

    @property
    def is_intended(self) -> bool:
        """Whether it goes where the coefficient's sign is meant to push."""
        return bool(self.estimate.value * self.row["coeff"] > 0)

    @property
    def ends(self) -> tuple[str, str]:
        """What lost and what gained, in words."""
        source, sink = self.name.removeprefix("flow_").split("2")
        if self.estimate.value < 0:
            source, sink = sink, source
        return f"the {ROLES[source]}", f"the {ROLES[sink]}"

    @property
    def forward(self) -> Estimate:
        """The estimate in the direction in which it went: its value is not negative."""
        e = self.estimate
        return e if e.value >= 0 else Estimate(-e.value, -e.high, -e.low)

    @property
    def measured(self) -> str:
        """The value with its unit and interval."""
        if not self.is_flow:
            return f"{self.forward.text(3)} nats per token ({self.forward.range(3)})"
        e = self.forward
        percent = Estimate(100 * e.value, 100 * e.low, 100 * e.high)
        return f"{percent.text()}{PERCENT} ({percent.range()})"

    def text(self) -> str:
        """What is clear, in words, with the interval."""
        lost, gained = self.ends
        if self.is_flow:
            return f"on balance {self.measured} of choices moved from {lost} to {gained}"
        return f"{gained} gained {self.measured} on {lost}"

    def unclear(self) -> str:
        """What is not clear, in words, with the interval."""
        lost, gained = self.ends
        if self.is_flow:
            return f"the net flow of choices from {lost} to {gained} is {self.measured}"
        return f"the gain of {gained} on {lost} is {self.measured}"


def finding(summary: Summary) -> Finding:
    """What the complete cells of a summary show."""
    rows = widest([*summary.shown_pooled.to_pylist(), *summary.shown_cells.to_pylist()])
    statements = summary.findings.to_pylist()
    of_model: dict[str, tuple[str, ...]] = {}
    coeff, most = None, 0
    for model, of_rows in rows.items():
        by_key = {_key(row): row for row in of_rows}
        made = [
            _Statement(
                s["estimate"],
                by_key[_key(s)],
                Estimate(s["value"], s["low"], s["high"]),
                s["p"],
            )
            for s in statements
            if s["model"] == model and s["low"] is not None and s["high"] is not None
        ]
        chosen = _chosen(made, has_intent=summary.has_intent)
        has_scores = any(row["s2a"] is not None for row in of_rows)
        of_model[model] = _sentences(made, chosen, summary, has_scores=has_scores)
        most = max(most, len(made))
        if coeff is None and chosen is not None:
            coeff = chosen["coeff"]
    note = (
        f"The 95{PERCENT} intervals of gains and net flows hold together for all {most:,} of them "
        "that these sentences choose from. So they are wider than those in the headline, tables "
        "and figures, which are each for one number alone: a number whose own interval excludes 0 "
        "need not be clear. All intervals are for these steering vectors, not for vectors fitted "
        "to other examples."
        if most
        else None
    )
    return Finding(of_model, coeff, note)


def _key(row: Row) -> tuple[Any, ...]:
    return tuple(row[name] for name in ("split", "bias_type", "layer", "coeff"))


def _chosen(statements: Sequence[_Statement], *, has_intent: bool) -> Row | None:
    """The row with the largest clear effect, an intended one if there is any."""

    def strength(statement: _Statement) -> tuple[bool, bool, bool, float]:
        is_intended = has_intent and statement.name in _INTENDED
        return (
            statement.is_clear and is_intended and statement.is_intended,
            statement.is_clear,
            not statement.is_flow,
            abs(statement.estimate.value),
        )

    best = max(statements, key=strength, default=None)
    return None if best is None else best.row


def _sentences(
    statements: Sequence[_Statement], row: Row | None, summary: Summary, *, has_scores: bool
) -> tuple[str, ...]:
    if row is None and has_scores:
        return (
            "A bias type has only one target term, or too few terms moved, so no interval can be "
            "made, and nothing can be called clear. The tables have the numbers.",
        )
    if row is None:
        return ("No score is finite, so nothing can be said of it.",)
    vectors = _VECTORS[summary.shown_vectors]
    in_sample = summary.shown_vectors == "in_sample"
    describe = _of_intent if summary.has_intent else _of_all
    here = {s.name: s for s in statements if s.row is row}
    finding = [
        *describe(vectors, row, statements, "In-sample side" if in_sample else "Side"),
        _churn(row, here, "In-sample, steering" if in_sample else "Steering"),
        _lms(row, "In-sample, LMS" if in_sample else "LMS"),
        *_missed(statements),
    ]
    beside = [*_against_in_sample(row, summary), *_against_nulls(row, summary)]
    return tuple(" ".join(sentences) for sentences in (finding, beside) if sentences)


def _at(vectors: str, row: Row) -> str:
    return f"{vectors}, at coefficient {coefficient(row['coeff'])} {_place(row)}"


def _of_intent(vectors: str, row: Row, statements: Sequence[_Statement], side: str) -> list[str]:
    both = [s for s in statements if s.row is row and s.name in _INTENDED]
    sides = [s for s in statements if s.name not in _INTENDED]
    clear = [s for s in both if s.is_clear]
    if not clear:
        opening = _nowhere(vectors, "no intended effect is clear", row, statements)
        sentences = [f"{opening} {enumerated([s.unclear() for s in both])}."]
    else:
        texts = [s.text() for s in clear]
        texts += [f"{s.unclear()}, which is not clear" for s in both if not s.is_clear]
        judged = "One of them goes in the intended direction, the other one against it."
        if all(s.is_intended for s in clear):
            judged = "This is the intended direction."
        elif not any(s.is_intended for s in clear):
            judged = "This is the opposite of the intended direction."
        sentences = [f"{_at(vectors, row)}, {enumerated(texts)}. {judged}"]
    if here := [s for s in sides if s.row is row and s.is_clear]:
        texts = [s.text() + _compared(s, both) for s in here]
        return [*sentences, f"{side} effects: {'; '.join(texts)}."]
    if elsewhere := sorted({s.row["coeff"] for s in sides if s.is_clear}):
        others = enumerated([coefficient(coeff) for coeff in elsewhere])
        return [*sentences, f"No side effect is clear here, but there is one at {others}."]
    return [*sentences, "No side effect is clear."]


def _nowhere(vectors: str, what: str, row: Row, statements: Sequence[_Statement]) -> str:
    """That nothing is clear at any coefficient, and where the numbers are from that follow."""
    num = len({s.row["coeff"] for s in statements})
    if num == 1:
        return f"{_at(vectors, row)}, {what}:"
    return (
        f"{vectors}, {_place(row)}, {what} at any of {num:,} coefficients; at coefficient "
        f"{coefficient(row['coeff'])},"
    )


def _compared(side: _Statement, both: Sequence[_Statement]) -> str:
    """How large a side effect is beside the intended one of the same measure."""
    intended = next((s for s in both if s.is_flow == side.is_flow), None)
    if intended is None or not intended.is_clear:
        return ""
    ratio = abs(side.estimate.value) / abs(intended.estimate.value)
    return f", {number(ratio, 1)} times the intended effect" if ratio >= 0.5 else ""


def _of_all(vectors: str, row: Row, statements: Sequence[_Statement], _side: str) -> list[str]:
    here = [s for s in statements if s.row is row]
    if clear := [s.text() for s in here if s.is_clear]:
        return [f"{_at(vectors, row)}: {'; '.join(clear)}."]
    what = "no change in log-likelihood and no net flow of choices is clear"
    largest = [s.unclear() for s in here if s.name in _INTENDED]
    return [f"{_nowhere(vectors, what, row, statements)} {enumerated(largest)}."]


def _churn(row: Row, here: Mapping[str, _Statement], steering: str) -> str:
    changed = Estimate.of(row, "changed", times=100)
    if changed is None:
        return "No choice is defined on both sides."
    if changed.value == 0:
        return "No choice changed."
    text = (
        f"{steering} changed {changed.text()}{PERCENT} of choices (95{PERCENT} interval "
        f"{changed.range()})"
    )
    flows = [here[name] for name in FLOWS if name in here]
    if flows and not any(flow.is_clear for flow in flows):
        net = max(abs(100 * flow.estimate.value) for flow in flows)
        if net <= changed.value / 4:
            return f"{text}; moves there and back largely cancel, so that no net flow is clear."
        return f"{text}; no net flow is clear."
    return f"{text}."


def _lms(row: Row, lms: str) -> str:
    after, change = row["lms"], row["lms_change"]
    if after is None or change is None:
        return "LMS is not defined."
    interval = Estimate.of(row, "lms_change")
    range_ = "" if interval is None else f", 95{PERCENT} interval {interval.range()}"
    return (
        f"{lms} was {number(after - change, 1)} before and {number(after, 1)} after steering "
        f"(change {number(change, 1)}{range_})."
    )


def _missed(statements: Sequence[_Statement]) -> list[str]:
    """How large an effect could have been there, if nothing is clear."""
    if any(s.is_clear for s in statements):
        return []
    largest = {
        is_flow: max(
            (
                max(abs(s.estimate.low), abs(s.estimate.high))
                for s in statements
                if s.is_flow == is_flow
            ),
            default=0.0,
        )
        for is_flow in (False, True)
    }
    return [
        "Nothing is clear, which does not show that nothing happened: a change of up to "
        f"{number(largest[False], 2)} nats per token, or a net flow of up to "
        f"{number(100 * largest[True], 1)}{PERCENT} of choices, could have been missed."
    ]


def _against_in_sample(row: Row, summary: Summary) -> list[str]:
    """How much more in-sample vectors seem to do at the same place."""
    in_sample = _at_place(row, summary.by_vectors.get("in_sample", []))
    paired = _at_place(
        row,
        [
            d
            for d in summary.differences.to_pylist()
            if d["kind"] == "held_out" and d["estimate"] == CHANGES[0]
        ],
    )
    if not in_sample or not paired or in_sample[0][CHANGES[0]] is None:
        return []
    value = in_sample[0][CHANGES[0]]
    more = Estimate(paired[0]["difference"], paired[0]["low"], paired[0]["high"])
    # In the direction that the coefficient's sign is meant to push; without one, as it went.
    is_back = row["coeff"] < 0 if summary.has_intent else value < 0
    if is_back:
        value, more = -value, Estimate(-more.value, -more.high, -more.low)
    gained, lost = ("stereotype", "anti-stereotype")[:: 1 if is_back else -1]
    word = "more" if more.value >= 0 else "less"
    if more.value < 0:
        more = Estimate(-more.value, -more.high, -more.low)
    text = (
        f"With in-sample vectors, which were fitted to the examples that they steer, the gain of "
        f"the {gained} on the {lost} is {number(value, 3)} nats per token there, "
        f"{more.text(3)} {word} than with held-out ones (95{PERCENT} interval of the difference "
        f"{more.range(3)}, paired by target term)."
    )
    return [text]


def _against_nulls(row: Row, summary: Summary) -> list[str]:
    """Where the effect stands among vectors that mean nothing, where they steered the most."""
    tests = [
        test
        for test in summary.null_tests.to_pylist()
        if test["vectors"] == summary.shown_vectors
        and test["model"] == row["model"]
        and test["estimate"] == CHANGES[0]
    ]
    in_sample = {
        (*_key(test), test["null"]): test
        for test in summary.null_tests.to_pylist()
        if (test["vectors"], test["model"], test["estimate"])
        == ("in_sample", row["model"], CHANGES[0])
        and summary.shown_vectors != "in_sample"
    }
    # Of the same coefficient if it has any: another choice must not depend on what came out.
    coeffs = {test["coeff"] for test in tests}
    if not coeffs:
        return []
    coeff = row["coeff"] if row["coeff"] in coeffs else max(coeffs, key=abs)
    at_coeff = [test for test in tests if test["coeff"] == coeff]
    here = _at_place(row, at_coeff) or widest(at_coeff)[row["model"]]
    places: dict[tuple[Any, ...], list[Row]] = {}
    for test in here:
        places.setdefault(_key(test), []).append(test)
    sentences = []
    for key, of_place in list(places.items())[:_MOST_NULL_PLACES]:
        place = f"{_place(of_place[0])}, at coefficient {coefficient(coeff)}, "
        ranks = "; ".join(_rank(test, in_sample.get((*key, test["null"]))) for test in of_place)
        text = f"{'' if key == _key(row) else place}{ranks}."
        sentences.append(f"{text[0].upper()}{text[1:]}")
    return sentences


def _rank(test: Row, in_sample: Row | None) -> str:
    num, as_much = test["num_draws"], test["rank"] - 1
    kind = _NULLS[test["null"]].format("vector" if num == 1 else "vectors")
    smallest = (
        f", the smallest that {num:,} {'draw' if num == 1 else 'draws'} can give"
        if not as_much
        else ""
    )
    return (
        f"among {num:,} {kind}, {as_much:,} moved stereotype against anti-stereotype as much "
        f"({_p(test)}{smallest})" + ("" if in_sample is None else _in_sample_rank(in_sample))
    )


def _in_sample_rank(test: Row) -> str:
    return f"; in-sample, {test['rank'] - 1:,} of {test['num_draws']:,} did ({_p(test)})"


def _p(test: Row) -> str:
    return f"p = {number(test['p'], 2 if test['p'] >= 0.0095 else 4)}"


def _at_place(row: Row, rows: Sequence[Row]) -> list[Row]:
    return [of for of in rows if of["model"] == row["model"] and _key(of) == _key(row)]


def _place(row: Row) -> str:
    if is_cell(row):
        return f"in {row['split']}, {row['bias_type']}, layer {row['layer']}"
    pooled = [_PLURALS[axis] for axis in AXES if row[axis] in (POOLED, None)]
    fixed = [
        f"layer {row[axis]}" if axis == "layer" else name_of(axis, row[axis])
        for axis in AXES
        if row[axis] not in (POOLED, None)
    ]
    over = f"over all {enumerated(pooled)}"
    return f"in {', '.join(fixed)}, {over}" if fixed else over
