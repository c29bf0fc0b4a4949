"""One batch size for all replicas and sessions of an output, whoever measured it."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from cluster.errors import TransientStorageError
from cluster.replica import Replica
from cluster.storage import Storage, StorageSpec
from cluster.tasks import Failure, FailureKind, Task, WorkerFactory
from jobs.resources import local_path
from jobs.scoring import worker as worker_module
from jobs.scoring.batch_size import TUNING, ModelTuning, read_tuning, tuning_key
from jobs.scoring.set_scorer import Payload
from jobs.scoring.worker import ScoredWorker
from jobs.spec import CertificateSpec
from jobs.stereoset.groups import group_of
from jobs.stereoset.tables import StereoSetRows
from steering_core.engine import Engine
from steering_core.models import ModelSource
from steering_core.protocol import PROTOCOLS
from steering_core.stereoset import read_stereoset
from steering_core.tuning import Tuning, tune
from steersweep.errors import UserError
from tests.support.sweeps import steersweep, write_spec

KEY = tuning_key("tiny")


@pytest.fixture
def storage(tmp_path: Path) -> Storage:
    return StorageSpec(str(tmp_path / "out")).open()


@pytest.fixture
def used(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Sizes that tasks were scored with, in the order in which they ran."""
    sizes: list[int] = []

    def noting(run: Callable[..., Any]) -> Callable[..., Any]:
        def noted(self: Engine, rows: Sequence[Any], tokens: int, *more: Any, **named: Any) -> Any:
            sizes.append(tokens)
            return run(self, rows, tokens, *more, **named)

        return noted

    monkeypatch.setattr(Engine, "baseline", noting(Engine.baseline))
    monkeypatch.setattr(Engine, "steered", noting(Engine.steered))
    return sizes


def measuring(monkeypatch: pytest.MonkeyPatch, *sizes: int) -> list[int]:
    """Let these come out of the next measurements, the first one first; returns those that did."""
    left, made = list(sizes), list[int]()

    def measured(*_: Any, **__: Any) -> Tuning:
        made.append(left.pop(0))
        return Tuning(made[-1], {made[-1]: 1.5})

    monkeypatch.setattr(worker_module, "tune", measured)
    return made


def factory(storage: Storage) -> WorkerFactory:
    return WorkerFactory(
        "jobs.scoring.worker:ScoredWorker",
        {
            "source": ModelSource(local_path("embedded:gemma2-tiny")),
            "protocol": PROTOCOLS["as_published"],
            "layers": (1,),
            "rows": StereoSetRows(),
            "device": "cpu",
            "dtype": "float32",
            "num_threads": 1,
            "storage": storage.spec,
            "certificate": CertificateSpec(rows_per_task=0),
            "tuning_key": KEY,
        },
    )


def worker(storage: Storage) -> ScoredWorker:
    made = factory(storage).build()
    made.load()
    assert isinstance(made, ScoredWorker)
    return made


def payload(tokens_per_batch: int | None = None) -> Payload:
    data = read_stereoset(local_path("embedded:examples.json"))
    examples = data.group("intersentence", "race", None, 0)
    folds = (0,) * len(examples)
    group = group_of("tiny", "intersentence", "race")
    return Payload(
        "task", group, ("sums", "baseline"), examples, folds, tokens_per_batch, layers=(1, 4)
    )


def test_the_first_replica_measures_and_all_use_what_it_stored(
    storage: Storage, used: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    made = measuring(monkeypatch, 700)
    first, second = worker(storage), worker(storage)
    for each in (first, second, first, worker(storage)):
        each.run(payload())
    assert made == [700]
    assert used == [700] * 4
    assert json.loads(storage.read(KEY)) == {
        "tuning_version": 1,
        "tokens_per_batch": 700,
        "rows_per_s": {"700": 1.5},
    }


def test_of_two_that_measure_at_a_time_one_wins(
    storage: Storage, used: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second = worker(storage), worker(storage)
    made = measuring(monkeypatch, 700)

    def overtaken(*_: Any, **__: Any) -> Tuning:
        measuring(monkeypatch, 700)
        first.run(payload())
        return Tuning(300, {})

    monkeypatch.setattr(worker_module, "tune", overtaken)
    second.run(payload())
    assert made == []
    assert used == [700, 700]
    assert read_tuning(storage, KEY) == ModelTuning(700, {700: 1.5})


def test_a_task_with_a_number_asks_nobody(
    storage: Storage, used: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    measuring(monkeypatch)
    worker(storage).run(payload(450))
    assert used == [450]
    assert not [*storage.list(KEY)]


def test_what_is_measured_is_the_payloads_rows_on_an_engine_of_its_own(
    storage: Storage, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[Any] = []

    def looking(score: Any, model: Any, rows: Any, **options: Any) -> Tuning:
        seen.append((rows, options))
        return tune(score, model, rows, budget_s=0.1, **options)

    monkeypatch.setattr(worker_module, "tune", looking)
    own = worker(storage)
    engines: list[Engine] = []
    baseline = Engine.baseline

    def noting(self: Engine, *arguments: Any, **named: Any) -> Any:
        engines.append(self)
        return baseline(self, *arguments, **named)

    monkeypatch.setattr(Engine, "baseline", noting)
    own.run(payload())
    ((rows, options),) = seen
    assert [row.example.example_id for row in rows] == [e.example_id for e in payload().examples]
    assert options == {"is_packed": True}
    assert engines[-1] is own._engine
    assert engines[-1] not in engines[:-1]


DAMAGED = {
    "empty": b"",
    "no object": b"[]",
    "no number": b'{"tuning_version": 1, "rows_per_s": {}}',
    "zero": b'{"tuning_version": 1, "tokens_per_batch": 0, "rows_per_s": {}}',
    "text": b'{"tuning_version": 1, "tokens_per_batch": "700", "rows_per_s": {}}',
    "true": b'{"tuning_version": 1, "tokens_per_batch": true, "rows_per_s": {}}',
    "no kernels": b'{"tuning_version": 2, "tokens_per_batch": 700, "rows_per_s": {}}',
    "given": b'{"tuning_version": 1, "tokens_per_batch": null, "rows_per_s": {}}',
    "no rates": b'{"tuning_version": 1, "tokens_per_batch": 700}',
    "another version": b'{"tuning_version": 3, "tokens_per_batch": 700, "rows_per_s": {}}',
    "deep": b"[" * 100_000,
    "not text": b"\xff\xfe\xfd",
}


@pytest.mark.parametrize("what", list(DAMAGED))
def test_a_damaged_file_is_one_line_that_says_to_delete_it(what: str, storage: Storage) -> None:
    storage.replace(KEY, DAMAGED[what])
    with pytest.raises(UserError, match=r"tiny\.json is damaged; delete it") as caught:
        read_tuning(storage, KEY)
    assert "\n" not in str(caught.value)


def test_a_store_that_is_away_is_storage_trouble_and_damage_is_the_runs(
    storage: Storage, monkeypatch: pytest.MonkeyPatch
) -> None:
    task = Task("task", "tiny", 1.0, {"sums": "sums/x", "baseline": "baseline/x"}, payload())
    replica = Replica(factory(storage), storage.spec)
    assert not isinstance(replica.ready(), Failure)
    storage.replace(KEY, b"")
    damaged = replica.run(task, "a")
    assert isinstance(damaged, Failure)
    assert (damaged.kind, damaged.user_must_act) == (FailureKind.RUN, True)

    def away(*_: Any) -> bytes:
        raise TransientStorageError("no answer")

    monkeypatch.setattr(type(storage), "read", away)
    failed = replica.run(task, "b")
    assert isinstance(failed, Failure)
    assert failed.kind is FailureKind.STORAGE


# Whole runs


def sweep(folder: Path, coeffs: Sequence[float], tokens: int | str) -> Path:
    return write_spec(
        folder / "sweep.yaml",
        data={
            "path": "embedded:examples.json",
            "splits": ["intersentence"],
            "bias_types": ["race"],
        },
        steering={"layers": [2], "coeffs": list(coeffs)},
        compute={"executor": "in_process", "tokens_per_batch": tokens},
        certificate={"rows_per_task": 0},
    )


def planned_sizes(output: Path) -> list[int | None]:
    files = sorted((output / "manifest").glob("*.parquet"))
    return [n for file in files for n in pq.read_table(file)["tokens_per_batch"].to_pylist()]


def test_a_later_session_goes_on_with_the_size_that_is_stored(
    tmp_path: Path, used: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    made, output = measuring(monkeypatch, 700), tmp_path / "out"
    assert steersweep("run", str(sweep(tmp_path, [1], "auto"))).code == 0
    grown = steersweep("run", str(sweep(tmp_path, [1, 2], "auto")))
    assert grown.code == 0, grown
    # Where an output was planned with `auto`, a number in the spec comes too late.
    assert steersweep("run", str(sweep(tmp_path, [1, 2, 3], 450))).code == 0
    assert made == [700]
    assert set(used) == {700}
    assert planned_sizes(output) == [None] * 4
    assert (
        "tiny: batches of 700 tokens, measured"
        in steersweep("status", str(output), "--verbose").out
    )
    logs = "".join(file.read_text() for file in (output / "log").iterdir())
    assert "batches of 700 tokens" in logs


def test_a_size_that_was_not_timed_is_not_told_as_measured(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(worker_module, "tune", lambda *_, **__: Tuning(8192, {}))
    assert steersweep("run", str(sweep(tmp_path, [1], "auto"))).code == 0
    told = steersweep("status", str(tmp_path / "out"), "--verbose").out
    assert "tiny: batches of 8,192 tokens\n" in told


def test_an_output_that_was_planned_with_a_number_keeps_it(
    tmp_path: Path, used: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    measuring(monkeypatch)
    output = tmp_path / "out"
    assert steersweep("run", str(sweep(tmp_path, [1], 450))).code == 0
    assert steersweep("run", str(sweep(tmp_path, [1, 2], "auto"))).code == 0
    assert set(used) == {450}
    assert planned_sizes(output) == [450] * 3
    assert not (output / TUNING).exists()
    shown = steersweep("status", str(output), "--verbose").out
    assert "tiny: batches of 450 tokens\n" in shown


def test_a_damaged_size_stops_the_run_until_it_is_deleted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    measuring(monkeypatch, 700, 300)
    output = tmp_path / "out"
    assert steersweep("run", str(sweep(tmp_path, [1], "auto"))).code == 0
    (output / KEY).write_bytes(b"{")
    spec = str(sweep(tmp_path, [1, 2], "auto"))
    for command in (("run", spec), ("status", str(output))):
        finished = steersweep(*command)
        assert (finished.code, finished.err.count("\n")) == (2, 1), finished
        assert f"{output / KEY} is damaged; delete it" in finished.err
    (output / KEY).unlink()
    assert steersweep("run", spec).code == 0


def test_a_lost_record_and_manifest_cost_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The size that was measured is not part of what a task is called."""
    measuring(monkeypatch, 700)
    spec, output = sweep(tmp_path, [1], "auto"), tmp_path / "out"
    assert steersweep("run", str(spec)).code == 0
    (output / "run.json").unlink()
    for file in (output / "manifest").iterdir():
        file.unlink()
    again = steersweep("run", str(spec))
    assert (again.code, "nothing left to compute" in again.out) == (0, True), again


def test_a_tuning_alone_is_an_output_that_is_ours(tmp_path: Path) -> None:
    (tmp_path / "out" / TUNING).mkdir(parents=True)
    (tmp_path / "out" / KEY).write_text(
        '{"tuning_version": 1, "tokens_per_batch": 700, "rows_per_s": {}}'
    )
    assert steersweep("run", str(sweep(tmp_path, [1], "auto"))).code == 0
