"""``summary/dose_response`` of a sweep, against a direct computation with pandas."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

import steersweep as package
from tests.support.sweeps import read_rows, steersweep, write_spec

GROUP = ["split", "bias_type"]
KEYS = [*GROUP, "layer"]


def run(folder: Path, **steering: object) -> Path:
    spec = write_spec(
        folder / "sweep.yaml",
        data={"path": "embedded:examples.json", "bias_types": ["gender", "race"]},
        steering={"layers": [1, 4], **steering},
        compute={"executor": "in_process", "examples_per_task": 2, "tokens_per_batch": 1024},
    )
    ran = steersweep("run", str(spec))
    assert ran.code == 0, ran
    return folder / "out"


@pytest.fixture(scope="module")
def output(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two coefficients, and a third in tasks of its own."""
    folder = tmp_path_factory.mktemp("doses")
    run(folder, coeffs=[-20, 30])
    grown = steersweep("run", str(folder / "sweep.yaml"), "--set", "steering.coeffs=[-20, 30, 60]")
    assert grown.code == 0, grown
    return folder / "out"


def direct(output: Path) -> pd.DataFrame:
    """By example and layer, whether its gap rises and whether it falls with every step."""

    def gap(rows: pd.DataFrame) -> pd.Series:
        return rows["score_anti_stereotype"] - rows["score_stereotype"]

    baseline, steered = read_rows(str(output), "baseline"), read_rows(str(output))
    unsteered = baseline.assign(gap=gap(baseline)).set_index([*GROUP, "example_id"])["gap"]
    rows = []
    for key, of_example in steered.groupby([*GROUP, "target", "example_id", "layer"]):
        split, bias_type, target, example_id, layer = key
        gaps = dict(zip(of_example["coeff"], gap(of_example), strict=True))
        gaps.setdefault(0.0, unsteered[split, bias_type, example_id])
        steps = [b > a for a, b in pairwise(gaps[c] for c in sorted(gaps))]
        down = [b < a for a, b in pairwise(gaps[c] for c in sorted(gaps))]
        rows.append((split, bias_type, layer, target, len(gaps), all(steps), all(down)))
    columns = [*KEYS, "target", "num_points", "monotone", "monotone_against"]
    return pd.DataFrame(rows, columns=columns)


def test_shares_are_those_of_a_direct_computation(output: Path) -> None:
    wanted = direct(output)
    both = pd.read_parquet(output / "summary" / "dose_response.parquet")
    assert set(both["vectors"]) == {"in_sample", "held_out"}
    found = both[both["vectors"] == "in_sample"]
    assert len(found) == 3 * 3 * 3, "two splits, bias types and layers, and pooled over each"
    for row in found.itertuples():
        of_row = wanted
        for name, pooled in (("split", "all"), ("bias_type", "all")):
            if getattr(row, name) != pooled:
                of_row = of_row[of_row[name] == getattr(row, name)]
        if not np.isnan(row.layer):
            of_row = of_row[of_row["layer"] == row.layer]
        for name in ("monotone", "monotone_against"):
            value, low, high = (getattr(row, f"{name}{end}") for end in ("", "_low", "_high"))
            assert value == pytest.approx(of_row[name].mean(), abs=1e-12)
            assert np.isnan(low) or 0 <= low <= value <= high <= 1
        assert row.num_points == 4
        assert row.num_examples == len(of_row) / (2 if np.isnan(row.layer) else 1)
        assert row.num_non_finite == 0
        assert row.vectors == "in_sample"
    # Shares of nothing would agree with anything.
    assert 0 < wanted["monotone"].mean() < 1
    assert wanted["monotone_against"].any()


def test_python_and_the_page_have_it(output: Path) -> None:
    frame = package.load(str(output)).dose_response
    assert (frame["vectors"] == "in_sample").sum() == 27
    page = (output / "report.html").read_text("utf-8")
    assert "Dose-response of single examples" in page
    assert "1 in n! would" in page


def test_a_coefficient_of_0_in_the_grid_stands_for_the_unsteered_rows(tmp_path: Path) -> None:
    output = run(tmp_path, coeffs=[0, 20])
    found = pd.read_parquet(output / "summary" / "dose_response.parquet")
    assert (found["num_points"] == 2).all()
    wanted = direct(output).groupby(KEYS)["monotone"].mean()
    of_cells = found[found["vectors"] == "in_sample"].dropna(subset="layer")
    of_cells = of_cells[(of_cells["split"] != "all") & (of_cells["bias_type"] != "all")]
    np.testing.assert_allclose(of_cells.set_index(KEYS)["monotone"].sort_index(), wanted)


@pytest.mark.parametrize(
    "steering", [{"coeffs": [20]}, {"coeffs": [0.5, 1], "operation": "project_out"}]
)
def test_there_is_none_of_one_coefficient_or_where_no_vector_is_added(
    steering: dict[str, object], tmp_path: Path
) -> None:
    output = run(tmp_path, **steering)
    assert not (output / "summary" / "dose_response.parquet").exists()
    assert package.load(str(output)).dose_response.empty
    assert "Dose-response" not in (output / "report.html").read_text("utf-8")
