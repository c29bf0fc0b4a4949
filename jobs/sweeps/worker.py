"""What all workers that hold a model share: loading it once, threads, stored vectors."""

from __future__ import annotations

import os
import platform
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import torch
import transformers

from cluster.storage import StorageSpec
from jobs.advice import advised
from steering_core.device_check import check_devices, devices_of
from steering_core.device_settings import device_settings
from steering_core.models import LoadedModel, ModelSource, load_model, load_tokenizer
from steering_core.vectors import SteeringVectors, from_safetensors
from steersweep.errors import UserError


@dataclass(frozen=True)
class StoredVectors:
    """A file of vectors, and which vectors a task was planned with.

    Attributes:
        digests: that the vector of each layer must have.
    """

    key: str
    digests: Mapping[int, str]

    def are_in(self, vectors: SteeringVectors) -> bool:
        """Whether these are the vectors."""
        return all(
            layer in vectors.whole and vectors.digest(layer) == digest
            for layer, digest in self.digests.items()
        )


def set_up_process(num_threads: int) -> None:
    """Settings of a replica's process, whatever the driver set for itself.

    The number of threads decides how sums are split, and so the last bits of every number.
    """
    # Texts get the same tokens with any number of threads.
    os.environ["TOKENIZERS_PARALLELISM"] = "true" if num_threads > 1 else "false"
    os.environ.setdefault("RAYON_NUM_THREADS", str(num_threads))
    transformers.logging.disable_progress_bar()
    torch.set_num_threads(num_threads)


class ModelWorker(ABC):
    """Holds one model and its tokenizer, and turns payloads into tables (a ``cluster`` worker)."""

    model: LoadedModel
    tokenizer: Any

    def __init__(
        self,
        *,
        source: ModelSource,
        device: str,
        dtype: str,
        num_threads: int,
        storage: StorageSpec,
        gpu_share: float = 1.0,
    ) -> None:
        """Nothing is loaded yet.

        Args:
            gpu_share: part of a GPU that the model may take.
        """
        self.source = source
        self.device, self.dtype = device, dtype
        self._num_threads, self._gpu_share = num_threads, gpu_share
        self.storage = storage.open()
        self._facts: Mapping[str, str] | None = None
        self._vectors: dict[str, SteeringVectors] = {}

    @advised()
    def load(self) -> Mapping[str, str]:
        """Load model and tokenizer once; facts for the log and ``run.json``.

        Raises:
            UserError: the model cannot be loaded, or its layout is not understood.
        """
        if self._facts is None:
            set_up_process(self._num_threads)
            self.tokenizer = load_tokenizer(self.source)
            self.model = load_model(
                self.source, device=self.device, dtype=self.dtype, gpu_share=self._gpu_share
            )
            own = self.prepare()
            self._facts = {
                "host": platform.node(),
                "device": str(self.model.device),
                "dtype": str(self.model.dtype).removeprefix("torch."),
                **own,
                **device_settings(self.model.device),
            }
        return self._facts

    @abstractmethod
    def prepare(self) -> Mapping[str, str]:
        """Make what tasks need of the loaded model; facts of the job's own."""

    @abstractmethod
    def run(self, payload: Any) -> Mapping[str, pa.Table]:
        """The tables of one task by name."""

    def check_device(self) -> None:
        """Raise if the device that holds the model no longer computes."""
        if self._facts is not None:
            check_devices(devices_of(self.model.module))

    def vectors(self, stored: StoredVectors) -> SteeringVectors:
        """The vectors of a file, read again only if it has grown since.

        Raises:
            UserError: the file does not hold the vectors that the task was planned with.
        """
        held = self._vectors.get(stored.key)
        if held is None or not stored.are_in(held):
            held = self._vectors[stored.key] = self.read_vectors(stored)
        return held

    def read_vectors(self, stored: StoredVectors) -> SteeringVectors:
        """The same, read anew, so that stale vectors in memory show."""
        vectors = from_safetensors(self.storage.read(stored.key), stored.key)
        if not stored.are_in(vectors):
            raise UserError(
                f"{stored.key} does not hold the vectors that this task was planned with"
            )
        return vectors
