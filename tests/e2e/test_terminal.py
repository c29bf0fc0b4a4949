"""What a person sees on a terminal of 80 columns: nothing is cut, and the numbers are there."""

from __future__ import annotations

import re
from pathlib import Path

import pandas as pd
import pytest

from tests.support.stored_outputs import STORED_OUTPUTS, copy_stored_output
from tests.support.sweeps import read_rows, write_spec
from tests.support.terminal import Screen, steersweep_on_terminal

STEREOSET = ("stereoset", "stereoset-crossed", "stereoset-stopped")
OUTPUTS = (*STEREOSET, "persona", "persona-stopped")


def shown(*arguments: str) -> Screen:
    """The screen of a command that must succeed with nothing cut."""
    screen = steersweep_on_terminal(*arguments)
    assert screen.code == 0, screen.text
    screen.check()
    return screen


@pytest.mark.parametrize("name", OUTPUTS)
def test_status_and_report_of_stored_outputs_fit(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    output = copy_stored_output(name, tmp_path)
    shown("status", name)
    report = shown("report", name, "--no-figures")
    assert (output / "report.html").as_uri() in report.text


def changed_choices(output: Path, rows: pd.DataFrame) -> float:
    """Share of steered rows that choose another candidate than their baseline, from the parts."""
    keys = ["model", "split", "bias_type", "example_id"]
    before = read_rows(str(output), "baseline")[[*keys, "choice"]]
    both = rows.merge(before, on=keys, suffixes=("", "_before"))
    return float((both["choice"] != both["choice_before"]).mean())


def test_the_result_has_a_row_per_coefficient_with_the_stored_numbers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    output = copy_stored_output("stereoset", tmp_path)
    text = shown("report", "stereoset", "--no-figures").text
    pooled = pd.read_parquet(output / "summary" / "pooled.parquet")
    pooled = pooled[(pooled["bias_type"] == "all") & (pooled["split"] != "all")]
    pooled = pooled[pooled["layer"].isna()]
    steered = read_rows(str(output))
    assert len(pooled) > 1
    lines = text.splitlines()
    for row in pooled.itertuples():
        of_row = steered[(steered["split"] == row.split) & (steered["coeff"] == row.coeff)]
        wanted = (
            f"{row.coeff:g}",
            f"{row.s2a:+.3f} ({row.s2a_low:+.3f}, {row.s2a_high:+.3f})",
            f"{row.u2a:+.3f}",
            f"{row.s2u:+.3f}",
            f"{100 * changed_choices(output, of_row):.1f} %",
            f"{row.lms - row.lms_change:.1f} → {row.lms:.1f}",
        )
        found = [line for line in lines if all(part in line for part in wanted)]
        assert len(found) == 1, (wanted, text)
        assert len(found[0].rstrip()) <= 76
    assert num_rows(text) == len(pooled)


def num_rows(text: str) -> int:
    """Rows of a printed result: lines with a share and with LMS before and after."""
    return sum(" → " in line and "%" in line for line in text.splitlines())


def test_a_persona_result_has_a_row_per_cell_with_the_stored_numbers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    output = copy_stored_output("persona", tmp_path)
    text = shown("report", "persona", "--no-figures").text
    steered = pd.read_parquet(output / "summary" / "steered.parquet")
    for (model, trait), of_group in steered.groupby(["model", "trait"]):
        below = text.partition(f"\n{model}, {trait}\n")[2].partition("\n\n")[0].splitlines()
        assert len(below) == 2 + len(of_group)
        in_order = of_group.sort_values(["layer", "coeff"]).itertuples()
        for row, line in zip(in_order, below[2:], strict=True):
            interval = f"({row.trait_score_low:.1f}, {row.trait_score_high:.1f})"
            assert line.split() == [
                *(f"{row.layer}", f"{row.coeff:g}", f"{row.trait_score:.1f}", *interval.split()),
                *(f"{row.coherence:.1f}", f"{row.num_answers}"),
            ]
            assert len(line) <= 76


def test_by_prints_every_cell(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    output = copy_stored_output("stereoset", tmp_path)
    text = shown("report", "stereoset", "--no-figures", "--by", "layer, bias_type").text
    cells = pd.read_parquet(output / "summary" / "cells.parquet")
    for row in cells.itertuples():
        assert f"{row.s2a:+.3f} ({row.s2a_low:+.3f}, {row.s2a_high:+.3f})" in text
    assert num_rows(text) == len(cells)


def test_a_name_that_is_no_column_is_refused_in_one_line(tmp_path: Path) -> None:
    copy_stored_output("stereoset", tmp_path)
    before = set(tmp_path.rglob("*"))
    screen = steersweep_on_terminal("report", str(tmp_path / "stereoset"), "--by", "layer,bias")
    assert screen.code == 2
    assert "--by takes model, split, bias_type, layer, coeff" in " ".join(screen.text.split())
    assert set(tmp_path.rglob("*")) == before


def test_vectors_show_fits() -> None:
    file = next((STORED_OUTPUTS / "stereoset" / "vectors").rglob("gender.safetensors"))
    text = shown("vectors", "show", str(file)).text
    for layer in (1, 4):
        assert re.search(rf"^ *{layer} +blocks\.{layer - 1}\.resid_post ", text, re.MULTILINE)


def test_run_and_plan_fit(tmp_path: Path) -> None:
    spec = str(
        write_spec(
            tmp_path / "sweep.yaml",
            data={"path": "embedded:examples.json", "bias_types": ["gender"], "limit": 2},
            output=str(tmp_path / "a folder whose name is long" / ("x" * 60)),
        )
    )
    plan = shown("plan", spec, "--seconds", "0")
    assert plan.text.startswith("36 rows, time unknown on 1 replica")
    assert "tokens per batch" not in plan.text
    verbose = shown("plan", spec, "--seconds", "0", "--verbose")
    assert re.search(r"^tokens per batch +1,024 \(given\)", verbose.text, re.MULTILINE)
    assert shown("plan", spec, "--seconds", "0", "--quiet").text.count("\n") == 1
    run = shown("run", spec)
    assert "\nloading models\n" in run.text
    assert re.search(r"^scoring 36 of 36 rows \(100 %\), [\d.]+ rows/s$", run.text, re.MULTILINE)
    assert re.search(r"^36 rows in [\d.]+ s \([\d.]+ rows/s\)$", run.text, re.MULTILINE)
    page = tmp_path / "a folder whose name is long" / ("x" * 60) / "report.html"
    assert page.as_uri() in run.text
    again = shown("run", spec)
    assert "nothing left to compute" in again.text
    report = shown("report", str(page.parent), "--no-figures", "--by", "layer").text
    table = [line for line in report.splitlines() if re.match(r" +[14] +(-3|400) ", line)]
    names = [line.split()[2] for line in table]
    assert names == ["in-sample", "held-out", "difference"] * (len(names) // 3)
    assert len(names) >= 4 * 3
    assert max(len(line.rstrip()) for line in table) <= 80


def test_a_persona_run_and_its_plan_fit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    copy_stored_output("persona", tmp_path)
    options = ("persona.yaml", "--output", "out", "--set", "steering.layers=[2]")
    assert shown("plan", *options).text.startswith("36 answers")
    assert shown("plan", *options, "--verbose").text.count("\n") > 4
    text = shown("run", *options).text
    # The line is about the first stage that is not over; later ones overtake it at the end.
    assert re.search(r"^writing \d+ of 36 answers.*answers/s, about .* left$", text, re.MULTILINE)
    last = r"^projecting 36 of 36 answers \(100 %\), [\d.,]+ answers/s$"
    assert re.search(last, text, re.MULTILINE), text
    for word in ("written", "judged", "projected"):
        assert re.search(rf"^36 answers {word} in [\d.]+ s \(", text, re.MULTILINE), text
    assert not re.search(r"\b[0-9a-f]{12}\b", text), "a digest"
    assert "1 model x 2 traits x 3 cells" in text
    assert (tmp_path / "out" / "report.html").as_uri() in text


_COMMANDS = (
    *("", "run", "submit", "plan", "status", "report", "verify", "export", "schema", "data"),
    *("data fetch", "vectors", "vectors show", "vectors import", "vectors export"),
    *("bench", "bench score", "bench generate", "bench cluster"),
)


@pytest.mark.parametrize("command", _COMMANDS)
def test_help_fits_and_every_command_has_examples(command: str) -> None:
    screen = shown(*command.split(), "--help")
    assert "Usage: " in screen.text
    examples = screen.text.partition("Examples:")[2].partition("╭")[0]
    assert f"steersweep {command}".strip() in examples
