"""What the engine holds at its fullest: a batch and its trunk, however much there is to score."""

from __future__ import annotations

import gc
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import pytest
import torch

from steering_core.encoding import EncodedExample
from steering_core.engine import Cell, Engine
from steering_core.memory import peak_memory
from steering_core.models import LoadedModel, ModelSource
from steering_core.protocol import PROTOCOLS
from steering_core.skeleton import read_skeleton
from steering_core.vectors import SteeringVectors, fit_mean_difference
from steering_core.work import Batching, batch_shapes, counts_of
from tests.support.golden import encode_group, golden_model, model_path

PUBLISHED = PROTOCOLS["as_published"]


class Gauge:
    """Bytes of tensors that were made since it was opened and are alive."""

    def __init__(self) -> None:
        self.peak_bytes = 0

    def read(self) -> int:
        storages = {
            held.untyped_storage().data_ptr(): held.untyped_storage().nbytes()
            for held in gc.get_objects()
            if type(held) is torch.Tensor
        }
        return sum(storages.values())

    def note(self, *_: object) -> None:
        self.peak_bytes = max(self.peak_bytes, self.read())


@contextmanager
def gauged(model: LoadedModel) -> Iterator[Gauge]:
    """A gauge that looks whenever a block begins or ends."""
    gauge = Gauge()
    gc.collect()
    gc.freeze()  # what is there already is not listed
    handles = [
        register(gauge.note)
        for block in model.layout.blocks
        for register in (block.register_forward_pre_hook, block.register_forward_hook)
    ]
    try:
        yield gauge
    finally:
        for handle in handles:
            handle.remove()
        gc.unfreeze()


@pytest.fixture
def row() -> EncodedExample:
    return encode_group("gemma2-tiny", "intersentence", "race", PUBLISHED)[0]


def peak(rows: Sequence[EncodedExample], cells: Sequence[Cell], vectors: SteeringVectors) -> int:
    """Most bytes during a task of batches of two rows; nothing is held behind it."""
    model = golden_model("gemma2-tiny")
    engine, tokens = Engine(model, PUBLISHED), 2 * rows[0].num_packed_tokens
    layers = sorted({cell.layer for cell in cells})
    with gauged(model) as gauge:
        engine.baseline(rows, tokens, layers)
        engine.steered(rows, tokens, cells, vectors)
        gc.collect()
        assert gauge.read() == 0
    return gauge.peak_bytes


def test_memory_grows_with_neither_rows_nor_cells(row: EncodedExample) -> None:
    model = golden_model("gemma2-tiny")
    _, pooled = Engine(model, PUBLISHED).baseline([row], 4096, [2, 4])
    vectors = fit_mean_difference(pooled.sums(), 1)
    cells = [Cell(layer, float(coeff)) for coeff in range(1, 5) for layer in (2, 4)]
    least = peak([row] * 4, cells[:2], vectors)
    assert least > 0
    assert peak([row] * 16, cells[:2], vectors) == least
    assert peak([row] * 4, cells, vectors) == least
    # The gauge sees what a batch holds: twice the rows in it are more.
    with gauged(model) as gauge:
        Engine(model, PUBLISHED).steered([row] * 4, 4 * row.num_packed_tokens, cells[:2], vectors)
    assert gauge.peak_bytes > 1.5 * least


def test_what_is_held_between_blocks_is_within_what_is_forecast(row: EncodedExample) -> None:
    """Without the weights; what lives inside a block is not seen, and belongs to the scratch."""
    model = golden_model("gemma2-tiny")
    _, pooled = Engine(model, PUBLISHED).baseline([row], 4096, [2, 4])
    vectors = fit_mean_difference(pooled.sums(), 1)
    held = peak([row] * 8, [Cell(2, 1.0), Cell(4, 1.0)], vectors)
    skeleton = read_skeleton(ModelSource(str(model_path("gemma2-tiny"))))
    counts = counts_of(row, PUBLISHED)
    shapes = batch_shapes([counts] * 2, Batching(2 * row.num_packed_tokens))
    forecast = peak_memory(skeleton, shapes, "float32", "cpu", num_kept=3, longest=0)
    assert 0.7 * forecast.streams_bytes < held
    assert held < forecast.streams_bytes + forecast.scratch_bytes
