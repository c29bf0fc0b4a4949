"""What the matrix of side effects says, in a few sentences that are no more certain than it is.

The intervals that are named hold for all changes of a model's matrix together, so the sentences may
pick the most striking ones.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from statistics import median

from jobs.page.words import PERCENT, coefficient, counted, enumerated, number
from jobs.side_effects.words import (
    DAMAGE,
    Measures,
    Names,
    Row,
    Tables,
    axes_of,
    has_simultaneous,
    is_number,
    matrix_rows,
    measure_key,
    models_of,
    strength,
)

_INTERVAL = f"95{PERCENT} interval"


def finding_of(tables: Tables) -> list[tuple[str, str]]:
    """What a paragraph is about and its sentences: one paragraph for each model."""
    measures = Measures.of(tables)
    rows = matrix_rows(tables, measures)
    models = models_of(rows)
    title = "Side effects"
    return [
        (
            f"{title}, {model}" if len(models) > 1 else title,
            " ".join(_sentences(model, [row for row in rows if row["model"] == model], tables)),
        )
        for model in models
    ]


def _sentences(model: str, rows: Sequence[Row], tables: Tables) -> Iterator[str]:
    measures, names = Measures.of(tables), Names.of(tables["side_effects"])
    others = [
        row
        for row in rows
        if row["kind"] != "target" and not row["prompt"] and has_simultaneous(row)
    ]
    if not any(map(has_simultaneous, rows)):
        yield (
            "No interval can be made, as there are too few clusters of examples, so no change can "
            "be called clear."
        )
        return
    yield from _intended(model, rows, tables, measures, names)
    if others:
        yield _unintended(others, measures, names)
        if any(row["is_clear"] for row in others):
            yield from _damage(others, measures, names)
    yield from _prompts(model, tables, measures, names)


def _interval(row: Row, measures: Measures) -> str:
    of = measures.of_row(row)
    return f"{_INTERVAL} {of.range(row['simultaneous_low'], row['simultaneous_high'])}"


def _intended(
    model: str, rows: Sequence[Row], tables: Tables, measures: Measures, names: Names
) -> Iterator[str]:
    """How far the target moved under the steering of the best fidelity at the smallest dose."""
    targets = {_steering(row, tables): row for row in rows if row["kind"] == "target"}
    scored = [
        row
        for row in tables["fidelity"].to_pylist()
        if row["model"] == model
        and not row["prompt"]
        and is_number(row["fidelity"])
        and _steering(row, tables) in targets
    ]
    if not scored:
        return
    smallest = min(abs(row["coeff"]) for row in scored)
    found = [row for row in scored if abs(row["coeff"]) == smallest]
    best = max(found, key=lambda row: row["fidelity"])
    target = targets[_steering(best, tables)]
    of = measures.of_row(target)
    place = f"At the smallest coefficient, {coefficient(smallest)}, {names.steering(best)}"
    value = number(best["fidelity"], 2)
    if len(found) > 1:
        yield f"{place} has the best fidelity of {counted(len(found), 'steering')}, {value}."
    else:
        yield f"{place} is the only steering, with a fidelity of {value}."
    interval = f" ({_interval(target, measures)})" if has_simultaneous(target) else ""
    if target["is_clear"]:
        moved = "higher" if target["change"] > 0 else "lower"
        low, high = sorted(abs(target[f"simultaneous_{end}"]) for end in ("low", "high"))
        yield (
            f"Under it, the {of.label} is {of.change(abs(target['change']))} {moved} than without "
            f"steering ({_INTERVAL} {of.range(low, high)}), a clear change."
        )
    else:
        yield (
            f"Under it, the {of.label} changed by {of.change(target['change'])}{interval}, which "
            "is not clear."
        )


def _steering(row: Row, tables: Tables) -> tuple[object, ...]:
    axes = axes_of(tables["side_effects"])
    return tuple(row[key] for key in ("model", *axes, "layer", "coeff", "prompt"))


def _unintended(others: Sequence[Row], measures: Measures, names: Names) -> str:
    clear = [row for row in others if row["is_clear"]]
    of_all = f"{counted(len(others), 'unintended change')} under vectors"
    if not clear:
        return (
            f"None of {of_all} is clear, which does not show that there are none: the intervals "
            f"that hold for all of them reach {_missed(others, measures)} to either side (median), "
            "so changes of that size could have been missed."
        )
    change = _change(max(clear, key=_size), measures, names)
    if len(clear) == 1:
        return f"Of {of_all}, 1 is clear, {change}."
    return (
        f"Of {of_all}, {len(clear):,} are clear; measured in standard deviations, the largest is "
        f"{change}."
    )


def _size(row: Row) -> float:
    return abs(row["standardized"]) if is_number(row["standardized"]) else 0.0


def _change(row: Row, measures: Measures, names: Names) -> str:
    """A change with its place: ``in accuracy on mmlu under gender, ...: -2.1 ... (...)``."""
    of = measures.of_row(row)
    in_sds = f"; {number(row['standardized'], 2)} SD" if is_number(row["standardized"]) else ""
    return (
        f"in {measures.name(row)} under {names.steering(row)}: "
        f"{of.signed(row['change'])} {of.change_unit}".rstrip()
        + f" ({_interval(row, measures)}{in_sds})"
    )


def _missed(rows: Sequence[Row], measures: Measures) -> str:
    """Half of the simultaneous intervals are at least as wide as this, by unit."""
    halves: dict[str, list[float]] = {}
    texts = []
    for row in rows:
        if has_simultaneous(row):
            half = (row["simultaneous_high"] - row["simultaneous_low"]) / 2
            unit = measures.of_row(row).change_unit
            halves.setdefault(unit, []).append(half * measures.of_row(row).times)
    for unit, sizes in halves.items():
        (digits,) = {of.digits for of in measures.shown.values() if of.change_unit == unit}
        texts.append(f"{number(median(sizes), digits)} {unit}".rstrip())
    return enumerated(texts)


def _damage(others: Sequence[Row], measures: Measures, names: Names) -> Iterator[str]:
    """Whether capability or text got worse; the sentence before has it if nothing is clear."""
    rows = [row for row in others if row["kind"] in DAMAGE]
    rows = [row for row in rows if measures.rows[measure_key(row)]["better"] in ("higher", "lower")]
    if not rows:
        return
    kinds = " and ".join(kind for kind in DAMAGE if any(row["kind"] == kind for row in rows))
    of_all = counted(len(rows), "change")
    worse = [row for row in rows if row["is_clear"] and measures.is_worse(row)]
    if worse:
        change = _change(max(worse, key=_size), measures, names)
        num = f"Of {of_all} of {kinds}, {len(worse):,}"
        if len(worse) == 1:
            yield f"{num} is clearly for the worse, {change}."
        else:
            yield f"{num} are clearly for the worse; the largest is {change}."
    else:
        yield (
            f"Of {of_all} of {kinds}, none is clearly for the worse; the intervals reach "
            f"{_missed(rows, measures)} to either side (median)."
        )


def _prompts(model: str, tables: Tables, measures: Measures, names: Names) -> Iterator[str]:
    """Which dose does what a prompt does, and at what side effects."""
    targets = [of for key, of in measures.shown.items() if measures.rows[key]["kind"] == "target"]
    rows = [
        row
        for row in tables["prompt_matches"].to_pylist()
        if row["model"] == model and is_number(row["change"])
    ]
    if not rows or not targets:
        return
    of = targets[0]
    places: dict[tuple[str, str], list[Row]] = {}
    for row in rows:
        places.setdefault((row["prompt"], names.group(row)), []).append(row)
    (prompt, group), found = max(places.items(), key=lambda item: abs(item[1][0]["change"]))
    where = f" on {group}" if names.num_groups > 1 else ""
    has_several = len({name for name, _ in places}) > 1
    most = " the most of all prompts" if has_several else ""
    first = found[0]
    interval = ""
    if is_number(first["change_low"]) and is_number(first["change_high"]):
        interval = f" ({_INTERVAL} for this number alone: "
        interval += f"{of.range(first['change_low'], first['change_high'])})"
    text = (
        f"The prompt “{prompt}” changes the {of.label}{where}{most}, by "
        f"{of.change(first['change'])}{interval}"
    )
    if interval and first["change_low"] <= 0 <= first["change_high"]:
        text += ", which may be no change at all"
    text += "; "
    matching = [row for row in found if row["coeff"] is not None]
    if not matching:
        yield f"{text}no vector of this sweep does the same within its doses."
        return
    compared = [row for row in matching if is_number(row["unintended_of_vector"])]
    best = min(compared or matching, key=lambda row: row["unintended_of_vector"] or 0.0)
    text += f"a vector does the same at layer {best['layer']}, {strength(best)}"
    if compared and is_number(best["unintended_of_prompt"]):
        text += (
            f", with unintended changes of {number(best['unintended_of_vector'], 2)} SD instead "
            f"of {number(best['unintended_of_prompt'], 2)} SD"
        )
    yield f"{text}."
