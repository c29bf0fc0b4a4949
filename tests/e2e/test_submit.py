"""Sweeps as jobs of a real cluster of four nodes, through its dashboard, from outside."""

from __future__ import annotations

import json
import shutil
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pandas as pd
import psutil
import pytest
import requests

from cluster.ledger import Ledger
from cluster.storage import StorageSpec
from cluster.submission import JobServer
from jobs.resources import local_path
from jobs.submit import follow
from tests.support.ray_clusters import Machines, ray_machines
from tests.support.s3 import Fault, S3Server
from tests.support.stereoset_data import DEV_JSON, needs_dev_json, save_gemma2_pair
from tests.support.sweeps import read_rows, steersweep, write_spec

pytestmark = [pytest.mark.ray, pytest.mark.timeout(600)]

PLANTED = {
    "HF_TOKEN": "hf_plantedplantedplanted",
    "ANTHROPIC_API_KEY": "planted-anthropic-key",
    "AWS_SECRET_ACCESS_KEY": "planted-aws-secret",
}


@pytest.fixture(scope="module")
def machines(s3_endpoint: str) -> Iterator[Machines]:
    with ray_machines(3, PLANTED) as running:
        yield running


@pytest.fixture(autouse=True)
def patience(monkeypatch: pytest.MonkeyPatch) -> None:
    """A busy machine may take longer than a user would wait."""
    monkeypatch.setattr(follow, "START_S", 500.0)


def _spec(tmp_path: Path, output: str, **changes: Any) -> Path:
    defaults = {"output": output, "compute": {"replicas": 1}}
    return write_spec(tmp_path / "sweep.yaml", **(defaults | changes))


def _submit(machines: Machines, spec: Path, *options: str) -> Any:
    return steersweep("submit", str(spec), "--address", machines.address, *options)


def _jobs(machines: Machines, finished: Any) -> list[str]:
    """Ids of all jobs of the name that a command has told."""
    told = next(line for line in finished.out.splitlines() if line.startswith("job "))
    name = told.split()[1].rpartition("-")[0]
    return sorted(j.id for j in JobServer(machines.address).jobs() if j.id.startswith(name))


class Watcher:
    """What processes of this machine show while the context lasts.

    `driver_listens`: where the drivers of this cluster's jobs do, by process.
    """

    def __init__(self, machines: Machines) -> None:
        self._home = machines.head_folder
        self.arguments: set[str] = set()
        self.driver_listens: dict[int, set[tuple[str, int]]] = {}
        self._is_over = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def __enter__(self) -> Watcher:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._is_over.set()
        self._thread.join()

    def _watch(self) -> None:
        while not self._is_over.wait(0.5):
            for process in psutil.process_iter():
                try:
                    arguments = " ".join(process.cmdline())
                    self.arguments.add(arguments)
                    if "jobs.cli run" in arguments and self._home in Path(process.cwd()).parents:
                        ports = self.driver_listens.setdefault(process.pid, set())
                        ports |= _listening(process)
                except psutil.Error:  # it has ended
                    continue


@needs_dev_json
def test_a_submitted_sweep_is_the_local_one_bit_for_bit_and_tells_no_secret(
    machines: Machines, s3_uri: str, tmp_path: Path
) -> None:
    models = save_gemma2_pair(tmp_path / "models", 1024)
    changes = {
        "models": {name: {"path": str(path)} for name, path in models.items()},
        "data": {"path": str(DEV_JSON), "limit": 2},
        "steering": {"layers": [1, 6], "coeffs": [20]},
    }
    spec = _spec(tmp_path, "not-this-one", **changes)
    listening = _listening(psutil.Process())
    with Watcher(machines) as watcher:
        finished = _submit(
            machines, spec, "--output", s3_uri, "--set", "compute.replicas=2",
            "--needs", "HF_TOKEN", "--env", "OMP_NUM_THREADS=1", "--wait",
        )  # fmt: skip
    assert finished.code == 0, finished
    assert "the first replica is ready" in finished.out
    assert "2 replicas on cpu" in finished.out

    local = str(tmp_path / "local")
    options = ("--output", local, "--set", "compute.executor=in_process")
    assert steersweep("run", str(spec), *options).code == 0
    for table in ("steered", "baseline"):
        pd.testing.assert_frame_equal(
            read_rows(s3_uri, table), read_rows(local, table), check_exact=True
        )

    storage = StorageSpec(s3_uri).open()
    [job_id] = _jobs(machines, finished)
    told = {
        "the job API": requests.get(f"{machines.address}/api/jobs/", timeout=30).text,
        "the job's log": JobServer(machines.address).log(job_id),
        "process arguments": "\n".join(watcher.arguments),
        "the terminal": finished.out + finished.err,
        **{e.key: storage.read(e.key).decode(errors="replace") for e in storage.list()},
    }
    assert job_id in told["the job API"]
    assert "jobs.cli run sweep.yaml" in told["process arguments"]
    assert {"run.json"} < set(told)
    for where, text in told.items():
        for name, secret in PLANTED.items():
            assert secret not in text, f"{name} is in {where}"

    assert machines.address.startswith("http://127.0.0.1:")
    assert _listening(psutil.Process()) == listening
    # Ray's own server, which every process that joins a cluster has.
    [ports] = watcher.driver_listens.values()
    assert len(ports) == 1, ports


def _listening(process: psutil.Process) -> set[tuple[str, int]]:
    connections = process.net_connections("inet")
    return {tuple(c.laddr) for c in connections if c.status == psutil.CONN_LISTEN}


@pytest.mark.nightly
def test_a_sweep_is_run_once_stopped_and_gone_on_with(
    machines: Machines, s3_uri: str, tmp_path: Path, s3_server_with_faults: S3Server
) -> None:
    spec = _spec(tmp_path, s3_uri)
    storage = StorageSpec(s3_uri).open()
    # It stays where it is once the unsteered rows of a group are there.
    held = Fault("PUT", rf"{s3_uri.removeprefix('s3:/')}/steered/", times=10**9, status=503)
    s3_server_with_faults.faults.append(held)
    try:
        first = _submit(machines, spec)
        assert first.code == 0, first
        assert "the first replica is ready" in first.out
        [job_id] = _jobs(machines, first)

        again = _submit(machines, spec)
        assert again.code == 0, again
        assert f"job {job_id} is already running; nothing was started" in again.out
        other = _submit(machines, spec, "--set", "steering.coeffs=[1]")
        assert other.code == 2, other
        assert (job_id in other.err, other.err.count("\n")) == (True, 1)
        assert _jobs(machines, first) == [job_id]

        while held.num_done == 0:
            time.sleep(0.2)
        server = JobServer(machines.address)
        server.stop(job_id)
        while not server.job(job_id).is_ended:
            time.sleep(0.2)
    finally:
        s3_server_with_faults.faults.remove(held)
    assert server.job(job_id).status == "STOPPED"
    # The driver has had the time to say so itself.
    record = Ledger(storage).read_record()
    assert record is not None
    assert record["outcome"] == "interrupted"
    kept = {entry.key: entry.version for entry in storage.list("baseline/")}
    assert kept
    assert not list(storage.list("driver.lock"))

    resumed = _submit(machines, spec, "--wait")
    assert resumed.code == 0, resumed
    assert _jobs(machines, first) == [job_id, job_id[:-1] + "2"]
    assert kept.items() <= {e.key: e.version for e in storage.list("baseline/")}.items()
    local = str(tmp_path / "local")
    options = ("--output", local, "--set", "compute.executor=in_process")
    assert steersweep("run", str(spec), *options).code == 0
    pd.testing.assert_frame_equal(read_rows(s3_uri), read_rows(local), check_exact=True)


def _fails(finished: Any, code: int, *words: str) -> None:
    assert finished.code == code, finished
    assert finished.err.count("\n") == 1, finished.err
    for word in words:
        assert word in finished.err, finished.err


def test_a_gpu_that_no_node_has_is_one_line(
    machines: Machines, s3_uri: str, tmp_path: Path
) -> None:
    spec = _spec(tmp_path, s3_uri, compute={"replicas": 1, "gpus_per_replica": 1})
    _fails(_submit(machines, spec), 2, "asks for 1 GPU; the largest node has 0")


def test_a_replica_that_cannot_load_its_model_is_one_line(
    machines: Machines, s3_uri: str, tmp_path: Path
) -> None:
    model = tmp_path / "model"
    shutil.copytree(local_path("embedded:gemma2-tiny"), model)
    config = json.loads((model / "config.json").read_text())
    config["intermediate_size"] += 8
    (model / "config.json").write_text(json.dumps(config))
    spec = _spec(tmp_path, s3_uri, models={"tiny": {"path": str(model)}})
    finished = _submit(machines, spec)
    assert finished.code in (1, 2), finished
    _fails(finished, finished.code, str(model))


def test_a_gated_model_without_a_token_is_one_line(
    machines: Machines, s3_uri: str, tmp_path: Path
) -> None:
    hub = ThreadingHTTPServer(("127.0.0.1", 0), _GatedHub)
    threading.Thread(target=hub.serve_forever, daemon=True).start()
    try:
        spec = _spec(tmp_path, s3_uri, models={"tiny": {"path": "lab/gated"}})
        endpoint = f"HF_ENDPOINT=http://127.0.0.1:{hub.server_address[1]}"
        finished = _submit(machines, spec, "--env", endpoint, "--env", "HF_HUB_OFFLINE=0")
    finally:
        hub.shutdown()
        hub.server_close()
    _fails(finished, 2, "lab/gated is gated", "HF_TOKEN")


class _GatedHub(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self.send_response(401)
        self.send_header("X-Error-Code", "GatedRepo")
        self.send_header("Content-Length", "0")
        self.end_headers()

    do_HEAD = do_GET

    def log_message(self, *_: object) -> None:
        pass


def test_an_environment_that_cannot_be_built_is_one_line(
    machines: Machines, s3_uri: str, tmp_path: Path
) -> None:
    resources = machines.head_folder / "runtime_resources" / "pip"
    shutil.rmtree(resources)
    resources.touch()  # no folder can be made there
    finished = _submit(machines, _spec(tmp_path, s3_uri), "--pip")
    _fails(finished, 2, "its environment cannot be built", str(resources))
