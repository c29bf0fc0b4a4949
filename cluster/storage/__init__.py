"""Storage of a run: a local folder or a prefix in an S3 bucket, behind one interface.

Importing this package loads neither boto3 nor pyarrow.
"""

from cluster.storage.base import (
    PutOutcome,
    Storage,
    StorageSpec,
    StoredObject,
    VersionedObject,
)

__all__ = [
    "PutOutcome",
    "Storage",
    "StorageSpec",
    "StoredObject",
    "VersionedObject",
    "open_storage",
]


def open_storage(
    uri: str, *, s3_endpoint_url: str | None = None, s3_region: str | None = None
) -> Storage:
    """Return the storage rooted at `uri`: a plain path, `file://`, or `s3://bucket/prefix`.

    Opening touches neither disk nor network. Raises `UserError` for any other scheme or a
    malformed URI. Endpoint and region default to the standard AWS variables.
    """
    return StorageSpec(uri, s3_endpoint_url, s3_region).open()
