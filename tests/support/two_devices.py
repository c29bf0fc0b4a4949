"""Two devices that are not there: real numbers in host memory that say they lie on ``meta:N``.

An operation on tensors of two devices fails as it does on real ones; what is moved is copied. So
what runs with a model spread over devices is held to the numbers of the same model on one.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from accelerate.hooks import AlignDevicesHook, add_hook_to_module
from torch import Tensor, nn
from torch.utils import _pytree as pytree
from torch.utils._python_dispatch import TorchDispatchMode

from steering_core.layout import find_blocks, text_config

# No other device than meta can be named by its tensors on a machine without it.
FIRST, SECOND = torch.device("meta", 0), torch.device("meta", 1)

_MOVES = {
    torch.ops.aten.copy_.default,
    torch.ops.aten._local_scalar_dense.default,
}
_BY_INDEX = {"aten::index.Tensor", "aten::index_put_", "aten::index_put", "aten::_index_put_impl_"}


class Elsewhere(Tensor):
    """A tensor of a device that is not there; ``held`` has its numbers."""

    held: Tensor

    @staticmethod
    def __new__(cls, held: Tensor, device: torch.device) -> Elsewhere:
        tensor = Tensor._make_wrapper_subclass(
            cls, held.shape, held.stride(), held.storage_offset(), dtype=held.dtype, device=device
        )
        tensor.held = held
        return tensor

    def tolist(self) -> Any:
        return self.held.tolist()

    def __repr__(self, **_: Any) -> str:  # type: ignore[override]
        return f"Elsewhere({self.held}, {self.device})"

    @classmethod
    def __torch_dispatch__(
        cls, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        return _run(func, args, kwargs or {})


class _Factories(TorchDispatchMode):
    """Also what has no tensor to go by: ``torch.zeros(..., device="meta:1")``."""

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        return _run(func, args, kwargs or {})


def _run(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    flat, spec = pytree.tree_flatten((args, kwargs))
    tensors = [value for value in flat if isinstance(value, Tensor)]
    device = _device_of(func, tensors)
    device = next((value for value in flat if isinstance(value, torch.device)), device)
    held = {id(value.held): value for value in tensors if isinstance(value, Elsewhere)}
    plain = [_plain(value) for value in flat]
    plain_args, plain_kwargs = pytree.tree_unflatten(plain, spec)
    found = func(*plain_args, **plain_kwargs)

    def placed(value: Any) -> Any:
        if not isinstance(value, Tensor):
            return value
        same = held.get(id(value))
        if same is not None:
            if same.device == device:
                return same
            value = value.clone()  # what is moved is a copy
        return Elsewhere(value, device) if device.type == "meta" else value

    return pytree.tree_map(placed, found)


def _plain(value: Any) -> Any:
    if isinstance(value, Elsewhere):
        return value.held
    is_place = isinstance(value, torch.device) and value.type == "meta"
    return torch.device("cpu") if is_place else value


def _device_of(func: Any, tensors: list[Tensor]) -> torch.device:
    if not tensors:
        return torch.device("cpu")
    first = tensors[0].device
    if func is torch.ops.aten.to.other:
        return tensors[1].device
    if func in _MOVES:
        return first
    if func.name() in _BY_INDEX:  # an index may lie on the host
        tensors = [tensors[0], *(t for t in tensors[1:] if t.device.type != "cpu")]
    found = {t.device for t in tensors if t.dim() > 0 or t.device.type != "cpu"} or {first}
    if len(found) > 1:
        raise RuntimeError(f"{func}: tensors on {sorted(map(str, found))}")
    return found.pop()


@contextmanager
def two_devices() -> Iterator[None]:
    """While open, there are ``FIRST`` and ``SECOND``."""
    # So that torch.tensor(..., device="meta:1") copies from the host where it is seen.
    before = torch._C._only_lift_cpu_tensors()
    torch._C._set_only_lift_cpu_tensors(True)
    try:
        # What is made outside of inference mode has no views inside of it, in this disguise.
        with torch.inference_mode(), _Factories():
            yield
    finally:
        torch._C._set_only_lift_cpu_tensors(before)


def spread(model: nn.Module) -> None:
    """Lay a model over both devices, half of its blocks on each, as accelerate's map does.

    The embedding lies on the first one, the final norm on the second, and the head there too,
    unless it is the embedding.
    """
    decoder, blocks = find_blocks(model, text_config(model.config), "model")
    head, embedding = model.get_output_embeddings(), model.get_input_embeddings()  # type: ignore[operator]
    is_tied = head.weight is embedding.weight
    is_behind = False
    for child in decoder.children():
        if blocks[0] in child.children():
            is_behind = True
        else:
            has_weights = any(True for _ in child.parameters())
            _put(child, SECOND if is_behind and has_weights else FIRST)
    for number, block in enumerate(blocks):
        _put(block, FIRST if number < len(blocks) // 2 else SECOND)
    _put(head, FIRST if is_tied else SECOND)
    for part in (decoder, model):
        _align(part, FIRST, io_same_device=part is model)


def _put(module: nn.Module, device: torch.device) -> None:
    for part in module.modules():
        for name, parameter in list(part.named_parameters(recurse=False)):
            moved = nn.Parameter(parameter.detach().to(device), requires_grad=False)
            setattr(part, name, moved)
        for name, buffer in list(part.named_buffers(recurse=False)):
            part._buffers[name] = buffer.to(device)
    _align(module, device)


def _align(module: nn.Module, device: torch.device, **options: Any) -> None:
    hook = AlignDevicesHook(device, skip_keys="past_key_values", **options)
    hook.init_hook = lambda placed: placed  # its weights are there already
    add_hook_to_module(module, hook)
