"""A log that is kept beside the results, on disk and in a bucket alike."""

from __future__ import annotations

import logging
import threading
import time
from collections import deque

from cluster.errors import ClusterError
from cluster.redaction import redact
from cluster.storage import Storage
from steersweep.errors import UserError

_MOST_BYTES = 4 * 2**20
_FORMAT = "%(asctime)s %(levelname)s %(name)s: %(message)s"


class StoredLog(logging.Handler):
    """Keeps the last 4 MiB of lines, and writes them under one key.

    A bucket cannot append, so the whole text is written each time, at most every ``every_s``
    seconds and at ``close``. A store that cannot be written to is left to the results to report.
    """

    def __init__(self, storage: Storage, key: str, *, every_s: float = 15.0) -> None:
        super().__init__(logging.INFO)
        self.setFormatter(logging.Formatter(_FORMAT))
        self._storage, self._key, self._every_s = storage, key, every_s
        self._lines: deque[str] = deque()
        self._num_bytes = 0
        self._written_at = time.monotonic()
        self._is_changed = False
        self._write_lock = threading.Lock()

    def emit(self, record: logging.LogRecord) -> None:
        """Take in one record."""
        line = redact(self.format(record))
        self._lines.append(line)
        self._num_bytes += len(line) + 1
        while self._num_bytes > _MOST_BYTES:
            self._num_bytes -= len(self._lines.popleft()) + 1
        self._is_changed = True

    def write_if_due(self) -> None:
        """Write what has come since the last time, where that is long enough ago."""
        if self._is_changed and time.monotonic() - self._written_at >= self._every_s:
            self.write()

    def write(self) -> None:
        """Write the log now; never raises."""
        with self._write_lock:
            text = "\n".join(list(self._lines)) + "\n"
            self._is_changed, self._written_at = False, time.monotonic()
            try:
                self._storage.replace(self._key, text.encode(errors="replace"))
            except (ClusterError, UserError):
                self._is_changed = True

    def close(self) -> None:
        """Write what is left."""
        if self._is_changed:
            self.write()
        super().close()
