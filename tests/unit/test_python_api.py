"""The package ``steersweep``: light to import, typed, and in what is installed."""

from __future__ import annotations

import json
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from setuptools import find_packages

import steersweep
from steering_core.steerer import ActivationSteerer

ROOT = Path(__file__).parents[2]
HEAVY = {"torch", "ray", "transformers", "pandas", "pyarrow", "numpy", "boto3", "rich", "pydantic"}

_IMPORT = """
import json, sys
import steersweep
dir(steersweep), steersweep.load, steersweep.__version__
print(json.dumps(sorted({name.split(".")[0] for name in sys.modules})))
"""


def test_importing_it_loads_nothing_heavy() -> None:
    done = subprocess.run(
        [sys.executable, "-c", _IMPORT], cwd=ROOT, capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0, done.stderr
    loaded = set(json.loads(done.stdout))
    assert {"steersweep", "jobs"} <= loaded
    assert not HEAVY & loaded


def test_names_are_listed_and_come_when_they_are_used() -> None:
    assert dir(steersweep) == sorted(steersweep.__all__)
    for name in steersweep.__all__:
        assert getattr(steersweep, name) is not None
    assert steersweep.ActivationSteerer is ActivationSteerer
    with pytest.raises(AttributeError, match="'steersweep' has no attribute 'lod'"):
        steersweep.lod  # noqa: B018


def test_it_is_installed_with_its_types() -> None:
    config = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]
    found = find_packages(str(ROOT), include=config["packages"]["find"]["include"])
    assert {"steersweep", "jobs", "jobs.stereoset", "cluster", "steering_core"} <= set(found)
    assert "py.typed" in config["package-data"]["steersweep"]
    assert (ROOT / "steersweep" / "py.typed").is_file()
