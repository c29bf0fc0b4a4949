"""Compiles every kernel for Hopper; no GPU is needed. ``python -m tests.support.compiled_kernels``
prints a line for each program: its name, registers of a thread, bytes of them in memory for lack of
registers, bytes of shared memory, and how it multiplies and loads.
"""

from __future__ import annotations

import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from subprocess import STDOUT
from typing import Any

from triton import compile as compile_kernel
from triton.backends import nvidia
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from steering_core.kernels import attention, gated_mlp, log_sum_exp, rms_norm

HOPPER = GPUTarget("cuda", 90, 32)
MOST_SHARED_BYTES = 227 * 1024
"""Of one program on Hopper."""


def programs(dtype: str) -> Iterator[tuple[str, Any]]:
    """Name and compiled kernel, for streams of ``fp16`` or ``bf16``, shapes of gemma2-2b."""
    for has_cap in (False, True):
        yield (
            f"log_sum_exp, {dtype}, cap {has_cap}",
            _compiled(
                log_sum_exp._add_log_sum_exp,
                {"log_norms": "*fp32", "products": f"*{dtype}", "scale": "fp32", "cap": "fp32"},
                {"HAS_CAP": has_cap, "BLOCK": log_sum_exp._BLOCK},
                num_warps=log_sum_exp._NUM_WARPS,
            ),
        )
        for width, block_keys, warps in ((64, 64, 4), (256, 32, 8)):
            pointers = ("queries", "keys", "values", "masks", "outputs")
            yield (
                f"attention, {dtype}, width {width}, cap {has_cap}",
                _compiled(
                    attention._attention,
                    {**dict.fromkeys(pointers, f"*{dtype}"), "scale": "fp32", "cap": "fp32"},
                    {
                        "GROUP": 2,
                        "HAS_CAP": has_cap,
                        "WIDTH": width,
                        "BLOCK_QUERIES": attention._BLOCK_QUERIES,
                        "BLOCK_KEYS": block_keys,
                    },
                    num_warps=warps,
                    num_stages=2,
                ),
            )
    for rounds_first, width in ((False, 2304), (True, 128)):
        block = 1 << (width - 1).bit_length()
        yield (
            f"rms_norm, {dtype}, rounds first {rounds_first}",
            _compiled(
                rms_norm._rms_norm,
                {**dict.fromkeys(("inputs", "weights", "outputs"), f"*{dtype}"), "eps": "fp32"},
                {
                    "OFFSET": float(not rounds_first),
                    "ROUNDS_FIRST": rounds_first,
                    "ROWS": max(1, rms_norm._ELEMENTS // block),
                    "BLOCK": block,
                },
                num_warps=8 if block >= 4096 else 4,
            ),
        )
    for is_gelu in (False, True):
        yield (
            f"gated_mlp, {dtype}, gelu {is_gelu}",
            _compiled(
                gated_mlp._gated_product,
                dict.fromkeys(("gates", "ups", "outputs"), f"*{dtype}"),
                {"IS_GELU": is_gelu, "BLOCK": gated_mlp._BLOCK},
                num_warps=gated_mlp._NUM_WARPS,
            ),
        )


def _compiled(kernel: Any, types: dict[str, str], constants: dict[str, Any], **options: int) -> Any:
    """The kernel for arguments as torch hands them over: what may be is a multiple of 16."""
    signature = {
        name: "constexpr" if name in constants else types.get(name, "i32")
        for name in kernel.arg_names
    }
    unspecialized = {p.name for p in kernel.params if p.do_not_specialize}
    attributes = {
        (i,): [["tt.divisibility", 16]]
        for i, name in enumerate(kernel.arg_names)
        if signature[name] not in ("constexpr", "fp32") and name not in unspecialized
    }
    source = ASTSource(kernel, signature, constants, attributes)
    return compile_kernel(source, target=HOPPER, options=options)


def facts(program: Any) -> tuple[int, int, int, list[str]]:
    """Registers of a thread, bytes of them in memory, shared bytes, instructions that matter."""
    ptx = program.asm["ptx"]
    instructions = re.findall(r"wgmma\.mma|mma\.sync|(?:ld\.global|cp\.async\.c[ag])[.\w]*", ptx)
    tool = Path(nvidia.__file__).parent / "bin" / "cuobjdump"
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(program.asm["cubin"])
        file.flush()
        usage = subprocess.check_output([tool, "-res-usage", file.name], text=True, stderr=STDOUT)
    registers, stack = (int(re.findall(rf"{name}:(\d+)", usage)[0]) for name in ("REG", "STACK"))
    return registers, stack, program.metadata.shared, sorted(set(instructions))


if __name__ == "__main__":
    for kind in ("bf16", "fp16"):
        for name, program in programs(kind):
            sys.stdout.write(f"{name}: {facts(program)}\n")
