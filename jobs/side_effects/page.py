"""What a job's page shows of side effects: the matrix, the Pareto figure, tables and warnings."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

import pyarrow as pa

from jobs.page.cautions import FEW_CLUSTERS, Caution
from jobs.page.matrix import (
    Filter,
    Matrix,
    MatrixCell,
    MatrixColumn,
    MatrixRow,
    RowGroup,
    csv_columns,
    level,
)
from jobs.page.page import PageContent
from jobs.page.shown import Shown
from jobs.page.views import Figure, View, plain_number
from jobs.page.words import PERCENT, counted, number
from jobs.side_effects.finding import finding_of
from jobs.side_effects.page_tables import tables_of
from jobs.side_effects.words import (
    KINDS,
    SHORT_UNITS,
    MeasureKey,
    Measures,
    Names,
    Row,
    Tables,
    has_simultaneous,
    is_number,
    matrix_rows,
    measure_key,
    models_of,
)

_FILE = "side_effects.csv"


def with_side_effects(page: PageContent, tables: Tables | None) -> PageContent:
    """The page with everything about side effects; the page as it is without tables of them."""
    if tables is None or not matrix_rows(tables, Measures.of(tables)):
        return page
    return replace(
        page,
        finding=[*page.finding, *finding_of(tables)],
        cautions=[*page.cautions, *cautions_of(tables)],
        matrix=replace(matrix_of(tables), figures=figures_of(tables)),
        tables=[*tables_of(tables), *page.tables],
    )


def matrix_of(tables: Tables) -> Matrix:
    """The matrix: a row for each steering, a column for each measure that has a number."""
    measures, names = Measures.of(tables), Names.of(tables["side_effects"])
    rows = matrix_rows(tables, measures)
    measured = {measure_key(row) for row in rows}
    keys = [key for key in measures.rows if key in measured]
    filters = _filters(rows, names)
    groups: dict[str, dict[tuple[Any, ...], list[Row]]] = {names.place(row): {} for row in rows}
    # Groups in the order of the table; in each, layers, then coefficients, and prompts last.
    for row in sorted(rows, key=lambda row: (row["prompt"], row["layer"] or 0, row["coeff"] or 0)):
        of_group = groups[names.place(row)]
        of_group.setdefault((row["prompt"], row["layer"], row["coeff"]), []).append(row)
    return Matrix(
        caption="What each steering changed, against the same examples without steering.",
        corner="layer, dose" if any(row["dose"] is not None for row in rows) else "steering",
        columns=tuple(_column(measures.rows[key], measures) for key in keys),
        groups=tuple(
            RowGroup(
                title,
                tuple(
                    MatrixRow(
                        names.push(cells[0]),
                        tuple(_pick(cells[0], of, names) for of in filters),
                        _cells(cells, keys, measures),
                    )
                    for cells in steerings.values()
                ),
            )
            for title, steerings in groups.items()
        ),
        filters=filters,
        clear=_clear(rows),
        csv=csv_columns(pa.Table.from_pylist(rows, schema=tables["side_effects"].schema)),
        file=_FILE,
    )


def _clear(rows: Sequence[Row]) -> str:
    tested = Counter(row["model"] for row in rows if has_simultaneous(row))
    num = max(tested.values(), default=0)
    return (
        f"its 95{PERCENT} interval, which holds for all {counted(num, 'change')} of a model "
        "together, excludes 0."
    )


def _column(row: Row, measures: Measures) -> MatrixColumn:
    shown = measures.of_row(row)
    return MatrixColumn(
        KINDS[row["kind"]],
        measures.set_title(row),
        shown.label,
        SHORT_UNITS[shown.change_unit],
        row["better"],
        f"{row['formula']} ({row['source']})" if row["source"] else row["formula"],
    )


def _cells(
    rows: Sequence[Row], keys: Sequence[MeasureKey], measures: Measures
) -> tuple[MatrixCell | None, ...]:
    by_key = {measure_key(row): row for row in rows}
    return tuple(_cell(by_key[key], measures.shown[key]) if key in by_key else None for key in keys)


def _cell(row: Row, shown: Shown) -> MatrixCell:
    return MatrixCell(
        shown.signed(row["change"]),
        level(row["standardized"]),
        bool(row["is_clear"]),
        _title(row, shown),
    )


def _title(row: Row, shown: Shown) -> str:
    """The change with what does not fit into a cell."""
    parts = [f"{shown.signed(row['change'])} {SHORT_UNITS[shown.change_unit]}".rstrip()]
    if has_simultaneous(row):
        parts[0] += f" ({shown.range(row['simultaneous_low'], row['simultaneous_high'])})"
    if is_number(row["before"]) and is_number(row["after"]):
        parts.append(f"from {shown.text(row['before'])} to {shown.text(row['after'])}")
    if is_number(row["standardized"]):
        parts.append(f"{number(row['standardized'], 2)} SD")
    return "; ".join([*parts, f"n = {row['num_examples']:,}"])


def _filters(rows: Sequence[Row], names: Names) -> tuple[Filter, ...]:
    """Of what differs: models, groups and layers."""
    layers = sorted({row["layer"] for row in rows} - {None})
    found = (
        Filter("model", tuple(models_of(rows))),
        Filter("group", tuple(dict.fromkeys(names.group(row) for row in rows))),
        Filter("layer", tuple(map(str, layers))),
    )
    return tuple(of for of in found if len(of.labels) > 1)


def _pick(row: Row, of: Filter, names: Names) -> int:
    if of.title == "layer" and row["layer"] is None:
        return -1
    label = {"model": row["model"], "group": names.group(row), "layer": str(row["layer"])}[of.title]
    return of.labels.index(label)


def figures_of(tables: Tables) -> list[Figure]:
    """The Pareto figure: intended against unintended changes of every steering."""
    rows = [row for row in tables["fidelity"].to_pylist() if _has_point(row)]
    if not rows:
        return []
    names = Names.of(tables["fidelity"])
    places = dict.fromkeys((row["model"], names.group(row)) for row in rows)
    views = [
        View(
            place,
            _series([row for row in rows if (row["model"], names.group(row)) == place], names),
        )
        for place in places
    ]
    # Every combination of labels needs a view, or the reader could choose one that is not there.
    models, groups = (list(dict.fromkeys(labels)) for labels in zip(*places, strict=True))
    views += [
        View((model, group), [])
        for model in models
        for group in groups
        if (model, group) not in places
    ]
    return [
        Figure(
            "pareto",
            "Intended and unintended change",
            "Every steering, in standard deviations (SD) over examples without steering. Up: it "
            "moves the target more. Left: it moves other measures less. The line joins the "
            "vectors that no other steering beats in both. "
            f"Whiskers of these and of prompts: 95{PERCENT} intervals, each for one number alone.",
            "scatter",
            "unintended change, SD",
            "intended change, SD",
            ("model", "group"),
            views,
            is_wide=True,
            digits=3,
        )
    ]


def _has_point(row: Row) -> bool:
    return is_number(row["intended"]) and is_number(row["unintended"])


def _series(rows: Sequence[Row], names: Names) -> list[dict[str, Any]]:
    vectors = [row for row in rows if not row["prompt"]]
    best = sorted((row for row in vectors if row["is_best"]), key=lambda row: row["unintended"])
    return [
        points(title, of, names, is_line=is_line, has_whiskers=has_whiskers)
        for title, of, is_line, has_whiskers in (
            ("vectors", [row for row in vectors if not row["is_best"]], False, False),
            ("vectors that no other beats", best, True, True),
            ("prompts", [row for row in rows if row["prompt"]], False, True),
        )
    ]


def points(
    title: str, rows: Sequence[Row], names: Names, *, is_line: bool, has_whiskers: bool
) -> dict[str, Any]:
    """A series of a scatter figure."""
    ends = {
        f"{axis}_{end}": [plain_number(row[f"{name}_{end}"]) for row in rows]
        for axis, name in (("x", "unintended"), ("y", "intended"))
        for end in ("low", "high")
    }
    return {
        "name": title,
        "x": [plain_number(row["unintended"]) for row in rows],
        "y": [plain_number(row["intended"]) for row in rows],
        **(ends if has_whiskers else {}),
        "texts": [names.push(row) for row in rows],
        "is_line": is_line,
    }


def cautions_of(tables: Tables) -> list[Caution]:
    """What a reader must know before trusting the matrix."""
    measures = Measures.of(tables)
    rows = matrix_rows(tables, measures)
    return [*_in_sample(rows), *_few_clusters(rows, measures), *_untested(rows)]


def _in_sample(rows: Sequence[Row]) -> Iterator[Caution]:
    if any(row["kind"] == "target" and row["vectors"] == "in_sample" for row in rows):
        yield Caution(
            "In the matrix of side effects, the target is measured on the examples that the "
            "vectors were fitted to, and other data are not. So the intended change, and fidelity "
            "with it, is likely overstated."
        )


def _few_clusters(rows: Sequence[Row], measures: Measures) -> Iterator[Caution]:
    few = {
        f"{measures.set_title(row) or 'same data'}: {counted(row['num_clusters'], 'cluster')}"
        for row in rows
        if row["num_clusters"] < FEW_CLUSTERS
    }
    if few:
        yield Caution.of(
            f"Side effects on these data are measured on fewer than {FEW_CLUSTERS} clusters of "
            "examples. Their intervals are wide, and few of their changes can be clear:",
            sorted(few),
        )


def _untested(rows: Sequence[Row]) -> Iterator[Caution]:
    num = sum(not has_simultaneous(row) for row in rows)
    if num:
        yield Caution(
            f"{num:,} of {counted(len(rows), 'change')} in the matrix of side effects have no "
            "interval, so they cannot be clear."
        )
