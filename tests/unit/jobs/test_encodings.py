"""A shard is encoded once, and what is kept is bounded."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch

from cluster.storage import StorageSpec
from jobs.scoring.encodings import Encodings
from jobs.scoring.set_scorer import Payload
from jobs.scoring.worker import ScoredWorker
from jobs.spec import CertificateSpec
from jobs.stereoset.groups import group_of
from jobs.stereoset.tables import StereoSetRows
from steering_core.encoding import ExampleEncoder
from steering_core.models import ModelSource
from steering_core.protocol import PROTOCOLS
from tests.support.golden import golden_examples, model_path


def test_the_shard_that_was_used_longest_ago_goes_first() -> None:
    encoded: list[Any] = []

    def encode(examples: Sequence[Any]) -> list[Any]:
        encoded.append(examples)
        return [f"{example}'s tokens" for example in examples]

    encodings: Any = Encodings(encode, most_rows=5)
    first, second, third = ("a", "b"), ("c", "d"), ("e", "f")
    for shard in (first, second, first):
        assert encodings.of(shard) == [f"{example}'s tokens" for example in shard]
    assert encoded == [first, second]
    encodings.of(third)  # six rows: the second shard goes
    encodings.of(first)
    assert encoded == [first, second, third]
    encodings.of(second)
    assert encoded == [first, second, third, second]
    # A shard of more rows than that is kept alone.
    large = tuple("ghijkl")
    encodings.of(large)
    encodings.of(large)
    assert encoded[4:] == [large]


def worker_of(folder: Path, **options: Any) -> ScoredWorker:
    return ScoredWorker(
        source=ModelSource(str(model_path("gemma2-tiny"))),
        protocol=PROTOCOLS["as_published"],
        layers=(2,),
        rows=StereoSetRows(),
        device="cpu",
        dtype="float32",
        storage=StorageSpec(str(folder)),
        certificate=CertificateSpec(rows_per_task=0),
        tuning_key="tuning/m.json",
        **options,
    )


def test_a_worker_encodes_a_shard_once_for_all_its_tasks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[int] = []
    own = ExampleEncoder.encode

    def encode(self: ExampleEncoder, examples: Sequence[Any]) -> list[Any]:
        calls.append(len(examples))
        return own(self, examples)

    monkeypatch.setattr(ExampleEncoder, "encode", encode)
    monkeypatch.setattr(torch, "set_num_threads", lambda _num: None)
    worker = worker_of(tmp_path, num_threads=1)
    worker.load()
    tables = []
    for task in ("one", "two"):
        # Anew, as they come from another process: equal, not the same.
        examples = tuple(golden_examples().group("intersentence", "race")[:2])
        payload = Payload(
            task,
            group_of("tiny", "intersentence", "race"),
            ("baseline",),
            examples,
            (0, 0),
            tokens_per_batch=512,
        )
        tables.append(worker.run(payload)["baseline"].drop_columns(["task_id"]))
    assert calls == [2]
    assert tables[0] == tables[1]


@pytest.mark.parametrize(("num_threads", "wanted"), [(1, "false"), (4, "true")])
def test_texts_are_tokenized_with_the_threads_of_the_replica(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, num_threads: int, wanted: str
) -> None:
    monkeypatch.setenv("TOKENIZERS_PARALLELISM", "false")  # as the driver leaves it
    monkeypatch.setenv("RAYON_NUM_THREADS", "")
    monkeypatch.delenv("RAYON_NUM_THREADS")
    monkeypatch.setattr(torch, "set_num_threads", lambda _num: None)
    worker_of(tmp_path, num_threads=num_threads).load()
    assert os.environ["TOKENIZERS_PARALLELISM"] == wanted
    assert os.environ["RAYON_NUM_THREADS"] == str(num_threads)
