"""Control vectors of repeng and llama.cpp: GGUF files with a tensor ``direction.<block>`` each.

``direction.i`` is added to the output of block i, counted from 0: layer i + 1. repeng reads and
adds it there for every i; llama.cpp takes i from 1 on and refuses a file with ``direction.0``.

Source: ``ControlVector.export_gguf`` and ``ControlModel`` of repeng, ``llama_adapter_cvec`` of
llama.cpp.
"""

from __future__ import annotations

import json
import re
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

from steering_core.exchange.vector_file import (
    MODEL_TYPE,
    VectorFile,
    Written,
    check_stream,
    read_at,
    vector_file,
)
from steersweep.errors import UserError

TOOL = "repeng"
_ARCH = "controlvector"
_PROVENANCE = "steersweep.provenance"
_DIRECTION = re.compile(r"direction\.([0-9]{1,5})")
_UNKNOWN = "unknown"


def read(data: bytes, where: str) -> VectorFile:
    """The vectors of a file's content.

    Raises:
        UserError: no control vectors, quantised ones, or a value that is not finite.
    """
    import gguf

    with tempfile.TemporaryDirectory(prefix="steersweep-") as folder:
        path = Path(folder) / "vectors.gguf"
        path.write_bytes(data)
        try:
            reader = gguf.GGUFReader(path)
            arch = _text(reader, "general.architecture")
            hint = _text(reader, f"{_ARCH}.model_hint")
            said = _text(reader, _PROVENANCE)
            tensors = {t.name: (t.tensor_type.name, np.array(t.data)) for t in reader.tensors}
        except Exception as error:  # the reader checks little: what is damaged fails anywhere
            first = str(error).splitlines()[0] if str(error) else type(error).__name__
            raise UserError(f"{where}: not a complete GGUF file: {first}") from None
    if arch != _ARCH:
        raise UserError(f"{where}: a GGUF file that holds {arch or 'nothing'}, not a {_ARCH}")
    whole = {}
    for name, (kind, values) in tensors.items():
        match = _DIRECTION.fullmatch(name)
        if match is None:
            continue
        if kind not in ("F32", "F16") or values.ndim != 1:
            raise UserError(
                f"{where}: {name} must be a vector of F32 or F16, got {kind} {list(values.shape)}"
            )
        whole[int(match[1]) + 1] = values.astype(np.float32)
    own = _provenance(said)
    provenance = {
        **own,
        "imported_from": f"{TOOL}, {len(whole)} directions",
        **({MODEL_TYPE: hint} if hint and hint != _UNKNOWN else {}),
        **({} if own else read_at(sorted(whole))),
    }
    return vector_file(whole, provenance, where)


def write(file: VectorFile, model_type: str | None = None) -> Written:
    """A file's content; provenance goes into a key of its own, which others pass over.

    Args:
        model_type: as in the model's config (``llama``); where left out, what the provenance says.
    """
    import gguf

    check_stream(file, TOOL)
    hint = model_type or file.provenance.get(MODEL_TYPE) or _UNKNOWN
    with tempfile.TemporaryDirectory(prefix="steersweep-") as folder:
        path = Path(folder) / "vectors.gguf"
        writer = gguf.GGUFWriter(path, _ARCH)
        writer.add_string(f"{_ARCH}.model_hint", hint)
        writer.add_uint32(f"{_ARCH}.layer_count", len(file.layers))
        writer.add_string(_PROVENANCE, json.dumps(dict(file.provenance), sort_keys=True))
        for layer in file.layers:
            vector = np.ascontiguousarray(file.vectors.whole[layer], dtype=np.float32)
            writer.add_tensor(f"direction.{layer - 1}", vector)
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
        writer.close()
        data = path.read_bytes()
    notes = []
    if 1 in file.layers:
        notes.append("llama.cpp refuses direction.0 (layer 1); leave layer 1 out for it")
    if hint == _UNKNOWN:
        notes.append("the model's type is not known; give it for tools that look at it")
    if file.embeddings is not None:
        notes.append(f"{TOOL} has no place for the row before the first block")
    return Written(data, tuple(notes))


def _text(reader: Any, key: str) -> str:
    field = reader.get_field(key)
    return "" if field is None else bytes(field.parts[-1]).decode()


def _provenance(said: str) -> dict[str, str]:
    try:
        found = json.loads(said or "{}")
    except ValueError:
        return {}
    return {str(k): str(v) for k, v in found.items()} if isinstance(found, dict) else {}
