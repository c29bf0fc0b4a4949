"""Files of steering vectors in a folder or a bucket, read in any format, written whole or not."""

from __future__ import annotations

import hashlib
import uuid
from collections.abc import Mapping, Sequence

from cluster.errors import ObjectNotFoundError
from cluster.storage import PutOutcome, Storage, StorageSpec
from jobs.identity import digest
from jobs.resources import local_path
from steering_core.exchange.formats import Format, read_vectors
from steering_core.exchange.vector_file import VectorFile
from steersweep.errors import UserError


def read_vector_file(uri: str, endpoint_url: str | None = None) -> tuple[Format, VectorFile]:
    """The format of a file and its vectors.

    Raises:
        UserError: no such file, or none of vectors.
        StorageUnavailableError: it cannot be read.
    """
    storage, key = _place(uri, endpoint_url)
    try:
        data = storage.read(key)
    except ObjectNotFoundError:
        raise UserError(f"{uri}: no such vector file") from None
    return read_vectors(data, uri)


def read_vectors_of_spec(
    uri: str,
    key: str,
    layers: Sequence[int],
    widths: Mapping[str, int],
    endpoint_url: str | None = None,
) -> VectorFile:
    """The vectors of a file that a spec names.

    Args:
        key: where the spec names it, for messages.
        layers: that are steered, of which it must have a vector each.
        widths: of the models, by name.

    Raises:
        UserError: no such file, or it lacks a layer, or is of another width.
        StorageUnavailableError: it cannot be read.
    """
    _, file = read_vector_file(local_path(uri), endpoint_url)
    missing = sorted(set(layers) - set(file.layers))
    if missing:
        have = ", ".join(map(str, file.layers))
        raise UserError(f"{key}: {uri} has no vector of layer {missing[0]}; it has {have}")
    for name, width in widths.items():
        if width != file.width:
            raise UserError(
                f"{key}: the vectors in {uri} have width {file.width}, but "
                f"models.{name} has width {width}"
            )
    return file


def content_digest(file: VectorFile) -> str:
    """Of every vector, so that a file in another format is the same."""
    return digest({str(layer): file.vectors.digest(layer) for layer in file.layers})


def write_vector_file(
    uri: str, data: bytes, *, replaces: bool = False, endpoint_url: str | None = None
) -> None:
    """Put the content there, complete or not at all.

    Raises:
        UserError: something else is there, and it is not to be replaced.
        StorageUnavailableError: it cannot be written.
    """
    storage, key = _place(uri, endpoint_url)
    if replaces:
        storage.replace(key, data)
        return
    sha256 = hashlib.sha256(data).hexdigest()
    outcome = storage.put_if_absent(key, data, attempt=uuid.uuid4().hex, digest=sha256)
    if outcome is PutOutcome.LOST:
        raise UserError(f"{uri} already exists; give another name, or use --force")


def _place(uri: str, endpoint_url: str | None) -> tuple[Storage, str]:
    """The folder that a file is in, and its name there."""
    folder, _, name = uri.rpartition("/")
    if name in ("", ".", "..") or (uri.startswith("s3://") and uri.count("/") < 3):
        raise UserError(f"{uri!r} is not the name of a file")
    root = folder or ("/" if uri.startswith("/") else ".")
    return StorageSpec(root, endpoint_url).open(), name
