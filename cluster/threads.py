"""Threads for requests that mostly wait."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager


@contextmanager
def thread_pool(max_threads: int) -> Iterator[ThreadPoolExecutor]:
    """A pool for calls whose results are all taken inside the context.

    Leaving it waits for nothing: after Ctrl-C or an error, what has not begun is dropped, and what
    is under way ends by itself.
    """
    pool = ThreadPoolExecutor(max_threads)
    try:
        yield pool
    finally:
        pool.shutdown(wait=False, cancel_futures=True)
