"""Section ``profile``: where the time of one cell goes, and how fast its matrix products are.

Time is put into groups by the module that was running when an operation was launched, not by the
names of kernels: hooks open a range around each module of a block.
"""

from __future__ import annotations

import statistics
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from functools import cached_property, partial
from typing import Any
from unittest import mock

import torch
from torch import Tensor, nn
from torch.profiler import record_function

from jobs.bench.gpu.gauges import Busy, best_s, busy_of, is_on_device, is_on_host, profiled
from jobs.bench.gpu.kernels import checks_of_kernels, usable
from jobs.bench.gpu.models import Scoring
from jobs.bench.gpu.page import Table, number, share
from jobs.bench.gpu.record import SectionRecord
from jobs.bench.gpu.steps import Found, LeftOutError, Setting, Step
from steering_core import engine as engine_module
from steering_core.encoding import EncodedExample
from steering_core.layout import ModelLayout
from steering_core.packing import Batch, batches
from steering_core.probes import engine_for
from steering_core.protocol import PROTOCOLS
from steering_core.scoring import columns_at_once
from steering_core.timing import seconds

PREFIX = "steersweep: "
PRODUCTS, ATTENTION = "matrix products (linear layers)", "attention, with its own products"
NORMS, GATED = "norms", "gated MLP without products"
STREAM, HEAD, HEAD_PRODUCTS = "residual stream", "head without products", "products of the head"
REST = "rest (embedding, masks, steering)"
GROUPS = (PRODUCTS, ATTENTION, NORMS, GATED, STREAM, HEAD_PRODUCTS, HEAD, REST)
_ARE_PRODUCTS = ("aten::mm", "aten::addmm", "aten::bmm", "aten::matmul", "aten::linear")
_NUM_KERNELS = 25
_NUM_ROWS = 512
_ALIGNED = 1024
_NUM_SHAPES = 6


def steps(setting: Setting) -> list[Step]:
    """The section's steps."""
    bench = _Bench(setting)
    return [
        Step("one cell", bench.one_cell),
        Step("groups", bench.groups),
        Step("groups, all kernels", partial(bench.groups, with_kernels=True)),
        Step("products", bench.products),
        Step("new shapes of attention", bench.new_shapes),
    ]


class _Bench:
    """One batch of real rows, and one cell in the middle of the grid."""

    def __init__(self, setting: Setting) -> None:
        self._setting = setting
        self._device = setting.device
        self._scoring = Scoring(setting, _NUM_ROWS)

    @cached_property
    def _rows(self) -> list[EncodedExample]:
        """Rows of middle length that fill one batch."""
        by_length, tokens = self._scoring.by_length, self._setting.sizes.main_tokens
        middle = len(by_length) // 2
        num = max(1, min(len(by_length), tokens // by_length[middle].num_packed_tokens))
        low = max(0, middle - num)
        return by_length[low : low + num]

    @cached_property
    def _batch(self) -> Batch:
        return next(iter(batches(self._rows, self._setting.sizes.main_tokens)))

    def _one_cell(self, kernels: Sequence[str] = ()) -> Callable[[], object]:
        """Runs one trunk up to the middle, and one cell from there."""
        subject, tokens = self._scoring.subject, self._setting.sizes.main_tokens
        cell, rows = subject.cells[len(subject.cells) // 2], self._rows
        engine = engine_for(subject.model, PROTOCOLS["as_published"], kernels)
        return lambda: engine.steered(rows, tokens, [cell], subject.vectors)

    def one_cell(self) -> Found:
        """Kernels by time, and the gaps between them."""
        run = self._one_cell()
        wall_s = best_s(run, self._device, 0.0)
        events = profiled(run, self._device)
        busy = busy_of(events, self._device)
        kernels = kernels_of(events, self._device)
        values = {
            "tokens": int(self._batch.input_ids.size),
            "rows": len(self._rows),
            "wall_s": wall_s,
            **busy_values(busy),
            "kernels": kernels,
        }
        line = f"{1e3 * wall_s:.3g} ms, {1e3 * busy.busy_s:.3g} of them on the device"
        return Found(line, values)

    def groups(self, *, with_kernels: bool = False) -> Found:
        """Time by part of the model."""
        model = self._scoring.model
        kernels: tuple[str, ...] = ()
        if with_kernels:
            kernels = usable(checks_of_kernels(model, self._setting.sizes.kernel_positions))
        run = self._one_cell(kernels)
        with named_parts(model.layout):
            run()
            events = profiled(run, self._device)
        times_s = time_by_group(events, self._device)
        total_s = sum(times_s.values())
        busy = busy_of(events, self._device)
        values: dict[str, Any] = {
            "kernels": list(kernels),
            "groups": times_s,
            "total_s": total_s,
            "busy_s": busy.busy_s,
            # What no range claims would make every share wrong.
            "not_assigned_share": 1 - total_s / busy.busy_s if busy.busy_s else None,
        }
        if missing := [group for group in GROUPS if group not in times_s]:
            raise RuntimeError(f"no operation was seen in: {', '.join(missing)}")
        first = max(times_s, key=lambda group: times_s[group])
        return Found(f"{first}: {times_s[first] / total_s:.1%}", values)

    def products(self) -> Found:
        """Rates of the matrix products of this shape, on random data."""
        layout, num_read = self._scoring.model.layout, len(self._batch.read_at)
        num = int(self._batch.input_ids.size)
        found: dict[str, dict[str, float]] = {}
        for name, (out, width) in weights_of(layout).items():
            found[name] = self._product(num, out, width)
        head = layout.head
        assert isinstance(head, nn.Linear), "a head that is no plain product"
        columns = min(head.out_features, columns_at_once(num_read, self._device.type))
        slices = {"as cut": columns, "aligned": max(_ALIGNED, columns // _ALIGNED * _ALIGNED)}
        slices["not aligned"] = slices["aligned"] + 204
        for name, cut in slices.items():
            found[f"head, {name}, {cut:,} columns"] = self._product(num_read, cut, head.in_features)
        rates = [product["flops_per_s"] for product in found.values()]
        line = f"{min(rates) / 1e12:.3g} to {max(rates) / 1e12:.3g} TFLOP/s"
        return Found(line, {"products": found})

    def _product(self, num: int, out: int, width: int) -> dict[str, float]:
        left = torch.randn(num, width, device=self._device, dtype=torch.bfloat16)
        weight = torch.randn(out, width, device=self._device, dtype=torch.bfloat16)
        repeat_s = self._setting.sizes.repeat_s / 10
        took = best_s(lambda: nn.functional.linear(left, weight), self._device, repeat_s)
        flops = 2 * num * out * width
        return {"rows": num, "out": out, "in": width, "flops_per_s": flops / took, "s": took}

    def new_shapes(self) -> Found:
        """Attention of shapes that were not seen before: the first call and the second, in ms.

        A backend that plans each shape anew shows here: batches have all sorts of shapes.
        """
        backends: dict[str, Callable[[bool], None]] = {"as set": lambda _is_on: None}
        before = torch.backends.cuda.cudnn_sdp_enabled()  # type: ignore[no-untyped-call]
        if self._device.type == "cuda":
            backends |= {"with cuDNN": torch.backends.cuda.enable_cudnn_sdp}
        values: dict[str, Any] = {"cudnn_is_on": before, "heads": 12, "head_width": 128}
        try:
            for number_, (name, switch) in enumerate(backends.items()):
                switch(True)
                for kind, is_causal in (("masked", False), ("causal", True)):
                    pairs = [
                        self._first_and_second(64 + 8 * number_ + n, is_causal=is_causal)
                        for n in range(_NUM_SHAPES)
                    ]
                    firsts, seconds_ = zip(*pairs, strict=True)
                    values[f"{name}, {kind}"] = {
                        "first_ms": statistics.median(firsts),
                        "first_most_ms": max(firsts),
                        "second_ms": statistics.median(seconds_),
                    }
        finally:
            torch.backends.cuda.enable_cudnn_sdp(before)
        found = values["as set, masked"]
        line = f"first call {found['first_ms']:.3g} ms, second {found['second_ms']:.3g} ms"
        return Found(line, values)

    def _first_and_second(self, num: int, *, is_causal: bool) -> tuple[float, float]:
        rows = 2 if self._setting.options.shape == "tiny" else 16
        shape = (rows, 12, num, 128)
        query = torch.randn(shape, device=self._device, dtype=torch.bfloat16)
        mask: Tensor | None = None
        if not is_causal:
            mask = torch.zeros(rows, 1, num, num, device=self._device, dtype=torch.bfloat16)

        def attend() -> Tensor:
            return nn.functional.scaled_dot_product_attention(
                query, query, query, attn_mask=mask, is_causal=is_causal
            )

        return 1e3 * seconds(attend, self._device), 1e3 * seconds(attend, self._device)


def busy_values(busy: Busy) -> dict[str, Any]:
    """A ``Busy`` as plain data."""
    return {
        "busy_s": busy.busy_s,
        "span_s": busy.span_s,
        "idle_share": busy.idle_share,
        "operations": busy.num_operations,
    }


@contextmanager
def named_parts(layout: ModelLayout) -> Iterator[None]:
    """While open, each part of the model runs in a range of the profiler named after its group."""
    with ExitStack() as stack:
        for block in layout.blocks:
            stack.enter_context(_range_around(block, STREAM))
            for name, module in block.named_modules():
                if module is not block and (group := _group_of(name, module)):
                    stack.enter_context(_range_around(module, group))
        for module in layout.final:
            stack.enter_context(_range_around(module, NORMS))
        stack.enter_context(_head_in_range())
        yield


def _group_of(name: str, module: nn.Module) -> str | None:
    """The group of a module inside of a block, by what it is; None: that of the module around."""
    if isinstance(module, nn.Linear):
        return PRODUCTS
    if "norm" in type(module).__name__.lower():
        return NORMS
    if "." in name:
        return None
    if "attn" in name or "attention" in name:
        return ATTENTION
    return GATED if "mlp" in name else None


@contextmanager
def _range_around(module: nn.Module, group: str) -> Iterator[None]:
    ranges: list[Any] = []

    def enter(_module: nn.Module, _args: Any) -> None:
        ranges.append(record_function(PREFIX + group))
        ranges[-1].__enter__()

    def leave(_module: nn.Module, _args: Any, _output: Any) -> None:
        ranges.pop().__exit__(None, None, None)

    handles = [
        module.register_forward_pre_hook(enter),
        module.register_forward_hook(leave, always_call=True),
    ]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


@contextmanager
def _head_in_range() -> Iterator[None]:
    """The engine multiplies with slices of the head's matrix, so no module runs there."""
    name = "scored_log_probs"
    before: Callable[..., Tensor] = getattr(engine_module, name)

    def ranged(*args: Any, **options: Any) -> Tensor:
        with record_function(PREFIX + HEAD):
            return before(*args, **options)

    with mock.patch.object(engine_module, name, ranged):
        yield


def time_by_group(events: Sequence[Any], device: torch.device) -> dict[str, float]:
    """Seconds of each group, largest first, from events that ran within ``named_parts``.

    On CUDA the time of the kernels that an operation launched, and of those that Triton launched
    with no operation around; on the CPU that of the operation itself, without Python in between.
    """
    times: Counter[str] = Counter()
    if device.type == "cuda":
        times.update(_by_triton(events))
    for event in events:
        if not is_on_host(event):
            continue
        if device.type == "cuda":
            kernels = event.kernels
            us = sum(k.duration for k in kernels if not k.name.startswith(PREFIX))
        else:
            us = 0.0 if event.name.startswith(PREFIX) else event.self_cpu_time_total
        if us:
            times[group_of(event)] += us / 1e6
    return dict(times.most_common())


def _by_triton(events: Sequence[Any]) -> Counter[str]:
    """Seconds by group of the kernels that were launched while no PyTorch operation ran.

    The profiler links kernels to operations only. A kernel and its launch have the same number, and
    the launch lies in the range of a part of the model.
    """
    times: Counter[str] = Counter()
    hosts = [event for event in events if is_on_host(event)]
    launched_at = {e.id: e.time_range.start for e in hosts if e.name.startswith("cu")}
    spans = [
        (event.time_range.start, event.time_range.end, event.name)
        for event in hosts
        if event.name.startswith(("aten::", PREFIX))
    ]
    for kernel in filter(is_on_device, events):
        at = launched_at.get(kernel.id)
        if at is None or kernel.name.startswith(PREFIX):
            continue
        around = [(start, name) for start, end, name in spans if start <= at <= end]
        if not any(name.startswith("aten::") for _, name in around):
            group = max(around)[1].removeprefix(PREFIX) if around else REST
            times[group] += (kernel.time_range.end - kernel.time_range.start) / 1e6
    return times


def group_of(event: Any) -> str:
    """The group of an operation: the innermost named part that launched it."""
    is_product, above = False, event
    while above is not None:
        if above.name.startswith(PREFIX):
            group: str = above.name.removeprefix(PREFIX)
            return HEAD_PRODUCTS if group == HEAD and is_product else group
        is_product = is_product or above.name in _ARE_PRODUCTS
        above = above.cpu_parent
    return REST


def kernels_of(events: Sequence[Any], device: torch.device) -> list[dict[str, Any]]:
    """The kernels that take longest; on the CPU, PyTorch's operations."""
    times: Counter[str] = Counter()
    calls: Counter[str] = Counter()
    for event in events:
        if device.type == "cuda":
            if not is_on_device(event):
                continue
            us = event.time_range.end - event.time_range.start
        else:
            us = event.self_cpu_time_total
        times[event.name] += us
        calls[event.name] += 1
    return [
        {"name": name, "ms": us / 1e3, "calls": calls[name]}
        for name, us in times.most_common(_NUM_KERNELS)
    ]


def weights_of(layout: ModelLayout) -> dict[str, tuple[int, int]]:
    """Rows and columns of the matrices of a block, by name."""
    found = {}
    for path, module in layout.blocks[0].named_modules():
        if isinstance(module, nn.Linear):
            found[path.rpartition(".")[2]] = (module.out_features, module.in_features)
    if not found:
        raise LeftOutError("the blocks have no plain matrix products")
    return found


def tables(section: SectionRecord) -> list[Table]:
    """The section's tables."""
    found = {step.name: step.found for step in section.succeeded()}
    made = []
    if cell := found.get("one cell"):
        lines = [
            ["wall time, ms", number(1e3 * cell["wall_s"])],
            ["device busy, ms", number(1e3 * cell["busy_s"])],
            ["host: share of wall time in which the device waits",
             share(max(0.0, 1 - cell["busy_s"] / cell["wall_s"]))],
            ["device idle between first and last kernel", share(cell["idle_share"])],
            ["kernels and copies", f"{cell['operations']:,}"],
        ]  # fmt: skip
        title = f"One cell in the middle, {cell['rows']} rows, {cell['tokens']:,} positions"
        note = (
            "Wall time without the profiler; the rest under it, which makes the host slower: the "
            "idle share is an upper limit. On a CPU, `device` means PyTorch's operations."
        )
        made.append(Table(title, ("", ""), lines, note))
    for step, title in (
        ("groups", "Time by part of the model"),
        ("groups, all kernels", "Time by part of the model with all kernels"),
    ):
        if groups := found.get(step):
            lines = [
                [name, number(1e3 * s), share(s / groups["total_s"])]
                for name, s in groups["groups"].items()
            ]
            lines.append(["sum", number(1e3 * groups["total_s"]), ""])
            lines.append(["in no group", "", share(groups["not_assigned_share"])])
            note = "By the module that launched an operation."
            made.append(Table(title, ("", "ms", "share"), lines, note))
    if cell:
        total_ms = 1e3 * cell["busy_s"]
        lines = [
            [f"`{k['name'][:90]}`", number(k["ms"]), share(k["ms"] / total_ms), str(k["calls"])]
            for k in cell["kernels"]
        ]
        made.append(Table("Kernels by time", ("", "ms", "share", "calls"), lines))
    if products := found.get("products"):
        lines = [
            [name, f"{p['rows']:,} x {p['in']:,} x {p['out']:,}", number(p["flops_per_s"] / 1e12),
             number(1e3 * p["s"])]
            for name, p in products["products"].items()
        ]  # fmt: skip
        header = ("", "rows x in x out", "TFLOP/s", "ms")
        made.append(Table("Matrix products of this shape, bfloat16", header, lines))
    if shapes := found.get("new shapes of attention"):
        lines = [
            [name, number(f["first_ms"]), number(f["first_most_ms"]), number(f["second_ms"])]
            for name, f in shapes.items()
            if isinstance(f, dict)
        ]
        header = ("", "first call, ms", "slowest first call, ms", "second call, ms")
        title = "Attention (SDPA) of shapes not seen before"
        state = "on" if shapes["cudnn_is_on"] else "off"
        made.append(Table(title, header, lines, f"`as set`: cuDNN is {state}."))
    return made
