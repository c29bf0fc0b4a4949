"""What a replica computes: one model, and the tables of one task at a time."""

from __future__ import annotations

import os
import platform
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial

import pyarrow as pa
import torch
import transformers

from cluster.storage import StorageSpec
from jobs.stereoset.batch_size import ModelTuning, read_tuning, shared_tuning
from jobs.stereoset.certifier import Certifier, TaskRows
from jobs.stereoset.encodings import Encodings
from jobs.stereoset.non_finite import counted, require_finite
from jobs.stereoset.spec import CertificateSpec
from jobs.stereoset.tables import HELD_OUT_SUMS, rows_table, states_table, sums_table
from steering_core.device_check import check_devices, devices_of
from steering_core.device_settings import device_settings
from steering_core.encoding import ExampleEncoder
from steering_core.engine import Arm, Cell, Scores
from steering_core.kernels.applied import why_not
from steering_core.kernels.choice import KernelChoice, choose_kernels, require_kernels
from steering_core.models import ModelSource, load_model, load_tokenizer
from steering_core.nulls import label_signs
from steering_core.pooled import PooledStates
from steering_core.probes import engine_for
from steering_core.protocol import Protocol
from steering_core.scoring import Measure
from steering_core.stereoset import Example
from steering_core.tuning import Tuning, tune
from steering_core.vectors import SteeringVectors, from_safetensors
from steersweep.errors import StopRunError, UserError


@dataclass(frozen=True)
class StoredVectors:
    """What steers the rows of one table.

    Attributes:
        key: where the vectors are stored.
        digests: that the vectors of each steered layer must have.
        folds: of each example, by which its vector is chosen.
    """

    key: str
    digests: Mapping[int, str]
    folds: tuple[int, ...]


@dataclass(frozen=True)
class Payload:
    """A task as a replica gets it: complete in itself, but for files of vectors.

    Attributes:
        task_id: written into every row.
        tables: what to compute: phase 1's, or tables of steered rows.
        folds: fold of each example.
        held_out_folds: the same of held-out vectors beside in-sample ones; empty if there are none.
        tokens_per_batch: positions of one forward pass, the same on every replica: part of the task
            or, where None, what the output holds for the model.
        layers: 1-based layers to pool, for phase 1's tables.
        cells: the cells of steered rows, the same for each table.
        vectors: by table of steered rows.
    """

    task_id: str
    tables: tuple[str, ...]
    examples: tuple[Example, ...]
    folds: tuple[int, ...]
    tokens_per_batch: int | None
    held_out_folds: tuple[int, ...] = ()
    layers: tuple[int, ...] = ()
    cells: tuple[Cell, ...] = ()
    vectors: Mapping[str, StoredVectors] = field(default_factory=dict)


class StereoSetWorker:
    """Holds one model and turns payloads into tables (a ``cluster`` worker).

    Args:
        accelerate: whether kernels may be chosen, if the output holds no choice yet.
        measures: what is measured of steered rows beside scores.
    """

    def __init__(
        self,
        *,
        source: ModelSource,
        protocol: Protocol,
        layers: Sequence[int],
        device: str,
        dtype: str,
        num_threads: int,
        gpu_share: float = 1.0,
        storage: StorageSpec,
        certificate: CertificateSpec,
        tuning_key: str,
        accelerate: bool = False,
        measures: Collection[Measure] = (),
    ) -> None:
        self._source, self._protocol, self._layers = source, protocol, layers
        self._device, self._dtype = device, dtype
        self._num_threads = num_threads
        self._gpu_share = gpu_share
        self._storage = storage.open()
        self._certificate_spec = certificate
        self._tuning_key = tuning_key
        self._accelerate = accelerate
        self._measures = measures
        self._tuning: ModelTuning | None = None
        self._facts: Mapping[str, str] | None = None
        self._vectors: dict[str, SteeringVectors] = {}

    def load(self) -> Mapping[str, str]:
        """Load model and tokenizer once; facts for the log and ``run.json``.

        Raises:
            UserError: the model cannot be loaded, its layout is not understood, or it lacks a
                hook point of the grid.
        """
        if self._facts is None:
            self._facts = self._load()
        return self._facts

    def _load(self) -> Mapping[str, str]:
        # Whatever the driver set for itself. Texts get the same tokens with any number of threads.
        os.environ["TOKENIZERS_PARALLELISM"] = "true" if self._num_threads > 1 else "false"
        os.environ.setdefault("RAYON_NUM_THREADS", str(self._num_threads))
        transformers.logging.disable_progress_bar()
        # The number of threads decides how sums are split, and so the last bits.
        torch.set_num_threads(self._num_threads)
        tokenizer = load_tokenizer(self._source)
        encoder = ExampleEncoder(tokenizer, self._protocol, self._source.path)
        self._encodings = Encodings(encoder.encode)
        model = load_model(
            self._source, device=self._device, dtype=self._dtype, gpu_share=self._gpu_share
        )
        for layer in self._layers:
            model.layout.module_at(self._protocol.read_at(layer))
            model.layout.module_at(self._protocol.apply_at(layer))
        self._model, self._engine = (
            model,
            engine_for(model, self._protocol, measures=self._measures),
        )
        self._certifier = Certifier(
            model, self._protocol, self._certificate_spec, self._source.path, self._measures
        )
        return {
            "host": platform.node(),
            "device": str(model.device),
            "dtype": str(model.dtype).removeprefix("torch."),
            "rows": "packed" if self._engine.is_packed else "separate sequences",
            **device_settings(model.device),
        }

    def check_device(self) -> None:
        """Raise if the device that holds the model no longer computes."""
        if self._facts is not None:
            check_devices(devices_of(self._model.module))

    def run(self, payload: Payload) -> Mapping[str, pa.Table]:
        """The tables that the payload names; the last one carries the certificate.

        Raises:
            StopRunError: past the certificate's tolerance, if the spec says stop; a damaged
                ``tuning/`` file in the output, or kernels in it that cannot be used here.
            UserError: an example cannot be encoded, or its hidden states are not finite.
        """
        if payload.cells:
            return self._steered(payload)
        rows = self._rows(payload)
        tokens = self._tuned(payload, rows)
        scores, pooled = self._engine.baseline(rows.encoded, tokens, payload.layers)
        scores, pooled, certificate = self._certifier.baseline(rows, scores, pooled)
        require_finite(pooled, payload.examples, str(self._dtype))
        made = {
            table: self._phase_1_table(table, payload, scores, pooled) for table in payload.tables
        }
        last = payload.tables[-1]
        if certificate is not None:
            made[last] = certificate.attached_to(made[last])
        return made

    def _phase_1_table(
        self, table: str, payload: Payload, scores: Scores, pooled: PooledStates
    ) -> pa.Table:
        if table == "baseline":
            return counted(rows_table(payload.examples, scores, payload.task_id))
        if table == "states":
            return states_table(payload.examples, payload.folds, pooled)
        if table == HELD_OUT_SUMS:
            return sums_table(pooled.sums(payload.held_out_folds))
        signs = label_signs([e.example_id for e in payload.examples])
        return sums_table(pooled.sums(payload.folds, signs))

    def _rows(self, payload: Payload) -> TaskRows:
        return TaskRows(payload.task_id, self._encodings.of(payload.examples))

    def _steered(self, payload: Payload) -> dict[str, pa.Table]:
        rows = self._rows(payload)
        of_tables = [payload.vectors[table] for table in payload.tables]
        arms = [Arm(payload.cells, self._load_vectors(of), of.folds) for of in of_tables]
        tokens = self._tuned(payload, rows)
        scores = self._engine.steered_in_arms(rows.encoded, tokens, arms)
        scores, certificate = self._certifier.steered(
            rows,
            [
                replace(arm, vectors=self._read_vectors(of))
                for arm, of in zip(arms, of_tables, strict=True)
            ],
            scores,
        )
        made = {
            table: self._steered_table(payload, of_cells)
            for table, of_cells in zip(payload.tables, scores, strict=True)
        }
        if certificate is not None:
            last = payload.tables[-1]
            made[last] = certificate.attached_to(made[last])
        return made

    def _steered_table(self, payload: Payload, scores: Sequence[Scores]) -> pa.Table:
        tables = [
            rows_table(
                payload.examples,
                of_cell,
                payload.task_id,
                {
                    "layer": cell.layer,
                    "coeff": cell.coeff,
                    "read": str(self._protocol.read_at(cell.layer)),
                    "apply": str(self._protocol.apply_at(cell.layer)),
                },
            )
            for cell, of_cell in zip(payload.cells, scores, strict=True)
        ]
        return counted(pa.concat_tables(tables).combine_chunks())

    def _tuned(self, payload: Payload, rows: TaskRows) -> int:
        """The batch size; from then on the engine has the kernels that all replicas use."""
        if self._tuning is None:
            self._tuning = self._shared_tuning(payload, rows)
        tokens = payload.tokens_per_batch or self._tuning.tokens_per_batch
        if tokens is None:  # the output was begun with a number, and its plan was lost
            raise StopRunError(
                f"{self._storage.uri_of(self._tuning_key)} holds no batch size; delete it, or set "
                "compute.tokens_per_batch to the number that the output was begun with"
            )
        return tokens

    def _shared_tuning(self, payload: Payload, rows: TaskRows) -> ModelTuning:
        """What the output holds for the model, measured if it is to hold something."""
        key = self._tuning_key
        if payload.tokens_per_batch is None or why_not(self._model) is None:
            shared = shared_tuning(self._storage, key, partial(self._measure, payload, rows))
        else:
            shared = read_tuning(self._storage, key) or ModelTuning(None, {})
        if shared.kernels:
            try:
                require_kernels(self._model, shared.kernels, is_packed=self._engine.is_packed)
                self._engine = self._engine.anew(shared.kernels)
            except UserError as error:
                raise StopRunError(
                    f"{self._storage.uri_of(key)} says that this output is computed with kernels, "
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
        if why_not(self._model) is not None:
            return None
        if not self._accelerate:
            return KernelChoice((), {})
        return choose_kernels(self._model, is_packed=self._engine.is_packed)

    def _tune(self, payload: Payload, rows: TaskRows, kernels: Sequence[str]) -> Tuning:
        """Time unsteered passes that keep as many streams as the task does."""
        engine = self._engine.anew(kernels)
        layers = payload.layers or tuple(sorted({cell.layer for cell in payload.cells}))
        return tune(
            lambda batch, tokens: engine.baseline(batch, tokens, layers),
            self._model,
            rows.encoded,
            is_packed=self._engine.is_packed,
        )

    def _load_vectors(self, of: StoredVectors) -> SteeringVectors:
        if not _holds(self._vectors.get(of.key), of.digests):
            # The file has grown by a layer since it was read, or was never read.
            self._vectors[of.key] = self._read_vectors(of)
        return self._vectors[of.key]

    def _read_vectors(self, of: StoredVectors) -> SteeringVectors:
        vectors = from_safetensors(self._storage.read(of.key), of.key)
        if not _holds(vectors, of.digests):
            raise UserError(f"{of.key} does not hold the vectors that this task was planned with")
        return vectors


def _holds(vectors: SteeringVectors | None, digests: Mapping[int, str]) -> bool:
    return vectors is not None and all(
        layer in vectors.whole and vectors.digest(layer) == digest
        for layer, digest in digests.items()
    )
