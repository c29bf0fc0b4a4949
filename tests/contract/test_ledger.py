"""The record of a run and its manifest, on a local folder and on S3."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from cluster.errors import LeaseHeldError
from cluster.ledger import RECORD_KEY, Ledger
from cluster.storage import Storage, StorageSpec
from steersweep.errors import UserError
from tests.support.s3 import Fault, S3Server


@pytest.fixture(params=["local", "s3"])
def storage(request: pytest.FixtureRequest, tmp_path: Path) -> Storage:
    if request.param == "local":
        return StorageSpec(str(tmp_path / "run")).open()
    return StorageSpec(request.getfixturevalue("s3_uri")).open()


def record(outcome: str, **more: Any) -> dict[str, Any]:
    of_run = {"identity": {}, "spec": {}, "started": "now", "sessions": []}
    return {**of_run, "outcome": outcome, **more}


def outcome_of(storage: Storage) -> str:
    found = Ledger(storage).read_record()
    assert found is not None
    return str(found["outcome"])


def test_a_record_is_written_again_and_again(storage: Storage) -> None:
    ledger = Ledger(storage)
    assert ledger.read_record() is None
    for outcome in ("running", "running", "done"):
        ledger.write_record(record(outcome))
        assert outcome_of(storage) == outcome
    again = Ledger(storage)
    again.read_record()
    again.write_record(record("running"))
    assert outcome_of(storage) == "running"


def test_a_driver_that_was_overtaken_cannot_write_the_end(storage: Storage) -> None:
    old, new = Ledger(storage), Ledger(storage)
    old.write_record(record("running"))
    new.read_record()
    new.write_record(record("running", session="new"))
    for _ in range(2):
        with pytest.raises(LeaseHeldError, match="another driver"):
            old.write_record(record("done"))
    new.write_record(record("stopped"))
    with pytest.raises(LeaseHeldError):
        old.write_record(record("done"))
    assert outcome_of(storage) == "stopped"


def test_of_two_that_saw_nothing_one_begins(storage: Storage) -> None:
    one, two = Ledger(storage), Ledger(storage)
    assert one.read_record() is two.read_record() is None
    one.write_record(record("running", session="one"))
    with pytest.raises(LeaseHeldError):
        two.write_record(record("running", session="two"))


def test_a_record_that_was_deleted_is_not_made_again_by_a_running_driver(
    storage: Storage,
) -> None:
    ledger = Ledger(storage)
    ledger.write_record(record("running"))
    storage.delete(RECORD_KEY)
    with pytest.raises(LeaseHeldError):
        ledger.write_record(record("done"))


def test_a_lost_reply_is_not_another_driver(s3_uri: str, s3_faults: S3Server) -> None:
    ledger = Ledger(StorageSpec(s3_uri).open())
    for outcome in ("running", "done"):
        s3_faults.faults.append(Fault("PUT", RECORD_KEY, lose_reply=True))
        ledger.write_record(record(outcome))
        assert outcome_of(StorageSpec(s3_uri).open()) == outcome
    assert [fault.num_done for fault in s3_faults.faults] == [1, 1]


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"3", b"{}", b'{"record_version": "x"}'])
def test_what_is_no_record_is_refused(storage: Storage, content: bytes) -> None:
    storage.replace(RECORD_KEY, content)
    with pytest.raises(UserError, match=RECORD_KEY):
        Ledger(storage).read_record()


def test_generations_of_the_manifest(storage: Storage) -> None:
    ledger, other = Ledger(storage), Ledger(storage)
    assert ledger.read_manifest() == []
    ledger.append_manifest(pa.table({"x": [1]}), 0, "a1")
    other.append_manifest(pa.table({"x": [1]}), 0, "b1")  # the same plan: no conflict
    with pytest.raises(UserError, match="another driver has just extended"):
        other.append_manifest(pa.table({"x": [2]}), 0, "b2")
    ledger.append_manifest(pa.table({"x": [3]}), 1, "a2")
    assert [t["x"].to_pylist() for t in other.read_manifest()] == [[1], [3]]
    storage.delete("manifest/0000.parquet")
    with pytest.raises(UserError, match="were expected"):
        ledger.read_manifest()
