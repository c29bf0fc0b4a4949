"""Reading YAML that somebody else wrote: safe tags only, and bounded before it is built."""

from __future__ import annotations

import re
from collections.abc import Hashable
from typing import Any

import yaml

from steersweep.errors import UserError

MAX_BYTES = 2**20
MAX_DEPTH = 20
MAX_NODES = 20_000


def load_yaml(text: str) -> Any:
    """The document as plain data.

    Raises:
        UserError: too large, nested too deeply, a repeated key, or an alias that grows the
            document past the limit or contains itself.
        yaml.YAMLError: not YAML, or a date or number that cannot be one.
    """
    if len(text.encode(errors="replace")) > MAX_BYTES:
        raise UserError(f"larger than {MAX_BYTES:,} bytes, which no sweep file needs")
    _check_bounds(text)
    return yaml.load(text, _StrictLoader)  # noqa: S506 - a SafeLoader


def yaml_error_lines(error: yaml.YAMLError, text: str) -> tuple[str, ...]:
    """A YAML error in words, then the line of the text that it is about, with a caret.

    The first line starts with "not valid YAML"; the others may be missing. Characters that a
    terminal would obey are left to whoever prints them.
    """
    mark = _mark(error, text)
    if mark is None:
        return (f"not valid YAML: {_bounded(str(error))}",)
    if isinstance(error, yaml.MarkedYAMLError):
        problem = " ".join(str(error.problem or error.context).split())
        problem = re.sub("(got|found) '<stream end>'", "the file ends here", problem)
        start = error.context_mark
        if problem.startswith("but "):
            problem = f"{error.context}, {problem}"
        elif error.problem and error.context and start is not None and start.line < mark.line:
            problem += f" ({error.context} that starts at line {start.line + 1})"
    else:
        problem = f"the character {text[mark.index]!r} is not allowed"
    # A tab counts as one column in the mark, but is shown as several.
    snippet = mark.get_snippet(indent=4, max_length=76) or ""
    where = f"line {mark.line + 1}, column {mark.column + 1}"
    return (
        f"not valid YAML at {where}: {_bounded(problem)}",
        *snippet.replace("\t", " ").split("\n"),
    )


def _mark(error: yaml.YAMLError, text: str) -> yaml.Mark | None:
    index: Any = getattr(error, "position", None)
    if isinstance(error, yaml.MarkedYAMLError):
        mark = error.problem_mark or error.context_mark
        end = len(text.rstrip())
        if mark is None or mark.index <= end:
            return mark
        index = end  # the caret goes to the last line with a text, not to an empty one
    elif not isinstance(index, int) or index >= len(text):
        return None
    line_start = text.rfind("\n", 0, index) + 1
    # The mark's own search for the end of the line needs a zero at the end.
    return yaml.Mark("", index, text.count("\n", 0, index), index - line_start, text + "\0", index)


def _bounded(text: str) -> str:
    return text if len(text) <= 200 else f"{text[:197]}..."


class _Bounds:
    """Nodes and depth of the document as it would be built, with every alias written out."""

    def __init__(self) -> None:
        self._open: list[list[Any]] = [[None, 0, 0]]
        "Anchor, nodes and height of each collection under way; the document itself first."
        self._closed: dict[str, tuple[int, int]] = {}

    def leaf(self, anchor: str | None) -> None:
        self._add(1, 1)
        if anchor is not None:
            self._closed[anchor] = (1, 1)

    def alias(self, anchor: str) -> None:
        if any(anchor == entry[0] for entry in self._open):
            raise UserError(f"the alias *{anchor[:40]} contains itself")
        self._add(*self._closed.get(anchor, (1, 1)))

    def start(self, anchor: str | None) -> None:
        self._open.append([anchor, 1, 1])
        if len(self._open) > MAX_DEPTH:
            raise UserError(f"nested more than {MAX_DEPTH} levels deep, which no sweep file needs")

    def end(self) -> None:
        anchor, num_nodes, height = self._open.pop()
        self._add(num_nodes, height)
        if anchor is not None:
            self._closed[anchor] = (num_nodes, height)

    def _add(self, num_nodes: int, height: int) -> None:
        top = self._open[-1]
        top[1], top[2] = top[1] + num_nodes, max(top[2], height + 1)
        if sum(entry[1] for entry in self._open) > MAX_NODES:
            raise UserError(f"more than {MAX_NODES:,} values, which no sweep file needs")
        if len(self._open) - 1 + height > MAX_DEPTH:
            raise UserError(f"nested more than {MAX_DEPTH} levels deep, which no sweep file needs")


def _check_bounds(text: str) -> None:
    bounds = _Bounds()
    for event in yaml.parse(text, yaml.SafeLoader):
        match event:
            case yaml.AliasEvent():
                bounds.alias(str(event.anchor))
            case yaml.ScalarEvent():
                bounds.leaf(event.anchor)
            case yaml.CollectionStartEvent():
                bounds.start(event.anchor)
            case yaml.CollectionEndEvent():
                bounds.end()


class _StrictLoader(yaml.SafeLoader):
    """Safe YAML in which a repeated key is an error, and each error knows its place."""

    def construct_object(self, node: yaml.Node, deep: bool = False) -> Any:
        try:
            return super().construct_object(node, deep)
        except UserError:
            raise
        except ValueError as error:  # the 99th of a month, or a number of 5000 digits
            raise yaml.constructor.ConstructorError(
                None, None, str(error).partition(":")[0], node.start_mark
            ) from None

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        first_lines: dict[Hashable, int] = {}
        for key_node, _ in node.value:
            if key_node.tag == "tag:yaml.org,2002:merge":
                continue
            key = self.construct_object(key_node, deep=True)
            if not isinstance(key, Hashable):
                continue  # refused below
            line = key_node.start_mark.line + 1
            if key in first_lines:
                where = f"at line {first_lines[key]} and again at line {line}"
                raise UserError(f"the key {repr(key)[:60]} is given twice: {where}")
            first_lines[key] = line
        return super().construct_mapping(node, deep)
