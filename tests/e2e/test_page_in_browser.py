"""report.html in a browser: the page of a real run, and of one whose texts are markup."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser, Page

from jobs.resources import local_path
from tests.support.browsers import CHROMIUM, check_quiet, opened
from tests.support.personas import save_chat_model, write_persona_spec
from tests.support.sweeps import Finished, steersweep, write_spec

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on this machine")

EVIL = "<script>document.title='owned'</script>\"'&"


def size_of_figures(page: Page) -> dict[str, tuple[float, float]]:
    """Of what each figure has drawn: marks and lines, without axes."""
    marks = ".trace, .sankey, .hm"
    found: dict[str, Any] = page.evaluate(
        "(marks) => Object.fromEntries([...document.querySelectorAll('figure')].map((figure) => {"
        " const boxes = [...figure.querySelectorAll(marks)].map((m) => m.getBoundingClientRect());"
        " return [figure.id, [Math.max(0, ...boxes.map((b) => b.width)),"
        " Math.max(0, ...boxes.map((b) => b.height))]]; }))",
        marks,
    )
    return {name: (box[0], box[1]) for name, box in found.items()}


@pytest.fixture(scope="module")
def output(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Finished]:
    folder = tmp_path_factory.mktemp("page")
    spec = write_spec(
        folder / "sweep.yaml",
        models={name: {"path": "embedded:gemma2-tiny"} for name in ("tiny", "again")},
        steering={"layers": [1, 4], "coeffs": [-3, 0.5, 400]},
    )
    return folder / "out", steersweep("run", str(spec))


@pytest.fixture(scope="module")
def hostile(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run whose model's path, example ids, targets and sentences are markup."""
    folder = tmp_path_factory.mktemp("hostile")
    model = folder / EVIL
    shutil.copytree(local_path("embedded:gemma2-tiny"), model)
    data = json.loads(Path(local_path("embedded:examples.json")).read_text())
    for examples in data["data"].values():
        for example in examples:
            example["id"] = EVIL + example["id"]
            example["target"] += EVIL
            for sentence in example["sentences"]:
                sentence["sentence"] += EVIL
    data_file = folder / f"{EVIL.replace('/', '')}.json"
    data_file.write_text(json.dumps(data))
    spec = write_spec(
        folder / "sweep.yaml",
        models={"tiny": {"path": str(model)}},
        data={"path": str(data_file), "splits": ["intrasentence"], "bias_types": ["race"]},
    )
    finished = steersweep("run", str(spec))
    assert finished.code == 0, finished
    return folder / "out/report.html"


def test_run_and_report_say_where_the_page_is(output: tuple[Path, Finished]) -> None:
    folder, finished = output
    assert finished.code == 0, finished
    page = folder / "report.html"
    assert str(page) in finished.out
    page.unlink()
    made = steersweep("report", str(folder))
    assert str(page) in made.out
    assert page.exists()


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [1280, 390])
def test_the_page_of_a_run_is_drawn_and_fetches_nothing(
    browser: Browser, output: tuple[Path, Finished], width: int, scheme: str
) -> None:
    path = output[0] / "report.html"
    result = opened(browser, path, width=width, scheme=scheme)
    check_quiet(result, path)
    sizes = size_of_figures(result.page)
    assert set(sizes) == {
        "by-layer",
        "flows",
        "moves",
        "by-coeff",
        "grid",
        "models",
        "anisotropy",
    }
    # Lines may be flat: as high as their marks at least.
    least = {name: 5 if name == "anisotropy" else 50 for name in sizes}
    assert all(w > 50 and h > least[name] for name, (w, h) in sizes.items()), sizes
    assert result.page.evaluate("document.documentElement.scrollWidth") <= width
    check_nothing_is_hidden(result.page, width)
    if (width, scheme) == (1280, "light"):
        check_the_camera_works(result.page)
        assert result.messages == []
    result.page.close()


def test_choices_redraw_a_figure(browser: Browser, output: tuple[Path, Finished]) -> None:
    page = opened(browser, output[0] / "report.html").page
    bars = "[...document.querySelectorAll('#flows .plot')].map((p) => p.data.map((t) => t.y))[0]"
    before = page.evaluate(bars)
    page.locator("#flows label", has_text="layer").locator("select").select_option("4")
    assert page.evaluate(bars) != before
    page.close()


def test_a_table_is_sorted_by_the_heading_pressed(
    browser: Browser, output: tuple[Path, Finished]
) -> None:
    page = opened(browser, output[0] / "report.html").page
    heading = page.locator("#table-cells th", has_text="Δ S→A")
    column = heading.evaluate("(th) => th.cellIndex")
    values = (
        "(column) => [...document.querySelectorAll('#table-cells tbody tr')]"
        ".map((row) => Number(row.cells[column].dataset.sort))"
    )
    before = page.evaluate(values, column)
    for order, is_reversed in (("ascending", False), ("descending", True)):
        heading.locator("button").click()
        assert heading.get_attribute("aria-sort") == order
        assert page.evaluate(values, column) == sorted(before, reverse=is_reversed)
    assert len(set(before)) > 10
    page.close()


def test_markup_in_data_and_names_stays_text(browser: Browser, hostile: Path) -> None:
    result = opened(browser, hostile, width=390)
    check_quiet(result, hostile)
    page = result.page
    assert page.title() == "Steering sweep on StereoSet: tiny"
    text = page.locator("body").inner_text()
    assert text.count(EVIL) >= 2  # the model's path, the id of the certificate's worst row
    assert page.locator("script").count() == 5
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
    page.close()


# What a reader cannot see: marks of figures behind the mode bar, and cells of tables that are off
# the screen in a box without a scroll bar that takes room of its own.
COVERED = """() => [...document.querySelectorAll("figure")].flatMap((figure) => {
  const bar = figure.querySelector(".modebar-group").getBoundingClientRect();
  const parts = "label, .legend, .gtitle, .plot .bglayer, .cartesianlayer, .sankey";
  const others = [...figure.querySelectorAll(parts)];
  return others.map((other) => [other, other.getBoundingClientRect()])
    .filter(([, box]) => box.width && box.left < bar.right && box.right > bar.left
      && box.top < bar.bottom && box.bottom > bar.top)
    .map(([other]) => `${figure.id}: ${other.getAttribute("class") ?? other.tagName}`);
})"""
OFF_SCREEN = """() => [...document.querySelectorAll("td, .answer")].filter((cell) => {
  const box = cell.getBoundingClientRect(), scroll = cell.closest(".scroll");
  const hasBar = scroll && scroll.scrollWidth > scroll.clientWidth
    && scroll.offsetHeight - scroll.clientHeight > 6;
  return box.right > innerWidth + 1 && !hasBar;
}).map((cell) => cell.textContent)"""
NUMBERS_OFF = """() => [...document.querySelectorAll("td.number")].filter((cell) => {
  const range = document.createRange();
  range.selectNodeContents(cell);
  const box = range.getBoundingClientRect();
  return box.left < 0 || box.right > innerWidth;
}).map((cell) => cell.textContent)"""


def check_nothing_is_hidden(page: Page, width: int) -> None:
    assert page.evaluate(OFF_SCREEN) == []
    if width < 560:
        assert page.locator("td.number").count() > 5
        assert page.evaluate(NUMBERS_OFF) == []
    else:
        assert page.locator(".modebar-group").count() == page.locator("figure").count()
        assert page.evaluate(COVERED) == []


def check_the_camera_works(page: Page) -> None:
    with page.expect_download() as download:
        page.locator("figure [data-title^='Download']").first.click()
    path = download.value.path()
    assert path.read_bytes().startswith(b"\x89PNG")
    assert path.stat().st_size > 5_000


@pytest.fixture(scope="module")
def persona_page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The page of a persona sweep whose questions and trait are markup."""
    folder = tmp_path_factory.mktemp("persona-page")
    words = {"kind": "word_list", "words": {name: ["a", "e"] for name in ("kind", "sly")}}
    passing = {"positive_at_least": 0, "negative_below": 100, "coherence_at_least": 0}
    spec = write_persona_spec(
        folder, save_chat_model(folder / "model"), judge=words, filter=passing
    )
    for path in folder.glob("*.json"):
        trait = json.loads(path.read_text())
        path.write_text(json.dumps({**trait, "questions": [EVIL, "What is new?"]}))
    # In a process of its own: the browser's event loop runs in this one.
    command = [sys.executable, "-m", "jobs.cli", "run", str(spec), "--figures"]
    finished = subprocess.run(command, capture_output=True, text=True, check=False)
    assert finished.returncode == 0, finished
    return folder / "out" / "report.html"


@pytest.mark.parametrize("width", [1280, 390])
def test_a_persona_page_is_drawn_and_fetches_nothing(
    browser: Browser, persona_page: Path, width: int
) -> None:
    result = opened(browser, persona_page, width=width, scheme="dark")
    check_quiet(result, persona_page)
    page = result.page
    assert page.title().startswith("Persona vectors")
    figures = size_of_figures(page)
    kinds = ("trait_score", "coherence", "layers", "projections")
    assert set(figures) == {"cosines-chat"} | {
        f"{kind}-chat-{trait}" for kind in kinds for trait in ("kind", "sly")
    }
    # A box is a trace of its own, and a line may be level.
    assert all(across > 15 and up > 4 for across, up in figures.values()), figures
    chooser = page.locator("#projections-chat-kind select")
    boxes = "document.querySelector('#projections-chat-kind .plot').data.map((t) => t.median[0])"
    before = page.evaluate(boxes)
    chooser.select_option(label="3")
    assert page.evaluate(boxes) != before
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    assert EVIL in page.locator("#examples").inner_text()
    before = page.locator("#table-steered tbody tr").first.inner_text()
    page.locator("#table-steered th button", has_text="coefficient").click()
    page.locator("#table-steered th button", has_text="coefficient").click()
    assert page.locator("#table-steered tbody tr").first.inner_text() != before
    check_nothing_is_hidden(page, width)
    if width == 1280:
        check_the_camera_works(page)
        assert result.messages == []
    page.close()
