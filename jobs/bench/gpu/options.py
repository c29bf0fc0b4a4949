"""What ``bench gpu`` is asked to do, and how large everything is that it measures."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from jobs.bench.rows import EMBEDDED
from jobs.resources import local_path
from steering_core.models import device_kind
from steering_core.stereoset import read_stereoset
from steersweep.errors import UserError

DEVICES = ("auto", "cuda", "cpu")
SHAPES = ("real", "tiny")
SECTIONS = ("environment", "right", "fast", "profile", "text")
"""Most valuable first."""


@dataclass(frozen=True)
class GpuOptions:
    """What to measure, where, and for how long.

    Attributes:
        shape: ``real``: gemma2-2b for scoring, qwen2.5-1.5b and 7b for text; ``tiny``: the same
            measurements with tiny models, to try the command on a CPU.
        data: StereoSet's dev.json; the embedded examples, repeated, if left out.
        output: folder for gpu.json, gpu.md and gpu.log; made if it does not exist.
        sections: all if empty.
        seconds: limit of the whole run.
    """

    shape: str = "real"
    data: str | None = None
    output: str = "gpu-bench"
    sections: tuple[str, ...] = ()
    seconds: float = 540.0
    device: str = "auto"

    def check(self) -> None:
        """Raise UserError for anything that the user must change; writes nothing."""
        if self.shape not in SHAPES:
            raise UserError(f"--shape must be one of {', '.join(SHAPES)}, got {self.shape!r}")
        if unknown := [name for name in self.sections if name not in SECTIONS]:
            raise UserError(
                f"--sections takes names from {', '.join(SECTIONS)}, separated by commas, got "
                f"{', '.join(map(repr, unknown))}"
            )
        if not self.seconds > 0:
            raise UserError(f"--seconds must be more than 0, got {self.seconds:g}")
        if self.device not in DEVICES:
            raise UserError(f"--device must be one of {', '.join(DEVICES)}, got {self.device!r}")
        if self.shape != "tiny" and self.device_type() != "cuda":
            raise UserError(
                "bench gpu needs a CUDA device, and "
                + ("--device asks for the CPU" if self.device == "cpu" else "this machine has none")
                + "; to try the command on the CPU, add --shape tiny"
            )
        self.device_type()
        if self.data is not None:
            read_stereoset(Path(local_path(self.data)))
        folder = self.folder
        above = next(p for p in (folder, *folder.parents) if p.exists())
        if not above.is_dir():
            raise UserError(f"--output {self.output}: {above} is a file, not a folder")

    @property
    def folder(self) -> Path:
        """The output folder."""
        return Path(self.output).expanduser().absolute()

    @property
    def chosen(self) -> tuple[str, ...]:
        """The sections to run, most valuable first."""
        return tuple(name for name in SECTIONS if not self.sections or name in self.sections)

    @property
    def data_path(self) -> str:
        """The data file that rows come from."""
        return local_path(self.data or EMBEDDED)

    def as_text(self) -> str:
        """The options as JSON, for a process that is started."""
        return json.dumps(asdict(self))

    @classmethod
    def parse(cls, text: str) -> GpuOptions:
        """The options that ``as_text`` wrote."""
        told = json.loads(text)
        return cls(**{**told, "sections": tuple(told["sections"])})

    def device_type(self) -> str:
        """``cuda`` or ``cpu``; raises UserError for a device that is not there."""
        kind = device_kind(self.device)
        return kind if kind == "cuda" else "cpu"


@dataclass(frozen=True, eq=False)
class TextShape:
    """A shape that answers are written with; ``changed`` replaces keys of its config."""

    name: str
    shape: str
    changed: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Sizes:
    """How large everything is.

    Attributes:
        score_shape: measured by ``fast`` and ``profile``.
        num_embedded: rows that the embedded examples are repeated to.
        main_tokens: tokens per batch where one size is measured.
        token_sizes: tokens per batch that are compared, in the order in which they are measured.
        num_plain: rows of the plain loops.
        text_shapes, slots, new_tokens: of ``text``; answers of ``new_tokens`` tokens.
        small: config of the models of ``right``: blocks, width, inner width, vocabulary.
        num_half: of the families of ``right``, so many run in bfloat16 too.
        window: sliding window of those, shorter than every row.
        heads: of those, by the width of a head of the published model: query heads, key and value
            heads, width of a head.
        num_rows, num_checked: rows that the engine scores, and rows of these that the reference
            computes one by one.
        tries_all: whether every combination of operation, site and positions is tried, in
            bfloat16 too; else every pair of them, in float32.
        num_answers, answer_tokens: answers that are compared token for token.
        fewest_tokens: of a batch for ``right``, small enough to make several batches.
        memory_tokens: of the batch that is to run out of memory.
        matmul_sizes, copy_bytes: of the rates of the device.
        kernel_positions: of the streams that kernels are compared with torch on.
        repeat_s: a rate is measured again until this much time has been measured.
    """

    score_shape: str
    num_embedded: int
    main_tokens: int
    token_sizes: tuple[int, ...]
    num_plain: int
    text_shapes: tuple[TextShape, ...]
    slots: tuple[int, ...]
    new_tokens: int
    small: Mapping[str, int]
    num_half: int
    window: int
    heads: Mapping[int, tuple[int, int, int]]
    num_rows: int
    num_checked: int
    tries_all: bool
    num_answers: int
    answer_tokens: int
    fewest_tokens: int
    memory_tokens: int
    matmul_sizes: tuple[int, ...]
    copy_bytes: int
    kernel_positions: int
    repeat_s: float


REAL = Sizes(
    score_shape="gemma2-2b",
    num_embedded=4229,
    main_tokens=16_384,
    token_sizes=(16_384, 8192, 32_768, 4096, 65_536, 2048, 131_072, 262_144),
    num_plain=24,
    text_shapes=(
        TextShape("qwen2.5-1.5b", "qwen2.5-1.5b"),
        TextShape("qwen2.5-7b", "qwen2.5-7b"),
    ),
    slots=(1, 8, 32, 256),
    new_tokens=64,
    small={
        "num_hidden_layers": 6,
        "hidden_size": 512,
        "intermediate_size": 1536,
        "vocab_size": 8192,
    },
    num_half=6,
    window=24,
    heads={64: (8, 2, 64), 128: (4, 2, 128), 256: (4, 2, 256)},
    num_rows=16,
    num_checked=6,
    tries_all=True,
    num_answers=12,
    answer_tokens=24,
    fewest_tokens=512,
    memory_tokens=65_536,
    matmul_sizes=(4096, 8192, 16_384),
    copy_bytes=2**31,
    kernel_positions=16_384,
    repeat_s=1.5,
)

TINY = Sizes(
    score_shape="tiny",
    num_embedded=24,
    main_tokens=1024,
    token_sizes=(1024, 512, 2048),
    num_plain=4,
    text_shapes=(
        TextShape("tiny", "tiny"),
        TextShape("tiny qwen2", "qwen2-small", {"num_hidden_layers": 2, "vocab_size": 2048}),
    ),
    slots=(1, 8),
    new_tokens=3,
    small={
        "num_hidden_layers": 4,
        "hidden_size": 64,
        "intermediate_size": 128,
        "vocab_size": 2048,
    },
    num_half=1,
    window=24,
    heads={64: (4, 2, 16), 128: (4, 1, 16), 256: (2, 1, 32)},
    num_rows=4,
    num_checked=2,
    tries_all=False,
    num_answers=4,
    answer_tokens=4,
    fewest_tokens=256,
    memory_tokens=16_384,
    matmul_sizes=(256,),
    copy_bytes=2**22,
    kernel_positions=256,
    repeat_s=0.05,
)


def sizes_of(shape: str) -> Sizes:
    """The sizes of a ``--shape``."""
    return TINY if shape == "tiny" else REAL
