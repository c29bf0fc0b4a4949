"""Every mistake of a sweep file in one go: what is said of each, in which order, and of whom."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import pytest
import yaml

from jobs.spec_mistakes import MOST_SHOWN
from jobs.sweeps.registry import load_any_spec
from steersweep.errors import UserError
from tests.support.sweeps import steersweep

STEREOSET: dict[str, Any] = {
    "job": "stereoset",
    "models": {"base": {"path": "some/model"}},
    "data": {"path": "dev.json"},
    "steering": {"layers": [1, 3], "coeffs": [400]},
    "output": "runs/x",
}
PERSONA: dict[str, Any] = {
    "job": "persona",
    "models": {"base": {"path": "some/model"}},
    "traits": {"kind": {"path": "kind.json"}},
    "judge": {"kind": "word_list"},
    "steering": {"layers": [1]},
    "output": "runs/x",
}


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty working directory, so that files are named as a user names them."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


def refused(
    document: dict[str, Any] | str, *overrides: str, output: str | None = None
) -> list[str]:
    """The lines with which sweep.yaml of that content is refused."""
    text = document if isinstance(document, str) else yaml.safe_dump(document, sort_keys=False)
    Path("sweep.yaml").write_text(text)
    with pytest.raises(UserError) as caught:
        load_any_spec("sweep.yaml", overrides, output)
    return list(caught.value.lines)


def test_all_mistakes_are_listed_in_the_order_of_the_file(folder: Path) -> None:
    document = {
        "job": "stereoset",
        "steering": {"layers": ["a", 1.5], "layer": 3},
        "compute": {"replicas": 0, "gpus_per_replica": -1},
        "models": {"base": {"path": 3, "revison": "x"}, "a/b": {"path": "x"}},
        "data": {"path": "d", "bias_types": ["age"]},
        "output": None,
    }
    assert refused(document) == [
        "sweep.yaml has 11 mistakes:",
        "  steering.coeffs is required",
        "  steering.layers.0: must be a whole number, got 'a'",
        "  steering.layers.1: must be a whole number, got 1.5",
        "  unknown key steering.layer; did you mean steering.layers?",
        "  compute.replicas: must be 'auto' or at least 1, got 0",
        "  compute.gpus_per_replica: must be 'auto' or at least 0, got -1",
        "  models.base.path: must be text, got 3",
        "  unknown key models.base.revison; did you mean models.base.revision?",
        "  models.a/b: a name may have letters, digits, '.', '_' and '-', must start with a letter "
        "or digit, and has at most 64 characters, got 'a/b'",
        "  data.bias_types.0: must be one of gender, profession, race, religion, got 'age'",
        "  output: must be text, got null",
    ]


def test_a_required_key_that_is_misspelled_is_one_mistake(folder: Path) -> None:
    document = {**STEREOSET, "steering": {"layer": [1], "coeffs": [1]}}
    assert refused(document) == [
        "sweep.yaml: unknown key steering.layer; did you mean steering.layers?"
    ]


def test_a_single_mistake_is_a_single_line(folder: Path) -> None:
    document = {**STEREOSET, "data": {"path": "dev.json", "limit": 0}}
    assert refused(document) == ["sweep.yaml: data.limit: must be at least 1, got 0"]


def test_very_many_mistakes_are_counted(folder: Path) -> None:
    lines = refused({**STEREOSET, "steering": {"layers": ["x"] * 5000, "coeffs": [1]}})
    assert lines[0] == "sweep.yaml has 5000 mistakes:"
    assert lines[1] == "  steering.layers.0: must be a whole number, got 'x'"
    assert len(lines) == 1 + MOST_SHOWN + 1
    assert lines[-1] == f"  ... and {5000 - MOST_SHOWN} more"


def test_values_and_keys_are_bounded(folder: Path) -> None:
    long = "x" * 100_000
    lines = refused({**STEREOSET, "protocol": long, long: 1})
    assert len(lines) == 3
    assert max(map(len, lines)) < 300


def test_a_message_of_several_lines_survives_pickling(folder: Path) -> None:
    error = UserError("two mistakes:", "  one", "  an\nother")
    assert pickle.loads(pickle.dumps(error)).lines == error.lines
    assert error.lines == ("two mistakes:", "  one", "  an other")


@pytest.mark.parametrize(
    ("override", "says"),
    [
        (
            "steering.layer=3",
            "unknown key steering.layer; did you mean steering.layers?",
        ),
        ("data.limit=0", "data.limit: must be at least 1, got 0"),
        # What is below the key that was set, or the section that it made.
        ("steering={layers: [1], coeffs: [x]}", "steering.coeffs.0: must be a number, got 'x'"),
        ("models.new.dtype=float32", "models.new.path is required"),
        ("generation.seed=4", "unknown key generation; it belongs to job persona"),
    ],
)
def test_a_mistake_in_an_option_names_the_option(folder: Path, override: str, says: str) -> None:
    (line,) = refused(STEREOSET, override)
    key = override.partition("=")[0]
    assert line.startswith(f"--set {key}=")
    assert says in line
    assert "sweep.yaml" not in line


def test_the_output_option_is_named(folder: Path) -> None:
    (line,) = refused(STEREOSET, output="")
    assert line == "--output '': output: must not be empty, got ''"


def test_an_option_is_only_blamed_for_what_it_gave(folder: Path) -> None:
    document = {**STEREOSET, "steering": {"layers": [], "coeffs": [1]}}
    assert refused(document, "data.limit=0", "steering.coeffs=[2]") == [
        "sweep.yaml and its options have 2 mistakes:",
        "  --set data.limit=0: data.limit: must be at least 1, got 0",
        "  steering.layers: needs at least 1 entry",
    ]
    # The last of two options for a key is the one that counts.
    assert refused(STEREOSET, "data.limit=0", "data.seed=x", "data.limit=-1") == [
        "the options for sweep.yaml have 2 mistakes:",
        "  --set data.limit=-1: data.limit: must be at least 1, got -1",
        "  --set data.seed=x: data.seed: must be a whole number, got 'x'",
    ]


@pytest.mark.parametrize("job", ["persona", "sterioset"])
def test_an_option_can_choose_the_job_and_is_named_if_it_is_none(folder: Path, job: str) -> None:
    lines = refused(STEREOSET, f"job={job}")
    if job == "persona":
        assert "  unknown key data; it belongs to job stereoset, and this is job persona" in lines
        assert "  traits is required" in lines
    else:
        assert lines == [
            "--set job=sterioset: job must be one of stereoset, choices, persona, got 'sterioset'; "
            "did you mean stereoset?"
        ]


@pytest.mark.parametrize(
    ("document", "unknown", "hint"),
    [
        (STEREOSET, "seed", "did you mean data.seed?"),
        (STEREOSET, "tokens_per_batch", "did you mean compute.tokens_per_batch?"),
        (STEREOSET, "token_per_batch", "did you mean compute.tokens_per_batch?"),
        (STEREOSET, "layers", "did you mean steering.layers or nulls.layers?"),
        (STEREOSET, "coefficients", "did you mean steering.coeffs?"),
        (STEREOSET, "path", "did you mean models.NAME.path or data.path?"),
        (STEREOSET, "Steering", "did you mean steering?"),
        # Close by goes before far away.
        (STEREOSET, "model", "did you mean models?"),
        (STEREOSET, "data.bias_type", "did you mean data.bias_types?"),
        (STEREOSET, "judge", "it belongs to job persona, and this is job stereoset"),
        (STEREOSET, "steering.questions", "it belongs to job persona, and this is job stereoset"),
        (STEREOSET, "rollouts", "job persona has contrast.rollouts and steering.rollouts, this job "
         "has no such key"),
        (STEREOSET, "data.zzz", "known keys: path, splits, bias_types, limit, seed"),
        (PERSONA, "seed", "did you mean generation.seed?"),
        (PERSONA, "questions", "did you mean contrast.questions or steering.questions?"),
        (PERSONA, "generation.max_tokens", "did you mean generation.max_new_tokens?"),
        (PERSONA, "traits.kind.steerd", "did you mean traits.kind.steered?"),
        (PERSONA, "steering.apply", "it belongs to job stereoset, and this is job persona"),
        (PERSONA, "data", "it belongs to job stereoset, and this is job persona"),
    ],
)  # fmt: skip
def test_an_unknown_key_is_searched_everywhere_before_guessing(
    folder: Path, document: dict[str, Any], unknown: str, hint: str
) -> None:
    (line,) = refused(document, f"{unknown}=1")
    assert line == f"--set {unknown}=1: unknown key {unknown}; {hint}"


@pytest.mark.parametrize(
    ("judge", "says"),
    [
        ({"kind": "openai"}, "judge.model is required with kind: openai"),
        ({"kind": "local"}, "judge.path is required with kind: local"),
        ({}, "judge.kind is required; one of openai, anthropic, local, word_list"),
        ({"kind": "oracle"}, "judge.kind: must be one of 'openai', 'anthropic', 'local', "
         "'word_list', got 'oracle'"),
        ({"kind": "local", "path": "x", "revison": "y"},
         "unknown key judge.revison with kind: local; did you mean judge.revision?"),
        ({"kind": "local", "path": "x", "model": "y"},
         "unknown key judge.model with kind: local; that is for kind: openai or anthropic; known "
         "keys: path, revision, dtype, trust_remote_code"),
        ({"kind": "word_list", "words": {"kind": [1]}}, "judge.words.kind.0: must be text, got 1"),
        ({"kind": "openai", "model": "m", "concurrency": 0},
         "judge.concurrency: must be at least 1, got 0"),
    ],
)  # fmt: skip
def test_the_kind_of_a_judge_is_no_part_of_a_place(
    folder: Path, judge: dict[str, Any], says: str
) -> None:
    (line,) = refused({**PERSONA, "judge": judge})
    assert line.startswith(f"sweep.yaml: {says}")


@pytest.mark.parametrize(
    "override",
    [
        "judge.key_variable=not-a-name-hunter2",
        "judge={kind: openai, model: m, key_variable: not-a-name-hunter2}",
        "judge={kind: oracle, key_variable: not-a-name-hunter2}",
        "judge.base_url=http://me:hunter2@host/v1",
        "judge={kind: openai, model: m, key_variable: hunter2",
    ],
)
def test_an_option_that_may_hold_a_secret_is_named_without_its_value(
    folder: Path, override: str
) -> None:
    document = {**PERSONA, "judge": {"kind": "openai", "model": "m"}}
    text = "\n".join(refused(document, override))
    assert text.startswith(f"--set {override.partition('=')[0]}=***: ")
    assert "hunter2" not in text


@pytest.mark.parametrize(
    ("text", "lines"),
    [
        (
            "job: stereoset\nsteering: {layers: [1, 2, coeffs: }\n",
            [
                "sweep.yaml: not valid YAML at line 2, column 35: expected the node content, "
                "but found '}'",
                "    steering: {layers: [1, 2, coeffs: }",
                "                                      ^",
            ],
        ),
        (
            "data: {path: a\noutput: b\n",
            [
                "sweep.yaml: not valid YAML at line 2, column 7: expected ',' or '}', but got ':' "
                "(while parsing a flow mapping that starts at line 1)",
                "    output: b",
                "          ^",
            ],
        ),
        (
            "job: stereoset\nlayers: [\n\n",
            [
                "sweep.yaml: not valid YAML at line 2, column 10: expected the node content, but "
                "the file ends here",
                "    layers: [",
                "             ^",
            ],
        ),
        (
            "a: 1\n\tb: 2\n",
            [
                "sweep.yaml: not valid YAML at line 2, column 1: found character '\\t' that cannot "
                "start any token",
                "     b: 2",
                "    ^",
            ],
        ),
        (
            "a: 1\nb: x\x01y\n",
            [
                "sweep.yaml: not valid YAML at line 2, column 5: the character '\\x01' is not "
                "allowed",
                "    b: x\x01y",
                "        ^",
            ],
        ),
        (
            "revision: 2024-99-99\n",
            [
                "sweep.yaml: not valid YAML at line 1, column 11: month must be in 1..12",
                "    revision: 2024-99-99",
                "              ^",
            ],
        ),
        (
            "a: 1\n---\nb: 2\n",
            [
                "sweep.yaml: not valid YAML at line 2, column 1: expected a single document in "
                "the stream, but found another document",
                "    ---",
                "    ^",
            ],
        ),
    ],
    ids=[
        "a bracket",
        "a brace",
        "no end",
        "a tab",
        "a control character",
        "a date",
        "two documents",
    ],
)
def test_a_yaml_error_keeps_its_line_column_and_caret(
    folder: Path, text: str, lines: list[str]
) -> None:
    assert refused(text) == lines


def test_the_console_shows_every_line_escaped_and_without_secrets(folder: Path) -> None:
    Path("sweep.yaml").write_text("job: x\nkey: [sk-abcdefghijklmnopqrst, \x1b[31m")
    finished = steersweep("run", "sweep.yaml")
    assert finished.code == 2
    assert finished.err.splitlines() == [
        "error: sweep.yaml: not valid YAML at line 2, column 32: the character '\\x1b' is not "
        "allowed",
        "    key: [***, \\x1b[31m",
        "                                   ^",
    ]


def test_the_console_lists_the_mistakes(folder: Path) -> None:
    document = {**STEREOSET, "steering": {"layers": [], "coeffs": [], "x\x1b": 1}}
    Path("sweep.yaml").write_text(yaml.safe_dump(document))
    finished = steersweep("run", "sweep.yaml", "--set", "data.limit=0")
    assert finished.code == 2
    assert finished.out == ""
    assert finished.err.splitlines() == [
        "error: sweep.yaml and its options have 4 mistakes:",
        "  --set data.limit=0: data.limit: must be at least 1, got 0",
        "  steering.coeffs: needs at least 1 entry",
        "  steering.layers: needs at least 1 entry",
        "  unknown key 'steering.x\\x1b'; known keys: layers, coeffs, unit, apply, positions, "
        "operation",
    ]
