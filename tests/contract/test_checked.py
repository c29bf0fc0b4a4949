"""Parts are looked at once: again only where the listing says that they changed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from cluster import checked
from cluster.checked import CHECKED_KEY, check_listed, write_checked
from cluster.parts import commit_part
from cluster.storage import Storage, StorageSpec

TASKS = {f"rows/{n}.parquet": f"t{n}" for n in range(4)}


@pytest.fixture(params=["local", "s3"])
def storage(request: pytest.FixtureRequest, tmp_path: Path) -> Storage:
    if request.param == "local":
        return StorageSpec(str(tmp_path / "run")).open()
    return StorageSpec(request.getfixturevalue("s3_uri")).open()


@pytest.fixture
def looked_at(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Keys of the parts whose footer was read, as they come."""
    keys: list[str] = []
    real = checked.check_parts

    def noting(storage: Storage, task_ids: dict[str, str], *, reads_rows: bool = False) -> Any:
        keys.extend(task_ids)
        return real(storage, task_ids, reads_rows=reads_rows)

    monkeypatch.setattr(checked, "check_parts", noting)
    return keys


def commit(storage: Storage, key: str, task_id: str, value: int = 0) -> None:
    table = pa.table({"x": [value]}).replace_schema_metadata({"note": f"of {task_id}"})
    commit_part(storage, key, table, task_id=task_id, attempt="a1")


def look(storage: Storage, tasks: dict[str, str] = TASKS) -> tuple[set[str], set[str]]:
    listed = {entry.key: entry for entry in storage.list("rows/")}
    good, bad = check_listed(storage, {k: t for k, t in tasks.items() if k in listed}, listed)
    for key, part in good.items():
        assert part.metadata["note"] == f"of {tasks[key]}"
    write_checked(storage, good)
    return set(good), set(bad)


def test_a_part_is_looked_at_once(storage: Storage, looked_at: list[str]) -> None:
    keys = list(TASKS)
    for key in keys[:3]:
        commit(storage, key, TASKS[key])
    assert look(storage) == (set(keys[:3]), set())
    assert looked_at == keys[:3]
    commit(storage, keys[3], TASKS[keys[3]])
    assert look(storage) == (set(keys), set())
    assert looked_at == keys
    assert look(StorageSpec(storage.uri).open()) == (set(keys), set())
    assert looked_at == keys


def test_a_part_that_changed_is_looked_at_again(storage: Storage, looked_at: list[str]) -> None:
    keys = list(TASKS)
    for key in keys:
        commit(storage, key, TASKS[key])
    look(storage)
    looked_at.clear()
    storage.replace(keys[1], storage.read(keys[1])[:50])
    storage.delete(keys[2])
    commit(storage, keys[2], TASKS[keys[2]], value=7)
    assert look(storage) == ({keys[0], keys[2], keys[3]}, {keys[1]})
    assert looked_at == keys[1:3]


def test_a_part_of_another_task_is_not_taken_for_the_known_one(
    storage: Storage, looked_at: list[str]
) -> None:
    key = "rows/0.parquet"
    commit(storage, key, "t0")
    look(storage)
    assert look(storage, {key: "other"}) == (set(), {key})


@pytest.mark.parametrize("content", [b"", b"PAR1", b"not parquet"])
def test_a_damaged_cache_is_an_empty_one(
    storage: Storage, looked_at: list[str], content: bytes
) -> None:
    commit(storage, "rows/0.parquet", "t0")
    look(storage)
    storage.replace(CHECKED_KEY, content)
    assert look(storage) == ({"rows/0.parquet"}, set())
    assert looked_at == ["rows/0.parquet"] * 2
