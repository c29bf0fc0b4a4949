"""moto with listings whose pages cost what they hold, as S3's do.

moto filters and sorts all keys of a bucket for each page of 1,000, so listing 150,000 of them takes
minutes of the server's time, none of it the client's.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from unittest import mock

from moto.s3.models import FakeBucket, S3Backend


@contextmanager
def sorted_listing() -> Iterator[None]:
    """While open, moto's servers of this process keep a bucket's keys sorted between pages."""
    listed: dict[str, list[str]] = {}

    def list_objects_v2(
        backend: S3Backend,
        bucket: FakeBucket,
        prefix: str | None,
        delimiter: str | None,
        continuation_token: str | None,
        start_after: str | None,
        max_keys: int,
    ) -> tuple[list[Any], bool, str | None]:
        assert not delimiter, "folders are not listed"
        # A listing begins with what is there then; what is deleted meanwhile is left out.
        if continuation_token is None:
            listed[bucket.name] = sorted(bucket.keys.keys())
        names = listed[bucket.name]
        prefix = prefix or ""
        at = bisect_left(names, prefix)
        after = backend._pagination_tokens.get(continuation_token) or start_after
        if after:
            at = max(at, bisect_right(names, after))
        found: list[Any] = []
        while at < len(names) and names[at].startswith(prefix) and len(found) < max_keys:
            if names[at] in bucket.keys:
                found.append(bucket.keys[names[at]])
            at += 1
        is_truncated = at < len(names) and names[at].startswith(prefix)
        token = None
        if is_truncated:
            token = f"after {found[-1].name}"
            backend._pagination_tokens[token] = found[-1].name
        return found, is_truncated, token

    with mock.patch.object(S3Backend, "list_objects_v2", list_objects_v2):
        yield
