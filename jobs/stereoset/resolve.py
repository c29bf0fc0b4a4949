"""From a valid spec to a sweep that can run: every input read and checked, nothing written."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import torch
import transformers

from jobs.grid import ALL_LAYERS, with_all_layers
from jobs.identity import CODE_KEY
from jobs.resources import local_path
from jobs.scoring.groups import Group, GroupKey
from jobs.spec import ModelSpec
from jobs.stereoset.groups import AXES
from jobs.stereoset.spec import StereoSetSpec, not_in_the_grid
from jobs.vector_files import content_digest, read_vectors_of_spec
from steering_core.encoding import EncodedExample, ExampleEncoder, check_lengths
from steering_core.exchange.vector_file import VectorFile
from steering_core.hook_points import check_layers
from steering_core.models import (
    ModelFacts,
    ModelSource,
    device_kind,
    load_tokenizer,
    read_facts,
    resolve_dtype,
)
from steering_core.protocol import Protocol
from steering_core.stereoset import Example, StereoSet, read_stereoset
from steering_core.vectors import assign_folds
from steering_core.work import RowCounts, counts_of
from steersweep.errors import UserError

HELD_OUT_FOLDS = 5
"""At most so many folds of the held-out vectors, as ``protocol: aligned`` has them."""

_FILE_DIGEST = "vectors.file (content)"


@dataclass(frozen=True)
class SweepModel:
    """A model of the sweep: where it is, what it is, and how its examples are encoded."""

    name: str
    source: ModelSource
    facts: ModelFacts
    dtype: str
    encoder: ExampleEncoder
    _counted: dict[Example, RowCounts] = field(default_factory=dict, repr=False, compare=False)

    def encode(self, examples: tuple[Example, ...]) -> list[EncodedExample]:
        """Encoded examples; raises UserError for one that the model cannot take."""
        rows = self.encoder.encode(examples)
        check_lengths(rows, max_tokens=self.facts.max_tokens, model=self.source.path)
        return rows

    def counts(self, examples: Sequence[Example]) -> list[RowCounts]:
        """Token counts of examples, each encoded once and then forgotten; raises as ``encode``."""
        new = tuple(e for e in dict.fromkeys(examples) if e not in self._counted)
        for row in self.encode(new):
            self._counted[row.example] = counts_of(row, self.encoder.protocol)
        return [self._counted[e] for e in examples]


@dataclass(frozen=True)
class Sweep:
    """A resolved sweep.

    Attributes:
        device: ``cuda``, ``xla``, ``mps`` or ``cpu``; never ``auto``.
        groups: examples and their folds of each split and bias type.
        vectors: those of the spec's file, None where they are fitted.
        held_out_folds: of each group that can be cross-fitted beside in-sample vectors, the fold of
            each example. Empty if the main vectors are cross-fitted themselves, or a file's.
        has_held_out: whether rows steered with held-out vectors are part of the sweep, which an
            output may decide (``Output.read``).
    """

    spec: StereoSetSpec
    protocol: Protocol
    device: str
    data_digest: str
    models: Mapping[str, SweepModel]
    groups: Mapping[GroupKey, tuple[tuple[Example, ...], tuple[int, ...]]]
    vectors: VectorFile | None = None
    held_out_folds: Mapping[GroupKey, tuple[int, ...]] = field(default_factory=dict)
    has_held_out: bool = False

    def group(self, model: str, key: GroupKey) -> Group:
        """The examples of a model that share vectors."""
        return Group(model, key, AXES)

    @cached_property
    def by_id(self) -> Mapping[GroupKey, Mapping[str, tuple[Example, int]]]:
        """Each group's examples and their folds by example id; made once for all tasks."""
        return {
            key: {e.example_id: (e, fold) for e, fold in zip(examples, folds, strict=True)}
            for key, (examples, folds) in self.groups.items()
        }

    @cached_property
    def held_out_by_id(self) -> Mapping[GroupKey, Mapping[str, int]]:
        """The held-out fold of each group's examples by example id."""
        return {
            key: {e.example_id: fold for e, fold in zip(self.groups[key][0], folds, strict=True)}
            for key, folds in self.held_out_folds.items()
        }

    def holds_out(self, key: GroupKey) -> bool:
        """Whether a group is steered with held-out vectors beside its in-sample ones."""
        return self.has_held_out and key in self.held_out_folds

    @property
    def without_held_out(self) -> list[str]:
        """Groups that have no held-out vectors, as ``split/bias_type``, if others have them."""
        lacking = [] if not self.has_held_out else [k for k in self.groups if not self.holds_out(k)]
        return ["/".join(key) for key in lacking]

    @property
    def main_vectors(self) -> str:
        """What the main rows are steered with: ``in_sample``, ``held_out`` or ``file``."""
        if self.vectors is not None:
            return "file"
        return "in_sample" if self.protocol.folds == 1 else "held_out"

    def num_folds(self, key: GroupKey, *, held_out: bool = False) -> int:
        """Folds that a group's vectors are cross-fitted in; fewer than asked if terms are few.

        Args:
            held_out: of the held-out vectors beside in-sample ones.
        """
        folds = self.held_out_folds[key] if held_out else self.groups[key][1]
        return 1 + max(folds)

    def folds_by_group(self) -> dict[str, int]:
        """``num_folds`` of every group, by ``split/bias_type``: plain data for ``run.json``."""
        return {"/".join(key): self.num_folds(key) for key in self.groups}

    def resolved_spec(self) -> dict[str, Any]:
        """The spec as plain data, every ``null`` and ``auto`` that decides numbers filled in."""
        spec, protocol = self.spec.model_dump(mode="json"), self.protocol
        spec["vectors"] |= {
            "pooling": protocol.pooling,
            "read": protocol.read,
            "folds": protocol.folds,
            "held_out": self.has_held_out,
        }
        spec["steering"] |= {"apply": protocol.apply, "positions": protocol.positions}
        spec["scoring"] = protocol.scoring
        spec["compute"]["device"] = self.device
        for name, model in self.models.items():
            spec["models"][name]["dtype"] = model.dtype
            if not model.source.is_local:
                spec["models"][name]["revision"] = model.source.revision
        return spec

    def identity(self) -> dict[str, Any]:
        """Flat description of what decides the numbers, but for the grid, which may grow."""
        spec, protocol = self.spec, self.protocol
        description: dict[str, Any] = {
            "job": spec.job,
            "data (content)": self.data_digest,
            "data.limit": spec.data.limit,
            "data.seed": spec.data.seed,
            "vectors.method": spec.vectors.method,
            _FILE_DIGEST: None if self.vectors is None else content_digest(self.vectors),
            "vectors.pooling": protocol.pooling,
            "vectors.read": protocol.read,
            "vectors.folds": protocol.folds,
            "steering.apply": protocol.apply,
            "steering.positions": protocol.positions,
            "steering.operation": protocol.operation,
            "steering.unit": spec.steering.unit,
            "scoring": protocol.scoring,
            "measures": list(spec.measures),
        }
        for name, model in self.models.items():
            description |= {
                f"models.{name} (weights)": model.facts.digest,
                f"models.{name} (tokenizer)": model.facts.tokenizer_digest,
                f"models.{name}.dtype": model.dtype,
                f"models.{name}.trust_remote_code": model.source.trust_remote_code,
            }
            if model.facts.code_digest is not None:
                description[f"models.{name}{CODE_KEY}"] = model.facts.code_digest
        return description


def recorded_identity(record: Mapping[str, Any]) -> dict[str, Any]:
    """The identity in a run's record, with what keys meant before they were there."""
    before: dict[str, Any] = {
        "vectors.method": "mean_difference",
        "steering.operation": "add",
        "steering.unit": "vector",
        "measures": [],
        _FILE_DIGEST: None,
    }
    return {**before, **record["identity"]}


def resolve(spec: StereoSetSpec, device: str | None = None) -> Sweep:
    """The sweep of a spec, with its data read, its tokenizers loaded and its grid checked.

    Args:
        device: the replicas' kind of device where the caller knows it; otherwise the spec's, on
            this machine.

    Raises:
        UserError: anything the user must change, in one line.
    """
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    transformers.logging.set_verbosity_error()
    protocol = spec.resolved_protocol()
    dataset = read_stereoset(local_path(spec.data.path))
    groups = _groups(spec, dataset, protocol)
    kind = device or device_kind(spec.compute.device)
    models = {
        name: _model(name, model, protocol, spec.steering.layers, kind)
        for name, model in spec.models.items()
    }
    spec = with_all_layers(spec, {name: model.facts.num_blocks for name, model in models.items()})
    spec = _with_null_layers(spec)
    vectors = _vectors(spec, protocol, models)
    held_out = _held_out_folds(spec, protocol, groups)
    return Sweep(
        spec,
        protocol,
        kind,
        dataset.digest,
        models,
        groups,
        vectors,
        held_out,
        has_held_out=bool(spec.vectors.held_out),
    )


def _with_null_layers(spec: StereoSetSpec) -> StereoSetSpec:
    """``nulls.layers`` held against the grid, now that ``layers: all`` is numbers."""
    layers = spec.nulls.layers
    if layers is None or layers == ALL_LAYERS:
        return spec.model_copy(update={"nulls": spec.nulls.model_copy(update={"layers": None})})
    if outside := [str(layer) for layer in layers if layer not in spec.steering.layers]:
        raise UserError(not_in_the_grid("layers", outside))
    return spec


def _held_out_folds(
    spec: StereoSetSpec, protocol: Protocol, groups: Mapping[GroupKey, tuple[Any, ...]]
) -> dict[GroupKey, tuple[int, ...]]:
    """The folds that ``vectors.folds: 5`` would have; none for groups of a single target term."""
    if protocol.folds > 1 or spec.vectors.file is not None:
        return {}
    targets = {key: [e.target for e in examples] for key, (examples, _) in groups.items()}
    return {
        key: assign_folds(of_group, HELD_OUT_FOLDS, spec.data.seed, "/".join(key))
        for key, of_group in targets.items()
        if len(set(of_group)) > 1
    }


def _vectors(
    spec: StereoSetSpec, protocol: Protocol, models: Mapping[str, SweepModel]
) -> VectorFile | None:
    """The vectors of the spec's file, once they fit the grid, the models and the hook points."""
    uri = spec.vectors.file
    if uri is None:
        return None
    widths = {name: model.facts.width for name, model in models.items()}
    file = read_vectors_of_spec(
        uri, "vectors.file", spec.steering.layers, widths, spec.storage.endpoint_url
    )
    for layer in spec.steering.layers:
        said = file.read_point(layer)
        if said is not None and said != protocol.read_at(layer):
            raise UserError(
                f"vectors.file: layer {layer} in {uri} was read at {said}, but vectors.read "
                f"means {protocol.read_at(layer)}; set vectors.read to that site"
            )
    return file


def _groups(
    spec: StereoSetSpec, dataset: StereoSet, protocol: Protocol
) -> dict[GroupKey, tuple[tuple[Example, ...], tuple[int, ...]]]:
    groups: dict[GroupKey, tuple[tuple[Example, ...], tuple[int, ...]]] = {}
    for split in spec.data.splits:
        for bias_type in spec.data.bias_types:
            examples = dataset.group(split, bias_type, spec.data.limit, spec.data.seed)
            if not examples:
                there = ", ".join(f"{s}: {'/'.join(c)}" for s, c in dataset.counts().items())
                raise UserError(
                    f"{spec.data.path} holds no {bias_type} example in {split}; it holds {there}"
                )
            targets = [e.target for e in examples]
            folds = assign_folds(targets, protocol.folds, spec.data.seed, f"{split}/{bias_type}")
            groups[split, bias_type] = (examples, folds)
    return groups


def _model(
    name: str, spec: ModelSpec, protocol: Protocol, layers: tuple[int, ...], device: str
) -> SweepModel:
    try:
        source = spec.source()
        tokenizer = load_tokenizer(source)
        facts = read_facts(source, tokenizer)
        encoder = ExampleEncoder(tokenizer, protocol, spec.path)
    except UserError as error:
        raise UserError(f"models.{name}: {error}") from error
    check_layers(layers, facts.num_blocks, f"models.{name} ({spec.path})")
    if not source.is_local:
        source = replace(source, revision=facts.commit)
    dtype = str(resolve_dtype(spec.dtype, torch.device(device))).removeprefix("torch.")
    return SweepModel(name, source, facts, dtype, encoder)
