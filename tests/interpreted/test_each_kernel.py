"""Each kernel against torch in float32.

The interpreter rounds to bfloat16 by cutting digits off, and multiplies bfloat16 matrices as if
they were integers. So only what is loaded is tried in bfloat16 here.
"""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from steering_core.kernels.attention import attention
from steering_core.kernels.gated_mlp import gated_product
from steering_core.kernels.log_sum_exp import add_log_sum_exp
from steering_core.kernels.modules import Activation, RmsNorm, plain_product
from steering_core.kernels.rms_norm import rms_norm

HALF = torch.float16
ULP = torch.finfo(HALF).eps
INF = math.inf


def random(*shape: int, dtype: torch.dtype = HALF, size: float = 1.0) -> Tensor:
    return (size * torch.randn(*shape, generator=torch.Generator().manual_seed(0))).to(dtype)


def plain_log_sum_exp(products: Tensor, scale: float, cap: float | None) -> Tensor:
    x = products.float() * scale
    return torch.logsumexp(x if cap is None else cap * torch.tanh(x / cap), dim=-1)


def in_slices(products: Tensor, columns: int, scale: float = 1.0, cap: float | None = None):
    log_norm = torch.full((len(products),), -INF)
    for low in range(0, products.shape[1], columns):
        add_log_sum_exp(log_norm, products[:, low : low + columns], scale=scale, cap=cap)
    return log_norm


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
@pytest.mark.parametrize("cap", [None, 3.0, 30.0])
@pytest.mark.parametrize("columns", [5000, 1999])
def test_log_sum_exp(dtype: torch.dtype, cap: float | None, columns: int) -> None:
    """Slices are views, whose rows lie apart; blocks of 2,048 do not divide them."""
    products = random(2, 5000, dtype=dtype, size=8)
    found = in_slices(products, columns, 0.3, cap)
    torch.testing.assert_close(found, plain_log_sum_exp(products, 0.3, cap), rtol=0, atol=4e-6)


@pytest.mark.parametrize("cap", [None, 30.0])
@pytest.mark.parametrize("level", [-60000.0, -1000.0, 60000.0])
def test_log_sum_exp_far_from_zero(level: float, cap: float | None) -> None:
    products = random(2, 3000) + level
    found = in_slices(products, 2048, 1.0, cap)
    torch.testing.assert_close(found, plain_log_sum_exp(products, 1.0, cap), rtol=1e-6, atol=4e-6)


def test_log_sum_exp_where_values_are_not_finite() -> None:
    products = random(6, 5000)
    products[0, 4000:] = -INF  # a column that cannot be chosen
    products[1] = -INF
    products[2, 10] = products[3, 4999] = INF
    products[4, 4321] = math.nan
    found, wanted = in_slices(products, 3000), plain_log_sum_exp(products, 1.0, None)
    assert wanted[1:5].tolist()[:3] == [-INF, INF, INF]
    torch.testing.assert_close(found, wanted, rtol=0, atol=4e-6, equal_nan=True)


def test_log_sum_exp_of_no_rows_is_nothing() -> None:
    assert in_slices(random(0, 10), 5).shape == (0,)


NORMS = [
    RmsNorm(1e-6, offset=1.0, rounds_first=False),  # Gemma
    RmsNorm(1e-5, offset=0.0, rounds_first=True),  # Llama, Qwen
    RmsNorm(1e-5, offset=0.0, rounds_first=False),  # OLMo 2
]


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("width", [16, 100, 2304])
@pytest.mark.parametrize("size", [1e-3, 1.0, 200.0])
def test_rms_norm(norm: RmsNorm, width: int, size: float) -> None:
    """Of 200, the squares overflow in half precision; of 1e-3, eps counts."""
    x, weight = random(2, 5, width, size=size), random(width)
    found, wanted = rms_norm(x, weight, norm), norm.plain(x, weight)
    assert found.dtype == wanted.dtype
    torch.testing.assert_close(found, wanted, rtol=2 * ULP, atol=1e-6)
    # Rounding in another place is seen: nearly all entries are the same bits.
    assert (found != wanted).float().mean() < 0.01


def test_rms_norm_of_strided_input() -> None:
    norm, weight = NORMS[0], random(24)
    whole = random(3, 4, 7, 60)
    for x in (whole[..., :24], whole.transpose(1, 2)[..., 30:54], whole[..., ::2][..., :24]):
        found = rms_norm(x, weight, norm)
        torch.testing.assert_close(found, norm.plain(x, weight), rtol=2 * ULP, atol=1e-6)


def test_the_two_roundings_of_a_norm_differ() -> None:
    """Or the test above could not tell them apart."""
    x, weight = random(50, 100), random(100)
    first, last = (NORMS[i].plain(x, weight) for i in (1, 2))
    assert (first != last).float().mean() > 0.1


@pytest.mark.parametrize("activation", ["gelu_tanh", "silu"])
@pytest.mark.parametrize("shape", [(3, 5, 1365), (1, 7), (2, 2048)])
def test_gated_product(activation: Activation, shape: tuple[int, ...]) -> None:
    gate, up = random(*shape, size=4), random(*shape).flip(0)
    found, wanted = gated_product(gate, up, activation), plain_product(gate, up, activation)
    assert found.shape == wanted.shape
    torch.testing.assert_close(found, wanted, rtol=3 * ULP, atol=1e-4)


@pytest.mark.parametrize("activation", ["gelu_tanh", "silu"])
def test_gated_product_of_extreme_and_strided_gates(activation: Activation) -> None:
    gate = torch.tensor([[-6e4, -100, -20, -0.0], [0, 20, 100, 6e4]], dtype=HALF).T
    up = random(4, 2, size=0.5)
    wanted = plain_product(gate, up, activation)
    assert wanted.isfinite().all()
    torch.testing.assert_close(gated_product(gate, up, activation), wanted, rtol=2 * ULP, atol=1e-6)


def plain_attention(
    query: Tensor, key: Tensor, value: Tensor, mask: Tensor, scale: float, cap: float | None
) -> Tensor:
    groups = query.shape[1] // key.shape[1]
    key, value = (x.float().repeat_interleave(groups, dim=1) for x in (key, value))
    scores = query.float() @ key.transpose(2, 3) * scale
    if cap is not None:
        scores = cap * torch.tanh(scores / cap)
    return (torch.softmax(scores + mask.float(), dim=-1) @ value).transpose(1, 2)


def heads(num_rows: int, num_heads: int, length: int, width: int, size: float = 1.0) -> Tensor:
    """As a projection leaves them: heads lie side by side behind each position."""
    return random(num_rows, length, num_heads, width, size=size).transpose(1, 2)


def random_mask(num_rows: int, num_queries: int, num_keys: int, least: float) -> Tensor:
    """Half of the keys, and the last one for every query; the first block is hidden from one."""
    mask = torch.where(random(num_rows, 1, num_queries, num_keys) > 0, 0.0, least)
    mask[:, :, 0, :-1] = least
    mask[..., -1] = 0.0
    return mask.to(HALF)


@pytest.mark.parametrize("cap", [None, 2.0])
@pytest.mark.parametrize(("num_heads", "num_kv"), [(2, 2), (3, 1)])
@pytest.mark.parametrize(("num_queries", "num_keys"), [(70, 70), (1, 130)])
def test_attention(
    num_queries: int, num_keys: int, num_heads: int, num_kv: int, cap: float | None
) -> None:
    """Fewer queries than keys: a fork behind a prefix. Three heads of a group share a key head."""
    query = heads(2, num_heads, num_queries, 24, size=3)
    key, value = heads(2, num_kv, num_keys, 24).flip(0), heads(2, num_kv, num_keys, 24)
    mask = random_mask(2, num_queries, num_keys, torch.finfo(HALF).min)
    found = attention(query, key, value, mask, scale=0.3, cap=cap)
    wanted = plain_attention(query, key, value, mask, 0.3, cap)
    torch.testing.assert_close(found.float(), wanted, rtol=2 * ULP, atol=2e-3)


@pytest.mark.parametrize("width", [16, 80, 256])
def test_attention_of_other_head_widths(width: int) -> None:
    query, key = heads(1, 2, 40, width), heads(1, 1, 40, width)
    mask = random_mask(1, 40, 40, torch.finfo(HALF).min)
    found = attention(query, key, key, mask, scale=width**-0.5)
    wanted = plain_attention(query, key, key, mask, width**-0.5, None)
    torch.testing.assert_close(found.float(), wanted, rtol=2 * ULP, atol=2e-3)


def test_attention_under_one_mask_for_all_rows_and_a_mask_of_minus_infinity() -> None:
    query, key = heads(3, 2, 70, 16), heads(3, 2, 130, 16)
    mask = random_mask(1, 70, 130, -INF)
    found = attention(query, key, key, mask, scale=1.0)
    wanted = plain_attention(query, key, key, mask, 1.0, None)
    torch.testing.assert_close(found.float(), wanted, rtol=2 * ULP, atol=2e-3)


def test_attention_of_large_scores_and_strided_inputs() -> None:
    """Scores of about 10,000 are sums that half precision could not add up."""
    query, key = heads(2, 2, 20, 32, size=60)[..., ::2], heads(2, 2, 20, 32, size=60)[..., ::2]
    value = heads(2, 2, 20, 16)
    mask = random_mask(2, 20, 40, torch.finfo(HALF).min)[..., ::2]
    mask[..., 0] = 0
    found = attention(query, key, value, mask, scale=1.0)
    wanted = plain_attention(query, key, value, mask, 1.0, None)
    assert wanted.isfinite().all()
    torch.testing.assert_close(found.float(), wanted, rtol=2 * ULP, atol=2e-3)
