"""``measures: [kl]`` through the whole path: rows, summary, page, certificate, verify and plan."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

import steersweep as package
from steering_core import engine, scoring
from steering_core.stats.clusters import Cluster, means_of_sums
from tests.support.sweeps import read_rows, steersweep, write_spec

TOKENS = ["num_tokens_stereotype", "num_tokens_anti_stereotype", "num_tokens_unrelated"]
SHARED = ["example_id", "layer", "coeff", "choice", *TOKENS]
SCORES = ["score_stereotype", "score_anti_stereotype", "score_unrelated"]


def spec_of(folder: Path) -> Path:
    return write_spec(
        folder / "sweep.yaml",
        data={"path": "embedded:examples.json", "bias_types": ["gender", "race"]},
        steering={"layers": [1, 4], "coeffs": [0, 400]},
        nulls=["random"],
    )


@pytest.fixture(scope="module")
def outputs(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A sweep without the measure, and the same with it."""
    folder = tmp_path_factory.mktemp("measures")
    plain, measured = folder / "out", folder / "measured"
    assert steersweep("run", str(spec_of(folder))).code == 0
    ran = steersweep(
        "run",
        str(folder / "sweep.yaml"),
        *("--set", "measures=[kl]", "--set", f"output={measured}"),
        *("--set", "certificate.rows_per_task=6"),
    )
    assert ran.code == 0, ran
    assert "certificate: holds" in ran.out
    return plain, measured


def test_rows_get_a_column_and_keep_the_bits_of_the_others(outputs: tuple[Path, Path]) -> None:
    plain, measured = (read_rows(str(output)) for output in outputs)
    assert "kl" not in plain
    assert list(measured.columns) == [*plain.columns[:15], "kl", *plain.columns[15:]]
    for column in (*SHARED, *SCORES):
        assert plain[column].equals(measured[column]), column
    of_0, of_400 = (measured[measured["coeff"] == coeff]["kl"] for coeff in (0, 400))
    assert (of_0 == 0).all()
    assert (of_400 > 1e-3).all()
    assert (read_rows(str(outputs[1]), "nulls/null=random")["kl"] >= 0).all()
    assert "kl" not in read_rows(str(outputs[1]), "baseline")
    frame = package.load(str(outputs[1])).steered
    assert sorted(frame["kl"]) == sorted(measured["kl"])
    assert "kl" not in package.load(str(outputs[0])).steered


def test_the_summary_weighs_rows_by_scored_tokens_and_clusters_by_term(
    outputs: tuple[Path, Path],
) -> None:
    plain, measured = outputs
    assert pd.read_parquet(plain / "summary" / "cells.parquet")["kl"].isna().all()
    rows = read_rows(str(measured))
    rows["tokens"] = rows[TOKENS].sum(axis=1)
    rows["nats"] = rows["kl"] * rows["tokens"]
    keys = ["split", "bias_type", "layer", "coeff"]
    cells = pd.read_parquet(measured / "summary" / "cells.parquet").set_index(keys)
    for key, of_cell in rows.groupby(keys):
        found = cells.loc[key]
        value = np.average(of_cell["kl"], weights=of_cell["tokens"])
        assert found["kl"] == pytest.approx(value, rel=1e-12)
        of_terms = of_cell.groupby("target")[["nats", "tokens"]].sum()
        clusters = [Cluster("", term) for term in of_terms.index]
        low, high = means_of_sums(
            of_terms["nats"].to_numpy(), of_terms["tokens"].to_numpy(float), clusters
        ).interval()
        assert found["kl_low"] == pytest.approx(max(0.0, float(low)), abs=1e-12, nan_ok=True)
        assert found["kl_high"] == pytest.approx(float(high), abs=1e-12, nan_ok=True)
    pooled = pd.read_parquet(measured / "summary" / "pooled.parquet")
    is_whole = (pooled["split"] == "all") & (pooled["bias_type"] == "all") & pooled["layer"].isna()
    whole = pooled[is_whole].set_index("coeff")["kl"]
    for coeff, of_coeff in rows.groupby("coeff"):
        value = np.average(of_coeff["kl"], weights=of_coeff["tokens"])
        assert whole[coeff] == pytest.approx(value, rel=1e-12)


def test_tables_of_the_page_show_it_only_where_it_was_measured(
    outputs: tuple[Path, Path],
) -> None:
    without, page = ((output / "report.html").read_text("utf-8") for output in outputs)
    note, heading = "KL: how far steering moved", re.compile(r">\s*KL\b")
    assert note in page
    assert heading.search(page)
    assert note not in without
    assert not heading.search(without)


def test_summarize_and_export_take_it_along(outputs: tuple[Path, Path], tmp_path: Path) -> None:
    results = package.load(str(outputs[1]))
    again = package.summarize(results.baseline, results.steered, vectors="in_sample")["cells"]
    np.testing.assert_allclose(again["kl"], results.cells["kl"], rtol=1e-12)
    assert steersweep("export", str(outputs[1]), str(tmp_path / "flat.parquet")).code == 0
    flat = pd.read_parquet(tmp_path / "flat.parquet")
    assert (flat["kl"].isna() == (flat["table"] == "baseline")).all()


def test_verify_recomputes_it_and_finds_a_wrong_one(
    outputs: tuple[Path, Path], tmp_path: Path
) -> None:
    held = steersweep("verify", str(outputs[1]), "--rows", "12", "--json")
    assert held.code == 0, held
    (model,) = json.loads(held.out)["models"]
    assert model["largest_kl_difference"] < 1e-5
    certificate = json.loads((outputs[1] / "certificate.json").read_text())
    assert 0 <= certificate["overall"]["largest_kl_difference"] < 1e-5
    plain = json.loads((outputs[0] / "certificate.json").read_text())
    assert plain["overall"]["largest_kl_difference"] is None


def test_a_wrong_divergence_is_seen_by_the_certificate(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The rows that are stored then are the slow path's."""
    monkeypatch.setattr(
        engine, "mean_divergences", lambda *of: scoring.mean_divergences(*of) + 0.01
    )
    spec = write_spec(
        tmp_path / "sweep.yaml",
        data={"path": "embedded:examples.json", "bias_types": ["race"], "limit": 2},
        steering={"layers": [4], "coeffs": [0]},
        measures=["kl"],
    )
    ran = steersweep("run", str(spec))
    assert ran.code == 0
    assert "computed on the slow path" in ran.out + ran.err
    assert (read_rows(str(tmp_path / "out"))["kl"] == 0).all()
    worst = json.loads((tmp_path / "out" / "certificate.json").read_text())["overall"]["worst_row"]
    assert worst["quantity"] == "kl"
    assert worst["difference"] == pytest.approx(0.01, rel=1e-3)


def test_the_measure_belongs_to_the_sweep(outputs: tuple[Path, Path]) -> None:
    plain, measured = outputs
    spec = str(plain.parent / "sweep.yaml")
    added = steersweep("run", spec, "--set", "measures=[kl]")
    assert added.code == 2
    assert "measures: [] -> ['kl']" in added.err
    gone = steersweep("run", spec, "--set", f"output={measured}")
    assert gone.code == 2
    assert "measures: ['kl'] -> []" in gone.err
    assert "measures" not in json.loads((plain / "run.json").read_text())["spec"]


def test_plan_shows_what_it_costs(outputs: tuple[Path, Path], tmp_path: Path) -> None:
    spec = str(outputs[0].parent / "sweep.yaml")
    new = ("--set", f"output={tmp_path / 'new'}", "--set", "compute.tokens_per_batch=1024")
    plain, measured = (
        json.loads(steersweep("plan", spec, *new, *more, "--seconds", "0", "--json").out)
        for more in ((), ("--set", "measures=[kl]"))
    )
    phases = [phase for phase in plain["models"]["tiny"]["phases"] if phase != "baseline"]
    assert phases
    for phase in phases:
        without, of_kl = (plan["models"]["tiny"]["phases"][phase] for plan in (plain, measured))
        for key in ("needed_flops", "checked_flops", "written_bytes"):
            assert of_kl[key] > without[key], (phase, key)
        assert of_kl["work"]["block_tokens"] > without["work"]["block_tokens"]
        assert of_kl["work"]["num_forks"] == without["work"]["num_forks"]
    assert (
        plain["models"]["tiny"]["phases"]["baseline"]
        == (measured["models"]["tiny"]["phases"]["baseline"])
    )
