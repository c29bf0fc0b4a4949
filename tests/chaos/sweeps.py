"""The sweep files of the trials."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tests.chaos.machines import World
from tests.support.personas import save_chat_model, write_persona_spec
from tests.support.sweeps import write_spec

STEREOSET: dict[str, Any] = {
    "steering": {"layers": [1, 4], "coeffs": [-3, 400]},
    "data": {"path": "embedded:examples.json", "splits": ["intersentence"]},
    "compute": {"executor": "ray", "examples_per_task": 1, "device": "cpu"},
}
PERSONA: dict[str, Any] = {
    # Random text is judged at random: no pair may be lost to a filter.
    "filter": {"positive_at_least": 0, "negative_below": 100, "coherence_at_least": 0},
    # A number of tokens that a clock decides would make the last bits of two outputs differ.
    "compute": {
        "executor": "ray",
        "examples_per_task": 3,
        "device": "cpu",
        "tokens_per_batch": 1024,
    },
}


def write_sweep(worker: str, world: World, folder: Path, output: str) -> str:
    """Write the file of that job's sweep; its path, or nothing for the cheap job."""
    if worker == "stereoset":
        return str(write_spec(folder / "sweep.yaml", **STEREOSET, output=output))
    if worker == "persona":
        model = _chat_model(world)
        spec = write_persona_spec(folder, model, **PERSONA, judge=world.judge.spec, output=output)
        return str(spec)
    return ""


def _chat_model(world: World) -> Path:
    """The same files for every trial: a task's id covers them."""
    folder = world.folder / "chat"
    return folder if folder.exists() else save_chat_model(folder)
