"""The pages about clusters name files, options and variables that are there."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]
LAUNCH = ROOT / "cluster" / "launch"
PAGES = ("clusters", "kubernetes", "clouds", "slurm", "bare-machines")


@pytest.mark.parametrize("page", PAGES)
def test_what_a_page_names_is_there(page: str) -> None:
    text = (ROOT / "docs" / f"{page}.md").read_text()
    for link in re.findall(r"\]\(([\w./-]+)\)", text):
        assert (ROOT / "docs" / link).is_file(), link
    for pattern in re.findall(r"cluster/launch/[\w./*-]*\w", text):
        assert list(ROOT.glob(pattern)), pattern
    scripts = "".join(path.read_text() for path in LAUNCH.glob("*.sh"))
    for variable in re.findall(r"STEERSWEEP_\w+", text):
        assert variable in scripts, variable


def test_every_launch_file_has_a_page() -> None:
    text = "".join((ROOT / "docs" / f"{page}.md").read_text() for page in PAGES)
    for path in LAUNCH.rglob("*"):
        if path.suffix in {".yaml", ".sh"}:
            assert str(path.relative_to(ROOT)) in text, path
    assert "cluster/launch/Dockerfile" in text
