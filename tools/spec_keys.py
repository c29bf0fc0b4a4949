"""The keys of sweep files as tables, from the JSON Schema that ``steersweep schema`` prints."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

from jobs.sweeps.registry import spec_type

Schema = dict[str, Any]

_COLUMNS = ("key", "value", "default", "role", "meaning")


def keys_of_job(job: str) -> str:
    """Markdown with a table of the file's own keys, and one for each group of keys in it."""
    schema = spec_type(job).model_json_schema()
    return "\n\n".join(_sections("", schema, schema["$defs"]))


def _sections(path: str, schema: Schema, models: dict[str, Schema]) -> Iterator[str]:
    """The section of a group of keys, and then those of the groups inside it."""
    rows = []
    below: list[tuple[str, Schema]] = []
    for name, value in schema.get("properties", {}).items():
        key = f"{path}.{name}" if path else name
        groups = list(_groups(key, value, models))
        below += groups
        required = name in schema.get("required", ())
        rows.append(_row(name, value, groups, required))
    for title, group in _groups_by_name(path, schema, models):
        meaning = _sentence(_plain(group))
        rows.append((f"`{title.removeprefix(f'{path}.')}`", _link(title), "", "", meaning))
        below.append((title, group))
    heading = f"`{path}`" if path else "The file"
    yield f"## {heading} {{ #{_anchor(path)} }}"
    yield _sentence(_plain(schema))
    yield _table(rows)
    for title, group in below:
        yield from _sections(title, group, models)


def _row(
    name: str, value: Schema, groups: list[tuple[str, Schema]], required: bool
) -> tuple[str, ...]:
    default = "" if groups or "default" not in value else _shown(value["default"])
    kinds = [_link(title) for title, _ in groups] or [_kind(value)]
    meaning = _plain(value) or (_plain(groups[0][1]) if len(groups) == 1 else "")
    return (
        f"`{name}`",
        ", ".join(kinds),
        "required" if required else default,
        value.get("role", ""),
        _sentence(meaning),
    )


def _groups(key: str, value: Schema, models: dict[str, Schema]) -> Iterator[tuple[str, Schema]]:
    """Groups of keys that a key can hold: one, one by name, or one of several kinds."""
    options = value.get("oneOf") or value.get("anyOf") or [value]
    found = [_resolved(option, models) for option in options if "$ref" in option]
    for model in found:
        kind = model["properties"].get("kind", {}).get("const")
        yield (f"{key} ({kind})" if kind and len(found) > 1 else key), model
    yield from _groups_by_name(key, value, models)


def _groups_by_name(
    key: str, value: Schema, models: dict[str, Schema]
) -> Iterator[tuple[str, Schema]]:
    entries = value.get("additionalProperties")
    if isinstance(entries, dict):
        yield from _groups(f"{key}.<name>", entries, models)


def _resolved(option: Schema, models: dict[str, Schema]) -> Schema:
    return models[option["$ref"].removeprefix("#/$defs/")]


def _kind(value: Schema) -> str:
    """What a key can hold, in words."""
    if options := value.get("anyOf"):
        kinds = dict.fromkeys(_kind(option) for option in options if option.get("type") != "null")
        return ", ".join(kinds)
    if "const" in value:
        return _shown(value["const"])
    if "enum" in value:
        return ", ".join(_shown(name) for name in value["enum"])
    match value.get("type"):
        case "array":
            items = _kind(value["items"])
            return (
                f"list of {items}" if items.count(",") == 0 or "enum" in value["items"] else "list"
            )
        case "object":
            entries = value.get("additionalProperties")
            return f"{_kind(entries)} by name" if isinstance(entries, dict) else "keys and values"
        case "string":
            return "range" if value.get("pattern", "").startswith(r"^\s*\d+\s*-") else "text"
        case "boolean":
            return "`true`, `false`"
        case kind:
            return f"{kind}{_limits(value)}"


def _limits(value: Schema) -> str:
    low, high = value.get("minimum"), value.get("maximum")
    if low is not None and high is not None:
        return f" from {low:g} to {high:g}"
    if low is not None:
        return f" from {low:g}"
    return f" above {value['exclusiveMinimum']:g}" if "exclusiveMinimum" in value else ""


def _shown(value: Any) -> str:
    if value is None:
        return ""
    return f"`{value if isinstance(value, str) else json.dumps(value)}`"


def _plain(described: Schema) -> str:
    return " ".join(described.get("description", "").split())


def _sentence(text: str) -> str:
    return text if not text or text.endswith((".", "}", ":")) else f"{text}."


def _anchor(path: str) -> str:
    return "".join(c if c.isalnum() or c == "_" else "-" for c in path).strip("-") or "the-file"


def _link(title: str) -> str:
    return f"[`{title}`](#{_anchor(title)})"


def _table(rows: list[tuple[str, ...]]) -> str:
    lines = [_COLUMNS, ("---",) * len(_COLUMNS), *rows]
    return "\n".join(
        "| " + " | ".join(cell.replace("|", "&#124;") for cell in row) + " |" for row in lines
    )
