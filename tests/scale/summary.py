"""Summaries of many rows: python -m tests.scale.summary --rows 550000.

Parts with made-up scores are laid into an output as a run lays them: StereoSet's eight groups of
the development set, 13 layers and 10 coefficients a model, as many models as the rows need. A fresh
process then summarizes them. Making the rows and importing the modules are not counted; the memory
is the most that is resident in that process and in those that it starts.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import pyarrow as pa

from cluster.parts import commit_part
from cluster.storage import Storage, StorageSpec
from jobs.identity import digest
from jobs.scoring.groups import Group
from jobs.scoring.plan import PlannedTask, VectorSet
from jobs.stereoset.groups import group_of, place_of
from jobs.stereoset.tables import ROWS_SCHEMA
from steering_core.stereoset import LABELS, OFFICIAL_COUNTS
from steering_core.vectors import SteeringVectors, to_safetensors

LAYERS, COEFFS = tuple(range(1, 27, 2)), tuple(range(1, 11))
NUM_TERMS = {"gender": 10, "profession": 30, "race": 36, "religion": 3}
EXAMPLES_OF_A_PART = 256
ROWS_OF_A_MODEL = 4229 * (1 + len(LAYERS) * len(COEFFS))


def make_output(
    storage: Storage, num_rows: int, num_models: int | None = None
) -> list[PlannedTask]:
    """Lay parts with about so many rows, at least each model's first cells; gives their plan.

    Args:
        num_models: None: as many as the rows need.
    """
    planned: list[PlannedTask] = []
    rng = np.random.default_rng(0)
    vectors = SteeringVectors({layer: np.ones(4, np.float32) for layer in LAYERS}, {})
    num_models = num_models or max(1, round(num_rows / ROWS_OF_A_MODEL))
    num_cells = min(len(LAYERS) * len(COEFFS), max(1, num_rows // num_models // 4229 - 1))
    cells = [(layer, str(c)) for layer in LAYERS for c in COEFFS][:num_cells]
    for number in range(num_models):
        for split, counts in OFFICIAL_COUNTS.items():
            for bias_type, num in counts.items():
                group = group_of(f"model{number}", split, bias_type)
                storage.replace(VectorSet(group).key, to_safetensors(vectors, {}))
                for shard, low in enumerate(range(0, num, EXAMPLES_OF_A_PART)):
                    ids = tuple(f"{n:032x}" for n in range(low, min(low + EXAMPLES_OF_A_PART, num)))
                    planned += _lay(storage, group, shard, ids, cells, vectors, rng)
    return planned


def _lay(
    storage: Storage,
    group: Group,
    shard: int,
    ids: tuple[str, ...],
    cells: list[tuple[int, str]],
    vectors: SteeringVectors,
    rng: np.random.Generator,
) -> list[PlannedTask]:
    """A shard's baseline and its steered part."""
    terms = np.asarray([f"term{int(i, 16) % NUM_TERMS[place_of(group)[1]]}" for i in ids])
    made = []
    before = rng.normal(size=(1, len(ids), 3))
    for table, of_cells in (("baseline", []), ("steered", cells)):
        plan_id = digest({"group": str(group), "shard": shard, "table": table})
        task = PlannedTask(
            plan_id, group, (table,), shard, ids, (), tuple(of_cells), float(len(ids)), 4096
        )
        task_id = task.task_id([{layer: vectors.digest(layer) for layer in LAYERS}])
        num = len(of_cells) or 1
        moved = rng.normal(0, 0.3, (num, len(ids), 3)) if of_cells else 0.0
        rows = _rows(ids, terms, before + moved, of_cells, task_id)
        (key,) = task.parts(task_id).values()
        commit_part(storage, key, rows, task_id=task_id, attempt="made")
        made.append(task)
    return made


def _rows(
    ids: tuple[str, ...],
    terms: np.ndarray,
    scores: np.ndarray,
    cells: list[tuple[int, str]],
    task_id: str,
) -> pa.Table:
    num_cells, num = scores.shape[:2]
    flat = scores.reshape(-1, 3)
    chosen = flat.argmax(axis=1)

    def repeated(values: list[object]) -> list[object]:
        return [value for value in values for _ in range(num)]

    columns = {
        "example_id": list(ids) * num_cells,
        "target": np.tile(terms, num_cells),
        "layer": repeated([layer for layer, _ in cells] or [None]),
        "coeff": repeated([float(c) for _, c in cells] or [None]),
        "read": repeated(["blocks.1.resid_post"] * num_cells),
        "apply": repeated(["blocks.1.resid_post"] * num_cells),
        "choice": np.asarray(LABELS)[chosen],
        "choice_index": chosen.astype(np.int8),
        "task_id": [task_id] * len(flat),
    }
    for column, label in enumerate(LABELS):
        name = label.replace("-", "_")
        columns[f"score_{name}"] = flat[:, column]
        columns[f"num_tokens_{name}"] = np.full(len(flat), 5, np.int32)
    return pa.table({name: columns[name] for name in ROWS_SCHEMA.names}, schema=ROWS_SCHEMA)


_SUMMARIZE = """
import pickle, resource, sys, threading, time
from pathlib import Path
import psutil
from cluster.storage import StorageSpec
from jobs.scoring.inventory import take_inventory
from jobs.stereoset.summary import summarise
most, is_done = [0], threading.Event()
def watch():
    me = psutil.Process()
    while not is_done.wait(0.05):
        running = [me, *me.children(recursive=True)]
        total = 0
        for process in running:
            try:
                total += process.memory_info().rss
            except psutil.Error:
                pass
        most[0] = max(most[0], total)
if __name__ == "__main__":
    planned = pickle.loads(Path(sys.argv[2]).read_bytes())
    storage = StorageSpec(sys.argv[1]).open()
    threading.Thread(target=watch, daemon=True).start()
    start = time.perf_counter()
    summary = summarise(storage, take_inventory(storage, planned))
    took = time.perf_counter() - start
    is_done.set()
    print(summary.cells.num_rows, took, most[0])
"""


def measure(num_rows: int, folder: Path) -> tuple[int, int, float, float]:
    """(Rows, cells, seconds, megabytes) of a summary of about so many rows."""
    import pickle

    storage = StorageSpec(str(folder / "output"))
    planned = make_output(storage.open(), num_rows)
    (folder / "plan.pickle").write_bytes(pickle.dumps(planned))
    (folder / "summarize.py").write_text(_SUMMARIZE)
    done = subprocess.run(
        [sys.executable, str(folder / "summarize.py"), storage.uri, str(folder / "plan.pickle")],
        check=True, capture_output=True, text=True, cwd=Path(__file__).parents[2],
        env=_environment(),
    )  # fmt: skip
    cells, took_s, most_bytes = done.stdout.split()
    rows = sum(task.num_rows_cells for task in planned)
    return rows, int(cells), float(took_s), float(most_bytes) / 1e6


def _environment() -> dict[str, str]:
    import os

    return {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}


def main(arguments: list[str] | None = None) -> int:
    """Measure once and print it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=550_000)
    parser.add_argument("--json", metavar="FILE")
    given = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory() as folder:
        rows, cells, took_s, most_mb = measure(given.rows, Path(folder))
    if given.json:
        result = {"rows": rows, "cells": cells, "seconds": took_s, "peak_mb": most_mb}
        Path(given.json).write_text(json.dumps(result))
    print(f"{rows:,} rows: {took_s:.1f} s, {most_mb:,.0f} MB")
    return 0


if __name__ == "__main__":
    sys.exit(main())
