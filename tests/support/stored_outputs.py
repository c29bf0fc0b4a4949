"""Outputs that an earlier version wrote; see ``tests/data/outputs/README.md``."""

from __future__ import annotations

import shutil
from pathlib import Path

STORED_OUTPUTS = Path(__file__).parents[1] / "data" / "outputs"


def copy_stored_output(name: str, folder: Path) -> Path:
    """A copy of a stored output in ``folder``, with its spec file and trait files beside it.

    Paths in the spec and in ``run.json`` are relative: run commands on the copy from ``folder``.
    """
    shutil.copytree(STORED_OUTPUTS / name, folder / name)
    shutil.copytree(STORED_OUTPUTS / "traits", folder / "traits")
    shutil.copy(STORED_OUTPUTS / f"{name}.yaml", folder)
    return folder / name
