"""Nulls through the whole path: beside the steered cells, added later, told apart."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from safetensors.numpy import load_file

from jobs.resources import model_source
from jobs.scoring.tables import NullTable
from steering_core.encoding import ExampleEncoder
from steering_core.models import load_model, load_tokenizer
from steering_core.nulls import Null, draw_seed, label_signs
from steering_core.protocol import PROTOCOLS
from steering_core.slow_engine import SlowEngine
from steering_core.vectors import assign_folds
from tests.support.golden import golden_examples
from tests.support.stereoset_data import DEV_JSON, needs_dev_json
from tests.support.sweeps import read_rows, steersweep, write_spec

SCORES = ["score_stereotype", "score_anti_stereotype", "score_unrelated"]
NULLS: tuple[Null, ...] = ("random", "shuffled")


def _table(null: Null, draw: int = 0) -> NullTable:
    """Of a cross-fitted sweep."""
    return NullTable(null, "held_out", draw)


@pytest.fixture(scope="module")
def output(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A cross-fitted sweep without nulls, then again with them."""
    folder = tmp_path_factory.mktemp("nulls")
    spec = write_spec(
        folder / "sweep.yaml",
        protocol="aligned",
        data={"path": "embedded:examples.json", "bias_types": ["gender", "race"]},
        vectors={"folds": 2},
        steering={"layers": [1, 4], "coeffs": [20]},
    )
    assert steersweep("run", str(spec)).code == 0
    steered = {p: p.stat().st_mtime_ns for p in (folder / "out" / "steered").rglob("*.parquet")}
    grown = steersweep("run", str(spec), "--set", "nulls=[random, shuffled]")
    assert grown.code == 0, grown
    assert "certificate: holds" in grown.out
    assert {p: p.stat().st_mtime_ns for p in steered} == steered
    return folder / "out"


def test_each_null_steers_every_cell_with_vectors_of_the_same_norm(output: Path) -> None:
    frames = {
        "fit": read_rows(str(output)),
        **{null: read_rows(str(output), str(_table(null))) for null in NULLS},
    }
    keys = ["split", "bias_type", "layer", "coeff", "example_id"]
    for null in NULLS:
        pd.testing.assert_frame_equal(frames[null][keys], frames["fit"][keys])
        assert np.abs(frames[null][SCORES] - frames["fit"][SCORES]).to_numpy().max() > 1e-3
        for path in (output / "vectors" / "tiny").rglob("*.safetensors"):
            fitted = load_file(path)
            beside = Path("vectors", str(_table(null)).removeprefix("nulls/"), *path.parts[-3:])
            of_null = load_file(output / beside)
            assert of_null.keys() == fitted.keys()
            for name, vector in fitted.items():
                norms = np.linalg.norm(of_null[name]), np.linalg.norm(vector)
                np.testing.assert_allclose(*norms, rtol=1e-5)
                # With one example behind a vector, its label may come out as it was.
                assert null == "shuffled" or not np.allclose(of_null[name], vector)


def test_the_summary_has_them_beside_the_steered_cells(output: Path) -> None:
    cells = pd.read_parquet(output / "summary" / "cells.parquet")
    nulls = pd.read_parquet(output / "summary" / "nulls.parquet")
    assert set(nulls["null"]) == set(NULLS)
    of_cells = nulls[
        (nulls["split"] != "all") & (nulls["bias_type"] != "all") & nulls["layer"].notna()
    ]
    assert len(of_cells) == len(NULLS) * len(cells)
    shown = steersweep("status", str(output)).out
    assert "null: random" in shown
    assert "null: shuffled" in shown
    assert steersweep("verify", str(output), "--rows", "30").code == 0


def test_a_random_draw_has_one_direction_for_all_folds(output: Path) -> None:
    folder = output / "vectors" / "null=random" / "vectors=held_out" / "draw=0"
    for path in folder.rglob("*.safetensors"):
        vectors = load_file(path)
        for layer in (1, 4):
            own = [v for name, v in vectors.items() if name.startswith(f"layer.{layer}")]
            units = np.stack([v / np.linalg.norm(v) for v in own])
            assert len(units) == 3  # of all examples, and of two folds
            np.testing.assert_allclose(units @ units.T, 1.0, atol=1e-6)


def test_a_shuffled_draw_is_the_mean_difference_of_its_own_labels(output: Path) -> None:
    """Against states that plain Hugging Face gives, pooled and labelled again by hand."""
    model = load_model(model_source("embedded:gemma2-tiny"), device="cpu", dtype="float32")
    tokenizer = load_tokenizer(model_source("embedded:gemma2-tiny"))
    protocol = PROTOCOLS["aligned"]
    examples = golden_examples().group("intersentence", "race")
    folds = assign_folds([e.target for e in examples], 2, 0, "intersentence/race")
    slow = SlowEngine(model, protocol)
    rows = ExampleEncoder(tokenizer, protocol, "tiny").encode(examples)
    differences_ND = np.stack([np.subtract(*slow.row_states(row, [4])[::-1, 0]) for row in rows])
    signs = label_signs([e.example_id for e in examples], draw_seed("shuffled", 0, 0))
    folder = output / "vectors" / "null=shuffled" / "vectors=held_out" / "draw=0"
    drawn = load_file(folder / "tiny" / "intersentence" / "race.safetensors")
    for fold in range(2):
        others = np.asarray(folds) != fold
        wanted = (signs[others, None] * differences_ND[others]).mean(axis=0)
        found = drawn[f"layer.4.fold.{fold}"]
        cosine = wanted @ found / np.linalg.norm(wanted) / np.linalg.norm(found)
        assert cosine == pytest.approx(1.0, abs=1e-6)


def test_a_null_may_not_go(output: Path) -> None:
    refused = steersweep("run", str(output.parent / "sweep.yaml"), "--set", "nulls=[random]")
    assert refused.code == 2
    assert "nulls: shuffled is gone" in refused.err


def test_draws_are_added_and_never_taken_away(tmp_path: Path) -> None:
    spec = write_spec(
        tmp_path / "sweep.yaml",
        data={
            "path": "embedded:examples.json",
            "bias_types": ["race"],
            "splits": ["intersentence"],
        },
        vectors={"folds": 1},
        steering={"layers": [1, 4], "coeffs": [20, 400]},
        nulls={"shuffled": 1, "random": 2, "layers": 4, "coeffs": 20},
    )
    assert steersweep("run", str(spec)).code == 0
    nulls = tmp_path / "out" / "nulls"
    before = {path: path.stat().st_mtime_ns for path in nulls.rglob("*.parquet")}
    assert len(before) == 2 * (1 + 2)  # each draw for in-sample vectors and for held-out ones
    assert steersweep("run", str(spec), "--set", "nulls.shuffled=3").code == 0
    after = {path: path.stat().st_mtime_ns for path in nulls.rglob("*.parquet")}
    assert len(after) == 2 * (3 + 2)
    assert before.items() <= after.items()
    rows = {
        (vectors, draw): read_rows(str(tmp_path / "out"), str(NullTable("shuffled", vectors, draw)))
        for vectors in ("in_sample", "held_out")
        for draw in range(3)
    }
    assert {
        (int(layer), coeff)
        for of in rows.values()
        for layer, coeff in zip(of.layer, of.coeff, strict=True)
    } == {(4, 20.0)}
    distinct = {of["score_stereotype"].to_numpy().tobytes() for of in rows.values()}
    assert len(distinct) == len(rows)
    assert steersweep("verify", str(tmp_path / "out"), "--rows", "40").code == 0
    fewer = steersweep("run", str(spec), "--set", "nulls.shuffled=2")
    assert fewer.code == 2
    assert "nulls.shuffled: 3 -> 2 (the rows of 3 draws are stored" in fewer.err
    elsewhere = steersweep("run", str(spec), "--set", "nulls.layers=3")
    assert elsewhere.code == 2
    assert "nulls.layers: 3 is not in steering.layers" in elsewhere.err


@needs_dev_json
def test_random_weights_show_no_flow_under_a_null_beyond_the_false_discovery_rate(
    tmp_path: Path,
) -> None:
    spec = write_spec(
        tmp_path / "sweep.yaml",
        protocol="aligned",
        data={"path": str(DEV_JSON), "bias_types": ["gender", "race"], "limit": 40},
        steering={"layers": [2, 5], "coeffs": [20]},
        nulls=list(NULLS),
    )
    finished = steersweep("run", str(spec))
    assert finished.code == 0, finished
    nulls = pd.read_parquet(tmp_path / "out" / "summary" / "nulls.parquet")
    q = nulls[[name for name in nulls if name.endswith("_q")]].to_numpy()
    assert np.isfinite(q).any()
    assert (q < 0.05).mean() <= 0.05


def test_nulls_at_some_layers_say_nothing_of_all_layers(tmp_path: Path) -> None:
    spec = write_spec(
        tmp_path / "sweep.yaml",
        data={"path": "embedded:examples.json", "bias_types": ["gender"], "limit": 2},
        steering={"layers": [1, 3, 4], "coeffs": [20]},
        nulls={"random": 2, "layers": [1, 3]},
        certificate={"rows_per_task": 0},
    )
    assert steersweep("run", str(spec), "--no-figures").code == 0
    summary = tmp_path / "out" / "summary"
    assert pd.read_parquet(summary / "pooled.parquet")["layer"].isna().any()
    tests = pd.read_parquet(summary / "null_tests.parquet")
    assert set(tests["layer"]) == {1, 3}
    differences = pd.read_parquet(summary / "differences.parquet")
    of_nulls = differences[differences["kind"] == "null"]
    assert set(of_nulls["layer"]) == {1, 3}
