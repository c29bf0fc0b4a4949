"""What every sweep file has in common: its keys, their checks, and loading one."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from decimal import Decimal
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, TypeVar, get_args

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
from cluster.storage import StorageSpec
from jobs.cores import num_cores
from jobs.identity import decimal_text
from jobs.resources import model_source
from jobs.spec_file import SpecFile, read_spec_file
from jobs.spec_mistakes import HIDDEN_VALUE as HIDDEN_VALUE
from jobs.spec_mistakes import spec_error
from steersweep.errors import UserError

if TYPE_CHECKING:
    from steering_core.models import ModelSource

Role = Literal["identity", "grid", "runtime"]


def role(value: Role) -> dict[str, Any]:
    """Marks a field: ``identity`` changes numbers, ``grid`` may grow, ``runtime`` does neither."""
    return {"role": value}


AtLeastOne = Annotated[StrictInt, Field(ge=1)]

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")


def distinct(values: tuple[Any, ...]) -> tuple[Any, ...]:
    """The values; ValueError if one is repeated, or two become the same float64."""
    repeated = [v for v in dict.fromkeys(values) if values.count(v) > 1]
    if repeated:
        raise ValueError(f"{repeated[0]} is repeated")
    # Results hold float64: two decimals that round to one number would be one cell there.
    by_float: dict[float, Decimal] = {}
    for value in values:
        if isinstance(value, Decimal) and by_float.setdefault(float(value), value) != value:
            raise ValueError(
                f"must differ as float64 numbers: {by_float[float(value)]} and {value} are both "
                f"{float(value)!r}"
            )
    return values


def _number(value: Any) -> Any:
    if isinstance(value, bool) or not isinstance(value, int | float | str | Decimal):
        raise ValueError("must be a number")
    # A float's shortest decimal is the one that was written in the file.
    return Decimal(repr(value)) if isinstance(value, float) else value


def _in_float64(value: Decimal) -> Decimal:
    if abs(value) > Decimal("1e30"):
        raise ValueError("must be between -1e30 and 1e30")
    if value != 0 and abs(value) < Decimal("1e-30"):
        raise ValueError("must be 0 or at least 1e-30 in size")
    return Decimal(decimal_text(value))


def checked_name(name: str) -> str:
    """A name that the user chooses, as a part of storage keys; ValueError if it cannot be one."""
    if not _NAME.fullmatch(name):
        raise ValueError(
            "a name may have letters, digits, '.', '_' and '-', must start with a letter or digit, "
            "and has at most 64 characters"
        )
    return name


def _inside(file: str) -> str:
    if Path(file).is_absolute() or ".." in Path(file).parts:
        raise ValueError("must be a file's name in the folder that path names")
    return file


def _gpus(value: float) -> float:
    if value > 1 and value != int(value):
        raise ValueError(
            "must be a whole number if it is above 1; only a fraction below 1 shares a GPU"
        )
    return value


def _custom_resources(amounts: dict[str, float]) -> dict[str, float]:
    keys = {"CPU": "cpus_per_replica", "GPU": "gpus_per_replica"}
    for name in amounts:
        if name in keys:
            raise ValueError(f"must not name {name}; use compute.{keys[name]}")
        if name in ("memory", "object_store_memory") or name.startswith("accelerator_type:"):
            raise ValueError(f"must not name {name}, which Ray manages itself")
    return amounts


Text = Annotated[str, Field(min_length=1, max_length=200)]
Gpus = Annotated[float, Field(ge=0, le=64), AfterValidator(_gpus)]
Amount = Annotated[float, Field(ge=0.0001, le=1e9)]
Label = Annotated[str, AfterValidator(check_label)]
Selector = Annotated[str, AfterValidator(check_selector)]
Coeff = Annotated[Decimal, BeforeValidator(_number), AfterValidator(_in_float64)]
ModelName = Annotated[str, AfterValidator(checked_name)]


class SpecModel(BaseModel):
    """Base of every part of a sweep file: unknown keys are errors, values are frozen."""

    model_config = ConfigDict(extra="forbid", frozen=True, validate_default=True)


def identity_of(spec: SpecModel, where: str = "") -> dict[str, Any]:
    """What a part of a sweep file has that changes numbers, as plain data by its key.

    Args:
        where: the key of the part itself; empty for a whole file.
    """
    plain = spec.model_dump(mode="json")
    roles = {name: field.json_schema_extra for name, field in type(spec).model_fields.items()}
    return {
        f"{where}.{name}" if where else name: value
        for name, value in plain.items()
        if isinstance(extra := roles[name], dict) and extra.get("role") == "identity"
    }


class ModelSpec(SpecModel):
    """A model to steer."""

    path: str = Field(
        min_length=1,
        description="Hub id, local folder or embedded:NAME",
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
    gguf_file: Annotated[str, Field(min_length=1), AfterValidator(_inside)] | None = Field(
        None,
        description="Load this GGUF file of the folder or hub model, dequantized",
        # Absent unless set, so that records and digests of other models stay what they were.
        exclude_if=lambda value: value is None,
        json_schema_extra=role("identity"),
    )

    def source(self) -> ModelSource:
        """Where the model is; see ``jobs.resources.model_source``."""
        return model_source(self.path, self.revision, self.trust_remote_code, self.gguf_file)


def _of_path(value: Any) -> Any:
    return {"path": value} if isinstance(value, str) else value


ModelEntry = Annotated[ModelSpec, BeforeValidator(_of_path, json_schema_input_type=ModelSpec | str)]
"""A model, or its path alone."""


class ComputeSpec(SpecModel):
    """Where and how the sweep runs; no key here changes what it computes."""

    replicas: Literal["auto"] | AtLeastOne = Field(
        "auto",
        description="Number of model replicas; auto: as many as fit the cluster",
        json_schema_extra=role("runtime"),
    )
    gpus_per_replica: Literal["auto"] | Gpus = Field(
        "auto",
        description="GPUs of each replica. auto: 1 on CUDA, else 0. Below 1, replicas share a GPU; "
        "from 2 on, a replica is split over several",
        json_schema_extra=role("runtime"),
    )
    cpus_per_replica: Literal["auto"] | Annotated[StrictInt, Field(ge=1, le=1024)] = Field(
        1,
        description="CPU threads of each replica. auto: all cores of this machine with executor "
        "in_process, 1 on Ray",
        json_schema_extra=role("runtime"),
    )
    accelerator_type: Text | None = Field(
        None,
        description="Accelerator type that a replica needs, by Ray's name (H100, ...)",
        json_schema_extra=role("runtime"),
    )
    resources: Annotated[dict[Text, Amount], AfterValidator(_custom_resources)] = Field(
        {},
        description="Custom Ray resources that each replica takes, by name",
        json_schema_extra=role("runtime"),
    )
    labels: dict[Label, Selector] = Field(
        {},
        description="Labels that a replica's node must have: value, !value, in(a, b) or !in(a, b)",
        json_schema_extra=role("runtime"),
    )
    wait_for_nodes_s: Literal["auto"] | Annotated[float, Field(ge=0, le=7 * 86_400)] = Field(
        "auto",
        description="Seconds to wait for nodes that the cluster lacks. auto: 1800 if Ray reports "
        "an autoscaler, else 0",
        json_schema_extra=role("runtime"),
    )
    tokens_per_batch: Literal["auto"] | AtLeastOne = Field(
        "auto",
        description=(
            "Token positions of one forward pass; fixed when an output is started. auto: the "
            "fastest of a few, measured for each model by its first replica"
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
    accelerate: Literal["auto", "off"] = Field(
        "auto",
        description=(
            "auto: on CUDA in half precision, use the Triton kernels that are right and faster on "
            "the first replica; fixed when an output is started. Not for job: persona"
        ),
        json_schema_extra=role("runtime"),
    )
    executor: Literal["ray", "in_process"] = Field(
        "ray",
        description="ray: replicas on a cluster or this machine; in_process: one, in this process",
        json_schema_extra=role("runtime"),
    )

    @property
    def num_threads(self) -> int:
        """CPU threads of each replica."""
        if self.cpus_per_replica != "auto":
            return self.cpus_per_replica
        return num_cores() if self.executor == "in_process" else 1


class StorageOptions(SpecModel):
    """How to reach an S3 output; credentials come from the standard AWS variables."""

    endpoint_url: str | None = Field(
        None,
        description="Endpoint of an S3-compatible store (MinIO, R2, ...)",
        json_schema_extra=role("runtime"),
    )
    region: str | None = Field(
        None,
        description="Region of the S3 store (default: that of the AWS variables)",
        json_schema_extra=role("runtime"),
    )


Tolerance = Annotated[float, Field(gt=0, allow_inf_nan=False)]


class CertificateSpec(SpecModel):
    """Results that are recomputed on the slow path, and what happens if they differ."""

    rows_per_task: Annotated[StrictInt, Field(ge=0)] = Field(
        2,
        description="Rows or answers of each task to recompute one by one; 0: none",
        json_schema_extra=role("runtime"),
    )
    tolerance: Literal["auto"] | Tolerance = Field(
        "auto",
        description="Largest difference that is accepted: of a score, in nats; of an answer, in "
        "the probability of a token. auto: by dtype",
        json_schema_extra=role("runtime"),
    )
    on_failure: Literal["fall_back", "stop", "warn"] = Field(
        "fall_back",
        description="If the tolerance is exceeded. fall_back: compute the task on the slow "
        "path; stop: end the run; warn: continue",
        json_schema_extra=role("runtime"),
    )


class JobSpec(SpecModel):
    """Base of the sweep file of every job. Each declares these keys itself, in its own order."""

    if TYPE_CHECKING:
        job: str
        compute: ComputeSpec
        storage: StorageOptions
        output: str

    def storage_spec(self, endpoint_url: str | None = None) -> StorageSpec:
        """Where the output is.

        Args:
            endpoint_url: of an S3-compatible store, instead of the spec's.
        """
        options = self.storage
        return StorageSpec(self.output, endpoint_url or options.endpoint_url, options.region)


Spec = TypeVar("Spec", bound=JobSpec)


def load_spec(
    kind: type[Spec],
    source: str,
    overrides: Sequence[str] = (),
    output: str | None = None,
) -> Spec:
    """The validated spec in a file, or of a packaged sweep's name.

    Args:
        kind: the spec of the job that the file must be for.
        source: path of a YAML file, or the name of a packaged sweep such as ``quick-look``.
        overrides: ``key.path=value`` with the value in YAML.
        output: replaces the spec's ``output``.

    Raises:
        UserError: what is wrong, one line for each mistake: the file or option, the key, the
            value and what is allowed.
    """
    field = kind.model_fields.get("job")
    jobs = () if field is None else get_args(field.annotation)
    file = read_spec_file(source, overrides, output)
    job = file.document.get("job")
    if jobs and isinstance(job, str) and job not in jobs:
        where = file.source_of(("job",))
        raise UserError(f"{where}: job is {job}; this command takes {', '.join(jobs)} only")
    return _validated(file, kind, dict.fromkeys(jobs, kind))


def load_spec_of_any_job(
    kinds: Mapping[str, type[Spec]],
    source: str,
    overrides: Sequence[str] = (),
    output: str | None = None,
) -> Spec:
    """The validated spec of the job that a file names; see ``load_spec``."""
    file = read_spec_file(source, overrides, output)
    return _validated(file, kinds[file.job(kinds)], kinds)


def _validated(file: SpecFile, kind: type[Spec], kinds: Mapping[str, type[Spec]]) -> Spec:
    try:
        return kind.model_validate(file.document)
    except ValidationError as error:
        raise spec_error(error, kind, file, kinds) from None
