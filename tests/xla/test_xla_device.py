"""The engine on torch_xla's CPU runtime: golden numbers, and what is compiled for them.

`make test-xla` runs these in an environment of their own, with PJRT_DEVICE=CPU.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

pytest.importorskip("torch_xla", reason="torch_xla is not installed: make test-xla")

from torch_xla.debug import metrics

from steering_core import xla
from steering_core.engine import Cell, Engine
from steering_core.models import LoadedModel, ModelSource, device_kind, load_model
from steering_core.out_of_memory import is_out_of_memory
from steering_core.probes import engine_for
from steering_core.protocol import PROTOCOLS
from steering_core.reference import reference_scores, reference_states
from steering_core.scoring import choose
from steering_core.vectors import fit_mean_difference
from tests.support.golden import MODELS, encode_group, golden_model, golden_numbers, model_path
from tests.support.sweeps import read_rows, steersweep, write_spec
from tests.support.tiny_models import save_model, train_tokenizer

pytestmark = [pytest.mark.xla, pytest.mark.timeout(1800)]

TOLERANCE = 1e-5
PUBLISHED = PROTOCOLS["as_published"]
TOKENS_PER_BATCH = 512
_SIZES: set[int] = set()
"""Scored tokens of batches whose cells this process has put side by side, for any model."""


@cache
def on_xla(name: str) -> LoadedModel:
    """A golden model in float32 on the XLA device."""
    return load_model(ModelSource(str(model_path(name))), device="xla", dtype="float32")


@pytest.fixture
def compiled() -> Iterator[Any]:
    """Counts programs compiled since the last call, and operations that XLA left to the host."""
    metrics.clear_counters()
    before = [xla.num_compilations()]

    def count() -> int:
        now = xla.num_compilations()
        new, before[0] = now - before[0], now
        return new

    yield count


def left_to_the_host() -> list[str]:
    return [name for name in metrics.counter_names() if name.startswith("aten::")]


@pytest.mark.parametrize("name", MODELS)
def test_golden_numbers_hold_and_a_width_compiles_once(name: str, compiled: Any) -> None:
    """Every group: baseline, vectors and all twelve cells, to the tolerance of the CPU."""
    model = on_xla(name)
    golden = golden_numbers(name)
    layers = golden["layers"]
    engine = Engine(model, PUBLISHED)
    assert engine.is_static
    widths: set[int] = set()
    compiled()
    for group in golden["groups"]:
        rows = encode_group(name, group["split"], group["bias_type"], PUBLISHED)
        made = list(engine._batches(rows, TOKENS_PER_BATCH))
        new = {batch.input_ids.shape[1] for batch in made} - widths
        baseline, pooled = engine.baseline(rows, TOKENS_PER_BATCH, layers)
        assert compiled() == len(new)
        vectors = fit_mean_difference(pooled.sums(), num_folds=1)
        cells = [Cell(c["layer"], c["coeff"]) for c in group["cells"]]
        steered = engine.steered(rows, TOKENS_PER_BATCH, cells, vectors)
        # A trunk, a fork for each layer whatever the coefficients, and their results side by side.
        new_sizes = {len(batch.token_ids) for batch in made} - _SIZES
        assert compiled() == (len(layers) + 1) * len(new) + len(new_sizes)
        widths |= new
        _SIZES.update(new_sizes)

        np.testing.assert_allclose(baseline.scores, group["baseline"], rtol=0, atol=TOLERANCE)
        assert choose(baseline.scores).tolist() == group["baseline_choice"]
        for layer in layers:
            wanted = np.array(group["vectors"][str(layer)])
            gap = np.linalg.norm(vectors.whole[layer] - wanted) / np.linalg.norm(wanted)
            assert gap < TOLERANCE
        for cell, scores in zip(group["cells"], steered, strict=True):
            np.testing.assert_allclose(scores.scores, cell["scores"], rtol=0, atol=TOLERANCE)
            assert choose(scores.scores).tolist() == cell["choice"]
    assert len(widths) > 1
    assert left_to_the_host() == []


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model of two blocks whose head is its embedding."""
    texts = [e.context for e in _examples()]
    return save_model(
        tmp_path_factory.mktemp("small") / "llama",
        "llama",
        train_tokenizer(texts, 320),
        num_hidden_layers=2,
        tie_word_embeddings=True,
    )


def _examples() -> list[Any]:
    return [row.example for row in encode_group("llama-tiny", "intersentence", "race", PUBLISHED)]


def _rows() -> list[Any]:
    groups = [("intersentence", "race"), ("intrasentence", "gender")]
    return [r for g in groups for r in encode_group("llama-tiny", *g, PROTOCOLS["aligned"])]


@pytest.mark.parametrize("operation", ["add", "project_out"])
def test_a_prefix_that_is_left_alone_gives_the_numbers_of_the_cpu(
    operation: Any, compiled: Any
) -> None:
    protocol = replace(PROTOCOLS["aligned"], positions="candidate", operation=operation, folds=1)
    engine, cpu = (
        Engine(model, protocol, reuses_prefix=True)
        for model in (on_xla("llama-tiny"), golden_model("llama-tiny"))
    )
    rows = _rows()[:3]
    _, pooled = cpu.baseline(rows, 4096, [2])
    vectors = fit_mean_difference(pooled.sums(), num_folds=1)
    compiled()
    found = engine.steered(rows, TOKENS_PER_BATCH, [Cell(2, 1.5)], vectors)
    assert compiled() > 0
    # 0 is a coefficient like any other.
    found += engine.steered(rows, TOKENS_PER_BATCH, [Cell(2, 0.0)], vectors)
    assert compiled() == 0
    wanted = cpu.steered(rows, 4096, [Cell(2, 1.5), Cell(2, 0.0)], vectors)
    for ours, theirs in zip(found, wanted, strict=True):
        np.testing.assert_allclose(ours.scores, theirs.scores, rtol=0, atol=TOLERANCE)
    assert left_to_the_host() == []


def test_the_slow_path_is_that_of_the_cpu_and_compiles_by_width(compiled: Any) -> None:
    rows = _rows()[:2]
    model, cpu = on_xla("llama-tiny"), golden_model("llama-tiny")
    protocol = replace(PROTOCOLS["aligned"], positions="last")
    vector = np.linspace(-1, 1, model.layout.config.hidden_size, dtype=np.float32)
    for number, row in enumerate(rows):
        for coeff in (2.0, 3.0):
            steering = protocol.intervention(2, coeff, vector)
            found = reference_scores(model, row, steering)
            np.testing.assert_allclose(
                found, reference_scores(cpu, row, steering), rtol=0, atol=TOLERANCE
            )
            lengths = {len(c.token_ids) for c in row.candidates}
            assert compiled() <= (2 if number == 0 and coeff == 2.0 else 0) + len(lengths)
    compiled()
    reference_scores(model, rows[0], protocol.intervention(2, 7.0, vector))
    assert compiled() == 0
    points = [protocol.read_at(2)]
    gap = reference_states(model, rows[0], points) - reference_states(cpu, rows[0], points)
    assert np.abs(gap).max() < TOLERANCE


def test_a_model_arrives_with_one_matrix_for_embedding_and_head(small: Path) -> None:
    model = load_model(ModelSource(str(small)), device="xla", dtype="float32")
    assert model.device.type == "xla"
    head: Any = model.layout.head
    assert head.weight is model.module.get_input_embeddings().weight
    assert engine_for(model, PROTOCOLS["aligned"]).is_packed


def test_a_run_on_xla_ends_with_a_certificate_that_holds(small: Path, tmp_path: Path) -> None:
    def run(device: str) -> Any:
        spec = write_spec(
            tmp_path / f"{device}.yaml",
            models={"small": {"path": str(small), "dtype": "float32"}},
            data={"path": "embedded:examples.json", "splits": ["intersentence"], "limit": 2},
            steering={"layers": [1], "coeffs": [3, 5]},
            compute={"executor": "in_process", "device": device},
            output=str(tmp_path / device),
        )
        finished = steersweep("run", str(spec))
        assert finished.code == 0, finished
        return read_rows(str(tmp_path / device))

    found, wanted = run("xla"), run("cpu")
    overall = json.loads((tmp_path / "xla" / "certificate.json").read_text())["overall"]
    assert (overall["verdict"], overall["num_tasks_fell_back"]) == ("holds", 0)
    columns = [column for column in found if column.startswith("score_")]
    np.testing.assert_allclose(
        found[columns].to_numpy(float), wanted[columns].to_numpy(float), rtol=0, atol=TOLERANCE
    )


def test_xla_on_the_hosts_cpu_is_never_chosen_by_itself() -> None:
    assert os.environ["PJRT_DEVICE"] == "CPU"
    assert device_kind("auto") != "xla"
    assert device_kind("xla") == "xla"


def test_too_much_memory_is_known_for_what_it_is() -> None:
    device = xla.device()
    with pytest.raises(RuntimeError) as raised:
        torch.ones(1 << 42, device=device).cumsum(0)[5].item()
    assert is_out_of_memory(raised.value), str(raised.value)
