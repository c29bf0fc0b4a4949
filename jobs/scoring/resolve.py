"""From a valid spec and its examples to a sweep that can run: models and vectors are read and
checked, nothing is written."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from decimal import Decimal
from typing import Any, TypeVar

import torch
import transformers

from jobs.grid import ALL_LAYERS, with_all_layers
from jobs.scoring.groups import ExampleT, Group, GroupKey
from jobs.scoring.measured import read_sets
from jobs.scoring.rows import RowFormat
from jobs.scoring.side_effects_spec import SideEffectsSpec, outside
from jobs.scoring.spec import ScoredSpec, not_in_the_grid
from jobs.scoring.sweep import AnySweep, SweepModel
from jobs.scoring.tables import SideTable
from jobs.spec import ModelSpec
from jobs.vector_files import read_vectors_of_spec
from steering_core.exchange.vector_file import VectorFile
from steering_core.hook_points import check_layers
from steering_core.models import device_kind, load_tokenizer, read_facts, resolve_dtype
from steering_core.protocol import Protocol
from steering_core.vectors import assign_folds
from steersweep.errors import UserError

HELD_OUT_FOLDS = 5
"""At most so many folds of the held-out vectors, as ``protocol: aligned`` has them."""

SpecT = TypeVar("SpecT", bound=ScoredSpec)
SweepT = TypeVar("SweepT", bound=AnySweep)
AnyRows = RowFormat[Any]


def resolved(
    kind: type[SweepT],
    spec: ScoredSpec,
    data_digest: str,
    examples: Mapping[GroupKey, tuple[ExampleT, ...]],
    cluster_of: Callable[[ExampleT], str],
    rows: RowFormat[ExampleT],
    device: str | None = None,
) -> SweepT:
    """The sweep of a spec whose data was read: tokenizers are loaded, the grid is checked.

    Args:
        kind: the job's class of sweeps.
        data_digest: of all that was read.
        examples: of each group.
        cluster_of: what an example is folded by: two of one cluster are in the same fold.
        device: the replicas' kind of device where the caller knows it; otherwise the spec's, on
            this machine.

    Raises:
        UserError: anything the user must change, in one line.
    """
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    transformers.logging.set_verbosity_error()
    protocol, seed = spec.resolved_protocol(), spec.data.seed
    clusters = {key: [cluster_of(e) for e in found] for key, found in examples.items()}
    device = device or device_kind(spec.compute.device)
    models = {
        name: _model(name, model, protocol, spec.steering.layers, device, rows)
        for name, model in spec.models.items()
    }
    spec = with_all_layers(spec, {name: model.facts.num_blocks for name, model in models.items()})
    spec = _with_null_layers(spec)
    grid = spec.steering
    side_effects = side_effects_in(spec.side_effects, grid.layers, grid.coeffs)
    spec = spec.model_copy(update={"side_effects": side_effects})
    measured = read_sets(spec.side_effects.sets)
    sweep = kind(
        spec,
        protocol,
        device,
        data_digest,
        models,
        {
            key: (found, assign_folds(clusters[key], protocol.folds, seed, "/".join(key)))
            for key, found in examples.items()
        },
        rows,
        _vectors(spec, protocol, models),
        _held_out_folds(spec, protocol, clusters),
        has_held_out=bool(spec.vectors.held_out),
        measured=measured,
    )
    check_sets(sweep)
    return sweep


def check_sets(sweep: AnySweep) -> None:
    """Encode every example of the data sets under every prompt, so that one that a model cannot
    take is refused before anything runs.

    Raises:
        UserError: names the set.
    """
    for model in sweep.models:
        whole = Group(model, (), ())
        for name in sweep.measured:
            for prompt in ("", *sweep.spec.prompts):
                subject = sweep.subject(str(SideTable(name, prompt=prompt)), whole)
                try:
                    subject.model.counts(list(subject.examples.values()))
                except UserError as error:
                    where = f" under prompts.{prompt}" if prompt else ""
                    raise UserError(f"side_effects.{name}{where}: {error}") from error


def side_effects_in(
    side: SideEffectsSpec, layers: Sequence[int], coeffs: Sequence[Decimal]
) -> SideEffectsSpec:
    """Side effects with their cells held against a grid, whose layers are numbers by now.

    Raises:
        UserError: a layer that is not in the grid.
    """
    if side.cells.layers == ALL_LAYERS:
        cells = side.cells.model_copy(update={"layers": None})
        return side.model_copy(update={"cells": cells})
    for sentence in outside(side.cells, layers, coeffs):
        raise UserError(sentence)
    return side


def _with_null_layers(spec: SpecT) -> SpecT:
    """``nulls.layers`` held against the grid, now that ``layers: all`` is numbers."""
    layers = spec.nulls.layers
    if layers is None or layers == ALL_LAYERS:
        return spec.model_copy(update={"nulls": spec.nulls.model_copy(update={"layers": None})})
    if outside := [str(layer) for layer in layers if layer not in spec.steering.layers]:
        raise UserError(not_in_the_grid("layers", outside))
    return spec


def _held_out_folds(
    spec: ScoredSpec, protocol: Protocol, clusters: Mapping[GroupKey, list[str]]
) -> dict[GroupKey, tuple[int, ...]]:
    """The folds that ``vectors.folds: 5`` would have; none for groups of a single cluster."""
    if protocol.folds > 1 or spec.vectors.file is not None:
        return {}
    return {
        key: assign_folds(of_group, HELD_OUT_FOLDS, spec.data.seed, "/".join(key))
        for key, of_group in clusters.items()
        if len(set(of_group)) > 1
    }


def _vectors(
    spec: ScoredSpec, protocol: Protocol, models: Mapping[str, SweepModel]
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


def _model(
    name: str,
    spec: ModelSpec,
    protocol: Protocol,
    layers: tuple[int, ...],
    device: str,
    rows: AnyRows,
) -> SweepModel:
    try:
        source = spec.source()
        tokenizer = load_tokenizer(source)
        facts = read_facts(source, tokenizer)
        encoder = rows.encoder(tokenizer, protocol, spec.path)
    except UserError as error:
        raise UserError(f"models.{name}: {error}") from error
    check_layers(layers, facts.num_blocks, f"models.{name} ({spec.path})")
    if not source.is_local:
        source = replace(source, revision=facts.commit)
    dtype = str(resolve_dtype(spec.dtype, torch.device(device))).removeprefix("torch.")
    return SweepModel(name, source, facts, dtype, encoder)
