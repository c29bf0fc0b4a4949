"""The matrix of side effects in a browser: it opens, is filtered, and its CSV is the table."""

from __future__ import annotations

import io
from collections.abc import Mapping
from pathlib import Path

import pandas as pd
import pyarrow as pa
import pytest
from playwright.sync_api import Browser, Page

from jobs.side_effects.words import Measures, matrix_rows
from jobs.stereoset.page.write import page_of
from tests.support import side_effect_tables
from tests.support.browsers import CHROMIUM, check_quiet, opened
from tests.support.pages import facts_of, record_of, synthetic

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on this machine")

MOST_S = 10
"""The page takes 2.4 s on two busy cores; this is for a machine that does much else."""


@pytest.fixture(scope="module")
def large() -> Mapping[str, pa.Table]:
    return side_effect_tables.large()


@pytest.fixture(scope="module")
def large_page(tmp_path_factory: pytest.TempPathFactory, large: Mapping[str, pa.Table]) -> Path:
    """A page of StereoSet with a matrix of 100 x 40 cells."""
    facts = facts_of(synthetic(["base"], [5, 15], [-0.2, 0.2]), record_of())
    path = tmp_path_factory.mktemp("page") / "report.html"
    path.write_text(page_of(facts, side_effects=large))
    return path


def shown_rows(page: Page) -> int:
    return page.locator("#matrix tr[data-picks]:visible").count()


def test_a_large_matrix_opens_is_filtered_and_gives_its_numbers(
    browser: Browser,
    large_page: Path,
    large: Mapping[str, pa.Table],
) -> None:
    result = opened(browser, large_page)
    page = result.page
    check_quiet(result, large_page)
    assert page.evaluate("performance.getEntriesByName('drawn')[0].startTime") < 1000 * MOST_S
    assert page.evaluate("document.documentElement.scrollWidth") <= 1280
    assert page.locator("#pareto .plot .trace").count() >= 3
    assert shown_rows(page) == 100

    # Headings stay when the matrix is scrolled: the first column and the head.
    box = page.locator(".matrix-box")
    box.evaluate("(box) => box.scrollTo(1500, 1200)")
    corner, edge = page.locator("#matrix .corner").bounding_box(), box.bounding_box()
    assert corner is not None and edge is not None
    assert abs(corner["x"] - edge["x"]) < 3 and abs(corner["y"] - edge["y"]) < 3
    last = page.locator("#matrix tr[data-picks] th").last
    assert last.evaluate("(th) => th.getBoundingClientRect().left") < edge["x"] + 3

    group = page.locator("#side-effects label", has_text="group").first.locator("select")
    group.select_option("religion")
    assert shown_rows(page) == 20
    page.locator("#side-effects label", has_text="layer").locator("select").select_option("10")
    assert shown_rows(page) == 2 * 4  # 3 doses and the prompt in each model
    page.locator(".only-clear input").check()
    cells = "#matrix tbody tr[data-picks]:visible td:visible"
    visible, clear = page.locator(cells).count(), page.locator(f"{cells}.y")
    assert 0 < clear.count() < visible < 8 * 40
    spans = page.locator("#matrix th.kind:visible").evaluate_all(
        "(ths) => ths.map((t) => t.colSpan)"
    )
    assert sum(spans) * shown_rows(page) == visible
    hidden = page.locator(f"{cells}:not(.y)").first
    assert hidden.evaluate("(td) => getComputedStyle(td).color") == "rgba(0, 0, 0, 0)"
    clear.first.click()
    detail = page.locator(".matrix-detail").inner_text()
    assert (
        "religion, layer 10, dose" in detail and str(clear.first.get_attribute("title")) in detail
    )

    with page.expect_download() as download:
        page.get_by_role("button", name="Download CSV").click()
    assert download.value.suggested_filename == "side_effects.csv"
    read = pd.read_csv(io.StringIO(download.value.path().read_text()), keep_default_na=False)
    wanted = pa.Table.from_pylist(
        matrix_rows(large, Measures.of(large)), schema=large["side_effects"].schema
    ).to_pandas()
    assert list(read.columns) == list(wanted.columns)
    for name in wanted.columns:
        if wanted[name].dtype.kind == "f":
            numbers = pd.to_numeric(read[name].replace("", None))
            pd.testing.assert_series_equal(
                numbers, wanted[name], rtol=1e-5, check_names=False, check_dtype=False
            )
        else:
            assert list(read[name].astype(str).str.lower()) == list(
                wanted[name].astype(str).str.lower()
            )
    check_quiet(result, large_page)
    page.close()


def test_a_small_matrix_fits_and_can_be_scrolled_on_a_phone(
    browser: Browser,
    tmp_path: Path,
) -> None:
    evil = "</script><script>document.title='owned'</script>\"'&"
    found = side_effect_tables.tables(models=("a",), groups=("gender", evil), num_sets=0)
    path = tmp_path / "report.html"
    path.write_text(
        page_of(facts_of(synthetic(["a"], [5], [0.2]), record_of()), side_effects=found)
    )
    result = opened(browser, path, width=390, scheme="dark")
    page = result.page
    check_quiet(result, path)
    assert "owned" not in page.title()
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
    assert evil in page.locator("#matrix tbody").nth(1).inner_text()
    # Cells of the matrix are not a list, as those of other tables on a phone are.
    assert (
        page.locator("#matrix td").first.evaluate("(td) => getComputedStyle(td).display")
        == "table-cell"
    )
    page.locator(".matrix-box").evaluate("(box) => box.scrollTo(10_000, 0)")
    right = page.locator("#matrix tr[data-picks] td:last-child").first.bounding_box()
    assert right is not None and right["x"] + right["width"] <= 390
    page.close()
