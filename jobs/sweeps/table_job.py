"""A job whose commands follow from its tables.

Such a job says what a task leaves (``tables``), what these rows come to (``summarise``) and how a
row is computed the slow way (``recompute``). Report, page, status, plan, verify, load and export
are then the same for all of them. A job that has more to say overrides one of these, or implements
``Job`` itself.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cached_property
from typing import TYPE_CHECKING, Any, ClassVar

import pyarrow as pa

from cluster.redaction import redact_all
from jobs.console import Verbosity, print_table, say, warn
from jobs.page.cautions import Caution, of_lost_record, of_random_weights
from jobs.page.page import PageContent, title_of, write_page
from jobs.page.provenance import Ran, ran_of
from jobs.page.render import render
from jobs.page.table import table_of_rows
from jobs.sweeps.estimate import begun
from jobs.sweeps.job import Job, SpecT, StoredOutput, SweepT
from jobs.sweeps.parts import StoredParts
from jobs.sweeps.recorded import recorded_sweep
from jobs.sweeps.report import ReportOptions, say_where, write_table
from jobs.sweeps.session import DriverState
from jobs.sweeps.status import print_steps, set_aside_words, steps_as_json
from jobs.sweeps.stored_table import StoredTable, Tables
from jobs.sweeps.verified import Recomputed, tell
from steering_core.certificate import draw
from steersweep.errors import UserError

if TYPE_CHECKING:
    from jobs.results import Results

_MOST_PRINTED = 40


@dataclass(frozen=True)
class TableOutput(StoredOutput):
    """An output of a ``TableJob``.

    Attributes:
        folders: of its parts.
    """

    folders: tuple[str, ...] = ()

    @cached_property
    def parts(self) -> StoredParts:
        """Every part; rows are held against their digests, as later steps follow from them."""
        return StoredParts(self.storage, self.folders, reads_rows=True)


class TableJob(Job[SpecT, SweepT, TableOutput]):
    """See the module.

    Each task leaves one part. A grid may grow, but what is stored must stay in the spec
    (``Growth.keeps``): so every stored row belongs to the sweep.

    Attributes:
        title: what is run, for the page: ``Letter counts``.
        question: what the job asks, in a sentence, for the page.
        tables: the first one is what ``export`` writes and ``verify`` checks.
        tolerance: of ``verify``.
    """

    title: ClassVar[str]
    question: ClassVar[str] = ""
    tables: ClassVar[Sequence[StoredTable]]
    tolerance: ClassVar[float] = 0.0

    @abstractmethod
    def summarise(self, output: TableOutput) -> Tables:
        """What the stored rows come to: the tables of ``summary/`` by name, the first one printed.

        Raises:
            CorruptPartError: a damaged part.
        """

    @abstractmethod
    def recompute(
        self, sweep: SweepT, output: TableOutput, rows: Sequence[Mapping[str, Any]]
    ) -> Mapping[str, float]:
        """How far rows of the first table are from what the slow and obvious way gives, by name."""

    def finding(self, tables: Tables) -> Sequence[tuple[str, str]]:  # noqa: ARG002
        """What the summary shows, in sentences, each with what it is about; for the page."""
        return ()

    def terms(self, record: Mapping[str, Any]) -> Sequence[tuple[str, str]]:  # noqa: ARG002
        """What ``run.json`` says of the inputs: terms and texts, for the page."""
        return ()

    def open(self, output: StoredOutput) -> TableOutput:
        """See ``Job``."""
        folders = tuple(table.folder for table in self.tables)
        return TableOutput(output.storage, output.ledger, output.record, folders)

    # -- commands -------------------------------------------------------------------------------

    def changes(self, sweep: SweepT, output: TableOutput) -> list[str]:
        """See ``Job``; the folders of parts tell whose they are, even if the record is lost."""
        changes = super().changes(sweep, output)
        if not changes and output.record is None:
            mine = StoredTable.sweep_folder(sweep)
            keys = (key for table in self.tables for key in table.keys(output.storage))
            if any(key.split("/")[1] != mine for key in keys):
                changes.append("a key that cannot be named, as run.json is lost")
        return changes

    def report(self, output: TableOutput, options: ReportOptions) -> Mapping[str, Any]:
        """See ``Job``."""
        options.refuse(self.name, "by", "compare", "pick")
        tables = self.summarise(output)
        for name, table in tables.items():
            write_table(output.storage, name, table)
        first, *_ = tables
        _print(first, tables[first])
        write_page(output.storage, self._page(output, tables, options.set_aside))
        say_where(output.storage)
        return {"figures": None, "result": tables[first].to_pylist()}

    def status(self, output: TableOutput, driver: DriverState) -> Mapping[str, Any]:
        """See ``Job``; if the inputs are not here, only what the last session said is known."""
        say(f"{output.storage.uri}: {driver.told}", at=Verbosity.QUIET)
        set_aside = list(output.last_session.get("set_aside", []))
        for entry in set_aside:
            say(f"set aside: {set_aside_words(entry)}")
        try:
            sweep = recorded_sweep(self, output)
        except UserError as error:
            warn(f"progress is not known: {error}")
            return {"stages": None, "set_aside": set_aside}
        workflow, steps = begun(self, sweep, output)
        print_steps(steps, workflow.totals())
        return {"stages": steps_as_json(steps, workflow.totals()), "set_aside": set_aside}

    def verify(self, output: TableOutput, num_rows: int, seed: int) -> Mapping[str, Any]:
        """See ``Job``."""
        sweep, table = recorded_sweep(self, output), self.tables[0]
        rows = table.read(output.storage)
        if not len(rows):
            raise UserError(f"{output.storage.uri} has no finished {table.name} to verify")
        drawn = rows.take(pa.array(draw(str(seed), len(rows), num_rows))).to_pylist()
        differences = dict(self.recompute(sweep, output, drawn))
        return tell([Recomputed(table.name, differences, self.tolerance)])

    def results(self, output: TableOutput) -> Results:
        """See ``Job``."""
        from jobs.sweeps.table_results import TableResults  # pandas takes a second to load

        return TableResults(self, output)

    # -- the page -------------------------------------------------------------------------------

    def _page(
        self, output: TableOutput, tables: Tables, set_aside: Sequence[Mapping[str, Any]] | None
    ) -> str:
        record, made = redact_all(output.record or {}), datetime.now(UTC)
        # At the end of a session, its record still says that it runs.
        is_complete = output.outcome == "done" if set_aside is None else not set_aside
        ran = Ran()
        if record:
            ran = ran_of(record, self.terms(record), made, is_complete=is_complete)
        cautions = [*of_lost_record(record), *of_random_weights(record), *_failed(set_aside or ())]
        page = PageContent(
            title=title_of(self.title, record, list(record.get("spec", {}).get("models", {}))),
            made=made,
            uri=output.storage.uri,
            ran=ran,
            question=self.question,
            unfinished="" if is_complete else "not complete",
            finding=self.finding(tables),
            cautions=cautions,
            tables=[table_of_rows(name, name, table) for name, table in tables.items()],
        )
        return render(page)


def _failed(set_aside: Sequence[Mapping[str, Any]]) -> Iterator[Caution]:
    if set_aside:
        places = [set_aside_words(entry) for entry in set_aside]
        yield Caution.of("Tasks failed, so rows are missing:", places)


def _print(name: str, table: pa.Table) -> None:
    rows = [[_shown(value) for value in row.values()] for row in table.to_pylist()]
    print_table(f"\n{name}", table.column_names, rows[:_MOST_PRINTED])
    if len(rows) > _MOST_PRINTED:
        say(f"... and {len(rows) - _MOST_PRINTED:,} more rows in summary/{name}.csv")
    say()


def _shown(value: Any) -> str:
    if value is None:
        return "-"
    if isinstance(value, float):
        return f"{value:.4g}"
    return f"{value:,}" if isinstance(value, int) else str(value)
