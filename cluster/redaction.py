"""Keeps secrets out of what is written down or shown.

Every way out goes through `redact`: logs kept beside the results, ``run.json``, and the console.
What the environment holds under a telling name is known by its value; the rest by its form.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from functools import lru_cache
from typing import Any

HIDDEN = "***"
_SHORTEST_VALUE = 8  # shorter values are words that stand in a text for other reasons

_SECRET_VARIABLE = re.compile(
    r"(?:^|_)(?:SECRET|SECRETS|TOKEN|PASSWORD|PASSWD|CREDENTIALS?|API_?KEY|ACCESS_KEY(?:_ID)?"
    r"|PRIVATE_KEY)(?:_|$)",
    re.IGNORECASE,
)
_NAMES = (
    r"X-Amz-Signature|X-Amz-Credential|X-Amz-Security-Token|AWSAccessKeyId|Signature|sig"
    r"|(?:aws_)?secret(?:_access)?_key|aws_access_key_id|(?:aws_)?session_token"
    r"|(?:access|auth|hf|refresh)[_-]?token|token|api[_-]?key|client_secret|secret|passw(?:or)?d"
)
_PATTERNS = (
    # user:password@ of an address; the scheme and the host stay.
    (re.compile(r"(?<=://)[^\s/@'\"]+@"), f"{HIDDEN}@"),
    (re.compile(r"\b(?:AKIA|ASIA)[A-Z0-9]{12,}\b"), HIDDEN),
    (re.compile(r"\b(?:hf_|gh[pousr]_|github_pat_|sk-|xox[abp]-)[A-Za-z0-9_-]{16,}"), HIDDEN),
    (re.compile(r"\b(?:Bearer|Basic)\s+[A-Za-z0-9._~+/=-]{8,}", re.IGNORECASE), HIDDEN),
    (re.compile(r"\beyJ[A-Za-z0-9_-]{8,}\.[A-Za-z0-9_-]+\.[A-Za-z0-9_-]*"), HIDDEN),
    # name=value and "name": "value"
    (
        re.compile(rf"(?<![\w-])((?:{_NAMES})['\"]?\s*[=:]\s*['\"]?)[^\s'\"&,;}}]{{4,}}", re.I),
        rf"\g<1>{HIDDEN}",
    ),
)


@lru_cache(maxsize=1024)
def is_secret_name(name: str) -> bool:
    """Whether a variable of that name is there to hold a secret."""
    return _SECRET_VARIABLE.search(name) is not None


def redact(text: str) -> str:
    """The text with every secret in it replaced by ``***``."""
    for value in _secret_values():
        text = text.replace(value, HIDDEN)
    for pattern, replacement in _PATTERNS:
        text = pattern.sub(replacement, text)
    return text


def redact_all(value: Any) -> Any:
    """Plain data of mappings, lists and scalars, with every text in it redacted."""
    if isinstance(value, str):
        return redact(value)
    if isinstance(value, Mapping):
        return {redact_all(key): redact_all(entry) for key, entry in value.items()}
    if isinstance(value, list | tuple):
        return [redact_all(entry) for entry in value]
    return value


def _secret_values() -> list[str]:
    """Values of the environment's secrets, longest first: one may hold another."""
    # Asked for each line of a log: only names are looked at, but for those few.
    found = {os.environ.get(name, "") for name in os.environ if is_secret_name(name)}
    return sorted((v for v in found if len(v) >= _SHORTEST_VALUE), key=len, reverse=True)
