"""The lease, on a local folder and on S3."""

import json
import os
import pickle
import re
import signal
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from cluster.errors import LeaseHeldError, StorageUnavailableError
from cluster.lease import Lease, LeaseContent
from cluster.processes import is_running, machine_id, process_start
from cluster.storage import Storage, StorageSpec, VersionedObject
from steersweep.errors import UserError

KEY = "driver.lock"

HOLD = """
    import sys, time
    from cluster.lease import Lease
    from cluster.storage import StorageSpec
    lease = Lease.acquire(StorageSpec(sys.argv[1]).open(), ttl_s=float(sys.argv[2]))
    print("held", flush=True)
    while not lease.is_lost:
        time.sleep(0.05)
    print("lost", flush=True)
"""


@pytest.fixture(params=["local", "s3"])
def storage(request: pytest.FixtureRequest, tmp_path: Path) -> Storage:
    if request.param == "local":
        return StorageSpec(str(tmp_path / "run")).open()
    return StorageSpec(request.getfixturevalue("s3_uri")).open()


def hold_in_another_process(storage: Storage, ttl_s: float = 60) -> subprocess.Popen[bytes]:
    process = subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(HOLD), storage.uri, str(ttl_s)],
        stdout=subprocess.PIPE,
        cwd=Path(__file__).parents[2],
    )
    assert process.stdout is not None
    assert process.stdout.readline() == b"held\n"
    return process


def write_lock(storage: Storage, **changes: Any) -> None:
    content = json.loads(LeaseContent.of_this_process().to_bytes())
    storage.replace(KEY, json.dumps({**content, **changes}).encode())


def wait_until(happened: Callable[[], bool], limit_s: float = 10) -> None:
    end = time.monotonic() + limit_s
    while not happened():
        assert time.monotonic() < end
        time.sleep(0.02)


def token_of(storage: Storage) -> str:
    return str(json.loads(storage.read(KEY))["token"])


class TestHolding:
    def test_acquire_and_release(self, storage: Storage) -> None:
        with Lease.acquire(storage) as lease:
            assert lease.still_held()
            content = json.loads(storage.read(KEY))
            assert content["pid"] == os.getpid()
            assert content["process_start"] == process_start(os.getpid()) is not None
            assert content["since"].endswith("+00:00")
            assert set(content) >= {"token", "host", "renewed"}
        assert not lease.still_held()
        assert not [*storage.list(KEY)]
        lease.release()
        with Lease.acquire(storage) as again:
            assert again.still_held()

    def test_released_after_an_error(self, storage: Storage) -> None:
        with pytest.raises(KeyError), Lease.acquire(storage):
            raise KeyError
        assert not [*storage.list(KEY)]

    def test_second_driver_is_refused(self, storage: Storage) -> None:
        started = time.monotonic()
        with hold_in_another_process(storage) as process:
            with pytest.raises(LeaseHeldError) as caught:
                Lease.acquire(storage)
            elapsed_s = time.monotonic() - started
            process.kill()
        message = str(caught.value)
        assert f"process {process.pid} on " in message
        assert storage.uri in message
        assert "since 20" in message
        renewed = re.search(r"renewed (\d+) s ago", message)
        assert renewed is not None
        assert int(renewed[1]) <= elapsed_s + 1  # S3 stamps whole seconds
        assert "stop it" in message
        assert "\n" not in message

    def test_renewed_in_the_background(self, storage: Storage) -> None:
        with Lease.acquire(storage, ttl_s=0.6) as lease:
            first = json.loads(storage.read(KEY))
            wait_until(lambda: json.loads(storage.read(KEY))["renewed"] > first["renewed"])
            later = json.loads(storage.read(KEY))
            assert {**later, "renewed": ""} == {**first, "renewed": ""}
            assert lease.still_held()

    def test_no_renewal_after_release(self, storage: Storage) -> None:
        lease = Lease.acquire(storage, ttl_s=0.06)
        lease.release()
        time.sleep(0.1)
        assert not [*storage.list(KEY)]


class TestTakingOver:
    def test_from_a_killed_driver_at_once(self, storage: Storage) -> None:
        with hold_in_another_process(storage) as process:
            process.kill()
            # Not waited for yet: a zombie has its id still, and counts as dead.
            wait_until(lambda: not is_running(process.pid, None))
            with Lease.acquire(storage) as lease:
                assert lease.still_held()

    def test_from_a_driver_frozen_for_longer_than_its_lease(self, storage: Storage) -> None:
        with hold_in_another_process(storage, ttl_s=1.5) as process:
            try:
                process.send_signal(signal.SIGSTOP)
                with pytest.raises(LeaseHeldError, match=f"process {process.pid} on"):
                    Lease.acquire(storage, ttl_s=60)
                time.sleep(3)  # S3 stamps whole seconds
                with Lease.acquire(storage, ttl_s=1.5) as lease:
                    process.send_signal(signal.SIGCONT)
                    assert process.stdout is not None
                    assert process.stdout.readline() == b"lost\n"
                    assert lease.still_held()
            finally:
                process.kill()

    def test_a_replica_finds_the_lock_of_its_driver_only(
        self, storage: Storage, tmp_path: Path
    ) -> None:
        with Lease.acquire(storage) as lease:
            pickle.loads(pickle.dumps(lease.token)).require_in(storage)
            # The same path on a node that does not share it: nothing, or an older run's lock.
            elsewhere = StorageSpec(str(tmp_path / "elsewhere")).open()
            with pytest.raises(UserError, match="that all nodes share"):
                lease.token.require_in(elsewhere)
            write_lock(elsewhere, token="older")
            with pytest.raises(UserError, match="that all nodes share"):
                lease.token.require_in(elsewhere)

    def test_from_a_reused_pid(self, storage: Storage) -> None:
        write_lock(storage, process_start="1")
        with Lease.acquire(storage) as lease:
            assert lease.still_held()

    def test_without_a_start_time_the_pid_counts(self, storage: Storage) -> None:
        write_lock(storage, process_start=None)
        with pytest.raises(LeaseHeldError):
            Lease.acquire(storage)

    @pytest.mark.parametrize("elsewhere", [{"machine": "other"}, {"machine": "x", "host": "h"}])
    def test_from_another_machine_when_it_is_old(
        self, storage: Storage, elsewhere: dict[str, str]
    ) -> None:
        """A pid says nothing there, even under the same host name."""
        write_lock(storage, pid=2**30, renewed="2001-01-01T00:00:00+00:00", **elsewhere)
        with pytest.raises(LeaseHeldError, match=f"process {2**30} on"):
            Lease.acquire(storage)
        time.sleep(1.1)  # S3 stamps whole seconds
        with Lease.acquire(storage, ttl_s=0.5) as lease:
            assert lease.still_held()

    def test_a_lock_of_another_machine_is_waited_for_until_it_runs_out(
        self, storage: Storage, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """As by a driver that is started again after the loss of its node."""
        write_lock(storage, machine="other")
        content = storage.read(KEY)
        read, ages, told = storage.read_versioned, iter([5.0, 30.0, 59.0, 61.0]), list[str]()
        monkeypatch.setattr(
            storage, "read_versioned", lambda key: replace(read(key), age_s=next(ages))
        )
        slept: list[float] = []
        monkeypatch.setattr("cluster.lease.time.sleep", slept.append)
        Lease.await_free(storage, on_wait=told.append)
        assert len(told) == 1 and "another driver holds" in told[0] and "5 s ago" in told[0]
        assert slept == [2.0, 2.0, 2.0]
        assert next(ages, None) is None
        assert storage.read(KEY) == content

    def test_a_lock_that_is_renewed_or_held_here_is_not_waited_for(self, storage: Storage) -> None:
        write_lock(storage, machine="other")

        def renew(_told: str) -> None:
            write_lock(storage, machine="other")

        with pytest.raises(LeaseHeldError, match="another driver holds"):
            Lease.await_free(storage, ttl_s=60, on_wait=renew)
        write_lock(storage)
        with pytest.raises(LeaseHeldError, match="another driver holds"):
            Lease.await_free(storage, on_wait=lambda told: pytest.fail(told))

    @pytest.mark.parametrize("content", [b"", b"not json", b"[]", b'{"pid": 1}'])
    def test_from_a_lock_that_says_nothing(self, storage: Storage, content: bytes) -> None:
        storage.replace(KEY, content)
        with pytest.raises(LeaseHeldError, match="unknown driver"):
            Lease.acquire(storage)
        if content == b"":
            time.sleep(1.1)  # S3 stamps whole seconds
            with Lease.acquire(storage, ttl_s=0.5) as lease:
                assert lease.still_held()

    @pytest.mark.parametrize("stale", [False, True])
    def test_one_of_many_contenders_gets_it(self, storage: Storage, stale: bool) -> None:
        """On S3 the test server puts one at a time: moto alone lets two writers win."""
        num_contenders = 8
        barrier = threading.Barrier(num_contenders)

        def contend(_: int) -> Lease | None:
            barrier.wait()
            try:
                return Lease.acquire(storage)
            except LeaseHeldError:
                return None

        for _ in range(5):
            if stale:
                write_lock(storage, token="stale", process_start="1")
            with ThreadPoolExecutor(num_contenders) as pool:
                won = [lease for lease in pool.map(contend, range(num_contenders)) if lease]
            assert len(won) == 1
            assert won[0].still_held()
            won[0].release()
            assert list(storage.list()) == []


class TestLosing:
    def test_token_of_another_is_noticed(self, storage: Storage) -> None:
        with Lease.acquire(storage, ttl_s=0.3) as lease:
            write_lock(storage, token="other")
            assert not lease.still_held()
            wait_until(lambda: lease.is_lost)
        # Neither renewing nor releasing touches what another holds.
        assert token_of(storage) == "other"

    def test_renewal_notices_without_being_asked(self, storage: Storage) -> None:
        with Lease.acquire(storage, ttl_s=0.3) as lease:
            write_lock(storage, token="other")
            wait_until(lambda: lease.is_lost)
            assert not lease.still_held()

    def test_taken_over_while_releasing(
        self, storage: Storage, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        lease = Lease.acquire(storage)
        real = storage.read_versioned

        def read_then_lose(key: str) -> VersionedObject:
            found = real(key)
            write_lock(storage, token="other")
            return found

        monkeypatch.setattr(storage, "read_versioned", read_then_lose)
        lease.release()
        assert token_of(storage) == "other"

    def test_deleted_lock_is_lost(self, storage: Storage) -> None:
        with Lease.acquire(storage, ttl_s=0.3) as lease:
            storage.delete(KEY)
            wait_until(lambda: lease.is_lost)
        assert not [*storage.list(KEY)]

    def test_store_that_is_away_for_a_while(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        storage = StorageSpec(str(tmp_path)).open()
        num_failed = 0

        def away(key: str) -> None:
            nonlocal num_failed
            num_failed += 1
            raise StorageUnavailableError("away")

        with Lease.acquire(storage, ttl_s=0.12) as lease:
            first = storage.read(KEY)
            with monkeypatch.context() as patch:
                patch.setattr(storage, "read_versioned", away)
                wait_until(lambda: num_failed > 2)
                with pytest.raises(StorageUnavailableError):
                    lease.still_held()
            assert not lease.is_lost
            wait_until(lambda: storage.read(KEY) != first)
            monkeypatch.setattr(storage, "read_versioned", away)
        assert token_of(storage)  # not deleted, and no error


class TestProcesses:
    def test_this_process_runs(self) -> None:
        pid = os.getpid()
        assert is_running(pid, process_start(pid))
        assert is_running(pid, None)
        assert not is_running(pid, "1")

    def test_missing_process(self) -> None:
        assert process_start(2**30) is None
        assert not is_running(2**30, None)

    def test_without_proc(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("cluster.processes._text", lambda path: "")
        assert is_running(os.getpid(), "1")
        assert not is_running(2**30, "1")

    def test_name_with_spaces_and_brackets(self, monkeypatch: pytest.MonkeyPatch) -> None:
        rest = " ".join(["S", *(str(number) for number in range(4, 30))])
        monkeypatch.setattr("cluster.processes._text", lambda path: f"1 (a) b (c)) {rest}")
        assert process_start(1) == "22"

    def test_machine_is_the_same_in_a_child(self) -> None:
        code = "from cluster.processes import machine_id; print(machine_id())"
        root = Path(__file__).parents[2]
        child = subprocess.run(
            [sys.executable, "-c", code], check=True, cwd=root, capture_output=True, text=True
        )
        assert child.stdout.strip() == machine_id()
