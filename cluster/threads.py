"""Threads for requests that mostly wait."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing.pool import ThreadPool


@contextmanager
def thread_pool(num_threads: int) -> Iterator[ThreadPool]:
    """A pool for calls whose results are all taken, by `imap`, inside the context.

    Leaving it waits for nothing, and neither does the end of the process, as it would for the
    threads of `concurrent.futures`: after Ctrl-C or an error, what has not begun is dropped, and
    what is under way is left to itself.
    """
    with ThreadPool(num_threads) as pool:  # terminates it
        yield pool
