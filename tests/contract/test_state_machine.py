"""Any order of start, commit, crash, freeze, late commit, second driver, clean-up, lost ledger.

After every step: each part is there once, whole, with the rows that were committed first; and what
says that a run is done is true.
"""

from __future__ import annotations

import itertools
import json
import os
import tempfile
import uuid
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from unittest import mock

import pyarrow as pa
import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    Bundle,
    RuleBasedStateMachine,
    invariant,
    multiple,
    precondition,
    rule,
    run_state_machine_as_test,
)

from cluster.errors import LeaseHeldError
from cluster.lease import Lease
from cluster.ledger import RECORD_KEY, Ledger
from cluster.parts import check_parts, commit_part, read_part
from cluster.storage import PutOutcome, Storage, StorageSpec
from cluster.storage.keys import temporary_name
from cluster.table_digest import table_digest
from steersweep.errors import UserError
from tests.support.s3 import BUCKET

LOCK = "driver.lock"
TASKS = [f"t{number}" for number in range(4)]


def key_of(task: str) -> str:
    return f"rows/{task}.parquet"


def rows_of(task: str, variant: int = 0) -> pa.Table:
    """The rows of a task; a variant is what only a bug or another machine would make of it."""
    return pa.table({"task": [task] * 3, "value": [1.0 * variant, float("nan"), -0.0]})


@dataclass(eq=False)
class Driver:
    """A driver as far as storage sees it."""

    lease: Lease
    ledger: Ledger
    done: set[str]
    "What it found when it started, and what was committed for it since."
    is_frozen: bool = False


@dataclass(frozen=True)
class Attempt:
    """Rows that some replica has computed, for a driver that may be gone by now."""

    driver: Driver
    task: str
    name: str
    table: pa.Table = field(repr=False)


class RunsOfOneOutput(RuleBasedStateMachine):
    """The model: which rows each part must hold, who drives, and what the record must say."""

    drivers = Bundle("drivers")
    attempts = Bundle("attempts")
    make_storage: Any = None

    def __init__(self) -> None:
        super().__init__()
        self.storage: Storage = type(self).make_storage()
        self.parts: dict[str, str] = {}
        self.holder: Driver | None = None
        self.record: str | None = None
        self.numbers = itertools.count()

    # -- drivers --------------------------------------------------------------------------------

    @rule(target=drivers, has_expired=st.booleans())
    def start(self, has_expired: bool) -> Any:
        """A driver starts; where another holds the lease, it is refused unless that has expired."""
        is_free = self.holder is None or (self.holder.is_frozen and has_expired)
        ledger = Ledger(self.storage)
        ledger.read_record()
        # Expired is what a lock is once its holder was silent for long enough.
        expiry = mock.patch("cluster.lease._refuse_if_held") if has_expired else mock.MagicMock()
        try:
            with expiry if is_free else mock.MagicMock():
                lease = Lease.acquire(self.storage)
        except LeaseHeldError as error:
            assert not is_free
            assert f"process {os.getpid()}" in str(error)
            return multiple()
        assert is_free, "two drivers at a time"
        ledger.write_record(record("running"))
        self.record = "running"
        if not ledger.read_manifest():
            ledger.append_manifest(pa.table({"task": TASKS}), 0, uuid.uuid4().hex)
        listed = {entry.key for entry in self.storage.list("rows/")}
        good, bad = check_parts(self.storage, {k: k[5:-8] for k in listed})
        assert not bad
        self.holder = Driver(lease, ledger, {key[5:-8] for key in good})
        return self.holder

    @rule(driver=drivers)
    def crash(self, driver: Driver) -> None:
        """SIGKILL: the lock stays, with the name of a process that is no more."""
        driver.lease._stop.set()
        if driver is self.holder:
            content = json.loads(self.storage.read(LOCK))
            self.storage.replace(LOCK, json.dumps({**content, "process_start": "1"}).encode())
            self.holder = None

    @rule(driver=drivers)
    def freeze(self, driver: Driver) -> None:
        """SIGSTOP: no renewals from here on."""
        driver.is_frozen = True

    @rule(driver=drivers)
    def wake(self, driver: Driver) -> None:
        """SIGCONT, longer than a lease later."""
        if driver.is_frozen and driver is self.holder:
            driver.is_frozen = False
        driver.lease._renewed_at -= 1000.0
        assert driver.lease.is_lost == (driver is not self.holder) or driver.lease._stop.is_set()

    @rule(driver=drivers)
    def finish(self, driver: Driver) -> None:
        """It writes the end of the run, where the run is still its own and everything is done."""
        if driver.lease._stop.is_set() or driver.done != set(TASKS):
            return
        may = driver is self.holder and self.record == "running" and self._has_record()
        try:
            driver.ledger.write_record(record("done"))
        except LeaseHeldError:
            assert not may
            return
        assert may, "a driver that was overtaken has written the end of a run"
        self.record = "done"
        driver.lease.release()
        self.holder = None

    # -- parts ----------------------------------------------------------------------------------

    @rule(
        target=attempts,
        driver=drivers,
        task=st.sampled_from(TASKS),
        variant=st.sampled_from([0, 0, 0, 1]),
    )
    def compute(self, driver: Driver, task: str, variant: int) -> Any:
        """A replica computes a task that its driver believes to be missing."""
        if task in driver.done:
            return multiple()
        return Attempt(driver, task, f"a{next(self.numbers)}", rows_of(task, variant))

    @rule(attempt=attempts)
    def commit(self, attempt: Attempt) -> None:
        """In time, late, again, for a driver that is gone: the first one stays."""
        key = key_of(attempt.task)
        digest = table_digest(attempt.table)
        receipt = commit_part(
            self.storage, key, attempt.table, task_id=attempt.task, attempt=attempt.name
        )
        first = self.parts.setdefault(key, digest)
        assert receipt.stored_digest == first
        assert (receipt.outcome is PutOutcome.LOST) == (digest != first)
        attempt.driver.done.add(attempt.task)

    @rule(attempt=attempts, has_linked=st.booleans(), share=st.floats(0, 1))
    def commit_killed(self, attempt: Attempt, has_linked: bool, share: float) -> None:
        """SIGKILL in a commit: before its last step, or behind it."""
        if self.storage.spec.is_s3:
            if has_linked:  # the store has it, and nobody hears of it
                self.commit(attempt)
                attempt.driver.done.discard(attempt.task)
            return
        root = Path(self.storage.uri)
        path = root / key_of(attempt.task)
        elsewhere = StorageSpec(f"{root}-scratch").open()
        commit_part(elsewhere, path.name, attempt.table, task_id=attempt.task, attempt=attempt.name)
        data = elsewhere.read(path.name)
        elsewhere.delete(path.name)
        path.parent.mkdir(parents=True, exist_ok=True)
        left = path.with_name(temporary_name(path.name, f"{attempt.name}.{uuid.uuid4().hex[:8]}"))
        left.write_bytes(data if has_linked else data[: int(share * len(data))])
        if has_linked and not path.exists():
            os.link(left, path)
            self.parts[key_of(attempt.task)] = table_digest(attempt.table)

    @rule()
    def clean_up(self) -> None:
        self.storage.clean_temporaries(0)

    @precondition(lambda self: self.record is not None)
    @rule()
    def lose_ledger(self) -> None:
        """Somebody deletes what tells of the run: no row depends on it."""
        self.storage.delete(RECORD_KEY)
        self.storage.delete("manifest/0000.parquet")
        self.record = None

    # -- what must hold -------------------------------------------------------------------------

    @invariant()
    def every_part_is_there_once_and_whole(self) -> None:
        listed = [entry.key for entry in self.storage.list("rows/")]
        assert listed == sorted(self.parts)
        for key, digest in self.parts.items():
            assert table_digest(read_part(self.storage, key, key[5:-8])) == digest

    @invariant()
    def the_record_tells_the_truth(self) -> None:
        found = Ledger(self.storage).read_record()
        assert (found and found["outcome"]) == self.record
        if self.record == "done":
            assert set(self.parts) == {key_of(task) for task in TASKS}

    @invariant()
    def the_lock_is_its_holders(self) -> None:
        if self.holder is not None:
            assert self.holder.lease.still_held()

    def _has_record(self) -> bool:
        return Ledger(self.storage).read_record() is not None

    def teardown(self) -> None:
        if self.holder is not None:
            self.holder.lease.release()


def record(outcome: str) -> dict[str, Any]:
    of_run = {"identity": {}, "spec": {}, "started": "now", "sessions": []}
    return {**of_run, "outcome": outcome, "number": uuid.uuid4().hex}


def run_machine(make_storage: Any, max_examples: int) -> None:
    machine = type("Machine", (RunsOfOneOutput,), {"make_storage": staticmethod(make_storage)})
    run_state_machine_as_test(  # type: ignore[no-untyped-call]
        machine,
        settings=settings(
            max_examples=max_examples,
            stateful_step_count=30,
            deadline=None,
            report_multiple_bugs=False,
            suppress_health_check=list(HealthCheck),
        ),
    )


def test_on_a_local_folder() -> None:
    with tempfile.TemporaryDirectory() as folder:
        run_machine(lambda: StorageSpec(f"{folder}/{uuid.uuid4().hex}").open(), max_examples=60)


@pytest.mark.parametrize("max_examples", [3, pytest.param(20, marks=pytest.mark.nightly)])
def test_on_s3(s3_endpoint: str, max_examples: int) -> None:
    run_machine(
        lambda: StorageSpec(f"s3://{BUCKET}/{uuid.uuid4().hex}").open(), max_examples=max_examples
    )


def test_the_machine_finds_a_commit_that_overwrites(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is tested can fail: with a put that ignores what is there, rows change."""

    def overwrite(self: Storage, key: str, data: bytes, **_: Any) -> PutOutcome:
        self.replace(key, data)
        return PutOutcome.WON

    monkeypatch.setattr("cluster.storage.local.LocalStorage.put_if_absent", overwrite)
    with tempfile.TemporaryDirectory() as folder, pytest.raises((AssertionError, UserError)):
        run_machine(lambda: StorageSpec(f"{folder}/{uuid.uuid4().hex}").open(), max_examples=60)
