"""Refusing to steer inside of compiled code.

Dynamo does not check hooks when it reuses what it compiled (``skip_nnmodule_hook_guards``). A hook
that is set on a module inside of compiled code is skipped without an error, in the engine and in
the reference alike, so that a certificate would find nothing wrong. Modules below a hook may be
compiled: norms, MLPs and attention by themselves.
"""

from __future__ import annotations

from torch import nn

from steersweep.errors import UserError


def is_compiled(module: nn.Module) -> bool:
    """Whether a module is what ``torch.compile`` returned, or was compiled in place.

    In place means ``module.compile()``, or a compiled function as its ``forward``.
    """
    return (
        "_orig_mod" in module._modules  # an OptimizedModule, whose class takes seconds to import
        or module._compiled_call_impl is not None
        or hasattr(vars(module).get("forward"), "_torchdynamo_orig_callable")
    )


def refuse_compiled(model: nn.Module, path: str, what: str) -> None:
    """Raise UserError if a module of the model, or one that contains it, was compiled.

    Args:
        path: the module's name, as ``get_submodule`` takes it.
        what: is not possible then, for the message.
    """
    module, names = model, []
    for name in ["", *path.split(".")] if path else [""]:
        if name:
            module = getattr(module, name)
            names.append(name)
        if is_compiled(module):
            where = ".".join(names) or "the model"
            raise UserError(
                f"{what}: {where} was compiled, and compiled code skips hooks, so steering would "
                "have no effect; pass the model as it was before torch.compile, and call neither "
                "torch.compile nor .compile() on the model, its decoder or its blocks"
            )
