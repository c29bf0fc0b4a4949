"""Models in GGUF files: dequantized once on each machine, then loaded like any other model.

transformers takes half a minute to read a GGUF file even of a small model, and a sweep needs it in
the driver, in every replica and again in `verify`. So the first process that reads a file leaves
its weights in the user's cache folder, with config and tokenizer: in float32, in which the values
of all GGUF types are exact. The folder is named by the SHA-256 of the file and by the version of
transformers, which decides what is read.
"""

from __future__ import annotations

import errno
import hashlib
import io
import logging
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr
from functools import cache
from pathlib import Path

from steering_core.sampling import named_eos_ids
from steersweep.errors import UserError

_MAGIC = b"GGUF"
_logger = logging.getLogger(__name__)


def gguf_digest(file: Path) -> str:
    """SHA-256 (hex) of a GGUF file: the identity of its model.

    Raises:
        UserError: no such file, or one that is not GGUF.
    """
    _check_gguf(file)
    found = file.stat()
    return _sha256(file, found.st_size, found.st_mtime_ns)


def dequantized_folder(file: Path) -> Path:
    """A model folder (safetensors, config, tokenizer) with the weights of a GGUF file.

    Made by the first process of this machine that asks for it; others wait for that one.

    Raises:
        UserError: no such file, not GGUF, a model that transformers does not read from GGUF, or a
            cache folder without room.
    """
    import platformdirs
    import transformers
    from filelock import FileLock

    name = f"{gguf_digest(file)}-transformers-{transformers.__version__}"
    models = platformdirs.user_cache_path("steersweep") / "gguf"
    folder = models / name
    if _is_whole(folder):
        return folder
    with _explained(models):
        models.mkdir(parents=True, exist_ok=True)
        with FileLock(models / f"{name}.lock"):
            if not _is_whole(folder):  # nobody else has made it in the meantime
                _make(file, folder)
    return folder


@cache
def _sha256(file: Path, _num_bytes: int, _changed_ns: int) -> str:
    """Hashed once in a process; size and time of change make it another file."""
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _check_gguf(file: Path) -> None:
    if not file.is_file():
        there = sorted(entry.name for entry in file.parent.glob("*.gguf"))
        hint = f"there are {', '.join(there)}" if there else "that folder holds no *.gguf file"
        raise UserError(f"{file} does not exist; {hint}")
    with file.open("rb") as stream:
        start = stream.read(len(_MAGIC))
    if start != _MAGIC:
        raise UserError(f"{file} is not a GGUF file: it does not start with {_MAGIC.decode()}")


def _is_whole(folder: Path) -> bool:
    """Whether a folder holds a model; a cleaner of caches may have taken a part of it."""
    files = (folder / "config.json", folder / "tokenizer.json")
    return all(file.is_file() for file in files) and any(folder.glob("*.safetensors"))


def _make(file: Path, folder: Path) -> None:
    """Dequantize a file into a folder, under the lock; a killed process leaves no such folder."""
    for abandoned in folder.parent.glob(f".{folder.name}-*"):
        shutil.rmtree(abandoned, ignore_errors=True)
    shutil.rmtree(folder, ignore_errors=True)
    _logger.warning(
        "converting %s to safetensors, once on this machine (half a minute or more) ...", file.name
    )
    unfinished = Path(tempfile.mkdtemp(dir=folder.parent, prefix=f".{folder.name}-"))
    try:
        _convert(file, unfinished)
        for made in unfinished.iterdir():
            _to_disk(made)
        unfinished.rename(folder)
    except BaseException:
        shutil.rmtree(unfinished, ignore_errors=True)
        raise


def _convert(file: Path, folder: Path) -> None:
    from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, GgufConfig

    place, name = str(file.parent), file.name
    with _quiet():
        try:
            config = AutoConfig.from_pretrained(place, gguf_file=name)
            tokenizer = AutoTokenizer.from_pretrained(place, gguf_file=name)
            # transformers 5.17 leaves the default of some architectures, whatever the file says.
            if tokenizer.eos_token_id not in named_eos_ids(config):
                config.eos_token_id = tokenizer.eos_token_id
            module = AutoModelForCausalLM.from_pretrained(
                place,
                gguf_file=name,
                config=config,
                dtype="float32",
                quantization_config=GgufConfig(dequantize=True),
            )
        except Exception as error:  # transformers and gguf raise many types for a file
            reason = next(iter(str(error).strip().splitlines()), type(error).__name__)
            raise UserError(f"transformers cannot read {file}: {reason}") from error
        # The weights are plain ones now; a config that says otherwise would not load again.
        if hasattr(module.config, "quantization_config"):
            del module.config.quantization_config
        module.save_pretrained(folder)
        tokenizer.save_pretrained(folder)


@contextmanager
def _quiet() -> Iterator[None]:
    """No progress bars of transformers and tqdm, whose lines would be mixed with those of a run."""
    from transformers.utils import logging as theirs

    was_enabled = theirs.is_progress_bar_enabled()
    theirs.disable_progress_bar()
    try:
        with redirect_stderr(io.StringIO()):  # the bar of dequantizing is tqdm's own
            yield
    finally:
        if was_enabled:
            theirs.enable_progress_bar()


@contextmanager
def _explained(models: Path) -> Iterator[None]:
    """One line for a cache folder that cannot be written."""
    from safetensors import SafetensorError

    try:
        yield
    except (OSError, SafetensorError) as error:
        is_full = getattr(error, "errno", None) == errno.ENOSPC or "No space left" in str(error)
        reason = "the disk is full" if is_full else str(error)
        raise UserError(
            f"a GGUF model cannot be kept in {models}: {reason}; its weights need four bytes for "
            "each parameter there. Make room, or set XDG_CACHE_HOME to another folder"
        ) from error


def _to_disk(file: Path) -> None:
    """Before the folder gets its name: a name must not outlive a power cut that the data do not."""
    with file.open("rb") as stream:
        os.fsync(stream.fileno())
