"""Steps on a local file system from which `LocalStorage` builds its commit."""

import errno
import fcntl
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from cluster.errors import StorageUnavailableError, TransientStorageError

_FOLDER_MODE = 0o775  # below the umask; never writable by the world
_FILE_MODE = 0o664
_GUARD_WAIT_S = 10.0
_NO_LOCKS = frozenset({errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP})
_REASONS = {
    errno.ENOSPC: "the disk is full; free space or choose another output",
    errno.EDQUOT: "the disk quota is used up; free space or choose another output",
    errno.EACCES: "no permission; change the permissions or choose another output",
    errno.EPERM: "not permitted; change the permissions or choose another output",
    errno.EROFS: "the file system is read-only; choose another output",
    errno.ENOTDIR: "part of the path is not a folder; choose another output",
    errno.EFBIG: "the limit on the size of a file is reached; raise it (`ulimit -f`)",
    errno.EMFILE: "too many open files; raise the limit (`ulimit -n`)",
}
# What a file server that is being restarted, or a guard that stays taken, answers with.
_TRANSIENT = frozenset({errno.EIO, errno.ESTALE, errno.ETIMEDOUT, errno.EAGAIN, errno.EINTR})


@contextmanager
def os_errors(action: str, path: Path) -> Iterator[None]:
    """Turn any `OSError` inside into a `StorageUnavailableError` of one line.

    One that may pass becomes a `TransientStorageError`.
    """
    try:
        yield
    except OSError as error:
        reason = _REASONS.get(error.errno or 0, error.strerror or type(error).__name__)
        kind = TransientStorageError if error.errno in _TRANSIENT else StorageUnavailableError
        raise kind(f"cannot {action} {path}: {reason}") from error


def write_new(path: Path, data: bytes) -> None:
    """Write and fsync a file that must not exist; leave none behind on failure."""
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, _FILE_MODE)
    try:
        with os.fdopen(fd, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
    except BaseException:  # also an interrupt must not leave half a file
        path.unlink(missing_ok=True)
        raise


def sync_folder(folder: Path) -> None:
    """Make the names in `folder` durable."""
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(fd)
    except OSError as error:
        if error.errno != errno.EINVAL:  # some network file systems cannot sync a folder
            raise
    finally:
        os.close(fd)


def make_folders(folder: Path) -> None:
    """Create `folder` and its parents, not writable by the world, and make them durable."""
    if folder.is_dir():
        return
    make_folders(folder.parent)
    with suppress(FileExistsError):
        folder.mkdir(mode=_FOLDER_MODE)
    sync_folder(folder.parent)


def nearest_folder(path: Path) -> Path:
    """Return `path` or its nearest ancestor that exists."""
    while not path.exists() and path != path.parent:
        path = path.parent
    return path


def file_clock(folder: Path, probe_name: str) -> float:
    """Return the present time by the clock that stamps files in `folder`, as a Unix time.

    On a network file system that is the server's clock. Falls back to this machine's clock where
    nothing can be written.
    """
    probe = folder / probe_name
    try:
        write_new(probe, b"")
        try:
            return probe.stat().st_mtime
        finally:
            probe.unlink(missing_ok=True)
    except OSError:
        return time.time()


@contextmanager
def guard(path: Path) -> Iterator[None]:
    """Hold the lock file `path`: one thread of one process at a time, freed when it dies.

    The file is removed before the lock is dropped, so a waiter that locked a removed file must
    look again. Raises `TimeoutError` (an `OSError`) when the lock stays taken for 10 s.
    """
    deadline = time.monotonic() + _GUARD_WAIT_S
    while True:
        fd = os.open(path, os.O_RDWR | os.O_CREAT, _FILE_MODE)
        try:
            if _lock(fd) and _is_current(fd, path):
                try:
                    yield
                finally:
                    path.unlink(missing_ok=True)
                return
        finally:
            os.close(fd)
        if time.monotonic() > deadline:
            raise TimeoutError(errno.ETIMEDOUT, "locked by another process", str(path))
        time.sleep(0.005)


def _lock(fd: int) -> bool:
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError as error:
        # What is guarded saves work and keeps nothing safe, so a file system without locks will do.
        if error.errno not in _NO_LOCKS:
            raise
    return True


def _is_current(fd: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(fd), path.stat())
    except FileNotFoundError:
        return False
