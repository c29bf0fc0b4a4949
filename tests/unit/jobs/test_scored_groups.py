"""Groups of a job with axes of its own: storage keys, the manifest, the plan, names of rows."""

from __future__ import annotations

import json
import pickle
from dataclasses import replace
from pathlib import Path
from urllib.parse import unquote

import pyarrow as pa
import pyarrow.dataset as ds
import pyarrow.parquet as pq
import pytest

from cluster.storage import StorageSpec
from jobs.scoring.groups import Group, quoted
from jobs.scoring.inventory import take_inventory
from jobs.scoring.manifest import NAME, from_tables, to_table
from jobs.scoring.output import held_values, wanted_values
from jobs.scoring.plan import PlannedTask, packing_for, plan_missing, would_plan
from jobs.scoring.resolve import resolved
from jobs.scoring.tables import part_key, vectors_key
from jobs.spec import load_spec
from jobs.stereoset.groups import group_of
from jobs.stereoset.resolve import Sweep
from jobs.stereoset.spec import StereoSetSpec
from jobs.stereoset.tables import StereoSetRows
from jobs.sweeps.certificate import TaskCertificate
from steering_core.certificate import TOLERANCES, Certificate, RowName, Worst
from steersweep.errors import UserError
from tests.support.golden import golden_examples
from tests.support.sweeps import write_spec

VALUES = ["all", "a/b & c=d", "..", "50 %", "Ägypten", ".", "x" * 128]


class FitSweep(Sweep):
    """Examples in groups by another axis."""

    axes = ("fit",)


def sweep_of(folder: Path, value: str) -> FitSweep:
    spec = load_spec(StereoSetSpec, str(write_spec(folder / "sweep.yaml")))
    examples = {(value,): golden_examples().group("intersentence", "race")}
    return resolved(FitSweep, spec, "d", examples, lambda e: e.target, StereoSetRows(), "cpu")


def test_the_keys_of_a_stereoset_group_are_what_they_were() -> None:
    group = group_of("base", "intersentence", "race")
    assert str(group) == "base/intersentence/race"
    folder = "model=base/split=intersentence/bias_type=race"
    assert part_key("nulls/null=random", group, "t") == f"nulls/null=random/{folder}/t.parquet"
    assert vectors_key(group) == "vectors/base/intersentence/race.safetensors"
    held_out = "vectors/held_out/base/intersentence/race.safetensors"
    assert vectors_key(group, "held_out") == held_out


@pytest.mark.parametrize("value", VALUES)
def test_any_value_is_one_folder_that_hive_readers_decode(value: str, tmp_path: Path) -> None:
    group = Group("m", (value,), ("fit",))
    assert pickle.loads(pickle.dumps(group)) == group
    text = quoted(value)
    assert "/" not in text
    assert text.strip(".")
    assert unquote(text) == value
    path = tmp_path / part_key("steered", group, "t")
    assert path.resolve() == path
    path.parent.mkdir(parents=True)
    pq.write_table(pa.table({"x": [1]}), path)
    read = ds.dataset(tmp_path / "steered", partitioning="hive").to_table()
    assert read.to_pylist() == [{"x": 1, "model": "m", "fit": value}]


@pytest.mark.parametrize("value", VALUES)
def test_the_manifest_has_a_column_for_each_axis(value: str) -> None:
    group = Group("m", (value,), ("fit",))
    task = PlannedTask("p", group, ("steered",), 0, ("e",), (), ((1, "2"),), 1.0, None)
    table = to_table([task])
    assert table.column_names[:4] == ["plan_id", "model", "fit", "tables"]
    assert from_tables([table]) == [task]


@pytest.mark.parametrize("value", ["", "x" * 129])
def test_a_value_that_is_none_is_refused(value: str) -> None:
    task = PlannedTask("p", Group("m", (value,), ("fit",)), ("sums",), 0, ("e",), (), (), 1.0, 1)
    with pytest.raises(UserError, match="not that of a sweep"):
        from_tables([to_table([task])])


def test_a_job_may_allow_names_only() -> None:
    task = PlannedTask("p", group_of("m", "a b", "race"), ("sums",), 0, ("e",), (), (), 1.0, 1)
    assert from_tables([to_table([task])]) == [task]
    with pytest.raises(UserError, match="'a b' is not a name"):
        from_tables([to_table([task])], NAME)


def test_an_axis_cannot_lead_out_of_the_output() -> None:
    task = PlannedTask("p", Group("m", ("v",), ("../x",)), ("sums",), 0, ("e",), (), (), 1.0, 1)
    with pytest.raises(UserError, match=r"'\.\./x' is not a name"):
        from_tables([to_table([task])])


def test_a_sweep_with_another_axis_is_planned_and_known_again(tmp_path: Path) -> None:
    sweep = replace(sweep_of(tmp_path, "a/b & c"), has_held_out=True)
    planned = plan_missing(sweep, (), packing_for(sweep))
    assert {str(task.group) for task in planned} == {"tiny/a/b & c"}
    assert {table for task in planned for table in task.tables} >= {"steered", "held_out"}
    assert plan_missing(sweep, planned, packing_for(sweep)) == []
    assert all(would_plan(sweep, task) for task in planned)
    other = sweep_of(tmp_path, "another")
    assert not any(would_plan(other, task) for task in planned)
    inventory = take_inventory(StorageSpec(str(tmp_path / "out")).open(), planned)
    assert not inventory.done
    keys = [key for task in planned for key in task.parts("t").values()]
    assert all("/model=tiny/fit=a%2Fb%20%26%20c/" in key for key in keys)


def test_values_of_an_axis_grow_only_if_a_key_of_the_spec_has_them(tmp_path: Path) -> None:
    sweep = sweep_of(tmp_path, "one")
    planned = plan_missing(sweep, (), packing_for(sweep))
    named = {"fit": "data.fits"}
    assert held_values(planned, named)["data.fits"] == {"one"}
    assert wanted_values(sweep, named)["data.fits"] == {"one"}
    assert not {"data.fits", "fit"} & held_values(planned, {}).keys()
    assert held_values(planned, {}).keys() == wanted_values(sweep, {}).keys()


@pytest.mark.parametrize(
    ("place", "shown"),
    [
        ((("split", "intersentence"), ("bias_type", "race")), "intersentence/race"),
        ((("fit", "a/b"),), "a/b"),
    ],
)
def test_a_row_is_named_in_a_footer_by_its_axes(
    place: tuple[tuple[str, str], ...], shown: str
) -> None:
    name = RowName("x1", place, 3, 2.0)
    assert str(name) == f"layer 3, coeff 2, example x1 ({shown})"
    found = Certificate(num_rows_checked=1, worst=Worst(name, "score", 1e-6, 1e-4))
    certificate = TaskCertificate(found, "engine", "float32", TOLERANCES["float32"])
    metadata = certificate.attached_to(pa.table({"x": [1]})).schema.metadata
    footer = {key.decode(): text.decode() for key, text in metadata.items()}
    row = json.loads(footer["certificate"])["found"]["worst"]["row"]
    assert [*row] == ["example_id", *(axis for axis, _ in place), "layer", "coeff"]
    assert TaskCertificate.from_footer(footer) == certificate
