"""Examples that are several sweeps: how options reach each, and what comes of their codes."""

from __future__ import annotations

from pathlib import Path

import pytest

from jobs import cores
from jobs.persona.traits import read_trait
from jobs.resources import SPEC_SETS, embedded_specs, local_path
from jobs.spec import ComputeSpec, JobSpec
from jobs.sweeps import commands
from jobs.sweeps.named import load_one_sweep, load_sweeps, run_sweeps, storages_of
from steering_core.stereoset import BIAS_TYPES, SPLITS, read_stereoset
from steersweep.errors import UserError
from tests.support.sweeps import steersweep, write_spec


@pytest.fixture
def ran(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Outputs of the sweeps that would have run, in order."""
    outputs: list[str] = []

    def note(sweep: JobSpec, *, new: bool, figures: bool) -> int:
        assert not new, "a set chooses its new folder itself"
        outputs.append(sweep.output)
        return 0

    monkeypatch.setattr(commands, "run", note)
    return outputs


def test_a_set_runs_each_of_its_sweeps(ran: list[str]) -> None:
    assert run_sweeps("demo", [], None, new=False, figures=False) == 0
    assert ran == ["runs/demo/persona", "runs/demo/stereoset"]


def test_output_is_the_folder_of_a_set(ran: list[str]) -> None:
    run_sweeps("demo", [], "s3://bucket/x/", new=False, figures=False)
    assert ran == ["s3://bucket/x/persona", "s3://bucket/x/stereoset"]


def test_new_is_one_new_folder_for_a_set(ran: list[str], tmp_path: Path) -> None:
    (tmp_path / "x" / "persona").mkdir(parents=True)
    (tmp_path / "x" / "persona" / "run.json").touch()
    run_sweeps("demo", [], str(tmp_path / "x"), new=True, figures=False)
    assert ran == [str(tmp_path / "x-2" / part) for part in ("persona", "stereoset")]


def test_set_reaches_every_sweep_or_is_refused_with_their_names() -> None:
    changed = load_sweeps("demo", ["steering.layers=[3]", "compute.device=cpu"])
    assert [sweep.steering.layers for sweep in changed] == [(3,), (3,)]
    assert [sweep.compute.device for sweep in changed] == ["cpu", "cpu"]
    with pytest.raises(UserError, match=r"data\.limit=3[\s\S]*demo-persona and demo-stereoset"):
        load_sweeps("demo", ["data.limit=3"])
    with pytest.raises(UserError, match="both would get runs/x; use --output DIR"):
        load_sweeps("demo", ["output=runs/x"])


@pytest.mark.parametrize(("codes", "code"), [((1, 0), 1), ((0, 1), 1), ((130,), 130), ((0, 0), 0)])
def test_failed_tasks_do_not_stop_a_set_and_an_interrupt_does(
    codes: tuple[int, ...], code: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    left = list(codes)
    monkeypatch.setattr(commands, "run", lambda *_args, **_options: left.pop(0))
    assert run_sweeps("demo", [], None, new=False, figures=False) == code
    assert left == []


def test_one_sweep_keeps_its_own_output_and_option(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = []
    monkeypatch.setattr(
        commands, "run", lambda sweep, **options: seen.append((sweep, options)) or 0
    )
    spec = write_spec(tmp_path / "s.yaml")
    run_sweeps(str(spec), [], str(tmp_path / "y"), new=True, figures=True)
    ((sweep, options),) = seen
    assert (sweep.output, options) == (str(tmp_path / "y"), {"new": True, "figures": True})


def test_a_command_for_one_sweep_refuses_a_set() -> None:
    assert load_one_sweep("demo-tiny", command="submit").output == "runs/demo-tiny"
    with pytest.raises(UserError, match=r"submit takes one sweep\. demo is 2 sweeps, demo-per"):
        load_one_sweep("demo", command="submit")
    for arguments in (("submit", "demo"), ("plan", "demo", "--json")):
        finished = steersweep(*arguments)
        assert (finished.code, finished.out) == (2, "")
        assert "takes one sweep" in finished.err


def test_verify_looks_at_every_output_of_a_set(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    outputs = [str(tmp_path / "runs" / "demo" / part) for part in ("persona", "stereoset")]
    assert [s.uri for s in storages_of("demo", None)] == outputs
    assert [s.uri for s in storages_of(outputs[0], None)] == outputs[:1]


def test_sets_consist_of_examples_that_run_here_without_ray() -> None:
    for name, parts in SPEC_SETS.items():
        assert name not in embedded_specs()
        for sweep in load_sweeps(name):
            assert sweep.compute.executor == "in_process"
            assert sweep.compute.num_threads == cores.num_cores()
        assert all(part.startswith(f"{name}-") for part in parts)


def test_threads_are_all_cores_only_in_process() -> None:
    assert ComputeSpec().num_threads == 1
    assert ComputeSpec(cpus_per_replica=3).num_threads == 3
    assert ComputeSpec(cpus_per_replica="auto").num_threads == 1, (
        "a driver's cores are not a node's"
    )


def test_the_demo_s_examples_are_balanced() -> None:
    dataset = read_stereoset(local_path("embedded:everyday.json"))
    assert dataset.counts() == {split: dict.fromkeys(BIAS_TYPES, 6) for split in SPLITS}
    for split in SPLITS:
        for bias_type in BIAS_TYPES:
            targets = [example.target for example in dataset.group(split, bias_type, None, 0)]
            assert sorted(map(targets.count, set(targets))) == [2, 2, 2]


def test_the_demo_asks_the_steered_model_other_questions() -> None:
    found, steered = (
        read_trait(Path(local_path(f"embedded:{name}.json")), "optimism")
        for name in ("optimism", "optimism-steered")
    )
    assert found.instructions == steered.instructions
    assert not set(found.questions) & set(steered.questions)
    assert 2 * len(found.instructions) * len(found.questions) == 80


def test_plan_names_the_output_of_each_sweep_of_a_set(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(commands, "plan", lambda *_args, **_options: None)
    finished = steersweep("plan", "demo")
    assert (finished.code, finished.out) == (0, "runs/demo/persona:\nruns/demo/stereoset:\n")
