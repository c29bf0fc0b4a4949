"""Results of a run as a notebook gets them, and the figures that a run leaves."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
from pandas.testing import assert_frame_equal
from safetensors.numpy import load_file

from cluster.errors import CorruptPartError
from cluster.storage import StorageSpec
from jobs.results import Results
from jobs.sweeps.registry import open_results
from steersweep.errors import UserError
from tests.support.sweeps import steersweep, write_spec

GROUP = ["model", "split", "bias_type"]
ROW = [*GROUP, "layer", "coeff", "example_id"]


@pytest.fixture(scope="module")
def output(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("results")
    spec = write_spec(
        folder / "sweep.yaml",
        data={"path": "embedded:examples.json", "splits": ["intersentence"]},
        vectors={"folds": 2},
    )
    finished = steersweep("run", str(spec), "--figures")
    assert finished.code == 0, finished
    assert f"figures: {folder / 'out' / 'figures'} (" in finished.out
    return folder / "out"


def copied(output: Path, uri: str, without: str = "none of it") -> str:
    storage = StorageSpec(uri).open()
    for path in output.rglob("*.*"):
        key = path.relative_to(output).as_posix()
        if path.is_file() and not key.startswith(without):
            storage.replace(key, path.read_bytes())
    return uri


@pytest.fixture(params=["local", "s3"])
def results(request: pytest.FixtureRequest, output: Path) -> Results:
    if request.param == "local":
        return open_results(str(output))
    return open_results(
        copied(output, request.getfixturevalue("s3_uri")), request.getfixturevalue("s3_endpoint")
    )


def test_rows_and_tables_are_those_that_are_stored(output: Path, results: Results) -> None:
    for name in ("baseline", "steered"):
        stored = pd.read_parquet(output / name).astype(dict.fromkeys(GROUP, "str"))
        found = getattr(results, name)
        assert list(found.columns) == list(stored.columns)
        found, stored = (f.sort_values(ROW, ignore_index=True) for f in (found, stored))
        assert_frame_equal(found, stored, check_dtype=False)
    for name in ("cells", "pooled", "geometry"):
        stored = pd.read_parquet(output / "summary" / f"{name}.parquet")
        assert_frame_equal(getattr(results, name), stored)


def test_vectors_are_those_of_the_files(output: Path, results: Results) -> None:
    vectors = results.vectors
    num_found = 0
    for (model, split, bias_type), rows in vectors.groupby(GROUP):
        tensors = load_file(output / "vectors" / model / split / f"{bias_type}.safetensors")
        for row in rows.itertuples():
            fold = "" if pd.isna(row.fold) else f".fold.{row.fold}"
            assert row.vector.dtype == np.float32
            np.testing.assert_array_equal(row.vector, tensors[f"layer.{row.layer}{fold}"])
            num_found += 1
        assert len(rows) == len(tensors)
    assert num_found == 4 * 2 * 3  # bias types, layers, the whole and two folds


def test_a_summary_that_is_not_there_is_computed(output: Path, tmp_path: Path) -> None:
    found = open_results(copied(output, str(tmp_path / "bare"), without="summary/"))
    assert_frame_equal(found.cells, open_results(str(output)).cells)
    assert_frame_equal(found.pooled, open_results(str(output)).pooled)
    assert_frame_equal(found.geometry, open_results(str(output)).geometry)
    assert not (tmp_path / "bare" / "summary").exists()


def test_rows_are_checked(output: Path, tmp_path: Path) -> None:
    uri = copied(output, str(tmp_path / "damaged"))
    part = next((tmp_path / "damaged" / "steered").rglob("*.parquet"))
    table = pq.ParquetFile(part).read()
    scores = pc.add(table["score_unrelated"], 1e-9)
    column = table.schema.get_field_index("score_unrelated")
    pq.write_table(table.set_column(column, "score_unrelated", scores), part)
    with pytest.raises(CorruptPartError, match="rows with digest"):
        open_results(uri).read_all()
    with pytest.raises(UserError, match="holds no run"):
        open_results(str(tmp_path / "nothing"))


def test_a_run_leaves_its_figures(output: Path) -> None:
    names = {path.stem for path in (output / "figures").glob("*.png")}
    assert names == {path.stem for path in (output / "figures").glob("*.pdf")}
    assert {"bars-intersentence-coeff=400", "flows-intersentence-coeff=-3", "curves-intersentence",
            "heat-map-tiny-intersentence", "vectors-folds", "anisotropy"} <= names  # fmt: skip


def test_another_run_is_shown_beside_this_one(output: Path, tmp_path: Path) -> None:
    own = Path(copied(output, str(tmp_path / "own")))
    other = write_spec(
        tmp_path / "sweep.yaml",
        data={"path": "embedded:examples.json", "splits": ["intersentence"]},
        steering={"layers": [4], "coeffs": [400]},
    )
    assert steersweep("run", str(other)).code == 0
    made = steersweep("report", str(own), "--compare", str(tmp_path / "out"))
    assert made.code == 0, made
    rows = pd.read_parquet(own / "summary" / "compared.parquet")
    assert set(rows["run"]) == {"vectors.folds 2", "vectors.folds 1"}
    assert set(zip(rows["layer"], rows["coeff"], strict=True)) == {(4, 400.0)}
    for run, of in rows.groupby("run"):
        folder = own if run == "vectors.folds 2" else tmp_path / "out"
        stored = pd.concat(
            pd.read_parquet(folder / "summary" / f"{name}.parquet") for name in ("cells", "pooled")
        )
        stored = stored.query("layer == 4 and coeff == 400")
        keys = [*GROUP, "layer", "coeff"]
        pd.testing.assert_frame_equal(
            of.drop(columns="run").sort_values(keys, ignore_index=True),
            stored.sort_values(keys, ignore_index=True),
            check_dtype=False,
        )
    differences = pd.read_parquet(own / "summary" / "differences.parquet").query("kind == 'runs'")
    cells = rows.set_index(["run", *GROUP, "layer", "coeff"])["s2a"]
    for of in differences.query("estimate == 's2a'").to_dict("records"):
        key = (*(of[name] for name in GROUP), of["layer"], of["coeff"])
        wanted = cells[of["a"], *key] - cells[of["b"], *key]
        assert of["difference"] == pytest.approx(wanted)
        assert of["low"] <= of["difference"] <= of["high"]
    assert "vectors.folds 2 minus vectors.folds 1 (paired by target term)" in made.out
    page = (own / "report.html").read_text()
    assert "Compared with another run" in page
    assert "Differences: vectors.folds 2 minus vectors.folds 1" in page
    assert steersweep("report", str(own)).code == 0
    assert not list((own / "summary").glob("compared.*"))


def test_runs_that_differ_only_in_their_seed_are_summarized_together(tmp_path: Path) -> None:
    uris = []
    for seed in range(3):
        spec = write_spec(
            tmp_path / "sweep.yaml",
            data={"path": "embedded:examples.json", "splits": ["intersentence"]}
            | {"limit": 2, "seed": seed},
            steering={"layers": [4], "coeffs": [400]},
            output=str(tmp_path / f"seed{seed}"),
        )
        assert steersweep("run", str(spec), "--no-figures").code == 0
        uris.append(str(tmp_path / f"seed{seed}"))
    made = steersweep("report", uris[0], "--compare", *uris[1:], "--no-figures")
    assert made.code == 0, made
    (seeds,) = [pd.read_parquet(Path(uris[0]) / "summary" / "seeds.parquet")]
    headlines = pd.concat(pd.read_parquet(Path(u) / "summary" / "headline.parquet") for u in uris)
    s2a = seeds.query("estimate == 's2a' and vectors == 'in_sample'").iloc[0]
    headlines = headlines[headlines["vectors"] == "in_sample"]
    assert s2a["num_runs"] == 3
    assert s2a["mean"] == pytest.approx(headlines["s2a"].mean())
    assert s2a["sd"] == pytest.approx(headlines["s2a"].std())
    assert (s2a["smallest"], s2a["largest"]) == (headlines["s2a"].min(), headlines["s2a"].max())
    _, printed = made.out.split("The paper's headline over 3 seeds\n")
    printed = printed.split("certificate:")[0]
    assert f"{s2a['mean']:+.3f}" in printed
    assert max(len(line) for line in printed.splitlines()) < 80
    page = (Path(uris[0]) / "report.html").read_text()
    assert "The headline over 3 runs with other examples" in page
    twice = steersweep("report", uris[0], uris[1])
    assert twice.code == 2
    assert "write `report URI --compare URI ...`" in twice.err


def test_runs_without_a_common_cell_are_not_compared(output: Path, tmp_path: Path) -> None:
    own = copied(output, str(tmp_path / "own"), without="summary/")
    other = write_spec(
        tmp_path / "sweep.yaml",
        data={"path": "embedded:examples.json", "splits": ["intrasentence"]},
        steering={"layers": [2], "coeffs": [1]},
    )
    assert steersweep("run", str(other)).code == 0
    refused = steersweep("report", own, "--compare", str(tmp_path / "out"))
    assert refused.code == 2
    assert "no cell in common" in refused.err
    assert not (tmp_path / "own" / "summary").exists()
    refused = steersweep("report", own, "--compare", str(tmp_path / "nothing"))
    assert refused.code == 2
    assert "holds no run" in refused.err
