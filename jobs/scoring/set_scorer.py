"""Scores the examples of one data set for the tasks of a replica, whatever its job is."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Self

import pyarrow as pa

from jobs.scoring.certifier import Certifier, TaskRows
from jobs.scoring.encodings import Encodings
from jobs.scoring.groups import Group, ScoredExample
from jobs.scoring.non_finite import counted, require_finite
from jobs.scoring.plan import PlannedTask
from jobs.scoring.rows import RowFormat
from jobs.scoring.sweep import AnySweep
from jobs.scoring.tables import HELD_OUT_SUMS, holds_rows, states_table, sums_table
from jobs.spec import CertificateSpec
from jobs.sweeps.certificate import TaskCertificate
from jobs.sweeps.worker import ModelWorker, StoredVectors
from steering_core.engine import Arm, Cell, Engine, Scores
from steering_core.nulls import label_signs
from steering_core.pooled import PooledStates
from steering_core.probes import engine_for
from steering_core.protocol import Protocol
from steering_core.scoring import Measure
from steering_core.vectors import SteeringVectors

Tables = dict[str, pa.Table]


@dataclass(frozen=True)
class SteeringOf:
    """What steers the rows of one table.

    Attributes:
        stored: the vectors.
        folds: of each example, by which its vector is chosen; None: the vector of all examples.
    """

    stored: StoredVectors
    folds: tuple[int, ...] | None


@dataclass(frozen=True)
class Payload:
    """A task as a replica gets it: complete in itself, but for files of vectors.

    Attributes:
        task_id: written into every row.
        group: the task's, for messages.
        tables: what to compute: phase 1's, tables of steered rows, or one of side effects.
        set: the data set of the examples; empty: the sweep's own data.
        folds: fold of each example.
        held_out_folds: the same of held-out vectors beside in-sample ones; empty if there are none.
        tokens_per_batch: positions of one forward pass, the same on every replica: part of the task
            or, where None, what the output holds for the model.
        layers: 1-based layers to pool, for phase 1's tables.
        cells: the cells of steered rows, the same for each table.
        vectors: by table of steered rows.
    """

    task_id: str
    group: Group
    tables: tuple[str, ...]
    examples: tuple[ScoredExample, ...]
    folds: tuple[int, ...]
    tokens_per_batch: int | None
    held_out_folds: tuple[int, ...] = ()
    layers: tuple[int, ...] = ()
    cells: tuple[Cell, ...] = ()
    vectors: Mapping[str, SteeringOf] = field(default_factory=dict)
    set: str = ""

    @classmethod
    def of(cls, sweep: AnySweep, planned: PlannedTask, task_id: str) -> Self:
        """The payload of a planned task, still without vectors and held-out folds."""
        subject = sweep.subject(planned.tables[0], planned.group)
        ids = planned.example_ids
        return cls(
            task_id=task_id,
            group=planned.group,
            tables=planned.tables,
            examples=tuple(subject.examples[i] for i in ids),
            folds=tuple(subject.folds.get(i, 0) for i in ids),
            tokens_per_batch=planned.tokens_per_batch,
            layers=planned.layers,
            cells=planned.typed_cells(),
            set=subject.name,
        )


@dataclass(frozen=True)
class SetScorer:
    """What scores the examples of one data set.

    Attributes:
        form: how their scores are stored.
        engine: shared with data sets that are scored by the same protocol.
    """

    form: RowFormat[Any]
    protocol: Protocol
    encodings: Encodings
    engine: Engine
    certifier: Certifier

    def rows(self, payload: Payload) -> TaskRows:
        """The rows of a task, encoded.

        Raises:
            UserError: an example cannot be encoded.
        """
        place = payload.group.place + ((("set", payload.set),) if payload.set else ())
        return TaskRows(payload.task_id, place, self.encodings.of(payload.examples))

    def unsteered(self, payload: Payload, rows: TaskRows, tokens: int, dtype: str) -> Tables:
        """The tables of a task that nothing steers; the last one carries the certificate.

        Args:
            tokens: positions of one forward pass.
            dtype: the model's, for messages.

        Raises:
            StopRunError: past the certificate's tolerance, if the spec says stop.
            UserError: hidden states are not finite.
        """
        scores, pooled = self.engine.baseline(rows.encoded, tokens, payload.layers)
        scores, pooled, certificate = self.certifier.baseline(rows, scores, pooled)
        require_finite(pooled, payload.examples, dtype)
        made = {
            table: self._unsteered_table(table, payload, scores, pooled) for table in payload.tables
        }
        return _certified(made, certificate)

    def steered(self, payload: Payload, rows: TaskRows, tokens: int, worker: ModelWorker) -> Tables:
        """The tables of a task that vectors steer; the last one carries the certificate.

        Args:
            tokens: positions of one forward pass.
            worker: reads the vectors.

        Raises:
            StopRunError: past the certificate's tolerance, if the spec says stop.
            UserError: the vectors are not those of the plan.
        """
        of_tables = [payload.vectors[table] for table in payload.tables]
        arms = [_arm(payload, worker.vectors(of.stored), of.folds) for of in of_tables]
        scores = self.engine.steered_in_arms(rows.encoded, tokens, arms)
        anew = [_arm(payload, worker.read_vectors(of.stored), of.folds) for of in of_tables]
        scores, certificate = self.certifier.steered(rows, anew, scores)
        made = {
            table: self._steered_table(payload, of_cells)
            for table, of_cells in zip(payload.tables, scores, strict=True)
        }
        return _certified(made, certificate)

    def _unsteered_table(
        self, table: str, payload: Payload, scores: Scores, pooled: PooledStates
    ) -> pa.Table:
        form = self.form
        if holds_rows(table):
            return counted(form.rows_table(payload.examples, scores, payload.task_id), form)
        if table == "states":
            return states_table(payload.examples, payload.folds, pooled, form.sides)
        if table == HELD_OUT_SUMS:
            return sums_table(pooled.sums(payload.held_out_folds))
        signs = label_signs([e.example_id for e in payload.examples])
        return sums_table(pooled.sums(payload.folds, signs))

    def _steered_table(self, payload: Payload, scores: Sequence[Scores]) -> pa.Table:
        tables = [
            self.form.rows_table(
                payload.examples,
                of_cell,
                payload.task_id,
                {
                    "layer": cell.layer,
                    "coeff": cell.coeff,
                    "read": str(self.protocol.read_at(cell.layer)),
                    "apply": str(self.protocol.apply_at(cell.layer)),
                },
            )
            for cell, of_cell in zip(payload.cells, scores, strict=True)
        ]
        return counted(pa.concat_tables(tables).combine_chunks(), self.form)


def scorers_of(
    worker: ModelWorker,
    sets: Mapping[str, tuple[RowFormat[Any], Protocol]],
    certificate: CertificateSpec,
    measures: Collection[Measure] = (),
) -> dict[str, SetScorer]:
    """What scores each data set with a worker's model, which is loaded.

    Args:
        sets: by name, how rows are encoded and stored, and how they are scored. Those of the same
            protocol share an engine.
        measures: what is measured of steered rows beside scores.

    Raises:
        UserError: the tokenizer cannot encode rows of a set.
    """
    engines: dict[Protocol, Engine] = {}
    path = worker.source.path
    scorers = {}
    for name, (form, protocol) in sets.items():
        if protocol not in engines:
            engines[protocol] = engine_for(worker.model, protocol, measures=measures)
        scorers[name] = SetScorer(
            form,
            protocol,
            Encodings(form.encoder(worker.tokenizer, protocol, path).encode),
            engines[protocol],
            Certifier(worker.model, protocol, certificate, path, measures),
        )
    return scorers


def _certified(made: Tables, certificate: TaskCertificate | None) -> Tables:
    if certificate is not None:
        last = [*made][-1]
        made[last] = certificate.attached_to(made[last])
    return made


def _arm(payload: Payload, vectors: SteeringVectors, folds: Sequence[int] | None) -> Arm:
    """The cells steered by fold; without folds by the vector of all examples."""
    if folds is not None:
        return Arm(payload.cells, vectors, folds)
    return Arm(payload.cells, vectors.without_folds(), [0] * len(payload.examples))
