"""Whether an output belongs to a sweep; if not, what changed and why that cannot change."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from cluster.checked import CHECKED_KEY
from cluster.ledger import RECORD_KEY
from cluster.storage import Storage
from jobs.examples_file import EXAMPLES_KEY
from jobs.identity import changed_keys, float_text
from jobs.sweeps.session import LOCK_KEY
from steersweep.errors import UserError

if TYPE_CHECKING:
    from jobs.sweeps.job import AnyJob, StoredOutput, Sweep

_REASONS = (
    (r"job", "it decides what is computed"),
    (r"data( \(content\)|\.limit)", "it decides which examples are scored and fitted on"),
    (r"data\.seed", "it decides which examples are drawn and which fold each is in"),
    (r"vectors\..*", "it decides the steering vectors, and so every steered row"),
    (r"steering\.(apply|positions|operation|unit)", "it decides what steering does to every row"),
    (r"steering\.(rollouts|questions)", "it decides which answers a cell consists of"),
    (r"scoring", "it decides what a score is, so every number would change"),
    (r"measures", "it decides which columns every steered row has"),
    (r"contrast\..*", "it decides which answers the vectors are made of"),
    (r"filter\..*", "it decides which answers the vectors are made of"),
    (r"generation\..*", "it decides the text of every answer"),
    (r"judge\..*", "it decides every score"),
    (r"traits\..* \(content\)", "the trait's instructions, questions and scores depend on it"),
    (r"models\..* \(weights\)", "these are other weights: every number of the model would change"),
    (r"models\..* \(tokenizer\)", "it decides the tokens of every text"),
    (r"models\..* \(chat_template\)", "it decides the tokens of every prompt"),
    (r"models\..* \(prompts of .*\)", "these are the prompts that were answered"),
    (r"models\..* \(eos_ids\)", "it decides where every answer ends"),
    (r"models\..*(\.dtype| \(dtype\))", "every number of the model depends on its precision"),
    (r"models\..*", "every number of the model depends on it"),
    (r"side_effects\..*", "it decides which rows of that data set are scored, and how"),
    (r"prompts\..*", "every row under this prompt would change"),
    (r"ids", "another version of steersweep names its rows differently"),
)
"""By a pattern of whole keys of an identity, the first that fits: why the key cannot change."""


def changes_of(
    before: Mapping[str, Any],
    after: Mapping[str, Any],
    reasons: Mapping[str, str] | None = None,
) -> list[str]:
    """Lines ``key: old -> new (reason)`` for what both identities hold and differs.

    A model or a trait that only one of them has brings keys of its own; that is growth.

    Args:
        reasons: why a key cannot change, by key; for keys that only one job has.
    """
    common = {key: before[key] for key in before if key in after}
    changes = changed_keys(common, {key: after[key] for key in common})
    keys = sorted(key for key in common if before[key] != after[key])
    known = reasons or {}
    return [
        f"{change} ({known.get(key) or _reason(key)})"
        for key, change in zip(keys, changes, strict=True)
    ]


def removals_of(
    held: Mapping[str, Iterable[Any]], wanted: Mapping[str, Iterable[Any]]
) -> list[str]:
    """Lines for values of the grid that an output holds and the spec no longer has.

    Args:
        held, wanted: values by the spec's key.
    """
    missing = {key: sorted(set(held[key]) - set(wanted[key])) for key in wanted}
    return [
        f"{key}: {', '.join(map(_spelled, values))} is gone (its rows are stored, and a grid may "
        "only grow)"
        for key, values in missing.items()
        if values
    ]


def different_sweep(uri: str, changes: Sequence[str], may_grow: str) -> UserError:
    """The error for an output of another sweep: one line, or a line for each of several changes.

    Args:
        uri: the output.
        changes: at least one, in words.
        may_grow: what of the spec may grow, in words.
    """
    advice = (
        f"Only {may_grow} may be added: put the spec back, name another output, or use --new to "
        "write to a new one"
    )
    what = f"{uri} belongs to a different sweep"
    if len(changes) == 1:
        return UserError(f"{what}; changed: {changes[0]}. {advice}")
    return UserError(f"{what}; {len(changes)} changes:", *(f"  {c}" for c in changes), advice)


def check_same_sweep(job: AnyJob, sweep: Sweep, output: StoredOutput) -> None:
    """Refuse an output of another sweep, or of a larger grid; a grid may only grow.

    Raises:
        UserError: what changed, or the folder holds files that no run has left.
    """
    storage = output.storage
    if output.record is None and next(iter(storage.list(job.marker)), None) is None:
        _check_unused(job, storage)
    if changes := job.changes(sweep, output):
        words = [growth.words for growth in job.grows.values()]
        may_grow = f"{', '.join(words[:-1])} and {words[-1]}" if len(words) > 1 else words[0]
        raise different_sweep(storage.uri, changes, may_grow)


def _check_unused(job: AnyJob, storage: Storage) -> None:
    """Refuse a folder that holds files which no run has left."""
    for entry in storage.list():
        if not entry.key.startswith((*_OF_ANY_JOB, *job.owns)):
            raise UserError(
                f"{storage.uri} is not empty but holds no run (it contains {entry.key}); "
                "choose a new or empty output"
            )


_OF_ANY_JOB = (
    RECORD_KEY,
    EXAMPLES_KEY,
    CHECKED_KEY,
    LOCK_KEY,
    "summary/",
    "log/",
    "figures/",
    "report.html",
    "certificate.json",
)
"""What a run of any job may have left if ``run.json`` is lost: parts are found by what they were
made of."""


def _reason(key: str) -> str:
    return next(
        (why for pattern, why in _REASONS if re.fullmatch(pattern, key)), "numbers depend on it"
    )


def _spelled(value: Any) -> str:
    return float_text(value) if isinstance(value, float) else str(value)
