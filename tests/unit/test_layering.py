"""Which package may know which: the science runs without Ray, the cluster without a model.

`make lint` keeps the contracts of pyproject.toml, which see our own imports. What a dependency
pulls in is only seen here, where each module is imported.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]

FORBIDDEN = {
    "steering_core": {"ray", "pyarrow", "pandas", "boto3", "botocore", "cluster", "jobs"},
    "cluster": {"torch", "transformers", "steering_core", "jobs"},
}

SHARED = "steersweep.errors"
"""The one module of the project that every package may import; it imports nothing of it."""

_IMPORT_ALL = """
import importlib, json, pkgutil, sys
package = importlib.import_module(sys.argv[1])
names = [m.name for m in pkgutil.walk_packages(package.__path__, sys.argv[1] + ".")]
for name in names:
    try:
        importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name != "triton":  # optional, and not on every platform
            raise
print(json.dumps({"imported": names, "loaded": sorted(sys.modules)}))
"""


@pytest.mark.parametrize("package", FORBIDDEN)
def test_importing_every_module_loads_nothing_forbidden(package: str) -> None:
    """What a dependency pulls in counts too; a scan of our own imports would not see it."""
    done = subprocess.run(
        [sys.executable, "-c", _IMPORT_ALL, package],
        cwd=ROOT, capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout.splitlines()[-1])
    files = {path.stem for path in modules(package)} - {"__init__"}
    assert files <= {name.rpartition(".")[2] for name in result["imported"]}
    loaded = result["loaded"]
    assert not FORBIDDEN[package] & {name.partition(".")[0] for name in loaded}
    assert {name for name in loaded if name.startswith("steersweep.")} == {SHARED}


def modules(package: str) -> list[Path]:
    return sorted((ROOT / package).rglob("*.py"))


def test_the_shared_module_imports_nothing_of_the_project() -> None:
    code = f"import json, sys, {SHARED}; print(json.dumps(sorted(sys.modules)))"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0, done.stderr
    ours = ("steersweep", "jobs", "cluster", "steering_core")
    loaded = {name for name in json.loads(done.stdout) if name.partition(".")[0] in ours}
    assert loaded == {"steersweep", SHARED}


FORBIDDEN_IMPORTS = {
    "steering_core/protocol.py": "def late() -> None:\n    import ray.data\n",
    "steering_core/stats/clusters.py": "def late() -> None:\n    from jobs import words\n",
    "steering_core/timing.py": "if TYPE_CHECKING:\n    from pandas import DataFrame\n",
    "cluster/policy.py": "def late() -> None:\n    import torch\n",
    "cluster/tasks.py": "import steersweep\n",
    "jobs/scoring/groups.py": "from jobs.persona import spec\n",
    "jobs/choices/words.py": "from jobs.stereoset import labels\n",
    "jobs/identity.py": "from jobs import spec_file\n",
    "jobs/spec_file.py": "from jobs import identity\n",
}
"""By module, an import that one of the contracts in pyproject.toml forbids."""


def test_each_contract_finds_an_import_that_it_forbids_even_a_late_one(tmp_path: Path) -> None:
    for package in ("steersweep", "jobs", "cluster", "steering_core"):
        shutil.copytree(
            ROOT / package,
            tmp_path / package,
            ignore=lambda folder, names: [
                name for name in names if (path := Path(folder, name)).is_file()
                and path.suffix != ".py"
            ],
        )  # fmt: skip
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    for name, forbidden in FORBIDDEN_IMPORTS.items():
        path = tmp_path / name
        path.write_text(f"{path.read_text()}\n\n{forbidden}")
    code = "from importlinter.cli import lint_imports_command as c; c(['--no-cache'])"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, timeout=120,
        env={**os.environ, "PYTHONPATH": str(tmp_path), "COLUMNS": "200"},
    )  # fmt: skip
    assert done.returncode == 1, done
    assert "Contracts: 0 kept, 4 broken." in done.stdout
    for found in (
        "steering_core.protocol -> ray",
        "steering_core.stats.clusters -> jobs.words",
        "steering_core.timing -> pandas",
        "cluster.policy -> torch",
        "cluster.tasks -> steersweep",
        "jobs.scoring.groups -> jobs.persona.spec",
        "jobs.choices.words -> jobs.stereoset.labels",
        ".spec_file -> .identity",
    ):
        assert found in done.stdout, done.stdout
