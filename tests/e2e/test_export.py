"""An output as five libraries read it, and the flat file that ``steersweep export`` makes of it."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import datasets
import duckdb
import pandas as pd
import polars as pl
import pyarrow as pa
import pyarrow.dataset as ds
import pyarrow.parquet as pq
import pytest
from pandas.testing import assert_frame_equal, assert_series_equal

import steersweep
from cluster.errors import CorruptPartError
from cluster.storage import StorageSpec
from jobs import export
from jobs.scoring import flat
from jobs.stereoset.results import flat_layout
from tests.support.stored_outputs import STORED_OUTPUTS, copy_stored_output
from tests.support.sweeps import steersweep as command
from tests.support.sweeps import write_spec
from tests.support.terminal import steersweep_on_terminal

PARTITION = ["model", "split", "bias_type"]
KEYS = ["table", "null", *PARTITION, "layer", "coeff", "example_id"]
TEXTS = ["context", "candidates", "labels"]
FOLDERS = ("baseline", "steered", "nulls")


@pytest.fixture(scope="module")
def output(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished output with both kinds of nulls and its texts."""
    copied = copy_stored_output("stereoset", tmp_path_factory.mktemp("export"))
    assert command("report", str(copied)).code == 0
    return copied


def plain(rows: pd.DataFrame) -> pd.DataFrame:
    """Rows in one order and with one kind of missing value, whatever library has read them."""
    frame = rows.assign(null=rows.get("null"))[[c for c in COLUMNS if c in rows or c == "null"]]
    frame = frame.astype(dict.fromkeys(["table", "null", *PARTITION], "object"))
    frame = frame.astype(object).where(frame.notna(), None)
    for name in set(TEXTS[1:]) & set(frame.columns):
        frame[name] = frame[name].map(list)
    order = frame[KEYS].astype(str).apply(tuple, axis=1).sort_values().index
    return frame.loc[order].reset_index(drop=True)


DRAWS = ["vectors", "draw"]
"""Columns that the folders of an output by an earlier version do not say."""
COLUMNS = [name for name in flat_layout().schema.names if name not in DRAWS]


def with_pandas(folder: Path) -> pd.DataFrame:
    return pd.read_parquet(folder)


def with_pyarrow(folder: Path) -> pd.DataFrame:
    return ds.dataset(folder, partitioning="hive").to_table().to_pandas()


def with_polars(folder: Path) -> pd.DataFrame:
    found = pl.read_parquet(folder / "**/*.parquet", hive_partitioning=True)
    return pd.DataFrame(found.to_dicts())


def with_duckdb(folder: Path) -> pd.DataFrame:
    query = "SELECT * FROM read_parquet(?, hive_partitioning = true)"
    return duckdb.execute(query, [str(folder / "**" / "*.parquet")]).df()


def with_load(folder: Path) -> pd.DataFrame:
    return getattr(steersweep.load(str(folder.parent)), folder.name)


@pytest.fixture(scope="module")
def flat_file(output: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("flat") / "all.parquet"
    finished = command("export", str(output), str(file))
    assert finished.code == 0, finished
    size = f"{file.stat().st_size / 1000:.1f} kB"
    assert f"exported 156 rows to {file} ({size})" in finished.out.splitlines()
    assert "license of the texts: apache-2.0" in finished.out
    assert [path.name for path in file.parent.iterdir()] == ["all.parquet"]
    return file


@pytest.fixture(scope="module")
def exported(flat_file: Path, tmp_path_factory: pytest.TempPathFactory) -> pd.DataFrame:
    """The rows of the flat file as Hugging Face ``datasets`` reads them."""
    cache = str(tmp_path_factory.mktemp("cache"))
    found = datasets.load_dataset("parquet", data_files=str(flat_file), cache_dir=cache)
    return pd.DataFrame(found["train"].to_list())


@pytest.mark.parametrize("read", [with_pandas, with_pyarrow, with_polars, with_duckdb])
def test_every_library_finds_the_same_rows(
    read: Callable[[Path], pd.DataFrame], output: Path, exported: pd.DataFrame
) -> None:
    num_rows = 0
    for name in FOLDERS:
        rows = plain(read(output / name).assign(table=name))
        wanted = plain(exported[exported["table"] == name].drop(columns=TEXTS))
        assert_frame_equal(rows, wanted, check_dtype=False)
        num_rows += len(rows)
    assert num_rows == len(exported) == 12 + 48 + 96
    assert set(exported.loc[exported["table"] == "nulls", "null"]) == {"random", "shuffled"}


def test_held_out_rows_and_draws_of_nulls_are_exported(tmp_path: Path) -> None:
    spec = write_spec(
        tmp_path / "sweep.yaml",
        data={"path": "embedded:examples.json", "bias_types": ["race"]},
        steering={"layers": [2], "coeffs": [20]},
        nulls={"shuffled": 2},
    )
    assert command("run", str(spec), "--no-figures").code == 0
    file = tmp_path / "all.parquet"
    assert command("export", str(tmp_path / "out"), str(file)).code == 0
    exported = pd.read_parquet(file).astype({"draw": "Int32"})
    for table in ("steered", "held_out", "nulls"):
        rows = pd.read_parquet(tmp_path / "out" / table)
        assert set(rows) >= {"score_stereotype", *(DRAWS if table == "nulls" else [])}
        wanted = exported[exported["table"] == table]
        keys = ["task_id", "split", "example_id", *(DRAWS if table == "nulls" else [])]
        scores = [
            frame.astype(dict.fromkeys(keys, str)).set_index(keys)["score_stereotype"].sort_index()
            for frame in (rows, wanted)
        ]
        assert_series_equal(*scores)
    draws = exported.loc[exported["table"] == "nulls", DRAWS].drop_duplicates()
    assert sorted(draws.itertuples(index=False, name=None)) == [
        (vectors, draw) for vectors in ("held_out", "in_sample") for draw in range(2)
    ]


def test_load_finds_the_same_rows(output: Path, exported: pd.DataFrame) -> None:
    for name in ("baseline", "steered"):
        rows = plain(with_load(output / name).assign(table=name))
        assert_frame_equal(
            rows, plain(exported[exported["table"] == name].drop(columns=TEXTS)), check_dtype=False
        )


def test_every_row_has_its_texts(output: Path, exported: pd.DataFrame) -> None:
    texts = steersweep.load(str(output)).examples.set_index(["split", "example_id"])
    for row in exported.to_dict("records"):
        wanted = texts.loc[row["split"], row["example_id"]]
        assert row["context"] == wanted["context"]
        assert row["candidates"] == list(wanted["candidates"])
        assert row["labels"] == list(wanted["labels"])
        assert row["labels"][row["choice_index"]] == row["choice"]


def test_the_file_says_where_its_texts_come_from(flat_file: Path) -> None:
    metadata = {k.decode(): v.decode() for k, v in pq.read_schema(flat_file).metadata.items()}
    assert metadata["license"] == "apache-2.0"
    assert metadata["created_by"].startswith("steersweep ")
    info = datasets.DatasetInfo.from_dict(json.loads(metadata["huggingface"])["info"])
    assert info.license == "apache-2.0"


@pytest.mark.parametrize("name", ["persona", "persona-stopped"])
def test_answers_are_exported_with_their_scores(name: str, tmp_path: Path) -> None:
    finished = command("export", str(STORED_OUTPUTS / name), str(tmp_path / "answers.parquet"))
    assert finished.code == 0, finished
    assert ("the run is not complete (interrupted)" in finished.err) == (name != "persona")
    found = pq.read_table(tmp_path / "answers.parquet").to_pandas()
    answers = steersweep.load(str(STORED_OUTPUTS / name)).answers
    assert set(found.pop("table")) == {"answers"}
    assert_frame_equal(found, answers, check_dtype=False)


def test_rows_are_streamed(
    output: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, exported: pd.DataFrame
) -> None:
    held, most = 0, 0
    read, write = flat.read_part, pq.ParquetWriter.write_table

    def reading(*arguments: str) -> pa.Table:
        nonlocal held, most
        table = read(*arguments)
        held += len(table)
        most = max(most, held)
        return table

    def writing(writer: pq.ParquetWriter, table: pa.Table, **options: int) -> None:
        nonlocal held
        held -= len(table)
        write(writer, table, **options)

    monkeypatch.setattr(flat, "read_part", reading)
    monkeypatch.setattr(pq.ParquetWriter, "write_table", writing)
    monkeypatch.setattr(export, "_ROWS_PER_GROUP", 20)
    file = tmp_path / "streamed.parquet"
    assert command("export", str(output), str(file)).code == 0
    assert held == 0
    assert most < 20 + 12, "a row group and a part are in memory"
    assert pq.ParquetFile(file).num_row_groups > 4
    assert_frame_equal(plain(pd.read_parquet(file)), plain(exported), check_dtype=False)


def test_a_file_that_is_there_is_kept(output: Path, tmp_path: Path) -> None:
    file = tmp_path / "mine.parquet"
    file.write_text("mine")
    refused = command("export", str(output), str(file))
    assert (refused.code, refused.out) == (2, "")
    assert "already exists; give another name, or use --overwrite" in refused.err
    assert file.read_text() == "mine"
    assert command("export", str(output), str(file), "--overwrite").code == 0
    assert pq.read_metadata(file).num_rows == 156


@pytest.mark.parametrize(
    ("file", "told"),
    [
        ("gone/all.parquet", "does not exist"),
        ("all.csv", "end its name in .parquet"),
        ("s3://bucket/all.parquet", "written to a local file"),
        ("folder.parquet", "is a folder"),
        ("plain/all.parquet", "does not exist"),
    ],
)
def test_a_place_that_cannot_be_written_is_one_line(
    file: str, told: str, output: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("folder.parquet").mkdir()
    Path("plain").write_text("a file")
    refused = command("export", str(output), file)
    assert (refused.code, refused.out) == (2, "")
    assert told in refused.err
    assert len(refused.err.splitlines()) == 1
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["folder.parquet", "plain"]


def test_nothing_is_left_where_the_export_fails(
    output: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    target = tmp_path / "target"
    target.mkdir()
    kept = target / "all.parquet"
    kept.write_text("the earlier export")

    def full(*_arguments: object, **_options: object) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(pq.ParquetWriter, "write_table", full)
        refused = command("export", str(output), str(kept), "--overwrite")
    assert refused.code == 2
    assert f"{kept} cannot be written: No space left on device" in refused.err
    damaged = copy_stored_output("stereoset", tmp_path)
    part = next((damaged / "nulls").rglob("*.parquet"))
    part.write_bytes(part.read_bytes()[:200] + b"\0" * 8 + part.read_bytes()[208:])
    assert command("export", str(damaged), str(kept), "--overwrite").code == 2
    with pytest.raises(CorruptPartError):
        export.export(StorageSpec(str(damaged)).open(), str(kept), overwrite=True)
    nothing = command("export", str(tmp_path / "nothing"), str(kept), "--overwrite")
    assert nothing.code == 2
    assert "holds no run of steersweep" in nothing.err
    assert [path.name for path in target.iterdir()] == ["all.parquet"]
    assert kept.read_text() == "the earlier export"


def test_rows_without_texts_are_exported_with_a_warning(output: Path, tmp_path: Path) -> None:
    copied = copy_stored_output("stereoset", tmp_path)
    record = copied / "run.json"
    record.write_text(record.read_text().replace("embedded:examples.json", "gone.json"))
    finished = command("export", str(copied), str(tmp_path / "all.parquet"))
    assert finished.code == 0, finished
    assert "the columns of texts are empty" in finished.err
    found = pd.read_parquet(tmp_path / "all.parquet")
    assert found[TEXTS].isna().all(axis=None)
    assert len(found) == 156


def test_an_output_on_s3_is_exported(
    output: Path, tmp_path: Path, s3_uri: str, s3_endpoint: str, exported: pd.DataFrame
) -> None:
    storage = StorageSpec(s3_uri, s3_endpoint).open()
    for path in output.rglob("*"):
        if path.is_file():
            storage.replace(path.relative_to(output).as_posix(), path.read_bytes())
    file = str(tmp_path / "all.parquet")
    finished = command("export", s3_uri, file, "--endpoint-url", s3_endpoint)
    assert finished.code == 0, finished
    assert_frame_equal(plain(pd.read_parquet(file)), plain(exported), check_dtype=False)


def test_what_is_printed_fits_a_terminal(output: Path, tmp_path: Path) -> None:
    file = tmp_path / "all.parquet"
    screen = steersweep_on_terminal("export", str(output), str(file))
    assert screen.code == 0
    screen.check()
    assert "156 of 156 rows" in screen.text
    assert f"exported 156 rows to {file} (" in " ".join(screen.text.split())
    quiet = steersweep_on_terminal("export", str(output), str(file), "--overwrite", "--quiet")
    assert (quiet.code, quiet.text) == (0, "")
