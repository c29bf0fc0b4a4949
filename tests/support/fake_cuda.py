"""CUDA tensors that are not there: shapes, dtypes and devices without numbers or a GPU.

In torch's FakeTensorMode an operation on tensors of two devices fails, as do dtypes that do not go
together, and reading a value. So what runs on these tensors up to the point where the host reads a
result mixes no devices, and waits for none.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any
from unittest import mock

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode

from steering_core.layout import ModelLayout
from steering_core.models import LoadedModel

# With an index: to find the current device of a kind, torch asks a driver.
CUDA = torch.device("cuda", 0)


@contextmanager
def fake_cuda() -> Iterator[None]:
    """While open, tensors are fake. Pinned memory needs a driver, so nothing is pinned."""
    with ExitStack() as stack:
        # In builds for the CPU, torch's own ask for a driver, if only to choose the current device.
        for name, in_python in _IN_PYTHON.items():
            stack.enter_context(mock.patch.object(FakeTensor, name, in_python, create=True))
        stack.enter_context(mock.patch.object(Tensor, "pin_memory", lambda tensor: tensor))
        stack.enter_context(FakeTensorMode(allow_non_fake_inputs=True))
        stack.enter_context(_OneDtype())
        stack.enter_context(torch.inference_mode())
        yield


class _OneDtype(TorchDispatchMode):
    """Products of two dtypes fail, which fake tensors let pass."""

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        if func in _PRODUCTS:
            dtypes = {value.dtype for value in args if isinstance(value, Tensor)}
            if len(dtypes) > 1:
                raise RuntimeError(f"{func}: matrices of {sorted(map(str, dtypes))}")
        return func(*args, **(kwargs or {}))


_PRODUCTS = {
    torch.ops.aten.linear.default,  # in inference mode these two are not taken apart before
    torch.ops.aten.matmul.default,
    torch.ops.aten.mm.default,
    torch.ops.aten.bmm.default,
    torch.ops.aten.addmm.default,
    torch.ops.aten.baddbmm.default,
}


def on_fake_cuda(module: nn.Module, layout: ModelLayout, dtype: torch.dtype) -> LoadedModel:
    """The model with fake weights of that dtype, to be called while ``fake_cuda`` is open.

    Args:
        layout: found before, on the CPU: that follows tensors by their addresses.
    """

    def move(tensor: Tensor) -> Tensor:
        wanted = dtype if tensor.is_floating_point() else tensor.dtype
        return torch.empty(tensor.shape, dtype=wanted, device=CUDA)

    moved: dict[int, nn.Parameter] = {}  # tied weights stay one
    for part in module.modules():
        for key, weight in part._parameters.items():
            if weight is not None:
                if id(weight) not in moved:
                    moved[id(weight)] = nn.Parameter(move(weight), requires_grad=False)
                part._parameters[key] = moved[id(weight)]
        for key, buffer in part._buffers.items():
            if buffer is not None:
                # As `to` does: what is float32 in a model of half precision stays so.
                part._buffers[key] = torch.empty(buffer.shape, dtype=buffer.dtype, device=CUDA)
    return LoadedModel(module, layout, CUDA, dtype, "fake")


def _contiguous(tensor: Tensor) -> Tensor:
    """``tensor.contiguous()``."""
    return tensor if tensor.is_contiguous() else tensor.clone(memory_format=torch.contiguous_format)


def _not(tensor: Tensor) -> Tensor:
    """``~tensor``."""
    return torch.bitwise_not(tensor)


def _get(tensor: Tensor, index: Any) -> Tensor:
    """``tensor[index]``."""
    part, picked = _part(tensor, index)
    return torch.ops.aten.index(part, picked) if picked else part


def _set(tensor: Tensor, index: Any, value: Any) -> None:
    """``tensor[index] = value``."""
    part, picked = _part(tensor, index)
    value = value if isinstance(value, Tensor) else torch.as_tensor(value, dtype=tensor.dtype)
    if picked:
        torch.ops.aten.index_put_(part, picked, value)
    else:
        torch.ops.aten.copy_(part, value)


def _part(tensor: Tensor, index: Any) -> tuple[Tensor, list[Tensor | None]]:
    """What slices, numbers and None leave of a tensor, and the tensors that index it."""
    items = list(index) if isinstance(index, tuple) else [index]
    dots = [number for number, item in enumerate(items) if item is ...]
    if dots:
        missing = tensor.dim() - sum(item is not None and item is not ... for item in items)
        items[dots[0] : dots[0] + 1] = [slice(None)] * missing
    picked: list[Tensor | None] = []
    dim = 0
    for item in items:
        if item is None:
            tensor = tensor.unsqueeze(dim)
        elif isinstance(item, int):
            tensor = tensor.select(dim, item)
            continue
        elif isinstance(item, slice):
            step = 1 if item.step is None else item.step
            tensor = torch.ops.aten.slice(tensor, dim, item.start, item.stop, step)
        else:
            picked += [None] * (dim - len(picked)) + [torch.as_tensor(item)]
        dim += 1
    return tensor, picked


_IN_PYTHON: dict[str, Any] = {
    "__getitem__": _get,
    "__setitem__": _set,
    "__invert__": _not,
    "contiguous": _contiguous,
}
