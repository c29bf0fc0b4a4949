"""A model by hub id, from the hub's cache on disk: no network, and pinned to its commit."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

from tests.support.golden import model_path
from tests.support.sweeps import read_rows, write_spec

COMMITS = ("1" * 40, "2" * 40)


def _cache_as_the_hub_does(home: Path, commit: str) -> None:
    """What a download leaves: snapshots by commit, and what `main` stands for."""
    folder = home / "hub" / "models--lab--tiny"
    shutil.copytree(model_path("gemma2-tiny"), folder / "snapshots" / commit)
    (folder / "refs").mkdir(exist_ok=True)
    (folder / "refs" / "main").write_text(commit)


def _run(spec: Path, home: Path) -> subprocess.CompletedProcess[str]:
    # The hub's library reads where its cache is once, when it is imported.
    return subprocess.run(
        [sys.executable, "-m", "jobs.cli", "run", str(spec)],
        env=os.environ | {"HF_HOME": str(home), "HF_HUB_OFFLINE": "1"},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


def test_a_hub_model_is_pinned_to_the_commit_it_was_started_with(tmp_path: Path) -> None:
    _cache_as_the_hub_does(tmp_path / "hf", COMMITS[0])
    spec = write_spec(tmp_path / "sweep.yaml", models={"tiny": {"path": "lab/tiny"}})
    first = _run(spec, tmp_path / "hf")
    assert first.returncode == 0, first.stderr
    record = json.loads((tmp_path / "out" / "run.json").read_text())
    assert record["identity"]["models.tiny (weights)"] == COMMITS[0]
    assert record["spec"]["models"]["tiny"]["revision"] == COMMITS[0]
    assert len(read_rows(str(tmp_path / "out"))) == 24 * 4

    _cache_as_the_hub_does(tmp_path / "hf", COMMITS[1])
    moved = _run(spec, tmp_path / "hf")
    assert moved.returncode == 2
    assert "models.tiny (weights)" in moved.stderr
    spec.write_text(
        spec.read_text().replace("path: lab/tiny", f"path: lab/tiny\n    revision: '{COMMITS[0]}'")
    )
    pinned = _run(spec, tmp_path / "hf")
    assert pinned.returncode == 0, pinned.stderr
    assert "nothing left to compute" in pinned.stdout


def test_a_hub_model_that_is_not_cached_is_one_line_when_offline(tmp_path: Path) -> None:
    spec = write_spec(tmp_path / "sweep.yaml", models={"tiny": {"path": "lab/other"}})
    finished = _run(spec, tmp_path / "hf")
    assert finished.returncode == 2
    assert finished.stderr.count("\n") == 1, finished.stderr
    assert "lab/other" in finished.stderr
    assert not (tmp_path / "out").exists()
