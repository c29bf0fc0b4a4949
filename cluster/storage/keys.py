"""Names inside a storage: which keys are valid, which names are temporary."""

import re

_ATTEMPT = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}")
_CONTROL = re.compile(r"[\x00-\x1f\x7f\\]")


def is_temporary(key: str) -> bool:
    """Return whether the last segment of `key` is `.<something>.tmp`."""
    name = key.rpartition("/")[2]
    return name.startswith(".") and name.endswith(".tmp")


def check_key(key: str) -> str:
    """Return `key`; raise `ValueError` unless it is a relative posix path to a lasting object."""
    if is_temporary(key):
        raise ValueError(f"key must not have a temporary name (.*.tmp), got {key!r}")
    return _check_segments(key, key.split("/"))


def check_prefix(prefix: str) -> str:
    """Return `prefix`; raise `ValueError` unless a key can begin with it. It may end in '/'."""
    segments = prefix.split("/")
    return _check_segments(prefix, segments if segments[-1] else segments[:-1])


def check_attempt(attempt: str) -> str:
    """Return `attempt`; raise `ValueError` unless it fits a file name and an HTTP header."""
    if not _ATTEMPT.fullmatch(attempt):
        raise ValueError(f"attempt must match {_ATTEMPT.pattern}, got {attempt!r}")
    return attempt


def temporary_name(name: str, attempt: str) -> str:
    """Return the temporary name of `attempt` at writing `name`."""
    return f".{name}.{attempt}.tmp"


def _check_segments(whole: str, segments: list[str]) -> str:
    if any(segment in ("", ".", "..") for segment in segments) or _CONTROL.search(whole):
        raise ValueError(
            f"key must be a relative posix path without empty, '.' or '..' segments, got {whole!r}"
        )
    return whole
