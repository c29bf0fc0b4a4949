"""The SLURM script, with stand-ins for srun and scontrol: out of time, and queued again."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml

from tests.support.sweeps import part_keys, read_rows, write_spec

ROOT = Path(__file__).parents[2]
SCRIPT = ROOT / "cluster" / "launch" / "slurm.sh"
STUBS = ROOT / "tests" / "support" / "slurm"
JOB_ID = os.getpid()
LIMIT_S = 240


def _start(spec: Path, num_nodes: int, restarts: int) -> subprocess.Popen[str]:
    """The batch script as SLURM starts it on the first node of a job."""
    environment = os.environ | {
        "PATH": f"{STUBS}:{Path(sys.executable).parent}:{os.environ['PATH']}",
        "PYTHONPATH": str(ROOT),
        "SCONTROL_LOG": str(spec.with_name("scontrol.log")),
        "SLURM_JOB_ID": str(JOB_ID),
        "SLURM_JOB_NODELIST": "node[1-2]",
        "SLURM_JOB_NUM_NODES": str(num_nodes),
        "SLURM_CPUS_PER_TASK": "1",
        "SLURM_RESTART_COUNT": str(restarts),
        "STEERSWEEP_HEAD_IP": "127.0.0.2",
        "STEERSWEEP_DASHBOARD": "false",
    }
    environment.pop("RAY_ADDRESS", None)
    return subprocess.Popen(
        ["bash", SCRIPT, spec], env=environment, cwd=spec.parent, text=True,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, start_new_session=True,
    )  # fmt: skip


def _finish(job: subprocess.Popen[str]) -> str:
    """What the job printed; nothing of it is left, whatever happened."""
    try:
        return job.communicate(timeout=LIMIT_S)[0]
    finally:
        if job.poll() is None:
            os.killpg(job.pid, signal.SIGKILL)


def _left_behind() -> list[str]:
    folder = f"/tmp/steersweep-{JOB_ID}"
    found = [str(p) for p in Path("/tmp").glob(f"steersweep-{JOB_ID}*")]
    for process in Path("/proc").glob("[0-9]*"):
        try:
            command = (process / "cmdline").read_bytes().replace(b"\0", b" ").decode()
        except OSError:
            continue
        if folder in command:
            found.append(command)
    return found


def test_directives_are_read_and_say_what_the_script_relies_on() -> None:
    """SLURM reads them up to the first command, and no variables in them."""
    text = SCRIPT.read_text()
    before = text[: text.index("\nset -euo")]
    directives = dict(re.findall(r"^#SBATCH --([\w-]+)(?:=(\S+))?$", before, re.M))
    assert text.count("#SBATCH") == len(directives)
    assert directives["signal"] == "B:USR1@120"
    assert "requeue" in directives
    assert directives["ntasks-per-node"] == "1"
    assert directives["open-mode"] == "append"


@pytest.mark.parametrize(
    ("script", "environment", "arguments", "told"),
    [
        ("slurm.sh", {}, ["sweep.yaml"], "start it with sbatch"),
        ("slurm.sh", {"SLURM_JOB_ID": "1"}, [], "which sweep?"),
        ("node.sh", {}, [], "must be head or worker, got ''"),
        ("node.sh", {}, ["worker"], "needs the address of the head"),
        ("node.sh", {}, ["worker", "10.0.0.5"], "no token: copy"),
        ("node.sh", {"STEERSWEEP_PORT": "80"}, ["head"], "must be in 1024..65520, got 80"),
    ],
)
def test_a_wrong_start_is_one_line(
    script: str, environment: dict[str, str], arguments: list[str], told: str, tmp_path: Path
) -> None:
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    done = subprocess.run(
        ["bash", SCRIPT.with_name(script), *arguments], capture_output=True, text=True, timeout=60,
        env={"PATH": path, "HOME": str(tmp_path)} | environment,
    )  # fmt: skip
    assert done.returncode == 2
    assert told in done.stderr and done.stderr.count("\n") == 1
    assert not list(tmp_path.iterdir())


@pytest.mark.ray
@pytest.mark.nightly
@pytest.mark.timeout(600)  # Ray is started three times
def test_a_job_that_runs_out_of_time_is_queued_again_and_its_next_goes_on(tmp_path: Path) -> None:
    compute = {"executor": "ray", "replicas": 2, "examples_per_task": 1}
    steering = {"layers": [1, 2, 4, 6], "coeffs": [-3, 0.5, 400]}
    spec = write_spec(tmp_path / "sweep.yaml", compute=compute, steering=steering)
    output = str(tmp_path / "out")

    job = _start(spec, num_nodes=2, restarts=0)
    deadline = time.monotonic() + LIMIT_S
    while job.poll() is None and not part_keys(output):
        assert time.monotonic() < deadline
        time.sleep(0.05)
    job.send_signal(signal.SIGUSR1)  # as SLURM does two minutes before the end
    text = _finish(job)
    assert job.returncode == 128 + signal.SIGTERM, text
    assert "interrupted; finished work is kept" in text
    assert (tmp_path / "scontrol.log").read_text() == f"requeue {JOB_ID}\n"
    done = part_keys(output)
    assert done
    assert _left_behind() == []

    document = yaml.safe_load(spec.read_text())
    document["compute"]["replicas"] = 1
    spec.write_text(yaml.safe_dump(document))
    job = _start(spec, num_nodes=1, restarts=1)
    text = _finish(job)
    assert job.returncode == 0, text
    assert done < part_keys(output)
    assert len(read_rows(output)) == 24 * 12
    assert (tmp_path / "scontrol.log").read_text().count("requeue") == 1
    assert _left_behind() == []
