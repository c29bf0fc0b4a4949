"""What a file of steering vectors holds, whatever its format, and how layers are counted.

A layer L counts hidden states: 1 is the stream behind the first block, N behind the last. In other
tools' numbers::

    layer L                  blocks.{L-1}.resid_post
    persona_vectors          row L; row 0 is the stream before the first block (the embeddings)
    repeng, llama.cpp        direction.{L-1}; llama.cpp takes none for the first block
    steering-vectors         key L-1 of layer_activations

persona_vectors and repeng read a vector of the last block from ``hidden_states[-1]``, which is
behind the final norm; they add it before that norm, as everybody does.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from safetensors.numpy import load as load_tensors
from safetensors.numpy import save as save_tensors

from steering_core.hook_points import HookPoint, hook_point_of_layer
from steering_core.vectors import (
    FOLD_SIZES_KEY,
    STREAM_NORM_KEY,
    UNIT_KEY,
    SteeringVectors,
    from_safetensors,
    safetensors_metadata,
    to_safetensors,
)
from steersweep.errors import UserError

EMBEDDINGS = "embeddings"
"""Name of the tensor for the stream before the first block, which no layer number has."""

NUM_BLOCKS = "num_blocks"
MODEL_TYPE = "model_type"
_READ = "read.layer."


@dataclass(frozen=True)
class VectorFile:
    """Vectors by layer, and where they are from.

    Attributes:
        provenance: texts; ``read.layer.<L>`` names the hook point that a vector was read at.
        embeddings: [D] float32, of the stream before the first block; None where there is none.
    """

    vectors: SteeringVectors
    provenance: Mapping[str, str]
    embeddings: np.ndarray | None = None

    @property
    def layers(self) -> tuple[int, ...]:
        return tuple(sorted(self.vectors.whole))

    @property
    def width(self) -> int:
        return len(next(iter(self.vectors.whole.values())))

    @property
    def num_folds(self) -> int:
        return max((len(folds) for folds in self.vectors.folds.values()), default=0)

    def read_point(self, layer: int) -> HookPoint | None:
        """Where the provenance says that a layer's vector was read; None where it does not."""
        said = self.provenance.get(f"{_READ}{layer}", "").split(" ")[0]
        return HookPoint.parse(said) if said else None

    def of_fold(self, fold: int) -> VectorFile:
        """The vectors of one fold as if they were the whole; raises UserError for no such fold."""
        if not 0 <= fold < self.num_folds:
            have = f"folds 0..{self.num_folds - 1}" if self.num_folds else "no folds"
            raise UserError(f"there is no fold {fold}; the file has {have}")
        whole = {layer: folds[fold] for layer, folds in self.vectors.folds.items()}
        return replace(
            self,
            vectors=SteeringVectors(whole, {}),
            provenance={**self.provenance, "fold": str(fold)},
        )

    def of_layers(self, layers: Sequence[int]) -> VectorFile:
        """Some of the layers; raises UserError for one that the file does not have."""
        missing = sorted(set(layers) - set(self.layers))
        if missing:
            have = ", ".join(map(str, self.layers))
            raise UserError(f"there is no layer {missing[0]}; the file has {have}")
        left_out = {
            f"{prefix}{layer}"
            for layer in set(self.layers) - set(layers)
            for prefix in (_READ, "digest.layer.", STREAM_NORM_KEY)
        }
        return VectorFile(
            SteeringVectors(
                {layer: v for layer, v in self.vectors.whole.items() if layer in layers},
                {layer: f for layer, f in self.vectors.folds.items() if layer in layers},
            ),
            {k: v for k, v in self.provenance.items() if k not in left_out},
        )


@dataclass(frozen=True)
class Written:
    """A file's content, and what the format could not hold, a line each."""

    data: bytes
    notes: tuple[str, ...] = ()


def vector_file(
    whole: Mapping[int, np.ndarray],
    provenance: Mapping[str, str],
    where: str,
    embeddings: np.ndarray | None = None,
) -> VectorFile:
    """The file of vectors read from elsewhere, in the order of their layers.

    Raises:
        UserError: none, different widths, or a value that is not finite.
    """
    rows = {**({} if embeddings is None else {0: embeddings}), **dict(sorted(whole.items()))}
    if not whole:
        raise UserError(f"{where}: the file holds no vector")
    widths = {len(vector) for vector in rows.values()}
    if len(widths) > 1:
        raise UserError(f"{where}: the vectors have different widths: {sorted(widths)}")
    for layer, vector in rows.items():
        if not np.isfinite(vector).all():
            raise UserError(f"{where}: the vector of layer {layer} has values that are not finite")
    return VectorFile(
        SteeringVectors(dict(sorted(whole.items())), {}), dict(provenance), embeddings
    )


def read_at(layers: Sequence[int], last_is_normed: int | None = None) -> dict[str, str]:
    """Provenance that these layers were read behind their blocks.

    Args:
        last_is_normed: the layer that was read behind the final norm, if one was.
    """
    points = {layer: str(hook_point_of_layer(layer, "resid_post")) for layer in layers}
    if last_is_normed in points:
        points[last_is_normed] += " behind the final norm"
    return {f"{_READ}{layer}": point for layer, point in points.items()}


def check_stream(file: VectorFile, tool: str) -> None:
    """Raise UserError for a vector that was not read from the stream behind its block.

    Other tools' numbers mean that place, so the vector would be added elsewhere than it is from.
    """
    for layer in file.layers:
        said = file.read_point(layer)
        if said not in (None, hook_point_of_layer(layer, "resid_post")):
            raise UserError(
                f"layer {layer} was read at {said}, and {tool} only has the residual stream after "
                f"a block; leave the layer out"
            )


def read_native(data: bytes, where: str) -> VectorFile:
    """This project's safetensors file; see ``to_safetensors``.

    The unit of the coefficients that a sweep steered with is no part of its vectors.
    """
    stored = from_safetensors(data, where)
    vectors = SteeringVectors(stored.whole, stored.folds)
    if not vectors.whole:
        raise UserError(f"{where}: the file holds no steering vector")
    metadata = safetensors_metadata(data)
    embeddings = load_tensors(data).get(EMBEDDINGS)
    if embeddings is not None and metadata.get(f"digest.{EMBEDDINGS}") != _digest(embeddings):
        raise UserError(f"{where}: the tensor {EMBEDDINGS} does not match its digest")
    sweeps_own = (UNIT_KEY, FOLD_SIZES_KEY)
    provenance = {
        k: v for k, v in metadata.items() if not k.startswith("digest.") and k not in sweeps_own
    }
    return VectorFile(vectors, provenance, embeddings)


def write_native(file: VectorFile) -> Written:
    """As ``to_safetensors``; the row before the first block, where there is one, beside it."""
    data = to_safetensors(file.vectors, file.provenance)
    if file.embeddings is not None:
        metadata = safetensors_metadata(data)
        metadata[f"digest.{EMBEDDINGS}"] = _digest(file.embeddings)
        data = save_tensors({**load_tensors(data), EMBEDDINGS: file.embeddings}, metadata=metadata)
    return Written(data)


def _digest(vector: np.ndarray) -> str:
    return hashlib.sha256(np.ascontiguousarray(vector, dtype="<f4").tobytes()).hexdigest()
