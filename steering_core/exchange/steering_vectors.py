"""Files of the library steering-vectors: its ``SteeringVector``, or the arguments that make one.

The library itself writes no files. What is written here is what its constructor takes, so that
``SteeringVector(**torch.load(path, weights_only=True))`` is the vector. What is read is that, or a
``SteeringVector`` put through ``torch.save`` as it is. The keys of ``layer_activations`` count
blocks from 0; of the layer types only ``decoder_block``, the stream behind a block, is known here.

Source: ``steering_vectors/steering_vector.py`` and ``record_activations.py``, release 0.12.2.
"""

from __future__ import annotations

from typing import Any

import torch

from steering_core.exchange.torch_file import load_torch, save_torch, to_float32
from steering_core.exchange.vector_file import (
    VectorFile,
    Written,
    check_stream,
    read_at,
    vector_file,
)
from steersweep.errors import UserError

TOOL = "steering-vectors"
CLASS_NAME = "steering_vectors.steering_vector.SteeringVector"
_LAYER_TYPE = "decoder_block"


class StandIn:
    """Takes the attributes of a saved ``SteeringVector``; has no behaviour."""


def from_value(value: Any, where: str) -> VectorFile:
    """The vectors of a ``SteeringVector`` or of its arguments.

    Raises:
        UserError: neither, another layer type, a negative block, or a tensor that is no vector.
    """
    fields = vars(value) if isinstance(value, StandIn) else value
    activations = fields.get("layer_activations") if isinstance(fields, dict) else None
    if not isinstance(activations, dict) or not activations:
        raise UserError(
            f"{where}: {TOOL} files hold layer_activations by block, but there are none"
        )
    layer_type = fields.get("layer_type", _LAYER_TYPE)
    if layer_type != _LAYER_TYPE:
        raise UserError(
            f"{where}: vectors of layer_type {layer_type!r}; only {_LAYER_TYPE}, the stream after "
            "a block, can be imported"
        )
    whole = {}
    for block, tensor in activations.items():
        if isinstance(block, bool) or not isinstance(block, int) or block < 0:
            raise UserError(f"{where}: block numbers start at 0, got {block!r}")
        if not isinstance(tensor, torch.Tensor) or tensor.squeeze().ndim != 1:
            raise UserError(f"{where}: block {block} has no vector [width]")
        whole[block + 1] = to_float32(tensor.squeeze(), where)
    provenance = {"imported_from": TOOL, **read_at(sorted(whole))}
    return vector_file(whole, provenance, where)


def load(data: bytes, where: str) -> Any:
    """What a file of ``torch.save`` holds, a ``SteeringVector`` as a ``StandIn``."""
    return load_torch(data, where, [(StandIn, CLASS_NAME)])


def write(file: VectorFile) -> Written:
    """The arguments of a ``SteeringVector``."""
    check_stream(file, TOOL)
    activations = {
        layer - 1: torch.from_numpy(vector.copy()) for layer, vector in file.vectors.whole.items()
    }
    notes = [f"{TOOL} has no place for provenance"]
    if file.embeddings is not None:
        notes.append(f"{TOOL} has no place for the row before the first block")
    content = {"layer_activations": activations, "layer_type": _LAYER_TYPE}
    return Written(save_torch(content), tuple(notes))
