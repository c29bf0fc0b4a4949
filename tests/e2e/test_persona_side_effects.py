"""``side_effects`` of persona vectors: from a sweep file to rows of data sets and their summary."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from safetensors.numpy import load_file

import steersweep as steersweep_api
from steering_core.vectors import SteeringVectors, to_safetensors
from tests.e2e.test_side_effects import PAIRS, QUESTIONS, Plain, write_sets
from tests.support.golden import model_path
from tests.support.job_cases import parts_of, written
from tests.support.personas import write_persona_spec
from tests.support.sweeps import Finished, change_part, read_rows, steersweep
from tests.support.traits import write_trait

LAYERS, COEFFS = (2, 3), (-3.0, 5.0)
SETS = {"crows_pairs": len(PAIRS), "quiz": len(QUESTIONS)}


def two_sets(folder: Path) -> dict[str, Any]:
    sets = write_sets(folder)
    return {name: sets[name] for name in SETS}


def two_traits(folder: Path) -> dict[str, Any]:
    """One whose vectors are made of contrasted answers, and one that brings its own."""
    rng = np.random.default_rng(3)
    config = json.loads((model_path("gemma2-tiny") / "config.json").read_text())
    vectors = folder / "vectors.safetensors"
    layers = range(1, 1 + config["num_hidden_layers"])
    given = {n: rng.standard_normal(config["hidden_size"]).astype(np.float32) for n in layers}
    vectors.write_bytes(to_safetensors(SteeringVectors(given, {}), {}))
    return {
        "kind": {"path": str(write_trait(folder, "kind.json"))},
        "given": {"path": str(write_trait(folder, "given.json")), "vectors": str(vectors)},
    }


def write_sweep(folder: Path, **changes: Any) -> Path:
    keys: dict[str, Any] = {
        "traits": two_traits(folder),
        "generation": {"max_new_tokens": 3},
        "contrast": {"questions": 1},
        "filter": {"positive_at_least": 0, "negative_below": 100, "coherence_at_least": 0},
        "steering": {"layers": list(LAYERS), "coeffs": [-3, 0, 5], "questions": 1},
        "side_effects": two_sets(folder),
        "compute": {"executor": "in_process", "examples_per_task": 3, "tokens_per_batch": 256},
    }
    return write_persona_spec(folder, model_path("gemma2-tiny"), **(keys | changes))


def run(folder: Path, output: Path, **changes: Any) -> Finished:
    spec = write_sweep(folder, **changes)
    return steersweep("run", str(spec), "--output", str(output), "--no-figures")


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("persona-side-effects")
    done = run(folder, folder / "out")
    assert done.code == 0, done
    assert done.out.count("certificate: holds") == 2, "answers, and rows of data sets"
    return folder / "out"


@pytest.fixture
def output(finished: Path, tmp_path: Path) -> Path:
    """A copy of it."""
    return shutil.copytree(finished, tmp_path / "out")


def steps(output: Path) -> Iterator[tuple[str, int, float, np.ndarray]]:
    """(Trait, layer, coefficient, what is added) of every cell."""
    for trait, pooling in (("kind", "response_mean"), ("given", "file")):
        vectors = load_file(output / f"vectors/chat/{trait}.{pooling}.safetensors")
        for layer in LAYERS:
            for coeff in COEFFS:
                yield trait, layer, coeff, np.float32(coeff) * vectors[f"layer.{layer}"]


def plain_sums(plain: Plain) -> dict[str, list[list[float]]]:
    """Log-probability of each candidate of each example, by data set."""
    return {
        "crows_pairs": [
            [sum(plain.log_probs("", text)) for text in (more, less)] for more, less, *_ in PAIRS
        ],
        "quiz": [
            [sum(plain.log_probs(prompt, text)) for text in texts] for prompt, texts, _ in QUESTIONS
        ],
    }


def stored_sums(rows: pd.DataFrame) -> list[list[float]]:
    """The same of stored rows, whose ids are in the order of the data."""
    return [list(sums) for sums in rows.sort_values("example_id")["sums"]]


def test_rows_are_those_of_a_plain_loop(finished: Path) -> None:
    plain = Plain()
    unsteered = plain_sums(plain)
    for name, num_examples in SETS.items():
        rows = read_rows(str(finished), f"side_effects_baseline/set={name}")
        assert len(rows) == num_examples
        assert stored_sums(rows) == [pytest.approx(s, abs=1e-5) for s in unsteered[name]]
    steered = {name: read_rows(str(finished), f"side_effects/set={name}") for name in SETS}
    assert all(len(steered[name]) == num * 2 * 4 for name, num in SETS.items())
    for trait, layer, coeff, step in steps(finished):
        with plain.steered(layer, step):
            wanted = plain_sums(plain)
        for name, rows in steered.items():
            found = rows[(rows.trait == trait) & (rows.layer == layer) & (rows.coeff == coeff)]
            assert set(found["apply"]) == {f"blocks.{layer - 1}.resid_post"}
            assert stored_sums(found) == [pytest.approx(s, abs=1e-5) for s in wanted[name]]
            assert wanted[name] != [pytest.approx(s, abs=1e-4) for s in unsteered[name]]


def test_a_report_needs_no_data_files_and_says_what_moved(output: Path) -> None:
    shutil.rmtree(output / "summary")
    done = steersweep("report", str(output), "--no-figures")
    assert (done.code, "Side effects" in done.out) == (0, True), done
    table = steersweep_api.load(str(output)).side_effects.query("group == ''")
    assert set(table["set"]) == {*SETS}
    assert set(table["kind"]) == {"bias", "capability"}
    assert dict(zip(table["trait"], table["vectors"], strict=True)) == {
        "kind": "in_sample",
        "given": "file",
    }
    assert set(zip(table["layer"], table["coeff"], strict=True)) == {
        (layer, coeff) for layer in LAYERS for coeff in COEFFS
    }
    assert 'class="matrix"' in (output / "report.html").read_text()


def test_a_sweep_without_side_effects_has_the_same_tasks(finished: Path, tmp_path: Path) -> None:
    assert run(tmp_path, tmp_path / "alone", side_effects={}).code == 0
    alone, both = parts_of(str(tmp_path / "alone")), parts_of(str(finished))
    assert alone == {k: v for k, v in both.items() if not k.startswith("side_effects")}
    assert "side_effects" not in json.loads((tmp_path / "alone" / "index.json").read_text())
    assert not (tmp_path / "alone" / "manifest").exists()


def test_a_finished_output_takes_a_set_and_a_coefficient(output: Path, tmp_path: Path) -> None:
    before = written(output)
    sets = two_sets(tmp_path)
    sets["again"] = {**sets["quiz"], "limit": 2}
    steering = {"layers": list(LAYERS), "coeffs": [-3, 0, 2, 5], "questions": 1}
    grown = run(tmp_path, output, side_effects=sets, steering=steering)
    assert grown.code == 0, grown
    assert before.items() <= written(output).items()
    rows = read_rows(str(output), "side_effects/set=crows_pairs")
    assert len(rows) == rows.duplicated(["trait", "layer", "coeff", "example_id"]).eq(False).sum()
    assert set(rows["coeff"]) == {-3, 2, 5}
    assert len(read_rows(str(output), "side_effects/set=again")) == 2 * 2 * 2 * 3


def test_a_part_that_is_lost_is_computed_again(output: Path, tmp_path: Path) -> None:
    before = parts_of(str(output))
    lost = next(key for key in before if key.startswith("side_effects/set=quiz"))
    (output / lost).unlink()
    status = steersweep("status", str(output), "--json")
    assert json.loads(status.out)["missing"] == "rows of side effects"
    assert run(tmp_path, output).code == 0
    assert parts_of(str(output)) == before


def test_a_trait_that_is_dropped_leaves_the_report_until_it_is_back(
    output: Path, tmp_path: Path
) -> None:
    before = written(output)
    kind = {"kind": two_traits(tmp_path)["kind"]}
    assert run(tmp_path, output, traits=kind).code == 0
    assert set(steersweep_api.load(str(output)).side_effects["trait"]) == {"kind"}
    assert run(tmp_path, output).code == 0
    assert set(steersweep_api.load(str(output)).side_effects["trait"]) == {"kind", "given"}
    side = {key: of for key, of in before.items() if key.startswith("side_effects")}
    assert {k: of for k, of in written(output).items() if k.startswith("side_effects")} == side


def test_other_data_is_refused(output: Path, tmp_path: Path) -> None:
    fewer = two_sets(tmp_path)
    del fewer["quiz"]
    done = run(tmp_path, output, side_effects=fewer)
    assert (done.code, "side_effects: quiz is gone" in done.err) == (2, True), done.err
    spec = write_sweep(tmp_path)
    (tmp_path / "pairs.csv").write_text(
        (tmp_path / "pairs.csv").read_text().replace("cook", "chef")
    )
    done = steersweep("run", str(spec), "--output", str(output))
    assert (done.code, "side_effects.crows_pairs (content)" in done.err) == (2, True), done.err


def test_verify_finds_a_row_that_was_changed(output: Path) -> None:
    assert json.loads(steersweep("verify", str(output), "--json").out)["verdict"] == "holds"
    key = next(key for key in parts_of(str(output)) if key.startswith("side_effects/set=quiz"))

    def change(rows: pa.Table) -> pa.Table:
        scores = [[score + 0.01 for score in of_row] for of_row in rows["scores"].to_pylist()]
        at = rows.column_names.index("scores")
        return rows.set_column(at, rows.field(at), pa.array(scores, rows.field(at).type))

    change_part(output, key, change)
    found = json.loads(steersweep("verify", str(output), "--rows", "60", "--json").out)
    assert (found["verdict"], found["side_effects"][0]["verdict"]) == ("broken", "broken")


def test_plan_counts_rows_and_times_them(tmp_path: Path) -> None:
    spec, plan = write_sweep(tmp_path), tmp_path / "plan.json"
    done = steersweep("plan", str(spec), "--seconds", "0.1", "--json-file", str(plan))
    assert done.code == 0, done
    found = json.loads(plan.read_text())["side_effects"]
    assert found["left"]["num_rows_cells"] == sum(SETS.values()) * (1 + 2 * 4)
    assert found["seconds"] > 0
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"side_effects": {"transfer": True}}, "side_effects.transfer is not available"),
        ({"side_effects": {"quiz": {"path": "no.jsonl"}}}, "side_effects.quiz: no.jsonl: no such"),
        ({"side_effects": {"cells": {"layers": [4]}}}, "4 is not in steering.layers"),
        (
            {
                "side_effects": {"cells": {"layers": [9]}},
                "steering": {"layers": "all", "coeffs": [1]},
            },
            "9 is not in steering.layers",
        ),
        ({"prompts": {"careful": "Answer with care. "}}, "prompts"),
    ],
)
def test_mistakes_are_one_clear_message(
    tmp_path: Path, changes: dict[str, Any], message: str
) -> None:
    done = steersweep("run", str(write_sweep(tmp_path, **changes)))
    assert (done.code, message in done.err) == (2, True), done.err
    assert not (tmp_path / "out").exists()
