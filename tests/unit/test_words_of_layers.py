"""No message of ``steering_core`` or ``cluster`` names a key of a file, a command or an option.

What to do in these words is added by ``jobs.advice``.
"""

from __future__ import annotations

import ast
import pickle
import re
from collections.abc import Iterator
from pathlib import Path
from string import Formatter
from typing import Any, get_args

import pytest
from pydantic import BaseModel
from typer.main import get_command

from jobs.advice import ADVICE, advise, advised
from jobs.cli import app
from jobs.sweeps.registry import spec_types
from steersweep.errors import StopRunError, UserError

ROOT = Path(__file__).parents[2]


def models_in(annotation: Any) -> Iterator[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    for argument in get_args(annotation):
        yield from models_in(argument)


def keys_of(model: type[BaseModel]) -> Iterator[tuple[str, str]]:
    """Section and key, as in ``vectors.folds``, of every model below this one."""
    for section, field in model.model_fields.items():
        for inner in models_in(field.annotation):
            yield from ((section, key) for key in inner.model_fields)
            yield from keys_of(inner)


def forbidden() -> re.Pattern[str]:
    """What names a key (`a.b`, in backticks, or as ``set key: value``), a command or an option."""
    pairs = {pair for model in spec_types().values() for pair in keys_of(model)}
    keys = {key for pair in pairs for key in pair}
    keys |= {key for model in spec_types().values() for key in model.model_fields}
    dotted = "|".join(sorted(rf"{section}\.{key}" for section, key in pairs))
    names = "|".join(sorted(keys))
    long_names = "|".join(sorted(key for key in keys if "_" in key))
    commands = "|".join(sorted(get_command(app).commands))  # type: ignore[attr-defined]
    return re.compile(
        rf"\b(?:{dotted})\b|`(?:{names})\b|\b(?:set|use) (?:{names}): |\b(?:{long_names}): "
        rf"|\bsteersweep (?:{commands})\b|(?<![\w-])--[a-z]"
    )


FORBIDDEN = {
    "steering_core": forbidden(),
    "cluster": re.compile(f"{forbidden().pattern}|(?i:stereoset)"),
}


def messages(source: str) -> Iterator[tuple[int, str]]:
    """Line and text of every string but docstrings; ``{}`` for what is filled in."""
    tree = ast.parse(source)
    skipped: set[ast.AST] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant):
            skipped.add(node.value)
        if isinstance(node, ast.JoinedStr):
            skipped |= {n for n in node.values if isinstance(n, ast.Constant)}
            parts = [n.value if isinstance(n, ast.Constant) else "{}" for n in node.values]
            yield node.lineno, "".join(map(str, parts))
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and node not in skipped:
            yield node.lineno, node.value


def sources(package: str) -> Iterator[tuple[Path, str]]:
    for path in sorted((ROOT / package).rglob("*.py")):
        yield path.relative_to(ROOT), path.read_text(encoding="utf-8")


@pytest.mark.parametrize("package", FORBIDDEN)
def test_messages_keep_to_the_words_of_their_layer(package: str) -> None:
    found = [
        f"{path}:{line}: {match[0]!r} in {text!r}"
        for path, source in sources(package)
        for line, text in messages(source)
        if (match := FORBIDDEN[package].search(text))
    ]
    assert found == []


@pytest.mark.parametrize(
    "text",
    [
        "use another vectors.method", "more examples (data.limit)", "set `scoring: aligned`",
        "set protocol: aligned", "gguf_file: a.gguf", "set `revision` to a commit",
        "see `steersweep status`", "run steersweep data fetch", "leave it out of --needs",
    ],
)  # fmt: skip
def test_the_scan_finds_each_kind_of_word(text: str) -> None:
    source = f'def f(x):\n    """{text}"""\n    raise UserError(f"{{x}}: " "{text} {{x}}")\n'
    for package in FORBIDDEN:
        assert [line for line, t in messages(source) if FORBIDDEN[package].search(t)] == [3]


def test_the_scan_leaves_plain_words_alone() -> None:
    for text in ("not a GGUF file: it", "device: {}", "use a newer steersweep", "a --- b", "data."):
        assert not FORBIDDEN["cluster"].search(text)
    assert FORBIDDEN["cluster"].search("of StereoSet")
    assert not FORBIDDEN["steering_core"].search("not a StereoSet file: no object")


def causes(source: str) -> Iterator[tuple[str, set[str]]]:
    """Each cause that is written down in a source, and the facts that come with it."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Call):
            given = {k.arg: k.value for k in node.keywords if k.arg}
            for value in ast.walk(given.pop("cause", ast.Constant(None))):
                if isinstance(value, ast.Constant) and isinstance(value.value, str):
                    yield value.value, set(given)


def test_each_cause_has_advice_whose_facts_are_given() -> None:
    found = [c for package in FORBIDDEN for _, source in sources(package) for c in causes(source)]
    names = {"too_few_cpus", "too_few_gpus"}  # chosen by the name of a resource
    assert {cause for cause, _ in found} | names == ADVICE.keys()
    for cause, facts in found:
        assert {name for _, name, _, _ in Formatter().parse(ADVICE[cause]) if name} <= facts


def test_advice_is_added_once_also_to_what_was_raised_from_the_error() -> None:
    cause = UserError("no file", "x: 1", cause="gguf_not_named", file="{a}.gguf")
    with pytest.raises(StopRunError) as caught, advised(), advised():
        try:
            raise pickle.loads(pickle.dumps(cause))
        except UserError as error:
            raise StopRunError(f"models.m: {error.lines[0]}", "y: 2") from error
    assert caught.value.lines == (
        "models.m: no file; to load it, set gguf_file: {a}.gguf", "y: 2",
    )  # fmt: skip


def test_an_error_that_only_happened_before_gives_no_advice() -> None:
    try:
        try:
            raise UserError("no file", cause="no_stereoset_file")
        except UserError:
            raise UserError("other") from None
    except UserError as error:
        advise(error)
        assert error.lines == ("other",)
