"""A device that runs out of memory: halves of the batch, the same scores."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from steering_core.engine import Cell, Engine
from steering_core.out_of_memory import is_out_of_memory
from steering_core.protocol import PROTOCOLS
from steering_core.vectors import fit_mean_difference
from tests.support.golden import encode_group, golden_model

PUBLISHED = PROTOCOLS["as_published"]
ALL_IN_ONE_BATCH = 4096
BLOCK = 2
XLA_SAYS = (
    "RESOURCE_EXHAUSTED: XLA:TPU compile permanent error. Ran out of memory in memory space hbm."
)


class SmallDevice:
    """A block that holds a few sequences; more are out of memory, half-way through a batch."""

    def __init__(self, most: int) -> None:
        self.most = most
        self.refused: list[int] = []
        self.held: list[int] = []

    def __call__(self, _module: object, args: tuple[torch.Tensor, ...], _kwargs: Any) -> None:
        sequences = len(args[0])
        (self.refused if sequences > self.most else self.held).append(sequences)
        if sequences > self.most:
            raise torch.OutOfMemoryError("planted")


def _engine(device: SmallDevice) -> tuple[Engine, Any]:
    model = golden_model("gemma2-tiny")
    block = model.layout.blocks[BLOCK]
    return Engine(model, PUBLISHED), block.register_forward_pre_hook(device, with_kwargs=True)


def test_a_batch_that_does_not_fit_is_halved_with_the_same_results() -> None:
    rows = encode_group("gemma2-tiny", "intersentence", "race", PUBLISHED)
    cells = [Cell(2, 5.0), Cell(4, 5.0)]
    whole = Engine(golden_model("gemma2-tiny"), PUBLISHED)
    wanted, pooled = whole.baseline(rows, ALL_IN_ONE_BATCH, [2, 4])
    vectors = fit_mean_difference(pooled.sums(), 1)
    wanted_steered = whole.steered(rows, ALL_IN_ONE_BATCH, cells, vectors)

    device = SmallDevice(most=1)
    engine, hook = _engine(device)
    try:
        found, halved = engine.baseline(rows, ALL_IN_ONE_BATCH, [2, 4])
        refused = list(device.refused)
        steered = engine.steered(rows, ALL_IN_ONE_BATCH, cells, vectors)
    finally:
        hook.remove()
    assert refused[0] == len(rows) > 1
    assert set(device.held) == {1}
    # What did not fit once is not tried again.
    assert device.refused == refused
    np.testing.assert_allclose(found.scores, wanted.scores, rtol=0, atol=2e-6)
    np.testing.assert_array_equal(found.num_scored, wanted.num_scored)
    np.testing.assert_allclose(halved.differences, pooled.differences, rtol=0, atol=1e-5)
    for ours, theirs in zip(steered, wanted_steered, strict=True):
        np.testing.assert_allclose(ours.scores, theirs.scores, rtol=0, atol=1e-5)


def test_a_row_that_does_not_fit_alone_is_an_error() -> None:
    rows = encode_group("gemma2-tiny", "intersentence", "race", PUBLISHED)
    engine, hook = _engine(SmallDevice(most=0))
    try:
        with pytest.raises(torch.OutOfMemoryError, match="planted"):
            engine.baseline(rows, ALL_IN_ONE_BATCH)
    finally:
        hook.remove()


def test_static_batches_are_halved_in_rows_and_keep_their_width() -> None:
    rows = encode_group("gemma2-tiny", "intersentence", "race", PUBLISHED)
    model = golden_model("gemma2-tiny")
    wanted, _ = Engine(model, PUBLISHED).baseline(rows, ALL_IN_ONE_BATCH)
    device = SmallDevice(most=2)
    hook = model.layout.blocks[BLOCK].register_forward_pre_hook(device, with_kwargs=True)
    try:
        found, _ = Engine(model, PUBLISHED, is_static=True).baseline(rows, 1024)
    finally:
        hook.remove()
    np.testing.assert_allclose(found.scores, wanted.scores, rtol=0, atol=2e-6)
    # One shape at a time is tried, filled or not.
    assert len(set(device.refused)) == len(device.refused) > 0
    assert set(device.held) == {min(device.refused) // 2}


@pytest.mark.parametrize("is_static", [False, True])
def test_a_device_that_runs_behind_says_so_when_results_are_fetched(is_static: bool) -> None:
    rows = encode_group("gemma2-tiny", "intersentence", "race", PUBLISHED)
    model = golden_model("gemma2-tiny")
    wanted, _ = Engine(model, PUBLISHED).baseline(rows, ALL_IN_ONE_BATCH)
    refused: list[int] = []

    class Late(Engine):
        """Fails once a batch is fetched, where it has more than one row."""

        def _for_each_batch(self, run: Any, rows: Any, tokens_per_batch: int) -> None:
            def started(batch: Any) -> Any:
                finish = run(batch)

                def fetch() -> None:
                    if batch.host.num_places > 1:
                        refused.append(batch.host.num_places)
                        raise RuntimeError(XLA_SAYS)
                    finish()

                return fetch

            super()._for_each_batch(started, rows, tokens_per_batch)

    found, _ = Late(model, PUBLISHED, is_static=is_static).baseline(rows, 400)
    assert refused
    np.testing.assert_allclose(found.scores, wanted.scores, rtol=0, atol=2e-6)


def test_another_error_is_not_taken_for_a_lack_of_memory() -> None:
    rows = encode_group("gemma2-tiny", "intersentence", "race", PUBLISHED)
    model = golden_model("gemma2-tiny")
    entered: list[None] = []

    def fail(*_: object) -> None:
        entered.append(None)
        raise RuntimeError("a bug")

    hook = model.layout.blocks[BLOCK].register_forward_pre_hook(fail)
    try:
        with pytest.raises(RuntimeError, match="a bug"):
            Engine(model, PUBLISHED).baseline(rows, ALL_IN_ONE_BATCH)
    finally:
        hook.remove()
    assert len(entered) == 1


def _caused_by(cause: Exception) -> Exception:
    error = RuntimeError("could not run the batch")
    error.__cause__ = cause
    return error


@pytest.mark.parametrize(
    ("error", "wanted"),
    [
        (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB."), True),
        (RuntimeError("CUDA error: out of memory"), True),
        (RuntimeError("CUBLAS_STATUS_ALLOC_FAILED when calling cublasCreate(handle)"), True),
        (RuntimeError("CUBLAS_STATUS_NOT_INITIALIZED when calling cublasCreate(handle)"), True),
        (RuntimeError("cuDNN error: CUDNN_STATUS_ALLOC_FAILED"), True),
        (
            RuntimeError("cuDNN error: CUDNN_STATUS_INTERNAL_ERROR_DEVICE_ALLOCATION_FAILED"),
            True,
        ),
        (RuntimeError("cuDNN error: CUDNN_STATUS_EXECUTION_FAILED"), False),
        (RuntimeError("MPS backend out of memory (MPS allocated: 17 GB)"), True),
        (RuntimeError(XLA_SAYS), True),
        (RuntimeError("Bad StatusOr access: RESOURCE_EXHAUSTED: Attempting to allocate 8G"), True),
        (RuntimeError("Ran out of memory in memory space hbm. Used 17.5G of 15.48G hbm."), True),
        # As torch_xla 2.9 says it, without the status.
        (RuntimeError("Out of memory allocating 70368744177664 bytes."), True),
        (RuntimeError("Error preparing computation: Out of memory allocating 8 bytes."), True),
        (RuntimeError("while running a batch", XLA_SAYS), True),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate"), True),
        (MemoryError(), True),
        (_caused_by(RuntimeError(XLA_SAYS)), True),
        (_caused_by(ValueError("another")), False),
        (RuntimeError("shapes do not match"), False),
        (RuntimeError(), False),
        (ValueError(XLA_SAYS), False),
        (RuntimeError("CUDA error: an illegal memory access was encountered"), False),
    ],
)
def test_one_function_knows_every_devices_words(error: Exception, wanted: bool) -> None:
    assert is_out_of_memory(error) is wanted


def test_the_cache_is_emptied_once_for_each_error(monkeypatch: pytest.MonkeyPatch) -> None:
    """Emptying it waits for the device: batches that are halved untried must not do it."""
    rows = encode_group("gemma2-tiny", "intersentence", "race", PUBLISHED)
    device = SmallDevice(most=1)
    engine, hook = _engine(device)
    freed: list[None] = []
    monkeypatch.setattr(engine, "_free", lambda: freed.append(None))
    try:
        engine.baseline(rows, ALL_IN_ONE_BATCH)
        assert len(freed) == len(device.refused) > 0
        engine.baseline(rows, ALL_IN_ONE_BATCH)
    finally:
        hook.remove()
    assert len(freed) == len(device.refused)
