"""Which package may know which: the science runs without Ray, the cluster without a model.

Of this project, both may import only their own modules and `steersweep.errors`.
"""

from __future__ import annotations

import ast
import json
import subprocess
import sys
from collections.abc import Iterator
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


def imported(source: str) -> Iterator[str]:
    """Modules of every import in a source, also inside functions and type checks."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            yield node.module or ""
        elif isinstance(node, ast.Call) and ast.unparse(node.func).endswith("import_module"):
            yield from (str(a.value) for a in node.args if is_text(a))


def is_text(node: ast.AST) -> bool:
    return isinstance(node, ast.Constant) and isinstance(node.value, str)


def is_forbidden(module: str, package: str) -> bool:
    top = module.partition(".")[0]
    return top in FORBIDDEN[package] or (top == "steersweep" and module != SHARED)


@pytest.mark.parametrize("package", FORBIDDEN)
def test_no_module_imports_what_is_forbidden_even_late(package: str) -> None:
    assert len(modules(package)) > 10
    found = {
        str(path.relative_to(ROOT)): bad
        for path in modules(package)
        if (bad := [name for name in imported(path.read_text()) if is_forbidden(name, package)])
    }
    assert found == {}


def test_what_scoring_jobs_share_knows_none_of_them() -> None:
    jobs = ("jobs.stereoset", "jobs.choices", "jobs.persona", "steering_core.stereoset")
    for package, above in (
        ("jobs/scoring", (*jobs, "jobs.side_effects")),
        ("jobs/side_effects", jobs),
        ("jobs/estimates", (*jobs, "jobs.side_effects", "jobs.scoring")),
    ):
        assert modules(package)
        found = {
            str(path.relative_to(ROOT)): bad
            for path in modules(package)
            if (bad := [name for name in imported(path.read_text()) if name.startswith(above)])
        }
        assert found == {}


def test_the_shared_module_imports_nothing_of_the_project() -> None:
    code = f"import json, sys, {SHARED}; print(json.dumps(sorted(sys.modules)))"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0, done.stderr
    ours = ("steersweep", "jobs", "cluster", "steering_core")
    loaded = {name for name in json.loads(done.stdout) if name.partition(".")[0] in ours}
    assert loaded == {"steersweep", SHARED}


def test_the_scan_sees_late_and_conditional_imports() -> None:
    source = """
def late():
    import ray.data
    from pandas.core import frame
    importlib.import_module("boto3.session")
from . import jobs
from steersweep import errors
"""
    assert list(imported(source)) == [
        "steersweep", "ray.data", "pandas.core", "boto3.session"
    ]  # fmt: skip
    assert all(is_forbidden(name, "steering_core") for name in imported(source))
    assert not is_forbidden(SHARED, "steering_core")
