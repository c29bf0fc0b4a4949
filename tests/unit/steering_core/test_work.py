"""What is counted without running is what an engine then runs."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path
from unittest import mock

import pytest
from torch import nn

from steering_core import engine as engine_module
from steering_core.buckets import Buckets, batches_in_buckets
from steering_core.engine import Cell, Engine
from steering_core.flops import costs_of, needed_flops, needs_of
from steering_core.interventions import Positions
from steering_core.memory import peak_memory
from steering_core.models import ModelSource, load_model
from steering_core.packing import batches
from steering_core.prefix_reuse import steered_and_behind
from steering_core.protocol import PROTOCOLS, Protocol
from steering_core.scoring import Measure
from steering_core.skeleton import read_skeleton
from steering_core.vectors import fit_mean_difference
from steering_core.work import (
    Batching,
    Work,
    baseline_work,
    batch_shapes,
    counts_of,
    plain_block_tokens,
    steered_work,
    total_needs,
    total_needs_behind,
)
from steersweep.errors import UserError
from tests.support.golden import encode_group, golden_model, model_path
from tests.support.tiny_models import FAMILIES, save_model, train_tokenizer

NUM_BLOCKS = 6
TOKENS = 250
CELLS = [Cell(2, 1.0), Cell(2, 2.0), Cell(5, 1.0)]


@contextmanager
def through_attention(model: nn.Module) -> Iterator[list[int]]:
    """Positions of each call of a block's attention; blocks that only hand on call none."""
    seen: list[int] = []
    with ExitStack() as stack:
        for block in model.model.layers:
            handle = block.self_attn.register_forward_hook(
                lambda _m, _a, output: seen.append(output[0].shape[:-1].numel())
            )
            stack.callback(handle.remove)
        yield seen


def _ran(
    protocol: Protocol, batching: Batching, measures: tuple[Measure, ...]
) -> tuple[Work, Work]:
    """Baseline and steered work of an engine, and its trunks, as they were run."""
    model = golden_model("gemma2-tiny")
    rows = encode_group("gemma2-tiny", "intersentence", "race", protocol)
    engine = Engine(
        model,
        protocol,
        is_packed=batching.is_packed,
        reuses_prefix=batching.reuses_prefix,
        measures=measures,
    )
    works = []
    pooled = engine.baseline(rows, TOKENS, [2, 6])[1]
    vectors = fit_mean_difference(engine.baseline(rows, TOKENS, [2, 5])[1].sums(), 1)
    trunk = "run_prefix_trunk" if batching.reuses_prefix else "run_trunk"
    for name, run, num_cells in (
        ("run_trunk", lambda: engine.baseline(rows, TOKENS, pooled.layers), 0),
        (trunk, lambda: engine.steered(rows, TOKENS, CELLS, vectors), len(CELLS)),
    ):
        wrapped = getattr(engine_module, name)
        with (
            through_attention(model.module) as seen,
            mock.patch.object(engine_module, name, wraps=wrapped) as trunks,
        ):
            run()
        works.append(Work(trunks.call_count, num_cells * trunks.call_count, sum(seen)))
    return works[0], works[1]


@pytest.mark.parametrize(
    ("protocol", "positions", "is_packed"),
    [
        ("as_published", "all", True),
        ("aligned", "all", True),
        ("as_published", "all", False),
        ("aligned", "candidate", True),
        ("aligned", "last", True),
    ],
)
@pytest.mark.parametrize("measures", [(), ("kl",)])
def test_work_is_what_an_engine_runs(
    measures: tuple[Measure, ...], protocol: str, positions: Positions, is_packed: bool
) -> None:
    chosen = replace(PROTOCOLS[protocol], positions=positions)  # type: ignore[index]
    batching = Batching(TOKENS, is_packed, chosen.leaves_prefix_alone)
    rows = encode_group("gemma2-tiny", "intersentence", "race", chosen)
    counts = [counts_of(row, chosen) for row in rows]
    shapes = batch_shapes(counts, batching)
    made = list(batches(rows, TOKENS, is_packed=is_packed))
    assert len(shapes) > 1
    assert [(s.num_sequences, s.num_positions) for s in shapes] == [b.input_ids.shape for b in made]
    baseline = baseline_work(shapes, NUM_BLOCKS, {chosen.read_at(2), chosen.read_at(6)})
    points = [chosen.apply_at(cell.layer) for cell in CELLS]
    steered = steered_work(
        shapes, NUM_BLOCKS, points, reuses_prefix=batching.reuses_prefix, measures=measures
    )
    assert (baseline, steered) == _ran(chosen, batching, measures)
    whole = sum(len(c.token_ids) for row in rows for c in row.candidates)
    assert plain_block_tokens(counts, NUM_BLOCKS) == NUM_BLOCKS * whole


@pytest.mark.parametrize(("positions", "is_packed"), [("all", False), ("candidate", True)])
def test_static_batches_are_counted_with_what_fills_them(
    positions: Positions, is_packed: bool
) -> None:
    protocol = replace(PROTOCOLS["aligned"], positions=positions)
    reuses = protocol.leaves_prefix_alone
    rows = encode_group("gemma2-tiny", "intersentence", "race", protocol)
    batching = Batching(TOKENS, is_packed, reuses, Buckets())
    shapes = batch_shapes([counts_of(row, protocol) for row in rows], batching)
    made = list(batches_in_buckets(rows, TOKENS, Buckets(), is_packed=is_packed))
    assert [(s.num_sequences, s.num_positions, s.num_read) for s in shapes] == [
        (*batch.input_ids.shape, len(batch.read_at)) for batch in made
    ]
    assert [shape.num_behind for shape in shapes] == [
        steered_and_behind(b, positions).shape[1] if reuses else b.input_ids.shape[1] for b in made
    ]


def test_counts_add_up_to_what_rows_need() -> None:
    protocol = replace(PROTOCOLS["aligned"], positions="candidate")
    rows = encode_group("gemma2-tiny", "intersentence", "race", protocol)
    counts = [counts_of(row, protocol) for row in rows]
    assert total_needs(counts) == needs_of(rows)
    needs, behind = total_needs(counts), total_needs_behind(counts)
    assert 0 < behind.num_tokens < 0.7 * needs.num_tokens
    assert behind.num_read == needs.num_read
    costs = costs_of(golden_model("gemma2-tiny").layout)
    many = [0] * 50
    less = needed_flops(costs, needs, many, behind) / needed_flops(costs, needs, many)
    assert 0.3 < less < 0.9


@pytest.mark.parametrize("family", FAMILIES)
def test_a_skeleton_has_the_shapes_of_the_loaded_model(family: str, tmp_path: Path) -> None:
    tokenizer = train_tokenizer(["a few words for a tokenizer"], 300)
    source = ModelSource(str(save_model(tmp_path / family, family, tokenizer)))
    loaded = load_model(source, device="cpu", dtype="float32")
    skeleton, costs = read_skeleton(source), costs_of(loaded.layout)
    assert skeleton.num_params == sum(p.numel() for p in loaded.module.parameters())
    if family == "opt":  # its projections behind the blocks are not seen in a config
        assert skeleton.costs.head < costs.head
    else:
        assert skeleton.costs == costs
    assert skeleton.width == loaded.layout.config.hidden_size


def test_a_config_that_is_no_decoder_is_one_clear_line(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"model_type": "vit"}')
    with pytest.raises(UserError, match="shapes cannot be derived"):
        read_skeleton(ModelSource(str(tmp_path)))


def test_memory_grows_with_the_batch_the_states_and_the_dtype() -> None:
    skeleton = read_skeleton(ModelSource(str(model_path("gemma2-tiny"))))
    protocol = PROTOCOLS["as_published"]
    rows = encode_group("gemma2-tiny", "intersentence", "race", protocol)
    counts = [counts_of(row, protocol) for row in rows]

    def total(tokens: int, dtype: str = "float32", num_kept: int = 2) -> int:
        shapes = batch_shapes(counts, Batching(tokens))
        memory = peak_memory(skeleton, shapes, dtype, "cpu", num_kept=num_kept, longest=100)
        return memory.total_bytes

    assert total(500) > total(120)
    assert total(500, num_kept=6) > total(500)
    assert total(500, "bfloat16") < total(500)


def test_kl_needs_the_head_twice_and_the_trunk_to_the_top() -> None:
    costs = costs_of(golden_model("gemma2-tiny").layout)
    protocol = PROTOCOLS["as_published"]
    needs = needs_of(encode_group("gemma2-tiny", "intersentence", "race", protocol))
    head = needs.num_read * costs.head
    # Behind the last block nothing else is computed of a cell, and its trunk is whole already.
    last = [costs.num_blocks]
    plain, measured = (needed_flops(costs, needs, last, measures=m) for m in ((), ("kl",)))
    blocks = needed_flops(costs, needs, [0]) - head
    assert measured == blocks + 2 * head
    assert plain > blocks + head  # a trunk's last block is computed at every position
    # A cell that runs every block shares nothing with its trunk, which would not run without kl.
    assert needed_flops(costs, needs, [0], measures=("kl",)) == 2 * (blocks + head)
