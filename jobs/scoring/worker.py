"""What a replica computes: one model, and the tables of one task at a time."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import pyarrow as pa

from cluster.errors import StorageUnavailableError
from jobs.advice import advised
from jobs.scoring.batch_size import ModelTuning, read_tuning, shared_tuning
from jobs.scoring.certifier import TaskRows
from jobs.scoring.fit_task import FitPayload, fit
from jobs.scoring.measured import protocol_of_sets
from jobs.scoring.rows import RowFormat
from jobs.scoring.set_scorer import Payload, scorers_of
from jobs.scoring.tables import FITS
from jobs.spec import CertificateSpec
from jobs.sweeps.worker import ModelWorker
from steering_core.engine import Engine
from steering_core.kernels.applied import why_not
from steering_core.kernels.choice import KernelChoice, choose_kernels, require_kernels
from steering_core.protocol import Protocol
from steering_core.scoring import Measure
from steering_core.tuning import Tuning, tune
from steersweep.errors import StopRunError, UserError


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
        sets = {name: (form, self._protocol_of(name)) for name, form in self._forms.items()}
        self._scorers = scorers_of(self, sets, self._certificate_spec, self._measures)
        return {"rows": "packed" if self._engine.is_packed else "separate sequences"}

    def _protocol_of(self, name: str) -> Protocol:
        return protocol_of_sets(self._protocol) if name else self._protocol

    @advised()
    def run(self, payload: Payload | FitPayload) -> Mapping[str, pa.Table]:
        """The tables that the payload names; the last one carries the certificate.

        Raises:
            StopRunError: past the certificate's tolerance, where the spec says stop; a damaged
                ``tuning/`` file in the output, or kernels in it that cannot be used here.
            UserError: an example cannot be encoded, or its hidden states are not finite.
        """
        if isinstance(payload, FitPayload):
            return {FITS: self._fit(payload)}
        rows = self._scorers[payload.set].rows(payload)
        tokens = self._tuned(payload, rows)
        scorer = self._scorers[payload.set]  # it may have got kernels
        if payload.cells:
            return scorer.steered(payload, rows, tokens, self)
        return scorer.unsteered(payload, rows, tokens, self.dtype)

    def _fit(self, payload: FitPayload) -> pa.Table:
        try:
            return fit(self.storage, payload)
        except StorageUnavailableError:  # it may be back for the next attempt
            raise
        except UserError as error:
            # Examples that determine no vector are the user's to change; trying again is of no use.
            raise StopRunError(*error.lines) from error

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
