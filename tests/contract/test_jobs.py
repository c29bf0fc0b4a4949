"""What a user can rely on, whatever the job: the same tests for each of them."""

# ruff: noqa: F811 - fixtures are imported, and then named by tests

from __future__ import annotations

import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import time
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pyarrow.parquet as pq
import pytest

import steersweep as steersweep_api
from cluster.errors import CorruptPartError
from cluster.lease import Lease
from cluster.parts import read_part
from cluster.storage import StorageSpec
from jobs.submit.package import write_package
from jobs.submit.travel import SPEC_NAME, travelling
from jobs.sweeps.registry import load_any_spec, open_results
from jobs.sweeps.session import LOCK_KEY
from steersweep.errors import UserError
from tests.support.job_cases import (
    CASES,
    Case,
    everything,
    part_keys,
    parts_of,
    write_toy_spec,
    written,
)
from tests.support.job_fixtures import case, chat, finished, spec, toy  # noqa: F401
from tests.support.sweeps import Finished, steersweep

ROOT = Path(__file__).parents[2]


@pytest.fixture
def output(finished: Path, tmp_path: Path) -> Path:
    """A copy of it."""
    return shutil.copytree(finished, tmp_path / "out")


def run(spec: Path, output: Path | str, *options: str) -> Finished:
    return steersweep("run", str(spec), "--output", str(output), *options)


def key_in(output: Path, folder: str) -> str:
    return next(key for key in part_keys(str(output)) if key.startswith(folder))


def one_message(done: Finished) -> str:
    """The only line of an error that the user must act upon."""
    assert done.code == 2, done
    assert "Traceback" not in done.err + done.out
    (line,) = [line for line in done.err.splitlines() if line]
    assert line.startswith("error: ")
    return line


# -- commands ------------------------------------------------------------------------------------


def test_commands_of_a_finished_run(case: Case, spec: Path, output: Path, tmp_path: Path) -> None:
    status = json.loads(steersweep("status", str(output), "--json").out)
    assert (status["job"], status["driver"]["state"]) == (case.name, "done")
    report = steersweep("report", str(output), "--json")
    assert report.code == 0, report
    assert json.loads(report.out)["result"]
    assert "<!doctype html>" in (output / "report.html").read_text()
    verified = steersweep("verify", str(output), "--json", "--rows", "6")
    assert verified.code == 0, verified
    assert json.loads(verified.out)["verdict"] == "holds"
    file = tmp_path / "rows.parquet"
    assert steersweep("export", str(output), str(file)).code == 0
    assert pq.read_table(file).num_rows > 0
    results = open_results(str(output)).read_all()
    assert results.outcome == "done"
    assert all(len(getattr(results, name)) or name in _MAY_BE_EMPTY for name in results.tables)
    assert all(f".{name}" in repr(results) for name in results.tables)
    assert results.summary.keys() == steersweep_api.load(str(output)).summary.keys()
    plan = steersweep("plan", str(spec), "--output", str(output), "--json", "--seconds", "0")
    assert json.loads(plan.out)["plan_version"] == 1
    assert "Nothing is left" in plan.err


_MAY_BE_EMPTY = ("nulls", "null_tests", "dose_response", "held_out", "side_effects")


def test_a_finished_run_is_not_run_again(spec: Path, output: Path) -> None:
    before = written(output)
    done = run(spec, output)
    assert done.code == 0, done
    assert "nothing left to compute" in done.out
    assert written(output) == before


def test_a_spec_travels_to_a_cluster(case: Case, spec: Path, tmp_path: Path) -> None:
    options = ["compute.executor=ray"]
    bundle = travelling(load_any_spec(str(spec), options, "s3://bucket/run"))
    write_package(tmp_path / "bundle.zip", bundle)
    folder = tmp_path / "there"
    with zipfile.ZipFile(tmp_path / "bundle.zip") as archive:
        archive.extractall(folder)
    there = load_any_spec(str(folder / SPEC_NAME))
    assert (there.job, there.output) == (case.name, "s3://bucket/run")


# -- interruptions -------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.timeout(900)  # several processes, each of which loads torch
def test_killed_at_random_and_resumed(
    case: Case, spec: Path, finished: Path, tmp_path: Path
) -> None:
    draw, output, num_killed = random.Random(case.name), tmp_path / "out", 0
    before: dict[str, tuple[int, int]] = {}
    for number in (signal.SIGKILL, signal.SIGINT) * (case.kills // 2):
        enough = len(before) + draw.randint(1, 3)
        with started(case, spec, output) as process:
            while process.poll() is None and num_parts(output) < enough:
                time.sleep(0.01)
            time.sleep(draw.random() / 10)
            process.send_signal(number)
            text, _ = process.communicate(timeout=120)
        now = written(output)
        assert {key: now[key] for key in before} == before, "a part was written twice"
        before = now
        if process.returncode:
            num_killed += 1
            assert process.returncode == (-9 if number == signal.SIGKILL else 130), text
            assert number == signal.SIGKILL or "the same command resumes it" in text
    assert num_killed == case.kills, "stopped too late to show anything"
    assert len(before) < len(part_keys(str(finished)))
    done = run(spec, output)
    assert done.code == 0, done
    now = written(output)
    assert {key: now[key] for key in before} == before, "a part was written twice"
    assert parts_of(str(output)) == parts_of(str(finished))


@contextmanager
def started(case: Case, spec: Path, output: Path) -> Iterator[subprocess.Popen[str]]:
    """A run in a process of its own, which does not outlive the test."""
    process = subprocess.Popen(
        [sys.executable, "-m", case.module, "run", str(spec), "--output", str(output)],
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, cwd=ROOT,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
    )  # fmt: skip
    try:
        yield process
    finally:
        process.kill()
        process.wait()


def num_parts(output: Path) -> int:
    return len(part_keys(str(output))) if output.exists() else 0


def test_a_lost_record_is_no_lost_run(spec: Path, output: Path) -> None:
    (output / "run.json").unlink()
    before = written(output)
    done = run(spec, output)
    assert done.code == 0, done
    assert written(output) == before
    assert json.loads((output / "run.json").read_text())["outcome"] == "done"


def test_without_the_record_another_sweep_is_still_refused(
    case: Case, spec: Path, output: Path
) -> None:
    if not case.keeps_sweeps_apart:
        pytest.skip("its parts are named in an index, and those of another sweep lie beside them")
    (output / "run.json").unlink()
    before = everything(output)
    line = one_message(run(spec, output, "--set", case.changed[0]))
    assert "belongs to a different sweep" in line
    assert everything(output) == before


def test_a_second_driver_is_refused(spec: Path, output: Path) -> None:
    (output / key_in(output, "")).unlink()  # something is left to do
    with Lease.acquire(StorageSpec(str(output)).open(), LOCK_KEY, ttl_s=0.6):
        before = written(output)
        line = one_message(run(spec, output))
        assert written(output) == before
    assert "driver" in line


@pytest.mark.slow
def test_a_second_driver_is_refused_while_one_runs(chat: Path, tmp_path: Path) -> None:
    case = next(case for case in CASES if case.name == "letters")
    spec, output = write_toy_spec(tmp_path, chat, pause_s=1.0), tmp_path / "out"
    with started(case, spec, output) as process:
        while process.poll() is None and not num_parts(output):
            time.sleep(0.01)
        one_message(run(spec, output))
        process.send_signal(signal.SIGINT)
        text, _ = process.communicate(timeout=120)
    assert process.returncode == 130, text
    assert run(spec, output, "--set", "pause_s=0").code == 0


# -- damaged and missing parts -------------------------------------------------------------------


@pytest.mark.parametrize("folder", ["rows", "last"])
def test_a_truncated_part_is_refused_first(
    case: Case, spec: Path, output: Path, folder: str
) -> None:
    key = key_in(output, getattr(case, folder))
    data = (output / key).read_bytes()
    (output / key).write_bytes(data[: len(data) // 2])
    before = everything(output)
    done = run(spec, output)
    assert key in one_message(done)
    assert not re.search("loading|replica", done.out)
    if folder == "rows":
        # A plan may count rows alone, and so read no part that comes after them.
        assert key in one_message(steersweep("plan", str(spec), "--output", str(output)))
    assert everything(output) == before


def test_a_damaged_part_is_named_and_never_counted(case: Case, spec: Path, output: Path) -> None:
    key = key_in(output, case.rows)
    flip_in_rows(output, key)
    assert key in one_message(steersweep("report", str(output)))
    with pytest.raises(UserError, match=re.escape(key)):
        open_results(str(output)).read_all()
    (output / key_in(output, case.last)).unlink()
    done = run(spec, output)
    assert done.code == 2, done
    assert key in done.err
    (output / key).unlink()
    assert run(spec, output).code == 0


def flip_in_rows(output: Path, key: str) -> None:
    """Flip the first byte of a part, from its middle on, that changes the rows.

    The footer stays as it is. Bytes of page headers are not looked for, as rows do not depend on
    all of them.
    """
    storage, whole = StorageSpec(str(output)).open(), (output / key).read_bytes()
    end = len(whole) - 8 - int.from_bytes(whole[-8:-4], "little")
    for at in range((4 + end) // 2, end):
        data = bytearray(whole)
        data[at] ^= 0xFF
        (output / key).write_bytes(data)
        try:
            read_part(storage, key)
        except CorruptPartError:
            return
    raise AssertionError(f"no byte of {key} changes its rows")


@pytest.mark.parametrize("folder", ["rows", "last"])
def test_a_deleted_part_alone_is_computed_again(
    case: Case, spec: Path, finished: Path, output: Path, folder: str
) -> None:
    key = key_in(output, getattr(case, folder))
    (output / key).unlink()
    before = written(output)
    done = run(spec, output)
    assert done.code == 0, done
    now = written(output)
    assert now.keys() - before.keys() == {key}
    assert {key: now[key] for key in before} == before
    assert parts_of(str(output)) == parts_of(str(finished))


# -- another sweep -------------------------------------------------------------------------------


def test_a_grid_grows(case: Case, spec: Path, output: Path) -> None:
    before = written(output)
    done = run(spec, output, "--set", case.grown)
    assert done.code == 0, done
    now = written(output)
    assert {key: now[key] for key in before} == before
    new = now.keys() - before.keys()
    assert any(key.startswith(case.last) for key in new)
    assert steersweep("verify", str(output)).code == 0


def test_a_change_is_refused(case: Case, spec: Path, output: Path) -> None:
    option, said = case.changed
    before = everything(output)
    for command in ("run", "plan"):
        line = one_message(steersweep(command, str(spec), "--output", str(output), "--set", option))
        assert re.search(said, line)
    assert everything(output) == before


def test_a_folder_with_other_files_is_refused(spec: Path, tmp_path: Path) -> None:
    output = tmp_path / "out"
    output.mkdir()
    (output / "notes.txt").write_text("mine")
    assert "notes.txt" in one_message(run(spec, output))
    assert [path.name for path in output.rglob("*")] == ["notes.txt"]


# -- other places --------------------------------------------------------------------------------


@pytest.mark.slow
def test_the_same_rows_on_s3(spec: Path, finished: Path, s3_uri: str) -> None:
    done = run(spec, s3_uri)
    assert done.code == 0, done
    assert parts_of(s3_uri) == parts_of(str(finished))
    assert "nothing left to compute" in run(spec, s3_uri).out
