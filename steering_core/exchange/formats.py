"""Which format a file is in, by its content, and writing one by its name."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from typing import Literal, get_args

from steering_core.exchange.vector_file import VectorFile, Written, read_native, write_native
from steersweep.errors import UserError

Format = Literal["persona_vectors", "repeng", "steering_vectors", "safetensors"]
FORMATS: tuple[Format, ...] = get_args(Format)
"""``safetensors`` is this project's own; ``repeng`` is also what llama.cpp reads."""

_ZIP = b"PK\x03\x04"
_PICKLE = b"\x80"


def read_vectors(data: bytes, where: str) -> tuple[Format, VectorFile]:
    """The format of a file's content, and its vectors.

    Provenance of a foreign file says which file it was, by its SHA-256.

    Raises:
        UserError: a file of none of the formats, or a damaged one.
    """
    if not data:
        raise UserError(f"{where} is empty")
    kind, file = _read(data, where)
    if kind != "safetensors":
        sha = hashlib.sha256(data).hexdigest()
        file = replace(file, provenance={**file.provenance, "imported_sha256": sha})
    return kind, file


def _read(data: bytes, where: str) -> tuple[Format, VectorFile]:
    if data.startswith(b"GGUF"):
        from steering_core.exchange import repeng

        return "repeng", repeng.read(data, where)
    # A safetensors file begins with the length of its JSON header, whose first byte may be any.
    if data[8:9] == b"{" or not data.startswith((_ZIP, _PICKLE)):
        return "safetensors", read_native(data, where)
    import torch

    from steering_core.exchange import persona_vectors, steering_vectors

    value = steering_vectors.load(data, where)
    if isinstance(value, torch.Tensor):
        return "persona_vectors", persona_vectors.from_tensor(value, where)
    return "steering_vectors", steering_vectors.from_value(value, where)


def write_vectors(
    kind: Format,
    file: VectorFile,
    *,
    num_blocks: int | None = None,
    model_type: str | None = None,
) -> Written:
    """A file's content in some format, and what it could not hold.

    Cross-fitted vectors of single folds are left out but for ``safetensors``.

    Args:
        num_blocks: of the model, which persona_vectors needs.
        model_type: of the model's config, which repeng keeps.

    Raises:
        UserError: a vector that was read elsewhere than the format can say, or an option that the
            format needs is missing.
    """
    if kind == "safetensors":
        return write_native(file)
    if kind == "persona_vectors":
        from steering_core.exchange import persona_vectors

        written = persona_vectors.write(file, num_blocks)
    elif kind == "repeng":
        from steering_core.exchange import repeng

        written = repeng.write(file, model_type)
    else:
        from steering_core.exchange import steering_vectors

        written = steering_vectors.write(file)
    if not file.num_folds:
        return written
    folds = f"vectors of single folds are left out ({file.num_folds} folds)"
    return replace(written, notes=(*written.notes, folds))
