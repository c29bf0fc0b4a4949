"""Files of steering vectors in a folder or a bucket, read in any format, written whole or not."""

from __future__ import annotations

import hashlib
import uuid

from cluster.errors import ObjectNotFoundError
from cluster.storage import PutOutcome, Storage, StorageSpec
from steering_core.errors import InputError
from steering_core.exchange.formats import Format, read_vectors
from steering_core.exchange.vector_file import VectorFile


def read_vector_file(uri: str, endpoint_url: str | None = None) -> tuple[Format, VectorFile]:
    """The format of a file and its vectors.

    Raises:
        InputError: no such file, or none of vectors.
        StorageUnavailableError: it cannot be read.
    """
    storage, key = _place(uri, endpoint_url)
    try:
        data = storage.read(key)
    except ObjectNotFoundError:
        raise InputError(f"{uri}: no such file of vectors") from None
    return read_vectors(data, uri)


def write_vector_file(
    uri: str, data: bytes, *, replaces: bool = False, endpoint_url: str | None = None
) -> None:
    """Put the content there, complete or not at all.

    Raises:
        InputError: something else is there, and it is not to be replaced.
        StorageUnavailableError: it cannot be written.
    """
    storage, key = _place(uri, endpoint_url)
    if replaces:
        storage.replace(key, data)
        return
    digest = hashlib.sha256(data).hexdigest()
    outcome = storage.put_if_absent(key, data, attempt=uuid.uuid4().hex, digest=digest)
    if outcome is PutOutcome.LOST:
        raise InputError(f"{uri} is there already; give another name, or --force")


def _place(uri: str, endpoint_url: str | None) -> tuple[Storage, str]:
    """The folder that a file is in, and its name there."""
    folder, _, name = uri.rpartition("/")
    if name in ("", ".", "..") or (uri.startswith("s3://") and uri.count("/") < 3):
        raise InputError(f"{uri!r} names no file")
    root = folder or ("/" if uri.startswith("/") else ".")
    return StorageSpec(root, endpoint_url).open(), name
