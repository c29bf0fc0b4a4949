"""The Dockerfile: what it copies is there and holds every package, and nobody is root."""

from __future__ import annotations

import tomllib
from pathlib import Path

ROOT = Path(__file__).parents[3]
DOCKERFILE = ROOT / "cluster" / "launch" / "Dockerfile"


def _instructions() -> list[tuple[str, str]]:
    text = DOCKERFILE.read_text().replace("\\\n", " ")
    lines = [line for line in text.splitlines() if line and not line.startswith("#")]
    return [(line.split()[0], line.partition(" ")[2]) for line in lines]


def test_what_it_copies_is_there_and_let_through() -> None:
    copied = {
        source
        for instruction, rest in _instructions()
        if instruction == "COPY"
        for source in rest.split()[:-1]
    }
    allowed = DOCKERFILE.with_name("Dockerfile.dockerignore").read_text().split()
    assert copied == {line.removeprefix("!") for line in allowed if line.startswith("!")}
    assert all((ROOT / name).exists() for name in copied)
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    packages = project["tool"]["setuptools"]["packages"]["find"]["include"]
    assert {name.removesuffix("*") for name in packages} <= copied
    assert {project["project"]["readme"], *project["project"]["license-files"]} <= copied


def test_versions_are_pinned_and_nobody_is_root() -> None:
    instructions = _instructions()
    (install,) = [rest for _, rest in instructions if "pip install" in rest]
    assert "-c constraints.txt" in install
    assert [rest for instruction, rest in instructions if instruction == "USER"] == ["1000"]
    assert not [rest for _, rest in instructions if "latest" in rest]


def test_every_way_to_start_a_node_keeps_gpu_memory_in_one_piece() -> None:
    """The image serves KubeRay and `ray up`, node.sh bare machines and SLURM."""
    wanted = "PYTORCH_ALLOC_CONF=expandable_segments:True"
    assert any(wanted in rest.split() for name, rest in _instructions() if name == "ENV")
    script = DOCKERFILE.with_name("node.sh").read_text()
    assert "export PYTORCH_ALLOC_CONF=${PYTORCH_ALLOC_CONF:-expandable_segments:True}" in script
