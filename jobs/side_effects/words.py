"""What readers call steerings, measures and kinds, on pages, in figures and on terminals."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa

from jobs.page.shown import Shown, shown_of
from jobs.page.words import MINUS, coefficient
from jobs.side_effects.rows import OWN
from jobs.side_effects.tables import MEASURE_KEYS

KINDS = {
    "target": "target",
    "own": "same data",
    "transfer": "other groups of the data",
    "bias": "bias",
    "capability": "capability",
    "text": "text",
    "other": "other",
}
"""In the order of the matrix."""
DAMAGE = ("capability", "text")
"""Kinds whose changes for the worse are damage."""
SHORT_UNITS = {"percentage points": "points", "nats per token": "nats/token", "": ""}

Row = Mapping[str, Any]
Tables = Mapping[str, pa.Table]
MeasureKey = tuple[str, ...]


def axes_of(table: pa.Table) -> tuple[str, ...]:
    """Columns that name a vector's group: those between ``model`` and ``layer``."""
    names = table.schema.names
    between = names[names.index("model") + 1 : names.index("layer")]
    return tuple(name for name in between if name != "prompt")


@dataclass(frozen=True)
class Names:
    """Names of steerings, without what is the same for all of them.

    Attributes:
        axes: that differ; one at least.
        num_models, num_groups: that a table has.
    """

    axes: tuple[str, ...]
    num_models: int = 1
    num_groups: int = 1

    @classmethod
    def of(cls, table: pa.Table) -> Names:
        """Names for the steerings of a table, which has the columns of a steering."""
        axes, rows = axes_of(table), table.to_pylist()
        several = tuple(axis for axis in axes if len({row[axis] for row in rows}) > 1)
        return cls(
            several or axes[-1:],
            len({row["model"] for row in rows}),
            len({tuple(row[axis] for axis in axes) for row in rows}),
        )

    def group(self, row: Row) -> str:
        """The group of a vector, or that a prompt is compared on: ``gender``."""
        return "/".join(str(row[axis]) for axis in self.axes)

    def place(self, row: Row) -> str:
        """Model and group: the model only if there are several."""
        return ", ".join([*self._model(row), self.group(row)])

    def push(self, row: Row) -> str:
        """What steers, within a group: ``layer 15, dose 0.2``, ``prompt fair``."""
        if row.get("prompt"):
            return f"prompt {row['prompt']}"
        return f"layer {row['layer']}, {strength(row)}"

    def steering(self, row: Row) -> str:
        """What steers, within a model: ``gender, layer 15, dose 0.2``, ``prompt fair``."""
        if row.get("prompt") and self.num_groups == 1:
            return self.push(row)
        return f"{self.group(row)}, {self.push(row)}"

    def _model(self, row: Row) -> list[str]:
        return [row["model"]] if self.num_models > 1 else []


def strength(row: Row) -> str:
    """How strongly a vector steers: ``dose 0.2``; without known doses ``coefficient 400``."""
    if row["dose"] is None:
        return f"coefficient {coefficient(row['coeff'])}"
    return f"dose {signed_dose(row)}"


def signed_dose(row: Row) -> str:
    """A dose with three digits and the sign of its coefficient."""
    size = f"{abs(row['dose']):.3g}"
    return f"{MINUS}{size}" if row["coeff"] < 0 else size


@dataclass(frozen=True)
class Measures:
    """The measures of a summary by their keys, in the order of the matrix."""

    rows: Mapping[MeasureKey, Row]
    shown: Mapping[MeasureKey, Shown] = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "shown", {key: shown_of(row) for key, row in self.rows.items()})

    @classmethod
    def of(cls, tables: Tables) -> Measures:
        """Those of the matrix."""
        rows = tables["measures"].to_pylist()
        return cls({measure_key(row): row for row in rows if row["in_matrix"]})

    def of_row(self, row: Row) -> Shown:
        """How the numbers of a row of ``side_effects`` are written."""
        return self.shown[measure_key(row)]

    def set_title(self, row: Row) -> str:
        """Where a measure is taken: the data set; the group for transfer; empty for the own data.

        Of groups, what all have in common at their start is left out: ``race``.
        """
        group = str(row["group"])
        if row["set"] != OWN:
            return f"{row['set']}, {group}" if group else str(row["set"])
        starts = {
            of["group"].rpartition("/")[0] for of in self.rows.values() if of["kind"] == "transfer"
        }
        return group.rpartition("/")[2] if len(starts) == 1 else group

    def name(self, row: Row) -> str:
        """What a row measures, in a sentence: ``accuracy on mmlu``."""
        where = self.set_title(row)
        label = self.of_row(row).label
        return f"{label} on {where}" if where else label

    def of_name(self, name: str) -> Shown | None:
        """The measure that a condition names: ``gap``, ``mmlu.acc``, ``intersentence/race.gap``."""
        for key, row in self.rows.items():
            start = row["group"] or ("" if row["set"] == OWN else row["set"])
            if name == (f"{start}.{row['metric']}" if start else row["metric"]):
                return self.shown[key]
        return None

    def is_worse(self, row: Row) -> bool:
        """Whether a change is for the worse; False if no way is better."""
        better = self.rows[measure_key(row)]["better"]
        return bool({"higher": row["change"] < 0, "lower": row["change"] > 0}.get(better, False))


def measure_key(row: Row) -> MeasureKey:
    """What tells a measure apart."""
    return tuple(row[key] for key in MEASURE_KEYS)


def matrix_rows(tables: Tables, measures: Measures) -> list[Row]:
    """The cells of the matrix that have a number; rows outside of it have no ``is_clear``."""
    return [
        row
        for row in tables["side_effects"].to_pylist()
        if row["is_clear"] is not None
        and measure_key(row) in measures.rows
        and is_number(row["change"])
    ]


def is_number(value: float | None) -> bool:
    """Whether it is known and finite."""
    return value is not None and math.isfinite(value)


def has_simultaneous(row: Row) -> bool:
    """Whether a row has the interval that holds for the whole matrix."""
    return is_number(row["simultaneous_low"]) and is_number(row["simultaneous_high"])


def models_of(rows: Iterable[Row]) -> list[str]:
    """Names of models in their order."""
    return list(dict.fromkeys(row["model"] for row in rows))
