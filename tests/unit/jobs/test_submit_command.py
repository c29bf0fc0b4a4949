"""What travels to a cluster, and how the words of a job become one line."""

from __future__ import annotations

import zipfile
from pathlib import Path
from typing import Any

import pytest
import yaml

from cluster.errors import ClusterError
from cluster.storage import StorageSpec
from cluster.submission import Job, ServerAwayError
from jobs.console import REPLICA_IS_READY
from jobs.persona.spec import PersonaSpec
from jobs.spec import load_spec
from jobs.stereoset.spec import StereoSetSpec
from jobs.submit import follow
from jobs.submit.command import job_name, requirements
from jobs.submit.follow import Follower
from jobs.submit.package import write_package
from jobs.submit.travel import SPEC_NAME, Travelling, travelling
from steersweep.errors import UserError
from tests.support.sweeps import write_spec


def _spec(tmp_path: Path, *overrides: str) -> StereoSetSpec:
    file = write_spec(tmp_path / "sweep.yaml", output="s3://bucket/run", compute={})
    return load_spec(StereoSetSpec, str(file), overrides)


def test_the_spec_travels_as_it_was_resolved(tmp_path: Path) -> None:
    spec = _spec(tmp_path, "steering.coeffs=[0.5,4E2]", "data.limit=3", "output=s3://other/place")
    sweep = travelling(spec)
    (tmp_path / "there.yaml").write_text(sweep.spec)
    assert load_spec(StereoSetSpec, str(tmp_path / "there.yaml")) == spec
    assert "certificate" not in yaml.safe_load(sweep.spec)  # nothing but what was said


@pytest.mark.parametrize(
    ("override", "told"),
    [
        ("output=runs/here", "output: runs/here is a folder on this machine"),
        ("output=~/runs", "output: ~/runs is a folder on this machine"),
        ("data.path=dev.json", "data.path: dev.json is a file on this machine"),
        ("data.path=~/dev.json", "data.path: ~/dev.json is a file on this machine"),
        ("vectors.file=v.gguf", "vectors.file: v.gguf is a file on this machine"),
        ("models.tiny.path=./weights", "models.tiny.path: ./weights is a folder"),
        ("models.tiny.path=here", "models.tiny.path: here is a folder"),
        ("models.tiny.path=embedded:no", "no embedded file has that name"),
        ("compute.executor=in_process", "compute.executor: in_process would compute on"),
        ("models.tiny.revision=hf_abcdefghijklmnopqrst", "models.tiny.revision holds what looks"),
    ],
)
def test_what_the_cluster_cannot_see_is_refused(
    override: str, told: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError) as caught:
        travelling(_spec(tmp_path, override))
    assert told in str(caught.value)
    assert "hf_abc" not in str(caught.value)


@pytest.mark.parametrize(
    "override",
    [
        "output=/shared/run",
        "output=file:///shared/run",
        "data.path=/shared/dev.json",
        "vectors.file=s3://bucket/v.safetensors",
        "models.tiny.path=google/gemma-2-2b",
        "models.tiny.path=/shared/gemma",
    ],
)
def test_what_the_cluster_can_see_is_left_as_it_is(override: str, tmp_path: Path) -> None:
    assert override.partition("=")[2] in travelling(_spec(tmp_path, override)).spec


def _persona(tmp_path: Path, trait: str) -> PersonaSpec:
    document = {
        "job": "persona",
        "models": {"m": {"path": "lab/chat"}},
        "traits": {"evil": {"path": trait}},
        "judge": {"kind": "word_list"},
        "steering": {"layers": [1]},
        "output": "s3://bucket/run",
    }
    (tmp_path / "persona.yaml").write_text(yaml.safe_dump(document))
    return load_spec(PersonaSpec, str(tmp_path / "persona.yaml"))


def test_traits_travel_with_their_spec(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    text = '{"instruction": [{"pos": "p", "neg": "n"}], "questions": ["q"], "eval_prompt": "E"}'
    text = text.replace('"E"', '"{question} {answer}"')
    (tmp_path / "evil.json").write_text(text)
    monkeypatch.chdir(tmp_path)
    sweep = travelling(_persona(tmp_path, "evil.json"))
    [(there, content)] = sweep.files.items()
    assert content.decode() == text
    assert yaml.safe_load(sweep.spec)["traits"]["evil"] == {"path": there}
    shared = travelling(_persona(tmp_path, "/shared/evil.json"))
    assert shared.files == {}
    with pytest.raises(UserError, match=r"no\.json cannot be read"):
        travelling(_persona(tmp_path, "no.json"))


def test_the_package_is_whole_small_and_the_same_each_time(tmp_path: Path) -> None:
    sweep = Travelling("job: x\n", {"traits/a.json": b"{}"})
    for name in ("one", "two"):
        write_package(tmp_path / name, sweep)
    assert (tmp_path / "one").read_bytes() == (tmp_path / "two").read_bytes()
    with zipfile.ZipFile(tmp_path / "one") as archive:
        names = archive.namelist()
        assert archive.read(SPEC_NAME) == b"job: x\n"
    assert {
        "jobs/cli.py",
        "cluster/driver.py",
        "steering_core/engine.py",
        "steersweep/errors.py",
    } < set(names)
    assert {"jobs/demo/examples.json", "jobs/page/assets/page.css", "traits/a.json"} < set(names)
    tops = {name.partition("/")[0] for name in names}
    assert tops == {"jobs", "cluster", "steering_core", "steersweep", "traits", SPEC_NAME}
    assert not any("__pycache__" in name for name in names)
    assert (tmp_path / "one").stat().st_size < 4 * 2**20


def test_a_package_that_is_too_large_names_its_largest_file(tmp_path: Path) -> None:
    sweep = Travelling("job: x\n", {"traits/huge.json": bytes(3 * 2**20)})
    with pytest.raises(UserError, match=r"limit of 2\.0 MiB; its largest file is traits/huge"):
        write_package(tmp_path / "zip", sweep, 2 * 2**20)
    assert not (tmp_path / "zip").exists()


def test_jobs_are_named_by_their_output() -> None:
    one = job_name(StorageSpec("s3://bucket/a/gemma 2!"), new=False)
    assert one.startswith("steersweep-gemma-2-")
    assert one == job_name(StorageSpec("s3://bucket/a/gemma 2!/"), new=False)
    others = [
        job_name(StorageSpec("s3://bucket/b/gemma 2!"), new=False),
        job_name(StorageSpec("s3://bucket/a/gemma 2!", "http://store"), new=False),
        job_name(StorageSpec("s3://bucket/a/gemma 2!"), new=True),
    ]
    assert len({one, *others}) == 4


def test_ray_itself_is_left_to_the_cluster() -> None:
    names = {text.partition(">")[0] for text in requirements()}
    assert "transformers" in names
    assert not any(name.startswith(("ray", "pytest")) for name in names)


START = (
    "2026 INFO job_manager.py:1 -- Runtime env is setting up.\nRunning entrypoint for job j-1: x\n"
)
PIP = """runtime_env setup failed: Failed to set up runtime environment.
Traceback (most recent call last):
  File "agent.py", line 1, in _create
    raise SubprocessCalledProcessError(
ray._private.runtime_env.utils.SubprocessCalledProcessError: Run cmd[6] failed with the following
Command '['python', '-m', 'pip']' returned non-zero exit status 1.
Last 50 lines of stdout:
    Looking in links: /some/wheels
    ERROR: Could not find a version that satisfies the requirement nothing (from versions: none)
    ERROR: No matching distribution found for nothing
"""


class Server:
    """A job server that gives one answer after another, the last one for ever."""

    def __init__(self, *answers: tuple[str, str, int | None] | None, **more: Any) -> None:
        self._answers, self._more = list(answers), {"message": "", "error_type": None, **more}
        self._log = ""

    def job(self, job_id: str) -> Job:
        answer = self._answers[0]
        if len(self._answers) > 1:
            self._answers.pop(0)
        if answer is None:
            raise ServerAwayError("http://head:8265: no answer")
        status, self._log, exit_code = answer
        return Job(job_id, status, exit_code=exit_code, metadata={}, **self._more)

    def log(self, job_id: str) -> str:
        return self._log


def _follower(server: Any) -> tuple[Follower, list[str]]:
    shown: list[str] = []
    return Follower(server, "j-1", shown.append), shown


@pytest.fixture(autouse=True)
def no_sleep(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(follow.time, "sleep", lambda _: None)


def test_each_line_is_shown_once_until_a_replica_is_ready() -> None:
    running = [
        ("PENDING", "", None),
        ("RUNNING", START + "connecting to Ray ...\n2 repl", None),
        None,
        ("RUNNING", START + "connecting to Ray ...\n2 replicas on cpu\n", None),
        (
            "RUNNING",
            START + f"connecting to Ray ...\n2 replicas on cpu\n{REPLICA_IS_READY}\n",
            None,
        ),
    ]
    follower, shown = _follower(Server(*running))
    job = follower.until_healthy(follow.START_S)
    assert (job.is_ended, follower.is_healthy) == (False, True)
    assert shown == ["connecting to Ray ...", "2 replicas on cpu", REPLICA_IS_READY]


def test_a_start_that_takes_long_is_not_waited_for() -> None:
    follower, _ = _follower(Server(("PENDING", "", None)))
    assert follower.until_healthy(0.0).status == "PENDING"
    assert not follower.is_healthy


def test_a_server_that_is_gone_is_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(follow, "_AWAY_S", -1.0)
    follower, _ = _follower(Server(None))
    with pytest.raises(UserError, match="no answer; job j-1 keeps running"):
        follower.until_ended()


@pytest.mark.parametrize(
    ("log", "exit_code", "kind", "told"),
    [
        ("a\nerror: no such thing\n", 2, UserError, "no such thing"),
        ("warning: set aside: x\n", 1, ClusterError, "set aside: x"),
        (
            "Traceback (most recent call last):\n  File\nKeyError: 'x'\n",
            1,
            ClusterError,
            "KeyError: 'x'",
        ),
        ("ModuleNotFoundError: No module named 'typer'\n", 1, ClusterError, "submit with --pip"),
        ("sh: 1: exec: python: not found\n", 127, ClusterError, "no `python` on the PATH"),
        ("", 9, ClusterError, "the driver exited with code 9"),
    ],
)
def test_a_failed_driver_is_one_line(
    log: str, exit_code: int, kind: type[Exception], told: str
) -> None:
    follower, shown = _follower(Server(("FAILED", START + log, exit_code)))
    job = follower.until_ended()
    with pytest.raises(kind) as caught:
        follower.exit_code(job)
    assert type(caught.value) is kind
    assert str(caught.value).startswith("job j-1: ")
    assert told in str(caught.value)
    assert not any("error: " in line or "Traceback" in line for line in shown)


def test_an_environment_that_cannot_be_built_is_one_line() -> None:
    server = Server(("FAILED", "", None), message=PIP, error_type="RUNTIME_ENV_SETUP_FAILURE")
    follower, _ = _follower(server)
    with pytest.raises(UserError) as caught:
        follower.exit_code(follower.until_ended())
    assert str(caught.value) == (
        "job j-1: its environment cannot be built: ERROR: No matching distribution found for "
        "nothing"
    )


@pytest.mark.parametrize(
    ("status", "exit_code", "code"),
    [("SUCCEEDED", 0, 0), ("STOPPED", None, 130), ("FAILED", 143, 130)],
)
def test_exit_codes_are_those_of_a_run(status: str, exit_code: int | None, code: int) -> None:
    follower, _ = _follower(Server((status, START, exit_code)))
    assert follower.exit_code(follower.until_ended()) == code
