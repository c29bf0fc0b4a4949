"""Columns of the summary of side effects (a contract: other tools read them).

A *steering* is a model, a vector (its group's values by axis), a layer and a coefficient; or a
prompt and the group on which its effect is compared, without layer and coefficient. A *measure* is
a data set, a group of it and a metric: a column of the matrix.
"""

from __future__ import annotations

from collections.abc import Sequence

import pyarrow as pa

_TEXT, _NUMBER, _COUNT, _FLAG = pa.string(), pa.float64(), pa.int32(), pa.bool_()


def steering_fields(axes: Sequence[str]) -> list[tuple[str, pa.DataType]]:
    """Columns that tell steerings apart; ``prompt`` is empty if a vector steers."""
    return [
        ("model", _TEXT),
        *((axis, _TEXT) for axis in axes),
        ("layer", _COUNT),
        ("coeff", _NUMBER),
        ("prompt", _TEXT),
    ]


MEASURE_KEYS = ("set", "group", "metric")
"""Columns that tell measures apart."""


def side_effects_schema(axes: Sequence[str]) -> pa.Schema:
    """Columns of ``side_effects``: a row for each steering and measure.

    ``group`` is empty for a whole data set, ``key=value`` for a part of it, and of transfer the
    group of the sweep's data, ``intersentence/race``. ``kind`` is ``target`` for what steering is
    meant to raise, otherwise ``own``, ``transfer``, ``bias``, ``capability``, ``text`` or
    ``other``.

    ``change_low`` and ``change_high`` are a 95 % interval for one number alone.
    ``simultaneous_low``, ``simultaneous_high`` and ``p`` hold for all changes of the model's matrix
    together, and ``is_clear`` says that both intervals exclude 0. They are null in rows that are
    not in the matrix: parts of a data set, coefficient 0, measures that are not ``in_matrix``, and
    other vectors where the matrix has held-out ones. If too few clusters or an undefined change
    allow no statement, ``is_clear`` is false and the others are null.

    ``standardized`` is the change in standard deviations over examples without steering.
    """
    return pa.schema(
        [
            *steering_fields(axes),
            ("dose", _NUMBER),
            ("vectors", _TEXT),
            ("kind", _TEXT),
            *((key, _TEXT) for key in MEASURE_KEYS),
            *((name, _NUMBER) for name in ("before", "after", "change")),
            ("change_low", _NUMBER),
            ("change_high", _NUMBER),
            ("num_examples", _COUNT),
            ("num_clusters", _COUNT),
            ("standardized", _NUMBER),
            ("p", _NUMBER),
            ("simultaneous_low", _NUMBER),
            ("simultaneous_high", _NUMBER),
            ("is_clear", _FLAG),
        ]
    )


MEASURES_SCHEMA = pa.schema(
    [
        ("kind", _TEXT),
        *((key, _TEXT) for key in MEASURE_KEYS),
        ("in_matrix", _FLAG),
        *((name, _TEXT) for name in ("label", "unit", "better", "formula", "source")),
    ]
)
"""Columns of ``measures``: what the numbers of a measure are, in the order of the matrix."""


def fidelity_schema(axes: Sequence[str]) -> pa.Schema:
    """Columns of ``fidelity``: a row for each steering that has a target, but for coefficient 0.

    ``intended`` and ``unintended`` are in standard deviations over examples (docs/statistics.md).
    ``unintended`` and ``fidelity`` are null if a steering was not measured on all data that counts
    there; ``num_measures``: changes that count. ``is_best``: it goes where it is meant to, and no
    other steering of the same model and group has as large an intended and as small an unintended
    change, and one of them better.
    """
    ranged = ("intended", "unintended", "fidelity")
    return pa.schema(
        [
            *steering_fields(axes),
            ("dose", _NUMBER),
            *((f"{name}{end}", _NUMBER) for name in ranged for end in ("", "_low", "_high")),
            ("num_measures", _COUNT),
            ("is_best", _FLAG),
        ]
    )


def prompt_matches_schema(axes: Sequence[str]) -> pa.Schema:
    """Columns of ``prompt_matches``: which dose of each vector does what a prompt does.

    ``change`` is the prompt's change of the target; ``coeff`` and ``dose`` are interpolated between
    cells of the layer, null if none of them reaches it. ``unintended_of_prompt`` and
    ``unintended_of_vector`` compare what else moves, in standard deviations.
    """
    names = ("change", "change_low", "change_high", "coeff", "dose")
    more = ("unintended_of_prompt", "unintended_of_vector")
    return pa.schema(
        [
            ("model", _TEXT),
            *((axis, _TEXT) for axis in axes),
            ("prompt", _TEXT),
            ("layer", _COUNT),
            *((name, _NUMBER) for name in (*names, *more)),
        ]
    )


def picked_schema(axes: Sequence[str]) -> pa.Schema:
    """Columns of ``picked``: steerings that reach an intended change, best first.

    They are chosen by ``change_choosing`` and ``unintended_choosing`` on one half of the clusters.
    ``change``, ``unintended`` and ``still_holds`` are of the other half, which did not choose.
    """
    ranged = [f"{n}{end}" for n in ("change", "unintended") for end in ("", "_low", "_high")]
    return pa.schema(
        [
            ("rank", _COUNT),
            *steering_fields(axes),
            ("dose", _NUMBER),
            ("metric", _TEXT),
            ("change_choosing", _NUMBER),
            ("unintended_choosing", _NUMBER),
            *((name, _NUMBER) for name in ranged),
            ("still_holds", _FLAG),
        ]
    )
