"""Two runs next to each other: what each is called."""

from __future__ import annotations

from cluster.ledger import Ledger
from cluster.storage import Storage

_MOST_KEYS_NAMED = 3


def names_of(one: Storage, other: Storage) -> tuple[str, str]:
    """The keys in which two runs differ, as ``vectors.folds 1`` and ``vectors.folds 5``.

    Their places if they differ in nothing or in many keys.
    """
    before, after = (
        (Ledger(storage).read_record() or {}).get("identity", {}) for storage in (one, other)
    )
    keys = [key for key in sorted({*before, *after}) if before.get(key) != after.get(key)]
    if not 0 < len(keys) <= _MOST_KEYS_NAMED:
        return one.uri, other.uri
    mine, theirs = (
        ", ".join(f"{key} {str(of.get(key))[:20]}" for key in keys) for of in (before, after)
    )
    return mine, theirs
