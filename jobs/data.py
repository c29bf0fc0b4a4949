"""Getting StereoSet's development set, and making sure that it is that."""

from __future__ import annotations

import http.client
import tempfile
import urllib.error
import urllib.request
from pathlib import Path

import platformdirs

from jobs.resources import local_path
from steering_core.stereoset import OFFICIAL_COUNTS, read_stereoset
from steersweep.errors import UserError

OFFICIAL_URL = "https://raw.githubusercontent.com/moinnadeem/StereoSet/master/data/dev.json"
OFFICIAL = "stereoset"
"""What ``data.path`` calls the official development set."""
_MOST_BYTES = 64 * 2**20
_TIMEOUT_S = 30.0


def fetch_stereoset(source: str | None = None, to: str | None = None) -> Path:
    """Path of a checked copy of the development set.

    Args:
        source: URL or file to take it from; the official address where left out, and then a copy
            in the cache is used as it is.
        to: where to keep it; the user's cache folder where left out.

    Raises:
        UserError: it cannot be had, or is not the official development set by its counts
            (2,123 and 2,106 examples); nothing is left at ``to`` then.
    """
    target = (
        Path(to).expanduser() if to else platformdirs.user_cache_path("steersweep") / "dev.json"
    )
    if source is None and target.is_file():
        check_official(target)
        return target
    data = _read(source or OFFICIAL_URL)
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        # A folder beside the target: the rename at the end is atomic, and a failure leaves nothing.
        with tempfile.TemporaryDirectory(dir=target.parent) as folder:
            copy = Path(folder) / "dev.json"
            copy.write_bytes(data)
            check_official(copy, shown_as=source or OFFICIAL_URL)
            copy.replace(target)
    except OSError as error:
        raise UserError(f"{target} cannot be written: {error.strerror}") from error
    return target


def stereoset_file(path: str) -> str | Path:
    """The file that a sweep's ``data.path`` means: ``stereoset`` is the official development set,
    which is fetched into the cache.

    Raises:
        UserError: it cannot be had.
    """
    return fetch_stereoset() if path == OFFICIAL else local_path(path)


def check_official(path: Path, shown_as: str | None = None) -> None:
    """Raise UserError unless the file has the official development set's counts."""
    try:
        counts = read_stereoset(path).counts()
    except UserError as error:
        raise UserError(str(error).replace(str(path), shown_as or str(path))) from None
    for split, wanted in OFFICIAL_COUNTS.items():
        found = counts.get(split, {})
        if found != wanted:
            raise UserError(
                f"{shown_as or path} is not StereoSet's development set: {split} has {found}, but "
                f"the official file has {dict(wanted)}; give another mirror with --from"
            )


def _read(source: str) -> bytes:
    if not source.startswith(("http://", "https://")):
        try:
            return Path(source).expanduser().read_bytes()
        except OSError as error:
            raise UserError(f"{source} cannot be read: {error.strerror}") from error
    try:
        with urllib.request.urlopen(source, timeout=_TIMEOUT_S) as response:  # noqa: S310 - http(s) only
            data: bytes = response.read(_MOST_BYTES + 1)
    except (urllib.error.URLError, http.client.HTTPException, OSError, ValueError) as error:
        reason = getattr(error, "reason", None) or str(error) or type(error).__name__
        reason = " ".join(str(reason).split())
        raise UserError(
            f"{source} cannot be downloaded: {reason}; download the file another way "
            "and use `steersweep data fetch --from FILE`"
        ) from error
    if len(data) > _MOST_BYTES:
        raise UserError(
            f"{source} is larger than {_MOST_BYTES:,} bytes, so it is not StereoSet's dev.json"
        )
    return data
