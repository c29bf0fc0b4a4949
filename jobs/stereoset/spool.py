"""A group's pooled states on local disk, so that a fit can go over one layer again and again."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from cluster.errors import UserActionError
from jobs.stereoset.tables import layer_states
from steering_core.pairs import StateChunk

_EXAMPLES_PER_CHUNK = 256


class StateSpool:
    """One file for each layer; parts are added one by one and never held together.

    Args:
        folder: an empty folder that lasts as long as this.
        layers: those that are kept of each part.
    """

    def __init__(self, folder: Path, layers: Collection[int]) -> None:
        self._folder = folder
        self._layers = layers
        self._width = 0

    def add(self, states: pa.Table) -> None:
        """Append the rows of a ``states`` part.

        Raises:
            UserActionError: the folder cannot take them.
        """
        try:
            for layer in self._layers:
                self._append(layer, layer_states(states, layer))
        except OSError as error:
            raise UserActionError(
                f"cannot write the states for vectors to {self._folder}: {error.strerror}; set "
                "TMPDIR to a folder with more space"
            ) from error

    def chunks(self, layer: int) -> SpooledChunks:
        """The examples of a layer, in the order in which they were added."""
        return SpooledChunks(self._file(layer), self._width)

    def _append(self, layer: int, chunk: StateChunk) -> None:
        self._width = chunk.anti.shape[1]
        records = np.empty(len(chunk.folds), _record(self._width))
        for name, values in chunk._asdict().items():
            records[name] = values
        with self._file(layer).open("ab") as file:
            file.write(records.tobytes())

    def _file(self, layer: int) -> Path:
        return self._folder / f"layer.{layer}"


@dataclass(frozen=True)
class SpooledChunks:
    """Chunks of a spooled layer; each iteration reads the file anew."""

    file: Path
    width: int

    def __iter__(self) -> Iterator[StateChunk]:
        with self.file.open("rb") as file:
            while len(records := np.fromfile(file, _record(self.width), _EXAMPLES_PER_CHUNK)):
                yield StateChunk(*(records[name] for name in StateChunk._fields))


def _record(width: int) -> np.dtype[Any]:
    """One example: its fold and both of its states."""
    folds, anti, stereotype = StateChunk._fields
    return np.dtype([(folds, "<i4"), (anti, "<f4", (width,)), (stereotype, "<f4", (width,))])
