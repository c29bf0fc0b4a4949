"""Files of persona_vectors (Chen et al. 2025): one tensor [N + 1, D] of ``torch.save``.

Row L is the stream behind block L, counted from 1; row 0 the stream before the first block. The
rows are those of transformers' ``hidden_states``, so the last one is behind the final norm. A row
of zeros stands for a layer without a vector: the format has a row for each.

Source: ``generate_vec.py`` (rows) and ``activation_steer.py`` (``layer_idx=layer-1``) of the code
published with the paper.
"""

from __future__ import annotations

import numpy as np
import torch

from steering_core.exchange.torch_file import save_torch, to_float32
from steering_core.exchange.vector_file import (
    NUM_BLOCKS,
    VectorFile,
    Written,
    check_stream,
    read_at,
    vector_file,
)
from steersweep.errors import UserError

TOOL = "persona_vectors"
_FEWEST_ROWS = 2


def from_tensor(value: torch.Tensor, where: str) -> VectorFile:
    """The vectors of such a tensor.

    Raises:
        UserError: another shape or dtype, no row but zeros, or a value that is not finite.
    """
    if value.ndim != 2 or len(value) < _FEWEST_ROWS or value.shape[1] < 1:
        raise UserError(
            f"{where}: {TOOL} files hold a tensor [blocks + 1, width], got {list(value.shape)}"
        )
    rows_LD = to_float32(value, where)
    num_blocks = len(rows_LD) - 1
    # By their bits: -0.0 is a value that somebody wrote.
    whole = {n: row for n, row in enumerate(rows_LD) if n > 0 and any(row.tobytes())}
    provenance = {
        "imported_from": f"{TOOL}, a tensor {list(value.shape)}",
        NUM_BLOCKS: str(num_blocks),
        **read_at(sorted(whole), last_is_normed=num_blocks),
    }
    embeddings = rows_LD[0] if any(rows_LD[0].tobytes()) else None
    return vector_file(whole, provenance, where, embeddings)


def write(file: VectorFile, num_blocks: int | None = None) -> Written:
    """A file's content with a row for each of ``num_blocks`` blocks, and one before them.

    Args:
        num_blocks: of the model; where left out, what the provenance says.

    Raises:
        UserError: the number of blocks is not known, or too small for a layer.
    """
    check_stream(file, TOOL)
    known = file.provenance.get(NUM_BLOCKS)
    if num_blocks is None and known is None:
        raise UserError(
            f"{TOOL} files have a row for every block; give the model's number of blocks"
        )
    num_rows = 1 + (int(known or 0) if num_blocks is None else num_blocks)
    if file.layers[-1] >= num_rows:
        raise UserError(f"layer {file.layers[-1]} is not in 1..{num_rows - 1}, the model's blocks")
    rows_LD = np.zeros((num_rows, file.width), dtype=np.float32)
    for layer, vector in file.vectors.whole.items():
        rows_LD[layer] = vector
    if file.embeddings is not None:
        rows_LD[0] = file.embeddings
    empty = sorted(set(range(1, num_rows)) - set(file.layers))
    notes = [f"rows of zeros for layers without a vector: {empty}"] if empty else []
    return Written(save_torch(torch.from_numpy(rows_LD)), tuple(notes))
