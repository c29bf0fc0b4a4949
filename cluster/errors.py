"""What can go wrong in `cluster`.

What the user must change is a `UserError`: those below that can also be told apart by who raised
them, and plain ones. Each takes one message, so that it survives pickling between processes.
"""

from steersweep.errors import StopRunError, UserError


class ClusterError(Exception):
    """Base of the errors that callers of `cluster` tell apart."""


class StorageUnavailableError(ClusterError, StopRunError):
    """The store cannot be used: missing bucket, no permission, unreachable, full, read-only."""


class TransientStorageError(StorageUnavailableError):
    """The store did not answer within the time allowed; it may do so later.

    A run tries again after it.
    """


class LeaseHeldError(ClusterError, StopRunError):
    """Another driver holds the output."""


class ObjectNotFoundError(ClusterError):
    """No object is stored under the key."""


class CorruptPartError(ClusterError, UserError):
    """A part does not open, does not match its digest, or belongs to another task."""


class NewerPartError(CorruptPartError):
    """A newer version wrote the part, so this one must not recompute it."""


class LostCallError(ClusterError):
    """A call in another process or on another node ended without a result; the call can be made
    again.
    """
