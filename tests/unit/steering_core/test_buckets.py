"""Batches that are filled up to few shapes: the same numbers, whatever fills them."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from steering_core import reference
from steering_core.buckets import Buckets, batches_in_buckets, filled
from steering_core.engine import Cell, Engine
from steering_core.models import LoadedModel
from steering_core.packing import batches, lay_out, width_of
from steering_core.protocol import PROTOCOLS, Protocol
from steering_core.reference import reference_scores, reference_states
from steering_core.vectors import fit_mean_difference
from tests.support.golden import encode_group, golden_model, on_cpu
from tests.support.tiny_models import random_model
from tests.unit.steering_core.test_packing import random_rows

LAYERS = (1, 3)
CELLS = (Cell(1, 2.0), Cell(3, 5.0), Cell(3, 0.0))
TOKENS = 700
SAME = 1e-6

layouts = pytest.mark.parametrize("is_packed", [True, False], ids=["packed", "separate"])


def test_widths_are_few_and_never_half_empty() -> None:
    widths = [Buckets().width(size) for size in range(1, 1025)]
    assert sorted(set(widths)) == [64, 96, 128, 192, 256, 384, 512, 768, 1024]
    for size, width in enumerate(widths, start=1):
        assert size <= width
        assert width == 64 or size > width // 2
        assert Buckets().width(width) == width


def test_no_width_is_beyond_the_model_but_for_a_row_that_is() -> None:
    buckets = Buckets(widest=100)
    assert [buckets.width(size) for size in (60, 90, 97, 100)] == [64, 96, 100, 100]
    assert buckets.width(101) == 128


@layouts
@pytest.mark.parametrize("num_real", [1, 4, 5])
def test_what_was_there_is_there_still_and_the_rest_belongs_to_nobody(
    is_packed: bool, num_real: int
) -> None:
    rows = random_rows(6, seed=2, num_candidates=3)
    plain = lay_out(rows, range(num_real), is_packed=is_packed)
    batch = filled(plain, 5, 64)
    num_sequences, width = plain.input_ids.shape
    per_row = 1 if is_packed else 3
    assert (batch.num_places, batch.is_static) == (5, True)
    for name in ("input_ids", "position_ids", "branch", "num_question"):
        found, wanted = getattr(batch, name), getattr(plain, name)
        assert found.shape == (5 * per_row, 64)
        np.testing.assert_array_equal(found[:num_sequences, :width], wanted)
        # Copies of the last row, so that no number comes up that a row would not have had.
        copies = found[num_sequences:, :width].reshape(-1, per_row, width)
        assert (copies == wanted[-per_row:]).all()
    assert (batch.branch[:, width:] == -1).all()
    assert batch.num_tokens == plain.num_tokens
    assert batch.sequence_row[num_sequences:].tolist() == (5 - num_real) * per_row * [num_real - 1]

    def read(of: Any) -> list[tuple[int, ...]]:
        """Sequence, position, token and owner of every scored token."""
        num = len(of.token_owner)
        at = of.read_at[of.token_slot[:num]]
        columns = (*np.divmod(at, of.input_ids.shape[1]), of.token_ids[:num], of.token_owner)
        return list(zip(*(column.tolist() for column in columns), strict=True))

    assert read(batch) == read(plain)
    positions = batch.input_ids.size
    assert len(batch.read_at) == len(batch.token_ids) == len(batch.token_slot) == positions // 2
    assert (np.diff(batch.read_at) > 0).all()
    assert batch.read_at[0] >= 0
    assert batch.read_at[-1] < positions
    assert (np.diff(batch.token_slot) >= 0).all()
    assert batch.token_slot[-1] < len(batch.read_at)
    weights = batch.pooling_weights
    np.testing.assert_array_equal(weights[:, :num_sequences, :width], plain.pooling_weights)
    assert np.count_nonzero(weights) == np.count_nonzero(plain.pooling_weights)
    np.testing.assert_array_equal(batch.has_norm[:num_sequences, :width], plain.has_norm)
    assert batch.has_norm.sum() == plain.has_norm.sum()


def test_a_batch_that_reads_more_than_half_has_twice_the_room() -> None:
    rows = random_rows(3, seed=2, num_candidates=3)
    plain = lay_out(rows, [0, 1, 2])
    width = plain.input_ids.shape[1]
    assert len(plain.read_at) < len(plain.token_ids)
    tight = replace(plain, read_at=np.arange(plain.input_ids.size))
    batch = filled(tight, 3, width)
    np.testing.assert_array_equal(batch.read_at, tight.read_at)
    assert len(filled(plain, 30, width).read_at) == 30 * width // 2


@layouts
@pytest.mark.parametrize("limit", [1, 200, 900, 10**5])
def test_batches_hold_every_row_once_and_width_decides_all_sizes(
    is_packed: bool, limit: int
) -> None:
    rows = random_rows(40, seed=4, num_candidates=3)
    # Some are as long as questions are.
    rows += list(encode_group("llama-tiny", "intersentence", "race", PROTOCOLS["as_published"]))
    made = list(batches_in_buckets(rows, limit, Buckets(), is_packed=is_packed))
    assert sorted(int(i) for batch in made for i in batch.rows) == list(range(len(rows)))
    sizes: dict[int, set[tuple[int, ...]]] = defaultdict(set)
    for batch in made:
        num_sequences, width = batch.input_ids.shape
        assert width == Buckets().width(
            max(width_of(rows[i], is_packed=is_packed) for i in batch.rows)
        )
        assert batch.input_ids.size <= limit or batch.num_places == 1
        assert len(batch.rows) <= batch.num_places
        sizes[width].add((num_sequences, len(batch.read_at), len(batch.token_ids)))
    assert all(len(of_width) == 1 for of_width in sizes.values())
    # Only the last one is not full.
    assert all(len(batch.rows) == batch.num_places for batch in made[:-1])


def test_rows_with_any_number_of_candidates_need_few_shapes() -> None:
    """A width has one shape, or two if more than half of its positions are scored."""
    rows = random_rows(60, seed=4)
    sizes = defaultdict(set)
    for batch in batches_in_buckets(rows, 900, Buckets()):
        sizes[batch.input_ids.shape[1]].add((len(batch.read_at), len(batch.token_ids)))
    assert all(len(of_width) <= 3 for of_width in sizes.values())
    made = batches_in_buckets(rows, 900, Buckets(), is_packed=False)
    assert all(len({len(rows[row].candidates) for row in batch.rows}) == 1 for batch in made)


@pytest.fixture(scope="module")
def gpt2() -> LoadedModel:
    """Numbers positions itself, up to 512, where rows run as separate sequences."""
    return on_cpu(random_model("gpt2", 600))


def _both(model: LoadedModel, protocol: Protocol, **options: Any) -> tuple[Engine, Engine]:
    return (
        Engine(model, protocol, **options),
        Engine(model, protocol, is_static=True, **options),
    )


def _rows(protocol: Protocol) -> list[Any]:
    groups = [("intersentence", "gender"), ("intrasentence", "race")]
    return [row for g in groups for row in encode_group("llama-tiny", *g, protocol)]


@pytest.mark.parametrize(
    ("name", "positions", "is_packed"),
    [
        ("gemma2-tiny", "all", True),
        ("llama-tiny", "all", True),
        ("llama-tiny", "candidate", True),
        ("llama-tiny", "last", False),
        ("gpt2", "candidate", False),
    ],
)
def test_static_batches_give_the_numbers_of_dense_ones(
    name: str, positions: Any, is_packed: bool, gpt2: LoadedModel
) -> None:
    protocol = replace(PROTOCOLS["aligned"], positions=positions, folds=1)
    model = gpt2 if name == "gpt2" else golden_model(name)
    dense, static = _both(
        model, protocol, is_packed=is_packed, reuses_prefix=protocol.leaves_prefix_alone
    )
    assert not dense.is_static
    assert static.reuses_prefix == (is_packed and positions == "candidate")
    rows = _rows(protocol)
    shapes: list[torch.Size] = []
    block = model.layout.blocks[-1]
    hook = block.register_forward_pre_hook(
        lambda _m, args, kwargs: shapes.append((args or [kwargs["hidden_states"]])[0].shape),
        with_kwargs=True,
    )
    wanted, wanted_pooled = dense.baseline(rows, TOKENS, LAYERS)
    vectors = fit_mean_difference(wanted_pooled.sums(), 1)
    wanted_steered = dense.steered(rows, TOKENS, CELLS, vectors)
    shapes.clear()
    found, pooled = static.baseline(rows, TOKENS, LAYERS)
    steered = static.steered(rows, TOKENS, CELLS, vectors)
    hook.remove()

    np.testing.assert_allclose(found.scores, wanted.scores, rtol=0, atol=SAME)
    np.testing.assert_array_equal(found.num_scored, wanted.num_scored)
    np.testing.assert_allclose(pooled.differences, wanted_pooled.differences, rtol=0, atol=5 * SAME)
    for ours, theirs in zip(steered, wanted_steered, strict=True):
        np.testing.assert_allclose(ours.scores, theirs.scores, rtol=0, atol=5 * SAME)
    np.testing.assert_array_equal(steered[-1].scores, found.scores)  # coefficient 0
    assert static.buckets is not None
    batches_made = batches_in_buckets(rows, TOKENS, static.buckets, is_packed=is_packed)
    widths = {batch.input_ids.shape[1] for batch in batches_made}
    # A fork that leaves the prefix alone computes half of the positions.
    assert len(widths) > 1 or not is_packed
    assert len(set(shapes)) == (2 if static.reuses_prefix else 1) * len(widths)


@layouts
def test_the_default_layout_of_the_cpu_is_dense(is_packed: bool) -> None:
    engine = Engine(golden_model("llama-tiny"), PROTOCOLS["aligned"], is_packed=is_packed)
    assert (engine.is_static, engine.buckets) == (False, None)
    assert engine.anew().is_static is False
    static = Engine(golden_model("llama-tiny"), PROTOCOLS["aligned"], is_static=True)
    assert static.anew().is_static is True
    assert not any(batch.is_static for batch in batches(_rows(PROTOCOLS["aligned"]), TOKENS))


@pytest.mark.parametrize("positions", ["all", "last"])
def test_a_padded_reference_is_the_reference(
    positions: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As on XLA, where each sequence of another length would be compiled."""
    protocol = replace(PROTOCOLS["aligned"], positions=positions)
    model = golden_model("llama-tiny")
    vector = np.linspace(-1, 1, model.layout.config.hidden_size, dtype=np.float32)
    steering, points = protocol.intervention(2, 3.0, vector), [protocol.read_at(2)]
    row = _rows(protocol)[0]

    def computed() -> tuple[np.ndarray, ...]:
        return (
            reference_scores(model, row),
            reference_scores(model, row, steering),
            reference_states(model, row, points),
        )

    wanted = computed()
    lengths: list[int] = []
    monkeypatch.setattr(reference, "is_xla", lambda _device: True)
    hook = model.layout.blocks[0].register_forward_pre_hook(
        lambda _m, args, kwargs: lengths.append((args or [kwargs["hidden_states"]])[0].shape[1]),
        with_kwargs=True,
    )
    found = computed()
    hook.remove()
    assert set(lengths) < {64, 96, 128, 192}
    for ours, theirs in zip(found, wanted, strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=0, atol=SAME)
