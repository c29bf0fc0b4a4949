"""Models that the sections measure, with the rows for them: random weights, real texts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import torch

from jobs.bench.gpu.options import Sizes, TextShape
from jobs.bench.gpu.steps import Setting
from jobs.bench.rows import encode, train_tokenizer
from jobs.bench.shapes import build_shape, random_model
from jobs.bench.subject import Subject
from steering_core.encoding import EncodedExample
from steering_core.engine import Cell
from steering_core.flops import costs_of, needed_flops, needs_of
from steering_core.models import LoadedModel
from steering_core.probes import engine_for
from steering_core.protocol import PROTOCOLS, Protocol
from steering_core.stereoset import Example, read_stereoset
from steering_core.timing import seconds
from steering_core.vectors import fit_mean_difference

COEFF = 20.0
_ROWS_FOR_VECTORS = 8
_SPREAD = 0.1


@dataclass(frozen=True, eq=False)
class Family:
    """A small model of a family: its name in transformers, and what its config is given.

    Attributes:
        head_width: of the published model, see ``Sizes.heads``.
    """

    name: str
    family: str
    head_width: int
    has_windows: bool = False
    options: Mapping[str, Any] | None = None


# Caps that are low enough to change every logit: a fault in a cap of 50 would not show on weights
# of unit scale. Heads are as wide as those of the published models.
_SOFT_CAPS = {"attn_logit_softcapping": 5.0, "final_logit_softcapping": 3.0}
_NO_CAPS = {"attn_logit_softcapping": None, "final_logit_softcapping": None}
FAMILIES = (
    Family("gemma2", "gemma2", 256, has_windows=True, options=_SOFT_CAPS),
    Family("gemma2 without caps", "gemma2", 128, has_windows=True, options=_NO_CAPS),
    Family("gemma3", "gemma3_text", 256, has_windows=True),
    Family("llama", "llama", 64),
    Family("qwen2", "qwen2", 128),
    Family("qwen3", "qwen3", 128),
)
"""Five families; windows lie in every second block."""


def small_model(
    family: Family, sizes: Sizes, device: torch.device, dtype: torch.dtype
) -> LoadedModel:
    """The small model of a family; the same weights on each call, rounded to the dtype.

    Biases and norms are random too, since zeros and ones would hide a fault in them.
    """
    heads, kv_heads, head_width = sizes.heads[family.head_width]
    options: dict[str, Any] = {
        **sizes.small,
        "num_attention_heads": heads,
        "num_key_value_heads": kv_heads,
        "head_dim": head_width,
        "max_position_embeddings": 4096,
        "tie_word_embeddings": family.has_windows,
        **(family.options or {}),
    }
    if family.has_windows:
        kinds = ["sliding_attention", "full_attention"] * sizes.small["num_hidden_layers"]
        options |= {
            "sliding_window": sizes.window,
            "query_pre_attn_scalar": head_width,
            "layer_types": kinds[: sizes.small["num_hidden_layers"]],
        }
    model = random_model(family.name, family.family, options, device, dtype)
    with torch.no_grad():
        for parameter in model.module.parameters():
            if parameter.dim() == 1:
                parameter.add_(torch.randn_like(parameter), alpha=_SPREAD)
    return model


@dataclass(frozen=True)
class Texts:
    """The examples that rows are made of.

    Attributes:
        chosen: in the order of the file; the embedded ones are repeated.
    """

    chosen: Sequence[Example]
    everything: Sequence[Example]

    @classmethod
    def of(cls, setting: Setting) -> Texts:
        """The examples of the data file, or of the package."""
        examples = read_stereoset(setting.options.data_path).examples
        if setting.options.data is not None:
            return cls(examples, examples)
        num = setting.sizes.num_embedded
        return cls([examples[index % len(examples)] for index in range(num)], examples)

    def tokenizer(self, vocab_size: int) -> Any:
        """A tokenizer of these texts, see ``train_tokenizer``."""
        return train_tokenizer(self.everything, vocab_size)


def spread_rows(texts: Texts, tokenizer: Any, protocol: Protocol, num: int) -> list[EncodedExample]:
    """``num`` rows, evenly spread over the file."""
    step = max(1, len(texts.chosen) // num)
    return encode(texts.chosen[::step][:num], tokenizer, protocol, None)


class Scoring:
    """The model that ``fast`` and ``profile`` score with, made when it is first asked for.

    Args:
        num_rows: so many examples, evenly spread over the file; all of them if left out.
    """

    def __init__(self, setting: Setting, num_rows: int | None = None) -> None:
        self._setting, self._num_rows = setting, num_rows
        self.encode_s = 0.0

    @cached_property
    def texts(self) -> Texts:
        """The examples."""
        texts = Texts.of(self._setting)
        if self._num_rows is None:
            return texts
        step = max(1, len(texts.chosen) // self._num_rows)
        return replace(texts, chosen=texts.chosen[::step])

    @cached_property
    def model(self) -> LoadedModel:
        """The model, in bfloat16."""
        return build_shape(self._setting.sizes.score_shape, self._setting.device, torch.bfloat16)

    @cached_property
    def rows(self) -> list[EncodedExample]:
        """The examples, encoded, in the order of ``texts.chosen``; notes how long that took."""
        tokenizer = self.texts.tokenizer(int(self.model.layout.config.vocab_size))
        rows: list[EncodedExample] = []

        def work() -> None:
            rows.extend(encode(self.texts.chosen, tokenizer, PROTOCOLS["as_published"], None))

        self.encode_s = seconds(work, torch.device("cpu"))
        return rows

    @cached_property
    def by_length(self) -> list[EncodedExample]:
        """The rows, shortest first."""
        return sorted(self.rows, key=lambda row: row.num_packed_tokens)

    @cached_property
    def subject(self) -> Subject:
        """Engine, cells and vectors: every second layer, one coefficient."""
        engine = engine_for(self.model, PROTOCOLS["as_published"])
        layers = range(1, self.model.layout.num_blocks + 1, 2)
        few = self.rows[:_ROWS_FOR_VECTORS]
        _, pooled = engine.baseline(few, self._setting.sizes.main_tokens, layers)
        return Subject(
            model=self.model,
            engine=engine,
            is_packed=engine.is_packed,
            protocol_name="as_published",
            pool=self.rows,
            cells=[Cell(layer, COEFF) for layer in layers],
            vectors=fit_mean_difference(pooled.sums(), 1),
        )

    def needed_flops(self, rows: Sequence[EncodedExample]) -> float:
        """Operations that scores of these rows need, per row and cell."""
        costs = costs_of(self.model.layout)
        return needed_flops(costs, needs_of(rows), self.subject.streams) / len(rows)


def text_model(shape: TextShape, device: torch.device) -> LoadedModel:
    """The model of a text shape, in bfloat16."""
    return build_shape(shape.shape, device, torch.bfloat16, **shape.changed)
