"""A sweep file as plain data: its YAML, and the options that change it."""

from __future__ import annotations

import difflib
import shlex
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from cluster.redaction import HIDDEN
from jobs.resources import SPEC_SETS, embedded_specs
from jobs.yaml_text import MAX_BYTES, load_yaml, yaml_error_lines
from steersweep.errors import UserError

Place = tuple[Any, ...]
"""The keys and list positions that lead to a value."""

_LONGEST_OPTION = 80


@dataclass(frozen=True)
class SpecFile:
    """What a sweep file holds after the options have been applied.

    Attributes:
        path: the file itself.
        document: the merged content, not validated.
        options: for each option the place of what it added, and the option as the user would type
            it. If it made a section that the file lacks, that section is its place.
    """

    path: Path
    document: dict[str, Any]
    options: tuple[tuple[Place, str], ...] = ()

    def source_of(self, place: Place, *, is_secret: bool = False) -> str:
        """The option that gave the value at a place, else the file's name.

        With ``is_secret``, the option is named without its value.
        """
        # The last option wins, and one for a whole section also gave every key below it.
        for given, option in reversed(self.options):
            if place[: len(given)] == given:
                return f"{option.partition('=')[0]}={HIDDEN}" if is_secret else option
        return str(self.path)

    def is_from_option(self, place: Place) -> bool:
        """Whether an option gave the value at a place."""
        return any(place[: len(given)] == given for given, _ in self.options)

    def job(self, names: Collection[str]) -> str:
        """The ``job`` that the file names; UserError if it is none of ``names``."""
        job, known = self.document.get("job"), f"one of {', '.join(names)}"
        if isinstance(job, str) and job in names:
            return job
        source = self.source_of(("job",))
        if job is None:
            raise UserError(f"{source}: job is required; it must be {known}")
        close = difflib.get_close_matches(str(job), names, n=1, cutoff=0.5)
        hint = f"; did you mean {close[0]}?" if close else ""
        raise UserError(f"{source}: job must be {known}, got {repr(job)[:60]}{hint}")


def read_spec_file(source: str, overrides: Sequence[str], output: str | None) -> SpecFile:
    """The content of a sweep file with ``--set`` and ``--output`` applied; see ``load_spec``.

    Raises:
        UserError: no such file, not YAML, or an option that cannot be applied.
    """
    path = _find(source)
    document = _parse(path)
    options = [(_set(document, override), _shown(override)) for override in overrides]
    if output is not None:
        document["output"] = output
        options.append((("output",), f"--output {shlex.quote(output)[:_LONGEST_OPTION]}"))
    return SpecFile(path, document, tuple(options))


def _find(source: str) -> Path:
    path = Path(source).expanduser()
    if path.is_file():
        return path
    specs = embedded_specs()
    if source in specs:
        return specs[source]
    if source in SPEC_SETS:
        raise UserError(f"{source} is several sweeps; name one: {', '.join(SPEC_SETS[source])}")
    if path.is_dir():
        raise UserError(f"{source} is a folder; give the sweep's YAML file")
    names = ", ".join([*SPEC_SETS, *specs])
    raise UserError(f"{source}: no such file, and no packaged sweep has that name ({names})")


def _parse(path: Path) -> dict[str, Any]:
    try:
        with path.open("rb") as file:
            text = file.read(MAX_BYTES + 1).decode()
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: cannot be read as UTF-8 text: {error}") from None
    try:
        document = load_yaml(text)
    except yaml.YAMLError as error:
        problem, *snippet = yaml_error_lines(error, text)
        raise UserError(f"{path}: {problem}", *snippet) from None
    except UserError as error:
        raise UserError(f"{path}: {error}") from None
    if not isinstance(document, dict):
        kind = "nothing" if document is None else f"a {type(document).__name__}"
        raise UserError(f"{path}: must hold a mapping of keys to values, but holds {kind}")
    _expand_models(document)
    return document


def _expand_models(document: dict[str, Any]) -> None:
    """Spell out models that are a path alone, so that ``--set`` can add keys to them."""
    models = document.get("models")
    if isinstance(models, dict):
        paths = {name: value for name, value in models.items() if isinstance(value, str)}
        models |= {name: {"path": path} for name, path in paths.items()}


def _set(document: dict[str, Any], override: str) -> Place:
    """Apply ``key.path=value`` to the document; returns the place of what is new."""
    key, equals, text = override.partition("=")
    option = _shown(override)
    if not equals or not key.strip():
        raise UserError(f"{option}: must look like key.path=value")
    try:
        value = load_yaml(text)
    except yaml.YAMLError as error:
        problem, *_ = yaml_error_lines(error, text)
        raise UserError(f"{option}: the value is {problem}") from None
    except UserError as error:
        raise UserError(f"{option}: {error}") from None
    node: Any = document
    parts = key.strip().split(".")
    place: list[str] = []
    new_section: Place | None = None
    while parts:
        # A model's name may hold dots: the longest key that is there wins.
        size = next((n for n in range(len(parts), 0, -1) if ".".join(parts[:n]) in node), 1)
        name, parts = ".".join(parts[:size]), parts[size:]
        place.append(name)
        if not parts:
            node[name] = value
        else:
            if name not in node and new_section is None:
                new_section = tuple(place)
            node = node.setdefault(name, {})
            if not isinstance(node, dict):
                raise UserError(
                    f"{option}: {'.'.join(place)} is {_kind(node)} and has no keys; "
                    "set it as a whole"
                )
    return new_section or tuple(place)


def _kind(value: Any) -> str:
    return "a list" if isinstance(value, list) else "a single value"


def _shown(override: str) -> str:
    """The option as it would be typed, without what may hold a secret."""
    key, equals, text = override.partition("=")
    # Secrets with a telling name are hidden when a message is shown; a mapping may hold any key.
    if equals and _holds_a_mapping(text):
        text = HIDDEN
    option = f"{key}{equals}{text}"
    short = option if len(option) <= _LONGEST_OPTION else f"{option[: _LONGEST_OPTION - 3]}..."
    # Where the value is hidden, quotes would only be noise.
    return f"--set {short if text == HIDDEN else shlex.quote(short)}"


def _holds_a_mapping(text: str) -> bool:
    try:
        value = load_yaml(text)
    except (yaml.YAMLError, ValueError):
        return "{" in text
    entries = value if isinstance(value, list) else [value]
    return any(isinstance(entry, Mapping) and entry for entry in entries)
