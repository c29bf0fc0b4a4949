"""A sweep of a hundred thousand tasks: its driver, then taking it up: python -m tests.scale.resume.

The sweep is planned, claimed and driven by the real `steersweep run`, with one example a task, and
vectors from a file; its replicas are made up (`tests.scale.instant`). Then a part for each key is
laid into the output, and the same command is timed from a cold start. All parts are one and the
same file under other names: of parts that `checked.parquet` knows, a resume looks at the listing.
"""

from __future__ import annotations

import argparse
import json
import logging
import math
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Iterable
from contextlib import ExitStack
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from cluster.checked import CheckedPart, write_checked
from cluster.driver import execute
from cluster.parts import commit_part
from cluster.storage import Storage, StorageSpec
from jobs.page.page import PAGE_KEY
from jobs.resources import local_path
from jobs.scoring.fit_task import FITS_SCHEMA
from jobs.scoring.inventory import take_inventory
from jobs.stereoset.job import StereoSetJob
from jobs.stereoset.output import StereoSetOutput
from jobs.stereoset.summary_tables import cells_schema
from steering_core.vectors import SteeringVectors, to_safetensors
from tests.scale.gauge import MB, Gauge, gauged, machine
from tests.scale.instant import InstantBackend
from tests.scale.sorted_listing import sorted_listing
from tests.support.s3 import BUCKET, s3_server
from tests.support.sweeps import steersweep, write_spec

SPLITS = ("intersentence", "intrasentence")
BIAS_TYPES = ("gender", "profession", "race", "religion")
LAYERS, WIDTH = (1, 4), 64
EXAMPLES_OF_A_MODEL = 4229  # as many as StereoSet's development set has
TASKS_OF_AN_EXAMPLE, PARTS_OF_AN_EXAMPLE = 2, 3
LINKS_OF_A_FILE = 10_000  # a file system has a limit
METADATA = {"steersweep.certificate": json.dumps({"rows": [{"example_id": "0" * 32}] * 2})}


def write_sweep(folder: Path, num_tasks: int, uri: str) -> Path:
    """A sweep file of at least that many tasks: several models, eight groups of examples each."""
    num_models = max(1, round(num_tasks / (TASKS_OF_AN_EXAMPLE * EXAMPLES_OF_A_MODEL)))
    per_group = math.ceil(num_tasks / (TASKS_OF_AN_EXAMPLE * num_models * 8))
    document = json.loads(Path(local_path("embedded:examples.json")).read_text())
    for split in SPLITS:
        first = document["data"][split][0]
        document["data"][split] = [
            {**first, "id": uuid.uuid4().hex, "bias_type": bias_type}
            for bias_type in BIAS_TYPES
            for _ in range(per_group)
        ]
    data, vectors = folder / "dev.json", folder / "given.safetensors"
    data.write_text(json.dumps(document))
    rng = np.random.default_rng(0)
    whole = {layer: rng.standard_normal(WIDTH).astype(np.float32) for layer in LAYERS}
    vectors.write_bytes(to_safetensors(SteeringVectors(whole, {}), {}))
    return write_spec(
        folder / "sweep.yaml",
        models={f"m{n}": {"path": "embedded:gemma2-tiny"} for n in range(num_models)},
        data={"path": str(data), "splits": list(SPLITS), "bias_types": list(BIAS_TYPES)},
        vectors={"file": str(vectors)},
        steering={"layers": list(LAYERS), "coeffs": [-3, 400]},
        compute={"executor": "in_process", "examples_per_task": 1},
        output=uri,
    )


def drive(spec: Path, num_replicas: int) -> tuple[float, Gauge]:
    """Seconds until the first task could be handed out, and what handing out all of them took."""
    found: list[Gauge] = []
    begun = time.monotonic()
    before: list[float] = []

    def gauged_execute(*arguments: Any, **options: Any) -> Any:
        before.append(time.monotonic() - begun)
        with gauged() as gauge:
            outcome = execute(*arguments, **options)
        found.append(gauge)
        return outcome

    with (
        mock.patch("jobs.sweeps.runner.execute", gauged_execute),
        mock.patch("jobs.stereoset.job.StereoSetJob.report", _leave_a_report),
        mock.patch("jobs.sweeps.executor.Executor.num_replicas", lambda *_: num_replicas),
        mock.patch("cluster.backends.in_process.InProcessBackend", lambda _: InstantBackend()),
        # Instant replicas leave no parts, and so no fits that could be merged.
        mock.patch("jobs.scoring.workflow.read_part", lambda *_: FITS_SCHEMA.empty_table()),
    ):
        finished = steersweep("run", str(spec))
    assert finished.code == 0, finished
    return before[0], found[0]


def _leave_a_report(_job: StereoSetJob, output: StereoSetOutput, _options: Any) -> None:
    sink = pa.BufferOutputStream()
    pq.write_table(cells_schema().empty_table(), sink)
    for name in ("cells", "pooled"):
        output.storage.replace(f"summary/{name}.parquet", sink.getvalue().to_pybytes())
    output.storage.replace(PAGE_KEY, b"none")


def lay_parts(storage: Storage, keys: Iterable[str]) -> None:
    """One real part under every key, without the time that so many commits take."""
    model = "baseline/model.parquet"
    table = pa.table({"value": np.arange(24)}).replace_schema_metadata(METADATA)
    commit_part(storage, model, table, task_id="model", attempt="model")
    data = storage.read(model)
    storage.delete(model)
    if storage.spec.is_s3:
        from moto.core import DEFAULT_ACCOUNT_ID
        from moto.s3.models import s3_backends

        store = s3_backends[DEFAULT_ACCOUNT_ID]["aws"]
        prefix = storage.uri.removeprefix(f"s3://{BUCKET}/")
        for key in keys:
            store.put_object(BUCKET, f"{prefix}/{key}", data)
        return
    first = Path()
    for number, key in enumerate(keys):
        path = Path(storage.uri, key)
        path.parent.mkdir(parents=True, exist_ok=True)
        if number % LINKS_OF_A_FILE == 0:
            first = path
            first.write_bytes(data)
        else:
            path.hardlink_to(first)


def finish(storage: Storage) -> int:
    """Lay down every part of the planned sweep, known as checked; how many."""
    inventory = take_inventory(storage)
    task_ids = {
        key: task_id
        for task in inventory.planned
        for task_id in [inventory.task_ids[task.plan_id]]
        for key in task.parts(task_id).values()
    }
    lay_parts(storage, task_ids)
    versions = {entry.key: entry.version for entry in storage.list()}
    write_checked(
        storage,
        {key: CheckedPart(of, versions[key], METADATA) for key, of in task_ids.items()},
    )
    return len(task_ids)


def resume(spec: Path) -> dict[str, float]:
    """What `steersweep run` takes, from a cold start, to say that nothing is left."""
    begun = time.monotonic()
    with subprocess.Popen(
        [sys.executable, "-c", _MEASURED, "run", str(spec)],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    ) as child:
        said, _ = child.communicate()
    took = time.monotonic() - begun
    assert child.returncode == 0, said
    assert "nothing left to compute" in said, said
    cpu_s, peak_bytes = json.loads(said.splitlines()[-1])
    return {
        "resume_s": round(took, 1),
        "resume_cpu_s": round(cpu_s, 1),
        "resume_peak_mb": round(peak_bytes / MB, 1),
    }


_MEASURED = """
import atexit, json, time
from tests.scale.gauge import peak_rss_bytes
atexit.register(lambda: print(json.dumps([time.process_time(), peak_rss_bytes()])))
from jobs.cli import main
main()
"""


def listing(storage: Storage) -> dict[str, float]:
    """What listing everything takes, in this process."""
    with gauged() as gauge:
        num = sum(1 for _ in storage.list())
    return {"objects": num, "list_s": round(gauge.wall_s, 2), "list_cpu_s": round(gauge.cpu_s, 2)}


def measure(options: argparse.Namespace) -> dict[str, Any]:
    """Drive such a sweep, finish it, list it, and take it up again."""
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="scale-")))
        uri = f"s3://{BUCKET}/{uuid.uuid4().hex}" if options.storage == "s3" else f"{folder}/out"
        spec = write_sweep(folder, options.tasks, uri)
        planned_s, drove = drive(spec, options.replicas)
        storage = StorageSpec(uri).open()
        num_parts = finish(storage)
        num_tasks = num_parts * TASKS_OF_AN_EXAMPLE // PARTS_OF_AN_EXAMPLE
        return {
            "storage": options.storage,
            "tasks": num_tasks,
            "parts": num_parts,
            "plan_s": round(planned_s, 1),
            "tasks_per_s": round(num_tasks / drove.wall_s, 1),
            "driver_cpu_ms_per_task": round(1e3 * drove.cpu_s / num_tasks, 3),
            "driver_peak_mb": round(drove.peak_rss_bytes / MB, 1),
            **resume(spec),
            **listing(storage),
            **machine(),
        }


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.scale.resume", description=__doc__)
    parser.add_argument("--tasks", type=int, default=100_000)
    parser.add_argument("--storage", choices=["local", "s3"], default="local")
    parser.add_argument("--replicas", type=int, default=8)
    options = parser.parse_args()
    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    with ExitStack() as stack:
        if options.storage == "s3":
            stack.enter_context(s3_server())
            stack.enter_context(sorted_listing())
        print(json.dumps(measure(options)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
