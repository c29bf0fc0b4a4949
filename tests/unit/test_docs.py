"""What documents name is there: linked files, commands and their options, examples, papers."""

from __future__ import annotations

import re
import shlex
from collections.abc import Sequence
from pathlib import Path

import pytest
import typer
import yaml

from jobs import __version__
from jobs.cli import app
from jobs.stereoset.headline import PAPER
from jobs.sweeps.registry import load_any_spec, names, spec_type
from tools.spec_keys import keys_of_job

ROOT = Path(__file__).parents[2]
PAGES = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md"), *ROOT.glob("examples/*.md")])
EXAMPLES = sorted(ROOT.glob("examples/*.yaml"))


def name(path: Path) -> str:
    return str(path.relative_to(ROOT))


def anchors(page: Path) -> set[str]:
    """Of the headings, as GitHub makes them."""
    headings = re.findall(r"^#+ (.+)$", page.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", h.lower()).replace(" ", "-") for h in headings}


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_lines_of_prose_have_at_most_120_characters(page: Path) -> None:
    text = re.sub(r"^ *```.*?^ *```", "", page.read_text(), flags=re.MULTILINE | re.DOTALL)
    lines = [line for line in text.splitlines() if not line.startswith(("|", "    "))]
    long = [line for line in lines if len(line) > 120]
    assert not long


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_links_lead_to_files_that_are_there(page: Path) -> None:
    for target in re.findall(r"\]\(([^)\s]+)\)", page.read_text()):
        if re.match(r"https?:", target):
            continue
        file, _, anchor = target.partition("#")
        linked = page.parent / file if file else page
        assert linked.exists(), target
        if anchor and linked.suffix == ".md":
            assert anchor in anchors(linked), target


def commands_of(page: Path) -> list[str]:
    """The commands in the code blocks of a page."""
    blocks = re.findall(r"^```(?:\w*)\n(.*?)^```", page.read_text(), re.MULTILINE | re.DOTALL)
    return commands("\n".join(blocks))


def commands(block: str) -> list[str]:
    """Lines that call steersweep, without their comments and what they pipe to."""
    lines = block.replace("\\\n", " ").splitlines()
    calls = [
        re.split(r" [#|] ", f"{line} ")[0].strip()
        for line in lines
        if line.startswith("steersweep ")
    ]
    return [call for call in calls if "..." not in call]


def parse(words: Sequence[str]) -> None:
    """As the command line does, up to the point where the command would be called."""
    command = typer.main.get_command(app)
    while commands_below := getattr(command, "commands", None):
        assert words[0] in commands_below, f"no command {words[0]!r}"
        command, words = commands_below[words[0]], words[1:]
    command.make_context(command.name, list(words))


@pytest.mark.parametrize("page", [page for page in PAGES if commands_of(page)], ids=name)
def test_commands_have_the_options_that_documents_give_them(page: Path) -> None:
    for call in commands_of(page):
        parse(shlex.split(call)[1:])


def sweep_files(page: Path) -> list[str]:
    """Code blocks of a page that are whole sweep files."""
    blocks = re.findall(r"^```yaml\n(.*?)^```", page.read_text(), re.MULTILINE | re.DOTALL)
    return [block for block in blocks if re.search(r"^job:", block, re.MULTILINE)]


@pytest.mark.parametrize("page", [page for page in PAGES if sweep_files(page)], ids=name)
def test_sweep_files_in_documents_are_valid(page: Path, tmp_path: Path) -> None:
    for text in sweep_files(page):
        spec = tmp_path / "sweep.yaml"
        spec.write_text(text)
        load_any_spec(str(spec))


def test_a_command_or_an_option_that_is_not_there_would_be_found() -> None:
    with pytest.raises(AssertionError, match="no command 'rum'"):
        parse(["rum", "sweep.yaml"])
    with pytest.raises(Exception, match="No such option: --no-such-option"):
        parse(["vectors", "show", "gender.safetensors", "--no-such-option"])


@pytest.mark.parametrize("spec", EXAMPLES, ids=name)
def test_examples_are_valid(spec: Path) -> None:
    assert load_any_spec(str(spec)).output.startswith("runs/")


@pytest.mark.parametrize("job", names())
def test_the_reference_has_every_key_and_describes_it(job: str) -> None:
    lines = [line for line in keys_of_job(job).splitlines() if line.startswith("| `")]
    rows = [line.strip("| ").split(" | ") for line in lines]
    schema = spec_type(job).model_json_schema()
    parts = [schema, *schema["$defs"].values()]
    keys = {f"`{key}`" for part in parts for key in part.get("properties", ())}
    assert keys <= {row[0] for row in rows}
    without_meaning = [row[0] for row in rows if len(row[-1]) < 12]  # the role is the last cell
    assert not without_meaning


def test_the_citation_is_of_this_version_and_names_both_papers() -> None:
    cited = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert cited["cff-version"] == "1.2.0"
    assert cited["version"] == __version__
    title, authors, url = PAPER
    (paper,) = [entry for entry in cited["references"] if entry["title"] == title]
    names = [f"{one['given-names']} {one['family-names']}" for one in paper["authors"]]
    assert (", ".join(names), paper["url"]) == (authors, url)
    assert any("2507.21509" in entry["url"] for entry in cited["references"])
