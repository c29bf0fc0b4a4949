"""How long it takes to find out that a large run is done: python -m tests.chaos.recovery."""

from __future__ import annotations

import argparse
import json
import logging
import os
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import pyarrow as pa

from cluster.checked import write_checked
from cluster.storage import Storage, StorageSpec
from cluster.tasks import WorkerFactory
from cluster.threads import thread_pool
from jobs.resources import local_path
from jobs.scoring.fit_task import FitPayload, fit
from jobs.scoring.inventory import take_inventory
from jobs.scoring.set_scorer import Payload
from jobs.scoring.tables import FITS, sums_table
from jobs.stereoset.tables import StereoSetRows
from steering_core.engine import Scores
from steering_core.vectors import FoldSums
from tests.support.s3 import BUCKET, s3_server
from tests.support.sweeps import part_keys, steersweep, write_spec

WIDTH = 64
PARTS_OF_EXAMPLE = 3  # sums, baseline, steered: a task of each phase for one example


class NumbersWorker:
    """Tables of the right form in no time: the numbers are drawn; vectors are fitted from them."""

    def __init__(self, storage: Storage) -> None:
        self._storage = storage

    def load(self) -> Mapping[str, str]:
        return {"device": "none"}

    def run(self, payload: Payload | FitPayload) -> Mapping[str, pa.Table]:
        if isinstance(payload, FitPayload):
            return {FITS: fit(self._storage, payload)}
        rng = np.random.default_rng(int(payload.task_id[:12], 16))
        num_rows = len(payload.examples)
        tables = {
            "sums": sums_table(
                [FoldSums(n, 0, rng.standard_normal(WIDTH), num_rows) for n in payload.layers]
            ),
            "baseline": self._rows(payload, rng, None),
        }
        if payload.cells:
            cells = [
                {"layer": c.layer, "coeff": c.coeff, "read": "r", "apply": "a"}
                for c in payload.cells
            ]
            tables["steered"] = pa.concat_tables([self._rows(payload, rng, c) for c in cells])
        return {name: tables[name] for name in payload.tables}

    @staticmethod
    def _rows(payload: Payload, rng: np.random.Generator, cell: Any) -> pa.Table:
        size = (len(payload.examples), 3)
        scores = Scores(rng.standard_normal(size), rng.integers(1, 9, size))
        return StereoSetRows().rows_table(payload.examples, scores, payload.task_id, cell)


def numbers_worker(*, storage: StorageSpec, **_: Any) -> NumbersWorker:
    return NumbersWorker(storage.open())


def write_data(path: Path, num_examples: int) -> None:
    """A data file of that many examples of one split and bias type."""
    document = json.loads(Path(local_path("embedded:examples.json")).read_text())
    first = document["data"]["intersentence"][0]
    rows = [{**first, "id": uuid.uuid4().hex} for _ in range(num_examples)]
    path.write_text(json.dumps({"data": {"intersentence": rows, "intrasentence": []}}))


def make_finished(folder: Path, output: str, num_parts: int) -> Path:
    """A finished run of at least that many parts, by the real driver; its sweep file."""
    folder.mkdir(parents=True, exist_ok=True)
    write_data(folder / "dev.json", -(-num_parts // PARTS_OF_EXAMPLE))
    bias_type = json.loads((folder / "dev.json").read_text())["data"]["intersentence"][0]
    spec = write_spec(
        folder / "sweep.yaml",
        data={
            "path": str(folder / "dev.json"),
            "splits": ["intersentence"],
            "bias_types": [bias_type["bias_type"]],
        },
        compute={"executor": "in_process", "examples_per_task": 1},
        output=output,
    )

    def cheap(target: str, kwargs: Mapping[str, Any]) -> WorkerFactory:
        return WorkerFactory("tests.chaos.recovery:numbers_worker", kwargs)

    with (
        mock.patch("jobs.scoring.workflow.WorkerFactory", cheap),
        mock.patch.object(os, "fsync"),  # nothing is to survive a power cut here
    ):
        finished = steersweep("run", str(spec))
    assert finished.code == 0, finished
    return spec


def copied_to_s3(output: Storage) -> Storage:
    """The output in a bucket, as a run would have left it there, in less time than it takes."""
    copy = StorageSpec(f"s3://{BUCKET}/{uuid.uuid4().hex}").open()
    with thread_pool(4) as pool:
        list(pool.map(lambda e: copy.replace(e.key, output.read(e.key)), output.list()))
    write_checked(copy, take_inventory(copy).parts)  # versions are each store's own
    return copy


def resume_s(spec: Path, uri: str) -> float:
    """Seconds that `steersweep run` takes, from a cold start, to say that nothing is left."""
    command = [sys.executable, "-m", "jobs.cli", "run", str(spec), "--output", uri]
    begun = time.monotonic()
    done = subprocess.run(command, capture_output=True, text=True)
    took = time.monotonic() - begun
    assert done.returncode == 0, done
    assert "nothing left to compute" in done.stdout
    return took


def measure(storage: str, num_parts: int) -> dict[str, Any]:
    """Make a finished run there, and resume it."""
    with tempfile.TemporaryDirectory(prefix="recovery-") as folder:
        output = StorageSpec(f"{folder}/out").open()
        begun = time.monotonic()
        spec = make_finished(Path(folder), output.uri, num_parts)
        if storage == "s3":
            output = copied_to_s3(output)
        made = time.monotonic() - begun
        return {
            "storage": storage,
            "parts": len(part_keys(output.uri)),
            "made_s": round(made, 1),
            "resume_s": round(resume_s(spec, output.uri), 1),
        }


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.chaos.recovery", description=__doc__)
    parser.add_argument("--parts", type=int, default=10_000)
    parser.add_argument("--storage", choices=["local", "s3"], default="local")
    options = parser.parse_args()
    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    with s3_server():
        print(json.dumps(measure(options.storage, options.parts)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
