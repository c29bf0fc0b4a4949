"""What workers that hold a model share: it is loaded once, and vectors are those of the plan."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch

from cluster.storage import Storage, StorageSpec
from jobs.resources import local_path
from jobs.sweeps import worker as worker_module
from jobs.sweeps.worker import ModelWorker, StoredVectors
from steering_core.models import ModelSource
from steering_core.vectors import SteeringVectors, to_safetensors
from steersweep.errors import UserError

KEY = "vectors/v.safetensors"


@pytest.fixture
def storage(tmp_path: Path) -> Storage:
    return StorageSpec(str(tmp_path / "out")).open()


class Plain(ModelWorker):
    num_prepared = 0

    def prepare(self) -> Mapping[str, str]:
        self.num_prepared += 1
        return {"own": "fact"}

    def run(self, payload: Any) -> Mapping[str, pa.Table]:
        raise NotImplementedError


def worker(storage: Storage, **changes: Any) -> Plain:
    options: dict[str, Any] = {
        "source": ModelSource(local_path("embedded:gemma2-tiny")),
        "device": "cpu",
        "dtype": "float32",
        "num_threads": torch.get_num_threads(),
        "storage": storage.spec,
    }
    return Plain(**{**options, **changes})


def vectors(*layers: int, scale: float = 1.0) -> SteeringVectors:
    whole = {n: np.full(4, n * scale, np.float32) for n in layers}
    return SteeringVectors(whole, {})


def store(storage: Storage, made: SteeringVectors) -> None:
    storage.replace(KEY, to_safetensors(made, {}))


def planned(made: SteeringVectors, *layers: int) -> StoredVectors:
    return StoredVectors(KEY, {layer: made.digest(layer) for layer in layers})


@pytest.fixture
def reads(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names of the files that were read."""
    names: list[str] = []
    real = worker_module.from_safetensors

    def noting(data: bytes, name: str) -> SteeringVectors:
        names.append(name)
        return real(data, name)

    monkeypatch.setattr(worker_module, "from_safetensors", noting)
    return names


def test_the_model_is_loaded_once_and_facts_say_what_was_loaded(
    storage: Storage, monkeypatch: pytest.MonkeyPatch
) -> None:
    loads: list[dict[str, Any]] = []
    real = worker_module.load_model

    def noting(source: ModelSource, **options: Any) -> Any:
        loads.append(options)
        return real(source, **options)

    monkeypatch.setattr(worker_module, "load_model", noting)
    made = worker(storage, gpu_share=0.5)
    made.check_device()  # nothing to check before it is loaded
    facts = made.load()
    assert made.load() is facts
    assert loads == [{"device": "cpu", "dtype": "float32", "gpu_share": 0.5}]
    assert made.num_prepared == 1
    assert (facts["device"], facts["dtype"], facts["own"]) == ("cpu", "float32", "fact")


def test_a_load_that_failed_is_tried_again(storage: Storage) -> None:
    made = worker(storage, source=ModelSource(str(Path(storage.uri) / "nowhere")))
    for _ in range(2):
        with pytest.raises(UserError):
            made.load()
    assert made.num_prepared == 0


def test_the_process_gets_the_threads_of_the_spec(monkeypatch: pytest.MonkeyPatch) -> None:
    set_to: list[int] = []
    monkeypatch.setattr(torch, "set_num_threads", set_to.append)
    monkeypatch.setenv("TOKENIZERS_PARALLELISM", "false")
    monkeypatch.delenv("RAYON_NUM_THREADS", raising=False)
    worker_module.set_up_process(3)
    assert set_to == [3]
    assert worker_module.os.environ["TOKENIZERS_PARALLELISM"] == "true"
    assert worker_module.os.environ["RAYON_NUM_THREADS"] == "3"
    worker_module.set_up_process(1)
    assert worker_module.os.environ["TOKENIZERS_PARALLELISM"] == "false"


def test_vectors_are_read_once_for_all_tasks_that_were_planned_with_them(
    storage: Storage, reads: list[str]
) -> None:
    both = vectors(1, 2)
    store(storage, both)
    made = worker(storage)
    for layers in ((1,), (2,), (1, 2)):
        assert made.vectors(planned(both, *layers)).whole.keys() == {1, 2}
    assert reads == [KEY]


def test_vectors_are_read_again_when_the_file_has_grown(storage: Storage, reads: list[str]) -> None:
    made, small, grown = worker(storage), vectors(1), vectors(1, 2)
    store(storage, small)
    made.vectors(planned(small, 1))
    store(storage, grown)
    assert made.vectors(planned(small, 1)).whole.keys() == {1}, "what is held is enough"
    assert made.vectors(planned(grown, 2)).whole.keys() == {1, 2}
    assert made.vectors(planned(grown, 1, 2)).whole.keys() == {1, 2}
    assert reads == [KEY, KEY]


@pytest.mark.parametrize("layers", [(1,), (2,), (1, 2), (1, 3)])
def test_vectors_that_are_not_those_of_the_plan_are_refused(
    storage: Storage, layers: tuple[int, ...]
) -> None:
    store(storage, vectors(1, 2, scale=2.0))
    made, plan = worker(storage), planned(vectors(1, 2, 3), *layers)
    for read in (made.vectors, made.read_vectors, made.vectors):
        with pytest.raises(UserError, match=r"v\.safetensors does not hold the vectors"):
            read(plan)


def test_vectors_that_became_others_in_storage_show_when_they_are_read_anew(
    storage: Storage,
) -> None:
    """As the certificate's reference does."""
    first = vectors(1)
    store(storage, first)
    made = worker(storage)
    made.vectors(planned(first, 1))
    store(storage, vectors(1, scale=2.0))
    assert made.vectors(planned(first, 1)).whole.keys() == {1}
    with pytest.raises(UserError, match="does not hold the vectors"):
        made.read_vectors(planned(first, 1))
