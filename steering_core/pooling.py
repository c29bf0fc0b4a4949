"""Pooling a batch's states: weighted sums on the device, stored by row when they are fetched.

Shapes: N rows, R sequences and S positions of a batch, D width.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor

from steering_core.packing import Batch
from steering_core.placing import upload
from steering_core.pooled import PooledStates


def pool(state_RSD: Tensor, batch: Batch) -> Callable[[], list[Tensor]]:
    """Gives weighted sums [R, D] float64 of a batch's states when it is called.

    Of the differences, then of both pooled states. They are under way already, but for devices that
    have no float64: there the states are fetched, which waits for them, and summed on the CPU.
    """
    if state_RSD.device.type in ("cpu", "cuda"):
        sums = _sums(state_RSD, batch)
        return lambda: sums
    return lambda: _sums(state_RSD.cpu(), batch)


def _sums(state_RSD: Tensor, batch: Batch) -> list[Tensor]:
    state_RSD = state_RSD.double()
    # One sum, not the difference of two pooled states: the bits of vectors hang on it.
    weights = [batch.difference_weights, *batch.pooling_weights]
    return [
        torch.einsum("rs,rsd->rd", upload(torch.from_numpy(of_RS), state_RSD.device), state_RSD)
        for of_RS in weights
    ]


def store(sums: Sequence[Tensor], batch: Batch, into: PooledStates, layer_index: int) -> None:
    """Take in what ``pool`` gave of one layer."""
    differences_ND, *states = (_of_rows(summed_RD.cpu().numpy(), batch) for summed_RD in sums)
    into.differences[layer_index, batch.rows] = differences_ND
    for label, states_ND in enumerate(states):
        into.states[label, layer_index, batch.rows] = states_ND


def _of_rows(summed_RD: np.ndarray, batch: Batch) -> np.ndarray:
    """Sums [N, D] float64 over the sequences of each row."""
    summed_ND = np.zeros((len(batch.rows), summed_RD.shape[1]))
    np.add.at(summed_ND, batch.sequence_row, summed_RD)
    return summed_ND
