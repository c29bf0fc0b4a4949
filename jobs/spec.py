"""The sweep file: reading YAML, overriding keys, and errors that say what to change."""

from __future__ import annotations

import difflib
import re
from collections.abc import Mapping, Sequence
from decimal import Decimal
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar, get_args

import yaml
from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    StrictInt,
    ValidationError,
)

from cluster.placement import check_label, check_selector
from jobs.identity import decimal_text
from jobs.resources import embedded_specs
from jobs.yaml_text import MAX_BYTES, load_yaml
from steering_core.errors import InputError

Role = Literal["identity", "grid", "runtime"]

HIDDEN_VALUE = "hidden_value"
"""Type of a validator's error whose value is not repeated: it may be a secret."""


def role(value: Role) -> dict[str, Any]:
    """Marks a field: ``identity`` changes numbers, ``grid`` may grow, ``runtime`` does neither."""
    return {"role": value}


AtLeastOne = Annotated[StrictInt, Field(ge=1)]

_MODEL_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")


def distinct(values: tuple[Any, ...]) -> tuple[Any, ...]:
    """The values; ValueError where one stands twice."""
    twice = [v for v in dict.fromkeys(values) if values.count(v) > 1]
    if twice:
        raise ValueError(f"{twice[0]} stands twice")
    return values


def _number(value: Any) -> Any:
    if isinstance(value, bool) or not isinstance(value, int | float | str | Decimal):
        raise ValueError("must be a number")
    # A float's shortest decimal is the one that stands in the file.
    return Decimal(repr(value)) if isinstance(value, float) else value


def _in_float64(value: Decimal) -> Decimal:
    if abs(value) > Decimal("1e30"):
        raise ValueError("must be at most 1e30 in size")
    return Decimal(decimal_text(value))


def _model_name(name: str) -> str:
    if not _MODEL_NAME.fullmatch(name):
        raise ValueError("a model's name is letters, digits, '.', '_' or '-', at most 64")
    return name


def _gpus(value: float) -> float:
    if value > 1 and value != int(value):
        raise ValueError(
            "must be a whole number above 1: a part of a GPU can be shared by small replicas only"
        )
    return value


def _custom_resources(amounts: dict[str, float]) -> dict[str, float]:
    keys = {"CPU": "cpus_per_replica", "GPU": "gpus_per_replica"}
    for name in amounts:
        if name in keys:
            raise ValueError(f"must not name {name}; that is compute.{keys[name]}")
        if name in ("memory", "object_store_memory") or name.startswith("accelerator_type:"):
            raise ValueError(f"must not name {name}, which is no resource of its own")
    return amounts


Text = Annotated[str, Field(min_length=1, max_length=200)]
Gpus = Annotated[float, Field(ge=0, le=64), AfterValidator(_gpus)]
Amount = Annotated[float, Field(ge=0.0001, le=1e9)]
Label = Annotated[str, AfterValidator(check_label)]
Selector = Annotated[str, AfterValidator(check_selector)]
Coeff = Annotated[Decimal, BeforeValidator(_number), AfterValidator(_in_float64)]
ModelName = Annotated[str, AfterValidator(_model_name)]


class SpecModel(BaseModel):
    """Base of every part of a sweep file: unknown keys are errors, values are frozen."""

    model_config = ConfigDict(extra="forbid", frozen=True, validate_default=True)


class ModelSpec(SpecModel):
    """A model to steer."""

    path: str = Field(
        min_length=1,
        description="Hub id or local folder",
        json_schema_extra=role("identity"),
    )
    revision: str | None = Field(
        None, description="Hub branch, tag or commit", json_schema_extra=role("identity")
    )
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = Field(
        "auto",
        description="auto: float32 on the CPU, bfloat16 on accelerators",
        json_schema_extra=role("identity"),
    )
    trust_remote_code: bool = Field(
        False,
        strict=True,
        description="Run Python code that comes with the model",
        json_schema_extra=role("identity"),
    )


class ComputeSpec(SpecModel):
    """Where and how the sweep runs; no key here changes what it computes."""

    replicas: Literal["auto"] | AtLeastOne = Field(
        "auto", description="Model replicas at a time", json_schema_extra=role("runtime")
    )
    gpus_per_replica: Literal["auto"] | Gpus = Field(
        "auto",
        description="auto: 1 on CUDA, else 0. Below 1, replicas share a GPU; 2 and more, a replica "
        "is spread over several",
        json_schema_extra=role("runtime"),
    )
    cpus_per_replica: Annotated[StrictInt, Field(ge=1, le=1024)] = Field(
        1, description="CPU threads of a replica", json_schema_extra=role("runtime")
    )
    accelerator_type: Text | None = Field(
        None,
        description="Kind of accelerator that a replica's node must have, by Ray's name",
        json_schema_extra=role("runtime"),
    )
    resources: Annotated[dict[Text, Amount], AfterValidator(_custom_resources)] = Field(
        {},
        description="Amounts of other resources of a node that a replica takes, by Ray's name",
        json_schema_extra=role("runtime"),
    )
    labels: dict[Label, Selector] = Field(
        {},
        description="What labels of a replica's node must be: value, !value, in(a, b), !in(a, b)",
        json_schema_extra=role("runtime"),
    )
    wait_for_nodes_s: Literal["auto"] | Annotated[float, Field(ge=0, le=7 * 86_400)] = Field(
        "auto",
        description="Seconds to wait for nodes that the cluster lacks. auto: 1800 where Ray says "
        "that an autoscaler is there, else 0",
        json_schema_extra=role("runtime"),
    )
    tokens_per_batch: Literal["auto"] | AtLeastOne = Field(
        "auto",
        description=(
            "Positions of one forward pass; fixed when an output is started. auto: the best of a "
            "few, measured for each model by the first replica that holds it"
        ),
        json_schema_extra=role("runtime"),
    )
    examples_per_task: Literal["auto"] | AtLeastOne = Field(
        "auto",
        description="Examples of one task; fixed when an output is started",
        json_schema_extra=role("runtime"),
    )
    device: Literal["auto", "cuda", "xla", "mps", "cpu"] = Field(
        "auto",
        description="auto: CUDA, then XLA, then MPS, then CPU",
        json_schema_extra=role("runtime"),
    )
    executor: Literal["ray", "in_process"] = Field(
        "ray",
        description="in_process: one replica in this process, for debugging",
        json_schema_extra=role("runtime"),
    )


class StorageOptions(SpecModel):
    """How to reach an S3 output, beside the standard AWS variables."""

    endpoint_url: str | None = Field(
        None, description="Of an S3-compatible store", json_schema_extra=role("runtime")
    )
    region: str | None = Field(None, json_schema_extra=role("runtime"))


Spec = TypeVar("Spec", bound=SpecModel)


def job_of(source: str, kinds: Sequence[str]) -> str:
    """The ``job`` that a spec names.

    Raises:
        InputError: the file cannot be read, or names none of ``kinds``.
    """
    path = _find(source)
    job = _parse(path).get("job")
    if job not in kinds:
        if job is None:
            raise InputError(f"{path}: job is required; one of {', '.join(kinds)}")
        close = difflib.get_close_matches(str(job), kinds, n=1, cutoff=0.5)
        hint = f"did you mean {close[0]}?" if close else f"must be one of {', '.join(kinds)}"
        raise InputError(f"{path}: job: {hint}, got {job!r}")
    return str(job)


def load_spec(
    kind: type[Spec],
    source: str,
    overrides: Sequence[str] = (),
    output: str | None = None,
) -> Spec:
    """The validated spec in a file, or of an embedded example's name.

    Args:
        source: path of a YAML file, or the name of an embedded spec such as ``demo``.
        overrides: ``key.path=value`` with the value in YAML.
        output: replaces the spec's ``output``.

    Raises:
        InputError: one line that names the file, the key, the value and what is allowed.
    """
    path = _find(source)
    document = _parse(path)
    for override in overrides:
        _set(document, override)
    if output is not None:
        document["output"] = output
    job, field = document.get("job"), kind.model_fields.get("job")
    jobs = () if field is None else get_args(field.annotation)
    if jobs and isinstance(job, str) and job not in jobs:
        raise InputError(f"{path}: job is {job}; this command takes {', '.join(jobs)} only")
    try:
        return kind.model_validate(document)
    except ValidationError as error:
        raise InputError(f"{path}: {_explain(error, kind)}") from None


def _find(source: str) -> Path:
    path = Path(source).expanduser()
    if path.is_file():
        return path
    specs = embedded_specs()
    if source in specs:
        return specs[source]
    if path.is_dir():
        raise InputError(f"{source} is a folder; give the sweep's YAML file")
    raise InputError(
        f"{source}: no such spec file, and no example of that name ({', '.join(specs)})"
    )


def _parse(path: Path) -> dict[str, Any]:
    try:
        with path.open("rb") as file:
            document = load_yaml(file.read(MAX_BYTES + 1).decode())
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: cannot be read as UTF-8 text: {error}") from None
    except yaml.YAMLError as error:
        raise InputError(f"{path}: not valid YAML: {' '.join(str(error).split())}") from None
    except InputError as error:
        raise InputError(f"{path}: {error}") from None
    except ValueError as error:  # a date or a number that cannot be one
        raise InputError(f"{path}: not valid YAML: {error}") from None
    if not isinstance(document, dict):
        raise InputError(f"{path}: must hold keys and values, got {type(document).__name__}")
    return document


def _set(document: dict[str, Any], override: str) -> None:
    key, equals, text = override.partition("=")
    if not equals or not key.strip():
        raise InputError(f"--set {override!r}: must look like key.path=value")
    try:
        value = load_yaml(text)
    except InputError as error:
        raise InputError(f"--set {override!r}: {error}") from None
    except (yaml.YAMLError, ValueError):
        raise InputError(f"--set {override!r}: the value is not valid YAML") from None
    node: Any = document
    parts = key.strip().split(".")
    while parts:
        # A model's name may hold dots: the longest key that is there wins.
        size = next((n for n in range(len(parts), 0, -1) if ".".join(parts[:n]) in node), 1)
        name, parts = ".".join(parts[:size]), parts[size:]
        if not parts:
            node[name] = value
        else:
            node = node.setdefault(name, {})
            if not isinstance(node, dict):
                raise InputError(f"--set {override!r}: {name} holds no keys of its own")


def _explain(error: ValidationError, kind: type[BaseModel]) -> str:
    problems = error.errors()
    # A union reports each of its branches; the last one is the most specific.
    first = next((p for p in problems if p["type"] == "extra_forbidden"), problems[0])
    place = _place(first["loc"])
    # A container repeats the problem of its entry.
    others = {_place(p["loc"]) for p in problems if not place.startswith(_place(p["loc"]))}
    more = len(others)
    tail = f" (and {more} more)" if more > 0 else ""
    if first["type"] == "extra_forbidden":
        known = _known_keys(kind, first["loc"][:-1])
        close = difflib.get_close_matches(str(first["loc"][-1]), known, n=1, cutoff=0.5)
        hint = f"did you mean {close[0]}?" if close else f"known keys: {', '.join(known)}"
        return f"unknown key {place}; {hint}{tail}"
    if first["type"] == "missing":
        return f"{place} is required{tail}"
    messages = [p["msg"] for p in problems if _place(p["loc"]) == place]
    reason = _plain(" or ".join(dict.fromkeys(messages)))
    value = first.get("input")
    is_hidden = first["type"] == HIDDEN_VALUE or isinstance(value, Mapping | list)
    shown = "" if is_hidden else f", got {value!r}"
    return f"{place}: {reason}{shown}{tail}"


def _plain(message: str) -> str:
    """Pydantic's words in ours."""
    message = re.sub(r"(Value error, |Input should be )", "", message)
    message = re.sub(r"^\w+ should have at least (\d+) item.*", r"needs at least \1 entry", message)
    starts = ("must ", "needs ", "a model's")
    return message if message.startswith(starts) or "stands" in message else f"must be {message}"


_BRANCH = re.compile(r"[\[(]|^(constrained-)?(int|float)$")


def _place(loc: tuple[int | str, ...]) -> str:
    # The names of union branches stand behind the field, as in ('compute', 'replicas', 'int');
    # before that, ('models', 'int') is a model of that name.
    kept = [str(p) for n, p in enumerate(loc) if n < 2 or not _BRANCH.search(str(p))]
    place = ".".join(kept) or "the file"
    return place if place.isprintable() else repr(place)


def _known_keys(kind: type[BaseModel], loc: tuple[int | str, ...]) -> list[str]:
    """Field names of the model that a location leads to."""
    annotation: Any = kind
    for part in loc:
        fields = getattr(annotation, "model_fields", {})
        if part in fields:
            annotation = fields[part].annotation
        else:  # a key of a mapping, dict[str, ModelSpec]: its values are what comes next
            nested = [a for a in get_args(annotation) if hasattr(a, "model_fields")]
            annotation = nested[0] if nested else annotation
    return list(getattr(annotation, "model_fields", {}))
