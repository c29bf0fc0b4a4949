"""A replica that chooses kernels, stores them, and scores a task with them."""

from __future__ import annotations

import json
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest

from cluster.storage import StorageSpec
from jobs.scoring import worker as worker_module
from jobs.scoring.worker import ScoredWorker
from jobs.spec import CertificateSpec
from jobs.sweeps.certificate import TaskCertificate
from steering_core.kernels import choice
from tests.interpreted.clock import clock
from tests.unit.jobs.test_batch_size import KEY, factory, payload


def test_a_task_is_scored_with_the_kernels_that_were_chosen(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The certificate holds its rows to the model's own code, twenty times closer than usual."""
    clock(monkeypatch, slow="gated_product")
    # The interpreter is slow: short rows, and test_engine.py tries the last step.
    monkeypatch.setattr(choice, "_PREFIX", 8)
    monkeypatch.setattr(choice, "_why_passes_differ", lambda *_: None)
    choose = partial(choice.choose_kernels, num_positions=16)
    monkeypatch.setattr(worker_module, "choose_kernels", choose)
    shortest = min(payload().examples, key=lambda e: sum(map(len, (e.context, *e.sentences))))
    task = replace(payload(600), examples=(shortest,), folds=(0,), layers=(1,))
    storage = StorageSpec(str(tmp_path / "out")).open()
    made = factory(storage)
    certificate = CertificateSpec(rows_per_task=1, tolerance=5e-3)
    options = {"dtype": "float16", "certificate": certificate, "accelerate": True}
    worker = type(made)(made.target, {**made.kwargs, **options}).build()
    assert isinstance(worker, ScoredWorker)
    worker.load()
    table = worker.run(task)["baseline"]
    metadata = {k.decode(): v.decode() for k, v in table.schema.metadata.items()}
    found = TaskCertificate.from_footer(metadata)
    assert found is not None
    assert (found.path, found.found.holds, found.found.num_rows_checked) == ("engine", True, 1)
    assert worker._engine.kernels == ("attention", "log_sum_exp", "rms_norm")
    stored = json.loads(storage.read(KEY))
    assert stored["kernels"] == list(worker._engine.kernels)
    assert set(stored["kernel_checks"]) == {*worker._engine.kernels, "gated_mlp"}
