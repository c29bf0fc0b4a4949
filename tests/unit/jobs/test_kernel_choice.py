"""The kernels of an output: chosen once, stored beside the batch size, used by every replica."""

from __future__ import annotations

import json
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest

from cluster.storage import Storage, StorageSpec
from jobs.scoring import worker as worker_module
from jobs.scoring.batch_size import ModelTuning, read_tuning
from jobs.scoring.forecast import measure as measure_module
from steering_core import engine as engine_module
from steering_core.engine import Engine
from steering_core.kernels.choice import KernelCheck, KernelChoice
from steering_core.tuning import Tuning
from steersweep.errors import UserError
from tests.support.sweeps import steersweep, write_spec
from tests.unit.jobs.test_batch_size import KEY, factory, payload

CHECK = KernelCheck(gap=1e-3, limit=1e-2, torch_s=2.0, kernel_s=1.0)


@pytest.fixture
def storage(tmp_path: Path) -> Storage:
    return StorageSpec(str(tmp_path / "out")).open()


class StandIn:
    """In the place of ``AppliedKernels``: a device on which kernels run, and change nothing."""

    add_log_sum_exp = None

    def __init__(self, _model: Any, names: Any, *, is_packed: bool = True) -> None:
        self.names = tuple(sorted(names))
        self.open = nullcontext


class Device:
    """What a stand-in for a CUDA device was asked, and what ran on it.

    Attributes:
        choices: what comes of choosing, the first one first.
        required: kernels that a replica was checked for.
        used: kernels of each pass over a task's rows, or over those that are timed.
    """

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.choices: list[tuple[str, ...]] = []
        self.required: list[tuple[str, ...]] = []
        self.used: list[tuple[str, ...]] = []

        def choose(_model: Any, *, is_packed: bool = True) -> KernelChoice:
            return KernelChoice(self.choices.pop(0), {"rms_norm": CHECK})

        def require(_model: Any, names: Any, **_options: Any) -> None:
            self.required.append(tuple(names))

        def tune(score: Any, _model: Any, rows: Any, **_options: Any) -> Tuning:
            score(rows[:1], 700)
            return Tuning(700, {700: 1.5})

        def noting(run: Any) -> Any:
            def noted(engine: Engine, *arguments: Any, **named: Any) -> Any:
                self.used.append(engine.kernels)
                return run(engine, *arguments, **named)

            return noted

        monkeypatch.setattr(engine_module, "AppliedKernels", StandIn)
        monkeypatch.setattr(worker_module, "why_not", lambda _model: None)
        monkeypatch.setattr(worker_module, "choose_kernels", choose)
        monkeypatch.setattr(worker_module, "require_kernels", require)
        monkeypatch.setattr(worker_module, "tune", tune)
        monkeypatch.setattr(Engine, "baseline", noting(Engine.baseline))
        monkeypatch.setattr(Engine, "steered", noting(Engine.steered))


@pytest.fixture
def device(monkeypatch: pytest.MonkeyPatch) -> Device:
    return Device(monkeypatch)


def stored(kernels: str) -> bytes:
    """A file of version 2 with these kernels, in JSON."""
    tokens = '"tokens_per_batch": 700, "rows_per_s": {}'
    return f'{{"tuning_version": 2, {tokens}, "kernels": {kernels}}}'.encode()


def worker(storage: Storage, *, accelerate: bool = True) -> Any:
    made = factory(storage)
    made = type(made)(made.target, {**made.kwargs, "accelerate": accelerate}).build()
    made.load()
    return made


def test_the_first_replica_chooses_and_all_use_what_it_stored(
    storage: Storage, device: Device
) -> None:
    device.choices = [("attention", "rms_norm")]
    first, second = worker(storage), worker(storage, accelerate=False)
    for each in (first, second, first):
        each.run(payload())
    assert device.choices == []
    assert device.required == [("attention", "rms_norm")] * 2
    # The batch size is timed with the kernels.
    assert device.used == [("attention", "rms_norm")] * 4
    assert json.loads(storage.read(KEY)) == {
        "tuning_version": 2,
        "tokens_per_batch": 700,
        "rows_per_s": {"700": 1.5},
        "kernels": ["attention", "rms_norm"],
        "kernel_checks": {
            "rms_norm": {
                "gap": 1e-3, "limit": 1e-2, "torch_s": 2.0, "kernel_s": 1.0, "reason": None
            }
        },
    }  # fmt: skip


def test_of_two_that_choose_at_a_time_one_wins(
    storage: Storage, device: Device, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second = worker(storage), worker(storage)
    device.choices = [("rms_norm",)]

    def overtaken(*_: Any, **__: Any) -> KernelChoice:
        monkeypatch.setattr(
            worker_module, "choose_kernels", lambda *_, **__: KernelChoice(("rms_norm",), {})
        )
        first.run(payload())
        return KernelChoice(("attention",), {})

    monkeypatch.setattr(worker_module, "choose_kernels", overtaken)
    second.run(payload())
    assert device.used[-1] == ("rms_norm",)
    assert second._engine.kernels == first._engine.kernels == ("rms_norm",)


def test_a_batch_size_that_is_given_leaves_the_choice_in_the_file(
    storage: Storage, device: Device
) -> None:
    device.choices = [("rms_norm",)]
    for _ in range(2):
        worker(storage).run(payload(450))
    assert device.used == [("rms_norm",)] * 2
    assert read_tuning(storage, KEY) == ModelTuning(None, {}, ("rms_norm",))
    # The plan was lost, and the sweep no longer gives the number.
    with pytest.raises(UserError, match="holds no batch size; delete it, or set"):
        worker(storage).run(payload())


def test_off_is_a_choice_too(storage: Storage, device: Device) -> None:
    worker(storage, accelerate=False).run(payload(450))
    device.choices = [("rms_norm",)]
    worker(storage).run(payload(450))
    assert device.used == [(), ()]
    assert read_tuning(storage, KEY) == ModelTuning(None, {}, ())


def test_an_output_of_an_earlier_version_has_no_kernels(storage: Storage, device: Device) -> None:
    storage.replace(KEY, b'{"tuning_version": 1, "tokens_per_batch": 700, "rows_per_s": {}}')
    device.choices = [("rms_norm",)]
    worker(storage).run(payload())
    assert device.used == [()]
    assert device.choices == [("rms_norm",)]


def test_a_replica_that_cannot_use_the_kernels_says_so(storage: Storage) -> None:
    """For real: no CUDA, and float32."""
    storage.replace(KEY, stored('["rms_norm"]'))
    for tokens in (None, 450):
        with pytest.raises(UserError, match="need a CUDA device") as caught:
            worker(storage).run(payload(tokens))
        message = str(caught.value)
        assert "says that this output is computed with kernels" in message
        assert "start a new output" in message


def test_a_replica_whose_device_fails_the_check_says_so(
    storage: Storage, device: Device, monkeypatch: pytest.MonkeyPatch
) -> None:
    device.choices = [("rms_norm",)]
    worker(storage).run(payload())

    def refuse(*_: Any, **__: Any) -> None:
        raise UserError("tiny: the kernel rms_norm is wrong here")

    monkeypatch.setattr(worker_module, "require_kernels", refuse)
    with pytest.raises(UserError, match="rms_norm is wrong here; resume on"):
        worker(storage).run(payload())


@pytest.mark.parametrize("kernels", ['"rms_norm"', "[1]", "null", '{"a": 1}'])
def test_a_damaged_choice_is_one_line_that_says_to_delete_it(
    storage: Storage, kernels: str
) -> None:
    text = (
        f'{{"tuning_version": 2, "tokens_per_batch": 7, "rows_per_s": {{}}, "kernels": {kernels}}}'
    )
    storage.replace(KEY, text.encode())
    with pytest.raises(UserError, match="is damaged; delete it"):
        read_tuning(storage, KEY)


# Whole runs


def sweep(folder: Path, coeffs: list[float], **compute: Any) -> str:
    spec = write_spec(
        folder / "sweep.yaml",
        data={
            "path": "embedded:examples.json",
            "splits": ["intersentence"],
            "bias_types": ["race"],
        },
        steering={"layers": [2], "coeffs": coeffs},
        compute={"executor": "in_process", **compute},
        certificate={"rows_per_task": 0},
    )
    return str(spec)


def test_a_run_states_its_kernels_and_a_later_one_keeps_them(
    tmp_path: Path, device: Device
) -> None:
    device.choices = [("rms_norm",)]
    assert steersweep("run", sweep(tmp_path, [1], tokens_per_batch=450)).code == 0
    spec = sweep(tmp_path, [1, 2], tokens_per_batch=450, accelerate="off")
    assert steersweep("run", spec).code == 0
    assert set(device.used) == {("rms_norm",)}
    status = steersweep("status", str(tmp_path / "out"), "--verbose").out
    assert "tiny: batches of 450 tokens; kernels: rms_norm\n" in status
    logs = "".join(file.read_text() for file in (tmp_path / "out" / "log").iterdir())
    assert "kernels: rms_norm, as in tuning/tiny.json" in logs


def test_a_run_that_is_off_has_none_and_says_so(tmp_path: Path, device: Device) -> None:
    assert (
        steersweep("run", sweep(tmp_path, [1], tokens_per_batch="auto", accelerate="off")).code == 0
    )
    assert set(device.used) == {()}
    status = steersweep("status", str(tmp_path / "out"), "--verbose").out
    assert "tiny: batches of 700 tokens, measured; kernels: none\n" in status


def test_parts_that_are_there_without_a_choice_were_computed_without_kernels(
    tmp_path: Path, device: Device
) -> None:
    """An earlier version left no file where the sweep gave the batch size."""
    spec = sweep(tmp_path, [1], tokens_per_batch=450, accelerate="off")
    assert steersweep("run", spec).code == 0
    (tmp_path / "out" / KEY).unlink()
    device.choices = [("rms_norm",)]
    assert steersweep("run", sweep(tmp_path, [1, 2], tokens_per_batch=450)).code == 0
    assert set(device.used) == {()}
    assert device.choices == [("rms_norm",)]


def test_task_ids_do_not_depend_on_the_key(tmp_path: Path, device: Device) -> None:
    parts = []
    for name, accelerate in (("a", "auto"), ("b", "off")):
        (tmp_path / name).mkdir()
        device.choices = [("rms_norm",)]
        assert steersweep("run", sweep(tmp_path / name, [1], accelerate=accelerate)).code == 0
        out = tmp_path / name / "out"
        parts.append(sorted(str(file.relative_to(out)) for file in out.rglob("*.parquet")))
    assert [p for p in parts[0] if "manifest" not in p] == [
        p for p in parts[1] if "manifest" not in p
    ]


def test_the_key_takes_two_values(tmp_path: Path) -> None:
    refused = steersweep("run", sweep(tmp_path, [1], accelerate="yes"))
    assert refused.code == 2
    assert "compute.accelerate: must be 'auto' or 'off'" in refused.err


def test_the_forecast_measures_with_kernels(
    tmp_path: Path, device: Device, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        measure_module, "choose_kernels", lambda *_, **__: KernelChoice(("rms_norm",), {})
    )
    assert steersweep("plan", sweep(tmp_path, [1], tokens_per_batch=450)).code == 0
    assert set(device.used) == {("rms_norm",)}
    device.used.clear()
    spec = sweep(tmp_path, [1], tokens_per_batch=450, accelerate="off")
    assert steersweep("plan", spec).code == 0
    assert set(device.used) == {()}
