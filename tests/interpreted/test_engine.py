"""The whole engine with all kernels, in float16, against the engine without and the reference."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import cache
from typing import Any

import numpy as np
import pytest
import torch

from jobs.scoring.certifier import Certifier, TaskRows
from jobs.spec import CertificateSpec
from jobs.stereoset.groups import group_of
from steering_core.encoding import EncodedExample
from steering_core.engine import Cell, Engine
from steering_core.hook_points import SITES
from steering_core.interventions import Intervention
from steering_core.kernels import KERNELS, applied, choice, gated_mlp, log_sum_exp, rms_norm
from steering_core.kernels import attention as attention_kernel
from steering_core.layout import find_layout
from steering_core.models import LoadedModel
from steering_core.probes import engine_for, random_row
from steering_core.protocol import PROTOCOLS, Protocol
from steering_core.slow_engine import SlowEngine
from steering_core.vectors import SteeringVectors
from steersweep.errors import UserError
from tests.interpreted.clock import clock
from tests.support.tiny_models import random_model

FAMILIES = ("gemma2", "gemma3_text", "llama", "qwen3")
TOLERANCE = 2e-3
"""Nats; 7e-4 was seen, and 4e-4 between the engine without kernels and the reference."""
COEFF = 3.0
_SMALL: dict[str, Any] = {
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
}
_VOCABULARY = 600
_BOTH_KINDS = ["sliding_attention", "full_attention"]


@cache
def model_of(family: str) -> LoadedModel:
    """In float16, with norms whose weights are not all one: where they round then shows."""
    torch.set_num_threads(1)
    kinds = {"layer_types": _BOTH_KINDS} if family.startswith("gemma") else {}
    module = random_model(family, _VOCABULARY, **_SMALL, **kinds)
    for parameter in module.parameters():
        if parameter.dim() == 1:
            parameter += 0.1 * torch.randn_like(parameter)
    module.half()
    return LoadedModel(
        module, find_layout(module, family), torch.device("cpu"), torch.float16, family
    )


@cache
def rows() -> list[EncodedExample]:
    """Short, since the interpreter is slow, but longer than Gemma's window."""
    return [random_row(model_of("llama"), length, seed=length) for length in (12, 18)]


def vectors_of(model: LoadedModel) -> SteeringVectors:
    vector = np.random.default_rng(0).normal(size=model.layout.config.hidden_size)
    return SteeringVectors(dict.fromkeys((1, 2), vector.astype(np.float32)), {})


class Calls:
    """Counts how often a kernel's function is called."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.counts: dict[str, int] = {}
        for module, name in (
            (attention_kernel, "attention"),
            (gated_mlp, "gated_product"),
            (log_sum_exp, "add_log_sum_exp"),
            (rms_norm, "rms_norm"),
        ):
            monkeypatch.setattr(module, name, self._counted(name, getattr(module, name)))

    def _counted(self, name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        def counted(*args: Any, **options: Any) -> Any:
            self.counts[name] = self.counts.get(name, 0) + 1
            return function(*args, **options)

        return counted


@pytest.mark.parametrize("family", FAMILIES)
def test_scores_and_states_are_those_of_the_model(
    family: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A trunk of both blocks and a fork of the second."""
    calls = Calls(monkeypatch)
    model, vectors = model_of(family), vectors_of(model_of(family))
    engine = Engine(model, PROTOCOLS["as_published"], kernels=KERNELS)
    plain = Engine(model, PROTOCOLS["as_published"])
    slow = SlowEngine(model, PROTOCOLS["as_published"])

    baseline, pooled = engine.baseline(rows(), 500, (1, 2))
    num_kernels = dict(calls.counts)
    wanted, wanted_pooled = slow.baseline(rows(), (1, 2))
    assert calls.counts == num_kernels, "the reference ran a kernel"
    without, _ = plain.baseline(rows(), 500, (1, 2))
    assert calls.counts == num_kernels, "an engine without kernels ran one"
    norms_per_block = {"gemma2": 4, "gemma3_text": 6, "llama": 2, "qwen3": 4}[family]
    assert num_kernels == {
        "attention": 3,
        "gated_product": 3,
        "add_log_sum_exp": 1,
        "rms_norm": norms_per_block * 3 + 2,
    }
    for other in (wanted, without):
        np.testing.assert_allclose(baseline.scores, other.scores, rtol=0, atol=TOLERANCE)
    gap = np.linalg.norm(pooled.states - wanted_pooled.states)
    assert gap < 2e-3 * np.linalg.norm(wanted_pooled.states)

    (found,) = engine.steered(rows(), 500, [Cell(1, COEFF)], vectors)
    (expected,) = plain.steered(rows(), 500, [Cell(1, COEFF)], vectors)
    np.testing.assert_allclose(found.scores, expected.scores, rtol=0, atol=TOLERANCE)
    assert np.abs(found.scores - baseline.scores).max() > 0.1


@pytest.mark.parametrize("site", SITES)
def test_steering_at_every_site_moves_scores_as_far(site: str) -> None:
    """Behind a kept prefix, where the attention kernel has fewer queries than keys."""
    model = model_of("gemma2")
    protocol = replace(PROTOCOLS["aligned"], apply=site, positions="candidate")
    cells, vectors = [Cell(2, COEFF), Cell(2, 0.0)], vectors_of(model)
    moved = []
    for engine in (engine_for(model, protocol, KERNELS), engine_for(model, protocol)):
        assert engine.reuses_prefix
        steered, unsteered = engine.steered(rows(), 500, cells, vectors)
        moved.append(steered.scores - unsteered.scores)
    assert np.abs(moved[1]).max() > 0.05
    np.testing.assert_allclose(moved[0], moved[1], rtol=0, atol=TOLERANCE)


def test_rows_of_different_interventions_side_by_side() -> None:
    model = model_of("gemma2")
    vector = np.random.default_rng(1).normal(size=64).astype(np.float32)
    protocol = Protocol()
    points = [replace(protocol, apply=site).apply_at(2) for site in ("mlp_out", "attn_out")]
    own = [Intervention(point, vector, COEFF) for point in points]
    found, wanted = (
        Engine(model, protocol, kernels=names).side_by_side(rows(), 500, own)
        for names in (KERNELS, ())
    )
    np.testing.assert_allclose(found.scores, wanted.scores, rtol=0, atol=TOLERANCE)


def test_hooks_of_a_user_run_and_the_model_is_as_before() -> None:
    """On a norm, inside of an MLP, and on the MLP's activation, which a kernel would pass over."""
    model = model_of("llama")
    block = model.layout.blocks[1]
    modules = (block.input_layernorm, block.mlp.gate_proj, block.mlp.act_fn)
    seen: list[int] = []
    handles = [
        module.register_forward_hook(lambda *_, index=index: seen.append(index))
        for index, module in enumerate(modules)
    ]
    before = {name: dict(vars(m)) for name, m in model.module.named_modules()}
    try:
        engine = Engine(model, PROTOCOLS["aligned"], kernels=KERNELS)
        seen.clear()
        engine.baseline(rows(), 500)
    finally:
        for handle in handles:
            handle.remove()
    assert sorted(seen) == [0, 1, 2], "the last block runs in the fork alone"
    assert {name: dict(vars(m)) for name, m in model.module.named_modules()} == before


def test_nothing_is_left_behind_after_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    model = model_of("gemma2")
    engine = Engine(model, PROTOCOLS["aligned"], kernels=KERNELS)

    def planted(*_args: Any, **_options: Any) -> None:
        raise ValueError("planted")

    monkeypatch.setattr(log_sum_exp, "add_log_sum_exp", planted)
    with pytest.raises(ValueError, match="planted"):
        engine.baseline(rows(), 500)
    assert not [m for m in model.module.modules() if "forward" in vars(m)]
    assert model.layout.config._attn_implementation == "eager"


def test_an_engine_anew_has_the_same_kernels() -> None:
    engine = Engine(model_of("llama"), PROTOCOLS["aligned"], kernels=["rms_norm", "attention"])
    assert engine.anew().kernels == engine.kernels == ("attention", "rms_norm")


@pytest.mark.parametrize(
    ("names", "options", "message"),
    [
        (["rope"], {}, "no kernel rope"),
        (["attention"], {"is_packed": False}, "needs packed rows"),
    ],
)
def test_kernels_that_cannot_be_used_are_refused(
    names: list[str], options: dict[str, Any], message: str
) -> None:
    with pytest.raises(UserError, match=message):
        Engine(model_of("llama"), PROTOCOLS["aligned"], kernels=names, **options)


def test_a_float32_model_gets_no_kernel() -> None:
    model = replace(model_of("llama"), dtype=torch.float32)
    assert "float16" in (applied.why_not(model) or "")
    with pytest.raises(UserError, match="are for bfloat16 and float16"):
        Engine(model, PROTOCOLS["aligned"], kernels=["rms_norm"])


def test_the_choice_is_what_is_right_and_faster(monkeypatch: pytest.MonkeyPatch) -> None:
    clock(monkeypatch, slow="gated_product")
    found = choice.choose_kernels(model_of("gemma2"), num_positions=16)
    assert found.names == ("attention", "log_sum_exp", "rms_norm")
    assert set(found.checks) == set(KERNELS)
    assert all(check.is_right for check in found.checks.values()), found
    assert (found.checks["gated_mlp"].kernel_s, found.checks["gated_mlp"].torch_s) == (3.0, 2.0)


def _off_by(function: Callable[..., torch.Tensor], factor: float) -> Callable[..., torch.Tensor]:
    return lambda *args, **options: factor * function(*args, **options)


def test_a_wrong_kernel_is_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    clock(monkeypatch)
    monkeypatch.setattr(rms_norm, "rms_norm", _off_by(rms_norm.rms_norm, 1.01))
    found = choice.choose_kernels(model_of("llama"), num_positions=16)
    assert found.names == ("attention", "gated_mlp", "log_sum_exp")
    assert found.checks["rms_norm"].gap == pytest.approx(0.01, rel=0.1)


def test_kernels_that_pass_alone_and_fail_in_the_engine_are_left_out(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    clock(monkeypatch)
    model = model_of("llama")
    checks = {"rms_norm": choice.KernelCheck(0.0, 1.0, torch_s=2.0, kernel_s=1.0)}
    monkeypatch.setattr(choice, "check_kernels", lambda *_args, **_options: checks)
    monkeypatch.setattr(rms_norm, "rms_norm", _off_by(rms_norm.rms_norm, -1.0))
    found = choice.choose_kernels(model)
    assert found.names == ()
    assert "with the kernels rms_norm, scores differ by" in (found.reason or "")


def test_a_stored_kernel_that_is_wrong_or_does_not_run_here_is_an_error(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def out_of_order(*_args: Any, **_options: Any) -> None:
        raise RuntimeError("no kernel image is available\nmore words")

    model = model_of("llama")
    choice.require_kernels(model, ("gated_mlp", "rms_norm"))
    monkeypatch.setattr(rms_norm, "rms_norm", _off_by(rms_norm.rms_norm, 1.01))
    monkeypatch.setattr(gated_mlp, "gated_product", out_of_order)
    with pytest.raises(UserError) as error:
        choice.require_kernels(model, ("gated_mlp", "rms_norm"))
    message = str(error.value)
    assert "gated_mlp cannot be used: RuntimeError: no kernel image is available" in message
    assert "rms_norm differs from torch by 0.0" in message


def test_a_wrong_kernel_in_the_engine_is_what_the_certificate_finds(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """The slow path does not run kernels: its rows are stored, or the run stops."""
    model, protocol = model_of("gemma2"), PROTOCOLS["aligned"]
    monkeypatch.setattr(attention_kernel, "attention", _off_by(attention_kernel.attention, -1.0))
    wrong, pooled = Engine(model, protocol, kernels=["attention"]).baseline(rows(), 500, (1,))
    right, _ = SlowEngine(model, protocol).baseline(rows(), (1,))
    task = TaskRows("task", group_of("tiny", "intersentence", "race").place, rows())

    falls_back = Certifier(model, protocol, CertificateSpec(), "tiny")
    stored, _, certificate = falls_back.baseline(task, wrong, pooled)
    assert certificate is not None
    assert certificate.path == "reference"
    np.testing.assert_array_equal(stored.scores, right.scores)

    stops = Certifier(model, protocol, CertificateSpec(on_failure="stop"), "tiny")
    with pytest.raises(UserError, match="the fast path is inaccurate here"):
        stops.baseline(task, wrong, pooled)
