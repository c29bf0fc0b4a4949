"""The contract of a storage.

Safety rests on `put_if_absent` alone: an object appears under its key complete or not at all, and
the first one stays. Callers may repeat a put whose outcome they do not know.
"""

import enum
import re
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import unquote, urlsplit

from steersweep.errors import UserError

_SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*)://")
_BUCKET = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{1,62}")


class PutOutcome(enum.Enum):
    """What became of a put-if-absent. After WON and ALREADY_SAME the content is stored."""

    WON = "won"
    ALREADY_SAME = "already_same"
    LOST = "lost"


@dataclass(frozen=True, slots=True)
class StoredObject:
    """One object of a listing; `key` is relative to the root.

    `version` changes when the object is written again; it is not that of `VersionedObject`.
    """

    key: str
    size_bytes: int
    version: str = field(default="", compare=False)


@dataclass(frozen=True)
class VersionedObject:
    """Content, a version that changes with the content, and seconds since it was written."""

    data: bytes
    version: str
    age_s: float


@dataclass(frozen=True)
class StorageSpec:
    """Where a storage is: picklable, and the same place in every process of a node.

    A relative path and `file://` become an absolute path. `None` for endpoint or region means the
    standard AWS variables of the process that opens it. Raises `UserError` when the URI or
    the endpoint cannot be meant.
    """

    uri: str
    s3_endpoint_url: str | None = None
    s3_region: str | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "uri", _normalise(self.uri))
        if self.s3_endpoint_url is not None:
            check_endpoint_url(self.s3_endpoint_url)

    @property
    def is_s3(self) -> bool:
        """Whether the storage is in an S3 bucket."""
        return self.uri.startswith("s3://")

    def open(self) -> "Storage":
        """Return the storage. Touches neither disk nor network."""
        return _SCHEMES[_scheme_of(self.uri)].open(self)


class Storage(ABC):
    """Objects under one root. Keys are relative posix paths; an invalid key is a `ValueError`.

    Every method raises `StorageUnavailableError` when the store cannot be used. Instances can be
    shared by threads and pickled.
    """

    def __init__(self, spec: StorageSpec) -> None:
        self.spec = spec

    def __reduce__(self) -> tuple[Callable[[StorageSpec], "Storage"], tuple[StorageSpec]]:
        return StorageSpec.open, (self.spec,)

    @property
    def uri(self) -> str:
        """The root: an absolute path or `s3://bucket/prefix`."""
        return self.spec.uri

    def uri_of(self, key: str) -> str:
        """Return the full address of `key`, for messages and for readers outside."""
        return f"{self.uri.rstrip('/')}/{key}"

    @abstractmethod
    def list(self, prefix: str = "") -> Iterator[StoredObject]:
        """Yield the objects whose key begins with `prefix`, in the order of their keys.

        Recursive; temporary names are left out; a missing root is empty.
        """

    @abstractmethod
    def read(self, key: str) -> bytes:
        """Return the content. Raises `ObjectNotFoundError`."""

    @abstractmethod
    def read_tail(self, key: str, num_bytes: int) -> bytes:
        """Return the last `num_bytes` (> 0) bytes, or all where there are fewer.

        Raises `ObjectNotFoundError`.
        """

    @abstractmethod
    def read_versioned(self, key: str) -> VersionedObject:
        """Return content, version and age as of one moment. Raises `ObjectNotFoundError`."""

    @abstractmethod
    def put_if_absent(
        self,
        key: str,
        data: bytes,
        *,
        attempt: str,
        digest: str,
        metadata: Mapping[str, str] | None = None,
    ) -> PutOutcome:
        """Store `data` under `key` unless something is there, and return what became of it.

        WON: stored by this call, or found to have been stored by this attempt. ALREADY_SAME: what
        is there has the same bytes or, where the store keeps metadata, the same digest. LOST:
        something else is there and stays. `attempt` is unique to one try of one task; `metadata`
        (ASCII) is kept where the store can.
        """

    @abstractmethod
    def replace(self, key: str, data: bytes) -> None:
        """Store `data` under `key` whatever was there. Readers see the old or the new content."""

    @abstractmethod
    def replace_if_version(self, key: str, data: bytes, version: str) -> bool:
        """Replace the object if it still has `version`; return whether it was replaced.

        Of several callers with the same version, one gets True.
        """

    @abstractmethod
    def delete(self, key: str) -> None:
        """Delete the object; a missing one is fine."""

    @abstractmethod
    def delete_if_version(self, key: str, version: str) -> bool:
        """Delete the object if it still has `version`; return whether it was deleted."""

    @abstractmethod
    def check_writable(self) -> None:
        """Prove that objects can be put, and that a second put-if-absent is refused.

        Leaves nothing behind and creates no folder, whether it returns or raises.
        """

    @abstractmethod
    def check_reachable(self) -> None:
        """Prove that the root can be listed. Only reads; a root that is still to come is fine."""

    @abstractmethod
    def hasten(self) -> None:
        """From now on wait seconds, not minutes, for a store that does not answer."""

    @abstractmethod
    def clean_temporaries(self, older_than_s: float) -> int:
        """Delete temporary objects that killed processes left; return how many."""


def _open_local(spec: StorageSpec) -> Storage:
    from cluster.storage.local import LocalStorage

    return LocalStorage(spec)


def _open_s3(spec: StorageSpec) -> Storage:
    from cluster.storage.s3 import S3Storage  # boto3 is slow to load

    return S3Storage(spec)


def check_endpoint_url(url: str) -> None:
    """Raise `UserError` unless `url` is http(s)://host[:port] without credentials."""
    parts = urlsplit(url)
    if "@" in parts.netloc:
        # The value is not repeated: it holds a secret.
        raise UserError(
            "the S3 endpoint URL must not contain credentials; put them in AWS_ACCESS_KEY_ID and "
            "AWS_SECRET_ACCESS_KEY"
        )
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise UserError(f"the S3 endpoint URL must be http(s)://host[:port], got {url!r}")


def _normalise(uri: str) -> str:
    scheme = _scheme_of(uri)
    if scheme not in _SCHEMES:
        raise UserError(
            f"unsupported storage {scheme}:// (output {uri!r}); use a path, file:// or "
            "s3://bucket/prefix"
        )
    return _SCHEMES[scheme].normalise(uri)


def _scheme_of(uri: str) -> str:
    """The scheme in lower case; that of a plain path is ``file``."""
    scheme = _SCHEME.match(uri)
    return "file" if scheme is None else scheme[1].lower()


def _normalise_file(uri: str) -> str:
    if _SCHEME.match(uri) is None:
        if not uri or "\0" in uri:
            raise UserError(f"the output must be a folder or an s3:// URI, got {uri!r}")
        try:
            return str(Path(uri).expanduser().absolute())
        except RuntimeError as error:
            raise UserError(f"the home folder in the output {uri!r} does not exist") from error
    parts = urlsplit(uri)
    if parts.netloc not in ("", "localhost") or not parts.path:
        raise UserError(f"a file URI must be file:///absolute/path, got {uri!r}")
    return str(Path(unquote(parts.path)))


def _normalise_s3(uri: str) -> str:
    bucket, _, prefix = uri.partition("://")[2].partition("/")
    segments = prefix.strip("/").split("/") if prefix.strip("/") else []
    if not _BUCKET.fullmatch(bucket):
        shown = "one with '@' or ':'" if re.search("[@:]", bucket) else repr(bucket)
        raise UserError(f"s3://bucket/prefix needs a valid bucket name, got {shown}")
    if any(s in ("", ".", "..") for s in segments) or re.search(r"[\x00-\x1f\x7f\\]", prefix):
        raise UserError(f"an S3 prefix must not have empty, '.' or '..' segments, got {prefix!r}")
    return "/".join(["s3:/", bucket, *segments])


@dataclass(frozen=True)
class Scheme:
    """The storages whose URI begins in one way.

    Attributes:
        normalise: the one way to write a URI, the same in every process of a node; ``UserError``
            if it cannot be meant.
        open: the storage of a spec. It imports its client, so that others need not load it.
    """

    normalise: Callable[[str], str]
    open: Callable[[StorageSpec], Storage]


_SCHEMES: dict[str, Scheme] = {
    "file": Scheme(_normalise_file, _open_local),
    "s3": Scheme(_normalise_s3, _open_s3),
}
"""By the part of a URI before ``://``, in lower case. A storage is one entry."""


@contextmanager
def registered(name: str, scheme: Scheme) -> Iterator[None]:
    """Know one more scheme for as long as the context lasts, in this process: for tests."""
    assert name not in _SCHEMES, f"{name} is a scheme already"
    _SCHEMES[name] = scheme
    try:
        yield
    finally:
        del _SCHEMES[name]
