"""What was run, of a persona sweep: data, judge, grid, sampling, when and on what."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from datetime import datetime
from typing import Any

from jobs.page.provenance import Ran, ran_of, short
from jobs.page.words import coefficient, counted
from jobs.persona.questions import questions_asked
from jobs.persona.summary import PersonaSummary

_POOLING = {
    "response_mean": "mean over the answer's tokens",
    "prompt_mean": "mean over the prompt's tokens",
    "prompt_last": "the prompt's last token",
}
_POSITIONS = {
    "response": "the last prompt token and each new token",
    "prompt": "the prompt alone",
    "all": "every position",
}


def ran(
    summary: PersonaSummary,
    record: Mapping[str, Any],
    made: datetime,
    *,
    certified: str,
    is_complete: bool,
) -> Ran:
    """What ``run.json`` and the answers say of the run; empty if ``run.json`` is lost."""
    if not record:
        return Ran()
    spec = record["spec"]
    terms = [
        *_traits(summary, record),
        ("Answers", _sampling(spec["generation"], spec)),
        ("Judge", _judge(spec["judge"])),
        ("Pairs kept", _filter(spec["filter"])),
        (
            "Vectors",
            "mean hidden state of the kept positive answers minus that of the negative ones "
            f"({_pooling(spec)})",
        ),
        *_grid(spec["steering"]),
        ("Certificate", certified),
    ]
    return ran_of(record, terms, made, is_complete=is_complete)


def _traits(summary: PersonaSummary, record: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    identity = record["identity"]
    asked: dict[str, list[str]] = {}
    for (_, trait), questions in questions_asked(summary.answers).items():
        asked[trait] = [
            counted(len(of_phase), f"{name} question")
            for name, of_phase in (
                ("contrast", questions.contrast),
                ("steering", questions.steered),
            )
            if of_phase
        ]
    for name, trait in record["spec"]["traits"].items():
        content = identity.get(f"traits.{name} (content)", "unknown")
        parts = [f"{trait['path']} (content {short(content)})"]
        if trait.get("steered"):
            parts.append(f"steering questions from {trait['steered']}")
        if trait.get("vectors"):
            parts.append(f"vectors from {trait['vectors']}")
        yield f"Trait {name}", "; ".join([*parts, *asked.get(name, [])])


def _sampling(generation: Mapping[str, Any], spec: Mapping[str, Any]) -> str:
    how = (
        "greedy"
        if generation["greedy"]
        else f"sampled at temperature {generation['temperature']:g}, top_p "
        f"{generation['top_p']:g}, seed {generation['seed']}"
    )
    rollouts = f"{counted(spec['contrast']['rollouts'], 'rollout')} of each contrast question and "
    rollouts += f"instruction, {counted(spec['steering']['rollouts'], 'rollout')} when steering"
    return f"{how}; at most {counted(generation['max_new_tokens'], 'new token')}; {rollouts}"


def _judge(judge: Mapping[str, Any]) -> str:
    if judge["kind"] == "word_list":
        return (
            "a word list: it counts words of a list in the answer, "
            f"{judge['words_for_100']:,} of them give 100"
        )
    if judge["kind"] == "local":
        return f"the local model {judge['path']}"
    return f"{judge['model']} through the {judge['kind']} API"


def _filter(spec: Mapping[str, Any]) -> str:
    return (
        f"positive answer's trait score at least {spec['positive_at_least']:g}, negative answer's "
        f"below {spec['negative_below']:g}, coherence of both at least "
        f"{spec['coherence_at_least']:g}"
    )


def _pooling(spec: Mapping[str, Any]) -> str:
    return _POOLING[spec["vectors"]["pooling"]]


def _grid(steering: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    layers = ", ".join(f"{layer} (blocks.{layer - 1}.resid_post)" for layer in steering["layers"])
    yield "Layers", layers
    yield "Coefficients", ", ".join(coefficient(float(c)) for c in steering["coeffs"])
    yield "Steered positions", "; ".join(_POSITIONS[name] for name in steering["positions"])
