"""``certificate.json``: what the certificates of all finished tasks come to."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

from cluster.storage import Storage
from jobs.console import say, warn
from jobs.sweeps.certificate import TaskCertificate, plain_name
from jobs.words import count
from steering_core.certificate import Certificate, Worst

CERTIFICATE_KEY = "certificate.json"
CERTIFICATE_VERSION = 1

Verdict = Literal["holds", "broken", "not checked"]


Footers = Mapping[str, Sequence[Mapping[str, str]]]
"""By model: the metadata of each finished task's last part."""


@dataclass(frozen=True)
class Checked:
    """What a job's certificates are about, in words.

    Attributes:
        item: ``row``, ``answer``.
        unit: of the largest difference: ``nats``.
        choice: what may come out otherwise: ``changed choice``.
        why_not: why nothing was checked, if nothing was.
    """

    item: str = "row"
    unit: str = " nats"
    choice: str = "changed choice"
    why_not: str = "certificate.rows_per_task is 0"


def write_certificate(
    storage: Storage,
    footers: Footers,
    words: Checked = Checked(),
    of_side_effects: Footers | None = None,
) -> dict[str, Any]:
    """Write ``certificate.json`` from the footers of the parts that are done, and say it.

    Args:
        of_side_effects: of rows of other data, if they are checked in another unit than ``words``
            says; they get a key of their own.

    Returns what it holds.
    """
    content = _content(footers)
    if of_side_effects:
        content["side_effects"] = _content(of_side_effects)["overall"]
    text = json.dumps(content, indent=2, ensure_ascii=False, allow_nan=False)
    storage.replace(CERTIFICATE_KEY, text.encode())
    _tell(content["overall"], storage.uri_of(CERTIFICATE_KEY), words)
    if of_side_effects:
        _tell(content["side_effects"], storage.uri_of(CERTIFICATE_KEY), Checked())
    return content


def tell_certificate(
    storage: Storage, footers: Footers, words: Checked = Checked()
) -> dict[str, Any]:
    """Say what the certificates of the finished parts amount to, and return it; write nothing."""
    overall: dict[str, Any] = _content(footers)["overall"]
    _tell(overall, storage.uri_of(CERTIFICATE_KEY), words)
    return overall


def _content(footers: Footers) -> dict[str, Any]:
    by_model = {
        model: [TaskCertificate.from_footer(footer) for footer in of_model]
        for model, of_model in footers.items()
    }
    everything = [task for tasks in by_model.values() for task in tasks]
    return {
        "certificate_version": CERTIFICATE_VERSION,
        "overall": _summary(everything),
        "models": {model: _summary(tasks) for model, tasks in sorted(by_model.items())},
    }


def verdict_of(tasks: Iterable[TaskCertificate]) -> Verdict:
    """``broken`` where a row in storage is known to be wrong."""
    checked = list(tasks)
    if any(task.is_broken for task in checked):
        return "broken"
    return "holds" if any(task.found.num_rows_checked for task in checked) else "not checked"


def _summary(tasks: list[TaskCertificate | None]) -> dict[str, Any]:
    checked = [task for task in tasks if task is not None]
    kept = Certificate.joined(task.found for task in checked if task.path == "engine")
    replaced = [task.found for task in checked if task.path == "reference"]
    whole = Certificate.joined(task.found for task in checked)
    return {
        "verdict": verdict_of(checked),
        "dtype": _common([task.dtype for task in checked]),
        "tolerance": _common([task.tolerance.score for task in checked]),
        "pooled_tolerance": _common([task.tolerance.pooled for task in checked]),
        "num_tasks": len(tasks),
        "num_tasks_checked": len(checked),
        "num_tasks_fell_back": len(replaced),
        "num_rows_checked": whole.num_rows_checked,
        "largest_difference": kept.largest_difference,
        "largest_difference_fell_back": Certificate.joined(replaced).largest_difference
        if replaced
        else None,
        "num_changed_choices": kept.num_changed_choices,
        "num_non_finite": whole.num_non_finite,
        "num_one_sided": whole.num_one_sided,
        "largest_pooled_difference": kept.largest_pooled_difference,
        "largest_kl_difference": kept.largest_kl_difference,
        "worst_row": None if whole.worst is None else _worst_row(whole.worst),
    }


def _common(values: list[Any]) -> Any:
    """The value that all have, or a list of the different ones; None of no values."""
    different = sorted(set(values))
    return different[0] if len(different) == 1 else different or None


def _worst_row(worst: Worst) -> dict[str, Any]:
    row = {**asdict(worst), **plain_name(worst.row)}
    del row["row"]
    return row


def _tell(overall: Mapping[str, Any], where: str, words: Checked) -> None:
    if overall["verdict"] == "not checked":
        say(f"certificate: not checked, since {words.why_not}")
        return
    line = (
        f"certificate: {overall['verdict']} ({count(overall['num_rows_checked'], words.item)} "
        "recomputed one by one, largest difference "
        f"{overall['largest_difference']:.2g}{words.unit}, "
        f"{count(overall['num_changed_choices'], words.choice)})"
    )
    if overall["num_non_finite"]:
        line += f"; {count(overall['num_non_finite'], 'value')} overflow on both paths"
    fell_back = overall["num_tasks_fell_back"]
    if fell_back:
        line += (
            f"; {fell_back:,} of {overall['num_tasks']:,} tasks exceeded the tolerance and were "
            "computed on the slow path"
        )
    if overall["verdict"] == "broken" or fell_back:
        warn(f"{line}; see {where}")
    else:
        say(line)
