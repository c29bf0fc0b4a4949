"""What can go wrong in `cluster`, by who has to act.

Each error takes one message and nothing else, so that it survives pickling between processes.
"""


class ClusterError(Exception):
    """Base of every error that `cluster` raises on purpose."""


class UserActionError(ClusterError):
    """The user must change something.

    The message is one line: what, the value, the limit, what to do. The command line prints it
    without a traceback and exits with 2.
    """


class StorageUnavailableError(UserActionError):
    """The store cannot be used: missing bucket, no permission, unreachable, full, read-only."""


class TransientStorageError(StorageUnavailableError):
    """The store was asked for long enough and did not answer; it may do so later."""


class LeaseHeldError(UserActionError):
    """Another driver holds the output."""


class ObjectNotFoundError(ClusterError):
    """No object is stored under the key."""


class CorruptPartError(ClusterError):
    """A part does not open, does not match its digest, or is not what it was asked for as."""


class NewerPartError(CorruptPartError):
    """A newer version wrote the part: it is not to be made again by this one."""


class LostCallError(ClusterError):
    """A call that another process or node was making brought no result, for no fault of its own."""
