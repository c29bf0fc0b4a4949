"""Finding the batch size: on a clock that is made up, and on a model with planted limits."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from steering_core import tuning
from steering_core.encoding import EncodedExample
from steering_core.engine import Cell, Engine
from steering_core.protocol import PROTOCOLS
from steering_core.tuning import Tuning, tune
from steering_core.vectors import fit_mean_difference
from tests.support.golden import encode_group, golden_model

PUBLISHED = PROTOCOLS["as_published"]


class Device:
    """Scores at the rates given, in rows per second by size, on a clock of its own."""

    def __init__(
        self, rates: dict[int, float], *, warm_up_s: float = 0.0, per_row: int = 1
    ) -> None:
        self.rates, self.warm_up_s, self.per_row = rates, warm_up_s, per_row
        self.now = 0.0
        self.runs: list[tuple[int, int]] = []
        self.decoder = torch.nn.Identity()

    @property
    def model(self) -> Any:
        layout = SimpleNamespace(decoder=self.decoder)
        return SimpleNamespace(device=torch.device("cpu"), layout=layout)

    @property
    def sizes(self) -> list[int]:
        return sorted({size for size, _ in self.runs})

    def score(self, rows: Sequence[EncodedExample], tokens: int) -> None:
        self.decoder(torch.zeros(self.per_row * len(rows), 1))
        if tokens not in self.sizes:
            self.now += self.warm_up_s
        self.runs.append((tokens, len(rows)))
        self.now += len(rows) / self.rates[tokens]

    def seconds(self, work: Callable[[], object], _device: torch.device) -> float:
        before = self.now
        work()
        return self.now - before


def rows_of(width: int) -> list[Any]:
    """Rows of which the middle one has ``width`` tokens, packed, and half of it in a sequence."""
    return [
        SimpleNamespace(num_packed_tokens=n, num_tokens=n // 2, candidates=(None,) * 3)
        for n in (9 * width, 1, width)
    ]


def tuned(monkeypatch: pytest.MonkeyPatch, device: Device, **options: Any) -> Tuning:
    monkeypatch.setattr(tuning, "seconds", device.seconds)
    return tune(device.score, device.model, options.pop("rows", rows_of(100)), **options)


@pytest.mark.parametrize(
    ("rates", "wanted"),
    [
        ((10, 20, 30, 40), 4096),
        ((10, 20, 20.5, 20.4), 1024),  # 2048 is best by less than 3 %
        ((10, 20, 20.7, 20.8), 2048),
        ((20, 10), 512),  # worse: larger ones are not tried
        ((20, 20), 512),
    ],
)
def test_the_smallest_size_within_three_percent_of_the_best(
    monkeypatch: pytest.MonkeyPatch, rates: tuple[float, ...], wanted: int
) -> None:
    by_size = dict(zip((512, 1024, 2048, 4096), rates, strict=False))
    device = Device(by_size)
    found = tuned(monkeypatch, device, budget_s=1e9)
    assert found.tokens_per_batch == wanted
    assert found.rows_per_s == pytest.approx(by_size)
    assert device.sizes == list(by_size)


def test_a_batch_is_full_of_rows_of_middle_length(monkeypatch: pytest.MonkeyPatch) -> None:
    packed = Device(dict.fromkeys((512, 1024), 1.0))
    separate = Device(packed.rates, per_row=3)
    tuned(monkeypatch, packed)
    assert packed.runs[0] == (512, 5)
    tuned(monkeypatch, separate, is_packed=False)
    assert separate.runs[0] == (512, 3)  # three sequences of 50 tokens each


def test_sizes_that_hold_no_row_are_not_tried(monkeypatch: pytest.MonkeyPatch) -> None:
    device = Device({1024: 1.0, 2048: 2.0, 4096: 3.0})
    tuned(monkeypatch, device, rows=rows_of(600), budget_s=1e9)
    assert device.sizes == [1024, 2048, 4096]
    assert tuned(monkeypatch, device, rows=rows_of(9000)).tokens_per_batch == 4096
    assert device.runs[-1] == (4096, 1)


def test_what_warms_up_does_not_count(monkeypatch: pytest.MonkeyPatch) -> None:
    device = Device({512: 10.0, 1024: 10.0}, warm_up_s=100.0)
    assert tuned(monkeypatch, device, budget_s=1e9).rows_per_s == pytest.approx(device.rates)


def test_a_slow_device_gets_one_run_of_the_smallest_size(monkeypatch: pytest.MonkeyPatch) -> None:
    device = Device({512: 0.1, 1024: 0.2})
    assert tuned(monkeypatch, device, budget_s=10.0).tokens_per_batch == 512
    assert device.runs == [(512, 5)]


def test_nothing_begins_once_the_time_is_over(monkeypatch: pytest.MonkeyPatch) -> None:
    device = Device({512: 10.0, 1024: 11.0, 2048: 12.0, 4096: 13.0})
    found = tuned(monkeypatch, device, budget_s=4.0)
    # Four runs of 0.5 s, then of 0.91 s for as long as 2 s last: they end at 4.7 s.
    assert device.runs == [(512, 5)] * 4 + [(1024, 10)] * 3
    assert found.tokens_per_batch == 1024


@pytest.mark.parametrize("error", [torch.OutOfMemoryError, RuntimeError])
def test_a_size_that_fails_ends_the_search(
    monkeypatch: pytest.MonkeyPatch, error: type[Exception]
) -> None:
    device = Device({512: 10.0, 1024: 20.0})

    def score(rows: Sequence[EncodedExample], tokens: int) -> None:
        if tokens > 1024:
            raise error("out of memory")
        device.score(rows, tokens)

    monkeypatch.setattr(tuning, "seconds", device.seconds)
    assert tune(score, device.model, rows_of(100)).tokens_per_batch == 1024


def test_an_error_that_is_not_about_memory_is_not_swallowed() -> None:
    def score(_rows: Sequence[EncodedExample], _tokens: int) -> None:
        raise RuntimeError("CUDA error: an illegal memory access was encountered")

    with pytest.raises(RuntimeError, match="illegal memory access"):
        tune(score, Device({}).model, rows_of(100))


def test_the_search_goes_on_to_what_fills_a_large_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    sizes = [2**power for power in range(11, 19)]
    device = Device({size: float(size) for size in sizes})
    model = device.model
    model.device = torch.device("cuda")
    monkeypatch.setattr(tuning, "seconds", device.seconds)
    assert tune(device.score, model, rows_of(100), budget_s=1e9).tokens_per_batch == 262_144
    assert device.sizes == sizes


def test_a_kept_prefix_enters_the_decoder_twice_and_is_timed_all_the_same() -> None:
    model = golden_model("gemma2-tiny")
    protocol = replace(PUBLISHED, positions="candidate")
    rows = encode_group("gemma2-tiny", "intersentence", "race", protocol)[:2]
    engine = Engine(model, protocol, reuses_prefix=True)
    assert engine.reuses_prefix
    _, pooled = engine.baseline(rows, 1024, [2])
    vectors = fit_mean_difference(pooled.sums(), 1)
    found = tune(
        lambda batch, tokens: engine.steered(batch, tokens, [Cell(2, 1.0)], vectors),
        model,
        rows,
        budget_s=0.2,
    )
    assert 512 in found.rows_per_s


def test_where_nothing_fits_it_is_the_smallest_size(monkeypatch: pytest.MonkeyPatch) -> None:
    def score(_rows: Sequence[EncodedExample], _tokens: int) -> None:
        raise torch.OutOfMemoryError("planted")

    found = tune(score, Device({}).model, rows_of(100))
    assert (found.tokens_per_batch, found.rows_per_s) == (512, {})


def test_a_size_that_the_engine_had_to_halve_is_not_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    """The engine goes on where memory is short: its halves are fast, and still do not count."""
    model = golden_model("gemma2-tiny")
    rows = encode_group("gemma2-tiny", "intersentence", "race", PUBLISHED)
    middle = sorted(row.num_packed_tokens for row in rows)[len(rows) // 2]
    most = 1024 // middle

    def refuse(_module: object, args: tuple[torch.Tensor, ...], _kwargs: Any) -> None:
        if len(args[0]) > most:
            raise torch.OutOfMemoryError("planted")

    engine = Engine(model, PUBLISHED)
    seen: list[int] = []

    def score(batch: Sequence[EncodedExample], tokens: int) -> None:
        seen.append(tokens)
        engine.baseline(batch, tokens)

    def same_time(work: Callable[[], object], _device: torch.device) -> float:
        work()
        return 0.1

    monkeypatch.setattr(tuning, "seconds", same_time)
    hook = model.layout.blocks[2].register_forward_pre_hook(refuse, with_kwargs=True)
    try:
        found = tune(score, model, rows)
    finally:
        hook.remove()
    assert found.tokens_per_batch == 1024
    assert list(found.rows_per_s) == [512, 1024]
    assert seen.count(2048) == 1
    assert 4096 not in seen
    assert not any(m._forward_pre_hooks for m in model.module.modules())


def test_a_model_is_tuned_as_it_is() -> None:
    """No made-up clock: some size comes out, and it was timed."""
    model = golden_model("gemma2-tiny")
    rows = encode_group("gemma2-tiny", "intersentence", "race", PUBLISHED)
    engine = Engine(model, PUBLISHED)
    found = tune(lambda b, t: engine.baseline(b, t, [2]), model, rows, budget_s=0.5)
    assert found.rows_per_s[found.tokens_per_batch] > 0


def test_on_xla_nothing_is_tried_since_every_size_would_be_compiled() -> None:
    def score(*_: object) -> None:
        raise AssertionError("a size was tried")

    model: Any = SimpleNamespace(device=torch.device("xla", 0))
    found = tune(score, model, rows_of(100))
    assert (found.tokens_per_batch, found.rows_per_s) == (8192, {})
