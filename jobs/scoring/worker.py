"""What a replica computes: one model, and the tables of one task at a time."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import pyarrow as pa

from cluster.errors import StorageUnavailableError
from jobs.scoring.batch_size import ModelTuning, read_tuning, shared_tuning
from jobs.scoring.certifier import Certifier, TaskRows
from jobs.scoring.encodings import Encodings
from jobs.scoring.fit_task import FitPayload, fit
from jobs.scoring.groups import Group, ScoredExample
from jobs.scoring.measured import protocol_of_sets
from jobs.scoring.non_finite import counted, require_finite
from jobs.scoring.rows import RowFormat
from jobs.scoring.tables import FITS, HELD_OUT_SUMS, holds_rows, states_table, sums_table
from jobs.spec import CertificateSpec
from jobs.sweeps.worker import ModelWorker, StoredVectors
from steering_core.engine import Arm, Cell, Engine, Scores
from steering_core.kernels.applied import why_not
from steering_core.kernels.choice import KernelChoice, choose_kernels, require_kernels
from steering_core.nulls import label_signs
from steering_core.pooled import PooledStates
from steering_core.probes import engine_for
from steering_core.protocol import Protocol
from steering_core.scoring import Measure
from steering_core.tuning import Tuning, tune
from steering_core.vectors import SteeringVectors
from steersweep.errors import StopRunError, UserError


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


@dataclass(frozen=True)
class _Scorer:
    """What scores the examples of one data set.

    Attributes:
        form: how their scores are stored.
        engine: shared with data sets that are scored by the same protocol.
    """

    form: RowFormat[Any]
    encodings: Encodings
    engine: Engine
    certifier: Certifier


class ScoredWorker(ModelWorker):
    """Holds one model and turns payloads into tables (a ``cluster`` worker)."""

    def __init__(
        self,
        *,
        protocol: Protocol,
        layers: Sequence[int],
        rows: RowFormat[Any],
        certificate: CertificateSpec,
        tuning_key: str,
        accelerate: bool = False,
        measures: Collection[Measure] = (),
        sets: Mapping[str, RowFormat[Any]] | None = None,
        **model: Any,
    ) -> None:
        """Nothing is loaded yet.

        Args:
            rows: how the job's examples are encoded and stored.
            sets: the same of each data set of side effects, by name.
            accelerate: whether kernels may be chosen, if the output holds no choice yet.
            measures: what is measured of steered rows beside scores.
            model: as ``ModelWorker`` takes it.
        """
        super().__init__(**model)
        self._protocol, self._layers = protocol, layers
        self._forms = {"": rows, **(sets or {})}
        self._certificate_spec = certificate
        self._tuning_key = tuning_key
        self._accelerate = accelerate
        self._measures = measures
        self._tuning: ModelTuning | None = None

    def prepare(self) -> Mapping[str, str]:
        """See ``ModelWorker``.

        Raises:
            UserError: the model lacks a hook point of the grid.
        """
        for layer in self._layers:
            self.model.layout.module_at(self._protocol.read_at(layer))
            self.model.layout.module_at(self._protocol.apply_at(layer))
        engines: dict[Protocol, Engine] = {}
        self._scorers = {
            name: self._scorer(form, self._protocol_of(name), engines)
            for name, form in self._forms.items()
        }
        return {"rows": "packed" if self._engine.is_packed else "separate sequences"}

    def _protocol_of(self, name: str) -> Protocol:
        return protocol_of_sets(self._protocol) if name else self._protocol

    def _scorer(
        self, form: RowFormat[Any], protocol: Protocol, engines: dict[Protocol, Engine]
    ) -> _Scorer:
        if protocol not in engines:
            engines[protocol] = engine_for(self.model, protocol, measures=self._measures)
        path = self.source.path
        return _Scorer(
            form,
            Encodings(form.encoder(self.tokenizer, protocol, path).encode),
            engines[protocol],
            Certifier(self.model, protocol, self._certificate_spec, path, self._measures),
        )

    def run(self, payload: Payload | FitPayload) -> Mapping[str, pa.Table]:
        """The tables that the payload names; the last one carries the certificate.

        Raises:
            StopRunError: past the certificate's tolerance, where the spec says stop; a damaged
                ``tuning/`` file in the output, or kernels in it that cannot be used here.
            UserError: an example cannot be encoded, or its hidden states are not finite.
        """
        if isinstance(payload, FitPayload):
            return {FITS: self._fit(payload)}
        if payload.cells:
            return self._steered(payload)
        rows = self._rows(payload)
        tokens = self._tuned(payload, rows)
        scorer = self._scorers[payload.set]
        scores, pooled = scorer.engine.baseline(rows.encoded, tokens, payload.layers)
        scores, pooled, certificate = scorer.certifier.baseline(rows, scores, pooled)
        require_finite(pooled, payload.examples, self.dtype)
        made = {
            table: self._phase_1_table(table, payload, scores, pooled) for table in payload.tables
        }
        last = payload.tables[-1]
        if certificate is not None:
            made[last] = certificate.attached_to(made[last])
        return made

    def _fit(self, payload: FitPayload) -> pa.Table:
        try:
            return fit(self.storage, payload)
        except StorageUnavailableError:  # it may be back for the next attempt
            raise
        except UserError as error:
            # Examples that determine no vector are the user's to change; trying again is of no use.
            raise StopRunError(*error.lines) from error

    def _phase_1_table(
        self, table: str, payload: Payload, scores: Scores, pooled: PooledStates
    ) -> pa.Table:
        form = self._scorers[payload.set].form
        if holds_rows(table):
            return counted(form.rows_table(payload.examples, scores, payload.task_id), form)
        if table == "states":
            return states_table(payload.examples, payload.folds, pooled, form.sides)
        if table == HELD_OUT_SUMS:
            return sums_table(pooled.sums(payload.held_out_folds))
        signs = label_signs([e.example_id for e in payload.examples])
        return sums_table(pooled.sums(payload.folds, signs))

    def _rows(self, payload: Payload) -> TaskRows:
        place = payload.group.place + ((("set", payload.set),) if payload.set else ())
        encodings = self._scorers[payload.set].encodings
        return TaskRows(payload.task_id, place, encodings.of(payload.examples))

    def _steered(self, payload: Payload) -> dict[str, pa.Table]:
        rows = self._rows(payload)
        of_tables = [payload.vectors[table] for table in payload.tables]
        arms = [_arm(payload, self.vectors(of.stored), of.folds) for of in of_tables]
        tokens = self._tuned(payload, rows)
        scorer = self._scorers[payload.set]
        scores = scorer.engine.steered_in_arms(rows.encoded, tokens, arms)
        anew = [_arm(payload, self.read_vectors(of.stored), of.folds) for of in of_tables]
        scores, certificate = scorer.certifier.steered(rows, anew, scores)
        made = {
            table: self._steered_table(payload, of_cells)
            for table, of_cells in zip(payload.tables, scores, strict=True)
        }
        if certificate is not None:
            last = payload.tables[-1]
            made[last] = certificate.attached_to(made[last])
        return made

    def _steered_table(self, payload: Payload, scores: Sequence[Scores]) -> pa.Table:
        form, protocol = self._scorers[payload.set].form, self._protocol_of(payload.set)
        tables = [
            form.rows_table(
                payload.examples,
                of_cell,
                payload.task_id,
                {
                    "layer": cell.layer,
                    "coeff": cell.coeff,
                    "read": str(protocol.read_at(cell.layer)),
                    "apply": str(protocol.apply_at(cell.layer)),
                },
            )
            for cell, of_cell in zip(payload.cells, scores, strict=True)
        ]
        return counted(pa.concat_tables(tables).combine_chunks(), form)

    def _tuned(self, payload: Payload, rows: TaskRows) -> int:
        """The batch size; from then on the engine has the kernels that all replicas use."""
        if self._tuning is None:
            self._tuning = self._shared_tuning(payload, rows)
        tokens = payload.tokens_per_batch or self._tuning.tokens_per_batch
        if tokens is None:  # the output was begun with a number, and its plan was lost
            raise StopRunError(
                f"{self.storage.uri_of(self._tuning_key)} holds no batch size; delete it, or set "
                "compute.tokens_per_batch to the number that the output was begun with"
            )
        return tokens

    def _shared_tuning(self, payload: Payload, rows: TaskRows) -> ModelTuning:
        """What the output holds for the model, measured if it is to hold something."""
        key = self._tuning_key
        if payload.tokens_per_batch is None or why_not(self.model) is None:
            shared = shared_tuning(self.storage, key, partial(self._measure, payload, rows))
        else:
            shared = read_tuning(self.storage, key) or ModelTuning(None, {})
        if shared.kernels:
            try:
                require_kernels(self.model, shared.kernels, is_packed=self._engine.is_packed)
                self._scorers = {
                    name: replace(scorer, engine=scorer.engine.anew(shared.kernels))
                    for name, scorer in self._scorers.items()
                }
            except UserError as error:
                raise StopRunError(
                    f"{self.storage.uri_of(key)} says that this output is computed with kernels, "
                    f"and this replica cannot use them: {error}; resume on the machines and with "
                    "the packages that began it, or start a new output"
                ) from error
        return shared

    def _measure(self, payload: Payload, rows: TaskRows) -> ModelTuning:
        """Kernels first: they move the best batch size."""
        choice = self._chosen_kernels()
        names = None if choice is None else choice.names
        checks = {} if choice is None else choice.checks
        if payload.tokens_per_batch is not None:
            return ModelTuning(None, {}, names, checks)
        tuning = self._tune(payload, rows, names or ())
        return ModelTuning(tuning.tokens_per_batch, tuning.rows_per_s, names, checks)

    def _chosen_kernels(self) -> KernelChoice | None:
        """None where no kernel can run, which needs no choice."""
        if why_not(self.model) is not None:
            return None
        if not self._accelerate:
            return KernelChoice((), {})
        return choose_kernels(self.model, is_packed=self._engine.is_packed)

    @property
    def _engine(self) -> Engine:
        """That of the sweep's own data; whether rows are packed depends on the model alone."""
        return self._scorers[""].engine

    def _tune(self, payload: Payload, rows: TaskRows, kernels: Sequence[str]) -> Tuning:
        """Time unsteered passes that keep as many streams as the task does."""
        engine = self._scorers[payload.set].engine.anew(kernels)
        layers = payload.layers or tuple(sorted({cell.layer for cell in payload.cells}))
        return tune(
            lambda batch, tokens: engine.baseline(batch, tokens, layers),
            self.model,
            rows.encoded,
            is_packed=self._engine.is_packed,
        )


def _arm(payload: Payload, vectors: SteeringVectors, folds: Sequence[int] | None) -> Arm:
    """The cells steered by fold; without folds by the vector of all examples."""
    if folds is not None:
        return Arm(payload.cells, vectors, folds)
    return Arm(payload.cells, vectors.without_folds(), [0] * len(payload.examples))
