"""What the engine does not compute: counted, not timed."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torch.overrides import TorchFunctionMode

from steering_core.engine import Cell, Engine
from steering_core.hook_points import SITES, HookPoint
from steering_core.interventions import OPERATIONS, Intervention, Positions
from steering_core.layout import find_layout
from steering_core.packing import batches
from steering_core.prefix_reuse import steered_and_behind
from steering_core.protocol import PROTOCOLS
from steering_core.vectors import fit_mean_difference
from tests.support.golden import encode_group, golden_model, on_cpu
from tests.support.tiny_models import random_model

PUBLISHED = PROTOCOLS["as_published"]
NUM_BLOCKS = 6
ALL_IN_ONE_BATCH = 4096


@contextmanager
def counted(model: nn.Module) -> Iterator[dict[str, Counter[int]]]:
    """Calls of each block's attention, positions of each block's MLP, positions of the head.

    The head is multiplied in slices and never called: its positions are counted at the norm before
    it, where they come flat; a trunk's own pass through the norm, [R, S, D], reaches no head.
    """
    counts: dict[str, Counter[int]] = {name: Counter() for name in ("attention", "mlp", "head")}

    def count(name: str, block: int, amount: int | None = None) -> object:
        def hook(_module: nn.Module, _args: object, output: object) -> None:
            tensor = output[0] if isinstance(output, tuple) else output
            if name != "head" or tensor.dim() == 2:
                counts[name][block] += tensor.shape[:-1].numel() if amount is None else amount

        return hook

    with ExitStack() as stack:
        for index, block in enumerate(model.model.layers):
            # The last MLP's own hooks see every position; its matrices, those that are computed.
            inside = block.mlp.down_proj
            for name, part, amount in (("attention", block.self_attn, 1), ("mlp", inside, None)):
                handle = part.register_forward_hook(count(name, index, amount))
                stack.callback(handle.remove)
        stack.callback(model.model.norm.register_forward_hook(count("head", 0)).remove)
        yield counts


def _rows() -> tuple:
    return encode_group("gemma2-tiny", "intersentence", "race", PUBLISHED)


@pytest.mark.parametrize("num_coeffs", [1, 4])
def test_a_trunk_is_run_once_and_a_cell_runs_the_blocks_above_it(num_coeffs: int) -> None:
    model, rows = golden_model("gemma2-tiny"), _rows()
    engine = Engine(model, PUBLISHED)
    _, pooled = engine.baseline(rows, ALL_IN_ONE_BATCH, [2, 5])
    vectors = fit_mean_difference(pooled.sums(), 1)
    cells = [Cell(layer, float(c)) for layer in (2, 5) for c in range(num_coeffs)]
    with counted(model.module) as counts:
        engine.steered(rows, ALL_IN_ONE_BATCH, cells, vectors)
    # Layer 2 is added before block 1, layer 5 before block 4: the trunk ends below block 4.
    trunk = dict.fromkeys(range(4), 1)
    forks = {block: num_coeffs * ((block >= 1) + (block >= 4)) for block in range(NUM_BLOCKS)}
    wanted = {block: trunk.get(block, 0) + forks[block] for block in range(NUM_BLOCKS)}
    assert counts["attention"] == Counter({b: n for b, n in wanted.items() if n})


def test_the_last_mlp_and_the_head_see_only_positions_that_are_read() -> None:
    model, rows = golden_model("gemma2-tiny"), _rows()
    engine = Engine(model, PUBLISHED)
    _, pooled = engine.baseline(rows, ALL_IN_ONE_BATCH, [3])
    vectors = fit_mean_difference(pooled.sums(), 1)
    (batch,) = batches(rows, ALL_IN_ONE_BATCH)
    with counted(model.module) as counts:
        engine.steered(rows, ALL_IN_ONE_BATCH, [Cell(3, 1.0), Cell(3, 2.0)], vectors)
    assert counts["mlp"][NUM_BLOCKS - 1] == 2 * len(batch.read_at)
    assert counts["head"][0] == 2 * len(batch.read_at)
    assert len(batch.read_at) < batch.input_ids.size / 2
    assert counts["mlp"][NUM_BLOCKS - 2] == 2 * batch.input_ids.size


class HeadProducts(TorchFunctionMode):
    """While open, counts positions that the head's matrix, or a slice of it, is multiplied with."""

    def __init__(self, head: nn.Linear) -> None:
        super().__init__()
        self._head, self._num_entries = head, 0

    @property
    def num_positions(self) -> float:
        return self._num_entries / self._head.out_features

    def __torch_function__(
        self, func: Any, _types: Any, args: tuple = (), kwargs: dict | None = None
    ) -> Any:
        output = func(*args, **(kwargs or {}))
        if func is nn.functional.linear:
            storage = self._head.weight.untyped_storage().data_ptr()
            if args[1].untyped_storage().data_ptr() == storage:
                self._num_entries += output.numel()
        return output


@pytest.mark.parametrize("num_cells", [1, 3])
def test_kl_multiplies_the_head_twice_for_each_cell_and_runs_the_trunk_to_the_top(
    num_cells: int,
) -> None:
    model, rows = golden_model("gemma2-tiny"), _rows()
    _, pooled = Engine(model, PUBLISHED).baseline(rows, ALL_IN_ONE_BATCH, [3])
    vectors = fit_mean_difference(pooled.sums(), 1)
    cells = [Cell(3, float(coeff)) for coeff in range(num_cells)]
    (batch,) = batches(rows, ALL_IN_ONE_BATCH)
    attention, head = [], []
    for measures in ((), ("kl",)):
        engine = Engine(model, PUBLISHED, measures=measures)  # type: ignore[arg-type]
        with counted(model.module) as counts, HeadProducts(model.layout.head) as products:
            engine.steered(rows, ALL_IN_ONE_BATCH, cells, vectors)
        attention.append([counts["attention"][block] for block in range(NUM_BLOCKS)])
        head.append(products.num_positions)
    # Layer 3 is added before block 2: without kl, that is where the trunk ends.
    assert attention == [[1, 1, *[num_cells] * 4], [1, 1, *[num_cells + 1] * 4]]
    assert head == [num_cells * len(batch.read_at), 2 * num_cells * len(batch.read_at)]


@pytest.mark.parametrize("positions", ["candidate", "last"])
def test_behind_a_prefix_that_is_not_steered_only_the_rest_is_computed(
    positions: Positions,
) -> None:
    model, rows = golden_model("gemma2-tiny"), _rows()
    protocol = replace(PUBLISHED, positions=positions)
    _, pooled = Engine(model, protocol).baseline(rows, ALL_IN_ONE_BATCH, [3])
    vectors = fit_mean_difference(pooled.sums(), 1)
    (batch,) = batches(rows, ALL_IN_ONE_BATCH)
    computed = steered_and_behind(batch, positions).size
    engine = Engine(model, protocol, reuses_prefix=True)
    with counted(model.module) as counts:
        engine.steered(rows, ALL_IN_ONE_BATCH, [Cell(3, 1.0), Cell(3, 2.0)], vectors)
    whole = batch.input_ids.size
    wanted = {b: whole + 2 * computed * (b >= 2) for b in range(NUM_BLOCKS)}
    assert counts["mlp"] == Counter(wanted)
    assert computed < 0.6 * whole


def test_mixed_interventions_cost_what_equal_ones_cost() -> None:
    """One pass through the blocks, however many configurations share the batch."""
    model, rows = golden_model("gemma2-tiny"), _rows()
    vector = np.ones(model.layout.config.hidden_size, np.float32)
    equal = [Intervention(HookPoint(0, "resid_pre"), vector, 1.0)] * len(rows)
    mixed = [
        Intervention(HookPoint(n % NUM_BLOCKS, SITES[n % 4]), vector * n, n, [*OPERATIONS][n % 4])
        for n in range(len(rows))
    ]
    assert len({i.point for i in mixed}) > 2
    seen = []
    for interventions in (equal, mixed):
        with counted(model.module) as counts:
            Engine(model, PUBLISHED).side_by_side(rows, ALL_IN_ONE_BATCH, interventions)
        seen.append(counts)
    assert seen[0] == seen[1]
    assert seen[1]["attention"] == Counter(dict.fromkeys(range(NUM_BLOCKS), 1))


def test_pooling_at_the_last_layer_runs_its_block_in_the_trunk_too() -> None:
    model, rows = golden_model("gemma2-tiny"), _rows()
    with counted(model.module) as counts:
        Engine(model, PUBLISHED).baseline(rows, ALL_IN_ONE_BATCH, [NUM_BLOCKS])
    assert counts["attention"] == Counter(dict.fromkeys(range(NUM_BLOCKS - 1), 1) | {5: 2})


def test_nothing_is_left_changed_when_a_block_fails() -> None:
    model, rows = golden_model("gemma2-tiny"), _rows()
    engine = Engine(model, PUBLISHED)
    before, _ = engine.baseline(rows, ALL_IN_ONE_BATCH)
    broken = model.layout.blocks[2].register_forward_pre_hook(_fail)
    with pytest.raises(RuntimeError, match="planted"):
        engine.baseline(rows, ALL_IN_ONE_BATCH, [1])
    broken.remove()
    assert not any("forward" in vars(block) for block in model.layout.blocks)
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.module.modules())
    after, _ = engine.baseline(rows, ALL_IN_ONE_BATCH)
    assert (after.scores == before.scores).all()


def _fail(_module: nn.Module, _args: object) -> None:
    raise RuntimeError("planted")


@pytest.mark.parametrize("family", ["gemma2", "llama", "gpt2", "gpt_neox", "mixtral"])
def test_a_position_wise_mlp_is_found(family: str) -> None:
    assert find_layout(random_model(family, 300)).last_mlp is not None


@pytest.mark.parametrize("family", ["mamba", "opt"])
def test_a_mixer_over_positions_is_not_taken_for_one(family: str) -> None:
    """Mamba's one big part is a recurrence; OPT's MLP is no module of its own."""
    assert find_layout(random_model(family, 300)).last_mlp is None


def test_a_part_that_mixes_positions_is_refused() -> None:
    class Mixing(nn.Module):
        def __init__(self, inner: nn.Module) -> None:
            super().__init__()
            self.inner = inner

        def forward(self, hidden: torch.Tensor) -> torch.Tensor:
            out: torch.Tensor = self.inner(hidden).cumsum(dim=1)
            return out

    model = random_model("llama", 300)
    model.model.layers[-1].mlp = Mixing(model.model.layers[-1].mlp)
    assert on_cpu(model).layout.last_mlp is None
