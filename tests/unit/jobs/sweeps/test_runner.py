"""The run loop with a job of the test's own: what is written when, and how each end is recorded."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Literal

import pyarrow as pa
import pytest
from pydantic import Field

from cluster.errors import StorageUnavailableError
from cluster.lease import Lease
from cluster.parts import check_part
from cluster.storage import Storage, StorageSpec
from cluster.storage.local import LocalStorage
from cluster.tasks import Pool, Receipt, Task, Worker, WorkerFactory
from jobs.results import Results
from jobs.spec import ComputeSpec, JobSpec, StorageOptions
from jobs.sweeps import runner
from jobs.sweeps.estimate import Estimate, PlanOptions
from jobs.sweeps.job import DriverPool, Files, Growth, Job, Replicas, StoredOutput, Workflow
from jobs.sweeps.parts import StoredParts
from jobs.sweeps.report import ReportOptions
from jobs.sweeps.session import DriverState
from jobs.sweeps.steps import Follow, Stage, Step
from steersweep.errors import StopRunError, UserError

COUNTING = Stage("counting", "rows")
ADDING = Stage("adding", "sums")
PAGE, PLAN, TOTAL = "report.html", "plan/plan.txt", "total/total.txt"


class TinySpec(JobSpec):
    job: Literal["tiny"] = "tiny"
    numbers: tuple[int, ...] = (1, 2)
    seed: int = 0
    compute: ComputeSpec = ComputeSpec(executor="in_process")
    storage: StorageOptions = StorageOptions()
    output: str = Field(min_length=1)


@dataclass(frozen=True)
class TinySweep:
    spec: TinySpec
    device: str = "cpu"

    def resolved_spec(self) -> dict[str, Any]:
        return self.spec.model_dump(mode="json")

    def identity(self) -> dict[str, Any]:
        return {"job": "tiny", "data.seed": self.spec.seed}


@dataclass
class Script:
    """What happens when, by the name of the moment; what a moment raises or does."""

    do: dict[str, Callable[[], Any]] = field(default_factory=dict)
    calls: list[str] = field(default_factory=list)
    driver_adds: bool = False
    settled: bool = True
    shows: bool = True

    def at(self, moment: str) -> None:
        self.calls.append(moment)
        if moment in self.do:
            self.do[moment]()


SCRIPT = Script()


@pytest.fixture(autouse=True)
def script() -> Script:
    """A new script for each test; workers find it, as they run in this process."""
    global SCRIPT
    SCRIPT = Script()
    return SCRIPT


def raises(error: BaseException) -> Callable[[], None]:
    def raise_it() -> None:
        raise error

    return raise_it


def interrupts() -> None:
    os.kill(os.getpid(), signal.SIGINT)


class Counter(Worker):
    """A row for each number; the sum of them all is a task that follows."""

    def load(self) -> Mapping[str, str]:
        SCRIPT.at("load")
        return {"device": "cpu"}

    def run(self, payload: Any) -> Mapping[str, pa.Table]:
        SCRIPT.at(f"run {payload}")
        table = "rows" if isinstance(payload, int) else "sums"
        return {table: pa.table({"value": [1 if isinstance(payload, str) else payload]})}


def make_worker() -> Worker:
    return Counter()


class TinyWorkflow(Workflow):
    def __init__(self, sweep: TinySweep, storage: Storage, files: Files) -> None:
        self._sweep, self._storage, self._files = sweep, storage, files
        self.stored = StoredParts(storage, ["rows/", "sums/"])
        self.is_settled = SCRIPT.settled
        SCRIPT.at("workflow")

    def steps(self) -> Iterable[Step]:
        tasks = [
            Task(f"n{n}", "p", 1.0, {"rows": f"rows/n{n}.parquet"}, n, num_items=1)
            for n in self._sweep.spec.numbers
        ]
        yield Step(COUNTING, "g", tasks, then=self._add)

    def _add(self) -> Follow:
        SCRIPT.at("add")
        pool = "driver" if SCRIPT.driver_adds else "p"
        ids = ".".join(str(n) for n in self._sweep.spec.numbers)
        parts = {"sums": f"sums/s{ids}.parquet"}
        task = Task(f"s{ids}", pool, 1.0, parts, "sum", num_items=1)
        yield Step(ADDING, "g", [task], then=self._total)

    def _total(self) -> Follow:
        SCRIPT.at("total")
        self._files.replace(TOTAL, b"total")
        return ()

    def totals(self) -> Mapping[Stage, int]:
        return {COUNTING: len(self._sweep.spec.numbers), ADDING: 1}

    def most_tasks(self) -> int:
        return 1

    def pools(self, replicas: Replicas) -> Sequence[Pool | DriverPool]:
        SCRIPT.at("pools")
        pool = Pool("p", WorkerFactory(f"{__name__}:make_worker"))
        return [pool, DriverPool("driver", Counter())] if SCRIPT.driver_adds else [pool]

    def check(self) -> None:
        SCRIPT.at("check")

    def planned(self) -> Mapping[str, Any]:
        return {"planned": 3}

    def write_plan(self) -> None:
        self._storage.replace(PLAN, b"plan")
        SCRIPT.at("write_plan")

    def done(self, task: Task, receipt: Receipt) -> None:
        SCRIPT.at(f"done {task.id}")

    def last_lines(self) -> Sequence[str]:
        SCRIPT.at("last_lines")
        return ["the last line"]

    def stop(self) -> None:
        SCRIPT.at("stop")


class TinyJob(Job[TinySpec, TinySweep, StoredOutput]):
    name = "tiny"
    spec_type = TinySpec
    owns = ("rows/", "sums/", "plan/", "total/")
    marker = "plan/"
    grows: ClassVar[Mapping[str, Growth]] = {"numbers": Growth("numbers")}

    def resolve(self, spec: TinySpec, device: str | None, output: StoredOutput | None) -> TinySweep:
        SCRIPT.at("resolve")
        return TinySweep(spec)

    def workflow(self, sweep: TinySweep, output: StoredOutput, files: Files) -> Workflow:
        return TinyWorkflow(sweep, output.storage, files)

    def report(self, output: StoredOutput, options: ReportOptions) -> Mapping[str, Any]:
        SCRIPT.at("report")
        output.storage.replace(PAGE, b"page")
        return {}

    def show(self, output: StoredOutput) -> bool:
        SCRIPT.at("show")
        return SCRIPT.shows

    def status(self, output: StoredOutput, driver: DriverState) -> Mapping[str, Any]:
        raise NotImplementedError

    def verify(self, output: StoredOutput, num_rows: int, seed: int) -> Mapping[str, Any]:
        raise NotImplementedError

    def plan(self, spec: TinySpec, options: PlanOptions) -> Estimate:
        raise NotImplementedError

    def results(self, output: StoredOutput) -> Results:
        raise NotImplementedError


@pytest.fixture
def storage(tmp_path: Path) -> Storage:
    return StorageSpec(str(tmp_path / "out")).open()


def run(storage: Storage, **changes: Any) -> int:
    return runner.run(TinyJob(), TinySpec(output=storage.uri, **changes))


def keys(storage: Storage) -> list[str]:
    """What an output holds but for logs and what every run leaves."""
    return sorted(entry.key for entry in storage.list() if not entry.key.startswith("log/"))


def record(storage: Storage) -> dict[str, Any]:
    return dict(json.loads(storage.read("run.json")))


def ending(storage: Storage) -> tuple[str, Any]:
    """How the last session ended, and why."""
    found = record(storage)
    assert found["outcome"] == found["sessions"][-1]["outcome"]
    assert found["ended"] is not None
    return found["outcome"], found["sessions"][-1].get("reason")


WHOLE = [
    "checked.parquet",
    PLAN,
    PAGE,
    "rows/n1.parquet",
    "rows/n2.parquet",
    "run.json",
    "sums/s1.2.parquet",
    TOTAL,
]


# -- a run and its resumption ---------------------------------------------------------------------


def test_a_run_does_everything_once_in_order_and_says_done(
    storage: Storage, script: Script, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(storage) == 0
    assert script.calls == [
        "resolve",
        "workflow",
        "check",
        "write_plan",
        "pools",
        "load",
        "run 1",
        "done n1",
        "run 2",
        "done n2",
        "add",
        "run sum",
        "done s1.2",
        "total",
        "stop",
        "report",
        "last_lines",
    ]
    assert keys(storage) == sorted(WHOLE)
    assert ending(storage) == ("done", None)
    session = record(storage)["sessions"][0]
    assert (session["planned"], session["rows_before"], session["set_aside"]) == (3, 0, [])
    assert "the last line" in capsys.readouterr().out


def test_a_finished_run_is_shown_without_a_trace(storage: Storage, script: Script) -> None:
    run(storage)
    before = {key: storage.read(key) for key in keys(storage)}
    script.calls.clear()
    assert run(storage) == 0
    assert script.calls == ["resolve", "workflow", "add", "total", "show"]
    assert {key: storage.read(key) for key in keys(storage)} == before


def test_a_finished_run_whose_report_is_lost_is_reported_without_a_new_session(
    storage: Storage, script: Script
) -> None:
    run(storage)
    script.calls.clear()
    script.shows = False
    assert run(storage) == 0
    assert script.calls[-2:] == ["show", "report"]
    assert len(record(storage)["sessions"]) == 1


@pytest.mark.parametrize("reason", ["not settled", "a file is lost", "the last session failed"])
def test_what_is_finished_but_not_written_down_is_claimed_and_reported(
    storage: Storage, script: Script, reason: str
) -> None:
    run(storage)
    if reason == "not settled":
        script.settled = False
    elif reason == "a file is lost":
        storage.replace(TOTAL, b"another total")
    else:
        storage.replace("run.json", storage.read("run.json").replace(b'"done"', b'"stopped"'))
    script.calls.clear()
    assert run(storage) == 0
    assert script.calls == ["resolve", "workflow", "add", "total", "write_plan", "report"]
    assert storage.read(TOTAL) == b"total"
    assert [session["outcome"] for session in record(storage)["sessions"]][1:] == ["done"]


def test_an_output_of_an_earlier_version_is_reported_and_never_written_to(
    storage: Storage, script: Script, monkeypatch: pytest.MonkeyPatch
) -> None:
    run(storage)
    before = record(storage)
    script.settled = False
    monkeypatch.setattr(TinyWorkflow, "is_read_only", True, raising=False)
    script.calls.clear()
    assert run(storage) == 0
    assert script.calls[-1] == "report"
    assert "write_plan" not in script.calls
    assert record(storage) == before


def test_a_grown_sweep_runs_what_is_new_and_counts_what_was_there(
    storage: Storage, script: Script
) -> None:
    run(storage)
    script.calls.clear()
    assert run(storage, numbers=(1, 2, 3)) == 0
    assert [call for call in script.calls if call.startswith("run")] == ["run 3", "run sum"]
    assert record(storage)["sessions"][1]["rows_before"] == 2


# -- nothing is written too early -----------------------------------------------------------------


@pytest.mark.parametrize("moment", ["resolve", "workflow", "check"])
def test_nothing_is_written_if_the_sweep_cannot_run(
    storage: Storage, script: Script, moment: str
) -> None:
    script.do[moment] = raises(UserError("no such layer"))
    with pytest.raises(UserError, match="no such layer"):
        run(storage)
    assert keys(storage) == []
    assert "stop" not in script.calls


def test_nothing_is_written_into_an_output_of_another_sweep(
    storage: Storage, script: Script
) -> None:
    run(storage)
    before = {key: storage.read(key) for key in keys(storage)}
    script.calls.clear()
    with pytest.raises(UserError, match=r"different sweep; changed: data\.seed: 0 -> 7"):
        run(storage, seed=7)
    with pytest.raises(UserError, match=r"changed: numbers: 2 is gone"):
        run(storage, numbers=(1,))
    assert script.calls == ["resolve"] * 2
    assert {key: storage.read(key) for key in keys(storage)} == before


def test_nothing_is_written_into_a_folder_of_something_else(
    storage: Storage, script: Script
) -> None:
    storage.replace("holiday.jpg", b"sea")
    with pytest.raises(UserError, match="not empty but holds no run"):
        run(storage)
    assert keys(storage) == ["holiday.jpg"]


def test_a_damaged_part_is_found_before_anything_is_written(
    storage: Storage, script: Script
) -> None:
    run(storage)
    storage.replace("rows/n1.parquet", b"PAR1 no more")
    before = {key: storage.read(key) for key in keys(storage)}
    with pytest.raises(UserError, match=r"rows/n1\.parquet"):
        run(storage, numbers=(1, 2, 3))
    assert {key: storage.read(key) for key in keys(storage)} == before


def test_the_record_is_written_first_then_the_plan_then_files(
    storage: Storage, script: Script, monkeypatch: pytest.MonkeyPatch
) -> None:
    run(storage)
    storage.delete(TOTAL)
    written: list[str] = []
    real_replace, real_if_version = LocalStorage.replace, LocalStorage.replace_if_version

    def replace(self: LocalStorage, key: str, data: bytes) -> None:
        written.append(key)
        real_replace(self, key, data)

    def replace_if_version(self: LocalStorage, key: str, data: bytes, version: str) -> bool:
        written.append(key)
        return real_if_version(self, key, data, version)

    monkeypatch.setattr(LocalStorage, "replace", replace)
    monkeypatch.setattr(LocalStorage, "replace_if_version", replace_if_version)
    run(storage)
    written = [key for key in written if key != "driver.lock"]
    assert written == ["run.json", "checked.parquet", PLAN, TOTAL, PAGE, "run.json"]


# -- files that wait ------------------------------------------------------------------------------


def test_files_wait_until_they_are_released(storage: Storage) -> None:
    files = Files(storage)
    assert files.is_empty
    files.replace("a", b"first")
    files.replace("a", b"second")
    files.replace("b", b"b")
    assert not files.is_empty
    assert keys(storage) == []
    files.release()
    assert (storage.read("a"), storage.read("b")) == (b"second", b"b")
    assert files.is_empty
    files.replace("c", b"at once")
    assert storage.read("c") == b"at once"


def test_waiting_files_are_forgotten_if_the_output_holds_the_same(storage: Storage) -> None:
    storage.replace("same", b"1")
    storage.replace("other", b"1")
    files = Files(storage)
    files.replace("same", b"1")
    files.settle()
    assert files.is_empty
    files.replace("other", b"2")
    files.replace("new", b"3")
    files.settle()
    assert not files.is_empty
    files.release()
    assert (storage.read("other"), storage.read("new")) == (b"2", b"3")
    files.settle()
    assert files.is_empty


# -- failed tasks ---------------------------------------------------------------------------------


@pytest.mark.parametrize("on_driver", [False, True])
def test_a_task_that_fails_for_good_is_set_aside_wherever_it_runs(
    storage: Storage, script: Script, on_driver: bool
) -> None:
    script.driver_adds = on_driver
    script.do["run sum"] = raises(ValueError("odd sum"))
    assert run(storage) == 1
    assert ending(storage) == ("failed tasks", None)
    (entry,) = record(storage)["sessions"][-1]["set_aside"]
    assert (entry["task_id"], entry["table"], entry["group"]) == ("s1.2", "sums", "g")
    assert "odd sum" in entry["reason"]
    assert "total" not in script.calls, "nothing follows from it"
    assert script.calls[-3:] == ["stop", "report", "last_lines"]
    del script.do["run sum"]
    assert run(storage) == 0
    assert ending(storage) == ("done", None)
    assert storage.read(TOTAL) == b"total"


def test_tasks_of_the_driver_leave_parts_as_those_of_replicas_do(
    storage: Storage, script: Script
) -> None:
    script.driver_adds = True
    assert run(storage) == 0
    assert check_part(storage, "sums/s1.2.parquet").task_id == "s1.2"
    assert script.calls.count("done s1.2") == 1
    assert ending(storage) == ("done", None)


def test_what_every_task_of_the_driver_would_meet_ends_the_run(
    storage: Storage, script: Script
) -> None:
    script.driver_adds = True
    script.do["run sum"] = raises(StopRunError("the judge's key is wrong"))
    with pytest.raises(UserError, match="the judge's key is wrong"):
        run(storage)
    assert ending(storage) == ("stopped", "the judge's key is wrong")
    assert "report" not in script.calls
    assert script.calls[-2:] == ["stop", "last_lines"]


# -- errors ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("moment", ["write_plan", "pools", "add", "total", "report"])
@pytest.mark.parametrize("error", [UserError("too few pairs"), StorageUnavailableError("full")])
def test_an_error_at_any_time_after_the_claim_is_in_the_record(
    storage: Storage, script: Script, moment: str, error: Exception
) -> None:
    script.do[moment] = raises(error)
    with pytest.raises(type(error), match=str(error)):
        run(storage)
    assert ending(storage) == ("stopped", str(error))
    assert script.calls[-1] == "last_lines"
    assert ("stop" in script.calls) == (moment not in ("write_plan", "pools"))
    assert "driver.lock" not in keys(storage)
    del script.do[moment]
    assert run(storage) == 0
    assert ending(storage) == ("done", None)
    assert keys(storage) == sorted(WHOLE)


def test_a_worker_that_stops_the_run_is_in_the_record_with_what_the_run_cost(
    storage: Storage, script: Script
) -> None:
    script.do["run 2"] = raises(StopRunError("other weights"))
    with pytest.raises(UserError, match="other weights"):
        run(storage)
    assert ending(storage) == ("stopped", "other weights")
    assert record(storage)["sessions"][-1]["attempts"] == 2
    assert script.calls[-2:] == ["stop", "last_lines"]


def test_an_error_of_the_report_of_a_finished_run_is_in_the_record(
    storage: Storage, script: Script
) -> None:
    run(storage)
    script.settled = False
    script.do["report"] = raises(UserError("summary/ is a file"))
    with pytest.raises(UserError, match="summary/ is a file"):
        run(storage)
    assert ending(storage) == ("stopped", "summary/ is a file")


# -- signals --------------------------------------------------------------------------------------


@pytest.fixture
def _signals_as_before() -> Any:
    """After a first signal its handlers stay, as the process should end."""
    numbers = (signal.SIGINT, signal.SIGTERM)
    before = [signal.getsignal(number) for number in numbers]
    yield
    for number, handler in zip(numbers, before, strict=True):
        signal.signal(number, handler)


@pytest.mark.usefixtures("_signals_as_before")
@pytest.mark.parametrize("moment", ["write_plan", "load", "run 2", "report"])
def test_an_interrupted_run_says_so_in_its_record_and_by_its_exit_code(
    storage: Storage, script: Script, moment: str
) -> None:
    script.do[moment] = interrupts
    assert run(storage) == 130
    assert ending(storage) == ("interrupted", None)
    assert script.calls[-1] == "last_lines"
    assert "driver.lock" not in keys(storage)
    assert ("rows/n1.parquet" in keys(storage)) == (moment in ("run 2", "report"))
    del script.do[moment]
    assert run(storage) == 0
    assert ending(storage) == ("done", None)
    assert keys(storage) == sorted(WHOLE)


# -- another driver -------------------------------------------------------------------------------


def test_a_driver_that_lost_its_lease_stops_and_leaves_the_record_to_the_other(
    storage: Storage, script: Script, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Lease, "is_lost", property(lambda _: "run 1" in script.calls))
    monkeypatch.setattr(Lease, "still_held", lambda _: False)
    with pytest.raises(UserError, match="another driver has taken over"):
        run(storage)
    assert record(storage)["outcome"] == "running"
    assert "report" not in script.calls
    assert script.calls[-2:] == ["stop", "last_lines"]


def test_an_output_that_another_driver_holds_is_left_alone(
    storage: Storage, script: Script, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Lease, "await_free", lambda *_, **__: None)
    lease = Lease.acquire(storage, "driver.lock")
    try:
        with pytest.raises(UserError, match="driver"):
            run(storage)
        assert keys(storage) == ["driver.lock"]
    finally:
        lease.release()
