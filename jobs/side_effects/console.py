"""Side effects on a terminal of 80 columns."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import pyarrow as pa

from jobs.console import print_table, print_tables, say
from jobs.page.words import MINUS, number
from jobs.side_effects.words import (
    SHORT_UNITS,
    Measures,
    Names,
    Row,
    Tables,
    axes_of,
    is_number,
    matrix_rows,
)
from jobs.words import signed

_MOST_PER_GROUP = 3
_STEERING, _MEASURE = 22, 18
"""Characters that a line has room for."""
_UNITS = {"points": "pp", "nats/token": "nats"}
_NOTE = """\
Clear (*): the interval for all changes of a model together excludes 0.
Steerings are those of the best fidelity; the page and summary/ have all.\n"""


def print_side_effects(tables: Tables) -> None:
    """Print, for the best steerings of each group by fidelity, what they moved.

    Args:
        tables: of ``jobs.side_effects.tables``, by name.
    """
    measures, names = Measures.of(tables), Names.of(tables["side_effects"])
    steerings: dict[tuple[object, ...], list[Row]] = {}
    keys = ("model", *axes_of(tables["side_effects"]), "layer", "coeff", "prompt")
    for row in matrix_rows(tables, measures):
        steerings.setdefault(tuple(row[key] for key in keys), []).append(row)
    if not steerings:
        return
    fidelity = {
        tuple(row[key] for key in keys): float(row["fidelity"])
        for row in tables["fidelity"].to_pylist()
        if is_number(row["fidelity"])
    }
    groups: dict[str, list[tuple[float | None, list[Row]]]] = {}
    for key, rows in steerings.items():
        of_group = groups.setdefault(f"\n{names.place(rows[0])}", [])
        of_group.append((fidelity.get(key), rows))
    say("\nSide effects")
    columns = ("steering", "fidelity", "target", "clear", "largest clear")
    print_tables(
        columns,
        [
            (
                place,
                [
                    _line(value, rows, measures, names)
                    for value, rows in sorted(of_group, key=_worse)[:_MOST_PER_GROUP]
                ],
            )
            for place, of_group in groups.items()
        ],
    )
    say(f"\n{_NOTE}")


def _worse(steering: tuple[float | None, list[Row]]) -> tuple[bool, float]:
    """By which steerings are ordered: the largest fidelity first, unknown ones last."""
    value, _ = steering
    return (value is None, -(value or 0.0))


def _line(value: float | None, rows: Sequence[Row], measures: Measures, names: Names) -> list[str]:
    others = [row for row in rows if row["kind"] != "target"]
    clear = [row for row in others if row["is_clear"]]
    largest = max(clear, key=lambda row: abs(row["standardized"] or 0.0), default=None)
    return [
        _cut(names.push(rows[0]), _STEERING),
        "-" if value is None else _ascii(number(value, 2)),
        "".join(_target(rows, measures)) or "-",
        f"{len(clear)} of {len(others)}",
        "none" if largest is None else _change(largest, measures),
    ]


def _target(rows: Sequence[Row], measures: Measures) -> Iterator[str]:
    for row in rows:
        if row["kind"] == "target":
            yield _ascii(measures.of_row(row).signed(row["change"]))
            yield "*" if row["is_clear"] else ""


def _change(row: Row, measures: Measures) -> str:
    of = measures.of_row(row)
    unit = _UNITS.get(SHORT_UNITS[of.change_unit], "")
    name = f"{measures.set_title(row)} {row['metric']}".strip()
    return f"{_cut(name, _MEASURE)} {_ascii(of.signed(row['change']))} {unit}".rstrip()


def print_picked(picked: pa.Table) -> None:
    """Print the steerings that ``report --pick`` found, best first, in the units of the metric."""
    rows = picked.to_pylist()
    if not rows:
        say("No steering reaches this change.")
        return
    names = Names.of(picked)
    several = names.num_groups > 1 or names.num_models > 1
    say(f"\nSteerings that reach the change of {rows[0]['metric']}, least side effects first")
    print_table(
        "",
        ("rank", "steering", "change (95 %)", "unintended", "holds"),
        [
            [
                str(row["rank"]),
                _ascii(f"{names.place(row)}, {names.push(row)}" if several else names.push(row)),
                _ranged(row, "change"),
                number(row["unintended"], 2) if is_number(row["unintended"]) else "-",
                "yes" if row["still_holds"] else "no",
            ]
            for row in rows
        ],
    )
    say(
        "\nChosen on one half of the clusters. Changes and unintended changes (in standard\n"
        "deviations) are of the other half, which did not choose.\n"
    )


def _ranged(row: Row, name: str) -> str:
    value, low, high = (row[f"{name}{end}"] for end in ("", "_low", "_high"))
    if not is_number(value):
        return "-"
    has_range = is_number(low) and is_number(high)
    return f"{signed(value)} ({signed(low)}, {signed(high)})" if has_range else signed(value)


def _ascii(text: str) -> str:
    return text.replace(MINUS, "-")


def _cut(text: str, most: int) -> str:
    text = _ascii(text)
    return text if len(text) <= most else f"{text[: most - 3]}..."
