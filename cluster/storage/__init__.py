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
]
