"""The results of a ``TableJob`` as pandas frames."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pandas as pd

from jobs.data_source import DataSource
from jobs.results import FlatRows, Results

if TYPE_CHECKING:
    from jobs.sweeps.table_job import TableJob, TableOutput


class TableResults(Results):
    """Each table of the job is an attribute."""

    def __init__(self, job: TableJob[Any, Any], output: TableOutput) -> None:
        super().__init__(output.storage, output.record or {})
        self._job, self._output = job, output
        self._stored = {table.name: table for table in job.tables}
        self.tables = tuple(self._stored)

    def flat_rows(self) -> FlatRows:
        """The rows of the job's first table."""
        table = self._job.tables[0]
        return FlatRows(
            schema=table.schema,
            num_rows=table.num_rows(self._storage),
            tables=table.read_parts(self._storage),
            source=DataSource("unknown", "the license is what the source of the texts states"),
        )

    def _computed_summary(self) -> dict[str, pd.DataFrame]:
        summary = self._job.summarise(self._output)
        return {name: table.to_pandas() for name, table in summary.items()}

    def _about(self, name: str) -> str:
        return self._stored[name].about if name in self._stored else super()._about(name)

    def __getattr__(self, name: str) -> pd.DataFrame:
        # Called once for each table: what is found is kept as an attribute.
        stored = self.__dict__.get("_stored", {})
        if name not in stored:
            raise AttributeError(f"{type(self).__name__} has no attribute {name!r}")
        frame: pd.DataFrame = stored[name].read(self._storage).to_pandas()
        self.__dict__[name] = frame
        return frame
