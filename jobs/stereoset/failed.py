"""Tasks that failed for good, in words."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def words_of(entry: Mapping[str, Any]) -> str:
    """An entry of ``set_aside`` in ``run.json``; fits of vectors belong to no shard."""
    shard = "" if entry.get("shard") is None else f", shard {entry['shard']}"
    return f"{entry['group']}{shard} ({entry['table']}): {entry['reason']}"
