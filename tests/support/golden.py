"""What the paper's own notebook computed on two small models, and those models, ready to run."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from typing import Any

import torch

from jobs.resources import local_path
from steering_core.encoding import EncodedExample, ExampleEncoder
from steering_core.layout import find_layout
from steering_core.models import LoadedModel, ModelSource, load_model, load_tokenizer
from steering_core.protocol import Protocol
from steering_core.stereoset import StereoSet, read_stereoset

MODELS = ("gemma2-tiny", "llama-tiny")
FOLDER = Path(__file__).parents[1] / "golden"
EXAMPLES_PATH = Path(local_path("embedded:examples.json"))


def model_path(name: str) -> Path:
    """Folder of a golden model; gemma2-tiny is part of the package, for `demo-tiny`."""
    return FOLDER / name if name == "llama-tiny" else Path(local_path(f"embedded:{name}"))


@cache
def golden_numbers(name: str) -> dict[str, Any]:
    """The parsed golden file of a model."""
    numbers: dict[str, Any] = json.loads((FOLDER / f"{name}.as_published.json").read_text())
    return numbers


@cache
def golden_examples() -> StereoSet:
    """The 24 examples that the golden numbers were computed on."""
    return read_stereoset(EXAMPLES_PATH)


@cache
def golden_model(name: str) -> LoadedModel:
    """A golden model in float32 on the CPU, loaded as a run loads it."""
    torch.set_num_threads(1)
    return load_model(ModelSource(str(model_path(name))), device="cpu", dtype="float32")


def encode_group(
    name: str, split: str, bias_type: str, protocol: Protocol
) -> tuple[EncodedExample, ...]:
    """Encoded examples of one (split, bias type) with a golden model's tokenizer, in file order."""
    encoder = ExampleEncoder(_tokenizer(name), protocol, name)
    return tuple(encoder.encode(golden_examples().group(split, bias_type)))


@cache
def _tokenizer(name: str) -> Any:
    return load_tokenizer(ModelSource(str(model_path(name))))


def on_cpu(module: torch.nn.Module, name: str = "tiny") -> LoadedModel:
    """A float32 module made in a test, as the engine wants it; one thread, so that timing holds."""
    torch.set_num_threads(1)
    cpu = torch.device("cpu")
    return LoadedModel(module, find_layout(module, name), cpu, torch.float32, name)
