"""Making a run's report: the files of ``summary/``, and where everything is."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import pyarrow.csv as pa_csv
import pyarrow.parquet as pq

from cluster.storage import Storage
from jobs.console import detail, link, say
from jobs.page.page import PAGE_KEY
from jobs.words import count
from steersweep.errors import UserError

SUMMARY = "summary/"


@dataclass(frozen=True)
class ReportOptions:
    """How a report is made.

    Attributes:
        figures: whether to draw them.
        set_aside: what failed in the session under way; None: what the last session wrote down.
        others: other runs, to compare with this one.
        by: columns that the printed result separates, with commas between them; None: its short
            form.
        pick: a condition on a change, by which steerings are chosen; None: nothing is chosen.
    """

    figures: bool = True
    set_aside: Sequence[Mapping[str, Any]] | None = None
    others: Sequence[Storage] = ()
    by: str | None = None
    pick: str | None = None

    def refuse(self, job: str, *names: str) -> None:
        """Refuse options that a job does not have.

        Args:
            names: of the options, without dashes: ``by``, ``compare``, ``pick``.

        Raises:
            UserError: one of them was given.
        """
        given = {"by": self.by, "compare": self.others, "pick": self.pick}
        if refused := [f"--{name}" for name in names if given[name]]:
            verb = "is" if len(refused) == 1 else "are"
            raise UserError(f"{' and '.join(refused)} {verb} not available for job: {job}")


def parse_by(text: str, columns: Sequence[str]) -> frozenset[str]:
    """The columns named by ``--by layer,coeff``.

    Raises:
        UserError: a name that is no column of the result.
    """
    names = [name.strip() for name in text.split(",")]
    for name in names:
        if name not in columns:
            raise UserError(f"--by takes {', '.join(columns)} separated by commas, got {name!r}")
    return frozenset(names)


def write_table(
    storage: Storage, name: str, table: pa.Table, *, only_with_rows: bool = False
) -> None:
    """Write a table of ``summary/`` as Parquet and CSV.

    Args:
        only_with_rows: a table without rows is not written, and what an earlier report left goes.
    """
    keys = {kind: f"{SUMMARY}{name}.{kind}" for kind in ("parquet", "csv")}
    if only_with_rows and not table.num_rows:
        for key in keys.values():
            storage.delete(key)
        return
    detail(f"writing {storage.uri_of(keys['parquet'])} ({count(table.num_rows, 'row')})")
    sink = pa.BufferOutputStream()
    pq.write_table(table, sink, compression="zstd")
    storage.replace(keys["parquet"], sink.getvalue().to_pybytes())
    sink = pa.BufferOutputStream()
    pa_csv.write_csv(table, sink)
    storage.replace(keys["csv"], sink.getvalue().to_pybytes())


def say_where(storage: Storage) -> None:
    """Say where tables and page are."""
    say(f"tables:  {storage.uri_of('summary')}")
    say(f"page:    {link(storage.uri_of(PAGE_KEY))}")
