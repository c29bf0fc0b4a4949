"""Whatever a sweep file or a data file holds: it is valid, or refused in clear, bounded lines."""

from __future__ import annotations

import copy
import json
import random
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml
from hypothesis import example, given, settings
from hypothesis import strategies as st

from jobs.resources import local_path
from jobs.spec import load_spec
from jobs.spec_mistakes import MOST_SHOWN
from jobs.stereoset.spec import StereoSetSpec
from steering_core.stereoset import LABELS, StereoSet, read_stereoset
from steersweep.errors import UserError

SPEC: dict[str, Any] = {
    "job": "stereoset",
    "models": {"base": {"path": "some/model", "revision": None, "dtype": "auto"}},
    "data": {"path": "dev.json", "splits": ["intersentence"], "bias_types": ["race"], "limit": 3},
    "protocol": "aligned",
    "vectors": {"pooling": "candidate", "folds": 2},
    "steering": {"layers": [1, 3], "coeffs": [400, -0.5], "apply": "resid_pre"},
    "compute": {"replicas": 2, "gpus_per_replica": 0.5, "device": "cpu"},
    "certificate": {"rows_per_task": 2, "tolerance": 0.1},
    "storage": {"endpoint_url": "http://127.0.0.1:9000"},
    "output": "runs/x",
}
EXAMPLES: dict[str, Any] = json.loads(Path(local_path("embedded:examples.json")).read_text())
EXAMPLES["data"] = {split: rows[:3] for split, rows in EXAMPLES["data"].items()}

SCALARS = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=20)
    | st.sampled_from(
        ["auto", "", " ", "../x", "s3://", "1e400", "\x85", "x\x1ey", "\ud800", *LABELS]
    )
)
VALUES = st.recursive(
    SCALARS,
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.text(max_size=8) | st.integers(), inner, max_size=3)
    ),
    max_leaves=6,
)
KEYS = st.text(max_size=10) | st.sampled_from(["path", "layers", "job", "data", "id", "target"])


def _places(node: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Paths of every value below a document."""
    if not isinstance(node, dict | list):
        return
    for key, value in node.items() if isinstance(node, dict) else enumerate(node):
        yield (*path, key)
        yield from _places(value, (*path, key))


@st.composite
def broken(draw: st.DrawFn, whole: dict[str, Any]) -> Any:
    """The document with one to three of its values replaced, removed, renamed or repeated."""
    document = copy.deepcopy(whole)
    for _ in range(draw(st.integers(1, 3))):
        places = list(_places(document))
        if not places:
            break
        *parents, last = draw(st.sampled_from(places))
        node = document
        for parent in parents:
            node = node[parent]
        match draw(st.sampled_from(["replace", "remove", "rename", "repeat"])):
            case "remove":
                del node[last]
            case "rename" if isinstance(node, dict):
                node[draw(KEYS)] = node.pop(last)
            case "repeat" if isinstance(node, list):
                node.append(copy.deepcopy(node[last]))
            case _:
                node[last] = draw(VALUES)
    return document


@st.composite
def garbled(draw: st.DrawFn, text: str) -> bytes:
    """The text with bytes replaced, cut out or put in."""
    data = bytearray(text.encode())
    rng = random.Random(draw(st.integers(0, 2**32)))
    for _ in range(draw(st.integers(1, 4))):
        at = rng.randrange(len(data) + 1)
        size = rng.choice([0, 1, 3, len(data) // 2])
        data[at : at + size] = draw(
            st.binary(max_size=6) | st.sampled_from([b"{", b"]", b"&a *a", b'"', b"\xff", b"\n- "])
        )
    return bytes(data)


def check_spec(data: bytes, *overrides: str) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "sweep.yaml")
        path.write_bytes(data)
        try:
            found = load_spec(StereoSetSpec, str(path), overrides)
        except UserError as error:
            assert_clear_lines(error)
            return
    assert isinstance(found, StereoSetSpec)
    assert found.steering.layers
    found.resolved_protocol()


def check_data(data: bytes) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "dev.json")
        path.write_bytes(data)
        try:
            found = read_stereoset(path)
        except UserError as error:
            assert_one_line(error)
            assert str(path) in str(error)
            return
    assert isinstance(found, StereoSet)
    for one in found.examples:
        assert sorted(one.labels) == sorted(LABELS)
        assert all(text.strip() for text in (one.example_id, one.target, *one.sentences))


def assert_one_line(error: UserError) -> None:
    message = str(error)
    assert message
    assert len(message.splitlines()) == 1, message
    assert len(message) < 2000, message


def assert_clear_lines(error: UserError) -> None:
    """A line, or a heading and a line for each mistake, or a line and the place that it quotes."""
    assert str(error).splitlines() == list(error.lines)
    assert error.lines[0]
    assert len(error.lines) <= MOST_SHOWN + 2
    assert all(len(line) < 600 for line in error.lines), error.lines


@settings(max_examples=300, deadline=None)
@given(broken(SPEC))
def test_a_broken_spec(document: Any) -> None:
    check_spec(yaml.safe_dump(document, allow_unicode=True).encode(errors="surrogatepass"))


@settings(max_examples=300, deadline=None)
@given(garbled(yaml.safe_dump(SPEC)))
@example(b"job: !!timestamp 2020-99-99")
@example(b"? [a]\n: b")
@example(b"job: {<<: [1]}")
@example(b"%YAML 9.9\n---\njob: x")
@example(b"job: 0o99999999999999999999")
def test_a_garbled_spec(data: bytes) -> None:
    check_spec(data)


@settings(max_examples=200, deadline=None)
@given(st.lists(st.text(max_size=30) | st.builds("{}={}".format, KEYS, VALUES), max_size=3))
@example(["steering.coeffs=[" + "1," * 5000 + "]"])
@example(["models.base.path.x=1"])
@example(["steering.layers.0=3"])
def test_any_override(overrides: list[str]) -> None:
    check_spec(yaml.safe_dump(SPEC).encode(), *overrides)


@settings(max_examples=300, deadline=None)
@given(broken(EXAMPLES))
def test_a_broken_data_file(document: Any) -> None:
    check_data(json.dumps(document).encode())


@settings(max_examples=300, deadline=None)
@given(garbled(json.dumps(EXAMPLES)))
@example(b"9" * 5000)
@example(b"[" * 100_000)
@example(b"\xef\xbb\xbf{}")
@example(b"\x00\x00")
@example(b'{"data": {"intersentence": 1e999}}')
def test_a_garbled_data_file(data: bytes) -> None:
    check_data(data)
