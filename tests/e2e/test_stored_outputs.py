"""Outputs of an earlier version are read, reported and resumed; task ids stay what they were."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from safetensors import safe_open

from cluster.backends.in_process import InProcessBackend
from cluster.ledger import Ledger
from cluster.storage import StorageSpec
from jobs.persona.plan import answer_tasks, contrast_rows, steered_rows
from jobs.persona.resolve import resolve as resolve_persona
from jobs.persona.spec import PersonaSpec
from jobs.scoring.manifest import from_tables
from jobs.scoring.plan import PlannedTask, packing_for, plan_missing, would_plan
from jobs.stereoset.resolve import Sweep
from jobs.stereoset.resolve import resolve as resolve_stereoset
from jobs.stereoset.spec import StereoSetSpec
from jobs.sweeps.registry import load_any_spec
from tests.support.stored_outputs import STORED_OUTPUTS, copy_stored_output
from tests.support.sweeps import read_rows, steersweep

FINISHED = ("stereoset", "stereoset-crossed", "persona", "stereoset-held-out", "persona-now")
STOPPED = (
    "stereoset-stopped",
    "persona-stopped",
    "stereoset-held-out-stopped",
    "persona-now-stopped",
)
WITHOUT_DOSES = ("stereoset", "stereoset-crossed", "stereoset-stopped")
"""Phase 1 of these did not measure the norm of the stream."""
RECORDS = ("run.json", "index.json", "certificate.json", "checked.parquet", "summary")
"""Every session writes these again; all other files of an output are kept once written."""
ROW_KEYS = ["model", "split", "bias_type", "layer", "coeff", "example_id"]
LEFT_OUT = ("log", "figures", "report.html", "driver.lock")
"""What stored outputs are without."""
NULL_KEYS = ["null", "vectors", "draw"]
SCORES = ["score_stereotype", "score_anti_stereotype", "score_unrelated"]
PINNED_IDS = STORED_OUTPUTS.parent / "task_ids.json"
VECTOR_DIGEST = "0" * 64
"""In place of a fitted vector's digest, whose last bits depend on the machine."""


@pytest.fixture
def stored(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: Any) -> Path:
    monkeypatch.chdir(tmp_path)
    return copy_stored_output(request.param, tmp_path)


def _contents(output: Path) -> dict[str, Any]:
    """What a later session must keep: the bytes of each file; of vectors, numbers and metadata.

    A vector file may be written again with equal content, and the format has no order of keys.
    """
    return {
        str(path.relative_to(output)): _vectors_of(path)
        if path.suffix == ".safetensors"
        else path.read_bytes()
        for path in sorted(output.rglob("*"))
        if path.is_file() and path.relative_to(output).parts[0] not in (*RECORDS, *LEFT_OUT)
    }


def _vectors_of(path: Path) -> tuple[dict[str, str], dict[str, tuple[str, bytes]]]:
    with safe_open(path, "np") as vectors:
        arrays = {name: vectors.get_tensor(name) for name in vectors.keys()}  # noqa: SIM118
        metadata = vectors.metadata()
    return metadata, {name: (str(a.dtype), a.tobytes()) for name, a in arrays.items()}


def _write_times(output: Path) -> dict[str, int]:
    """When each part was written; summaries and records are written anew by each session."""
    return {
        str(path.relative_to(output)): path.stat().st_mtime_ns
        for path in sorted(output.rglob("*"))
        if path.is_file() and ("model=" in str(path) or path.suffix == ".safetensors")
    }


@pytest.mark.parametrize("stored", [*FINISHED, *STOPPED], indirect=True)
def test_stored_outputs_can_be_read(stored: Path) -> None:
    assert steersweep("status", stored.name).code == 0
    finished = steersweep("report", stored.name)
    assert finished.code == 0, finished
    assert (stored / "report.html").is_file()
    if stored.name in WITHOUT_DOSES:
        assert pd.read_parquet(stored / "summary" / "cells.parquet")["dose"].isna().all()
        assert "Steering pushed" not in finished.out


@pytest.mark.parametrize("stored", FINISHED, indirect=True)
def test_a_finished_output_stays_finished(stored: Path) -> None:
    before = _write_times(stored)
    finished = steersweep("run", f"{stored.name}.yaml")
    assert finished.code == 0, finished
    assert _write_times(stored).keys() == before.keys()
    parts = [key for key in before if key.endswith(".parquet")]
    assert {key: _write_times(stored)[key] for key in parts} == {key: before[key] for key in parts}


@pytest.mark.parametrize("stored", ["stereoset-stopped"], indirect=True)
def test_a_stopped_output_is_resumed(stored: Path) -> None:
    before = {k: t for k, t in _write_times(stored).items() if k.endswith(".parquet")}
    finished = steersweep("run", f"{stored.name}.yaml")
    assert finished.code == 0, finished
    assert "9 of them done before" in finished.out
    after = _write_times(stored)
    assert {key: after[key] for key in before} == before
    rows, wanted = read_rows(str(stored)), read_rows(str(STORED_OUTPUTS / "stereoset"))
    pd.testing.assert_frame_equal(rows[ROW_KEYS], wanted[ROW_KEYS])
    for column in SCORES:
        # Other shards make other batches, which round differently.
        np.testing.assert_allclose(
            rows[column].to_numpy(float), wanted[column].to_numpy(float), atol=1e-5
        )


@pytest.mark.parametrize("stored", ["stereoset-held-out", "persona-now"], indirect=True)
def test_a_finished_output_is_taken_up_without_a_model(
    stored: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No replica is started, and no file but records is added, changed or removed."""
    monkeypatch.setattr(InProcessBackend, "start", _must_not_start)
    before = _contents(stored)
    again = steersweep("run", f"{stored.name}.yaml")
    assert again.code == 0, again
    assert _contents(stored) == before
    sessions = json.loads((stored / "run.json").read_text())["sessions"]
    assert [session.get("attempts", 0) for session in sessions[1:]] == [0] * len(sessions[1:])


def _must_not_start(*_: Any, **__: Any) -> None:
    raise AssertionError("a replica was started for a finished output")


@pytest.mark.parametrize("stored", ["stereoset-held-out"], indirect=True)
def test_a_report_gives_the_numbers_that_were_stored(stored: Path) -> None:
    """Tables may gain columns; what a table said before, it says again."""
    tables = sorted((stored / "summary").glob("*.parquet"))
    before = {table.name: pd.read_parquet(table) for table in tables}
    assert {"cells.parquet", "held_out.parquet", "headline.parquet"} <= before.keys()
    finished = steersweep("report", stored.name)
    assert finished.code == 0, finished
    for name, wanted in before.items():
        found = pd.read_parquet(stored / "summary" / name)
        pd.testing.assert_frame_equal(found[list(wanted)], wanted, rtol=1e-7, atol=1e-9)


@pytest.mark.parametrize("stored", ["stereoset-held-out-stopped"], indirect=True)
def test_a_stopped_output_with_held_out_rows_and_draws_is_resumed(stored: Path) -> None:
    before = _contents(stored)
    finished = steersweep("run", f"{stored.name}.yaml")
    assert finished.code == 0, finished
    assert "11 of them done before" in finished.out
    after = _contents(stored)
    assert {key: after[key] for key in before} == before
    for table, more in (("baseline", []), ("steered", []), ("held_out", []), ("nulls", NULL_KEYS)):
        rows, wanted = (
            read_rows(str(output), table)
            for output in (stored, STORED_OUTPUTS / "stereoset-held-out")
        )
        keys = [key for key in (*more, *ROW_KEYS) if key in wanted]
        rows, wanted = (
            frame.sort_values(keys, ignore_index=True)[[*keys, *SCORES]] for frame in (rows, wanted)
        )
        assert len(wanted)
        pd.testing.assert_frame_equal(rows, wanted, rtol=0, atol=1e-5)


@pytest.mark.parametrize("stored", ["persona-now-stopped"], indirect=True)
def test_a_stopped_persona_output_is_resumed(stored: Path) -> None:
    before = _contents(stored)
    finished = steersweep("run", f"{stored.name}.yaml")
    assert finished.code == 0, finished
    # Of 20 steered ones; no contrast answer is among them.
    assert re.findall(r"^(\d+) answers written in", finished.out, re.MULTILINE) == ["8"]
    after = _contents(stored)
    assert {key: after[key] for key in before} == before
    keys = ["model", "trait", "phase", "row_id"]
    for table, more in (("answers", []), ("scores", []), ("projections", ["vector", "at_layer"])):
        rows, wanted = (
            read_rows(str(output), table)
            .drop(columns="task_id", errors="ignore")
            .sort_values([*keys, *more], ignore_index=True)
            for output in (stored, STORED_OUTPUTS / "persona-now")
        )
        assert len(wanted)
        pd.testing.assert_frame_equal(rows, wanted, rtol=0, atol=1e-5)


@pytest.mark.parametrize("stored", ["stereoset"], indirect=True)
def test_held_out_rows_are_added_when_asked(stored: Path) -> None:
    """To nothing that is there is anything changed, and its draws of nulls take no more."""
    before = {k: t for k, t in _write_times(stored).items() if k.endswith(".parquet")}
    grown = steersweep("run", "stereoset.yaml", "--set", "vectors.held_out=true")
    assert grown.code == 0, grown
    after = _write_times(stored)
    assert {key: after[key] for key in before} == before
    found, steered = read_rows(str(stored), "held_out"), read_rows(str(stored))
    pd.testing.assert_frame_equal(found[ROW_KEYS], steered[ROW_KEYS])
    assert not found["score_stereotype"].equals(steered["score_stereotype"])
    more = steersweep("run", "stereoset.yaml", "--set", "nulls={random: 3, shuffled: 1}")
    assert more.code == 2
    assert "nulls.random is 3, but" in " ".join(more.err.split())
    assert "takes no more" in " ".join(more.err.split())


@pytest.mark.parametrize("stored", ["persona"], indirect=True)
def test_a_finished_output_of_earlier_ids_is_checked_but_not_changed(stored: Path) -> None:
    """Persona's ids changed once: issue 14."""
    before = _write_times(stored)
    record = (stored / "run.json").read_bytes()
    again = steersweep("run", "persona.yaml")
    assert again.code == 0, again
    assert "is finished; an earlier version of steersweep computed it" in again.out
    assert (stored / "run.json").read_bytes() == record
    assert len(pd.read_parquet(stored / "summary" / "steered.parquet")) == 2 * 6
    for change in ("steering.layers=[2, 3, 4]", "steering.coeffs=[-3, 0]", "generation.seed=1"):
        for command in ("run", "plan"):
            refused = steersweep(command, "persona.yaml", "--set", change)
            assert refused.code == 2, refused
            message = " ".join(refused.err.split())
            assert f"changed: {change.split('=')[0]}: " in message
            assert "use --new" in message
    planned = steersweep("plan", "persona.yaml")
    assert planned.code == 0, planned
    verified = steersweep("verify", "persona", "--rows", "16")
    assert verified.code == 0, verified
    assert "holds" in verified.out
    assert _write_times(stored) == before


@pytest.mark.parametrize("stored", ["persona-stopped", "persona"], indirect=True)
def test_an_unfinished_output_of_earlier_ids_is_refused(stored: Path) -> None:
    spec = f"{stored.name}.yaml"
    if stored.name == "persona":
        (stored / "run.json").unlink()  # what the index names may not be all
    before = {path: path.stat().st_mtime_ns for path in stored.rglob("*")}
    for command in ("run", "plan"):
        refused = steersweep(command, spec)
        assert refused.code == 2, refused
        assert "started by an earlier version" in " ".join(refused.err.split())
        assert "use --new" in " ".join(refused.err.split())
    assert {path: path.stat().st_mtime_ns for path in stored.rglob("*")} == before


@pytest.mark.parametrize("stored", ["stereoset"], indirect=True)
def test_code_of_a_model_is_compared_once_it_is_recorded(
    stored: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Records of earlier versions say nothing of it: they are finished and verified without."""
    before = _write_times(stored)
    ids = _stereoset_ids("stereoset")
    monkeypatch.setattr("steering_core.models._code_digest", lambda _source: "c" * 64)
    assert not set(ids) & set(_stereoset_ids("stereoset"))
    verified = steersweep("verify", "stereoset", "--rows", "4")
    assert verified.code == 0, verified
    again = steersweep("run", "stereoset.yaml")
    assert again.code == 0, again
    assert _write_times(stored) == before
    record = json.loads((stored / "run.json").read_text())
    record["identity"]["models.tiny (code)"] = "c" * 64
    (stored / "run.json").write_text(json.dumps(record))
    monkeypatch.setattr("steering_core.models._code_digest", lambda _source: "d" * 64)
    for command in (("run", "stereoset.yaml"), ("verify", "stereoset")):
        refused = steersweep(*command)
        assert refused.code == 2, refused
        message = " ".join(refused.err.split())
        assert "models.tiny (code): cccccccccccc -> dddddddddddd" in message


def _stereoset_ids(name: str) -> list[str]:
    spec = load_any_spec(f"{name}.yaml")
    assert isinstance(spec, StereoSetSpec)
    sweep = resolve_stereoset(spec)
    if "held-out" in name:
        sweep = replace(sweep, has_held_out=True)
        return sorted(_ids(spec, plan_missing(sweep, [], packing_for(sweep))))
    # The draws of nulls that earlier versions stored are planned again only for their outputs.
    stored = from_tables(Ledger(StorageSpec(spec.output).open()).read_manifest())
    nulls = [task for task in stored if task.phase.startswith("null")]
    again = [task for task in nulls if would_plan(sweep, task)]
    tasks = [*plan_missing(_without_nulls(sweep), [], packing_for(sweep)), *again]
    return sorted(_ids(spec, tasks))


def _ids(spec: StereoSetSpec, tasks: Sequence[PlannedTask]) -> list[str]:
    digests = dict.fromkeys(spec.steering.layers, VECTOR_DIGEST)
    return [task.task_id([digests] * len(task.vector_sets)) for task in tasks]


def _without_nulls(sweep: Sweep) -> Sweep:
    nulls = sweep.spec.nulls.model_copy(update={"random": 0, "shuffled": 0})
    return replace(sweep, spec=sweep.spec.model_copy(update={"nulls": nulls}))


def _persona_ids(name: str) -> list[str]:
    spec = load_any_spec(f"{name}.yaml")
    assert isinstance(spec, PersonaSpec)
    sweep = resolve_persona(spec)
    model = sweep.models["chat"]
    vectors = ("key", dict.fromkeys(spec.steering.layers, VECTOR_DIGEST))
    return [
        task.id
        for trait in sweep.traits
        for tasks in (
            answer_tasks(sweep, model, trait, "contrast", list(contrast_rows(sweep, model, trait))),
            answer_tasks(
                sweep, model, trait, "steered", list(steered_rows(sweep, model, trait)), vectors
            ),
        )
        for task in tasks
    ]


@pytest.mark.parametrize(
    "stored",
    [
        "stereoset",
        "stereoset-crossed",
        "stereoset-held-out",
        "stereoset-held-out-stopped",
        "persona",
        "persona-now",
        "persona-now-stopped",
    ],
    indirect=True,
)
def test_task_ids_are_pinned(stored: Path) -> None:
    """A change of these ids makes every output of earlier versions start afresh.

    Where an issue asks for that, it says so, and ``task_ids.json`` changes with it.
    """
    is_persona = stored.name.startswith("persona")
    ids = (_persona_ids if is_persona else _stereoset_ids)(stored.name)
    pinned = json.loads(PINNED_IDS.read_text())[stored.name]
    assert ids == (pinned if is_persona else sorted(pinned))


@pytest.mark.parametrize("stored", ["stereoset"], indirect=True)
def test_task_ids_of_held_out_vectors_and_draws_are_pinned(stored: Path) -> None:
    """As a new output has them: they came after the stored outputs were written."""
    spec = load_any_spec(f"{stored.name}.yaml")
    assert isinstance(spec, StereoSetSpec)
    sweep = replace(resolve_stereoset(spec), has_held_out=True)
    tasks = plan_missing(sweep, [], packing_for(sweep))
    assert _ids(spec, tasks) == json.loads(PINNED_IDS.read_text())["stereoset, held out and draws"]
