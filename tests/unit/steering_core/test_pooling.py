"""Sums over the sequences of each row: the bits that vectors are made of."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from steering_core.buckets import filled
from steering_core.encoding import EncodedExample
from steering_core.packing import Batch, lay_out
from steering_core.pooled import PooledStates
from steering_core.pooling import pool, store
from steering_core.protocol import PROTOCOLS
from tests.support.golden import encode_group

WIDTH = 32


def rows_of_task() -> tuple[EncodedExample, ...]:
    return encode_group("gemma2-tiny", "intersentence", "race", PROTOCOLS["as_published"])[:3]


def batch_of(*, is_packed: bool, is_static: bool) -> Batch:
    # Not in the order of the task, so that a sum in the wrong row shows.
    batch = lay_out(rows_of_task(), [2, 0, 1], is_packed=is_packed)
    return filled(batch, 5, batch.input_ids.shape[1] + 7) if is_static else batch


@pytest.mark.parametrize("is_static", [False, True])
@pytest.mark.parametrize("is_packed", [True, False])
def test_rows_get_the_bits_of_a_sum_over_their_sequences(is_packed: bool, is_static: bool) -> None:
    batch = batch_of(is_packed=is_packed, is_static=is_static)
    torch.manual_seed(0)
    state_RSD = torch.randn(*batch.input_ids.shape, WIDTH)
    state_RSD[:, :, 0] = -0.0
    sums = pool(state_RSD, batch)()
    found = PooledStates.empty([1, 2], rows_of_task(), WIDTH)
    store(sums, batch, found, 1)

    wanted = []
    for summed_RD in sums:
        summed_ND = np.zeros((3, WIDTH))
        np.add.at(summed_ND, batch.sequence_row, summed_RD)
        in_order = np.empty_like(summed_ND)
        in_order[batch.rows] = summed_ND
        wanted.append(in_order)
    assert found.differences[1].tobytes() == wanted[0].tobytes()
    assert found.states[:, 1].tobytes() == np.stack(wanted[1:]).astype(np.float32).tobytes()
    assert np.abs(found.differences[1]).max(axis=1).min() > 0.01
    assert not found.differences[0].any()
