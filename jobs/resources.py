"""Files that travel inside the package: example specs, and the demo's model and data."""

from __future__ import annotations

from pathlib import Path

from steering_core.errors import InputError

_PACKAGE = Path(__file__).parent
EMBEDDED = "embedded:"


def local_path(text: str) -> str:
    """The path a spec names; ``embedded:<name>`` is a file or folder inside the package.

    A leading ``~`` is expanded; a hub id comes back as it is.

    Raises:
        InputError: no such embedded name; the message lists those there are.
    """
    if not text.startswith(EMBEDDED):
        return str(Path(text).expanduser()) if text.startswith("~") else text
    folder = _PACKAGE / "demo"
    names = sorted(entry.name for entry in folder.iterdir())
    name = text.removeprefix(EMBEDDED)
    if name not in names:
        raise InputError(f"{text}: nothing embedded has that name; there are {', '.join(names)}")
    return str(folder / name)


def embedded_specs() -> dict[str, Path]:
    """Example specs by name."""
    return {path.stem: path for path in sorted((_PACKAGE / "specs").glob("*.yaml"))}
