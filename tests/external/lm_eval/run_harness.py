"""Runs in the harness's environment: run_harness.py MODEL SOFTMAX_DTYPE TASKS ANSWER NAME...

Nothing of this project can be imported here. Writes for each task and row the candidates as the
harness scored them, with its tokens and its metrics.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from lm_eval import simple_evaluate  # type: ignore[import-not-found]
from lm_eval.models.huggingface import HFLM  # type: ignore[import-not-found]
from lm_eval.tasks import TaskManager  # type: ignore[import-not-found]

BATCH_SIZE = 4


class Recording(HFLM):  # type: ignore[misc]
    """The harness's model, which keeps the tokens of each (context, continuation)."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.tokens: dict[tuple[str, str], tuple[list[int], list[int]]] = {}

    def _loglikelihood_tokens(self, requests: Any, *args: Any, **options: Any) -> Any:
        requests = list(requests)
        for texts, context, continuation in requests:
            self.tokens[tuple(texts)] = list(context), list(continuation)
        return super()._loglikelihood_tokens(requests, *args, **options)


def row(sample: dict[str, Any], model: Recording) -> dict[str, Any]:
    """A row as JSON."""
    candidates = []
    pairs = zip(sample["arguments"], sample["filtered_resps"], strict=True)
    for (context, continuation), (log_likelihood, _) in pairs:
        context_ids, scored_ids = model.tokens[context, continuation]
        candidates.append(
            {
                "text": context + continuation,
                "context_ids": context_ids,
                "scored_ids": scored_ids,
                "log_likelihood": float(log_likelihood),
            }
        )
    values = {name: float(sample[name]) for name in sample["metrics"]}
    return {"id": sample["doc"]["id"], "candidates": candidates, "metrics": values}


def main(folder: str, softmax_dtype: str, tasks: str, answer: str, *names: str) -> None:
    """Score the tasks and write what came out."""
    model = Recording(
        pretrained=folder,
        dtype="float32",
        softmax_dtype=softmax_dtype,
        device="cpu",
        batch_size=BATCH_SIZE,
    )
    manager = TaskManager(include_path=tasks, include_defaults=False)
    found = simple_evaluate(
        model, tasks=list(names), task_manager=manager, log_samples=True, bootstrap_iters=0
    )
    samples = {name: found["samples"][name] for name in names}
    rows = {
        name: [row(s, model) for s in sorted(of_task, key=lambda s: int(s["doc_id"]))]
        for name, of_task in samples.items()
    }
    Path(answer).write_text(json.dumps(rows))


if __name__ == "__main__":
    main(*sys.argv[1:])
