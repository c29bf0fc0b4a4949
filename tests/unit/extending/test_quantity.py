"""A new quantity of the summary: its formula and its words in one entry."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

import steersweep
from cluster.storage import StorageSpec
from jobs.scoring.inventory import take_inventory
from jobs.stereoset.page.tables import cells, glance
from jobs.stereoset.summary import Summary, summarise
from jobs.stereoset.summary_keys import widest
from steering_core.quantities import FLOW_PAIRS, SHARE, Quantity, ratio_of_sums, registered
from tests.support.stored_outputs import STORED_OUTPUTS

TO_UNRELATED = Quantity(
    label="U",
    heading="chose U after",
    scale=SHARE,
    formula=ratio_of_sums(["s_u", "a_u", "u_u"], FLOW_PAIRS),
    least=0.0,
    most=1.0,
    note="Chose U after: the share of examples whose likeliest candidate is the unrelated one.",
)
OUTPUT = STORED_OUTPUTS / "stereoset"
CELL = ["model", "split", "bias_type", "layer", "coeff"]


@pytest.fixture(autouse=True)
def to_unrelated() -> Iterator[None]:
    with registered("to_unrelated", TO_UNRELATED):
        yield


def test_it_is_a_column_with_an_interval_and_its_value_is_the_share_in_the_rows() -> None:
    results = steersweep.load(OUTPUT)
    assert isinstance(results, steersweep.StereoSetResults)
    made = steersweep.summarize(results.baseline, results.steered, vectors="in_sample")["cells"]
    is_unrelated = results.steered["choice"].eq("unrelated")
    wanted = is_unrelated.groupby([results.steered[key] for key in CELL]).mean()
    rows = made.set_index(CELL)
    assert len(rows) == len(wanted) > 1
    assert wanted.nunique() > 1
    for place, share in wanted.items():
        assert rows.loc[place, "to_unrelated"] == pytest.approx(share)
        low, high = rows.loc[place, ["to_unrelated_low", "to_unrelated_high"]]
        assert 0.0 <= low <= share <= high <= 1.0


def test_the_tables_of_the_page_show_it_in_its_unit_and_say_what_it_is() -> None:
    storage = StorageSpec(str(OUTPUT)).open()
    summary = summarise(storage, take_inventory(storage))
    for table in (glance(summary), cells(summary)):
        (at,) = [n for n, column in enumerate(table.columns) if column.title == "chose U after"]
        assert table.columns[at].hint == "% of examples"
        rows = widest_rows(summary) if table.name == "glance" else summary.cells.to_pylist()
        shares = [100 * row["to_unrelated"] for row in rows]
        assert [row[at].sort for row in table.rows] == pytest.approx(shares)
    assert TO_UNRELATED.note in glance(summary).note


def widest_rows(summary: Summary) -> list[dict[str, Any]]:
    (rows,) = summary.by_vectors.values()
    return [row for of_model in widest(rows).values() for row in of_model]
