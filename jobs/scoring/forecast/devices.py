"""Accelerators by name, with the rates that their vendors state.

Dense products without sparsity, as the vendors' data sheets have them, of one device (a TPU's
chip), in 1e12 operations per second; memory bandwidth in 1e12 bytes per second; memory in 1e9
bytes::

                  bfloat16  float16  float32  bandwidth  memory  stated in
    v100          -         125      15.7     0.9        32      V100 data sheet (SXM2)
    t4            -         65       8.1      0.32       16      T4 data sheet
    rtx-3090      71        71       35.6     0.936      24      Ampere GA102 white paper
    rtx-a6000     154.8     154.8    38.7     0.768      48      the same
    a10           125       125      31.2     0.6        24      A10 data sheet
    a40           149.7     149.7    37.4     0.696      48      A40 data sheet
    a100-40gb     312       312      19.5     1.555      40      A100 data sheet (SXM)
    a100          312       312      19.5     2.039      80      the same
    rtx-4090      165.2     165.2    82.6     1.008      24      Ada white paper
    rtx-6000-ada  364.2     364.2    91.1     0.96       48      RTX 6000 Ada data sheet
    l4            121       121      30.3     0.3        24      L4 data sheet
    l40s          362       362      91.6     0.864      48      L40S data sheet
    h100-pcie     756       756      51       2.0        80      H100 data sheet (PCIe)
    h100          989       989      67       3.35       80      H100 data sheet (SXM)
    h200          989       989      67       4.8        141     H200 data sheet (SXM)
    gh200         989       989      67       4.0        96      GH200 data sheet (HBM3)
    rtx-5090      209.5     209.5    104.8    1.792      32      RTX Blackwell white paper
    b200          2250      2250     80       8.0        180     DGX B200 data sheet, one of 8
    gb200         2500      2500     90       8.0        186     GB200 NVL72 data sheet, one of 72
    mi300x        1307.4    1307.4   163.4    5.3        192     MI300X data sheet
    mi325x        1307.4    1307.4   163.4    6.0        256     MI325X data sheet
    mi355x        2516.6    2516.6   157.3    8.0        288     MI355X data sheet
    tpu-v4        275       -        -        1.228      32      Google Cloud TPU docs, v4
    tpu-v5e       197       -        -        0.819      16      the same, v5e
    tpu-v5p       459       -        -        2.765      95      the same, v5p
    tpu-v6e       918       -        -        1.64       32      the same, v6e

GeForce and RTX cards: half precision with float32 sums, as torch asks for; their data sheets also
state a rate twice as high, with float16 sums. float32 of b200 and gb200 is from NVIDIA's Blackwell
technical brief. AMD's devices are CUDA devices to torch.

Newer data sheets state half-precision rates with sparsity; these are half of them. float32 is the
rate without TF32, which torch does not use unless it is told to. Where a vendor states no rate for
a dtype there is none here.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

from steersweep.errors import UserError

DEFAULT_SHARE = 0.3
"""Of the stated rate that needed operations reach: an assumption. On the one machine that has been
measured, a CPU, it was 0.5 of the rate of large products (docs/performance.md); accelerators run
batches of this size less evenly, and large products stay below the stated rate themselves."""


@dataclass(frozen=True, slots=True)
class Device:
    """An accelerator as its vendor states it.

    Attributes:
        kind: of device, as in ``compute.device``.
        flops_per_s: by dtype, dense.
        bytes_per_s: of its memory.
        memory_bytes: that it has.
    """

    name: str
    kind: str
    flops_per_s: Mapping[str, float]
    bytes_per_s: float
    memory_bytes: int

    def peak_flops_per_s(self, dtype: str) -> float:
        """The stated rate of a dtype; raises UserError where the vendor states none."""
        if dtype not in self.flops_per_s:
            stated = ", ".join(self.flops_per_s)
            raise UserError(
                f"{self.name} has no stated rate for {dtype}, only for {stated}; set the models' "
                "dtype"
            )
        return self.flops_per_s[dtype]


def _device(
    name: str,
    kind: str,
    rates: tuple[float | None, float | None, float | None],
    bandwidth: float,
    memory: int,
) -> Device:
    """A line of the module's table."""
    by_dtype = zip(("bfloat16", "float16", "float32"), rates, strict=True)
    stated = {dtype: rate * 1e12 for dtype, rate in by_dtype if rate is not None}
    return Device(name, kind, stated, bandwidth * 1e12, memory * 10**9)


DEVICES: Mapping[str, Device] = {
    device.name: device
    for device in (
        _device("v100", "cuda", (None, 125, 15.7), 0.9, 32),
        _device("t4", "cuda", (None, 65, 8.1), 0.32, 16),
        _device("rtx-3090", "cuda", (71, 71, 35.6), 0.936, 24),
        _device("rtx-a6000", "cuda", (154.8, 154.8, 38.7), 0.768, 48),
        _device("a10", "cuda", (125, 125, 31.2), 0.6, 24),
        _device("a40", "cuda", (149.7, 149.7, 37.4), 0.696, 48),
        _device("a100-40gb", "cuda", (312, 312, 19.5), 1.555, 40),
        _device("a100", "cuda", (312, 312, 19.5), 2.039, 80),
        _device("rtx-4090", "cuda", (165.2, 165.2, 82.6), 1.008, 24),
        _device("rtx-6000-ada", "cuda", (364.2, 364.2, 91.1), 0.96, 48),
        _device("l4", "cuda", (121, 121, 30.3), 0.3, 24),
        _device("l40s", "cuda", (362, 362, 91.6), 0.864, 48),
        _device("h100-pcie", "cuda", (756, 756, 51), 2.0, 80),
        _device("h100", "cuda", (989, 989, 67), 3.35, 80),
        _device("h200", "cuda", (989, 989, 67), 4.8, 141),
        _device("gh200", "cuda", (989, 989, 67), 4.0, 96),
        _device("rtx-5090", "cuda", (209.5, 209.5, 104.8), 1.792, 32),
        _device("b200", "cuda", (2250, 2250, 80), 8.0, 180),
        _device("gb200", "cuda", (2500, 2500, 90), 8.0, 186),
        _device("mi300x", "cuda", (1307.4, 1307.4, 163.4), 5.3, 192),
        _device("mi325x", "cuda", (1307.4, 1307.4, 163.4), 6.0, 256),
        _device("mi355x", "cuda", (2516.6, 2516.6, 157.3), 8.0, 288),
        _device("tpu-v4", "xla", (275, None, None), 1.228, 32),
        _device("tpu-v5e", "xla", (197, None, None), 0.819, 16),
        _device("tpu-v5p", "xla", (459, None, None), 2.765, 95),
        _device("tpu-v6e", "xla", (918, None, None), 1.64, 32),
    )
}
"""By name."""


def device_of(name: str) -> Device:
    """The accelerator of that name, however it is spelled: ``RTX 4090``, ``rtx4090``, ``4090``.

    Raises:
        UserError: no such name; the message lists all of them.
    """
    asked = _letters(name).removeprefix("rtx")
    found = next((d for k, d in DEVICES.items() if _letters(k).removeprefix("rtx") == asked), None)
    if found is None:
        raise UserError(f"--device must be one of {', '.join(DEVICES)}, got {name!r}")
    return found


def _letters(name: str) -> str:
    return re.sub(r"[^a-z0-9]", "", name.lower())
