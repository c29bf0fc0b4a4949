"""From a valid persona spec to a sweep that can run: every input read and checked."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
import transformers

from jobs.grid import with_all_layers
from jobs.identity import digest
from jobs.persona.measuring import MeasuringSweep, measuring_sweep
from jobs.persona.prompts import (
    Prompt,
    PromptKey,
    TraitQuestions,
    check_fit,
    check_undated,
    prompts_digest,
    render_prompts,
)
from jobs.persona.spec import PersonaSpec
from jobs.persona.traits import Trait, read_trait
from jobs.resources import local_path
from jobs.scoring.measured import MeasuredSet
from jobs.spec import ModelSpec, identity_of
from jobs.vector_files import content_digest, read_vectors_of_spec
from steering_core.exchange.vector_file import VectorFile
from steering_core.hook_points import check_layers
from steering_core.models import (
    ModelFacts,
    ModelSource,
    device_kind,
    load_tokenizer,
    read_eos_ids,
    read_facts,
    resolve_dtype,
)
from steersweep.errors import UserError

IDS_VERSION = 2
"""Of row and task ids, in the identity of an output as ``ids``. Version 1, which records leave out:
task ids leave prompts and end-of-answer ids out, coefficients have six digits in row ids, and
coefficient 0 is answered once for each layer and positions."""


ROWS_PER_TASK = 128
"""Answers of a task if ``compute.examples_per_task`` is auto: on devices other than CUDA, and in
every output that does not say otherwise. Task ids depend on it."""
_ROWS_PER_TASK_ON_CUDA = 1024
"""A task fills all slots several times, so that few of its steps run with slots that are free."""


@dataclass(frozen=True)
class PersonaModel:
    """A chat model of the sweep: where it is, what it is, and what it is asked.

    Attributes:
        template: its chat template.
        eos_ids: tokens that end an answer.
        prompts: every prompt of the sweep, rendered once.
    """

    name: str
    source: ModelSource
    facts: ModelFacts
    dtype: str
    template: str
    eos_ids: tuple[int, ...]
    prompts: Mapping[PromptKey, Prompt]

    def identity(self, ids: int = IDS_VERSION) -> dict[str, object]:
        """What decides its answers, besides rows, their prompts and sampling."""
        identity: dict[str, object] = {
            "weights": self.facts.digest,
            "tokenizer": self.facts.tokenizer_digest,
            "chat_template": self.template,
            "dtype": self.dtype,
        }
        if ids == 1:
            return identity
        if self.facts.code_digest is not None:
            identity["code"] = self.facts.code_digest
        return identity | {"eos_ids": list(self.eos_ids)}


@dataclass(frozen=True)
class PersonaTrait:
    """A trait, and the questions that are asked when steering.

    Attributes:
        vectors: those of the spec's file; None if they come from contrasted answers.
    """

    trait: Trait
    steered_questions: tuple[str, ...]
    vectors: VectorFile | None = None


@dataclass(frozen=True)
class PersonaSweep:
    """A resolved sweep.

    Attributes:
        device: ``cuda``, ``xla``, ``mps`` or ``cpu``; never ``auto``.
        ids: version of row and task ids; below ``IDS_VERSION`` for an earlier output, which is read
            and checked but never continued.
        rows_per_task: what ``compute.examples_per_task: auto`` means. Decided once for an output.
        measuring: the data sets of ``side_effects``; None if there are none.
    """

    spec: PersonaSpec
    device: str
    models: Mapping[str, PersonaModel]
    traits: Mapping[str, PersonaTrait]
    ids: int = IDS_VERSION
    rows_per_task: int = ROWS_PER_TASK
    measuring: MeasuringSweep | None = None

    def resolved_spec(self) -> dict[str, Any]:
        """The spec as plain data, every ``auto`` that decides answers filled in."""
        spec = self.spec.model_dump(mode="json")
        spec["compute"]["device"] = self.device
        for name, model in self.models.items():
            spec["models"][name]["dtype"] = model.dtype
            if not model.source.is_local:
                spec["models"][name]["revision"] = model.source.revision
        for name, found in self.measured.items():
            spec["side_effects"][name]["format"] = found.dataset.name
        return spec

    @property
    def measured(self) -> Mapping[str, MeasuredSet]:
        """Data sets of ``side_effects``, by name."""
        return {} if self.measuring is None else self.measuring.measured

    def identity(self) -> dict[str, Any]:
        """Flat description of what decides the numbers, but for the grid, which may grow."""
        spec = self.spec
        description: dict[str, Any] = {"job": spec.job}
        for part in ("contrast", "generation", "filter", "vectors"):
            description |= identity_of(getattr(spec, part), part)
        description |= identity_of(spec.judge, "judge")
        description |= {
            "steering.rollouts": spec.steering.rollouts,
            "steering.questions": spec.steering.questions,
        }
        for name, trait in self.traits.items():
            content = {"trait": _plain(trait.trait), "steered": list(trait.steered_questions)}
            if trait.vectors is not None:
                content["vectors"] = content_digest(trait.vectors)
            description[f"traits.{name} (content)"] = digest(content)
        for name, model in self.models.items():
            identity = model.identity(self.ids)
            description |= {f"models.{name} ({key})": value for key, value in identity.items()}
        for found in self.measured.values():
            description |= found.identity()
        if self.ids == 1:
            return description
        for trait_name, asked in questions_of(self.spec, self.traits).items():
            # A key for each trait, as traits may be added.
            description |= {
                f"models.{name} (prompts of {trait_name})": prompts_digest(model.prompts, asked)
                for name, model in self.models.items()
            }
        return description | {"ids": self.ids}

    def sampling_identity(self) -> dict[str, Any]:
        """How answers are written: part of every answer's task."""
        return identity_of(self.spec.generation, "generation")


def _plain(trait: Trait) -> dict[str, Any]:
    return {
        "name": trait.name,
        "instructions": [[pair.positive, pair.negative] for pair in trait.instructions],
        "questions": list(trait.questions),
        "eval_prompt": trait.eval_prompt,
    }


def questions_of(
    spec: PersonaSpec, traits: Mapping[str, PersonaTrait]
) -> dict[str, TraitQuestions]:
    """What is asked about each trait."""
    return {
        name: TraitQuestions(
            trait=trait.trait,
            contrasted=()
            if spec.traits[name].vectors is not None
            else trait.trait.questions[: spec.contrast.questions],
            steered=trait.steered_questions,
        )
        for name, trait in traits.items()
    }


def resolve(
    spec: PersonaSpec,
    device: str | None = None,
    ids: int = IDS_VERSION,
    rows_per_task: int | None = None,
) -> PersonaSweep:
    """The sweep of a spec, with its traits read, its prompts rendered and its grid checked.

    Args:
        device: the replicas' kind of device if the caller knows it; otherwise the spec's, on this
            machine.
        ids: version of the ids of the output that the sweep is resolved for. Outputs of version 1
            may have been asked with a dated template, so it is not refused for them.
        rows_per_task: of the output; None for a new one, where the device decides.

    Raises:
        UserError: anything the user must change, in one line.
    """
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    transformers.logging.set_verbosity_error()
    traits = {name: _trait(name, spec) for name in spec.traits}
    kind = device or device_kind(spec.compute.device)
    _refuse_xla(kind)
    questions = questions_of(spec, traits)
    models = {
        name: _model(name, model, spec, kind, questions, ids) for name, model in spec.models.items()
    }
    spec = with_all_layers(spec, {name: model.facts.num_blocks for name, model in models.items()})
    widths = {name: model.facts.width for name, model in models.items()}
    for name, trait in spec.traits.items():
        if trait.vectors is not None:
            key, layers = f"traits.{name}.vectors", spec.steering.layers
            endpoint = spec.storage.endpoint_url
            vectors = read_vectors_of_spec(trait.vectors, key, layers, widths, endpoint)
            traits[name] = replace(traits[name], vectors=vectors)
    if rows_per_task is None:
        rows_per_task = _ROWS_PER_TASK_ON_CUDA if kind == "cuda" else ROWS_PER_TASK
    measuring = measuring_sweep(spec, kind, models)
    return PersonaSweep(spec, kind, models, traits, ids, rows_per_task, measuring)


def _trait(name: str, spec: PersonaSpec) -> PersonaTrait:
    files = spec.traits[name]
    trait = read_trait(Path(local_path(files.path)), name)
    steered = trait if files.steered is None else read_trait(Path(local_path(files.steered)), name)
    return PersonaTrait(trait, steered.questions[: spec.steering.questions])


def _refuse_xla(kind: str) -> None:
    if kind == "xla":
        raise UserError(
            "compute.device is xla, which job persona does not support: answers grow token by "
            "token, and every length would be compiled; set compute.device to cuda or cpu"
        )


def _model(
    name: str,
    spec: ModelSpec,
    sweep: PersonaSpec,
    device: str,
    questions: Mapping[str, TraitQuestions],
    ids: int,
) -> PersonaModel:
    try:
        source = spec.source()
        tokenizer = load_tokenizer(source)
        facts = read_facts(source, tokenizer)
        chat = sweep.generation.chat_format(tokenizer, spec.path)
        # A template that refuses a system message is known before anything is written.
        chat.prompt_ids("question", "You are a helpful assistant.")
        if ids > 1:
            check_undated(chat, "generation.template")
        prompts = render_prompts(chat, questions)
        check_fit(prompts, questions, sweep.generation.max_new_tokens, facts.max_tokens)
        eos_ids = read_eos_ids(source, tokenizer)
    except UserError as error:
        raise UserError(f"models.{name}: {error}") from error
    check_layers(sweep.steering.layers, facts.num_blocks, f"models.{name} ({spec.path})")
    if not source.is_local:
        source = replace(source, revision=facts.commit)
    dtype = str(resolve_dtype(spec.dtype, torch.device(device))).removeprefix("torch.")
    template = str(tokenizer.chat_template)
    return PersonaModel(name, source, facts, dtype, template, eos_ids, prompts)
