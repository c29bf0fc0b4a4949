"""What a replica makes of a fit that fails: which error ends the run, and which may pass."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from cluster.errors import CorruptPartError, StorageUnavailableError, TransientStorageError
from cluster.storage import Storage, StorageSpec
from jobs.scoring import worker as worker_module
from jobs.scoring.fit_task import FITS_SCHEMA, FitPayload
from jobs.scoring.tables import FITS
from jobs.scoring.worker import ScoredWorker
from steersweep.errors import StopRunError, UserError
from tests.unit.jobs.test_batch_size import factory

PAYLOAD = FitPayload("fit", "m/s/b", "mean_difference", (1,), (), (), (), ())


@pytest.fixture
def worker(tmp_path: Path) -> ScoredWorker:
    """Not loaded: a fit needs no model."""
    made = factory(StorageSpec(str(tmp_path / "out")).open()).build()
    assert isinstance(made, ScoredWorker)
    return made


def failing(monkeypatch: pytest.MonkeyPatch, error: Exception) -> None:
    def fit(*_: Any) -> pa.Table:
        raise error

    monkeypatch.setattr(worker_module, "fit", fit)


def test_a_fit_reads_the_workers_storage_and_makes_the_one_table(
    worker: ScoredWorker, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[tuple[Storage, FitPayload]] = []

    def fit(storage: Storage, payload: FitPayload) -> pa.Table:
        asked.append((storage, payload))
        return FITS_SCHEMA.empty_table()

    monkeypatch.setattr(worker_module, "fit", fit)
    assert worker.run(PAYLOAD) == {FITS: FITS_SCHEMA.empty_table()}
    assert asked == [(worker.storage, PAYLOAD)]


@pytest.mark.parametrize(
    "error",
    [
        UserError("the examples determine no vector", "a second line"),
        CorruptPartError("sums/x.parquet does not match its digest"),
        StopRunError("started before nulls"),
    ],
)
def test_what_the_user_must_change_ends_the_run_with_its_words(
    worker: ScoredWorker, monkeypatch: pytest.MonkeyPatch, error: UserError
) -> None:
    failing(monkeypatch, error)
    with pytest.raises(StopRunError) as raised:
        worker.run(PAYLOAD)
    assert raised.value.lines == error.lines
    assert not isinstance(raised.value, StorageUnavailableError)


@pytest.mark.parametrize(
    "error", [TransientStorageError("slow down"), StorageUnavailableError("no such bucket")]
)
def test_trouble_of_the_storage_is_passed_on_as_it_is(
    worker: ScoredWorker, monkeypatch: pytest.MonkeyPatch, error: StorageUnavailableError
) -> None:
    """A replica tries again after it; as another error it would end the run."""
    failing(monkeypatch, error)
    with pytest.raises(type(error)) as raised:
        worker.run(PAYLOAD)
    assert raised.value is error


def test_a_bug_is_the_tasks_failure(worker: ScoredWorker, monkeypatch: pytest.MonkeyPatch) -> None:
    failing(monkeypatch, ValueError("not those of every example"))
    with pytest.raises(ValueError, match="not those of every example") as raised:
        worker.run(PAYLOAD)
    assert not isinstance(raised.value, UserError)


def test_a_replica_names_the_key_that_helps(
    worker: ScoredWorker, monkeypatch: pytest.MonkeyPatch
) -> None:
    failing(monkeypatch, UserError("states vary too little", cause="too_little_variance"))
    with pytest.raises(StopRunError, match=r"^states vary too little, or another vectors\.method$"):
        worker.run(PAYLOAD)
