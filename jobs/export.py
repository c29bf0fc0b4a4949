"""``steersweep export``: all rows of an output in one flat Parquet file, with the texts."""

from __future__ import annotations

import os
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
from rich.progress import BarColumn, Progress, TextColumn

from cluster.storage import Storage
from jobs import __version__
from jobs.console import Verbosity, is_shown, messages, say, warn
from jobs.results import FlatRows
from jobs.sweeps.registry import results_of
from steersweep.errors import UserError

_ROWS_PER_GROUP = 65_536
"""Of a row group: large enough for a fast scan, small enough for a page of the hub's viewer."""
_LINE_EVERY_S = 30.0


@dataclass(frozen=True)
class Exported:
    """The written file."""

    path: Path
    num_rows: int
    num_bytes: int


def export(
    storage: Storage, file: str, *, overwrite: bool = False, side_effects: bool = False
) -> Exported:
    """Write every finished row of an output into one Parquet file.

    The file appears complete or not at all. In memory are one task's rows and one row group.

    Args:
        file: path ending in ``.parquet``.
        overwrite: whether a file of that name may be replaced.
        side_effects: write the rows of all measured data instead of the sweep's own.

    Raises:
        UserError: the file exists or cannot be written; or there is no run, no finished rows, or
            damaged parts.
    """
    path = _target(file, overwrite)
    results = results_of(storage)
    rows = results.flat_side_effects() if side_effects else results.flat_rows()
    if not rows.num_rows:
        raise UserError(
            f"{storage.uri} has no finished rows to export; see `steersweep status {storage.uri}`"
        )
    if results.outcome != "done":
        warn(f"the run is not complete ({results.outcome}); its finished rows are exported")
    if rows.without_texts:
        warn(f"the columns of texts are empty: {rows.without_texts}")
    with _temporary(path) as temporary:
        num_rows = _write(rows, temporary)
        num_bytes = temporary.stat().st_size
        if not overwrite:
            _check_absent(path)
        temporary.replace(path)
    say(f"license of the texts: {rows.source.license} (see the file's metadata)")
    say(f"exported {num_rows:,} rows to {path} ({_size(num_bytes)})")
    return Exported(path, num_rows, num_bytes)


def _target(file: str, overwrite: bool) -> Path:
    """The path to write, or UserError if nothing can be written there."""
    if "://" in file:
        raise UserError(f"{file}: the export is written to a local file; give its path")
    path = Path(file).expanduser()
    if path.suffix != ".parquet":
        raise UserError(f"{file}: the export is a Parquet file; end its name in .parquet")
    if path.is_dir():
        raise UserError(f"{file} is a folder; give the path of a file")
    if not path.parent.is_dir():
        raise UserError(f"{file}: the folder {path.parent} does not exist; create it first")
    if not overwrite:
        _check_absent(path)
    return path


def _check_absent(path: Path) -> None:
    if path.exists():
        raise UserError(f"{path} already exists; give another name, or use --overwrite")


@contextmanager
def _temporary(path: Path) -> Iterator[Path]:
    """A path in the same folder, so that a rename is enough; nothing is left there."""
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}.tmp")
    try:
        yield temporary
    except OSError as error:  # no right to write, or no room; storage has errors of its own
        reason = os.strerror(error.errno) if error.errno else str(error)
        raise UserError(f"{path} cannot be written: {reason}") from error
    finally:
        temporary.unlink(missing_ok=True)


def _write(rows: FlatRows, path: Path) -> int:
    metadata = {**rows.source.metadata(), "created_by": f"steersweep {__version__}"}
    schema = rows.schema.with_metadata(metadata)
    num_rows = 0
    waiting: list[pa.Table] = []
    num_waiting = 0
    # Cutting pages by content makes a second upload of nearly the same file short.
    with (
        pq.ParquetWriter(
            path,
            schema,
            compression="zstd",
            write_page_index=True,
            use_content_defined_chunking=True,
        ) as writer,
        _Shown(rows.num_rows) as shown,
    ):
        for table in rows.tables:
            waiting.append(table)
            num_waiting += len(table)
            num_rows += len(table)
            if num_waiting >= _ROWS_PER_GROUP:
                writer.write_table(pa.concat_tables(waiting), row_group_size=_ROWS_PER_GROUP)
                waiting, num_waiting = [], 0
            shown.update(num_rows)
        if waiting:
            writer.write_table(pa.concat_tables(waiting), row_group_size=_ROWS_PER_GROUP)
    return num_rows


class _Shown:
    """A bar on a terminal; elsewhere a line every 30 s."""

    def __init__(self, total: int) -> None:
        self._total, self._said = total, time.monotonic()
        console = messages()
        self._is_bar = console.is_terminal and is_shown(Verbosity.NORMAL)
        columns = (TextColumn("exporting"), BarColumn(), TextColumn("{task.fields[rows]} rows"))
        self._bar = Progress(*columns, console=console, transient=True, disable=not self._is_bar)
        self._task = self._bar.add_task("", total=total, rows=f"0 of {total:,}")

    def __enter__(self) -> _Shown:
        self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.stop()

    def update(self, num_rows: int) -> None:
        """So many rows are written."""
        text = f"{num_rows:,} of {self._total:,}"
        self._bar.update(self._task, completed=num_rows, rows=text)
        if not self._is_bar and time.monotonic() - self._said > _LINE_EVERY_S:
            self._said = time.monotonic()
            say(f"exporting {text} rows")


def _size(num_bytes: int) -> str:
    if num_bytes < 10**6:
        return f"{num_bytes / 1e3:.1f} kB"
    return f"{num_bytes / 1e6:.1f} MB" if num_bytes < 10**9 else f"{num_bytes / 1e9:.2f} GB"
