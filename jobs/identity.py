"""Digests of what decides a result, and the comparison of two such descriptions."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from decimal import Decimal
from typing import Any

IDENTITY_VERSION = 1
"""Raised when the meaning of a digest changes: parts of an older version are then never reused."""


CODE_KEY = " (code)"
"""How the key of a model's own code ends in an identity; only models that bring code have it."""


_MOST_SHOWN = 200
"""Characters of a value in a message."""


def digest(description: Mapping[str, Any]) -> str:
    """SHA-256 (hex) of a description in canonical JSON; equal content gives equal digests.

    Numbers are canonical: -0.0 is 0.0, and NaN or infinity is a ValueError.
    """
    content = {"identity_version": IDENTITY_VERSION, **description}
    text = json.dumps(_canonical(content), sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()


def decimal_text(value: Decimal) -> str:
    """One spelling for each number: 400, 4E2 and 400.0 are all ``400``; -0 is ``0``."""
    if value == 0:
        return "0"
    return format(value.normalize(), "f")


def float_text(value: float) -> str:
    """The shortest decimal that reads as this float64 and no other, never in powers of ten.

    So two names made of it are equal exactly where the numbers are: 400.0 is ``400``, and
    1.0000001 and 1.0000002 differ.
    """
    return decimal_text(Decimal(repr(float(value))))


def changed_keys(before: Mapping[str, Any], after: Mapping[str, Any]) -> list[str]:
    """Lines ``key: old -> new`` for the keys of two flat descriptions that differ."""
    return [
        f"{key}: {_short(before.get(key))} -> {_short(after.get(key))}"
        for key in sorted({*before, *after})
        if before.get(key) != after.get(key)
    ]


def _short(value: Any) -> str:
    text = str(value)
    is_digest = len(text) == 64 and all(c in "0123456789abcdef" for c in text)
    if is_digest:
        return text[:12]
    if len(text) <= _MOST_SHOWN:
        return text
    # Two chat templates may begin alike: the digest tells them apart.
    sha = hashlib.sha256(text.encode()).hexdigest()
    return f"{len(text):,} characters with SHA-256 {sha[:12]}"


def _canonical(value: Any) -> Any:
    if isinstance(value, Decimal):
        if not value.is_finite():
            raise ValueError(f"a digest cannot hold {value}")
        return decimal_text(value)
    if isinstance(value, float):
        return 0.0 if value == 0 else value
    if isinstance(value, Mapping):
        return {str(key): _canonical(entry) for key, entry in value.items()}
    if isinstance(value, list | tuple):
        return [_canonical(entry) for entry in value]
    return value
