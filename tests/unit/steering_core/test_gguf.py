"""Models in GGUF files: what is loaded, and what stays in the cache folder."""

from __future__ import annotations

import errno
import hashlib
import os
import shutil
import threading
from pathlib import Path

import pytest
import torch

from steering_core import gguf
from steering_core.models import (
    ModelSource,
    load_model,
    load_tokenizer,
    read_eos_ids,
    read_facts,
)
from steering_core.skeleton import read_skeleton
from steersweep.errors import UserError
from tests.support.gguf_files import write_llama
from tests.support.tiny_models import train_tokenizer

TEXT = "What a reader of this file gets, token for token: 12345."


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, torch.nn.Module]:
    """A GGUF file, and the model in it."""
    file = tmp_path_factory.mktemp("gguf") / "tiny.Q8_0.gguf"
    return file, write_llama(file, train_tokenizer([TEXT] * 3, 320))


@pytest.fixture(scope="module")
def filled_cache(
    written: tuple[Path, torch.nn.Module], tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """A cache home in which the file is converted already."""
    home = tmp_path_factory.mktemp("home")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(home))
        gguf.dequantized_folder(written[0])
    return home


@pytest.fixture
def cached(filled_cache: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(filled_cache))
    return filled_cache


@pytest.fixture
def fresh(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where models are kept in a cache home that is empty."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "home"))
    return tmp_path / "home" / "steersweep" / "gguf"


@pytest.fixture
def quick(filled_cache: Path, monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """Conversions copy what a real one has made; the list has the files that were converted."""
    made = next(path for path in (filled_cache / "steersweep" / "gguf").iterdir() if path.is_dir())
    converted: list[Path] = []

    def convert(file: Path, folder: Path) -> None:
        converted.append(file)
        shutil.copytree(made, folder, dirs_exist_ok=True)

    monkeypatch.setattr(gguf, "_convert", convert)
    return converted


def source(file: Path) -> ModelSource:
    return ModelSource(str(file.parent), gguf_file=file.name)


def test_the_model_of_a_file_is_the_one_that_was_written(
    written: tuple[Path, torch.nn.Module], cached: Path
) -> None:
    file, expected = written
    tokenizer = load_tokenizer(source(file))
    assert tokenizer.decode(tokenizer(TEXT)["input_ids"]) == TEXT
    ids = torch.tensor([tokenizer(TEXT)["input_ids"]])
    loaded = load_model(source(file), device="cpu")
    assert loaded.dtype == torch.float32
    torch.testing.assert_close(loaded.module(ids).logits, expected(ids).logits, rtol=0, atol=1e-5)


def test_a_file_is_known_by_its_sha_256_wherever_it_lies(
    written: tuple[Path, torch.nn.Module], cached: Path, tmp_path: Path
) -> None:
    file, _ = written
    copy = Path(shutil.copy(file, tmp_path / "other-name.gguf"))
    facts = [read_facts(source(f), load_tokenizer(source(f))) for f in (file, copy)]
    assert facts[0] == facts[1]
    assert facts[0].digest == hashlib.sha256(file.read_bytes()).hexdigest()
    assert (facts[0].num_blocks, facts[0].width, facts[0].commit) == (2, 64, None)
    assert read_skeleton(source(file)).num_blocks == 2
    tokenizer = load_tokenizer(source(file))
    assert read_eos_ids(source(file), tokenizer) == (tokenizer.eos_token_id,)


def test_a_file_that_changes_is_another_model(
    written: tuple[Path, torch.nn.Module], tmp_path: Path
) -> None:
    copy = Path(shutil.copy(written[0], tmp_path / "model.gguf"))
    before = gguf.gguf_digest(copy)
    with copy.open("r+b") as stream:
        stream.seek(-1, os.SEEK_END)
        stream.write(b"\x01")
    os.utime(copy, (1, 1))
    assert gguf.gguf_digest(copy) != before


def test_processes_that_need_a_model_at_once_convert_it_once(
    written: tuple[Path, torch.nn.Module], fresh: Path, quick: list[Path]
) -> None:
    found: list[Path] = []
    threads = [
        threading.Thread(target=lambda: found.append(gguf.dequantized_folder(written[0])))
        for _ in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(quick) == 1
    assert len(set(found)) == 1 and len(found) == 4
    assert gguf.dequantized_folder(written[0]) == found[0]
    assert len(quick) == 1


def test_a_killed_conversion_leaves_nothing_that_counts(
    written: tuple[Path, torch.nn.Module],
    fresh: Path,
    quick: list[Path],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(gguf, "_to_disk", lambda _file: os._exit(9))
        pid = os.fork()
        if pid == 0:
            gguf.dequantized_folder(written[0])
            os._exit(0)
        assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 9
    assert [p.name[0] for p in fresh.iterdir() if p.is_dir()] == ["."], "half of a model"
    folder = gguf.dequantized_folder(written[0])
    assert [p for p in fresh.iterdir() if p.is_dir()] == [folder]
    assert load_model(source(written[0]), device="cpu").layout.num_blocks == 2


def test_a_folder_that_lost_a_file_is_made_again(
    written: tuple[Path, torch.nn.Module], fresh: Path, quick: list[Path]
) -> None:
    folder = gguf.dequantized_folder(written[0])
    (folder / "model.safetensors").unlink()
    assert gguf.dequantized_folder(written[0]) == folder
    assert (folder / "model.safetensors").is_file()
    assert len(quick) == 2


def test_a_full_disk_is_one_line_and_leaves_nothing(
    written: tuple[Path, torch.nn.Module],
    fresh: Path,
    quick: list[Path],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def is_full(_file: Path) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(gguf, "_to_disk", is_full)
    with pytest.raises(UserError, match=r"the disk is full.*XDG_CACHE_HOME"):
        gguf.dequantized_folder(written[0])
    assert [p for p in fresh.iterdir() if p.is_dir()] == []


def test_a_cache_folder_that_cannot_be_written_is_one_line(
    written: tuple[Path, torch.nn.Module], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    with pytest.raises(UserError, match=r"cannot be kept in .*Not a directory.*XDG_CACHE_HOME"):
        gguf.dequantized_folder(written[0])


def test_what_is_no_readable_gguf_file_is_refused(
    written: tuple[Path, torch.nn.Module], fresh: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "folder"
    folder.mkdir()
    with pytest.raises(UserError, match=r"a\.gguf does not exist; that folder holds no"):
        load_tokenizer(ModelSource(str(folder), gguf_file="a.gguf"))
    shutil.copy(written[0], folder / "b.gguf")
    with pytest.raises(UserError, match=r"a\.gguf does not exist; there are b\.gguf"):
        load_tokenizer(ModelSource(str(folder), gguf_file="a.gguf"))
    (folder / "a.gguf").write_bytes(b"PK zip")
    with pytest.raises(UserError, match=r"a\.gguf is not a GGUF file"):
        load_tokenizer(ModelSource(str(folder), gguf_file="a.gguf"))
    (folder / "a.gguf").write_bytes(written[0].read_bytes()[:5000])
    with pytest.raises(UserError, match=r"transformers cannot read .*a\.gguf: "):
        load_tokenizer(ModelSource(str(folder), gguf_file="a.gguf"))
    write_llama(folder / "a.gguf", train_tokenizer([TEXT], 300), architecture="abacus")
    with pytest.raises(UserError, match=r"cannot read .*a\.gguf: .*abacus.*not supported"):
        load_tokenizer(ModelSource(str(folder), gguf_file="a.gguf"))
    assert [p for p in fresh.iterdir() if p.is_dir()] == []


def test_a_gguf_file_that_is_not_named_is_found_for_the_user(
    written: tuple[Path, torch.nn.Module],
) -> None:
    file, _ = written
    with pytest.raises(UserError, match=rf"no config.json, but holds a GGUF file: {file.name}"):
        load_tokenizer(ModelSource(str(file.parent)))
    with pytest.raises(UserError, match="is a file, and a model is a folder"):
        load_tokenizer(ModelSource(str(file)))
