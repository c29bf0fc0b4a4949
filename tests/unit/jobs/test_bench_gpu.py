"""``bench gpu``: a failure costs one measurement, a hang one section, and all is on disk."""

from __future__ import annotations

import io
import json
import os
import signal
import subprocess
import sys
import time
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest import mock

import pytest
import torch
from torch.autograd import DeviceType

from jobs.bench.gpu import driver, fast, gauges, kernels, profile, right, steps
from jobs.bench.gpu.driver import PLANS, GpuResult, Plan, bench_gpu, command_of
from jobs.bench.gpu.options import SECTIONS, TINY, GpuOptions, sizes_of
from jobs.bench.gpu.page import Table, page_of
from jobs.bench.gpu.record import GpuRecord, SectionRecord, StepRecord, finite
from jobs.bench.gpu.section import Order
from jobs.bench.gpu.steps import Check, Found, LeftOutError, Setting, Step, run_steps
from steering_core import engine
from steering_core.kernels import KERNELS
from steering_core.kernels.choice import KernelCheck
from steersweep.errors import UserError

ROOT = Path(__file__).parents[3]
CPU = torch.device("cpu")
# Nothing that bench gpu says it does without may be asked for, in no process of a run.
BLOCKED = (
    *("ray", "pyarrow", "pandas", "boto3", "botocore", "pydantic", "platformdirs", "scipy"),
    *("typer", "click", "rich", "matplotlib", "jinja2", "requests", "plotly", "accelerate"),
)


def tiny(tmp_path: Path, **changed: Any) -> GpuOptions:
    return replace(GpuOptions(shape="tiny", device="cpu", output=str(tmp_path / "out")), **changed)


# Steps


def happened(*made: Step, left_s: float = 100.0) -> list[dict[str, Any]]:
    setting = Setting(GpuOptions(shape="tiny"), CPU, TINY, time.monotonic() + left_s)
    told = io.StringIO()
    run_steps(made, setting, told)
    return [json.loads(line) for line in told.getvalue().splitlines()]


def raises() -> Found:
    raise RuntimeError("the device\nsays no")


def leaves_out() -> Found:
    raise LeftOutError("no room for it")


def test_a_step_that_raises_is_written_down_and_the_next_one_runs() -> None:
    events = happened(
        Step("a", raises),
        Step("b", leaves_out),
        Step("c", lambda: Found("fine", {"rate": float("nan"), 3: torch.tensor(2.5)[None].sum()})),  # type: ignore[dict-item]
    )
    assert events[0] == {"steps": ["a", "b", "c"]}
    ends = {event["end"]: event for event in events if "end" in event}
    assert ends["a"]["status"] == "failed"
    problem = ends["a"]["problem"]
    assert (problem["type"], problem["message"]) == ("RuntimeError", "the device says no")
    assert "in raises" in problem["traceback"]
    assert (ends["b"]["status"], ends["b"]["line"]) == ("left out", "no room for it")
    assert ends["c"]["status"] == "ok"
    assert ends["c"]["found"] == {"rate": None, "3": 2.5}
    assert [event["begin"] for event in events if "begin" in event] == ["a", "b", "c"]


def test_a_check_that_does_not_hold_is_a_failure_that_keeps_what_was_found() -> None:
    checks = [
        Check.at_most("gap", 0.5, 0.1),
        Check.at_most("other gap", 0.05, 0.1),
        Check.same("packed", False, True),
    ]
    [_, _, event] = happened(Step("a", lambda: Found("", {"rows": 3}, checks)))
    assert event["status"] == "failed"
    assert event["line"].startswith("2 of 3 checks do not hold: gap: found 0.5, not 0.1")
    assert "packed: found no, not yes" in event["line"]
    assert event["found"]["rows"] == 3
    assert [check["holds"] for check in event["found"]["checks"]] == [False, True, False]


@pytest.mark.parametrize(
    ("found", "limit", "holds"),
    [(0.1, 0.1, True), (0.0, 0.0, True), (float("nan"), 1.0, False), (float("inf"), 1.0, False)],
)
def test_a_number_that_is_none_never_holds(found: float, limit: float, holds: bool) -> None:
    assert Check.at_most("gap", found, limit).holds is holds


def test_no_step_begins_without_time_and_one_that_needs_more_is_left_out() -> None:
    assert [e.get("status") for e in happened(Step("a", lambda: Found("")), left_s=0.0)][1:] == [
        "left out"
    ]
    setting = Setting(GpuOptions(shape="tiny"), CPU, TINY, time.monotonic() + 30)
    setting.need(25)
    with pytest.raises(LeftOutError, match=r"takes about 90 s, (29|30) s are left"):
        setting.need(90)


def test_nothing_runs_on_a_device_that_an_error_broke(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(steps, "check_devices", mock.Mock(side_effect=RuntimeError("gone")))
    events = happened(Step("a", raises), Step("b", lambda: Found("")))
    assert "RuntimeError: gone" in events[-1]["lost"]
    assert not any(event.get("begin") == "b" for event in events)


# The driver


def run(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    *kinds: str,
    seconds: float = 60.0,
    last_share: float = 1.0,
) -> tuple[GpuResult, list[str]]:
    """A run of stand-ins, which share the time equally; the last one may be given less of it."""
    script = Path(__file__).parents[2] / "support" / "gpu_section.py"
    monkeypatch.setattr(driver, "_COMMAND", (sys.executable, str(script)))
    monkeypatch.setattr(driver, "_LEAST_LIMIT_S", 0.0)
    monkeypatch.setattr(driver, "_LEAST_S", 0.1)
    *plans, last = [Plan(name, kind, 1.0) for name, kind in zip(SECTIONS, kinds, strict=False)]
    plans.append(replace(last, share=last_share))
    options = tiny(tmp_path, seconds=seconds, sections=tuple(plan.name for plan in plans))
    said: list[str] = []
    return bench_gpu(options, said.append, plans), said


def on_disk(tmp_path: Path) -> dict[str, Any]:
    content: dict[str, Any] = json.loads((tmp_path / "out" / "gpu.json").read_text())
    return content


def test_results_are_on_disk_after_every_step(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    result, said = run(tmp_path, monkeypatch, "looks")
    section = result.record.sections[0]
    assert section.status == "done"
    assert section.steps[1].found == {"status": "ok", "found": {"number": 1}}
    assert section.steps[2].status == "left out"
    assert result.exit_code == 0
    assert on_disk(tmp_path) == json.loads(json.dumps(result.as_json()))
    assert not [path for path in (tmp_path / "out").iterdir() if path.name.startswith(".")]
    assert "   1/3 first: found it (0.1 s)" in said
    assert "   3/3 third: left out: no need" in said


def test_a_section_that_hangs_is_ended_at_its_limit_and_the_next_one_begins(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    result, said = run(tmp_path, monkeypatch, "hangs", "looks", seconds=8)
    hung, after = result.record.sections
    assert hung.status == "ended"
    assert [step.status for step in hung.steps] == ["ok", "failed", "left out"]
    assert hung.steps[1].problem is not None
    assert "ended at its limit of 4 s" in hung.steps[1].problem.line
    assert after.status == "done"
    assert result.record.failed == ["environment: second"]
    assert result.record.left_out[0] == "environment: third (ended at its limit of 4 s)"
    assert result.exit_code == 1
    assert any(line.startswith("failed: environment: second") for line in said)
    for pid in map(int, (tmp_path / "out" / "pids").read_text().split()):
        assert not is_running(pid)


def is_running(pid: int) -> bool:
    """Whether a process runs; one that ended and that nobody has waited for does not."""
    try:
        return "\nState:\tZ" not in Path(f"/proc/{pid}/status").read_text()
    except FileNotFoundError:
        return False


def test_a_section_that_dies_leaves_its_steps_and_its_last_words(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    result, _ = run(tmp_path, monkeypatch, "dies", "cannot begin", "loses", "looks")
    died, cannot, lost, after = result.record.sections
    assert [step.status for step in died.steps] == ["ok", "failed", "left out"]
    assert died.steps[1].problem is not None
    assert "SIGSEGV: the last words" in died.steps[1].problem.line
    assert cannot.steps[0].status == "failed"
    assert "no such thing" in cannot.steps[0].line
    assert [step.status for step in lost.steps] == ["ok", "failed", "left out"]
    assert lost.steps[2].line == "the device does not work after that error"
    assert after.status == "done"
    assert "the last words" in (tmp_path / "out" / "gpu.log").read_text()
    text = (tmp_path / "out" / "gpu.md").read_text()
    assert "**3 of 10 steps failed:**" in text
    assert "- fast: second: AcceleratorError: illegal address" in text


def test_sections_without_time_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The run's limit holds, and a section that was ended takes time from those behind it."""
    result, _ = run(tmp_path, monkeypatch, "hangs", "looks", seconds=2, last_share=1e-9)
    assert [section.status for section in result.record.sections] == ["ended", "left out"]
    assert "right (no time left)" in result.record.left_out
    assert result.record.took_s < 6
    assert "Left out: no time left." in (tmp_path / "out" / "gpu.md").read_text()


def test_ctrl_c_leaves_no_process_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pids = tmp_path / "out" / "pids"

    def interrupt(_signal: int, _frame: object) -> None:
        # Once the section hangs and what it has told is on disk.
        told = (pids.parent / "gpu.json").read_text() if pids.exists() else ""
        if "found it" in told and len(pids.read_text().split()) == 2:
            signal.setitimer(signal.ITIMER_REAL, 0)
            raise KeyboardInterrupt

    before = signal.signal(signal.SIGALRM, interrupt)
    signal.setitimer(signal.ITIMER_REAL, 0.2, 0.1)
    try:
        with pytest.raises(KeyboardInterrupt):
            run(tmp_path, monkeypatch, "hangs")
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    assert not any(is_running(int(pid)) for pid in pids.read_text().split())
    assert on_disk(tmp_path)["sections"][0]["steps"][0]["status"] == "ok"


# Options


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"shape": "gemma2-2b"}, "--shape must be one of real, tiny"),
        ({"sections": ("right", "swift")}, "--sections takes names from environment, .*'swift'"),
        ({"seconds": 0.0}, "--seconds must be more than 0"),
        ({"seconds": float("nan")}, "--seconds must be more than 0"),
        ({"device": "mps"}, "--device must be one of auto, cuda, cpu"),
        ({"shape": "real"}, "needs a CUDA device, and --device asks for the CPU.* --shape tiny"),
        ({"data": "nowhere.json"}, "no such data file"),
        ({"output": f"{__file__}/out"}, "is a file, not a folder"),
    ],
)
def test_what_the_user_must_change_is_said_before_anything_is_written(
    tmp_path: Path, changed: dict[str, Any], message: str
) -> None:
    with pytest.raises(UserError, match=message):
        bench_gpu(tiny(tmp_path, **changed), lambda _: None)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
def test_without_cuda_the_real_shapes_are_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from jobs.bench.__main__ import main

    monkeypatch.chdir(tmp_path)
    assert main(["gpu"]) == 2
    assert "this machine has none; to try the command on the CPU" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_options_travel_to_a_section_as_they_are(tmp_path: Path) -> None:
    options = tiny(tmp_path, sections=("right", "fast"), data="dev.json", seconds=7.5)
    assert GpuOptions.parse(options.as_text()) == options
    assert options.chosen == ("right", "fast")
    assert GpuOptions().chosen == SECTIONS
    order = Order("jobs.bench.gpu.right", options, 12.5)
    assert Order.parse(order.as_text()) == order


def test_a_command_that_repeats_the_run_has_no_paths() -> None:
    assert command_of(GpuOptions()) == "python -m jobs.bench gpu"
    options = GpuOptions(data="/somewhere/my dev.json", output="/tmp/x", sections=("text",))
    assert command_of(options) == "python -m jobs.bench gpu --data 'my dev.json' --sections text"


def test_the_real_sizes_are_those_of_a_sweep() -> None:
    """Seven in ten seconds of a run must not be spent before the sections that matter."""
    assert [plan.name for plan in PLANS] == list(SECTIONS)
    sizes = sizes_of("real")
    assert sizes.score_shape == "gemma2-2b"
    assert [shape.shape for shape in sizes.text_shapes] == ["qwen2.5-1.5b", "qwen2.5-7b"]
    assert sizes.slots == (1, 8, 32, 256)
    assert {head for _, _, head in sizes.heads.values()} == {64, 128, 256}
    assert sorted(sizes.token_sizes)[0] == 2048
    doubled = zip(sorted(sizes.token_sizes), sorted(sizes.token_sizes)[1:], strict=False)
    assert all(b == 2 * a for a, b in doubled)


# Gauges and the profile


def test_an_allocation_beyond_the_limit_really_fails_and_later_ones_do_not() -> None:
    room = 64 * 2**20
    with gauges.limited_memory(CPU, room):
        torch.zeros(room // 8, dtype=torch.uint8)
        with pytest.raises(RuntimeError, match="allocate memory"):
            torch.zeros(8 * room, dtype=torch.uint8)
    assert len(torch.zeros(8 * room, dtype=torch.uint8)) == 8 * room


def test_on_cuda_the_allocator_is_given_the_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    """With a device without a number, as everywhere here, and torch's own checks."""
    fractions: list[float] = []
    memory = SimpleNamespace(total_memory=1000)
    monkeypatch.setattr(torch.cuda, "empty_cache", lambda: None)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda _device: memory)
    monkeypatch.setattr(torch.cuda, "memory_reserved", lambda _device: 200)
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 0)
    monkeypatch.setattr(torch.cuda.memory, "_lazy_init", lambda: None)
    setter = "_cuda_setMemoryFraction"
    monkeypatch.setattr(torch._C, setter, lambda f, _i: fractions.append(f), raising=False)
    with gauges.limited_memory(torch.device("cuda"), 300):
        assert fractions == [0.5]
    with pytest.raises(KeyError), gauges.limited_memory(torch.device("cuda"), 9000):
        raise KeyError
    assert fractions == [0.5, 1.0, 1.0, 1.0]


def event(name: str, device: DeviceType, start: float, end: float, **more: Any) -> SimpleNamespace:
    return SimpleNamespace(
        **{
            "name": name,
            "id": None,
            "device_type": device,
            "time_range": SimpleNamespace(start=start, end=end),
            "cpu_parent": None,
            "kernels": [],
            "self_cpu_time_total": 0.0,
            "is_user_annotation": False,
            **more,
        }
    )


def test_time_in_which_kernels_overlap_counts_once_and_ranges_do_not_count() -> None:
    cuda = torch.device("cuda")
    events = [
        event("k", DeviceType.CUDA, 10, 20),
        event("k", DeviceType.CUDA, 15, 30),
        event("copy", DeviceType.CUDA, 18, 19),
        event("k", DeviceType.CUDA, 50, 60),
        event("a range", DeviceType.CUDA, 0, 1000, is_user_annotation=True),
        event("aten::mm", DeviceType.CPU, 0, 500),
    ]
    busy = gauges.busy_of(events, cuda)
    assert busy.busy_s == pytest.approx(30e-6)
    assert busy.span_s == pytest.approx(50e-6)
    assert busy.idle_share == pytest.approx(0.4)
    assert busy.num_operations == 4
    assert gauges.busy_of([], cuda).idle_share == 0


def test_kernels_belong_to_the_innermost_part_that_launched_them() -> None:
    """As torch's profiler gives them on CUDA: kernels on the operation that launched them."""

    def launched(
        name: str, above: Any, *us: float, kernel: str = "some_gemm_or_other"
    ) -> SimpleNamespace:
        kernels = [SimpleNamespace(name=kernel, duration=each) for each in us]
        return event(name, DeviceType.CPU, 0, 1, cpu_parent=above, kernels=kernels)

    def part(group: str, above: Any = None) -> SimpleNamespace:
        # CUPTI reports a range on the device as well: it is no kernel.
        return launched(profile.PREFIX + group, above, 1e6, kernel=profile.PREFIX + group)

    block = part(profile.STREAM)
    attention = part(profile.ATTENTION, block)
    linear = part(profile.PRODUCTS, attention)
    product = launched("aten::linear", linear)
    head = part(profile.HEAD)
    head_linear = launched("aten::linear", head)
    times = profile.time_by_group(
        [
            block, attention, linear, product, head, head_linear,
            launched("aten::mm", product, 100, 20),
            launched("aten::softmax", attention, 30),
            launched("aten::add", block, 5),
            launched("aten::mm", head_linear, 50),
            launched("aten::exp", head, 40),
            launched("aten::embedding", None, 7),
            event("some_gemm", DeviceType.CUDA, 0, 99),
        ],
        torch.device("cuda"),
    )  # fmt: skip
    assert {name: round(1e6 * s) for name, s in times.items()} == {
        profile.PRODUCTS: 120,
        profile.HEAD_PRODUCTS: 50,
        profile.HEAD: 40,
        profile.ATTENTION: 30,
        profile.REST: 7,
        profile.STREAM: 5,
    }


def test_kernels_that_no_operation_launched_belong_to_the_range_of_their_launch() -> None:
    """Triton's: the profiler links them to nothing. Those of operations are not counted twice."""
    host, cuda = DeviceType.CPU, DeviceType.CUDA
    events = [
        event(profile.PREFIX + profile.STREAM, host, 0, 100),
        event(profile.PREFIX + profile.NORMS, host, 10, 20),
        event("cuLaunchKernelEx", host, 12, 13, id=1),
        event("aten::mm", host, 30, 40, kernels=[SimpleNamespace(name="gemm", duration=500)]),
        event("cudaLaunchKernel", host, 32, 33, id=2),
        event("cuLaunchKernelEx", host, 50, 51, id=3),
        event("cuLaunchKernelEx", host, 150, 151, id=4),
        event("_rms_norm", cuda, 1000, 1007, id=1),
        event("gemm", cuda, 1010, 1510, id=2),
        event("_gated", cuda, 1600, 1603, id=3),
        event("_other", cuda, 1700, 1702, id=4),
        event(profile.PREFIX + profile.NORMS, cuda, 1000, 1007, id=1),
    ]
    times = profile.time_by_group(events, torch.device("cuda"))
    assert {name: round(1e6 * s) for name, s in times.items()} == {
        profile.REST: 502, profile.NORMS: 7, profile.STREAM: 3,
    }  # fmt: skip


# The page


def test_a_page_can_be_made_at_any_moment() -> None:
    record = GpuRecord("python -m jobs.bench gpu", "today", "cuda", "real", "dev.json", 540)
    record.sections = [SectionRecord(name) for name in SECTIONS]
    assert page_of(record).count("Has not ended yet.") == len(SECTIONS)
    for section in record.sections:
        section.status = "done"
        section.steps = [StepRecord("start", "failed", line="no")]
    assert "**5 of 5 steps failed:**" in page_of(record)


def test_a_table_is_markdown() -> None:
    lines = Table("Rates", ("", "ms"), [["a|b", "1"]], "How to read it.").lines()
    assert lines == [
        "**Rates**", "", "How to read it.", "", "|  | ms |", "| --- | ---: |", "| a\\|b | 1 |", "",
    ]  # fmt: skip


def test_numbers_that_json_does_not_have_become_null() -> None:
    assert finite({"a": float("inf"), "b": (1, float("nan")), 2: "x"}) == {
        "a": None, "b": [1, None], "2": "x",
    }  # fmt: skip


# Kernels


class NoKernels:
    """Kernels in an engine that are the model's own code."""

    add_log_sum_exp = None

    def __init__(self, _model: object, names: Any, *, is_packed: bool) -> None:
        assert is_packed
        self.names = tuple(names)

    def open(self) -> Any:
        return nullcontext()


@pytest.mark.slow
def test_steps_with_kernels_run_with_stand_ins(monkeypatch: pytest.MonkeyPatch) -> None:
    """With the model's own code under their names, gaps are zero; a wrong one is not used."""
    checks = {
        name: KernelCheck(1e-4 if name != "attention" else 0.5, 1e-2, 2e-5, 1e-5)
        for name in KERNELS
    }
    monkeypatch.setattr(kernels, "why_not", lambda _model: None)
    monkeypatch.setattr(kernels, "check_kernels", lambda _model, **_options: checks)
    monkeypatch.setattr(engine, "AppliedKernels", NoKernels)
    setting = Setting(GpuOptions(shape="tiny"), CPU, TINY, time.monotonic() + 1000)
    used = ["gated_mlp", "log_sum_exp", "rms_norm"]

    def tried(module: Any, *names: str) -> SectionRecord:
        made = {step.name: step for step in module.steps(setting)}
        told = io.StringIO()
        run_steps([made[name] for name in names], setting, told)
        events = [json.loads(line) for line in told.getvalue().splitlines()]
        ends = [e for e in events if "end" in e]
        found = [StepRecord(e["end"], e["status"], found=e.get("found") or {}) for e in ends]
        return SectionRecord("fast", "done", steps=found)

    measured = tried(
        fast, "rows", "matrix rate", "1,024 tokens a batch", "kernels against torch",
        "kernel attention alone", "kernel rms_norm alone", "all kernels",
        "unsteered, with pooling", "whole set, in full, all kernels",
    )  # fmt: skip
    statuses = {step.name: step.status for step in measured.steps}
    assert statuses.pop("kernels against torch") == "failed"
    assert statuses.pop("kernel attention alone") == "left out"
    assert set(statuses.values()) == {"ok"}
    together = measured.step("all kernels")
    assert together is not None
    assert together.found["kernels"] == used
    assert together.found["largest_gap"] == 0
    titles = [table.title for table in fast.tables(measured)]
    assert "Kernels against torch, one call" in titles
    assert "Kernels in the engine, 1,024 tokens a batch" in titles

    compared = tried(right, "gemma2: kernels")
    # The wrong kernel is named, and nothing else.
    broken = [c["what"] for c in compared.steps[0].found["checks"] if not c["holds"]]
    assert broken == ["attention"]
    assert compared.steps[0].found["kernels"] == used
    [table] = right.tables(compared)
    assert "**0.5**" in table.rows[0]

    profiled = tried(profile, "groups, all kernels")
    assert profiled.steps[0].found["kernels"] == used


# From end to end


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_everything_runs_on_the_cpu_without_what_a_bare_machine_lacks(tmp_path: Path) -> None:
    """Every step of every section, in processes of their own."""
    names = ", ".join(map(repr, BLOCKED))
    blocks = f"import sys\nfor name in ({names}):\n    sys.modules[name] = None\n"
    (tmp_path / "sitecustomize.py").write_text(blocks)
    path = os.pathsep.join([str(tmp_path), str(ROOT)])
    environment = {**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1"}
    # So that torch is compiled once, and not by the driver and by its sections.
    environment |= {"PYTHONPYCACHEPREFIX": str(tmp_path / "bytecode")}
    environment.pop("PYTHONDONTWRITEBYTECODE", None)
    # 90 s of processor time. The limit is far off: other processes may take most of the machine.
    arguments = ["--shape", "tiny", "--device", "cpu", "--output", "out", "--seconds", "2000"]
    done = subprocess.run(
        [sys.executable, "-m", "jobs.bench", "gpu", *arguments],
        cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=580,
    )  # fmt: skip
    log = (tmp_path / "out" / "gpu.log").read_text() if done.returncode != 2 else ""
    assert done.returncode == 0, f"{done.stdout}\n{done.stderr}\n{log}"
    assert all(len(line) <= 80 for line in done.stdout.splitlines())
    found = on_disk(tmp_path)
    assert found["failed"] == []
    assert len(found["left_out"]) == len(KERNEL_STEPS)
    sections = {section["name"]: section for section in found["sections"]}
    assert list(sections) == list(SECTIONS)
    statuses = {
        f"{name}: {step['name']}": step["status"]
        for name, section in sections.items()
        for step in section["steps"]
    }
    assert {name for name, status in statuses.items() if status != "ok"} == KERNEL_STEPS
    counts = {name: len(section["steps"]) for name, section in sections.items()}
    assert counts == {"environment": 7, "right": 22, "fast": 18, "profile": 5, "text": 8}
    [kernels] = [s for s in sections["fast"]["steps"] if s["name"] == "kernels against torch"]
    assert kernels["line"].startswith("kernels need a CUDA device")
    text = (tmp_path / "out" / "gpu.md").read_text()
    for words in TABLES:
        assert f"**{words}" in text
    assert "nan" not in text
    # Shares of the parts of the model add up: every operation was seen, in one part.
    [groups] = [s for s in sections["profile"]["steps"] if s["name"] == "groups"]
    assert set(groups["found"]["groups"]) == set(profile.GROUPS)
    assert abs(groups["found"]["not_assigned_share"]) < 0.2


KERNEL_STEPS = {
    *("right: gemma2: kernels", "profile: groups, all kernels", "fast: kernels against torch"),
    *(f"fast: kernel {name} alone" for name in KERNELS),
    *("fast: all kernels", "fast: whole set, in full, all kernels"),
}
"""They need CUDA; ``test_steps_with_kernels_run_with_stand_ins`` runs them here."""

TABLES = (
    *("Machine", "Settings", "Rates"),
    *("Largest gaps of scores", "Every operation, site and position", "Answers in float32"),
    *("Two processes", "Out of memory"),
    *("The engine over batch sizes", "Plain loops", "Scores in bfloat16", "Unsteered pass"),
    *("The whole data file", "One cell in the middle", "Time by part of the model"),
    *("Kernels by time", "Matrix products of this shape", "Attention (SDPA)"),
    *("tiny, bfloat16", "tiny qwen2, bfloat16"),
)
