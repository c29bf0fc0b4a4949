"""Each job with a small sweep of its own, for tests that hold for all jobs."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import yaml

from cluster.parts import check_part, read_part
from cluster.storage import StorageSpec
from tests.support.personas import write_persona_spec
from tests.support.sweeps import write_spec

NOT_PARTS = (
    *("summary/", "manifest/", "judge/", "side_effects_texts/"),
    *("examples.parquet", "checked.parquet"),
)
"""Keys of other Parquet files: replies of a judge are packed, and then lie in other files."""


@dataclass(frozen=True)
class Case:
    """One job.

    Attributes:
        write_spec: writes a sweep file into a folder, for a model that is there.
        module: that runs the command in another process.
        rows: the folder of parts that the report reads.
        last: the folder of the parts that come last.
        grown: an option that adds to the grid.
        changed: an option that no output takes, and what is then said.
        kills: how many times a run is killed before it may finish.
        keeps_sweeps_apart: whether another sweep is refused even if ``run.json`` is lost.
    """

    name: str
    write_spec: Callable[[Path, Path], Path]
    module: str
    rows: str
    last: str
    grown: str
    changed: tuple[str, str]
    kills: int = 2
    keeps_sweeps_apart: bool = True


def _stereoset(folder: Path, model: Path) -> Path:
    return write_spec(
        folder / "sweep.yaml",
        steering={"layers": [1, 4], "coeffs": [-3]},
        compute={"executor": "in_process", "examples_per_task": 2},
    )


def _choices(folder: Path, model: Path) -> Path:
    rows = [
        {
            "id": f"q{n}",
            "group": {"topic": ("birds", "fish/other")[n % 2]},
            "cluster": f"c{n // 2}",
            "prompt": f"Question {n}: is it so?" if n else "",
            "candidates": [
                {"text": " Yes", "label": "yes"},
                {"text": " No, never", "label": "no"},
                *({"text": f" Maybe {m}", "label": "other"} for m in range(n % 4)),
            ],
        }
        for n in range(8)
    ]
    data = folder / "choices.jsonl"
    data.write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    texts = folder / "texts.txt"
    texts.write_text("Rain fell on the roof all night.\nBread rises because yeast makes gas.\n")
    return write_spec(
        folder / "sweep.yaml",
        job="choices",
        side_effects={
            "texts": {"format": "text", "path": str(texts)},
            "cells": {"layers": 4},
            "transfer": True,
        },
        prompts={"careful": "Answer with care.\n"},
        data={"path": str(data)},
        contrast={"positive": "yes", "negative": "no", "by": "topic"},
        vectors={"pooling": "candidate_last"},
        steering={"layers": [1, 4], "coeffs": [-3]},
        compute={"executor": "in_process", "examples_per_task": 2},
    )


def _persona(folder: Path, model: Path) -> Path:
    texts = folder / "texts.txt"
    texts.write_text("Rain fell on the roof all night.\nBread rises because yeast makes gas.\n")
    return write_persona_spec(
        folder,
        model,
        filter={"positive_at_least": 0, "negative_below": 100, "coherence_at_least": 0},
        side_effects={"texts": {"format": "text", "path": str(texts)}, "cells": {"layers": 3}},
        compute={"executor": "in_process", "examples_per_task": 4, "tokens_per_batch": 1024},
    )


def write_toy_spec(folder: Path, model: Path, pause_s: float = 0.0) -> Path:
    """The sweep file of ``tests.support.toy_job``; it has no model."""
    rows = [{"id": f"t{n}", "text": f"Text Number {n}: " + "AbcXyz"[n % 6] * n} for n in range(9)]
    texts = folder / "texts.jsonl"
    texts.write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    document = {
        "job": "letters",
        "texts": str(texts),
        "weights": [0.5, 2],
        "pause_s": pause_s,
        "compute": {"executor": "in_process"},
        "output": str(folder / "out"),
    }
    path = folder / "letters.yaml"
    path.write_text(yaml.safe_dump(document))
    return path


CASES = (
    Case(
        "stereoset",
        _stereoset,
        "jobs.cli",
        rows="baseline/",
        last="steered/",
        grown="steering.coeffs=[-3, 20]",
        changed=("data.seed=7", r"data\.seed: 0 -> 7 \(it decides which examples are drawn"),
    ),
    Case(
        "choices",
        _choices,
        "jobs.cli",
        rows="baseline/",
        last="steered/",
        grown="steering.coeffs=[-3, 20]",
        changed=("data.seed=7", r"data\.seed: 0 -> 7 \(it decides which examples are drawn"),
    ),
    Case(
        "persona",
        _persona,
        "jobs.cli",
        rows="answers/",
        last="projections/",
        grown="steering.coeffs=[-3, 0, 2, 5]",
        changed=(
            "generation.max_new_tokens=13",
            r"generation\.max_new_tokens: 12 -> 13 \(it decides the text of every answer\)",
        ),
        keeps_sweeps_apart=False,
    ),
    Case(
        "letters",
        partial(write_toy_spec, pause_s=0.05),
        "tests.support.toy_cli",
        rows="scores/",
        last="verdicts/",
        grown="weights=[0.5, 2, 3]",
        changed=(
            "ignore_case=false",
            r"ignore_case: True -> False \(it decides which letters are the same\)",
        ),
        kills=2,
    ),
)


def parts_of(uri: str) -> dict[str, str]:
    """The digest of the rows of each part, all read and checked, by key."""
    storage = StorageSpec(uri).open()
    found = {}
    for key in part_keys(uri):
        read_part(storage, key)  # holds the rows against the digest
        found[key] = check_part(storage, key).digest
    return found


def part_keys(uri: str) -> list[str]:
    """The keys of all parts, sorted."""
    keys = [entry.key for entry in StorageSpec(uri).open().list()]
    return sorted(k for k in keys if k.endswith(".parquet") and not k.startswith(NOT_PARTS))


def written(output: Path, *keys: str) -> dict[str, tuple[int, int]]:
    """When files of a folder were written, and which ones they are; by default, all parts."""
    stats = {key: (output / key).stat() for key in keys or part_keys(str(output))}
    return {key: (stat.st_mtime_ns, stat.st_ino) for key, stat in stats.items()}


def everything(output: Path) -> dict[str, tuple[bytes, int]]:
    """Content and time of every file of a folder."""
    files = [path for path in output.rglob("*") if path.is_file()]
    return {str(path): (path.read_bytes(), path.stat().st_mtime_ns) for path in files}
