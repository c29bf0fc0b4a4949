"""Options that commands share: --json, --verbose, --quiet, flags; and earlier forms of them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any
from unittest import mock

import pandas as pd
import pytest

from tests.support.stored_outputs import copy_stored_output
from tests.support.sweeps import Finished, steersweep, write_spec

_NAMES = ("stereoset", "stereoset-stopped", "persona", "persona-stopped")


def printed(finished: Finished) -> dict[str, Any]:
    """The JSON object that is all of standard output."""
    assert finished.code == 0, finished
    content = json.loads(finished.out)
    assert isinstance(content, dict)
    return content


@pytest.fixture
def outputs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    for name in _NAMES:
        copy_stored_output(name, tmp_path / name)
    return tmp_path


def run_in(folder: Path, *arguments: str) -> Finished:
    """The command in a folder, as relative paths of a stored output's spec need it."""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        return steersweep(*arguments)


def test_status_as_json(outputs: Path) -> None:
    done = printed(run_in(outputs / "stereoset", "status", "stereoset", "--json"))
    assert done["job"] == "stereoset"
    assert done["driver"]["state"] == "done"
    assert done["rows_done"] == done["rows_total"] == sum(p["rows_done"] for p in done["phases"])
    assert done["certificate"]["verdict"] == "holds"
    stopped = printed(
        run_in(outputs / "stereoset-stopped", "status", "stereoset-stopped", "--json")
    )
    assert stopped["driver"] | {"is_running": None} == {
        **dict.fromkeys(("is_running", "host", "pid", "silent_s")),
        "state": "interrupted",
    }
    assert (stopped["rows_done"], stopped["rows_total"]) == (30, 60)
    assert sum(group["tasks_done"] for group in stopped["groups"]) == 9
    persona = printed(run_in(outputs / "persona-stopped", "status", "persona-stopped", "--json"))
    assert persona["missing"] == "steered answers or their judgements"
    assert [stage["written"] for stage in persona["stages"]] == [True, True, False, False]


def test_report_as_json_has_the_stored_numbers(outputs: Path) -> None:
    folder = outputs / "stereoset"
    content = printed(run_in(folder, "report", "stereoset", "--json", "--no-figures"))
    pooled = pd.read_parquet(folder / "stereoset" / "summary" / "pooled.parquet")
    pooled = pooled[(pooled["bias_type"] == "all") & (pooled["split"] != "all")]
    pooled = pooled[pooled["layer"].isna()].set_index(["split", "coeff"])
    assert len(content["result"]) == len(pooled)
    for row in content["result"]:
        wanted = pooled.loc[(row["split"], row["coeff"])]
        for name in ("s2a", "s2a_low", "s2a_high", "u2a", "s2u", "lms"):
            assert row[name] == wanted[name]
        assert row["lms_before"] == pytest.approx(wanted["lms"] - wanted["lms_change"])
        stayed = sum(wanted[f"flow_{way}_{way}"] for way in "sau")
        assert row["changed"] == pytest.approx(1 - stayed)
    cells = printed(
        run_in(folder, "report", "stereoset", "--json", "--no-figures", "--by", "layer,bias_type")
    )
    assert len(cells["result"]) == 16
    assert content["page"] == (folder / "stereoset" / "report.html").as_uri()
    persona = printed(run_in(outputs / "persona", "report", "persona", "--json", "--no-figures"))
    steered = pd.read_parquet(outputs / "persona" / "persona" / "summary" / "steered.parquet")
    assert [row["trait_score"] for row in persona["result"]] == list(steered["trait_score"])


def test_verify_as_json(outputs: Path) -> None:
    content = printed(run_in(outputs / "stereoset", "verify", "stereoset", "--rows", "2", "--json"))
    assert content["verdict"] == "holds"
    (model,) = content["models"]
    assert (model["model"], model["num_rows"]) == ("tiny", 2)
    assert 0 <= model["largest_difference"] <= model["tolerance"]


def test_plan_as_json_is_what_the_file_holds(tmp_path: Path) -> None:
    spec = str(write_spec(tmp_path / "sweep.yaml"))
    file = tmp_path / "plan.json"
    options = ("--seconds", "0", "--json", "--json-file", str(file))
    content = printed(steersweep("plan", spec, *options))
    assert content == json.loads(file.read_text())
    assert content["left"]["num_rows_cells"] == 24 * (1 + 2 * 4)


@pytest.mark.parametrize("order", [("SPEC", "--json", "FILE"), ("--json", "FILE", "SPEC")])
def test_json_with_a_file_names_the_new_option(order: tuple[str, ...], tmp_path: Path) -> None:
    names = {"SPEC": str(write_spec(tmp_path / "sweep.yaml")), "FILE": "plan.json"}
    finished = steersweep("plan", *(names.get(word, word) for word in order))
    assert finished.code == 2
    assert finished.err.count("\n") == 1
    assert "--json-file" in finished.err
    assert not (tmp_path / "plan.json").exists()


def test_quiet_and_verbose(outputs: Path) -> None:
    folder = outputs / "stereoset"
    assert run_in(folder, "report", "stereoset", "--no-figures", "-q").out == ""
    assert run_in(folder, "verify", "stereoset", "--rows", "1", "-q").out == ""
    assert run_in(folder, "status", "stereoset", "-q").out.count("\n") == 2
    verbose = run_in(folder, "report", "stereoset", "--no-figures", "-v")
    assert "summary/cells.parquet (16 rows)" in verbose.out
    both = run_in(folder, "status", "stereoset", "-q", "-v")
    assert (both.code, both.out) == (2, "")
    assert "not both" in both.err


def test_a_quiet_run_prints_nothing_and_does_everything(tmp_path: Path) -> None:
    spec = write_spec(
        tmp_path / "sweep.yaml",
        data={"path": "embedded:examples.json", "bias_types": ["gender"], "limit": 1},
        steering={"layers": [1], "coeffs": [1]},
    )
    finished = steersweep("run", str(spec), "--quiet")
    assert (finished.code, finished.out) == (0, ""), finished
    assert (tmp_path / "out" / "report.html").exists()
    again = steersweep("run", str(spec))
    assert "nothing left to compute" in again.out


@pytest.mark.parametrize(
    ("variable", "options", "draws"),
    [
        (None, (), True),
        ("0", (), False),
        ("false", (), False),
        ("1", (), True),
        (None, ("--no-figures",), False),
        ("0", ("--figures",), True),
    ],
)
def test_figures_are_drawn_unless_the_flag_or_the_variable_says_no(
    variable: str | None,
    options: tuple[str, ...],
    draws: bool,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delenv("STEERSWEEP_FIGURES")
    if variable is not None:
        monkeypatch.setenv("STEERSWEEP_FIGURES", variable)
    with mock.patch("jobs.sweeps.commands.run", return_value=0) as run:
        assert steersweep("run", str(write_spec(tmp_path / "sweep.yaml")), *options).code == 0
    assert run.call_args.kwargs["figures"] is draws


@pytest.mark.parametrize(
    ("arguments", "kind", "wanted"),
    [
        ("score --rows 3 --layers 1,2", "score", {"rows": 3, "layers": (1, 2)}),
        ("--rows 3 --json f.json", "score", {"rows": 3, "json": "f.json"}),
        ("", "score", {}),
        ("generate --prompts 4", "generate", {"prompts": 4}),
        ("--generate --prompts 4 --json=f.json", "generate", {"prompts": 4, "json": "f.json"}),
        ("cluster --replicas 3", "cluster", {"replicas": 3}),
        ("--replicas 3 --cluster", "cluster", {"replicas": 3}),
    ],
)
def test_bench_has_commands_and_takes_the_earlier_form(
    arguments: str, kind: str, wanted: dict[str, Any]
) -> None:
    names = {"score": "run.bench", "generate": "generate.bench_generate",
             "cluster": "cluster.bench_cluster"}  # fmt: skip
    with mock.patch(f"jobs.bench.{names[kind]}") as measure:
        finished = steersweep("bench", *arguments.split())
    assert finished.code == 0, finished
    options = measure.call_args.args[0]
    for name, value in wanted.items():
        assert getattr(options, name) == value
    assert (type(options)(**wanted)) == options


def test_bench_prints_json(tmp_path: Path) -> None:
    with mock.patch("jobs.bench.run.bench") as measure:
        measure.side_effect = lambda _options, say: (
            say("measuring")
            or mock.Mock(as_json=lambda: {"engine_vs_plain": 2.0, "noise": float("nan")})
        )
        finished = steersweep("bench", "score", "--json")
    assert printed(finished) == {"engine_vs_plain": 2.0, "noise": None}
    assert finished.err == "measuring\n"


def test_bench_gpu_passes_its_options_and_ends_with_its_exit_code() -> None:
    with mock.patch("jobs.bench.gpu.driver.bench_gpu") as measure:
        measure.return_value = mock.Mock(exit_code=1, as_json=lambda: {"failed": ["right: a"]})
        arguments = "--shape tiny --sections right,fast --seconds 60 --output o --json"
        finished = steersweep("bench", "gpu", *arguments.split())
    assert finished.code == 1
    assert json.loads(finished.out) == {"failed": ["right: a"]}
    options = measure.call_args.args[0]
    assert options == type(options)("tiny", None, "o", ("right", "fast"), 60.0, "auto")


def test_wait_and_no_wait_exclude_each_other(tmp_path: Path) -> None:
    refused = steersweep("submit", str(write_spec(tmp_path / "s.yaml")), "--wait", "--no-wait")
    assert refused.code == 2
    assert "not both" in refused.err
