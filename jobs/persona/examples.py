"""What a persona sweep asks, as the table ``examples.parquet``."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import pyarrow as pa

from jobs.data_source import source_of_persona
from jobs.persona.plan import POLARITIES, contrast_rows, steered_rows
from jobs.persona.resolve import PersonaSweep
from jobs.persona.tables import ANSWERS_SCHEMA

_PROMPT = ("instruction", "polarity", "system", "question_index", "question")
EXAMPLES_SCHEMA = pa.schema(
    [
        ("trait", pa.string()),
        ("phase", pa.string()),
        *((name, ANSWERS_SCHEMA.field(name).type) for name in _PROMPT),
    ]
)
"""One row per distinct prompt. In phase ``steered`` there is no instruction: ``instruction``,
``polarity`` and ``system`` are null."""
_ROWS_AT_ONCE = 4096

_Row = Mapping[str, Any]


def sweep_examples(sweep: PersonaSweep) -> pa.Table:
    """Every prompt of the sweep, trait by trait, those of contrasted answers first."""
    rows: dict[tuple[Any, ...], _Row] = {}
    model = next(iter(sweep.models.values()))  # all models are asked the same
    for name, trait in sweep.traits.items():
        # A trait whose vectors come from a file has no contrasted answers.
        contrasted = contrast_rows(sweep, model, name) if trait.vectors is None else ()
        steered = steered_rows(sweep, model, name)
        for phase, asked in (("contrast", contrasted), ("steered", steered)):
            for answer in asked:
                prompt = {column: getattr(answer, column) for column in _PROMPT}
                rows.setdefault(
                    (name, phase, *prompt.values()), {"trait": name, "phase": phase, **prompt}
                )
    return _table(rows.values())


def examples_of_answers(answers: Iterable[pa.Table]) -> pa.Table:
    """The prompts that stored answers were given to, in the order of ``sweep_examples``.

    Args:
        answers: tables with the columns ``trait`` and ``phase``, in the order of the traits.
    """
    rows: dict[tuple[Any, ...], _Row] = {}
    for table in answers:
        for batch in table.select(EXAMPLES_SCHEMA.names).to_batches(_ROWS_AT_ONCE):
            for row in batch.to_pylist():
                rows.setdefault(tuple(row.values()), row)
    traits = list(dict.fromkeys(row["trait"] for row in rows.values()))

    def order(row: _Row) -> tuple[Any, ...]:
        is_contrast = row["phase"] == "contrast"
        polarity = POLARITIES.index(row["polarity"]) if is_contrast else 0
        instruction = row["instruction"] if is_contrast else 0
        return (
            traits.index(row["trait"]),
            row["phase"],
            instruction,
            row["question_index"],
            polarity,
        )

    return _table(sorted(rows.values(), key=order))


def _table(rows: Iterable[_Row]) -> pa.Table:
    schema = EXAMPLES_SCHEMA.with_metadata(source_of_persona().metadata())
    return pa.Table.from_pylist(list(rows), schema=schema)
