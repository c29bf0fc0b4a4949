"""The finding in a few sentences, made from the tables and no more certain than they are.

What is called clear is so together with everything that the sentences may choose from: the gap at
every layer and coefficient, or every other metric at every coefficient. So they may pick the most
striking one without overstating it. Choices that changed are described, never called clear.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import pyarrow as pa

from jobs.choices.words import (
    CHANGED,
    SIGNIFICANT,
    STEERED_WITH,
    Row,
    has_estimate,
    interval,
    shown_metrics,
    widest,
)
from jobs.estimates.gap import GAP
from jobs.page.shown import Shown
from jobs.page.words import PERCENT, coefficient, counted, enumerated, number

_NULLS = {"random": "of random direction", "shuffled": "fitted to shuffled labels"}


def finding(tables: Mapping[str, pa.Table]) -> list[tuple[str, str]]:
    """(Model, sentences) of each model that has been steered."""
    models = dict.fromkeys(row["model"] for row in widest(tables) if row["coeff"] != 0)
    found = [(model, " ".join(_sentences(model, tables))) for model in models]
    return [(model, text) for model, text in found if text]


def is_clear(statement: Row) -> bool:
    """Whether the test finds it and its interval excludes 0."""
    low, high = statement["low"], statement["high"]
    is_off_0 = low is not None and high is not None and (low > 0 or high < 0)
    return statement["p"] is not None and statement["p"] <= SIGNIFICANT and is_off_0


def _sentences(model: str, tables: Mapping[str, pa.Table]) -> Iterator[str]:
    metrics = shown_metrics(tables)
    made = [
        row
        for row in tables["findings"].to_pylist()
        if row["model"] == model and row["low"] is not None
    ]
    if not made:
        yield (
            "No interval can be made, as all examples are of one cluster or hardly any moved, so "
            "nothing can be called clear. The tables have the numbers."
        )
        return
    of_gap = [row for row in made if row["family"] == "gap"]
    others = [row for row in made if row["family"] == "metrics"]
    chosen = max(of_gap or others, key=_strength)
    vectors = STEERED_WITH[chosen["vectors"]]
    if of_gap:
        yield f"{vectors}, {_of_gap(chosen, of_gap, metrics[GAP])}"
        yield from _in_sample(chosen, tables, metrics[GAP])
        yield from _ranks(chosen, tables)
    yield from _of_others(chosen, others, metrics, "" if of_gap else f"{vectors}, ")
    yield from _changed(chosen, tables)
    yield from _missed(of_gap, others, metrics)


def _strength(statement: Row) -> tuple[Any, ...]:
    """The largest coefficient with a clear effect in the intended direction comes last."""
    return (
        is_clear(statement),
        bool(statement["is_intended"]),
        abs(statement["coeff"]),
        statement["layer"] is None,
        abs(statement["value"]),
    )


def _place(row: Row) -> str:
    where = "over all layers" if row["layer"] is None else f"at layer {row['layer']}"
    return f"at coefficient {coefficient(row['coeff'])}, {where}"


def _interval(shown: Shown, row: Row) -> str:
    return f"95{PERCENT} interval {shown.range(row['low'], row['high'])}"


def _of_gap(chosen: Row, of_gap: Sequence[Row], gap: Shown) -> str:
    together = f", which holds for all {len(of_gap):,} of them together" if len(of_gap) > 1 else ""
    if not is_clear(chosen):
        num = len({row["coeff"] for row in of_gap})
        return (
            f"no change of the {gap.label} is clear at {counted(num, 'coefficient')}; "
            f"{_place(chosen)}, it is {gap.change(chosen['value'])} "
            f"({_interval(gap, chosen)}{together})."
        )
    moved = "rose" if chosen["value"] > 0 else "fell"
    size = gap.change(abs(chosen["value"]))
    low, high = sorted(abs(chosen[end]) for end in ("low", "high"))
    text = (
        f"{_place(chosen)}, the {gap.label} {moved} by {size} (95{PERCENT} interval "
        f"{gap.range(low, high)}{together})."
    )
    if chosen["is_intended"] is None:
        return text
    return f"{text} This is {'' if chosen['is_intended'] else 'against '}the intended direction."


def _of_others(
    chosen: Row, others: Sequence[Row], metrics: Mapping[str, Shown], start: str
) -> Iterator[str]:
    here = [row for row in others if row["coeff"] == chosen["coeff"] and is_clear(row)]
    if here:
        texts = [
            f"the {metrics[row['metric']].label} by {metrics[row['metric']].change(row['value'])} "
            f"({_interval(metrics[row['metric']], row)})"
            for row in here
        ]
        where = _place(here[0]) if start or chosen["layer"] is not None else "there"
        yield _sentence(f"{start}{where}, steering changed {enumerated(texts)}.")
        return
    elsewhere = sorted({row["coeff"] for row in others if is_clear(row)})
    if elsewhere:
        coeffs = enumerated([coefficient(coeff) for coeff in elsewhere])
        yield _sentence(f"{start}no metric changed clearly there, but some did at {coeffs}.")
    elif others:
        yield _sentence(f"{start}no metric changed clearly at any coefficient.")


def _sentence(text: str) -> str:
    return f"{text[0].upper()}{text[1:]}"


def _at(chosen: Row, tables: Mapping[str, pa.Table], vectors: str) -> Row | None:
    """The steered row at a coefficient over all fits and layers, of other vectors."""
    return next(
        (
            row
            for row in widest(tables)
            if (row["model"], row["coeff"], row["vectors"])
            == (chosen["model"], chosen["coeff"], vectors)
        ),
        None,
    )


def _changed(chosen: Row, tables: Mapping[str, pa.Table]) -> Iterator[str]:
    row = _at(chosen, tables, chosen["vectors"])
    if row is not None and has_estimate(row, "changed"):
        where = "on average over all layers" if row["layer"] is None else f"layer {row['layer']}"
        yield (
            f"At coefficient {coefficient(row['coeff'])}, {where}, "
            f"{CHANGED.text(row['changed'])}{PERCENT} of choices changed "
            f"({interval(CHANGED, row, 'changed')})."
        )


def _in_sample(chosen: Row, tables: Mapping[str, pa.Table], gap: Shown) -> Iterator[str]:
    if chosen["vectors"] != "held_out":
        return
    rows = [*tables["cells"].to_pylist(), *tables["pooled"].to_pylist()]
    keys = ("model", "layer", "coeff")
    same = [
        row
        for row in rows
        if row["vectors"] == "in_sample" and all(row[key] == chosen[key] for key in keys)
    ]
    whole = [row for row in same if row["fit"] is None] or same
    if len(whole) == 1 and whole[0]["gap_change"] is not None:
        yield (
            f"{STEERED_WITH['in_sample']}, the change there is "
            f"{gap.change(whole[0]['gap_change'])}."
        )


def _ranks(chosen: Row, tables: Mapping[str, pa.Table]) -> Iterator[str]:
    """Where the change is among those of vectors that mean nothing."""
    keys = ("model", "vectors", "layer", "coeff")
    tests = [
        test
        for test in tables["null_tests"].to_pylist()
        if all(test[key] == chosen[key] for key in keys)
    ]
    whole = [test for test in tests if test["fit"] is None] or tests
    if whole and len({test["fit"] for test in whole}) == 1:
        texts = [
            f"{test['rank'] - 1:,} of {counted(test['num_draws'], 'vector')} "
            f"{_NULLS[test['null']]} moved it as much (p = {_p(test['p'])})"
            for test in whole
        ]
        yield f"{_sentence('; '.join(texts))}."


def _p(value: float) -> str:
    return number(value, 2 if value >= 0.0095 else 4)


def _missed(
    of_gap: Sequence[Row], others: Sequence[Row], metrics: Mapping[str, Shown]
) -> Iterator[str]:
    """How large a change could have been there, if nothing is clear."""
    if any(is_clear(row) for row in (*of_gap, *others)):
        return
    largest: dict[str, float] = {}
    for row in (*of_gap, *others):
        most = max(abs(row["low"]), abs(row["high"]))
        largest[row["metric"]] = max(most, largest.get(row["metric"], 0.0))
    texts = [
        f"{metrics[key].change(most)} of the {metrics[key].label}" for key, most in largest.items()
    ]
    yield (
        "Nothing is clear, which does not show that nothing happened: changes up to these could "
        f"have been missed: {enumerated(texts)}."
    )
