"""The mistakes of a sweep file in plain words, one a line, in the order of the file.

Pydantic reports a problem for every branch of a union, repeats it for the container, and puts the
names of branches into the location. Here that becomes one sentence for each place in the file.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from types import UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin, get_type_hints

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from jobs.spec_file import Place, SpecFile
from steersweep.errors import UserError

HIDDEN_VALUE = "hidden_value"
"""Type of a validator's error whose value is not repeated: it may be a secret."""

MOST_SHOWN = 20
"""Mistakes that are listed; the others are counted."""

_ANY_NAME = "NAME"
"""Stands for a key that the user chooses, such as a model's name."""


def spec_error(
    error: ValidationError,
    kind: type[BaseModel],
    file: SpecFile,
    kinds: Mapping[str, type[BaseModel]],
) -> UserError:
    """Every mistake that validation found: one line, or a heading and a line for each.

    Args:
        error: what pydantic reported.
        kind: the model that the file was validated against.
        file: what was validated, to tell its own mistakes from those of options.
        kinds: models of all jobs by name, to recognise the key of another job.
    """
    problems = [_Problem.of(details, kind, file.document) for details in _leaves(error)]
    groups: dict[tuple[Place, bool], list[_Problem]] = {}
    for problem in problems:
        groups.setdefault((problem.place, problem.is_about_key), []).append(problem)
    parents = {place[:size] for place, _ in groups for size in range(len(place))}
    position = {place: n for n, place in enumerate(_places(file.document))}

    def order(place: Place) -> int:
        # A missing key belongs to the start of the section that lacks it.
        return position.get(place, position.get(place[:-1], 0))

    chosen = sorted((g for g in groups if g[0] not in parents), key=lambda g: order(g[0]))
    sentences = {key: _sentence(groups[key], kind, file, kinds) for key in chosen[:MOST_SHOWN]}
    # A required key that is misspelled is one mistake, not two.
    hints = " ".join(sentences.values())
    chosen = [
        key
        for key in chosen
        if groups[key][0].details["type"] != "missing"
        or f"did you mean {_spelled(key[0])}?" not in hints
    ]
    lines = []
    for key in [key for key in chosen if key in sentences]:
        is_secret = any(problem.is_secret for problem in groups[key])
        source = file.source_of(key[0], is_secret=is_secret)
        lines.append((source, _bounded(sentences[key])))
    if len(chosen) == 1:
        return UserError(f"{lines[0][0]}: {lines[0][1]}")
    own = str(file.path)
    details = [text if source == own else f"{source}: {text}" for source, text in lines]
    if len(chosen) > len(lines):
        details.append(f"... and {len(chosen) - len(lines)} more")
    num_options = sum(file.is_from_option(place) for place, _ in chosen)
    where = f"{own} has" if num_options == 0 else f"{own} and its options have"
    if num_options == len(chosen):
        where = f"the options for {own} have"
    return UserError(f"{where} {len(chosen)} mistakes:", *(f"  {line}" for line in details))


@dataclass(frozen=True)
class _Problem:
    """One of pydantic's reports, with the place in the file that it is about."""

    details: ErrorDetails
    place: Place
    "Keys and list positions as they are in the file."
    generic_place: tuple[str, ...]
    "The same, with NAME for keys that the user chooses; without list positions."
    section: type[BaseModel] | None
    "The model that the last key belongs to, or should."
    tag: str | None
    "What chose the section among several, such as 'kind: openai'."

    @property
    def is_about_key(self) -> bool:
        return self.details["loc"][-1:] == ("[key]",)

    @property
    def is_secret(self) -> bool:
        return self.details["type"] == HIDDEN_VALUE

    @classmethod
    def of(cls, details: ErrorDetails, kind: type[BaseModel], document: Any) -> _Problem:
        """Follows a location through the file and the model at once."""
        place: list[Any] = []
        generic: list[str] = []
        node = document
        annotation: Any = kind
        section: type[BaseModel] | None = kind
        tag: str | None = None
        loc = details["loc"]
        for number, part in enumerate(loc):
            models = _models(annotation)
            if len(models) > 1:  # the part is the tag that chose one of them
                name, by_tag = _tags(models)
                section = annotation = by_tag.get(str(part), models[0])
                tag = f"{name}: {part}"
                continue
            is_entry = isinstance(part, int) and isinstance(node, list) and part < len(node)
            is_key = isinstance(node, Mapping) and part in node
            is_missing = details["type"] == "missing" and number == len(loc) - 1
            if not (is_entry or is_key or is_missing):
                continue  # the name of a union's branch or of a check
            place.append(part)
            node = None if is_missing else node[part]
            section = models[0] if models else None
            if section is None:
                annotation = _entry(annotation)
                generic += [] if is_entry else [_ANY_NAME]
                tag = None
            else:
                field = section.model_fields.get(str(part))
                is_chosen = field is None and _entries_of(section) is not None
                generic.append(_ANY_NAME if is_chosen else str(part))
                if number < len(loc) - 1:
                    tag = None
                annotation = _entries_of(section) if field is None else field.annotation
        if details["type"].startswith("union_tag"):
            name = str(details.get("ctx", {}).get("discriminator", "kind")).strip("'")
            place, generic = [*place, name], [*generic, name]
        return cls(details, tuple(place), tuple(generic), section, tag)


def _leaves(error: ValidationError) -> list[ErrorDetails]:
    """Reports without those of a container whose entry is reported as well."""
    reports = error.errors(include_url=False)
    parents = {r["loc"][:size] for r in reports for size in range(len(r["loc"]))}
    return [report for report in reports if report["loc"] not in parents] or reports


def _places(node: Any, place: Place = ()) -> Iterator[Place]:
    """The place of every value, in the order of the file."""
    yield place
    if isinstance(node, Mapping):
        for key, value in node.items():
            yield from _places(value, (*place, key))
    elif isinstance(node, list):
        for index, value in enumerate(node):
            yield from _places(value, (*place, index))


def _sentence(
    problems: Sequence[_Problem],
    kind: type[BaseModel],
    file: SpecFile,
    kinds: Mapping[str, type[BaseModel]],
) -> str:
    first = problems[0]
    details, place = first.details, _spelled(first.place)
    with_tag = "" if first.tag is None else f" with {first.tag}"
    match details["type"]:
        case "missing":
            return f"{place} is required{with_tag}"
        case "union_tag_not_found":
            choices = ", ".join(_tags(_siblings(first, kind))[1])
            return f"{place} is required; one of {choices}"
        case "extra_forbidden":
            return f"unknown key {place}{with_tag}; {_hint(first, kind, file, kinds)}"
    value = details.get("input")
    if details["type"] == "union_tag_invalid":
        value = details["ctx"]["tag"]
    reasons = _reasons(problems)
    if first.is_about_key and reasons.startswith("must "):
        reasons = f"the key {reasons}"
    is_shown = not (first.is_secret or isinstance(value, Mapping | list | tuple))
    got = f", got {_value(value)}" if is_shown else ""
    return f"{place}: {reasons}{got}"


def _reasons(problems: Sequence[_Problem]) -> str:
    """What is allowed; of a union, what each branch allows."""
    reasons = list(dict.fromkeys(_reason(problem.details) for problem in problems))
    return " or ".join([reasons[0], *(reason.removeprefix("must be ") for reason in reasons[1:])])


_REASONS = {
    "int_type": "must be a whole number",
    "int_parsing": "must be a whole number",
    "int_from_float": "must be a whole number",
    "float_type": "must be a number",
    "float_parsing": "must be a number",
    "decimal_type": "must be a number",
    "decimal_parsing": "must be a number",
    "finite_number": "must be a finite number",
    "bool_type": "must be true or false",
    "bool_parsing": "must be true or false",
    "string_type": "must be text",
    "tuple_type": "must be a list",
    "list_type": "must be a list",
    "dict_type": "must be a mapping of keys to values",
    "model_type": "must be a mapping of keys to values",
    "model_attributes_type": "must be a mapping of keys to values",
    "invalid_key": "must be text, as every key",
    "union_tag_invalid": "must be one of {expected_tags}",
    "literal_error": "must be {expected}",
    "greater_than_equal": "must be at least {ge:g}",
    "greater_than": "must be greater than {gt:g}",
    "less_than_equal": "must be at most {le:g}",
    "less_than": "must be less than {lt:g}",
    "too_short": "needs at least {min_length} entry",
    "string_too_long": "must have at most {max_length} characters",
    "value_error": "{error}",
}
"""Pydantic's types of error in our words; what is not here keeps pydantic's."""


def _reason(details: ErrorDetails) -> str:
    kind, context = details["type"], details.get("ctx", {})
    if kind == "string_too_short" and context.get("min_length") == 1:
        return "must not be empty"
    if kind in _REASONS:
        return _REASONS[kind].format_map(context)
    message = details["msg"].removeprefix("Input should be ")
    return message if message == details["msg"] else f"must be {message}"


def _hint(
    problem: _Problem,
    kind: type[BaseModel],
    file: SpecFile,
    kinds: Mapping[str, type[BaseModel]],
) -> str:
    """What the user may have meant by an unknown key.

    Sure answers come first: the same key of another job or kind, then the key in another section,
    and only then what looks alike.
    """
    unknown, place = str(problem.place[-1]), problem.generic_place
    known = list(problem.section.model_fields) if problem.section else []
    here = [(*problem.place[:-1], name) for name in known]
    others = {job: list(_key_paths(model)) for job, model in kinds.items() if model is not kind}
    for job, paths in others.items():
        if place in paths and place not in _key_paths(kind):
            return f"it belongs to job {job}, and this is job {file.document.get('job')}"
    if place in _key_paths(kind):
        return f"{_other_tags(problem, kind)}known keys: {', '.join(known)}"
    elsewhere = [path for path in _key_paths(kind) if path[:-1] != place[:-1]]
    close = _closest(unknown, here, 0.8)
    same_name = [path for path in elsewhere if path[-1] == unknown]
    # Data sets of side effects have the keys of `data`, which is what most sweeps mean.
    same_name = [path for path in same_name if path[0] != "side_effects"] or same_name
    if close is None and same_name:
        return f"did you mean {' or '.join(_spelled(path) for path in same_name[:3])}?"
    if close is None:
        for job, paths in others.items():
            of_job = [_spelled(path) for path in paths if path[-1] == unknown]
            if of_job:
                return f"job {job} has {' and '.join(of_job[:3])}, this job has no such key"
    close = close or _closest(unknown, here, 0.6) or _closest(unknown, elsewhere, 0.65)
    if close is not None:
        return f"did you mean {_spelled(close)}?"
    return f"known keys: {', '.join(known)}"


def _other_tags(problem: _Problem, kind: type[BaseModel]) -> str:
    """The tags of the union's other members that have a problem's key."""
    name, by_tag = _tags(_siblings(problem, kind))
    tags = [tag for tag, model in by_tag.items() if problem.place[-1] in model.model_fields]
    return f"that is for {name}: {' or '.join(tags)}; " if tags else ""


def _siblings(problem: _Problem, kind: type[BaseModel]) -> list[type[BaseModel]]:
    annotation: Any = kind
    for name in problem.generic_place[:-1]:
        models = _models(annotation)
        field = models[0].model_fields.get(name) if models else None
        annotation = _entry(annotation) if field is None else field.annotation
    return _models(annotation)


def _closest(unknown: str, paths: Sequence[Place], cutoff: float) -> Place | None:
    """The path whose last key looks most like an unknown one."""
    by_name: dict[str, Place] = {}
    for path in paths:
        by_name.setdefault(str(path[-1]), path)
    spelled = re.sub(r"[- ]", "_", unknown[:100].lower())
    close = difflib.get_close_matches(spelled, by_name, n=1, cutoff=cutoff)
    return by_name[close[0]] if close else None


def _key_paths(kind: type[BaseModel], at: tuple[str, ...] = ()) -> list[tuple[str, ...]]:
    """Every key that a model knows, with the keys that lead to it."""
    paths: dict[tuple[str, ...], None] = {}
    for name, field in kind.model_fields.items():
        paths[(*at, name)] = None
        for model in _models(field.annotation):
            paths |= dict.fromkeys(_key_paths(model, (*at, name)))
        for model in _models(_entry(field.annotation)):
            paths |= dict.fromkeys(_key_paths(model, (*at, name, _ANY_NAME)))
    for model in _models(_entries_of(kind)):
        paths |= dict.fromkeys(_key_paths(model, (*at, _ANY_NAME)))
    return list(paths)


def _entries_of(kind: type[BaseModel]) -> Any:
    """What is under keys that the user chooses, in a model that has keys of its own as well;
    None if it takes no other keys."""
    if kind.model_config.get("extra") != "allow":
        return None
    return _entry(get_type_hints(kind, include_extras=True)["__pydantic_extra__"])


def _models(annotation: Any) -> list[type[BaseModel]]:
    """Models that a value of the annotation may be, containers left out."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    if get_origin(annotation) is Annotated:
        return _models(get_args(annotation)[0])
    if get_origin(annotation) in (Union, UnionType):
        return [model for argument in get_args(annotation) for model in _models(argument)]
    return []


def _entry(annotation: Any) -> Any:
    """What the values of a container are; None if the annotation is no container."""
    origin, arguments = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        return _entry(arguments[0])
    if origin in (Union, UnionType):
        return next((e for e in map(_entry, arguments) if e is not None), None)
    if origin is dict:
        return arguments[1]
    return arguments[0] if origin in (tuple, list) else None


def _tags(models: Sequence[type[BaseModel]]) -> tuple[str, dict[str, type[BaseModel]]]:
    """The key that says which of several models is meant, and the models by its values."""
    for name in models[0].model_fields if models else ():
        fields = [model.model_fields.get(name) for model in models]
        if all(f is not None and get_origin(f.annotation) is Literal for f in fields):
            tags = [get_args(f.annotation) for f in fields if f is not None]
            return name, {str(t): m for ts, m in zip(tags, models, strict=True) for t in ts}
    return "kind", {}


def _spelled(place: Place) -> str:
    """``steering.layers.0``; keys that cannot be printed, or are very long, are shortened."""
    text = ".".join(_shortened(str(part), 64) for part in place) or "the file"
    return text if text.isprintable() else repr(text)


def _value(value: Any) -> str:
    """A value as YAML spells it, bounded."""
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    return _shortened(repr(value), 60)


def _shortened(text: str, size: int) -> str:
    return text if len(text) <= size else f"{text[: size - 3]}..."


def _bounded(text: str) -> str:
    return _shortened(text, 400)
