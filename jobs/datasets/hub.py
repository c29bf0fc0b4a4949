"""Records of a data set on the Hugging Face hub, through the optional package ``datasets``."""

from __future__ import annotations

from typing import Any

from steersweep.errors import UserError

HUB = "hf:"
"""What a path on the hub begins with: ``hf:owner/name``."""


def read_hub_records(
    path: str, config: str | None = None, split: str | None = None, revision: str | None = None
) -> list[dict[str, Any]]:
    """Rows of one split. Columns of classes hold their names instead of numbers.

    Args:
        path: ``hf:owner/name``.
        split: may be left out if there is only one.

    Raises:
        UserError: the package is not installed, or the data set, its config or its split cannot be
            had.
    """
    try:
        from datasets import load_dataset  # type: ignore[import-untyped, unused-ignore]
    except ImportError:
        raise UserError(
            f"{path}: needs the package datasets; install it with: pip install datasets"
        ) from None
    name = path.removeprefix(HUB)
    if not name.strip("/"):
        raise UserError(f"{path}: expected {HUB}owner/name")
    try:
        loaded: Any = load_dataset(name, config, split=split, revision=revision)
    except Exception as error:  # what goes wrong there has no common class
        reason = " ".join(str(error).split())[:300] or type(error).__name__
        raise UserError(f"{path}: cannot be loaded: {reason}") from error
    return _rows(_one_split(loaded, path))


def _one_split(loaded: Any, path: str) -> Any:
    if not isinstance(loaded, dict):
        return loaded
    if len(loaded) != 1:
        raise UserError(f"{path}: has the splits {', '.join(map(str, loaded))}; choose one")
    return next(iter(loaded.values()))


def _rows(table: Any) -> list[dict[str, Any]]:
    names = {
        column: feature.names
        for column, feature in table.features.items()
        if hasattr(feature, "int2str")
    }
    return [{key: _named(value, names.get(key)) for key, value in row.items()} for row in table]


def _named(value: Any, names: list[str] | None) -> Any:
    # -1 and None stand for a class that is not known.
    is_class = names is not None and isinstance(value, int) and 0 <= value < len(names)
    return names[value] if is_class and names is not None else value
