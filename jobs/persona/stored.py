"""What a persona output holds, finished or not: its parts by group, and answers with scores."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Literal

import numpy as np
import pandas as pd
import pyarrow as pa

from cluster.parts import read_part
from cluster.storage import Storage
from jobs.persona.index import Group, Parts
from jobs.persona.tables import ANSWERS_SCHEMA, PROJECTIONS_SCHEMA, SCORES_SCHEMA, Phase, rows_of
from jobs.sweeps.parts import PartRef
from steering_core.vectors import from_safetensors

GroupPhase = tuple[Group, Phase]
_PHASES: tuple[Phase, ...] = ("contrast", "steered")

_FIRST = ("layer", "coeff", "positions", "question", "answer", "trait_score", "coherence")
_MORE = (
    "row_id",
    "rollout",
    "instruction",
    "polarity",
    "trait_outcome",
    "coherence_outcome",
    "ended_by",
)
_IDS = ("prompt_ids", "answer_ids")
"""Left out of tables for readers: they have the counts, and the parts have the ids."""


def _answers_schema() -> pa.Schema:
    stored = {field.name: field for field in (*ANSWERS_SCHEMA, *SCORES_SCHEMA)}
    first = [stored.pop(name) for name in (*_FIRST, *_MORE)]
    rest = [field for name, field in stored.items() if name not in _IDS]
    group = [(name, pa.string()) for name in ("model", "trait", "phase")]
    counts = [(f"num_{name.removesuffix('_ids')}_tokens", pa.int32()) for name in _IDS]
    return pa.schema([*group, *first, *rest, *counts])


JUDGED_SCHEMA = _answers_schema()
"""Columns of answers with their scores, which are null where an answer has not been judged yet."""


def parts_of(
    storage: Storage, parts: Parts, table: Literal["answers", "scores", "projections"]
) -> dict[GroupPhase, list[PartRef]]:
    """The parts of a table by group and phase: those that count, and those of the stage under way.

    The index names a stage's parts when the stage has ended. Until then, whatever storage lists
    for a group and phase that is planned belongs to it.
    """
    named: Mapping[GroupPhase, Sequence[PartRef]] = getattr(parts, table)
    found = {key: list(refs) for key, refs in named.items()}
    for entry in storage.list(f"{table}/"):
        key = _group_of(entry.key)
        # Without a plan, nothing tells the parts of an earlier grid: all of them are taken.
        is_planned = key in parts.num_rows or not parts.num_rows
        if key is None or key in named or not is_planned:
            continue
        task_id = entry.key.rpartition("/")[2].removesuffix(".parquet")
        found.setdefault(key, []).append(PartRef(entry.key, task_id))
    return found


def _group_of(key: str) -> GroupPhase | None:
    """The group and phase in the key of a part; None if the key is of something else."""
    folders = dict(part.split("=", 1) for part in key.split("/")[1:-1] if "=" in part)
    phase = next((name for name in _PHASES if name == folders.get("phase")), None)
    if phase is None or not {"model", "trait"} <= folders.keys() or not key.endswith(".parquet"):
        return None
    return Group(folders["model"], folders["trait"]), phase


def judged_answers(storage: Storage, parts: Parts) -> Iterator[pa.Table]:
    """Answers with their scores, one table per group and phase (``JUDGED_SCHEMA``).

    Raises:
        CorruptPartError: a damaged part.
    """
    scores = parts_of(storage, parts, "scores")
    for key, refs in parts_of(storage, parts, "answers").items():
        answers = _once(_read(storage, refs, ANSWERS_SCHEMA))
        judged = _read(storage, scores.get(key, ()), SCORES_SCHEMA)
        yield _joined(key, answers, judged)


def projection_rows(storage: Storage, parts: Parts) -> pa.Table:
    """Projections of every answer, with ``model``, ``trait`` and ``phase`` of the answer first.

    Raises:
        CorruptPartError: a damaged part.
    """
    group = [(name, pa.string()) for name in ("model", "trait", "phase")]
    tables = [pa.schema([*group, *PROJECTIONS_SCHEMA]).empty_table()]
    for key, refs in parts_of(storage, parts, "projections").items():
        rows = _read(storage, refs, PROJECTIONS_SCHEMA)
        tables.append(_with_group(key, rows, tables[0].schema))
    return pa.concat_tables(tables)


def vectors_frame(storage: Storage, parts: Parts) -> pd.DataFrame:
    """A row per vector: model, trait, pooling, layer, steers, vector (float32 [d_model]).

    Raises:
        UserError: a damaged file.
    """
    steering = set(parts.vectors.values())
    planned = {group for group, _ in parts.num_rows}
    rows = []
    for entry in storage.list("vectors/"):
        model, _, name = entry.key.removeprefix("vectors/").partition("/")
        trait, _, pooling = name.removesuffix(".safetensors").rpartition(".")
        if planned and Group(model, trait) not in planned:
            continue  # of a trait that the sweep no longer has
        whole = from_safetensors(storage.read(entry.key), storage.uri_of(entry.key)).whole
        rows += [
            (model, trait, pooling, layer, entry.key in steering, whole[layer])
            for layer in sorted(whole)
        ]
    frame = pd.DataFrame(rows, columns=["model", "trait", "pooling", "layer", "steers", "vector"])
    return frame.astype({"layer": np.int32, "steers": bool})


def _read(storage: Storage, refs: Sequence[PartRef], schema: pa.Schema) -> pa.Table:
    return rows_of([read_part(storage, ref.key, ref.task_id) for ref in refs], schema)


def _once(answers: pa.Table) -> pa.Table:
    """Each answer once: under a larger grid, parts of the smaller one may hold some of the same."""
    ids = zip(answers["row_id"].to_pylist(), answers["coeff"].to_pylist(), strict=True)
    first: dict[object, int] = {}
    for place, row in enumerate(ids):
        first.setdefault(row, place)
    return answers if len(first) == len(answers) else answers.take(pa.array(first.values()))


def _joined(key: GroupPhase, answers: pa.Table, judged: pa.Table) -> pa.Table:
    place = {row_id: n for n, row_id in enumerate(judged["row_id"].to_pylist())}
    places = [place.get(row_id) for row_id in answers["row_id"].to_pylist()]
    scores = judged.drop_columns("row_id").take(pa.array(places, pa.int64()))
    for name in scores.column_names:
        answers = answers.append_column(scores.field(name), scores[name])
    for name in _IDS:
        counts = pa.array([len(ids) for ids in answers[name].to_pylist()], pa.int32())
        answers = answers.append_column(f"num_{name.removesuffix('_ids')}_tokens", counts)
    return _with_group(key, answers, JUDGED_SCHEMA)


def _with_group(key: GroupPhase, rows: pa.Table, schema: pa.Schema) -> pa.Table:
    group, phase = key
    for name, value in (("model", group.model), ("trait", group.trait), ("phase", phase)):
        rows = rows.append_column(name, pa.array([value] * len(rows), pa.string()))
    return rows.select(schema.names).cast(schema)
