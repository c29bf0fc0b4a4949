"""A storage in a local or shared folder.

Commit: an exclusive temporary file in the same folder, fsync, `os.link` to the final name (which
fails if the name exists), fsync of the folder, unlink. A process killed at any point leaves at most
a temporary file. Writing under the final name would leave partial files that look finished.
"""

import errno
import hashlib
import os
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path

from cluster.errors import ObjectNotFoundError, StorageUnavailableError
from cluster.storage import files
from cluster.storage.base import PutOutcome, Storage, StorageSpec, StoredObject, VersionedObject
from cluster.storage.keys import (
    check_attempt,
    check_key,
    check_prefix,
    is_temporary,
    temporary_name,
)

_NO_LINKS = frozenset({errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS})
_PROBE_BYTES = 4096


class LocalStorage(Storage):
    """Objects are files below one folder, which is created with the first object."""

    def __init__(self, spec: StorageSpec) -> None:
        super().__init__(spec)
        self._root = Path(spec.uri)

    def list(self, prefix: str = "") -> Iterator[StoredObject]:
        """Yield the files whose key begins with `prefix`, in the order of their keys."""
        return self._list(check_prefix(prefix))

    def _list(self, prefix: str) -> Iterator[StoredObject]:
        found: dict[str, os.stat_result] = {}
        top = len(str(self._root / "-")) - 1
        with files.os_errors("list", self._root):
            for entry in _walk(self._root / prefix.rpartition("/")[0]):
                key = entry.path[top:]
                if key.startswith(prefix) and not is_temporary(key):
                    with suppress(FileNotFoundError):  # deleted while we list
                        found[key] = entry.stat()
        for key in sorted(found):
            its = found[key]
            version = f"{its.st_mtime_ns}-{its.st_size}-{its.st_ino}"
            yield StoredObject(key, its.st_size, version)

    def read(self, key: str) -> bytes:
        """Return the content."""
        return self._read(key, None)

    def read_tail(self, key: str, num_bytes: int) -> bytes:
        """Return the last `num_bytes` bytes, or all where there are fewer."""
        return self._read(key, num_bytes)

    def read_versioned(self, key: str) -> VersionedObject:
        """Return content, digest of the content, and seconds since it was written."""
        path = self._path(key)
        with _reading(path), path.open("rb") as file:
            data = file.read()
            written = os.fstat(file.fileno()).st_mtime
        return VersionedObject(data, _digest(data), self._seconds_since(written, path.parent))

    def put_if_absent(
        self,
        key: str,
        data: bytes,
        *,
        attempt: str,
        digest: str,  # noqa: ARG002  a file has nowhere to keep it: bytes are compared
        metadata: Mapping[str, str] | None = None,  # noqa: ARG002  likewise
    ) -> PutOutcome:
        """Link a finished temporary file to the final name, unless that name exists."""
        path = self._path(key)
        with files.os_errors("write", path):
            temporary = self._write_temporary(path, data, check_attempt(attempt))
            try:
                while not _link(temporary, path):
                    with suppress(FileNotFoundError):  # deleted since: link again
                        same = path.read_bytes() == data
                        return PutOutcome.ALREADY_SAME if same else PutOutcome.LOST
                files.sync_folder(path.parent)
            finally:
                temporary.unlink(missing_ok=True)
        return PutOutcome.WON

    def replace(self, key: str, data: bytes) -> None:
        """Rename a finished temporary file over the final name."""
        path = self._path(key)
        with files.os_errors("write", path):
            self._replace(path, data)

    def replace_if_version(self, key: str, data: bytes, version: str) -> bool:
        """Replace the file if its content still has the digest `version`."""
        path = self._path(key)
        with files.os_errors("write", path):
            if not path.exists():
                return False
            with files.guard(_guard_path(path)):
                if not _has_version(path, version):
                    return False
                self._replace(path, data)
                return True

    def delete(self, key: str) -> None:
        """Unlink the file; a missing one is fine."""
        path = self._path(key)
        with files.os_errors("delete", path):
            path.unlink(missing_ok=True)

    def delete_if_version(self, key: str, version: str) -> bool:
        """Unlink the file if its content still has the digest `version`."""
        path = self._path(key)
        with files.os_errors("delete", path):
            if not path.exists():
                return False
            with files.guard(_guard_path(path)):
                if not _has_version(path, version):
                    return False
                path.unlink()
                return True

    def check_writable(self) -> None:
        """Write, link and unlink a probe in the root or its nearest existing ancestor."""
        with files.os_errors("write to", self._root):
            folder = files.nearest_folder(self._root)
            name = f"steersweep-probe.{uuid.uuid4().hex}"
            first, second, target = (
                folder / temporary_name(name, part) for part in ("first", "second", "target")
            )
            try:
                files.write_new(first, bytes(_PROBE_BYTES))
                files.write_new(second, b"")
                if not _link(first, target) or _link(second, target):
                    raise StorageUnavailableError(
                        f"cannot write to {self._root}: hard links of this file system "
                        "overwrite files; choose another output"
                    )
            finally:
                for probe in (first, second, target):
                    probe.unlink(missing_ok=True)

    def check_reachable(self) -> None:
        """List the root or its nearest existing ancestor."""
        with files.os_errors("read", self._root):
            next(os.scandir(files.nearest_folder(self._root)), None)

    def hasten(self) -> None:
        """Do nothing: a file system is asked once."""

    def clean_temporaries(self, older_than_s: float) -> int:
        """Unlink temporary files last written more than `older_than_s` ago; return how many."""
        num_deleted = 0
        with files.os_errors("clean", self._root):
            for path in [Path(e.path) for e in _walk(self._root) if is_temporary(e.name)]:
                with suppress(FileNotFoundError):  # finished or cleaned by somebody else
                    if self._seconds_since(path.stat().st_mtime, path.parent) > older_than_s:
                        path.unlink()
                        num_deleted += 1
        return num_deleted

    def _path(self, key: str) -> Path:
        return self._root / check_key(key)

    def _write_temporary(self, path: Path, data: bytes, attempt: str) -> Path:
        files.make_folders(path.parent)
        # The suffix keeps apart two calls with one attempt, such as a repeat after an interrupt.
        temporary = path.with_name(temporary_name(path.name, f"{attempt}.{uuid.uuid4().hex[:8]}"))
        files.write_new(temporary, data)
        return temporary

    def _replace(self, path: Path, data: bytes) -> None:
        temporary = self._write_temporary(path, data, "replace")
        try:
            temporary.replace(path)
        finally:
            temporary.unlink(missing_ok=True)
        files.sync_folder(path.parent)

    def _read(self, key: str, num_bytes: int | None) -> bytes:
        path = self._path(key)
        with _reading(path), path.open("rb") as file:
            if num_bytes is not None:
                size = os.fstat(file.fileno()).st_size
                file.seek(max(0, size - num_bytes))
            return file.read()

    def _seconds_since(self, written: float, folder: Path) -> float:
        now = files.file_clock(folder, temporary_name("clock", uuid.uuid4().hex))
        return max(0.0, now - written)


@contextmanager
def _reading(path: Path) -> Iterator[None]:
    with files.os_errors("read", path):
        try:
            yield
        except (FileNotFoundError, IsADirectoryError) as error:
            raise ObjectNotFoundError(f"{path} does not exist") from error


def _walk(folder: Path) -> Iterator[os.DirEntry[str]]:
    """Yield the files below `folder`; what is missing, or goes missing meanwhile, is empty."""
    pending = [str(folder)]
    while pending:
        with suppress(FileNotFoundError), os.scandir(pending.pop()) as entries:
            for entry in entries:
                if entry.is_dir(follow_symlinks=False):
                    pending.append(entry.path)
                else:
                    yield entry


def _link(temporary: Path, path: Path) -> bool:
    """Return whether `path` is now a link to `temporary`; False if something else is there."""
    try:
        path.hardlink_to(temporary)
    except FileExistsError:
        # A network file system may repeat a link whose reply was lost, and find its own.
        return path.exists() and path.samefile(temporary)
    except OSError as error:
        if error.errno in _NO_LINKS:
            raise StorageUnavailableError(
                f"cannot write {path}: the file system has no hard links; choose another output"
            ) from error
        raise
    return True


def _guard_path(path: Path) -> Path:
    return path.with_name(temporary_name(path.name, "guard"))


def _has_version(path: Path, version: str) -> bool:
    try:
        return _digest(path.read_bytes()) == version
    except FileNotFoundError:
        return False


def _digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()
