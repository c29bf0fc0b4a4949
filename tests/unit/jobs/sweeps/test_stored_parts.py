"""Which tasks of an output are done, and what a damaged part does."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from cluster import checked
from cluster.checked import CHECKED_KEY, write_checked
from cluster.parts import commit_part
from cluster.storage import Storage, StorageSpec
from cluster.tasks import Task
from jobs.sweeps.parts import StoredParts
from steersweep.errors import UserError


@pytest.fixture
def storage(tmp_path: Path) -> Storage:
    return StorageSpec(str(tmp_path / "out")).open()


@pytest.fixture
def looked_at(monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    """The keys of each call that looks at parts, and not only at the listing."""
    calls: list[list[str]] = []
    real = checked.check_parts

    def noting(storage: Storage, task_ids: dict[str, str], **options: Any) -> Any:
        if task_ids:
            calls.append(sorted(task_ids))
        return real(storage, task_ids, **options)

    monkeypatch.setattr(checked, "check_parts", noting)
    return calls


def make_task(name: str, *tables: str) -> Task:
    return Task(name, "p", 1.0, {t: f"{t}/{name}.parquet" for t in tables or ("rows",)}, None)


def commit(storage: Storage, *tasks: Task, tables: tuple[str, ...] = ()) -> None:
    for task in tasks:
        for table in tables or task.parts:
            rows = pa.table({"text": [f"the answer of {task.id}"] * 3})
            commit_part(storage, task.parts[table], rows, task_id=task.id, attempt="1")


def flip_a_byte_of_a_row(storage: Storage, key: str) -> None:
    """Text in a part that is otherwise as it was: its footer and its size say nothing."""
    data = storage.read(key)
    assert b"the answer" in data
    storage.replace(key, data.replace(b"the answer", b"Xhe answer"))


@pytest.fixture
def plain_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    """Parts without compression, checksums and statistics, so that a row's bytes can be flipped."""
    real = pq.write_table

    def plain(table: pa.Table, sink: Any, **options: Any) -> None:
        uncompressed = {"compression": "none", "compression_level": None}
        real(table, sink, **{**options, **uncompressed, "write_page_checksum": False})

    monkeypatch.setattr("cluster.parts.pq.write_table", plain)


def parts(storage: Storage, **options: Any) -> StoredParts:
    return StoredParts(storage, ["rows/", "sums/"], **options)


def test_a_task_is_done_if_all_of_its_parts_are_there(storage: Storage) -> None:
    whole, half, none = (make_task(name, "sums", "rows") for name in ("whole", "half", "none"))
    commit(storage, whole)
    commit(storage, half, tables=("rows",))
    assert parts(storage).done([whole, half, none]) == {"whole"}


def test_parts_outside_the_listed_folders_do_not_count(storage: Storage) -> None:
    task = make_task("t", "other")
    commit(storage, task)
    assert parts(storage).done([task]) == set()


def test_what_is_written_after_the_listing_is_not_known(storage: Storage) -> None:
    stored = parts(storage)
    commit(storage, make_task("t"))
    assert stored.done([make_task("t")]) == set()


def test_parts_that_were_asked_for_are_kept_as_checked_and_looked_at_once(
    storage: Storage, looked_at: list[list[str]]
) -> None:
    a, b = make_task("a"), make_task("b")
    commit(storage, a, b)
    stored = parts(storage)
    assert stored.done([a]) == {"a"}
    assert [*stored.checked] == ["rows/a.parquet"]
    assert stored.done([a, b]) == {"a", "b"}
    assert looked_at == [["rows/a.parquet"], ["rows/b.parquet"]]
    write_checked(storage, stored.checked)
    assert parts(storage).done([a, b]) == {"a", "b"}
    assert len(looked_at) == 2


def test_a_damaged_part_is_an_error_when_its_task_is_asked_for_and_not_before(
    storage: Storage,
) -> None:
    good, bad, worse = make_task("good"), make_task("bad"), make_task("worse")
    commit(storage, good, bad, worse)
    for task in (bad, worse):
        storage.replace(task.parts["rows"], b"PAR1 no more")
    stored = parts(storage)
    assert stored.done([good]) == {"good"}
    with pytest.raises(UserError, match=r"rows/bad\.parquet.*\(1 more parts are damaged\)"):
        stored.done([good, bad, worse])


def test_a_part_of_another_task_under_the_name_is_damage(storage: Storage) -> None:
    task = make_task("t")
    rows = pa.table({"text": ["x"]})
    commit_part(storage, task.parts["rows"], rows, task_id="other", attempt="1")
    with pytest.raises(UserError, match=r"rows/t\.parquet"):
        parts(storage).done([task])


def test_a_part_that_was_checked_for_one_task_is_not_taken_for_another_ones(
    storage: Storage,
) -> None:
    commit(storage, make_task("t"))
    stored = parts(storage)
    assert stored.done_of({"t": ["rows/t.parquet"]}) == {"t"}
    with pytest.raises(UserError, match=r"rows/t\.parquet"):
        stored.done_of({"other": ["rows/t.parquet"]})


def test_check_all_looks_at_every_part_in_one_go_and_leaves_damage_for_later(
    storage: Storage, looked_at: list[list[str]]
) -> None:
    tasks = [make_task(f"t{n}") for n in range(5)]
    commit(storage, *tasks)
    storage.replace(tasks[3].parts["rows"], b"PAR1 no more")
    storage.replace("rows/README.txt", b"not a part")
    stored = parts(storage)
    stored.check_all()
    assert looked_at == [sorted(task.parts["rows"] for task in tasks)]
    assert sorted(stored.checked) == [f"rows/t{n}.parquet" for n in (0, 1, 2, 4)]
    assert stored.done(tasks[:3]) == {"t0", "t1", "t2"}
    assert len(looked_at) == 1
    with pytest.raises(UserError, match=r"rows/t3\.parquet"):
        stored.done(tasks)


@pytest.mark.usefixtures("plain_parts")
def test_reading_rows_finds_a_flipped_byte_which_the_footer_does_not_show(
    storage: Storage,
) -> None:
    task = make_task("t")
    commit(storage, task)
    flip_a_byte_of_a_row(storage, task.parts["rows"])
    assert parts(storage).done([task]) == {"t"}
    with pytest.raises(UserError, match=r"rows/t\.parquet"):
        parts(storage, reads_rows=True).done([task])


@pytest.mark.usefixtures("plain_parts")
def test_that_a_footer_was_seen_does_not_stand_for_its_rows(
    storage: Storage, looked_at: list[list[str]]
) -> None:
    task = make_task("t")
    commit(storage, task)
    footer_only = parts(storage)
    footer_only.done([task])
    write_checked(storage, footer_only.checked)
    for _ in range(2):
        stored = parts(storage, reads_rows=True)
        assert stored.done([task]) == {"t"}
        write_checked(storage, stored.checked)
    assert looked_at == [["rows/t.parquet"]] * 2, "once for the footer, once for the rows"
    assert parts(storage).done([task]) == {"t"}, "rows stand for the footer"
    assert len(looked_at) == 2


def test_a_cache_of_a_version_that_did_not_read_rows_is_taken_for_footers_only(
    storage: Storage, looked_at: list[list[str]]
) -> None:
    task = make_task("t")
    commit(storage, task)
    stored = parts(storage, reads_rows=True)
    stored.done([task])
    write_checked(storage, stored.checked)
    table = pq.read_table(pa.BufferReader(storage.read(CHECKED_KEY)))
    assert table["has_read_rows"].to_pylist() == [True]
    sink = pa.BufferOutputStream()
    pq.write_table(table.drop_columns(["has_read_rows"]), sink)
    storage.replace(CHECKED_KEY, sink.getvalue().to_pybytes())
    looked_at.clear()
    assert parts(storage).done([task]) == {"t"}
    assert looked_at == []
    assert parts(storage, reads_rows=True).done([task]) == {"t"}
    assert looked_at == [["rows/t.parquet"]]
