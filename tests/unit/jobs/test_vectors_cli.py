"""``steersweep vectors``: what it writes and prints, and that a failure writes nothing."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest

from jobs import cli
from steering_core.exchange.formats import read_vectors
from steering_core.vectors import SteeringVectors, to_safetensors

WIDTH = 4


@pytest.fixture
def own(tmp_path: Path) -> Path:
    """A file as a run writes it."""
    rng = np.random.default_rng(0)
    whole = {layer: rng.normal(size=WIDTH).astype(np.float32) for layer in (1, 3)}
    folds = {layer: (v + 1, v + 2) for layer, v in whole.items()}
    path = tmp_path / "gender.safetensors"
    read = {f"read.layer.{layer}": f"blocks.{layer - 1}.resid_post" for layer in whole}
    path.write_bytes(to_safetensors(SteeringVectors(whole, folds), {"model": "tiny", **read}))
    return path


def vectors(*arguments: object, monkeypatch: pytest.MonkeyPatch) -> int:
    monkeypatch.setattr(sys, "argv", ["steersweep", "vectors", *map(str, arguments)])
    with pytest.raises(SystemExit) as caught:
        cli.main()
    return int(caught.value.code or 0)


def files_in(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}


def test_out_and_in_again_changes_nothing(
    own: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    _, before = read_vectors(own.read_bytes(), "x")
    for name, options in {
        "a.pt": ["--to", "persona_vectors", "--num-blocks", 6],
        "b.gguf": ["--to", "repeng", "--model-type", "llama"],
        "c.pt": ["--to", "steering_vectors"],
    }.items():
        there, back = tmp_path / "out" / name, tmp_path / f"{name}.safetensors"
        assert vectors("export", own, there, *options, monkeypatch=monkeypatch) == 0
        assert vectors("import", there, back, "--model", "tiny", monkeypatch=monkeypatch) == 0
        _, after = read_vectors(back.read_bytes(), "x")
        assert after.provenance["model"] == "tiny"
        assert after.layers == (1, 3)
        for layer in after.layers:
            assert after.vectors.whole[layer].tobytes() == before.vectors.whole[layer].tobytes()
    shown = capsys.readouterr()
    assert "layers 1, 3 as a file of repeng" in shown.out
    assert "layers 1, 3 from a file of repeng" in shown.out
    assert "vectors of single folds are left out (2 folds)" in shown.err


def test_show_says_what_others_call_a_layer(
    own: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert vectors("show", own, monkeypatch=monkeypatch) == 0
    shown = capsys.readouterr().out
    assert "a file of safetensors, 2 layers of width 4, 2 folds" in shown
    row = next(line for line in shown.splitlines() if "blocks.2.resid_post" in line)
    for text in ("3", "row 3", "direction.2", "key 2"):
        assert text in row
    _, file = read_vectors(own.read_bytes(), "x")
    assert f"{np.linalg.norm(file.vectors.whole[3].astype(np.float64)):.6g}" in row
    assert "tiny" in shown


def test_layers_and_a_fold_can_be_chosen(
    own: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    target = tmp_path / "x.gguf"
    options = ("--to", "repeng", "--layers", "3", "--fold", "1")
    assert vectors("export", own, target, *options, monkeypatch=monkeypatch) == 0
    _, before = read_vectors(own.read_bytes(), "x")
    _, after = read_vectors(target.read_bytes(), "x")
    assert after.layers == (3,)
    np.testing.assert_array_equal(after.vectors.whole[3], before.vectors.folds[3][1])


def test_a_file_that_is_there_stays(
    own: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    target = tmp_path / "x.gguf"
    target.write_text("mine")
    arguments = ("export", own, target, "--to", "repeng")
    assert vectors(*arguments, monkeypatch=monkeypatch) == 2
    assert "already exists; give another name, or use --force" in capsys.readouterr().err
    assert target.read_text() == "mine"
    assert vectors(*arguments, "--force", monkeypatch=monkeypatch) == 0
    assert target.read_bytes().startswith(b"GGUF")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["import", "{tmp}/gone.pt", "{tmp}/x"], "no such vector file"),
        (["import", "{tmp}/bad.pt", "{tmp}/x"], "not a complete torch.save file"),
        (["import", "{tmp}/text", "{tmp}/x"], "not a file of steering vectors"),
        (["import", "{own}", "{tmp}/"], "is not the name of a file"),
        (["import", "s3://bucket", "{tmp}/x"], "is not the name of a file"),
        (["show", "{tmp}/gone"], "no such vector file"),
        (["export", "{own}", "{tmp}/x", "--to", "persona_vectors"], "number of blocks"),
        (["export", "{own}", "{tmp}/x", "--to", "repeng", "--fold", "2"], "there is no fold 2"),
        (["export", "{own}", "{tmp}/x", "--to", "repeng", "--layers", "2"], "there is no layer 2"),
        (["export", "{own}", "{tmp}/x", "--to", "repeng", "--layers", "a"], "must be numbers"),
        (["export", "{own}", "{tmp}/x", "--to", "other"], "Invalid value for '--to'"),
        (["export", "{own}", "{tmp}/x"], "Missing option '--to'"),
        (["import", "{own}"], "Missing argument 'TARGET'"),
        (["import", "{own}", "{own}/x"], ""),
    ],
)
def test_bad_input_is_exit_code_2_and_writes_nothing(
    own: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    arguments: list[str],
    message: str,
) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    (tmp_path / "bad.pt").write_bytes(b"PK\x03\x04 and no more")
    (tmp_path / "text").write_text("hello")
    before = files_in(tmp_path)
    filled = [text.format(tmp=tmp_path, own=own) for text in arguments]
    assert vectors(*filled, monkeypatch=monkeypatch) == 2
    shown = capsys.readouterr().err
    assert message in shown
    assert "Traceback" not in shown
    assert files_in(tmp_path) == before


def test_files_may_be_in_a_bucket(
    own: Path,
    tmp_path: Path,
    s3_uri: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    there, back = f"{s3_uri}/x.pt", tmp_path / "back.safetensors"
    options = ("--to", "persona_vectors", "--num-blocks", 4)
    assert vectors("export", own, there, *options, monkeypatch=monkeypatch) == 0
    assert vectors("import", there, back, monkeypatch=monkeypatch) == 0
    assert read_vectors(back.read_bytes(), "x")[1].layers == (1, 3)


def test_help_has_examples(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for command in ("import", "export", "show"):
        assert vectors(command, "--help", monkeypatch=monkeypatch) == 0
        shown = capsys.readouterr().out
        assert f"steersweep vectors {command}" in shown
        assert "Example" in shown
