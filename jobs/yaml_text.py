"""Reading YAML that somebody else wrote: safe tags only, and bounded before it is built."""

from __future__ import annotations

from collections.abc import Hashable
from typing import Any

import yaml

from steering_core.errors import InputError

MAX_BYTES = 2**20
MAX_DEPTH = 20
MAX_NODES = 20_000


def load_yaml(text: str) -> Any:
    """The document as plain data.

    Raises:
        InputError: too large, nested too deeply, a key that stands twice, or an alias that grows
            the document past the limit or holds itself.
        yaml.YAMLError, ValueError: not YAML.
    """
    if len(text.encode(errors="replace")) > MAX_BYTES:
        raise InputError(f"larger than {MAX_BYTES} bytes, not a sweep file")
    _check_bounds(text)
    return yaml.load(text, _StrictLoader)  # noqa: S506 - a SafeLoader


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
            raise InputError(f"alias *{anchor} holds itself")
        self._add(*self._closed.get(anchor, (1, 1)))

    def start(self, anchor: str | None) -> None:
        self._open.append([anchor, 1, 1])
        if len(self._open) > MAX_DEPTH:
            raise InputError(f"nested more than {MAX_DEPTH} deep, not a sweep file")

    def end(self) -> None:
        anchor, num_nodes, height = self._open.pop()
        self._add(num_nodes, height)
        if anchor is not None:
            self._closed[anchor] = (num_nodes, height)

    def _add(self, num_nodes: int, height: int) -> None:
        top = self._open[-1]
        top[1], top[2] = top[1] + num_nodes, max(top[2], height + 1)
        if sum(entry[1] for entry in self._open) > MAX_NODES:
            raise InputError(f"more than {MAX_NODES} values, not a sweep file")
        if len(self._open) - 1 + height > MAX_DEPTH:
            raise InputError(f"nested more than {MAX_DEPTH} deep, not a sweep file")


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
    """Safe YAML in which a key that stands twice is an error."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        keys = [
            self.construct_object(key, deep=True)
            for key, _ in node.value
            if key.tag != "tag:yaml.org,2002:merge"
        ]
        seen = set()
        for key in keys:
            if not isinstance(key, Hashable):
                continue  # refused below
            if key in seen:
                line = node.start_mark.line + 1
                raise InputError(f"key {key!r} stands twice in the mapping at line {line}")
            seen.add(key)
        return super().construct_mapping(node, deep)
