"""Parts: what the bytes depend on, what is checked, what comes back."""

import hashlib
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cluster.errors import CorruptPartError, NewerPartError, ObjectNotFoundError
from cluster.parts import check_part, check_parts, commit_part, read_part
from cluster.storage import PutOutcome, Storage, StorageSpec
from cluster.table_digest import table_digest

KEY = "steered/model=m/t1.parquet"
GOLDEN = "2d5ab5717a289b14dee561d42807be88437b821e67699a33bda297c845699e8a"


@pytest.fixture
def storage(tmp_path: Path) -> Storage:
    return StorageSpec(str(tmp_path / "run")).open()


@pytest.fixture(params=["local", "s3"])
def either_storage(request: pytest.FixtureRequest, tmp_path: Path) -> Storage:
    if request.param == "local":
        return StorageSpec(str(tmp_path / "run")).open()
    return StorageSpec(request.getfixturevalue("s3_uri")).open()


def make_table(num_rows: int = 5, **metadata: str) -> pa.Table:
    rng = np.random.default_rng(0)
    projections = [rng.normal(size=3).tolist() for _ in range(num_rows)]
    table = pa.table(
        {
            "example_id": pa.array([f"e{i}" for i in range(num_rows)]),
            "layer": pa.array([None, *range(1, num_rows)], pa.int32()),
            "score": pa.array(rng.normal(size=num_rows)),
            "choice_index": pa.array([i % 3 for i in range(num_rows)], pa.int8()),
            "projections": pa.array(projections, pa.list_(pa.float64())),
        }
    )
    return table.replace_schema_metadata(metadata or None)


def commit(storage: Storage, table: pa.Table, attempt: str = "a1", task_id: str = "t1") -> Any:
    return commit_part(storage, KEY, table, task_id=task_id, attempt=attempt)


def overwrite(storage: Storage, table: pa.Table, **footer: str | None) -> None:
    """Store a part whose footer was changed (None: removed) behind our back."""
    commit(storage, table)
    old = pq.read_metadata(pa.BufferReader(storage.read(KEY))).metadata
    metadata = {k.decode(): v.decode() for k, v in old.items() if k != b"ARROW:schema"}
    for name, value in footer.items():
        metadata.pop(f"steersweep.{name}")
        if value is not None:
            metadata[f"steersweep.{name}"] = value
    sink = pa.BufferOutputStream()
    pq.write_table(table.replace_schema_metadata(metadata), sink)
    storage.replace(KEY, sink.getvalue().to_pybytes())


class TestCommit:
    def test_round_trip(self, either_storage: Storage) -> None:
        table = make_table(vector_digest="abc")
        receipt = commit(either_storage, table)
        assert receipt.outcome is PutOutcome.WON
        assert (receipt.key, receipt.num_rows) == (KEY, 5)
        assert receipt.num_bytes == len(either_storage.read(KEY))
        assert receipt.digest == receipt.stored_digest == table_digest(table)
        back = read_part(either_storage, KEY, "t1")
        assert back.equals(table, check_metadata=True)
        info = check_part(either_storage, KEY, "t1")
        assert (info.task_id, info.attempt, info.num_rows) == ("t1", "a1", 5)
        assert (info.digest, info.metadata) == (receipt.digest, {"vector_digest": "abc"})

    def test_table_without_rows(self, storage: Storage) -> None:
        table = make_table().slice(0, 0)
        assert commit(storage, table).num_rows == 0
        assert read_part(storage, KEY).equals(table)

    def test_second_attempt_with_the_same_rows(self, either_storage: Storage) -> None:
        first = commit(either_storage, make_table(), "a1")
        second = commit(either_storage, make_table(), "a2")
        assert second.outcome is PutOutcome.ALREADY_SAME
        assert second.digest == second.stored_digest == first.digest
        assert check_part(either_storage, KEY).attempt == "a1"

    def test_second_attempt_with_other_rows(self, either_storage: Storage) -> None:
        first = commit(either_storage, make_table(5), "a1")
        second = commit(either_storage, make_table(6), "a2")
        assert second.outcome is PutOutcome.LOST
        assert second.num_rows == 6
        assert second.digest != second.stored_digest == first.digest
        assert read_part(either_storage, KEY).num_rows == 5

    def test_what_is_there_belongs_to_another_task(self, storage: Storage) -> None:
        commit(storage, make_table(5), task_id="t0")
        with pytest.raises(CorruptPartError, match="belongs to task t0, not t1"):
            commit(storage, make_table(6))

    def test_column_that_does_not_come_back_is_refused(self, storage: Storage) -> None:
        table = pa.table({"when": pa.array([1], pa.timestamp("s"))})
        with pytest.raises(TypeError, match="timestamp"):
            commit(storage, table)
        assert list(storage.list()) == []

    def test_readable_without_this_project(self, storage: Storage) -> None:
        table = make_table()
        commit(storage, table)
        path = f"{storage.uri}/{KEY}"
        assert pq.ParquetFile(path).read().to_pylist() == table.to_pylist()
        footer = pq.read_metadata(path).metadata
        assert footer[b"steersweep.task_id"] == b"t1"
        assert footer[b"steersweep.num_rows"] == b"5"
        assert pq.read_metadata(path).row_group(0).column(0).compression == "ZSTD"


class TestBytes:
    def bytes_of(self, tmp_path: Path, table: pa.Table, **names: str) -> bytes:
        storage = StorageSpec(
            str(tmp_path / hashlib.sha256(repr(names).encode()).hexdigest())
        ).open()
        storage.delete(KEY)
        commit_part(storage, KEY, table, task_id=names["task"], attempt=names["attempt"])
        return storage.read(KEY)

    def test_same_bytes_for_equal_tables(self, tmp_path: Path) -> None:
        table = make_table(100, b="2", a="1")
        equals = {
            "chunked": pa.concat_tables([table.slice(0, 33), table.slice(33)]),
            "sliced": pa.concat_tables([make_table(3), table]).slice(3),
            "metadata in another order": table.replace_schema_metadata({"a": "1", "b": "2"}),
        }
        equals["sliced"] = equals["sliced"].replace_schema_metadata({"a": "1", "b": "2"})
        expected = self.bytes_of(tmp_path, table, task="t1", attempt="a1")
        for name, equal in equals.items():
            assert self.bytes_of(tmp_path, equal, task="t1", attempt="a1") == expected, name
        words = [pa.table({"w": pa.array(w).dictionary_encode()}) for w in (["b", "a"], ["c", "b"])]
        whole = pa.table({"w": pa.array(["b", "a", "c", "b"]).dictionary_encode()})
        assert self.bytes_of(
            tmp_path, pa.concat_tables(words), task="t1", attempt="a1"
        ) == self.bytes_of(tmp_path, whole, task="t1", attempt="a1")
        assert self.bytes_of(tmp_path, table, task="t2", attempt="a1") != expected
        assert self.bytes_of(tmp_path, table, task="t1", attempt="a2") != expected

    def test_what_lies_under_nulls_does_not_show(self, tmp_path: Path) -> None:
        mask = pa.py_buffer(bytes([0b101]))
        tables = [
            pa.table({"x": pa.Array.from_buffers(pa.float64(), 3, [mask, pa.py_buffer(values)])})
            for values in (np.array([1.0, 5.0, 2.0]), np.array([1.0, 7.0, 2.0]))
        ]
        assert tables[0].equals(tables[1])
        assert table_digest(tables[0]) == table_digest(tables[1])
        one, two = (self.bytes_of(tmp_path, t, task="t1", attempt="a1") for t in tables)
        assert one == two

    def test_same_bytes_in_another_process(self, tmp_path: Path, storage: Storage) -> None:
        commit(storage, make_table())
        code = (
            "import sys; from pathlib import Path; from tests.unit.cluster.test_parts import *;"
            "commit(StorageSpec(sys.argv[1]).open(), make_table())"
        )
        other = StorageSpec(str(tmp_path / "other")).open()
        root = Path(__file__).parents[3]
        subprocess.run([sys.executable, "-c", code, other.uri], check=True, cwd=root)
        assert other.read(KEY) == storage.read(KEY)


floats = st.one_of(st.none(), st.floats(width=64), st.sampled_from([-0.0, 0.0]))
columns = st.sampled_from(
    [
        (pa.float64(), floats),
        (pa.float32(), st.one_of(st.none(), st.floats(width=32))),
        (pa.float16(), st.one_of(st.none(), st.floats(width=16).map(np.float16))),
        (pa.int8(), st.one_of(st.none(), st.integers(-128, 127))),
        (pa.uint64(), st.one_of(st.none(), st.integers(0, 2**64 - 1))),
        (pa.bool_(), st.one_of(st.none(), st.booleans())),
        (pa.string(), st.one_of(st.none(), st.text(max_size=4))),
        (pa.large_string(), st.one_of(st.none(), st.text(max_size=4))),
        (pa.binary(), st.one_of(st.none(), st.binary(max_size=4))),
        (pa.null(), st.none()),
        (pa.date32(), st.one_of(st.none(), st.dates())),
        (pa.timestamp("us", "UTC"), st.one_of(st.none(), st.datetimes())),
        (pa.dictionary(pa.int8(), pa.string()), st.one_of(st.none(), st.text(max_size=2))),
        (pa.list_(pa.float64()), st.one_of(st.none(), st.lists(floats, max_size=3))),
        (
            pa.large_list(pa.list_(pa.string())),
            st.one_of(st.none(), st.lists(st.lists(st.text(max_size=2), max_size=2), max_size=2)),
        ),
        (
            pa.struct([("a", pa.int32()), ("b", pa.list_(pa.float64()))]),
            st.one_of(
                st.none(),
                st.fixed_dictionaries(
                    {"a": st.one_of(st.none(), st.integers(0, 9)), "b": st.lists(floats)}
                ),
            ),
        ),
    ]
)


@st.composite
def arrays(draw: st.DrawFn) -> pa.Array:
    kind, values = draw(columns)
    return pa.array(draw(st.lists(values, max_size=6)), kind)


class TestDigest:
    @settings(max_examples=200, deadline=None, derandomize=True)
    @given(array=arrays(), cut=st.integers(0, 6))
    def test_survives_parquet_chunks_and_slices(self, array: pa.Array, cut: int) -> None:
        table = pa.table({"x": array})
        expected = table_digest(table)
        chunked = pa.concat_tables([table.slice(0, cut), table.slice(cut)])
        assert table_digest(chunked) == expected
        padded = pa.concat_tables([table.slice(0, cut), table]).combine_chunks()
        assert table_digest(padded.slice(min(cut, len(array)))) == expected
        sink = pa.BufferOutputStream()
        pq.write_table(table, sink)
        back = pq.ParquetFile(pa.BufferReader(sink.getvalue())).read()
        assert table_digest(back) == expected

    @settings(max_examples=300, deadline=None, derandomize=True)
    @given(one=arrays(), two=arrays())
    def test_differs_where_tables_differ(self, one: pa.Array, two: pa.Array) -> None:
        # How a dictionary is encoded does not count.
        one, two = (a.dictionary_decode() if hasattr(a, "indices") else a for a in (one, two))
        tables = [pa.table({"x": array}) for array in (one, two)]
        if tables[0].equals(tables[1]):
            return
        # Only floats are unequal and yet the same: a NaN is not equal to itself.
        if one.type == two.type and repr(one.to_pylist()) == repr(two.to_pylist()):
            return
        assert table_digest(tables[0]) != table_digest(tables[1])

    @pytest.mark.parametrize(
        ("one", "two"),
        [
            (pa.array([0.0]), pa.array([-0.0])),
            (pa.array([1.0]), pa.array([np.nextafter(1.0, 2.0)])),
            (pa.array([1.0, None]), pa.array([None, 1.0])),
            (pa.array([[1.0], [2.0, 3.0]]), pa.array([[1.0, 2.0], [3.0]])),
            (pa.array([[], None]), pa.array([None, []])),
            (pa.array(["ab", "c"]), pa.array(["a", "bc"])),
            (pa.array([""]), pa.array([None], pa.string())),
            (pa.array([1], pa.int32()), pa.array([1], pa.int64())),
            (pa.nulls(1), pa.nulls(2)),
        ],
    )
    def test_tells_apart(self, one: pa.Array, two: pa.Array) -> None:
        assert table_digest(pa.table({"x": one})) != table_digest(pa.table({"x": two}))
        assert table_digest(pa.table({"x": one})) != table_digest(pa.table({"y": one}))

    def test_is_fixed(self) -> None:
        """Parts on disk keep their digest: a change here needs a new schema version."""
        table = pa.table(
            {
                "s": pa.array(["a", None, "ü"]),
                "f": pa.array([1.5, None, -0.0]),
                "l": pa.array([[0.25, None], None, []], pa.list_(pa.float64())),
            }
        )
        assert table_digest(table) == GOLDEN


class TestCheck:
    def test_missing(self, storage: Storage) -> None:
        for access in (check_part, read_part):
            with pytest.raises(ObjectNotFoundError):
                access(storage, KEY, "t1")

    def test_other_task(self, storage: Storage) -> None:
        commit(storage, make_table(), task_id="t0")
        for access in (check_part, read_part):
            with pytest.raises(CorruptPartError, match="belongs to task t0, not t1"):
                access(storage, KEY, "t1")
        assert check_part(storage, KEY).task_id == "t0"

    def test_cut_short_anywhere(self, storage: Storage) -> None:
        commit(storage, make_table())
        data = storage.read(KEY)
        for length in [0, 3, 4, 8, 11, 12, *range(13, len(data), 97), len(data) - 1]:
            storage.replace(KEY, data[:length])
            for access in (check_part, read_part):
                with pytest.raises(CorruptPartError, match="not a complete Parquet") as caught:
                    access(storage, KEY, "t1")
                assert "\n" not in str(caught.value)

    def test_changed_row_is_found_when_read(self, storage: Storage) -> None:
        digest = table_digest(make_table())
        overwrite(storage, make_table().set_column(2, "score", pa.array([0.0] * 5)), digest=digest)
        check_part(storage, KEY, "t1")
        with pytest.raises(CorruptPartError, match="digest"):
            read_part(storage, KEY, "t1")

    def test_flipped_byte_is_found_when_read(self, storage: Storage) -> None:
        commit(storage, make_table())
        data = storage.read(KEY)
        footer_bytes = int.from_bytes(data[-8:-4], "little") + 8
        for place in range(4, len(data) - footer_bytes, 29):
            flipped = bytearray(data)
            flipped[place] ^= 0x10
            storage.replace(KEY, bytes(flipped))
            try:
                table = read_part(storage, KEY, "t1")
            except CorruptPartError:
                continue
            assert table.equals(make_table())  # a byte that nobody reads

    def test_newer_schema(self, storage: Storage) -> None:
        overwrite(storage, make_table(), schema_version="2")
        for access in (check_part, read_part):
            with pytest.raises(NewerPartError, match="schema version 2"):
                access(storage, KEY, "t1")

    @pytest.mark.parametrize("name", ["schema_version", "task_id", "attempt", "num_rows", "digest"])
    def test_footer_that_is_not_ours(self, storage: Storage, name: str) -> None:
        overwrite(storage, make_table(), **{name: None})
        with pytest.raises(CorruptPartError, match="not a part of a sweep"):
            check_part(storage, KEY, "t1")

    def test_other_number_of_rows(self, storage: Storage) -> None:
        overwrite(storage, make_table(), num_rows="4")
        with pytest.raises(CorruptPartError, match="has 5 rows, but its footer says 4"):
            check_part(storage, KEY, "t1")

    def test_reads_only_the_tail(self, storage: Storage, monkeypatch: pytest.MonkeyPatch) -> None:
        commit(storage, make_table())
        monkeypatch.setattr(type(storage), "read", None)
        assert check_part(storage, KEY).num_rows == 5

    def test_footer_larger_than_the_first_read(self, storage: Storage) -> None:
        table = make_table(note="x" * 200_000)
        commit(storage, table)
        assert check_part(storage, KEY).metadata["note"] == "x" * 200_000
        assert read_part(storage, KEY).equals(table, check_metadata=True)

    def test_many(self, either_storage: Storage) -> None:
        task_ids = {f"d/{number}.parquet": f"t{number}" for number in range(20)}
        for key, task_id in task_ids.items():
            if task_id != "t7":
                commit_part(either_storage, key, make_table(), task_id=task_id, attempt="a1")
        whole = either_storage.read("d/3.parquet")
        either_storage.replace("d/3.parquet", whole[:-20])
        either_storage.replace("d/5.parquet", whole)
        good, bad = check_parts(either_storage, task_ids)
        assert list(bad) == ["d/3.parquet", "d/5.parquet", "d/7.parquet"]
        assert "not a complete Parquet" in str(bad["d/3.parquet"])
        assert "belongs to task t3" in str(bad["d/5.parquet"])
        assert "does not exist" in str(bad["d/7.parquet"])
        assert list(good) == [key for key in task_ids if key not in bad]
        assert all(good[key].task_id == task_ids[key] for key in good)
        assert check_parts(either_storage, {}) == ({}, {})
