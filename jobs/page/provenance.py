"""What ``run.json`` says of a run that is the same for all jobs."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import yaml

_DIGEST_SHOWN = 16


@dataclass(frozen=True)
class Ran:
    """What was run, as terms and texts; empty if ``run.json`` is lost.

    Attributes:
        models: name, path, revision, dtype and digests of each.
        terms: (term, text) pairs.
        versions: of the packages in the last session.
        spec: the resolved spec as YAML.
    """

    models: tuple[Mapping[str, str], ...] = ()
    terms: tuple[tuple[str, str], ...] = ()
    versions: Mapping[str, str] | None = None
    spec: str = ""


def ran_of(
    record: Mapping[str, Any],
    terms: Iterable[tuple[str, str]],
    made: datetime,
    *,
    is_complete: bool,
    spec: str | None = None,
) -> Ran:
    """What ``run.json`` says of a run, after the job's own terms.

    Args:
        record: what ``run.json`` holds; not empty.
        made: when the page was made, which is the end of a complete run whose end is unknown.
        spec: the resolved spec as YAML; None: as ``run.json`` holds it.
    """
    return Ran(
        models_of(record),
        (*terms, *when(record, made, is_complete=is_complete)),
        versions_of(record),
        yaml.safe_dump(record["spec"], sort_keys=False, allow_unicode=True)
        if spec is None
        else spec,
    )


def models_of(record: Mapping[str, Any]) -> tuple[Mapping[str, str], ...]:
    """Name, path, revision, dtype, weights and tokenizer of each model; a job may have none."""
    identity = record["identity"]
    return tuple(
        {
            "name": name,
            "path": model["path"],
            "revision": model["revision"] or "not pinned",
            "dtype": identity.get(f"models.{name}.dtype", model["dtype"]),
            "weights": identity.get(f"models.{name} (weights)", "unknown"),
            "tokenizer": identity.get(f"models.{name} (tokenizer)", "unknown"),
        }
        for name, model in record["spec"].get("models", {}).items()
    )


def when(record: Mapping[str, Any], made: datetime, *, is_complete: bool) -> list[tuple[str, str]]:
    """When the run was made, and on which machines and devices."""
    sessions: Sequence[Mapping[str, Any]] = record["sessions"]
    ended = sessions[-1].get("ended") or (
        made.isoformat(timespec="seconds") if is_complete else None
    )
    times = f"{_readable(record['started'])} to {_readable(ended) if ended else 'now'} UTC"
    if len(sessions) > 1:
        times += f", in {len(sessions):,} sessions"
    machines = dict.fromkeys(f"{session['host']} ({session['device']})" for session in sessions)
    return [("When", times), ("Machine (device)", ", ".join(machines))]


def versions_of(record: Mapping[str, Any]) -> Mapping[str, str]:
    """Versions of the packages in the last session."""
    versions: Mapping[str, str] = (record.get("sessions") or [{}])[-1].get("versions", {})
    return versions


def short(digest: str) -> str:
    """The first digits of a digest, enough to tell two apart."""
    return digest[:_DIGEST_SHOWN]


def _readable(time: str) -> str:
    return time[:19].replace("T", " ")
