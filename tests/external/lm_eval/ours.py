"""Our side of the comparison: the encoder and the engine, as a sweep uses them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from transformers.utils import logging

from jobs.resources import model_source
from steering_core.datasets.base import ScoredChoices
from steering_core.encoding import EncodedCandidate, EncodedExample, ExampleEncoder
from steering_core.engine import Engine
from steering_core.models import LoadedModel, load_model, load_tokenizer
from steering_core.protocol import PROTOCOLS
from tests.external.lm_eval.comparison import ScoredCandidate, ScoredRow
from tests.external.lm_eval.tasks import SharedTask

MODEL = "embedded:smollm2"
TOKENS_PER_BATCH = 2048


class OurSide:
    """The model in float32 on the CPU, with its tokenizer."""

    def __init__(self) -> None:
        logging.disable_progress_bar()
        source = model_source(MODEL)
        self.model: LoadedModel = load_model(source, device="cpu", dtype="float32")
        self.tokenizer: Any = load_tokenizer(source)

    def save(self, folder: Path) -> None:
        """Write the model as a folder that the harness loads."""
        module: Any = self.model.module
        # Says that the weights are GGUF's, which they are no longer.
        if hasattr(module.config, "quantization_config"):
            del module.config.quantization_config
        module.save_pretrained(folder)
        self.tokenizer.save_pretrained(folder)

    def rows(self, task: SharedTask) -> list[ScoredRow]:
        """The task's rows, scored."""
        protocol = replace(PROTOCOLS["aligned"], folds=1)
        encoder = ExampleEncoder(self.tokenizer, protocol, MODEL, contrast=None)
        encoded = encoder.encode(task.examples)
        baseline, _ = Engine(self.model, protocol).baseline(encoded, TOKENS_PER_BATCH)
        sums = baseline.scores * baseline.num_scored
        values = metrics(task, ScoredChoices(task.examples, sums, baseline.num_scored))
        return [
            scored_row(row, sums[n], {name: float(values[name][n]) for name in task.metrics})
            for n, row in enumerate(encoded)
        ]


def scored_row(row: EncodedExample, sums: Sequence[float], values: dict[str, float]) -> ScoredRow:
    """A row with what was scored of it."""
    example = row.example
    return ScoredRow(
        example.example_id,
        tuple(
            ScoredCandidate(
                example.prompt + text, context_ids(candidate), candidate.scored_ids, float(total)
            )
            for text, candidate, total in zip(example.texts, row.candidates, sums, strict=False)
        ),
        values,
    )


def context_ids(candidate: EncodedCandidate) -> tuple[int, ...]:
    """Tokens before the scored ones: the first of these is predicted at the last of those."""
    return candidate.token_ids[: candidate.scored_positions[0] + 1]


def metrics(task: SharedTask, scored: ScoredChoices) -> dict[str, np.ndarray]:
    """[N] values of each row by metric, as the data set's own metrics have them."""
    labels = dict.fromkeys(label for e in task.examples for label in e.labels)
    known = {metric.key: metric for metric in task.dataset.metrics(tuple(labels))}
    return {name: known[name].terms(scored)[:, 0] for name in task.metrics}
