"""Pooling a batch's states: sums on the device, stored by row once they are fetched.

Shapes: N rows, R sequences and S positions of a batch, D width.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor

from steering_core.packing import Batch
from steering_core.placing import fetch, upload
from steering_core.pooled import PooledStates


def pool(state_RSD: Tensor, batch: Batch) -> Callable[[], list[np.ndarray]]:
    """A function that returns weighted sums [R, D] float64 of a batch's states.

    The first are of the differences, the other two of the pooled states. CPU and CUDA start on them
    now. Other devices have no float64: the function copies the states and sums them on the CPU.
    """
    if state_RSD.device.type in ("cpu", "cuda"):
        fetched = [fetch(summed_RD) for summed_RD in _sums(state_RSD, batch)]
        return lambda: [values() for values in fetched]
    return lambda: [summed_RD.numpy() for summed_RD in _sums(state_RSD.cpu(), batch)]


def _sums(state_RSD: Tensor, batch: Batch) -> list[Tensor]:
    state_RSD = state_RSD.double()
    # One sum, not the difference of two pooled states: the bits of vectors hang on it.
    weights = [batch.difference_weights, *batch.pooling_weights]
    return [
        torch.einsum("rs,rsd->rd", upload(torch.from_numpy(of_RS), state_RSD.device), state_RSD)
        for of_RS in weights
    ]


def store(sums: Sequence[np.ndarray], batch: Batch, into: PooledStates, layer_index: int) -> None:
    """Store the sums of one layer, in the order in which ``pool`` returns them, by row."""
    differences_ND, *states = (_of_rows(summed_RD, batch) for summed_RD in sums)
    into.differences[layer_index, batch.rows] = differences_ND
    for label, states_ND in enumerate(states):
        into.states[label, layer_index, batch.rows] = states_ND


def position_norms(state_RSD: Tensor) -> Tensor:
    """Norms [R, S] float32 of a batch's states, on their device."""
    norms_RS: Tensor = torch.linalg.vector_norm(state_RSD, dim=-1, dtype=torch.float32)
    return norms_RS


def store_norms(norms_RS: np.ndarray, batch: Batch, into: PooledStates, layer_index: int) -> None:
    """Add up the norms of a batch's real positions in float64, and store the sums by row."""
    counted_RS = np.where(batch.has_norm, norms_RS, 0.0)
    summed_R1 = counted_RS.sum(axis=1, dtype=np.float64, keepdims=True)
    into.stream_norms[layer_index, batch.rows] = _of_rows(summed_R1, batch)[:, 0]


def _of_rows(summed_RD: np.ndarray, batch: Batch) -> np.ndarray:
    """Sums [N, D] float64 over the sequences of each row.

    A row's sequences lie side by side, and what a static batch is filled up with comes last.
    """
    num_rows, per_row = len(batch.rows), batch.sequences_per_row
    of_rows = summed_RD[: num_rows * per_row].reshape(num_rows, per_row, -1)
    # From 0.0 on and in order, as np.add.at sums, which takes 30 times as long: the bits of
    # vectors depend on it.
    summed_ND: np.ndarray = of_rows.sum(axis=1, initial=0.0)
    return summed_ND
