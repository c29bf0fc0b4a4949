"""Accelerators by name, with the rates that their vendors state.

Dense products without sparsity, as NVIDIA's datasheets and Google's documentation have them, of one
device (a TPU's chip), in 1e12 operations per second; memory bandwidth in 1e12 bytes per second;
memory in 1e9 bytes::

                 bfloat16   float16   float32   bandwidth   memory   stated in
    t4           -          65        8.1       0.32        16       T4 datasheet
    a100         312        312       19.5      2.039       80       A100 datasheet (SXM)
    l4           121        121       30.3      0.3         24       L4 datasheet
    l40s         362        362       91.6      0.864       48       L40S datasheet
    h100         989        989       67        3.35        80       H100 datasheet (SXM)
    h200         989        989       67        4.8         141      H200 datasheet (SXM)
    tpu-v4       275        -         -         1.228       32       Google Cloud TPU docs, v4
    tpu-v5e      197        -         -         0.819       16       the same, v5e
    tpu-v5p      459        -         -         2.765       95       the same, v5p
    tpu-v6e      918        -         -         1.64        32       the same, v6e

Newer datasheets state half-precision rates with sparsity; these are half of them. float32 is the
rate without TF32, which torch does not use unless it is told to. Where a vendor states no rate for
a dtype there is none here.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from steering_core.errors import InputError

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
        """The stated rate of a dtype; raises InputError where the vendor states none."""
        if dtype not in self.flops_per_s:
            stated = ", ".join(self.flops_per_s)
            raise InputError(
                f"no rate is stated for {dtype} on {self.name}, only for {stated}; set the models' "
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
        _device("t4", "cuda", (None, 65, 8.1), 0.32, 16),
        _device("a100", "cuda", (312, 312, 19.5), 2.039, 80),
        _device("l4", "cuda", (121, 121, 30.3), 0.3, 24),
        _device("l40s", "cuda", (362, 362, 91.6), 0.864, 48),
        _device("h100", "cuda", (989, 989, 67), 3.35, 80),
        _device("h200", "cuda", (989, 989, 67), 4.8, 141),
        _device("tpu-v4", "xla", (275, None, None), 1.228, 32),
        _device("tpu-v5e", "xla", (197, None, None), 0.819, 16),
        _device("tpu-v5p", "xla", (459, None, None), 2.765, 95),
        _device("tpu-v6e", "xla", (918, None, None), 1.64, 32),
    )
}
"""By name."""


def device_of(name: str) -> Device:
    """The accelerator of that name; raises InputError with the names there are."""
    if name not in DEVICES:
        raise InputError(f"--device must be one of {', '.join(DEVICES)}, got {name!r}")
    return DEVICES[name]
