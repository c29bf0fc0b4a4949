"""Whatever is wrong with an input: one clear line a mistake, exit code 2, nothing written."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from tests.support.bad_inputs import CASES, Case
from tests.support.sweeps import Finished, steersweep, write_spec


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_bad_input_is_one_clear_line_a_mistake_and_writes_nothing(
    case: Case, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "testing")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "testing")
    for name, value in case.env.items():
        if value is None:
            monkeypatch.delenv(name, raising=False)
        else:
            monkeypatch.setenv(name, value)
    path = write_spec(tmp_path / "sweep.yaml")
    document = yaml.safe_load(path.read_text())
    case.change(document, tmp_path)
    path.write_text(yaml.safe_dump(document))
    before = _listing(tmp_path)

    finished = steersweep("run", str(path), *case.options)

    _assert_refused(finished, case.says, case.num_mistakes + (case.num_mistakes > 1))
    assert "hunter2" not in finished.err
    assert _listing(tmp_path) == before


@pytest.mark.parametrize(
    ("text", "says", "num_lines"),
    [
        ("job: [", "not valid YAML at line 1, column 7", 3),
        ("- job", "a mapping of keys to values", 1),
        ("job: stereoset\njob: stereoset\n", "the key 'job' is given twice", 1),
        ("a: &a [1]\nb: " + "[" * 2000, "sweep.yaml", 1),
        ("job: stereoset\ndata: {limit: 0}\nseed: 1\n", "has 6 mistakes:", 7),
    ],
    ids=["not YAML", "a list", "key twice", "nested", "several mistakes"],
)
def test_a_spec_that_is_no_spec_is_refused(
    text: str, says: str, num_lines: int, tmp_path: Path
) -> None:
    """With the place in the file for YAML, and a line for each of several mistakes."""
    (tmp_path / "sweep.yaml").write_text(text)
    finished = steersweep("run", str(tmp_path / "sweep.yaml"))
    _assert_refused(finished, ("sweep.yaml", says), num_lines)


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("rnu",), "No such command 'rnu'"),
        (("run",), "Missing argument 'SPEC'"),
        (("run", "demo-tiny", "--bogus"), "No such option: --bogus"),
        (("report", "runs", "--endpoint-url"), "requires an argument"),
    ],
    ids=["command", "argument", "option", "value"],
)
def test_a_mistyped_command_line_is_no_traceback(arguments: tuple[str, ...], says: str) -> None:
    finished = steersweep(*arguments)
    assert finished.code == 2
    assert says in finished.err
    assert "Traceback" not in finished.err


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("run", "nowhere.yaml"), "nowhere.yaml"),
        (("run", "."), "folder"),
        (("status", "nowhere"), "holds no run"),
        (("report", "nowhere"), "holds no run"),
        (("export", "nowhere", "all.parquet"), "holds no run"),
        (("verify", "nowhere"), "holds no run"),
        (("vectors", "show", "nowhere"), "nowhere: no such vector file"),
        (("bench", "--shape", "x"), "unknown shape 'x'"),
        (("data", "fetch", "--from", "nowhere.json"), "nowhere.json"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else None,
)
def test_commands_refuse_what_is_not_there(
    arguments: tuple[str, ...], says: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    _assert_refused(steersweep(*arguments), (says,))
    assert not list(tmp_path.iterdir())


def _assert_refused(finished: Finished, says: tuple[str, ...], num_lines: int = 1) -> None:
    assert finished.code == 2, finished
    assert finished.err.startswith("error: "), finished.err
    assert finished.err.count("\n") == num_lines, finished.err
    assert "Traceback" not in finished.err + finished.out
    for words in says:
        assert words in finished.err, finished.err


def _listing(folder: Path) -> dict[str, bytes]:
    return {str(f.relative_to(folder)): f.read_bytes() for f in folder.rglob("*") if f.is_file()}
