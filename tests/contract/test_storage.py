"""What every storage must keep, run against a local folder, a real S3 server, and a toy in memory
that shows what a new storage has to do."""

import errno
import hashlib
import os
import pickle
import random
import signal
import socket
import subprocess
import sys
import textwrap
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from datetime import datetime, timedelta, tzinfo
from pathlib import Path
from typing import Any, Self

import pytest
from botocore.exceptions import (
    ClientError,
    ConnectionClosedError,
    EndpointConnectionError,
    FlexibleChecksumError,
    IncompleteReadError,
    ReadTimeoutError,
)

from cluster.errors import ObjectNotFoundError, StorageUnavailableError, TransientStorageError
from cluster.storage import PutOutcome, Storage, StorageSpec, StoredObject, files
from cluster.storage import s3 as s3_module
from cluster.storage.base import registered
from cluster.storage.local import LocalStorage
from cluster.storage.s3 import S3Storage
from steersweep.errors import UserError
from tests.support.memory_storage import MEMORY, MemoryStorage
from tests.support.s3 import BUCKET, Fault, S3Server

WON, ALREADY_SAME, LOST = PutOutcome.WON, PutOutcome.ALREADY_SAME, PutOutcome.LOST


@pytest.fixture(params=["local", "s3", "memory"])
def storage(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Storage]:
    with registered("memory", MEMORY):
        if request.param == "local":
            yield StorageSpec(str(tmp_path / "deep" / "run")).open()
        elif request.param == "s3":
            yield StorageSpec(request.getfixturevalue("s3_uri")).open()
        else:
            yield StorageSpec(f"memory://{tmp_path}/run").open()


@pytest.fixture
def local(tmp_path: Path) -> Storage:
    return StorageSpec(str(tmp_path / "run")).open()


@pytest.fixture
def s3(s3_uri: str) -> S3Storage:
    storage = StorageSpec(s3_uri).open()
    assert isinstance(storage, S3Storage)
    return storage


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(s3_module, "PATIENCE_S", 1.0)


def put(storage: Storage, key: str, data: bytes, attempt: str = "a1") -> PutOutcome:
    digest = hashlib.sha256(data).hexdigest()
    return storage.put_if_absent(key, data, attempt=attempt, digest=digest)


def keys(storage: Storage, prefix: str = "") -> list[str]:
    return [found.key for found in storage.list(prefix)]


def everything_below(storage: Storage) -> set[str]:
    """Return every name below the root, temporary ones too."""
    if isinstance(storage, S3Storage):
        return {entry.key for entry in storage._list_all("")}
    if isinstance(storage, MemoryStorage):
        return {*keys(storage)}
    root = Path(storage.uri)
    return {p.relative_to(root).as_posix() for p in root.rglob("*") if p.is_file()}


class TestContract:
    def test_empty_root(self, storage: Storage) -> None:
        assert keys(storage) == []
        storage.delete("a")
        assert storage.clean_temporaries(0) == 0

    def test_missing_object(self, storage: Storage) -> None:
        for access in (
            storage.read,
            storage.read_versioned,
            lambda key: storage.read_tail(key, 4),
        ):
            with pytest.raises(ObjectNotFoundError, match="x/missing"):
                access("x/missing")

    def test_put_and_read(self, storage: Storage) -> None:
        key = "steered/model=m/split=intra sentence/bias_type=gender/ü.parquet"
        data = os.urandom(200_000)
        assert put(storage, key, data) is WON
        assert storage.read(key) == data
        assert storage.read_versioned(key).data == data
        assert storage.read_tail(key, 1000) == data[-1000:]
        assert storage.read_tail(key, 10**6) == data
        assert keys(storage) == [key]
        assert everything_below(storage) == {key}

    def test_second_put_changes_nothing(self, storage: Storage) -> None:
        assert put(storage, "k", b"first", "a1") is WON
        assert put(storage, "k", b"first", "a2") is ALREADY_SAME
        assert put(storage, "k", b"other", "a3") is LOST
        assert storage.read("k") == b"first"
        assert everything_below(storage) == {"k"}

    def test_repeat_by_the_same_attempt_is_not_lost(self, storage: Storage) -> None:
        put(storage, "k", b"first", "a1")
        assert put(storage, "k", b"first", "a1") in (WON, ALREADY_SAME)

    def test_empty_object(self, storage: Storage) -> None:
        assert put(storage, "k", b"") is WON
        assert storage.read("k") == b""
        assert storage.read_tail("k", 10) == b""

    def test_list_is_sorted_recursive_and_by_prefix(self, storage: Storage) -> None:
        names = ["a-b", "a/b/c", "a/b0", "a0", "b/x"]
        for name in reversed(names):
            put(storage, name, name.encode())
        assert list(storage.list()) == [StoredObject(n, len(n)) for n in names]
        assert keys(storage, "a/") == ["a/b/c", "a/b0"]
        assert keys(storage, "a/b") == ["a/b/c", "a/b0"]
        assert keys(storage, "a/b/") == ["a/b/c"]
        assert keys(storage, "nothing/here") == []

    def test_list_leaves_out_neighbours_of_the_root(self, storage: Storage) -> None:
        put(storage, "k", b"")
        put(StorageSpec(storage.uri + "-2").open(), "other", b"")
        assert keys(storage) == ["k"]

    def test_replace(self, storage: Storage) -> None:
        storage.replace("k", b"one")
        storage.replace("k", b"two")
        assert storage.read("k") == b"two"
        assert everything_below(storage) == {"k"}

    def test_delete(self, storage: Storage) -> None:
        put(storage, "k", b"one")
        storage.delete("k")
        assert keys(storage) == []
        assert put(storage, "k", b"two", "a2") is WON

    def test_replace_if_version(self, storage: Storage) -> None:
        put(storage, "k", b"one")
        version = storage.read_versioned("k").version
        assert storage.replace_if_version("k", b"two", version)
        assert not storage.replace_if_version("k", b"three", version)
        assert not storage.replace_if_version("missing/k", b"three", version)
        assert storage.read("k") == b"two"
        assert everything_below(storage) == {"k"}

    def test_delete_if_version(self, storage: Storage) -> None:
        put(storage, "k", b"one")
        old = storage.read_versioned("k").version
        storage.replace("k", b"two")
        assert not storage.delete_if_version("k", old)
        assert storage.read("k") == b"two"
        assert storage.delete_if_version("k", storage.read_versioned("k").version)
        assert not storage.delete_if_version("k", old)
        assert everything_below(storage) == set()

    def test_age_is_of_the_last_write(self, storage: Storage) -> None:
        put(storage, "k", b"one")
        time.sleep(1.1)  # S3 stamps whole seconds
        assert 1 <= storage.read_versioned("k").age_s < 10
        storage.replace("k", b"two")
        assert storage.read_versioned("k").age_s < 1

    def test_age_ignores_the_clock_of_this_machine(
        self, storage: Storage, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        put(storage, "k", b"one")

        class Ahead(datetime):
            @classmethod
            def now(cls, tz: tzinfo | None = None) -> Self:
                return super().now(tz) + timedelta(minutes=10)

        monkeypatch.setattr(s3_module, "datetime", Ahead)
        real = time.time
        if not isinstance(storage, S3Storage):  # the S3 server is in this process too
            monkeypatch.setattr(time, "time", lambda: real() + 600)
        assert storage.read_versioned("k").age_s < 10

    @pytest.mark.parametrize(
        "key", ["", "/a", "a/", "a//b", "../a", "a/../b", "./a", "a/.", "a\\b", "a\0b", ".a.b.tmp"]
    )
    def test_invalid_keys(self, storage: Storage, key: str) -> None:
        actions: list[Callable[[], Any]] = [
            lambda: storage.read(key),
            lambda: storage.read_tail(key, 1),
            lambda: storage.read_versioned(key),
            lambda: put(storage, key, b""),
            lambda: storage.replace(key, b""),
            lambda: storage.replace_if_version(key, b"", ""),
            lambda: storage.delete(key),
            lambda: storage.delete_if_version(key, ""),
        ]
        for action in actions:
            with pytest.raises(ValueError, match="key must"):
                action()
        with pytest.raises(ValueError, match="attempt"):
            put(storage, "k", b"", "../x")
        with pytest.raises(ValueError, match="key must"):
            storage.list("../a")

    def test_checks_leave_nothing(self, storage: Storage) -> None:
        storage.check_reachable()
        storage.check_writable()
        assert everything_below(storage) == set()
        assert not Path(storage.uri).exists()
        put(storage, "k", b"one")
        storage.check_writable()
        assert everything_below(storage) == {"k"}

    def test_temporaries_are_not_listed_and_cleaned_by_age(self, storage: Storage) -> None:
        if isinstance(storage, MemoryStorage):
            pytest.skip("it writes no temporary object that a killed process could leave")
        put(storage, "d/k", b"one")
        if isinstance(storage, S3Storage):
            storage._put("d/.k.a1.tmp", b"part", {})
        else:
            (Path(storage.uri) / "d/.k.a1.tmp").write_bytes(b"part")
        assert keys(storage) == ["d/k"]
        assert storage.clean_temporaries(3600) == 0
        time.sleep(1.1)  # S3 stamps whole seconds
        assert storage.clean_temporaries(0.5) == 1
        assert everything_below(storage) == {"d/k"}

    def test_survives_pickling(self, storage: Storage) -> None:
        put(storage, "k", b"one")
        again = pickle.loads(pickle.dumps(storage))
        assert again.spec == storage.spec
        assert again.read("k") == b"one"
        assert b"client" not in pickle.dumps(storage)

    def test_one_of_eight_writers_wins(self, storage: Storage) -> None:
        """On S3 the test server puts one at a time: moto alone lets two writers win."""
        num_writers, num_keys = 8, 12
        barrier = threading.Barrier(num_writers)

        def write(writer: int) -> list[PutOutcome]:
            outcomes = []
            for number in range(num_keys):
                barrier.wait()
                data = f"writer {writer} ".encode() * 1000
                outcomes.append(put(storage, f"c/{number}", data, f"w{writer}"))
            return outcomes

        with ThreadPoolExecutor(num_writers) as pool:
            outcomes = list(pool.map(write, range(num_writers)))
        for number in range(num_keys):
            of_key = [of_writer[number] for of_writer in outcomes]
            assert Counter(of_key) == {WON: 1, LOST: num_writers - 1}
            expected = f"writer {of_key.index(WON)} ".encode() * 1000
            assert storage.read(f"c/{number}") == expected
        assert len(everything_below(storage)) == num_keys

    def test_one_of_eight_replaces_a_version(self, storage: Storage) -> None:
        num_writers = 8
        barrier = threading.Barrier(num_writers)
        storage.replace("k", b"start")
        for turn in range(6):
            version = storage.read_versioned("k").version

            def swap(writer: int, version: str = version, turn: int = turn) -> bool:
                barrier.wait()
                return storage.replace_if_version("k", b"%d of %d" % (writer, turn), version)

            with ThreadPoolExecutor(num_writers) as pool:
                swapped = list(pool.map(swap, range(num_writers)))
            assert swapped.count(True) == 1
            assert storage.read("k") == b"%d of %d" % (swapped.index(True), turn)


class TestOpen:
    def test_schemes(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.chdir(tmp_path)
        assert StorageSpec("out/x/").uri == str(tmp_path / "out/x")
        assert StorageSpec("file:///a%20b/c").uri == "/a b/c"
        assert StorageSpec("s3://bucket/a/b/").uri == "s3://bucket/a/b"
        assert StorageSpec("s3://bucket").uri == "s3://bucket"
        assert isinstance(StorageSpec("out").open(), LocalStorage)
        assert isinstance(StorageSpec("S3://bucket/x").open(), S3Storage)
        assert pickle.loads(pickle.dumps(StorageSpec("out", None, "x"))) == StorageSpec(
            str(tmp_path / "out"), None, "x"
        )

    @pytest.mark.parametrize(
        "uri",
        ["", "gs://b/x", "http://h/x", "s3://", "s3://b//x", "s3://bucket/../x", "file://host/x"],
    )
    def test_refused(self, uri: str) -> None:
        with pytest.raises(UserError) as caught:
            StorageSpec(uri).open()
        assert "\n" not in str(caught.value)

    def test_credentials_in_the_uri_are_refused_and_not_repeated(self) -> None:
        for make in (
            lambda: StorageSpec("s3://key:hunter2@bucket/x"),
            lambda: StorageSpec("s3://bucket/x", "http://key:hunter2@host:9000"),
        ):
            with pytest.raises(UserError) as caught:
                make()
            assert "hunter2" not in str(caught.value)

    def test_local_needs_no_boto3(self) -> None:
        code = (
            "import sys, cluster.storage as s; s.StorageSpec('/x').open();"
            "assert not {'boto3', 'pyarrow', 'ray'} & set(sys.modules)"
        )
        subprocess.run([sys.executable, "-c", code], check=True, cwd=Path(__file__).parents[2])


class TestLocal:
    @pytest.mark.parametrize("below", ["file", "file/deeper/still"])
    def test_root_at_or_below_a_file(self, tmp_path: Path, below: str) -> None:
        (tmp_path / "file").write_text("")
        storage = StorageSpec(str(tmp_path / below)).open()
        for action in (
            storage.check_writable,
            storage.check_reachable,
            lambda: put(storage, "k", b""),
            lambda: storage.replace("k", b""),
        ):
            with pytest.raises(StorageUnavailableError, match="not a folder") as caught:
                action()
            assert "\n" not in str(caught.value)
        assert [p.name for p in tmp_path.rglob("*")] == ["file"]

    @pytest.mark.skipif(os.geteuid() == 0, reason="root writes to read-only folders")
    def test_read_only_folder(self, tmp_path: Path) -> None:
        tmp_path.chmod(0o555)
        try:
            with pytest.raises(StorageUnavailableError, match="permission"):
                StorageSpec(str(tmp_path / "run")).open().check_writable()
        finally:
            tmp_path.chmod(0o755)

    def test_read_only_file_system(self, monkeypatch: pytest.MonkeyPatch, local: Storage) -> None:
        def refuse(*args: Any, **kwargs: Any) -> int:
            raise OSError(errno.EROFS, "Read-only file system")

        monkeypatch.setattr(os, "open", refuse)
        with pytest.raises(StorageUnavailableError, match="read-only"):
            local.check_writable()

    @pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT])
    def test_full_disk_leaves_nothing(
        self, monkeypatch: pytest.MonkeyPatch, local: Storage, number: int
    ) -> None:
        put(local, "d/old", b"old")

        def full(fd: int) -> None:
            raise OSError(number, "full")

        monkeypatch.setattr(os, "fsync", full)
        for action in (
            lambda: put(local, "d/new", b"new"),
            lambda: local.replace("d/old", b"new"),
            local.check_writable,
        ):
            with pytest.raises(StorageUnavailableError, match="disk"):
                action()
        monkeypatch.undo()
        assert everything_below(local) == {"d/old"}
        assert local.read("d/old") == b"old"

    def test_no_hard_links(self, monkeypatch: pytest.MonkeyPatch, local: Storage) -> None:
        def refuse(*args: Any, **kwargs: Any) -> None:
            raise OSError(errno.EPERM, "Operation not permitted")

        monkeypatch.setattr(os, "link", refuse)
        for action in (lambda: put(local, "k", b""), local.check_writable):
            with pytest.raises(StorageUnavailableError, match="no hard links"):
                action()
        assert everything_below(local) == set()

    def test_lost_reply_to_a_link(self, monkeypatch: pytest.MonkeyPatch, local: Storage) -> None:
        """A network file system repeats a link whose reply was lost and finds its own."""
        real = os.link

        def link_twice(*args: Any, **kwargs: Any) -> None:
            real(*args, **kwargs)
            real(*args, **kwargs)

        monkeypatch.setattr(os, "link", link_twice)
        assert put(local, "k", b"data") is WON

    def test_lock_on_a_removed_guard_does_not_count(
        self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
    ) -> None:
        """Between our opening the guard and our lock, its holder removes it and another comes."""
        path, other = tmp_path / ".k.guard.tmp", ExitStack()
        real, steps = files._lock, []

        def lock(fd: int) -> bool:
            steps.append("lock")
            if len(steps) == 1:
                path.unlink()
                with monkeypatch.context() as patch:
                    patch.setattr(files, "_lock", real)
                    other.enter_context(files.guard(path))
            elif len(steps) == 3:
                steps.append("other leaves")
                other.close()
            return real(fd)

        monkeypatch.setattr(files, "_lock", lock)
        with files.guard(path):
            assert "other leaves" in steps
        assert not path.exists()

    def test_folders_are_not_writable_by_the_world(self, local: Storage) -> None:
        old = os.umask(0)
        try:
            put(local, "a/b/k", b"")
        finally:
            os.umask(old)
        root = Path(local.uri)
        for path in (root, *root.rglob("*")):
            assert path.stat().st_mode & 0o002 == 0

    def test_data_is_synced_before_it_is_linked(
        self, monkeypatch: pytest.MonkeyPatch, local: Storage
    ) -> None:
        put(local, "d/other", b"")
        steps: list[str] = []
        for name in ("fsync", "link", "unlink"):
            real = getattr(os, name)

            def note(*args: Any, name: str = name, real: Any = real, **kwargs: Any) -> Any:
                steps.append(name)
                return real(*args, **kwargs)

            monkeypatch.setattr(os, name, note)
        put(local, "d/k", b"data")
        assert steps == ["fsync", "link", "fsync", "unlink"]


CRASH_AT_STEP = """
    import os, signal, sys
    root, name, when = sys.argv[1:]
    real = getattr(os, name)
    def crash(*args, **kwargs):
        if when == "after":
            real(*args, **kwargs)
        os.kill(os.getpid(), signal.SIGKILL)
    from cluster.storage import StorageSpec
    storage = StorageSpec(root).open()
    setattr(os, name, crash)
    storage.put_if_absent("k", b"x" * 5000000, attempt="a1", digest="d")
"""

COMMIT_FOR_EVER = """
    import hashlib, itertools, sys
    from cluster.storage import StorageSpec
    storage = StorageSpec(sys.argv[1]).open()
    print("ready", flush=True)
    for number in itertools.count():
        data = bytes([number % 256]) * 3000000
        digest = hashlib.sha256(data).hexdigest()
        storage.put_if_absent(f"d/{number}-{digest}", data, attempt=sys.argv[2], digest=digest)
"""


def start(code: str, *args: str) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(code), *args],
        stdout=subprocess.PIPE,
        cwd=Path(__file__).parents[2],
    )


class TestKilledLocalCommit:
    @pytest.mark.parametrize("when", ["before", "after"])
    @pytest.mark.parametrize("step", ["fsync", "link", "unlink"])
    def test_killed_at_each_step(self, tmp_path: Path, step: str, when: str) -> None:
        (tmp_path / "run").mkdir()
        storage = StorageSpec(str(tmp_path / "run")).open()
        with start(CRASH_AT_STEP, storage.uri, step, when) as process:
            assert process.wait() == -signal.SIGKILL
        committed = (step, when) in {("link", "after"), ("unlink", "before"), ("unlink", "after")}
        assert keys(storage) == (["k"] if committed else [])
        data = b"x" * 5_000_000
        assert put(storage, "k", data, "a2") is (ALREADY_SAME if committed else WON)
        assert storage.read("k") == data
        storage.clean_temporaries(0)
        assert everything_below(storage) == {"k"}

    def test_killed_at_any_moment(self, tmp_path: Path) -> None:
        """Twenty-four kills: whatever has a final name is whole."""
        rng = random.Random(0)
        num_whole = num_temporaries = 0
        for number in range(24):
            storage = StorageSpec(str(tmp_path / str(number))).open()
            with start(COMMIT_FOR_EVER, storage.uri, f"a{number}") as process:
                assert process.stdout is not None
                assert process.stdout.readline() == b"ready\n"
                time.sleep(rng.uniform(0.005, 0.05))
                process.kill()
            for key in keys(storage):
                assert hashlib.sha256(storage.read(key)).hexdigest() == key.rpartition("-")[2]
                num_whole += 1
            num_temporaries += len(everything_below(storage)) - len(keys(storage))
            storage.clean_temporaries(0)
            assert everything_below(storage) == set(keys(storage))
        # Otherwise the kills came before or between the commits and prove nothing.
        assert num_whole > 0
        assert num_temporaries > 0


class LossyClient:
    """A client that does the first put and then loses the reply, in one of two ways."""

    def __init__(self, client: Any, *, repeats_inside: bool) -> None:
        self._client = client
        self._repeats_inside = repeats_inside
        self.num_lost = 0

    def __getattr__(self, name: str) -> Any:
        return getattr(self._client, name)

    def put_object(self, **request: Any) -> Any:
        response = self._client.put_object(**request)
        if self.num_lost == 0:
            self.num_lost += 1
            if self._repeats_inside:
                return self._client.put_object(**request)  # answered 412
            raise ReadTimeoutError(endpoint_url="http://x")
        return response


class TestS3:
    @pytest.mark.parametrize("repeats_inside", [False, True])
    def test_lost_reply_by_the_client(self, s3: S3Storage, repeats_inside: bool) -> None:
        lossy = LossyClient(s3._s3(), repeats_inside=repeats_inside)
        s3._client = lossy
        assert put(s3, "k", b"data") is WON
        assert lossy.num_lost == 1
        version = s3.read_versioned("k").version
        lossy.num_lost = 0
        assert s3.replace_if_version("k", b"new", version)
        assert lossy.num_lost == 1

    def test_lost_reply_on_the_wire(self, s3: S3Storage, s3_faults: S3Server) -> None:
        fault = Fault("PUT", lose_reply=True)
        s3_faults.faults.append(fault)
        assert put(s3, "k", b"data") is WON
        assert fault.num_done == 1
        assert s3.read("k") == b"data"

    def test_lost_reply_to_a_put_that_lost(self, s3: S3Storage, s3_faults: S3Server) -> None:
        put(s3, "k", b"first", "a1")
        s3_faults.faults.append(Fault("PUT", lose_reply=True))
        assert put(s3, "k", b"other", "a2") is LOST
        assert s3.read("k") == b"first"

    def test_same_digest_in_other_bytes(self, s3: S3Storage) -> None:
        assert s3.put_if_absent("k", b"1", attempt="a1", digest="d", metadata={"rows": "3"}) is WON
        assert s3.put_if_absent("k", b"2", attempt="a2", digest="d") is ALREADY_SAME
        metadata = (s3._head("k") or {})["Metadata"]
        assert metadata == {"rows": "3", "attempt": "a1", "digest": "d"}

    @pytest.mark.parametrize("status", [409, 429, 500, 503])
    def test_transient_errors_are_repeated(
        self, s3: S3Storage, s3_faults: S3Server, status: int
    ) -> None:
        faults = [Fault(method, status=status, times=2) for method in ("PUT", "GET", "HEAD")]
        s3_faults.faults.extend(faults)
        assert put(s3, "k", b"data") is WON
        assert s3.read("k") == b"data"
        assert s3.delete_if_version("k", s3.read_versioned("k").version)
        assert [fault.num_done for fault in faults] == [2, 2, 2]

    def test_repeats_are_bounded(
        self, impatient: None, s3: S3Storage, s3_faults: S3Server, s3_uri: str
    ) -> None:
        s3_faults.faults.append(Fault("PUT", status=503, code="SlowDown", times=1000))
        storage = StorageSpec(s3_uri).open()
        start_s = time.monotonic()
        with pytest.raises(TransientStorageError, match=r"did not answer.*SlowDown, HTTP 503"):
            put(storage, "k", b"data")
        assert time.monotonic() - start_s < 20
        assert 2 <= s3_faults.faults[0].num_done < 50

    @pytest.mark.parametrize(
        "error",
        [
            IncompleteReadError(actual_bytes=1, expected_bytes=2),
            FlexibleChecksumError(error_msg="differs"),
            ConnectionClosedError(endpoint_url="http://x"),
            EndpointConnectionError(endpoint_url="http://x"),
        ],
        ids=lambda error: type(error).__name__,
    )
    def test_broken_reads_are_repeated(
        self, s3: S3Storage, monkeypatch: pytest.MonkeyPatch, error: Exception
    ) -> None:
        put(s3, "k", b"data")
        client, errors = s3._s3(), [error]
        real = client.get_object

        def break_once(**request: Any) -> Any:
            if errors:
                raise errors.pop()
            return real(**request)

        monkeypatch.setattr(client, "get_object", break_once)
        assert s3.read("k") == b"data"
        assert errors == []

    def test_cut_body_is_read_again(self, s3: S3Storage, s3_faults: S3Server) -> None:
        data = os.urandom(100_000)
        put(s3, "k", data)
        fault = Fault("GET", "/k$", cut_body=True)
        s3_faults.faults.append(fault)
        assert s3.read("k") == data
        assert fault.num_done == 1

    @pytest.mark.parametrize(
        ("status", "code", "says"),
        [
            (403, "AccessDenied", "no permission"),
            (403, "SignatureDoesNotMatch", "no permission"),
            (400, "ExpiredToken", "expired"),
            (403, "RequestTimeTooSkewed", "clock"),
            (501, "NotImplemented", "refused"),
        ],
    )
    def test_refusals_are_told_at_once(
        self, s3: S3Storage, s3_faults: S3Server, status: int, code: str, says: str
    ) -> None:
        methods = ("PUT", "GET", "DELETE")
        s3_faults.faults.extend(Fault(m, status=status, code=code, times=99) for m in methods)
        actions: tuple[Callable[[], Any], ...] = (
            lambda: put(s3, "k", b"data"),
            lambda: s3.replace("k", b"data"),
            lambda: s3.read("k"),
            lambda: keys(s3),
            lambda: s3.delete("k"),
            s3.check_writable,
            s3.check_reachable,
        )
        for action in actions:
            with pytest.raises(StorageUnavailableError, match=says) as caught:
                action()
            assert not isinstance(caught.value, TransientStorageError)
            message = str(caught.value)
            assert code in message or says == "clock"
            for secret in ("\n", "SECRET", "secret", "Signature=", "testing"):
                assert secret not in message
        assert [f.num_done for f in s3_faults.faults] == [3, 3, 2]  # not repeated

    def test_hastened_it_gives_up_within_seconds(
        self, s3: S3Storage, s3_faults: S3Server, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(s3_module, "CHECK_PATIENCE_S", 1.0)
        put(s3, "k", b"data")
        s3_faults.faults.append(Fault("GET", status=503, times=1000))
        s3.hasten()
        start_s = time.monotonic()
        with pytest.raises(TransientStorageError):
            s3.read("k")
        assert time.monotonic() - start_s < 20
        s3_faults.faults.clear()
        assert s3.read("k") == b"data"

    def test_hastened_a_request_under_way_gives_up(
        self, s3: S3Storage, s3_faults: S3Server
    ) -> None:
        away = Fault("GET", status=503, times=1000)
        s3_faults.faults.append(away)
        with ThreadPoolExecutor(1) as pool:
            reading = pool.submit(s3.read, "k")
            while away.num_done < 2:
                time.sleep(0.01)
            s3.hasten()
            with pytest.raises(TransientStorageError):
                reading.result(timeout=20)

    def test_missing_bucket(self, s3_endpoint: str) -> None:
        storage = StorageSpec("s3://no-such-bucket-here/x").open()
        for action in (
            storage.check_writable,
            storage.check_reachable,
            lambda: put(storage, "k", b""),
            lambda: storage.read("k"),
            lambda: keys(storage),
        ):
            with pytest.raises(StorageUnavailableError, match="no such bucket"):
                action()

    def test_unreachable_port(self, s3_endpoint: str) -> None:
        with socket.socket() as unused:
            unused.bind(("127.0.0.1", 0))  # bound and not listening: connections are refused
            endpoint_url = f"http://127.0.0.1:{unused.getsockname()[1]}"
            storage = StorageSpec(f"s3://{BUCKET}/x", s3_endpoint_url=endpoint_url).open()
            start_s = time.monotonic()
            with pytest.raises(StorageUnavailableError, match="did not answer"):
                storage.check_reachable()
            assert time.monotonic() - start_s < 30

    def test_endpoint_that_never_answers(
        self, s3_endpoint: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(s3_module, "CHECK_READ_TIMEOUT_S", 0.5)
        monkeypatch.setattr(s3_module, "CHECK_PATIENCE_S", 1.0)
        with socket.create_server(("127.0.0.1", 0)) as silent:
            endpoint_url = f"http://127.0.0.1:{silent.getsockname()[1]}"
            storage = StorageSpec(f"s3://{BUCKET}/x", s3_endpoint_url=endpoint_url).open()
            start_s = time.monotonic()
            with pytest.raises(StorageUnavailableError, match="ReadTimeoutError"):
                storage.check_reachable()
            assert time.monotonic() - start_s < 20

    @pytest.mark.parametrize(
        ("ignored", "name"), [([False, True], "If-None-Match"), ([False, False, True], "If-Match")]
    )
    def test_store_that_ignores_conditions_is_named(
        self, s3: S3Storage, s3_faults: S3Server, ignored: list[bool], name: str
    ) -> None:
        s3_faults.faults += [Fault("PUT", ignore_conditions=each) for each in ignored]
        with pytest.raises(StorageUnavailableError, match=f"ignores {name},"):
            s3.check_writable()
        assert everything_below(s3) == set()

    def test_store_that_ignores_conditions_on_delete(
        self, s3: S3Storage, s3_faults: S3Server
    ) -> None:
        s3.replace("k", b"one")
        old = s3.read_versioned("k").version
        s3.replace("k", b"two")
        s3_faults.faults.append(Fault("DELETE", ignore_conditions=True))
        assert not s3.delete_if_version("k", old)
        assert s3.read("k") == b"two"

    def test_probe_of_a_failed_check_is_removed(self, s3: S3Storage, s3_faults: S3Server) -> None:
        let_one_pass = Fault("PUT", "probe")
        s3_faults.faults += [let_one_pass, Fault("PUT", "probe", status=403, code="AccessDenied")]
        with pytest.raises(StorageUnavailableError, match="no permission"):
            s3.check_writable()
        assert let_one_pass.num_done == 1
        assert everything_below(s3) == set()

    def test_endpoint_of_the_spec_goes_before_the_environment(
        self, s3_uri: str, s3_endpoint: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:1")
        monkeypatch.setenv("AWS_REGION", "eu-south-2")
        storage = StorageSpec(s3_uri, s3_endpoint_url=s3_endpoint).open()
        assert isinstance(storage, S3Storage)
        assert put(storage, "k", b"data") is WON
        assert storage._s3().meta.region_name == "eu-south-2"
        monkeypatch.setenv("AWS_ENDPOINT_URL_S3", s3_endpoint)
        assert StorageSpec(s3_uri).open().read("k") == b"data"

    def test_no_credentials(self, s3_uri: str, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.delenv("AWS_ACCESS_KEY_ID")
        monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
        with pytest.raises(StorageUnavailableError, match="no usable AWS credentials"):
            StorageSpec(s3_uri).open().check_reachable()

    def test_many_pages(self, s3: S3Storage, monkeypatch: pytest.MonkeyPatch) -> None:
        for number in range(5):
            s3.replace(f"d/{number}", b"")
        real = s3._s3().list_objects_v2
        monkeypatch.setattr(
            s3._s3(), "list_objects_v2", lambda **request: real(MaxKeys=2, **request)
        )
        assert keys(s3) == [f"d/{number}" for number in range(5)]

    def test_folder_markers_are_not_objects(self, s3: S3Storage) -> None:
        s3._put("folder/", b"", {})
        assert keys(s3) == []

    def test_other_errors_of_the_client_are_not_swallowed(self, s3: S3Storage) -> None:
        class Strange:
            meta = s3._s3().meta

            def put_object(self, **request: Any) -> None:
                raise ClientError({"Error": {"Code": "Teapot"}}, "PutObject")

        s3._client = Strange()
        with pytest.raises(StorageUnavailableError, match="Teapot"):
            put(s3, "k", b"")
