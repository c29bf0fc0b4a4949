"""Rows added up by several processes or on a cluster: the same sums to the last bit."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from cluster.errors import CorruptPartError
from cluster.storage import Storage, StorageSpec
from jobs.scoring.inventory import take_inventory
from jobs.scoring.plan import PlannedTask
from jobs.stereoset import group_sums
from jobs.stereoset.group_parts import PartsOfGroups
from jobs.stereoset.group_sums import added_up
from jobs.stereoset.scored_rows import GroupParts
from jobs.stereoset.summary import Summary, summarise
from jobs.stereoset.summary_sums import GroupSums
from tests.scale.summary import make_output

pytestmark = pytest.mark.slow

TABLES = ("cells", "pooled", "headline", "findings", "differences", "baseline", "geometry")


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[Storage, list[PlannedTask]]:
    """StereoSet's eight groups, of two models, and a few cells."""
    storage = StorageSpec(str(tmp_path_factory.mktemp("rows") / "out")).open()
    return storage, make_output(storage, 45_000, num_models=2)


def parts_of(storage: Storage, planned: list[PlannedTask]) -> list[GroupParts]:
    index = PartsOfGroups(take_inventory(storage, planned))
    return [parts for model in ("model0", "model1") for parts in index.of(model, "steered")]


def same(one: GroupSums, other: GroupSums) -> bool:
    return (
        (one.split, one.bias_type, one.terms, one.cells, one.num_examples)
        == (other.split, other.bias_type, other.terms, other.cells, other.num_examples)
        and one.sums.tobytes() == other.sums.tobytes()
        and one.baseline.tobytes() == other.baseline.tobytes()
        and np.array_equal(one.num_non_finite, other.num_non_finite)
    )


@pytest.fixture
def several(monkeypatch: pytest.MonkeyPatch) -> None:
    """However few rows there are, and whatever the machine, two processes add up."""
    monkeypatch.setattr(group_sums, "_FEWEST_ROWS", 0)
    monkeypatch.setattr(group_sums, "num_cores", lambda: 2)


def tables(summary: Summary) -> Iterator[tuple[str, list[object]]]:
    for name in TABLES:
        yield name, getattr(summary, name).to_pylist()


def test_few_rows_start_no_process(
    made: tuple[Storage, list[PlannedTask]], monkeypatch: pytest.MonkeyPatch
) -> None:
    storage, planned = made
    monkeypatch.setattr(group_sums, "processes", None)
    with added_up(storage, parts_of(storage, planned)) as sums:
        assert sum(1 for _ in sums) == 16


@pytest.mark.usefixtures("several")
def test_a_summary_by_two_processes_is_that_of_one(
    made: tuple[Storage, list[PlannedTask]], monkeypatch: pytest.MonkeyPatch
) -> None:
    storage, planned = made
    inventory = take_inventory(storage, planned)
    by_two = summarise(storage, inventory)
    monkeypatch.setattr(group_sums, "num_cores", lambda: 1)
    by_one = summarise(storage, inventory)
    assert by_one.cells.num_rows == 2 * 8 * 4
    assert by_one.differences.num_rows > 0
    # As text, since NaN is not itself; every digit of a float64 is in its text.
    assert repr(list(tables(by_two))) == repr(list(tables(by_one)))


@pytest.mark.usefixtures("several")
def test_rows_in_a_bucket_are_added_up_by_processes(
    made: tuple[Storage, list[PlannedTask]], s3_uri: str
) -> None:
    storage, planned = made
    bucket = StorageSpec(s3_uri).open()
    for entry in storage.list(""):
        bucket.replace(entry.key, storage.read(entry.key))
    check_same(bucket, storage, planned)


def check_same(storage: Storage, other: Storage, planned: list[PlannedTask]) -> None:
    """By whoever adds up many rows, and group by group in this process."""
    parts = parts_of(storage, planned)
    with added_up(storage, parts) as sums:
        for found, of_group in zip(sums, parts, strict=True):
            assert same(found, group_sums.sums_of_parts(other, of_group))


@pytest.mark.usefixtures("several")
def test_a_damaged_part_is_named_as_without_processes(
    made: tuple[Storage, list[PlannedTask]], tmp_path: Path
) -> None:
    storage, planned = made
    copy = StorageSpec(str(tmp_path / "copy")).open()
    for entry in storage.list(""):
        copy.replace(entry.key, storage.read(entry.key))
    parts = parts_of(copy, planned)
    key = parts[3].steered[0].key
    copy.replace(key, b"PAR1 no more")
    with pytest.raises(CorruptPartError, match="delete it"), added_up(copy, parts) as sums:
        list(sums)


@pytest.mark.ray
@pytest.mark.usefixtures("several", "ray_cluster")
def test_tasks_on_a_cluster_give_the_same_while_replicas_hold_it(
    made: tuple[Storage, list[PlannedTask]],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    import ray

    class Replica:
        def is_there(self) -> bool:
            return True

    num_cpus = ray.available_resources().get("CPU", 0)
    replica = ray.remote(num_cpus=num_cpus)(Replica).remote()
    assert ray.get(replica.is_there.remote())
    assert not ray.available_resources().get("CPU")
    monkeypatch.setattr(group_sums, "_num_nodes", lambda: 2)
    monkeypatch.setattr(group_sums, "processes", None)
    storage, planned = made
    check_same(storage, storage, planned)
    assert "instead" not in capsys.readouterr().err


def test_a_process_that_adds_up_rows_loads_no_torch() -> None:
    command = "import sys, jobs.stereoset.group_sums; print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", command], capture_output=True, check=True)
    assert done.stdout.strip() == b"False"
