"""YAML is bounded before it is built."""

from __future__ import annotations

import time

import pytest
import yaml

from jobs.yaml_text import MAX_BYTES, MAX_DEPTH, MAX_NODES, load_yaml
from steersweep.errors import UserError

LAUGHS = "a: &a [x,x,x,x,x,x,x,x,x,x]\n" + "".join(
    f"{name}: &{name} [{','.join(['*' + before] * 10)}]\n"
    for before, name in zip("abcdef", "bcdefg", strict=True)
)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("a: " + "x" * MAX_BYTES, "larger than"),
        ("[" * 100_000, f"more than {MAX_DEPTH} levels deep"),
        ("a: " + "[" * MAX_DEPTH + "]" * MAX_DEPTH, f"more than {MAX_DEPTH} levels deep"),
        (
            "a: &a [[[[[[[[[[1]]]]]]]]]]\nb: [[[[[[[[[[[*a]]]]]]]]]]]",
            f"more than {MAX_DEPTH} levels deep",
        ),
        ("- a\n" * (MAX_NODES + 1), f"more than {MAX_NODES:,} values"),
        (LAUGHS, f"more than {MAX_NODES:,} values"),
        ("a: &a [*a]", "contains itself"),
        ("a: 1\na: 2", "the key 'a' is given twice"),
    ],
    ids=lambda text: text[:12],
)
def test_what_is_too_much_is_refused_in_a_moment(text: str, says: str) -> None:
    start = time.monotonic()
    with pytest.raises(UserError, match=says):
        load_yaml(text)
    assert time.monotonic() - start < 5.0


@pytest.mark.parametrize(
    "text", ["a: *x", "!!python/object/apply:os.system [ls]", "a: 1\n---\nb: 2", "? {a: 1}\n: 2"]
)
def test_what_is_not_safe_yaml_is_refused(text: str) -> None:
    with pytest.raises(yaml.YAMLError):
        load_yaml(text)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("a: &a {x: 1}\nb: {<<: *a, y: 2}\nc: *a", {"a": {"x": 1}, "b": {"x": 1, "y": 2}}),
        ("[" * (MAX_DEPTH - 1) + "]" * (MAX_DEPTH - 1), None),
        ("[" + "1," * (MAX_NODES - 2) + "]", [1] * (MAX_NODES - 2)),
        ("", None),
        ("a:\r\n- 1\r\n", {"a": [1]}),
    ],
    ids=["anchors", "deep", "long", "empty", "CRLF"],
)
def test_what_a_person_writes_is_read(text: str, value: object) -> None:
    found = load_yaml(text)
    if isinstance(value, dict) and "b" in value:
        assert found.pop("c") == value["a"]
    if value is not None:
        assert found == value
