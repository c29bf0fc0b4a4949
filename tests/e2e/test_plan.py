"""`steersweep plan`: what it says is what a run then does, and it leaves nothing behind."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any
from unittest import mock

import pytest

from cluster.storage import StorageSpec
from jobs.resources import local_path
from jobs.words import duration
from steering_core import engine as engine_module
from tests.support.sweeps import Finished, steersweep, write_spec


def planned(spec: Path, *options: str) -> tuple[Finished, dict[str, Any]]:
    """The plan of a spec, as text and as JSON."""
    file = spec.parent / "plan.json"
    finished = steersweep("plan", str(spec), "--verbose", "--json-file", str(file), *options)
    assert finished.code == 0, finished
    return finished, json.loads(file.read_text())


def stored_bytes(output: Path, *tables: str) -> int:
    storage = StorageSpec(str(output)).open()
    return sum(entry.size_bytes for table in tables for entry in storage.list(f"{table}/"))


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"protocol": "aligned", "vectors": {"folds": 2, "method": "pca"}, "nulls": ["random"]},
        {
            "protocol": "aligned",
            "vectors": {"folds": 2},
            "steering": {"layers": [2, 6], "coeffs": [5], "positions": "candidate"},
        },
    ],
    ids=["as_published", "states and a null", "candidates alone"],
)
def test_a_plan_is_what_the_run_then_does(changes: dict[str, Any], tmp_path: Path) -> None:
    spec = write_spec(tmp_path / "sweep.yaml", **changes)
    output = tmp_path / "out"
    shown, plan = planned(spec, "--seconds", "0")
    assert not output.exists()
    first = shown.out.splitlines()[0]
    assert first.startswith(f"{plan['left']['num_rows_cells']:,} rows, time unknown on 1 replica")
    assert "(--seconds 0)" in shown.out

    name = "run_prefix_trunk" if "positions" in changes.get("steering", {}) else "run_trunk"
    real, seen = getattr(engine_module, name), []

    def counted(*args: Any, **kwargs: Any) -> Any:
        seen.append(args)
        return real(*args, **kwargs)

    with mock.patch.object(engine_module, name, counted):
        assert steersweep("run", str(spec)).code == 0
    left, phases = plan["left"], plan["models"]["tiny"]["phases"]
    tokens = plan["models"]["tiny"]["steered_block_tokens"]
    steered = [of["work"]["block_tokens"] for phase, of in phases.items() if phase != "baseline"]
    assert sum(tokens.values()) == sum(steered)
    trunks = left["work"]["num_trunks"]
    if name == "run_prefix_trunk":
        trunks = phases["steered"]["work"]["num_trunks"]
    assert len(seen) == trunks

    session = json.loads((output / "run.json").read_text())["sessions"][-1]
    meant, done = session["planned"], session["actual"]
    for key in ("num_tasks", "num_rows_cells", "needed_flops"):
        assert meant[key] == pytest.approx(left[key]) == pytest.approx(done[key])
    assert meant["written_bytes"] == left["written_bytes"]
    tables = (
        *("baseline", "sums", "held_out_sums", "states"),
        *("steered", "held_out", "nulls"),
    )
    assert done["written_bytes"] == stored_bytes(output, *tables)
    assert left["written_bytes"] == pytest.approx(done["written_bytes"], rel=0.1)
    of_vectors = plan["models"]["tiny"]["vectors_written_bytes"]
    assert of_vectors == pytest.approx(stored_bytes(output, "vectors"), rel=0.1)
    assert done["seconds"] > 0
    assert done["needed_flops_per_s"] == pytest.approx(done["needed_flops"] / done["seconds"], 0.01)
    certificate = json.loads((output / "certificate.json").read_text())
    assert left["checked_rows"] == certificate["overall"]["num_rows_checked"]


def test_what_held_out_vectors_and_nulls_add_is_said(tmp_path: Path) -> None:
    spec = write_spec(tmp_path / "sweep.yaml", nulls={"random": 3, "layers": [4], "coeffs": [400]})
    shown, plan = planned(spec, "--seconds", "0")
    tokens = plan["models"]["tiny"]["steered_block_tokens"]
    assert tokens.keys() == {"fitted", "held_out", "nulls"}
    # The trunk is computed once, so the second arm costs less than the first.
    factor = 1 + tokens["held_out"] / tokens["fitted"]
    assert 1.7 < factor < 2.0
    assert f"steer every cell a second time: x {factor:.1f} of the steered work" in shown.out
    added = tokens["nulls"] / tokens["fitted"]
    assert f"Nulls add {added:.1f} times the steered work" in shown.out
    alone, plan = planned(spec, "--seconds", "0", "--set", "vectors.held_out=false",
                          "--set", "nulls={}")  # fmt: skip
    assert plan["models"]["tiny"]["steered_block_tokens"] == {"fitted": tokens["fitted"]}
    assert "Held-out" not in alone.out
    assert "Nulls" not in alone.out


def test_what_is_left_is_planned_and_what_was_done_is_shown(tmp_path: Path) -> None:
    spec = write_spec(tmp_path / "sweep.yaml")
    assert steersweep("run", str(spec)).code == 0
    before = sorted(path for path in (tmp_path / "out").rglob("*"))

    shown, plan = planned(spec)
    assert plan["num_tasks_done"] == plan["num_tasks"] > 0
    assert plan["left"]["num_tasks"] == 0
    assert plan["seconds"] == 0
    assert plan["models"] == {}
    (session,) = plan["sessions"]
    assert session["planned"]["num_tasks"] == session["actual"]["num_tasks"] == plan["num_tasks"]
    assert shown.out.startswith("Nothing is left to run: ")
    assert f"session of {session['started']}, done" in shown.out

    _, more = planned(spec, "--seconds", "0", "--set", "steering.coeffs=[-3,400,7]")
    assert more["num_tasks_done"] == plan["num_tasks"]
    assert set(more["models"]["tiny"]["phases"]) == {"steered and held out"}
    # One coefficient more at two layers, for 24 examples and two kinds of vectors.
    assert more["left"]["num_rows_cells"] == 2 * 24 * 2
    assert more["models"]["tiny"]["vectors_written_bytes"] == 0
    assert sorted(path for path in (tmp_path / "out").rglob("*")) == before


def test_a_measurement_gives_rates_a_batch_size_and_a_time(tmp_path: Path) -> None:
    spec = write_spec(
        tmp_path / "sweep.yaml", compute={"executor": "in_process", "tokens_per_batch": "auto"}
    )
    shown, plan = planned(spec, "--seconds", "2")
    model = plan["models"]["tiny"]
    assert model["batching"]["tokens_from"] == "(measured)"
    assert model["batching"]["is_packed"]
    assert min(model["rates"].values()) > 0
    busy = plan["seconds"] - plan["startup_seconds"]
    assert busy == pytest.approx(model["replica_seconds"])
    # In process nothing but the weights has to be loaded.
    assert plan["startup_seconds"] == pytest.approx(model["memory"]["weights_bytes"] / 1e9)
    assert plan["seconds"] > 0
    assert "measured on" in shown.out
    assert f"about {duration(plan['seconds'])} on 1 replica (cpu), memory " in shown.out
    assert not (tmp_path / "out").exists()


def test_stated_rates_scale_with_replicas_and_share(tmp_path: Path) -> None:
    spec = write_spec(tmp_path / "sweep.yaml", certificate={"rows_per_task": 0})
    options = ("--device", "h100", "--replicas")
    shown, one = planned(spec, *options, "1")
    _, two = planned(spec, *options, "2", "--share", "0.6")
    assert one["share"] == 0.3
    assert one["models"]["tiny"]["dtype"] == "bfloat16"
    busy = one["seconds"] - one["startup_seconds"]
    assert busy == pytest.approx(one["left"]["needed_flops"] / (0.3 * 989e12))
    # Tasks are of unequal length: two replicas do not end at the same moment.
    assert two["seconds"] - two["startup_seconds"] == pytest.approx(busy / 4, rel=0.1)
    assert "an assumption, not a measurement: 30% of the FLOP/s" in shown.out


def test_replicas_divide_the_time_and_are_limited_by_the_tasks(tmp_path: Path) -> None:
    spec = write_spec(
        tmp_path / "sweep.yaml",
        compute={"executor": "ray", "examples_per_task": 1, "tokens_per_batch": 1024},
        certificate={"rows_per_task": 0},
    )
    _, one = planned(spec, "--device", "rtx4090")
    assert (one["device"], one["num_replicas"], one["num_replicas_asked"]) == ("rtx-4090", 1, None)
    # 24 tasks of one example each, in both phases; Ray and a replica have to start first.
    floor = 10 + 15 + one["models"]["tiny"]["memory"]["weights_bytes"] / 1e9
    busy = {}
    for num in (1, 8, 24, 1000):
        shown, plan = planned(spec, "--device", "rtx4090", "--replicas", str(num))
        assert plan["num_replicas"] == min(num, 24)
        assert plan["startup_seconds"] == pytest.approx(floor)
        busy[num] = plan["seconds"] - floor
        assert ("have work: no more tasks can run" in shown.out) == (num == 1000)
    assert busy[8] == pytest.approx(busy[1] / 8, rel=0.2)
    assert busy[1] / 24 < busy[24] == busy[1000]
    _, of_spec = planned(spec, "--device", "rtx4090", "--set", "compute.replicas=8")
    assert of_spec["seconds"] - floor == pytest.approx(busy[8])


def test_gpus_that_this_machine_lacks_are_found_before_the_run(tmp_path: Path) -> None:
    compute = {"executor": "ray", "gpus_per_replica": 64}
    spec = write_spec(tmp_path / "sweep.yaml", compute=compute)
    refused = steersweep("plan", str(spec), "--seconds", "0")
    assert refused.code == 2, refused
    assert "compute.gpus_per_replica is 64, and this machine has " in refused.err
    assert "--device" in refused.err
    assert refused.err.count("\n") == 1
    for options in (
        ("--device", "h100"),
        ("--set", "compute.executor=in_process"),
        ("--set", "compute.wait_for_nodes_s=600"),
        ("--set", "compute.gpus_per_replica=0"),
    ):
        assert steersweep("plan", str(spec), "--seconds", "0", *options).code == 0, options


def test_a_model_is_planned_without_its_weights(tmp_path: Path) -> None:
    """Gemma-2-9B: what is asked of its weights is that a file is there, for the digest."""
    from safetensors.numpy import save_file

    folder = tmp_path / "nine"
    folder.mkdir()
    tiny = Path(local_path("embedded:gemma2-tiny"))
    config = json.loads((tiny / "config.json").read_text()) | {
        "hidden_size": 3584,
        "intermediate_size": 14336,
        "num_hidden_layers": 42,
        "num_attention_heads": 16,
        "num_key_value_heads": 8,
        "head_dim": 256,
        "vocab_size": 256_000,
    }
    del config["layer_types"]
    (folder / "config.json").write_text(json.dumps(config))
    for file in tiny.glob("tokenizer*"):
        (folder / file.name).write_bytes(file.read_bytes())
    save_file({}, folder / "model.safetensors")
    spec = write_spec(tmp_path / "sweep.yaml", models={"nine": {"path": str(folder)}})
    shown, plan = planned(spec, "--device", "l4")
    model = plan["models"]["nine"]
    assert model["num_params"] == pytest.approx(9.24e9, rel=0.01)
    assert model["memory"]["weights_bytes"] == 2 * model["num_params"]
    assert shown.err == ""
    _, here = planned(spec, "--set", "models.nine.dtype=float32", "--seconds", "1")
    assert "not measured" in here["models"]["nine"]["rates_from"]
    t4 = steersweep("plan", str(spec), "--device", "t4", "--set", "models.nine.dtype=float16")
    assert t4.code == 0
    assert "t4 has 16.0 GB" in t4.err


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (("--device", "h999"), "--device must be one of v100, t4, rtx-3090"),
        (("--share", "0.5"), "needs a --device"),
        (("--device", "h100", "--share", "1.5"), "at most 1"),
        (("--replicas", "0"), "at least 1"),
        (("--seconds", "-1"), "--seconds"),
        (("--json-file", "nowhere/plan.json"), "does not exist"),
        (("--device", "tpu-v5e", "--set", "models.tiny.dtype=float32"), "has no stated rate"),
        (("--set", "steering.layers=[99]"), "layer must be in 1..6"),
    ],
)
def test_a_plan_that_cannot_be_is_one_clear_line(
    options: tuple[str, ...], says: str, tmp_path: Path
) -> None:
    finished = steersweep("plan", str(write_spec(tmp_path / "sweep.yaml")), *options)
    assert finished.code == 2, finished
    assert says in finished.err
    assert finished.err.count("\n") == 1
    assert [path.name for path in tmp_path.iterdir()] == ["sweep.yaml"]


def test_another_sweep_in_the_output_is_refused_as_by_run(tmp_path: Path) -> None:
    spec = write_spec(tmp_path / "sweep.yaml")
    assert steersweep("run", str(spec)).code == 0
    refused = steersweep("plan", str(spec), "--device", "h100")
    assert refused.code == 2
    assert "models.tiny.dtype: float32 -> bfloat16" in refused.err
