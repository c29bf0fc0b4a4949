"""A group's pooled states on local disk, so that a fit can go over one layer again and again."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from cluster.errors import UserActionError
from jobs.stereoset.tables import layer_states
from steering_core.nulls import label_signs
from steering_core.pairs import StateChunk

_EXAMPLES_PER_CHUNK = 256


class StateSpool:
    """One file for each layer; parts are added one by one and never held together.

    Args:
        folder: an empty folder that lasts as long as this.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._example_ids: dict[int, list[str]] = {}
        self._width = 0

    def add(self, states: pa.Table) -> None:
        """Append the rows of a ``states`` part to the files of its layers.

        Raises:
            UserActionError: the folder cannot take them.
        """
        try:
            for layer in pc.unique(states["layer"]).to_pylist():
                self._append(layer, *layer_states(states, layer))
        except OSError as error:
            raise UserActionError(
                f"cannot write the states for vectors to {self._folder}: {error.strerror}; set "
                "TMPDIR to a folder with more space"
            ) from error

    def pairs(
        self, layer: int, fold_of: Mapping[str, int], label_seed: str | None = None
    ) -> SpooledPairs:
        """The examples of a layer, in the order in which they were added.

        Args:
            fold_of: each example's fold. The folds of the parts are not read, since held-out
                vectors are fitted from the parts of an in-sample sweep.
            label_seed: shuffle labels: stereotype and anti-stereotype of about half of the examples
                change places (``nulls.label_signs``).
        """
        ids = self._example_ids[layer]
        signs = np.ones(len(ids)) if label_seed is None else label_signs(ids, label_seed)
        folds = np.asarray([fold_of[example_id] for example_id in ids], np.int32)
        return SpooledPairs(self._file(layer), self._width, folds, signs < 0)

    def _append(self, layer: int, example_ids: list[str], chunk: StateChunk) -> None:
        self._width = chunk.anti.shape[1]
        self._example_ids.setdefault(layer, []).extend(example_ids)
        records = np.empty(len(example_ids), _record(self._width))
        records["anti"], records["stereotype"] = chunk.anti, chunk.stereotype
        with self._file(layer).open("ab") as file:
            file.write(records.tobytes())

    def _file(self, layer: int) -> Path:
        return self._folder / f"layer.{layer}"


@dataclass(frozen=True)
class SpooledPairs:
    """Chunks of a spooled layer; each iteration reads the file anew.

    Attributes:
        folds: [N] of the examples, in the file's order.
        is_swapped: [N] bool; whether an example's two states change places.
    """

    file: Path
    width: int
    folds: np.ndarray
    is_swapped: np.ndarray

    def __iter__(self) -> Iterator[StateChunk]:
        low = 0
        with self.file.open("rb") as file:
            while num := len(
                records := np.fromfile(file, _record(self.width), _EXAMPLES_PER_CHUNK)
            ):
                swapped = self.is_swapped[low : low + num, None]
                anti, stereotype = records["anti"], records["stereotype"]
                yield StateChunk(
                    self.folds[low : low + num],
                    np.where(swapped, stereotype, anti),
                    np.where(swapped, anti, stereotype),
                )
                low += num


def _record(width: int) -> np.dtype[Any]:
    """Both states of one example."""
    return np.dtype([("anti", "<f4", (width,)), ("stereotype", "<f4", (width,))])
