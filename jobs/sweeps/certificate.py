"""A task's certificate, as the footer of its part keeps it."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

import pyarrow as pa

from jobs.spec import CertificateSpec
from steering_core.certificate import AnswerName, Certificate, Path, RowName, Tolerance, Worst
from steersweep.errors import StopRunError

logger = logging.getLogger(__name__)

FOOTER_KEY = "certificate"


@dataclass(frozen=True)
class TaskCertificate:
    """What a part's footer says of how its rows were checked.

    Attributes:
        found: the engine's rows against the reference.
        path: where the rows in the part come from; ``reference`` once the engine's failed.
    """

    found: Certificate
    path: Path
    dtype: str
    tolerance: Tolerance

    @property
    def is_broken(self) -> bool:
        """Whether rows are in storage that are known to be wrong."""
        return self.path == "engine" and not self.found.holds

    def attached_to(self, table: pa.Table) -> pa.Table:
        """The table with this in its schema's metadata, which a part keeps in its footer."""
        content = {**asdict(self), "found": _as_json(self.found)}
        text = json.dumps(content, separators=(",", ":"), allow_nan=False)
        return table.replace_schema_metadata({**(table.schema.metadata or {}), FOOTER_KEY: text})

    @classmethod
    def from_footer(cls, metadata: Mapping[str, str]) -> TaskCertificate | None:
        """The certificate in a footer's metadata, or None where the task was not checked."""
        if FOOTER_KEY not in metadata:
            return None
        content = json.loads(metadata[FOOTER_KEY])
        found, worst = content["found"], content["found"]["worst"]
        if worst is not None:
            found["worst"] = Worst(**{**worst, "row": _name_of(worst["row"])})
        return cls(
            found=Certificate(**found),
            path=content["path"],
            dtype=content["dtype"],
            tolerance=Tolerance(**content["tolerance"]),
        )


def judged(
    found: Certificate, spec: CertificateSpec, dtype: str, tolerance: Tolerance, model: str
) -> TaskCertificate:
    """What becomes of a task whose rows were checked: kept, or to be computed on the slow path.

    Args:
        model: its name, for messages.

    Raises:
        StopRunError: past the tolerance, if the spec says stop.
    """
    falls_back = not found.holds and spec.on_failure == "fall_back"
    if not found.holds:
        line = f"{model}: the fast path is inaccurate here: {found.worst}"
        if spec.on_failure == "stop":
            raise StopRunError(
                f"{line}; set `certificate.on_failure: fall_back` to have such tasks computed "
                "on the slow path, or a `certificate.tolerance` that fits this model"
            )
        logger.warning("%s (on_failure: %s)", line, spec.on_failure)
    return TaskCertificate(found, "reference" if falls_back else "engine", dtype, tolerance)


def _as_json(found: Certificate) -> dict[str, Any]:
    # Seven digits are more than a difference has.
    pooled, kl = found.largest_pooled_difference, found.largest_kl_difference
    worst = found.worst
    if worst is not None and worst.difference is not None:
        worst = replace(worst, difference=_rounded(worst.difference))
    rounded = replace(
        found,
        largest_difference=_rounded(found.largest_difference),
        largest_pooled_difference=None if pooled is None else _rounded(pooled),
        largest_kl_difference=None if kl is None else _rounded(kl),
        worst=worst,
    )
    content = asdict(rounded)
    if worst is not None:
        content["worst"]["row"] = plain_name(worst.row)
    if kl is None:  # earlier versions, which do not know the key, read the footers of most sweeps
        del content["largest_kl_difference"]
    return content


def plain_name(row: RowName | AnswerName) -> dict[str, Any]:
    """The name of a row as plain data, with a key for each pair of its place."""
    plain = asdict(row)
    place = plain.pop("place", ())
    if not place:
        return plain
    return {"example_id": plain.pop("example_id"), **dict(place), **plain}


def _name_of(plain: dict[str, Any]) -> RowName | AnswerName:
    """The inverse of ``plain_name``."""
    if "row_id" in plain:
        return AnswerName(**plain)
    rest = {key: plain[key] for key in ("example_id", "layer", "coeff")}
    place = tuple((key, value) for key, value in plain.items() if key not in rest)
    return RowName(place=place, **rest)


def _rounded(value: float) -> float:
    return float(f"{value:.7g}")
