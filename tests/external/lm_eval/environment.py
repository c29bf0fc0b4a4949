"""A virtual environment with lm-evaluation-harness, which this project does not depend on.

Its packages have the versions of constraints.txt as far as that file names them, so that both sides
of the comparison compute with the same torch, transformers and tokenizers.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import platformdirs

from steersweep.errors import UserError

LM_EVAL = "0.4.13"
CONSTRAINTS = Path(__file__).parents[3] / "constraints.txt"
SHOWN = ("lm_eval", "torch", "transformers", "tokenizers")
"""Packages whose versions must be right, and are printed."""

_ASK = """
import importlib.metadata, json, sys
held = {d.name.replace("-", "_"): d.version for d in importlib.metadata.distributions()}
print(json.dumps({name: held.get(name, "") for name in sys.argv[1:]}))
"""


def default_folder() -> Path:
    """Where the environment is kept between runs, outside the repository."""
    return platformdirs.user_cache_path("steersweep") / f"lm-eval-{LM_EVAL}"


def ready_environment(folder: Path) -> Path:
    """The interpreter of an environment in this folder; makes or completes it if necessary.

    Raises:
        UserError: the folder holds something else, or pip fails; its output is above the message.
    """
    python = folder / "bin" / "python"
    if python.is_file() and is_complete(versions(python)):
        return python
    if folder.is_dir() and any(folder.iterdir()) and not (folder / "pyvenv.cfg").is_file():
        raise UserError(f"{folder} is no virtual environment; give --env an empty or new folder")
    print(f"installing lm_eval {LM_EVAL} into {folder} (some minutes) ...", flush=True)
    wanted = [f"lm_eval[hf]=={LM_EVAL}", "-c", str(CONSTRAINTS)]
    try:
        subprocess.run([sys.executable, "-m", "venv", str(folder)], check=True)
        subprocess.run([str(python), "-m", "pip", "install", "--quiet", *wanted], check=True)
    except subprocess.CalledProcessError as error:
        raise UserError(f"lm_eval {LM_EVAL} cannot be installed into {folder}: {error}") from None
    if not is_complete(versions(python)):
        raise UserError(f"{folder} has other versions than {pins()}: {versions(python)}")
    return python


def versions(python: Path) -> dict[str, str]:
    """Versions of the packages in ``SHOWN`` by name; empty if a package is not installed."""
    asked = [str(python), "-I", "-c", _ASK, *SHOWN]
    answer = subprocess.run(asked, check=True, capture_output=True, text=True)
    installed: dict[str, str] = json.loads(answer.stdout)
    return installed


def is_complete(installed: Mapping[str, str]) -> bool:
    """Whether these are the versions wanted; ``2.13.0+cpu`` is a build of 2.13.0."""
    return all(installed[name].partition("+")[0] == version for name, version in pins().items())


def pins() -> dict[str, str]:
    """The version wanted of each package in ``SHOWN``."""
    lines = (line.partition("==") for line in CONSTRAINTS.read_text().splitlines())
    pinned = {name: version for name, _, version in lines if name in SHOWN}
    return {"lm_eval": LM_EVAL, **pinned}
