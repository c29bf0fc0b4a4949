"""The scripts that measure scale measure whole runs; no time is asserted."""

from __future__ import annotations

from argparse import Namespace
from pathlib import Path

import pytest

from cluster.storage import StorageSpec
from jobs.scoring.inventory import take_inventory
from tests.scale.driver import measure
from tests.scale.resume import (
    PARTS_OF_AN_EXAMPLE,
    drive,
    finish,
    lay_parts,
    resume,
    write_sweep,
)
from tests.scale.sorted_listing import sorted_listing
from tests.support.s3 import BUCKET, s3_server


@pytest.mark.parametrize("replicas", [1, 7])
def test_a_driver_is_measured_over_all_its_tasks(replicas: int) -> None:
    found = measure(
        Namespace(
            backend="empty",
            storage="local",
            commit=False,
            replicas=replicas,
            payload=100,
            at_once=1,
        ),
        300,
    )
    assert found["tasks"] == 300
    assert 300 - replicas <= found["tasks_timed"] <= 300
    assert found["driver_cpu_ms_per_task"] > 0


def test_a_sweep_driven_without_replicas_is_finished_and_taken_up(tmp_path: Path) -> None:
    spec = write_sweep(tmp_path, 40, str(tmp_path / "out"))
    _, drove = drive(spec, 3)
    assert drove.cpu_s > 0
    storage = StorageSpec(str(tmp_path / "out")).open()
    assert not take_inventory(storage).done
    num_examples = len(take_inventory(storage).planned) // 2
    assert finish(storage) == PARTS_OF_AN_EXAMPLE * num_examples
    assert len(take_inventory(storage).done) == 2 * num_examples
    assert 0 < resume(spec)["resume_peak_mb"] < 2000


def test_a_server_with_sorted_keys_lists_what_moto_lists() -> None:
    with s3_server():
        storage = StorageSpec(f"s3://{BUCKET}/out").open()
        lay_parts(storage, [f"{table}/{n}.parquet" for table in ("a", "b") for n in range(1100)])
        wanted = {prefix: list(storage.list(prefix)) for prefix in ("", "a/", "b/", "b/10", "c/")}
        with sorted_listing():
            found = {prefix: list(storage.list(prefix)) for prefix in wanted}
    assert [len(entries) for entries in found.values()] == [2200, 1100, 1100, 111, 0]
    assert found == wanted
