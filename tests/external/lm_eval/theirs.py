"""The harness's side of the comparison: its tasks, and its run in its own environment."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml

from steering_core.datasets.base import ChoiceExample
from steersweep.errors import UserError
from tests.external.lm_eval.comparison import ScoredCandidate, ScoredRow
from tests.external.lm_eval.tasks import PAIR_METRICS, SharedTask

SCRIPT = Path(__file__).parent / "run_harness.py"
UTILS = "from lm_eval.tasks.crows_pairs.utils import process_results\n"
"""The published metrics of CrowS-Pairs are the harness's own code."""
PROCESS_RESULTS = "process_results: !function utils.process_results\n"


def their_rows(
    python: Path, model: Path, tasks: Sequence[SharedTask], work: Path, softmax_dtype: str
) -> dict[str, list[ScoredRow]]:
    """Each task's rows, scored by the harness in the environment of this interpreter.

    Raises:
        UserError: the harness fails; the message has the end of what it said.
    """
    folder, answer = work / "tasks", work / "answer.json"
    folder.mkdir()
    (folder / "utils.py").write_text(UTILS)
    for task in tasks:
        write_task(folder, task)
    command = [str(python), "-I", str(SCRIPT), str(model), softmax_dtype, str(folder), str(answer)]
    command += [task.name for task in tasks]
    ran = subprocess.run(command, env=offline(work), capture_output=True, text=True)
    if ran.returncode:
        raise UserError(f"lm_eval failed:\n{(ran.stdout + ran.stderr)[-4000:]}")
    said = json.loads(answer.read_text())
    return {name: [scored_row(sample) for sample in samples] for name, samples in said.items()}


def offline(work: Path) -> dict[str, str]:
    """Environment variables of a process that asks no hub and whose caches end with this run."""
    caches = {"HF_HOME": str(work / "hf")}
    return os.environ | caches | {"HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1"}


def write_task(folder: Path, task: SharedTask) -> None:
    """A task of the harness with these rows: its YAML and its data file."""
    # The harness counts the characters of a choice for acc_norm without the delimiter.
    is_spaced = all(text.startswith(" ") for e in task.examples for text in e.texts)
    delimiter = " " if is_spaced else ""
    is_published = task.metrics == PAIR_METRICS
    data = folder / f"{task.name}.jsonl"
    records = (record(example, task.gold, delimiter) for example in task.examples)
    data.write_text("".join(f"{json.dumps(r)}\n" for r in records))
    config = {
        "task": task.name,
        "dataset_path": "json",
        "dataset_kwargs": {"data_files": {"test": str(data)}},
        "test_split": "test",
        "output_type": "multiple_choice",
        "num_fewshot": 0,
        "doc_to_text": "prompt",  # the column's text as it is, not a template
        "doc_to_choice": "choices",
        "doc_to_target": "gold",
        "target_delimiter": delimiter,
        "metric_list": [
            {"metric": name, "aggregation": "mean", "higher_is_better": not is_published}
            for name in task.metrics
        ],
    }
    text = yaml.safe_dump(config, sort_keys=False) + (PROCESS_RESULTS if is_published else "")
    (folder / f"{task.name}.yaml").write_text(text)


def record(example: ChoiceExample, gold: str, delimiter: str) -> dict[str, Any]:
    """An example as a line of a task's data file."""
    return {
        "id": example.example_id,
        "prompt": example.prompt,
        "choices": [text.removeprefix(delimiter) for text in example.texts],
        "gold": example.labels.index(gold),
    }


def scored_row(sample: dict[str, Any]) -> ScoredRow:
    """A row of what the script writes."""
    candidates = (
        ScoredCandidate(
            text=c["text"],
            context_ids=tuple(c["context_ids"]),
            scored_ids=tuple(c["scored_ids"]),
            log_likelihood=c["log_likelihood"],
        )
        for c in sample["candidates"]
    )
    return ScoredRow(sample["id"], tuple(candidates), sample["metrics"])
