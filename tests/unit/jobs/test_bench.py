"""The bench measures what it says: same scores, exact counts, the FLOP formula, few imports.

No time is asserted.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from jobs.bench import noise
from jobs.bench.counts import counted
from jobs.bench.noise import Distance, distance, float32_copy
from jobs.bench.options import numbers
from jobs.bench.plain import batched, num_positions_batched, num_positions_one_by_one, one_by_one
from jobs.bench.run import bench
from jobs.bench.shapes import SHAPES, build_shape
from jobs.bench.subject import BenchOptions, Subject, load_subject
from steering_core.encoding import EncodedCandidate, EncodedExample
from steering_core.engine import Cell
from steering_core.flops import Costs, RowNeeds, costs_of, needed_flops, needs_of, plain_flops
from steering_core.interventions import Intervention
from steering_core.reference import reference_scores
from steering_core.stereoset import LABELS, Example
from steering_core.timing import neighbours, spread
from steersweep.errors import UserError
from tests.support.golden import model_path

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[3]
NEVER = ("ray", "pyarrow", "pandas", "boto3", "botocore", "pydantic", "platformdirs")
NOT_ON_A_BARE_MACHINE = ("typer", "click", "rich")


@cache
def tiny() -> Subject:
    """The tiny shape, float32 on the CPU, on embedded examples; layers 1 and 3."""
    torch.set_num_threads(1)
    return load_subject(BenchOptions(shape="tiny", rows=12, device="cpu", dtype="float32"))


def row_of(shared: int, branches: Sequence[int], scored: Sequence[Sequence[int]]) -> EncodedExample:
    """A hand-made row: ids count up, each candidate is scored at the given positions."""
    text = Example("made", "", "", "", "", ("", "", ""), (LABELS[0], LABELS[1], LABELS[2]))
    a, b, c = (
        EncodedCandidate(
            token_ids=(*range(5, 5 + shared), *range(100 * k, 100 * k + own)),
            scored_positions=tuple(at),
            scored_ids=tuple(7 + i for i in range(len(at))),
            pooled=(0, shared + own),
            num_question=shared,
            num_real=shared + own,
        )
        for k, (own, at) in enumerate(zip(branches, scored, strict=True), start=1)
    )
    return EncodedExample(text, shared, (a, b, c))


@cache
def made() -> tuple[EncodedExample, EncodedExample]:
    """Two rows of 20 and 17 packed tokens, 14 and 12 in their longest sequences."""
    return (
        row_of(11, (3, 2, 4), ((10, 11), (10, 11, 12), (11, 13))),
        row_of(10, (2, 3, 2), ((9, 10), (10, 11), (11,))),
    )


# Scores


def reference(subject: Subject, row: EncodedExample, cell: Cell) -> np.ndarray:
    point, vector, coeff = subject.steering(cell)
    return reference_scores(subject.model, row, Intervention(point, vector.numpy(), coeff))


@pytest.mark.parametrize("cell", [Cell(1, 20.0), Cell(3, -4.0)])
def test_both_plain_loops_give_the_reference_scores(cell: Cell) -> None:
    subject = tiny()
    rows = subject.pool[:5]
    wanted = np.stack([reference(subject, row, cell) for row in rows])
    steering = subject.steering(cell)
    alone = np.stack([one_by_one(subject.model, row, steering) for row in rows])
    np.testing.assert_allclose(alone, wanted, rtol=0, atol=1e-5)
    # Rows of different lengths: padding that a mask forgot would show.
    assert len({row.num_tokens for row in rows}) > 1
    together = batched(subject.model, rows, steering)
    np.testing.assert_allclose(together, wanted, rtol=0, atol=1e-5)
    unsteered = np.stack([reference_scores(subject.model, row) for row in rows])
    assert np.abs(wanted - unsteered).max() > 1e-2


@pytest.mark.parametrize("shape", SHAPES)
def test_shapes_are_what_they_are_called(shape: str) -> None:
    """Few blocks and a small vocabulary stand in for the real ones; everything else is real."""
    family, options = SHAPES[shape]
    small = {"num_hidden_layers": 2, "vocab_size": 300}
    if shape in ("gemma2-2b", "qwen2.5-7b"):
        small["intermediate_size"] = 512
    model = build_shape(shape, torch.device("cpu"), torch.float32, **small)
    config = model.layout.config
    assert config.model_type == family
    changed = {**options, **small}
    assert {key: getattr(config, key) for key in changed} == changed
    if family == "gemma2":
        assert model.module.config._attn_implementation == "eager"  # type: ignore[union-attr]
        assert model.layout.logit_softcap == 30.0
        assert config.layer_types == ["sliding_attention", "full_attention"]
    assert all(torch.isfinite(p).all() for p in model.module.parameters())
    with torch.inference_mode():
        logits = model.module(torch.tensor([[2, 9, 8, 7]])).logits
    assert torch.isfinite(logits).all()
    assert 0.2 < logits.std() < 5


def test_shapes_have_the_parameters_of_the_known_models() -> None:
    """On the meta device: nothing is allocated."""
    from transformers import AutoConfig, AutoModelForCausalLM

    billions = {"gemma2-2b": 2.614, "llama-1b": 1.236, "qwen2-0.5b": 0.494}
    for shape, wanted in billions.items():
        family, options = SHAPES[shape]
        options = options | {"tie_word_embeddings": True}
        with torch.device("meta"):
            model = AutoModelForCausalLM.from_config(AutoConfig.for_model(family, **options))
        assert sum(p.numel() for p in model.parameters()) / 1e9 == pytest.approx(wanted, abs=1e-3)


def test_an_unknown_shape_is_refused_with_the_names_there_are() -> None:
    with pytest.raises(UserError, match="gemma2-mid"):
        build_shape("gemma9", torch.device("cpu"), torch.float32)


# Counts


def test_positions_of_the_plain_loops_are_exact() -> None:
    subject, rows = tiny(), made()
    steering = subject.steering(Cell(1, 1.0))
    assert num_positions_one_by_one(rows) == (14 + 13 + 15) + (12 + 13 + 12)
    with counted(subject.model.layout) as counts:
        for row in rows:
            one_by_one(subject.model, row, steering)
    assert (counts.block_tokens, counts.head_tokens) == (4 * 79, 79)
    assert num_positions_batched(rows) == 6 * 15
    with counted(subject.model.layout) as counts:
        batched(subject.model, rows, steering)
    assert (counts.block_tokens, counts.head_tokens) == (4 * 90, 90)
    one_by_one(subject.model, rows[0], steering)
    assert counts.block_tokens == 4 * 90, "a hook was left behind"


def test_needs_of_a_hand_made_batch_are_exact() -> None:
    first, second = made()
    # Ends of what is scored: 12, 13, 14: one, two and three own tokens behind 11 shared ones.
    assert needs_of([first]) == RowNeeds(
        num_tokens=11 + 1 + 2 + 3,
        num_keys=66 + (12) + (12 + 13) + (12 + 13 + 14),
        num_read=1 + 1 + 2 + 2,
        num_keys_read=11 + 12 + (12 + 13) + (12 + 14),
    )
    assert needs_of([second]) == RowNeeds(
        num_tokens=10 + 1 + 2 + 2,
        num_keys=55 + 11 + (11 + 12) + (11 + 12),
        num_read=1 + 1 + 2 + 1,
        num_keys_read=10 + 11 + (11 + 12) + 12,
    )
    assert needs_of([first, second]).num_tokens == 17 + 15


def test_needed_flops_by_hand() -> None:
    costs = Costs(num_blocks=3, linear=100, keys_values=10, attention=2, head=1000)
    needs = RowNeeds(num_tokens=5, num_keys=12, num_read=2, num_keys_read=7)
    block, last = 5 * 100 + 12 * 2, 5 * 10 + 2 * 90 + 7 * 2
    assert needed_flops(costs, needs, [2]) == last + 2000 + 2 * block
    assert needed_flops(costs, needs, [0]) == 2 * block + last + 2000
    # Behind the last block only the head runs; the trunk to there is shared by both cells.
    assert needed_flops(costs, needs, [3, 0]) == (2 * block + last + 4000 + 3 * block) / 2
    # Coefficients share the trunk.
    assert needed_flops(costs, needs, [1] * 4) == block + last + 2000 + block / 4


# FLOPs against torch's own counter


@pytest.mark.parametrize("shape", ["tiny", "llama-1b", "qwen2-0.5b"])
def test_plain_flops_are_what_torch_counts(shape: str) -> None:
    options = {"num_hidden_layers": 2, "vocab_size": 300}
    model = build_shape(shape, torch.device("cpu"), torch.float32, **options)
    # Torch does not count the products inside fused attention on the CPU.
    model.module.set_attn_implementation("eager")  # type: ignore[operator]
    lengths = (9, 17)
    with FlopCounterMode(display=False) as counter, torch.inference_mode():
        for length in lengths:
            model.module(torch.zeros(1, length, dtype=torch.long), use_cache=False)
    assert counter.get_total_flops() == plain_flops(costs_of(model.layout), lengths)


def test_the_engine_computes_what_is_needed_and_no_more_than_its_design_allows() -> None:
    """Between two bounds, since how the engine does it is its own affair.

    At least ``needed``, less attention, which torch does not count where it is fused. At most every
    packed position, pads too, through every block above the hook point, dense attention, a whole
    trunk, and the head at the positions that are read.
    """
    subject = tiny()
    rows, cells = subject.pool[:12], [Cell(1, 20.0), Cell(3, 20.0), Cell(3, 40.0)]
    streams = [subject.steering(cell)[0].stream for cell in cells]
    costs = costs_of(subject.model.layout)
    widest = max(row.num_packed_tokens for row in rows)
    with FlopCounterMode(display=False) as counter, torch.inference_mode():
        subject.engine.steered(rows, len(rows) * widest, cells, subject.vectors)
    unfused = replace(costs, attention=0)
    needed = needed_flops(unfused, needs_of(rows), streams) * len(cells)
    dense = len(rows) * (widest * costs.linear + widest**2 * costs.attention)
    blocks = costs.num_blocks + sum(costs.num_blocks - stream for stream in streams)
    most = blocks * dense + len(cells) * needs_of(rows).num_read * costs.head
    assert needed <= counter.get_total_flops() <= most
    plain = sum(plain_flops(costs, [len(c.token_ids) for c in row.candidates]) for row in rows)
    assert needed < most < plain * len(cells)


# The command


KEYS = {
    *("plain_rows_cells_per_s", "plain_batched_rows_cells_per_s", "engine_rows_cells_per_s"),
    *("engine_vs_plain", "engine_vs_plain_batched", "needed_flops_per_s", "matmul_flops_per_s"),
    *("device", "device_name", "dtype", "shape", "threads", "torch", "transformers", "date"),
    *("matmul_share", "engine_padding_share", "plain_gap", "plain_batched_gap", "scaling"),
    *("noise", "plain_float32_rows_cells_per_s"),
}


def test_a_bench_reports_what_it_measured(tmp_path: Path) -> None:
    said: list[str] = []
    file = tmp_path / "bench.json"
    options = BenchOptions(
        shape="tiny", rows=6, seconds=2, repeats=2, device="cpu", json=str(file),
        with_scaling=True, layers=(2, 4), coeffs=(5.0, 20.0), threads=1,
    )  # fmt: skip
    result = bench(options, said.append)
    written = json.loads(file.read_text())
    assert set(written) >= KEYS
    assert written == json.loads(json.dumps(result.as_json()))
    assert written["shape"] == "tiny"
    assert (written["device"], written["dtype"]) == ("cpu", "float32")
    assert written["num_cells"] == 4
    assert written["engine"]["num_rows_cells"] == 24
    assert written["plain"]["num_rows"] == written["plain"]["num_rows_cells"] <= 6
    assert written["plain_gap"] < 1e-5
    assert written["plain_batched_gap"] < 1e-5
    assert written["steering_effect"] > 1e-2
    assert written["changed_choices"] == 0
    assert written["noise"] is written["plain_float32_rows_cells_per_s"] is None
    assert list(written["scaling"]["seconds_per_row_cell"]) == ["1", "2", "4", "8"]
    assert list(written["scaling"]["seconds_per_row_by_different"])[:2] == ["1", "2"]
    by_positions = written["scaling"]["seconds_per_row_cell_by_positions"]
    assert list(by_positions) == ["all", "candidate", "last"]
    assert all(s > 0 for s in by_positions.values())
    assert 0 <= written["engine_padding_share"] < 0.5
    # The plain loops cannot be compared but for what they computed.
    plain, engine = written["plain"], written["engine"]
    assert plain["head_tokens_per_row_cell"] * 4 == plain["block_tokens_per_row_cell"]
    assert engine["head_tokens_per_row_cell"] < plain["head_tokens_per_row_cell"] / 3
    assert 0 < written["block_tokens_avoided_vs_plain"] < 1
    text = said[-1]
    assert "(a) plain loop" in text
    assert "(c) engine" in text
    assert "ms per row and cell" in text


# Half precision


def test_half_precision_is_held_against_float32(tmp_path: Path) -> None:
    said: list[str] = []
    file = tmp_path / "bench.json"
    options = BenchOptions(
        shape="tiny", rows=6, seconds=2, repeats=1, device="cpu", dtype="bfloat16",
        json=str(file), layers=(2, 4), coeffs=(5.0,), threads=1, tokens_per_batch=1024,
    )  # fmt: skip
    bench(options, said.append)
    written = json.loads(file.read_text())
    found = written["noise"]
    assert set(found) == {"plain_float32", "num_pairs", "plain", "engine"}
    assert found["num_pairs"] == written["plain"]["num_rows_cells"] > 1
    for side in ("plain", "engine"):
        assert 1e-5 < found[side]["mean"] < found[side]["largest"] < 0.5
        assert 0 <= found[side]["changed_choices"] <= found["num_pairs"]
    assert found["plain"] != found["engine"]
    # Both are as far from float32 as they are from each other, about.
    assert written["plain_gap"] <= found["plain"]["largest"] + found["engine"]["largest"]
    float32 = found["plain_float32"]
    assert written["plain_float32_rows_cells_per_s"] == float32["rows_cells_per_s"] > 0
    assert len(float32["took_s"]) == 1
    keys = ("num_rows", "num_rows_cells", "block_tokens_per_row_cell", "head_tokens_per_row_cell")
    assert [float32[key] for key in keys] == [written["plain"][key] for key in keys]
    for words in ("(a32) plain loop, float32", "scores of bfloat16 against (a32)"):
        assert words in said[-1]


def test_a_float32_copy_has_the_same_weights_and_leaves_the_model_alone() -> None:
    model = build_shape("tiny", torch.device("cpu"), torch.bfloat16)
    before = {name: p.clone() for name, p in model.module.named_parameters()}
    made = float32_copy(model)
    assert made is not None
    assert made.dtype == torch.float32
    for (name, ours), theirs in zip(
        model.module.named_parameters(), made.module.parameters(), strict=True
    ):
        assert (ours.dtype, theirs.dtype) == (torch.bfloat16, torch.float32)
        assert torch.equal(ours, before[name])
        assert torch.equal(ours.float(), theirs)
    tokens = torch.tensor([[2, 9, 8, 7]])
    with torch.inference_mode():
        apart = (model.module(tokens).logits.float() - made.module(tokens).logits).abs().max()
    assert 1e-4 < apart < 0.5


def test_there_is_no_copy_of_float32_or_where_memory_is_short(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert float32_copy(tiny().model) is None
    model = build_shape("tiny", torch.device("cpu"), torch.bfloat16)
    num_bytes = sum(4 * p.numel() for p in model.module.parameters())
    monkeypatch.setattr(noise, "available_memory_bytes", lambda _: 2 * num_bytes)
    assert float32_copy(model) is not None
    monkeypatch.setattr(noise, "available_memory_bytes", lambda _: 2 * num_bytes - 1)
    assert float32_copy(model) is None


def test_a_distance_by_hand() -> None:
    found = np.array([[-1.0, -2.0, -3.0], [-1.0, -2.0, -3.0]])
    wanted = np.array([[-1.0, -2.5, -3.0], [-2.0, -1.5, -3.0]])
    assert distance(found, wanted) == Distance(largest=1.0, mean=2.0 / 6, changed_choices=1)


def test_a_model_folder_is_benched_with_its_own_tokenizer() -> None:
    options = BenchOptions(
        model=str(model_path("llama-tiny")), rows=4, seconds=1, repeats=1, device="cpu", threads=1
    )
    result = bench(options, lambda _: None)
    assert result.shape == options.model
    assert result.plain_gap < 1e-5


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"model": "x"}, "not both"),
        ({"rows": 0}, "--rows must be at least 1"),
        ({"layers": (5,)}, r"layer must be in 1\.\.4 for tiny, got 5"),
        ({"data": "nowhere.json"}, "no such data file"),
        ({"json": "nowhere/f.json"}, "does not exist"),
        ({"seconds": 0.0}, "--seconds"),
    ],
)
def test_what_the_user_must_change_is_said(changed: dict[str, object], message: str) -> None:
    options = replace(BenchOptions(shape="tiny", rows=4, device="cpu"), **changed)  # type: ignore[arg-type]
    with pytest.raises(UserError, match=message):
        bench(options, lambda _: None)


def test_lists_of_numbers() -> None:
    assert numbers("1,3", int, "--layers") == (1, 3)
    assert numbers("-0.5", float, "--coeffs") == (-0.5,)
    with pytest.raises(UserError, match="--layers takes numbers"):
        numbers("1;3", int, "--layers")


def test_a_spread_has_both_ends_and_no_index_twice() -> None:
    assert spread(10, 3) == [0, 4, 9]
    assert spread(3, 8) == [0, 1, 2]


def test_neighbours_come_in_whole_groups_from_all_lengths() -> None:
    assert neighbours(12, 4, 2) == [2, 3, 8, 9]
    assert neighbours(12, 3, 8) == [4, 5, 6]
    assert neighbours(12, 5, 3) == [3, 4, 5, 6, 7]
    assert neighbours(5, 9, 2) == [0, 1, 2, 3, 4]
    for num_all, num, group in [(100, 31, 7), (100, 99, 4), (1000, 7, 3)]:
        chosen = neighbours(num_all, num, group)
        assert len(set(chosen)) == num
        assert chosen == sorted(chosen)
        assert 0 <= chosen[0] <= chosen[-1] < num_all


_WITHOUT = """
import runpy, sys
blocked, module, sys.argv[1:] = sys.argv[1].split(","), sys.argv[2], sys.argv[3:]
for name in blocked:
    sys.modules[name] = None
runpy.run_module(module, run_name="__main__")
"""


@pytest.mark.slow
@pytest.mark.parametrize(
    ("module", "blocked", "first"),
    [
        ("jobs.cli", tuple(x for x in NEVER if x != "pydantic"), ["bench"]),
        ("jobs.bench", (*NEVER, *NOT_ON_A_BARE_MACHINE), []),
    ],
)
def test_both_commands_run_without_ray_and_its_company(
    tmp_path: Path, module: str, blocked: tuple[str, ...], first: list[str]
) -> None:
    """Recent typer imports pydantic itself; we do not, as the second command shows."""
    arguments = [
        *first,
        "--shape",
        "tiny",
        "--rows",
        "4",
        "--seconds",
        "1",
        "--repeats",
        "1",
        "--threads",
        "1",
    ]
    done = subprocess.run(
        [sys.executable, "-c", _WITHOUT, ",".join(blocked), module, *arguments, "--json", "f"],
        cwd=tmp_path, env=None, capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "(c) engine" in done.stdout
    assert set(json.loads((tmp_path / "f").read_text())) >= KEYS


def test_the_plain_module_says_what_to_change() -> None:
    from jobs.bench.__main__ import main

    assert main(["--shape", "tiny", "--layers", "9", "--device", "cpu"]) == 2
    assert main(["--shape", "tiny", "--coeffs", "a", "--device", "cpu"]) == 2
