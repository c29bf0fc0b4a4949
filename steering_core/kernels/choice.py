"""Chooses the kernels to use for a model on its device: those that are right and faster than torch.

Each kernel is compared with torch and timed on input of the model's own shapes. Then the engine
runs a few rows with all of the chosen ones. The choice must be stored and used by every replica of
an output (``jobs/scoring/batch_size.py``): another choice computes other last bits.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor

from steering_core.attention import attend
from steering_core.certificate import tolerance_for
from steering_core.engine import Engine
from steering_core.hook_points import HookPoint
from steering_core.kernels import KERNELS
from steering_core.kernels.applied import why_not
from steering_core.kernels.modules import gated_mlps, plain_product, rms_norms
from steering_core.models import LoadedModel
from steering_core.packing import lay_out
from steering_core.placing import place
from steering_core.probes import random_row
from steering_core.protocol import Protocol
from steering_core.timing import seconds
from steering_core.trunk import run_trunk
from steering_core.xla import forward_only
from steersweep.errors import UserError

logger = logging.getLogger(__name__)

_NUM_POSITIONS = 4096
_MOST_COLUMNS = 8192
_PREFIX = 80
"""Tokens that a row's candidates share, as many as rows of StereoSet do."""
_CALLS, _RUNS = 10, 3


@dataclass(frozen=True)
class KernelCheck:
    """One kernel beside torch.

    Attributes:
        gap: largest difference, relative to the largest value; None if there is none to tell.
        limit: the largest gap that rounding explains.
        torch_s, kernel_s: seconds of one call, the best of a few runs; None if not timed.
        reason: why there is no gap: the kernel did not run, or gives infinity or NaN.
    """

    gap: float | None
    limit: float
    torch_s: float | None = None
    kernel_s: float | None = None
    reason: str | None = None

    @property
    def is_right(self) -> bool:
        return self.gap is not None and self.gap <= self.limit

    @property
    def is_faster(self) -> bool:
        return (
            self.torch_s is not None and self.kernel_s is not None and self.kernel_s < self.torch_s
        )

    def __str__(self) -> str:
        if self.gap is None:
            return f"cannot be used: {self.reason}"
        text = f"differs from torch by {self.gap:.2g} (limit {self.limit:.2g})"
        if self.torch_s is None or self.kernel_s is None:
            return text
        return f"{text}, {1e6 * self.kernel_s:.0f} us, torch {1e6 * self.torch_s:.0f} us"


@dataclass(frozen=True)
class KernelChoice:
    """The kernels to use, and what was found of each that the model has a place for.

    Attributes:
        names: of ``KERNELS``, in order.
        reason: why there are none at all, None if there are some or each was found unfit alone.
    """

    names: tuple[str, ...]
    checks: dict[str, KernelCheck]
    reason: str | None = None


def choose_kernels(
    model: LoadedModel, *, is_packed: bool = True, num_positions: int = _NUM_POSITIONS
) -> KernelChoice:
    """The kernels that are right and faster for a model on its device; none off CUDA.

    Takes a few seconds, in which kernels are compiled.

    Args:
        is_packed: whether the engine runs rows as trees.
        num_positions: positions of the streams that kernels are timed on.
    """
    if (reason := why_not(model)) is not None:
        return KernelChoice((), {}, reason)
    checks = check_kernels(model, is_packed=is_packed, num_positions=num_positions)
    names = tuple(name for name, check in checks.items() if check.is_right and check.is_faster)
    reason = _why_passes_differ(model, names, is_packed) if names else None
    for name, check in checks.items():
        logger.info("%s: kernel %s %s", model.name, name, check)
    if reason is not None:
        logger.warning("%s: no kernels: %s", model.name, reason)
        return KernelChoice((), checks, reason)
    return KernelChoice(names, checks)


def require_kernels(model: LoadedModel, names: Collection[str], *, is_packed: bool = True) -> None:
    """Check that this device computes with these kernels, which another replica has chosen.

    Raises:
        UserError: a kernel that cannot be used here, or is wrong here.
    """
    if not names:
        return
    checks = check_kernels(model, names, is_packed=is_packed, num_positions=64, timed=False)
    unfit = [
        f"the kernel {name} {checks.get(name, 'has no place in the model')}"
        for name in sorted(names)
        if name not in checks or not checks[name].is_right
    ]
    if unfit:
        raise UserError(f"{model.name}: {'; '.join(unfit)}")


def check_kernels(
    model: LoadedModel,
    names: Collection[str] = KERNELS,
    *,
    is_packed: bool = True,
    num_positions: int = _NUM_POSITIONS,
    timed: bool = True,
) -> dict[str, KernelCheck]:
    """What comes of each kernel that the model has a place for, by name.

    Raises:
        UserError: the model, its device or its dtype can use no kernel.
    """
    if (reason := why_not(model)) is not None:
        raise UserError(f"{model.name}: {reason}")
    checks: dict[str, KernelCheck] = {}
    with forward_only(model.device):
        for name in KERNELS:
            if name not in names or (name == "attention" and not is_packed):
                continue
            try:
                trials = list(_TRIALS[name](model, num_positions))
                if trials:
                    checks[name] = _checked(trials, model.device, timed=timed)
            except Exception as error:  # of the compiler, the driver or the kernel
                logger.warning("%s: kernel %s does not run", model.name, name, exc_info=error)
                first_line = str(error).strip().partition("\n")[0]
                reason = f"{type(error).__name__}: {first_line}"
                checks[name] = KernelCheck(None, 0.0, reason=reason)
    return checks


@dataclass(frozen=True)
class _Trial:
    """A kernel and torch on one input.

    Attributes:
        exact: what both should give, where torch in half precision is farther off than the kernel.
    """

    plain: Callable[[], Tensor]
    kernel: Callable[[], Tensor]
    limit: float
    exact: Callable[[], Tensor] | None = None


def _checked(trials: list[_Trial], device: torch.device, *, timed: bool) -> KernelCheck:
    """All trials of a kernel as one: the largest gap, seconds added up."""
    gaps = [_gap(t.kernel(), (t.exact or t.plain)()) for t in trials]
    gap, limit = max(gaps), min(t.limit for t in trials)
    if not all(map(math.isfinite, gaps)):
        return KernelCheck(None, limit, reason="it gives values that are not finite")
    if not timed or gap > limit:
        return KernelCheck(gap, limit)
    return KernelCheck(
        gap,
        limit,
        torch_s=sum(_best_s(t.plain, device) for t in trials),
        kernel_s=sum(_best_s(t.kernel, device) for t in trials),
    )


def _best_s(work: Callable[[], Tensor], device: torch.device) -> float:
    def repeated() -> None:
        for _ in range(_CALLS):
            work()

    return min(seconds(repeated, device) for _ in range(_RUNS)) / _CALLS


def _gap(found: Tensor, wanted: Tensor) -> float:
    found, wanted = found.float(), wanted.float()
    return float((found - wanted).abs().max() / wanted.abs().max())


def _log_sum_exp_trials(model: LoadedModel, num_positions: int) -> Iterator[_Trial]:
    from steering_core.kernels.log_sum_exp import add_log_sum_exp

    layout = model.layout
    if type(layout.head) is not torch.nn.Linear:
        return
    columns = min(_MOST_COLUMNS, layout.head.out_features)
    products_MC = 8 * _random(model, num_positions, columns)
    empty_M = torch.full((num_positions,), -torch.inf, device=model.device)

    def kernel() -> Tensor:
        log_norm_M = empty_M.clone()
        add_log_sum_exp(log_norm_M, products_MC, scale=layout.logit_scale, cap=layout.logit_softcap)
        return log_norm_M

    def plain() -> Tensor:
        logits_MC = layout.scaled_and_capped(products_MC)
        return torch.logaddexp(empty_M, torch.logsumexp(logits_MC, dim=-1))

    yield _Trial(plain, kernel, limit=1e-5)


def _rms_norm_trials(model: LoadedModel, num_positions: int) -> Iterator[_Trial]:
    """One of each width."""
    from steering_core.kernels.rms_norm import rms_norm

    norms = rms_norms(model.layout, model.dtype)
    by_width = {next(m.parameters()).numel(): (m, norm) for m, norm in norms.items()}
    for width, (module, norm) in by_width.items():
        x, weight_D = _random(model, num_positions, width), next(module.parameters())
        yield _Trial(
            partial(module.forward, x),
            partial(rms_norm, x, weight_D, norm),
            limit=2 * torch.finfo(model.dtype).eps,
        )


def _gated_mlp_trials(model: LoadedModel, num_positions: int) -> Iterator[_Trial]:
    from steering_core.kernels.gated_mlp import gated_product

    for mlp in list(gated_mlps(model.layout, model.dtype).values())[:1]:
        gate = 4 * _random(model, num_positions, mlp.gate.out_features)
        up = _random(model, num_positions, mlp.gate.out_features, seed=1)
        yield _Trial(
            partial(plain_product, gate, up, mlp.activation),
            partial(gated_product, gate, up, mlp.activation),
            limit=2 * torch.finfo(model.dtype).eps,
        )


def _attention_trials(model: LoadedModel, num_positions: int) -> Iterator[_Trial]:
    """The call that the first block makes for a batch of random rows."""
    from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

    from steering_core.kernels.attention import attend_in_kernel, attention_by

    config = model.layout.config
    own = ALL_ATTENTION_FUNCTIONS.get(config._attn_implementation, attend)
    if getattr(config, "attn_logit_softcapping", None) is not None:
        own = attend  # what the engine runs for packed rows
    calls: list[tuple[tuple[Any, ...], dict[str, Any]]] = []

    def record(*args: Any, **options: Any) -> Any:
        calls.append((args, options))
        return attend(*args, **options)

    row = random_row(model, _PREFIX)
    num_rows = max(1, num_positions // row.num_packed_tokens)
    batch = place(lay_out([row] * num_rows, range(num_rows)), model.device)
    with attention_by(model.layout, record):
        run_trunk(model, batch, {HookPoint(0, "resid_post")})
    for args, options in calls[:1]:
        exact = [a.float() if isinstance(a, Tensor) else a for a in args]
        yield _Trial(
            partial(_attended, own, args, options),
            partial(_attended, attend_in_kernel, args, options),
            limit=2 * torch.finfo(model.dtype).eps,
            exact=partial(_attended, attend, exact, options),
        )


def _attended(function: Callable[..., Any], args: Sequence[Any], options: dict[str, Any]) -> Tensor:
    output: Tensor = function(*args, **options)[0]
    return output


_TRIALS: dict[str, Callable[[LoadedModel, int], Iterator[_Trial]]] = {
    "attention": _attention_trials,
    "gated_mlp": _gated_mlp_trials,
    "log_sum_exp": _log_sum_exp_trials,
    "rms_norm": _rms_norm_trials,
}


def _random(model: LoadedModel, *shape: int, seed: int = 0) -> Tensor:
    generator = torch.Generator(model.device).manual_seed(seed)
    return torch.randn(*shape, generator=generator, device=model.device).to(model.dtype)


def _why_passes_differ(model: LoadedModel, names: Collection[str], is_packed: bool) -> str | None:
    """None if the engine's scores of random rows are the same with and without the kernels."""
    rows = [random_row(model, _PREFIX, seed=seed) for seed in range(4)]
    protocol = Protocol()
    layers = (model.layout.num_blocks,)

    def scored(used: Collection[str]) -> tuple[Tensor, Tensor]:
        engine = Engine(model, protocol, is_packed=is_packed, kernels=used)
        scores, pooled = engine.baseline(rows, 2048, layers)
        return torch.from_numpy(scores.scores), torch.from_numpy(pooled.states)

    (found, found_states), (wanted, wanted_states) = scored(names), scored(())
    tolerance = tolerance_for(str(model.dtype).removeprefix("torch."))
    gap = float((found - wanted).abs().mean())
    states_gap = float((found_states - wanted_states).norm() / wanted_states.norm())
    if gap <= tolerance.score and states_gap <= tolerance.pooled:
        return None
    return (
        f"with the kernels {', '.join(names)}, scores differ by {gap:.2g} nats and states by "
        f"{states_gap:.2g} (relative)"
    )
