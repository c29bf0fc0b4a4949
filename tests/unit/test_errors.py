"""The errors that users read, and that none is mistaken for the ValueError that it also is."""

from __future__ import annotations

import json
import pickle
from pathlib import Path
from typing import NoReturn

import pyarrow as pa
import pytest

from cluster.checked import check_listed
from cluster.errors import (
    ClusterError,
    CorruptPartError,
    LeaseHeldError,
    NewerPartError,
    StorageUnavailableError,
    TransientStorageError,
)
from cluster.parts import SCHEMA_VERSION, check_part, commit_part
from cluster.storage import Storage, StorageSpec
from jobs.persona.index import INDEX_KEY, Parts
from jobs.scoring.inventory import read_vectors
from jobs.scoring.plan import VectorSet
from jobs.stereoset.groups import group_of
from steersweep.errors import StopRunError, UserError

FOR_USERS = [
    StorageUnavailableError,
    TransientStorageError,
    LeaseHeldError,
    CorruptPartError,
    NewerPartError,
]


def test_lines_are_kept_apart_and_survive_pickling() -> None:
    error = UserError("bad 'a\nb'", "x: 1", "y: 2")
    for same in (error, pickle.loads(pickle.dumps(error))):
        assert same.lines == ("bad 'a b'", "x: 1", "y: 2")
        assert str(same) == "bad 'a b'\nx: 1\ny: 2"


@pytest.mark.parametrize("kind", FOR_USERS)
def test_what_cluster_raises_for_users_is_both(kind: type[ClusterError]) -> None:
    error = pickle.loads(pickle.dumps(kind("gone\nfor good")))
    assert type(error) is kind
    assert isinstance(error, UserError)
    assert isinstance(error, ClusterError)
    assert error.lines == ("gone for good",)
    assert isinstance(error, StopRunError) is not issubclass(kind, CorruptPartError)


@pytest.fixture
def unreachable(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Storage:
    """A storage whose objects cannot be read now."""
    storage = StorageSpec(str(tmp_path)).open()

    def read(_key: str) -> NoReturn:
        raise TransientStorageError("no answer")

    monkeypatch.setattr(storage, "read", read)
    return storage


def test_a_store_that_does_not_answer_is_not_damaged(unreachable: Storage) -> None:
    with pytest.raises(TransientStorageError, match=r"^no answer$"):
        check_listed(unreachable, {"a.parquet": "t"}, {})
    with pytest.raises(TransientStorageError, match=r"^no answer$"):
        Parts.read(unreachable)
    with pytest.raises(TransientStorageError, match=r"^no answer$"):
        read_vectors(unreachable, VectorSet(group_of("tiny", "intrasentence", "gender")))


def test_a_newer_index_is_not_called_damaged(tmp_path: Path) -> None:
    storage = StorageSpec(str(tmp_path)).open()
    storage.replace(INDEX_KEY, json.dumps({"index_version": 99}).encode())
    with pytest.raises(UserError, match=r"has version 99, .*; use a newer steersweep"):
        Parts.read(storage)


def test_a_newer_part_is_not_called_damaged(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    storage = StorageSpec(str(tmp_path)).open()
    monkeypatch.setattr("cluster.parts.SCHEMA_VERSION", SCHEMA_VERSION + 1)
    commit_part(storage, "a.parquet", pa.table({"x": [1]}), task_id="t", attempt="a")
    monkeypatch.undo()
    with pytest.raises(NewerPartError, match="use a newer steersweep"):
        check_part(storage, "a.parquet")
