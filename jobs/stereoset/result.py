"""The result of a sweep as a short table: what each coefficient did, pooled over the rest.

The numbers are those of ``summary/cells`` and ``summary/pooled``; nothing is estimated here.
"""

from __future__ import annotations

import textwrap
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import pyarrow as pa

from jobs.console import print_tables, say
from jobs.scoring.push import push_of
from jobs.stereoset.headline import averages, sentences
from jobs.stereoset.labels import CHANGES
from jobs.stereoset.summary_keys import POOLED
from jobs.words import coefficient, count, signed

KEYS = ("model", "split", "bias_type", "layer", "coeff")
_MOST_ROWS = 60
_MOST_SENTENCES = 8
_POOLABLE = ("bias_type", "layer")
_COLUMNS = ("coeff", "S→A (95 % interval)", "U→A", "S→U", "changed", "LMS")
_FOOTNOTE = """\
S→A: mean change of score(anti-stereotype) - score(stereotype) in nats per
     scored token. Above 0: steering made the anti-stereotype more likely.
U→A: the same for score(anti-stereotype) - score(unrelated).
{s2u}changed: share of examples for which another candidate is now the likeliest.
LMS: StereoSet's language modeling score in percent, before → after."""
_S2U = "S→U: the same for score(unrelated) - score(stereotype).\n"
_BOTH_COLUMNS = ("coeff", "vectors", *_COLUMNS[1:3], *_COLUMNS[4:])
"""Without S→U, which is S→A minus U→A: the table would be wider than 80 columns."""
_BOTH_FOOTNOTE = """\
in-sample: vectors fitted to the examples that they steer; held-out: to
     examples about other target terms. Findings are made from held-out rows.
difference: in-sample minus held-out, paired by target term; what in-sample
     vectors owe to having been fitted to these examples.\n"""

Row = Mapping[str, Any]


def print_result(
    cells: pa.Table,
    pooled: pa.Table,
    headline: pa.Table,
    by: frozenset[str] | None = None,
    *,
    held_out: Sequence[Row] = (),
    differences: Sequence[Row] = (),
) -> None:
    """Print the paper's headline, and one row per model, split, coefficient and column of ``by``.

    Args:
        by: columns to separate; None: the short form, which says how to get more.
        held_out: cells and pooled cells of held-out vectors, if ``cells`` are of in-sample ones
            and both are there.
        differences: rows of ``summary/differences``; those of in-sample from held-out are used.
    """
    rows = select([*cells.to_pylist(), *pooled.to_pylist()], by or frozenset())
    if not rows:
        say("No result yet: no cell of the sweep is complete.")
        return
    num_all = len(rows)
    if by is None:
        rows = rows[:_MOST_ROWS]
    has_layers = len({row["layer"] for row in rows}) > 1
    other = {tuple(row[key] for key in KEYS): row for row in held_out}
    paired = _paired(differences)
    groups: dict[str, list[list[str]]] = {}
    for row in rows:
        key = tuple(row[name] for name in KEYS)
        lines = _of_both(row, other.get(key), paired.get(key, {})) if other else [_cells_of(row)]
        for shown in lines:
            if has_layers:
                shown.insert(0, "all" if row["layer"] is None else str(row["layer"]))
            groups.setdefault(_heading(row, has_layers=has_layers), []).append(shown)
    _print_headline(headline.to_pylist())
    say()
    say(f"Change caused by steering{_pooled_over(rows, cells)}")
    columns = [*(["layer"] if has_layers else []), *(_BOTH_COLUMNS if other else _COLUMNS)]
    print_tables(columns, [(f"\n{heading}", of) for heading, of in groups.items()])
    footnote = _FOOTNOTE.format(s2u="" if other else _S2U)
    say(f"\n{_BOTH_FOOTNOTE if other else ''}{footnote}\n")
    if (push := push_of(cells.to_pylist())) is not None:
        say(f"{push.sentence()}\n")
    if len(rows) < num_all:
        say(f"These are {len(rows)} of {num_all:,} rows; `steersweep report --by coeff` has all.")


def _print_headline(rows: Sequence[Row]) -> None:
    if not rows:
        return
    say("\n" + textwrap.fill(f"The paper's headline. {averages(rows)}", 80))
    texts = sentences(rows)
    for sentence in texts[:_MOST_SENTENCES]:
        say(
            textwrap.fill(
                sentence,
                78,
                initial_indent="  ",
                subsequent_indent="    ",
                break_on_hyphens=False,
            )
        )
    if len(texts) > _MOST_SENTENCES:
        say(f"  ({len(texts) - _MOST_SENTENCES:,} more in summary/headline.csv)")


def select(rows: Iterable[Row], by: frozenset[str]) -> list[Row]:
    """The rows that are pooled over the most, but not over what ``by`` names.

    A row pooled over an axis is there only if the sweep has several values on it and all of them
    are complete. So each model, split and coefficient takes the first level that it has.
    """
    levels = [frozenset(axes) - by for axes in (_POOLABLE, ("bias_type",), ("layer",), ())]
    found: dict[tuple[str, str, float], dict[frozenset[str], list[Row]]] = {}
    for row in rows:
        if row["split"] != POOLED:
            level = frozenset(axis for axis in _POOLABLE if row[axis] in (POOLED, None))
            of_key = found.setdefault((row["model"], row["split"], row["coeff"]), {})
            of_key.setdefault(level, []).append(row)
    chosen = [
        row
        for of_key in found.values()
        for row in next((of_key[level] for level in levels if level in of_key), [])
    ]
    return sorted(
        chosen,
        key=lambda r: (r["model"], r["split"], r["bias_type"], r["layer"] or 0, r["coeff"]),
    )


def as_json(rows: Sequence[Row], vectors: str) -> list[dict[str, Any]]:
    """The numbers of the table, unrounded; null where one is not defined.

    Args:
        vectors: what steered these rows.
    """
    estimates = [f"{name}{end}" for name in CHANGES for end in ("", "_low", "_high")]
    return [
        {key: _finite(row[key]) for key in (*KEYS, "num_examples", *estimates)}
        | {
            "vectors": vectors,
            "changed": _finite(row["changed"]),
            "lms_before": _finite(_before(row)),
            "lms": _finite(row["lms"]),
            "dose": _finite(row.get("dose")),
        }
        for row in rows
    ]


def _before(row: Row) -> float | None:
    if _finite(row["lms"]) is None or _finite(row["lms_change"]) is None:
        return None
    return float(row["lms"] - row["lms_change"])


def _finite(value: Any) -> Any:
    is_number = isinstance(value, float)
    return None if is_number and not float("-inf") < value < float("inf") else value


def _paired(differences: Iterable[Row]) -> dict[tuple[Any, ...], dict[str, Row]]:
    """By place and estimate, in-sample minus held-out."""
    found: dict[tuple[Any, ...], dict[str, Row]] = {}
    for row in differences:
        if row["kind"] == "held_out":
            found.setdefault(tuple(row[key] for key in KEYS), {})[row["estimate"]] = row
    return found


def _of_both(
    in_sample: Row, held_out: Row | None, differences: Mapping[str, Row]
) -> list[list[str]]:
    """The lines of in-sample and held-out vectors at one place, and of their difference."""
    lines = []
    for name, row in (("in-sample", in_sample), ("held-out", held_out)):
        if row is not None:
            coeff, s2a, u2a, _, *rest = _cells_of(row)
            lines.append([coeff, name, s2a, u2a, *rest])
    if s2a_row := differences.get("s2a"):
        u2a_row = differences.get("u2a")
        lines.append(
            [
                coefficient(in_sample["coeff"]),
                "difference",
                f"{_signed(s2a_row['difference'])} "
                f"({_signed(s2a_row['low'])}, {_signed(s2a_row['high'])})",
                "-" if u2a_row is None else _signed(u2a_row["difference"]),
                "",
                "",
            ]
        )
    return lines


def _cells_of(row: Row) -> list[str]:
    share, before, after = _finite(row["changed"]), _before(row), _finite(row["lms"])
    interval = f"({_signed(row['s2a_low'])}, {_signed(row['s2a_high'])})"
    return [
        coefficient(row["coeff"]),
        f"{_signed(row['s2a'])} {interval}",
        _signed(row["u2a"]),
        _signed(row["s2u"]),
        "-" if share is None else f"{100 * share:.1f} %",
        "-" if before is None or after is None else f"{before:.1f} → {after:.1f}",
    ]


def _signed(value: float | None) -> str:
    return "-" if value is None or _finite(value) is None else signed(value)


def _heading(row: Row, *, has_layers: bool) -> str:
    """What tells a group of rows from the others, and how many examples it has."""
    names = [row["model"], row["split"]]
    if row["bias_type"] != POOLED:
        names.append(row["bias_type"])
    if row["layer"] is not None and not has_layers:
        names.append(f"layer {row['layer']}")
    return f"{', '.join(names)} ({count(row['num_examples'], 'example')})"


def _pooled_over(rows: Sequence[Row], cells: pa.Table) -> str:
    """Over what all rows are pooled, in words."""
    over = []
    for axis, noun in (("bias_type", "bias type"), ("layer", "layer")):
        if all(row[axis] in (POOLED, None) for row in rows):
            over.append(count(len(set(cells[axis].to_pylist())), noun))
    return f", over {' and '.join(over)}" if over else ""
