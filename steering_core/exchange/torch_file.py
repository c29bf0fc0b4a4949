"""Reading files of ``torch.save`` that somebody else wrote: tensors and plain data, no code."""

from __future__ import annotations

import io
import pickle
import warnings
import zipfile
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from steersweep.errors import UserError


def load_torch(data: bytes, where: str, stand_ins: Sequence[tuple[type, str]] = ()) -> Any:
    """What a file holds, loaded with ``weights_only=True``: nothing in it is run.

    Args:
        stand_ins: classes to build in place of others, by the others' full names.

    Raises:
        UserError: not such a file, or one that needs code to be loaded.
    """
    allowed: list[Any] = list(stand_ins)
    try:
        with torch.serialization.safe_globals(allowed), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of pickle's version: what cannot be read raises
            return torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)
    except pickle.UnpicklingError:
        raise UserError(
            f"{where}: not a torch.save file, or it holds more than tensors and plain data; such "
            "files are not loaded, because loading them runs their code"
        ) from None
    except (RuntimeError, EOFError, ValueError, TypeError, KeyError, zipfile.BadZipFile) as error:
        first = str(error).partition("\n")[0].partition(". ")[0] or type(error).__name__
        raise UserError(f"{where}: not a complete torch.save file: {first}") from None


def save_torch(value: Any) -> bytes:
    """The content of a file of ``torch.save``."""
    sink = io.BytesIO()
    torch.save(value, sink)
    return sink.getvalue()


def to_float32(tensor: torch.Tensor, where: str) -> np.ndarray:
    """A copy as float32, exact for bfloat16, float16 and float32.

    Raises:
        UserError: another dtype, which float32 does not hold.
    """
    if tensor.dtype not in (torch.float32, torch.bfloat16, torch.float16):
        raise UserError(
            f"{where}: vectors must be float32, bfloat16 or float16, got {tensor.dtype}"
        )
    values: np.ndarray = tensor.detach().float().contiguous().numpy().copy()
    return values
