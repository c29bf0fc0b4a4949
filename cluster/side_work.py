"""What the driver does besides its loop: in threads, so that the loop never waits for it.

The loop hears replicas, renews its view of time and hands out work. Reading parts to decide what
follows from them, writing a file for each group, asking a paid judge: all of that takes as long as
a store or a server takes. It runs here, in *lanes*: what is submitted to one lane runs in order, in
one thread, so what shares a lane needs no locks. Different lanes run side by side.
"""

from __future__ import annotations

import logging
import queue
import threading
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from cluster.tasks import Task

logger = logging.getLogger(__name__)

Work = Callable[[], Iterable[Task]]
"""Does something and returns the tasks that the scheduler can run because of it."""


@dataclass(frozen=True)
class _Done:
    """How one piece of work ended."""

    tasks: tuple[Task, ...] = ()
    error: BaseException | None = None


class SideWork:
    """Threads of the driver, one for each lane."""

    def __init__(self) -> None:
        self._lanes: dict[str, queue.SimpleQueue[Work | None]] = {}
        self._threads: list[threading.Thread] = []
        self._done: queue.SimpleQueue[_Done] = queue.SimpleQueue()
        self._num_pending = 0
        self._lock = threading.Lock()
        self._is_closed = False

    def submit(self, lane: str, work: Work) -> None:
        """Run `work` in the lane, after all that was submitted before; any thread may call."""
        with self._lock:
            if self._is_closed:
                return
            self._num_pending += 1
            if lane not in self._lanes:
                self._lanes[lane] = queue.SimpleQueue()
                # A daemon: a request that never returns must not keep the process alive.
                thread = threading.Thread(
                    target=self._run, args=(self._lanes[lane],), name=f"driver-{lane}", daemon=True
                )
                self._threads.append(thread)
                thread.start()
            self._lanes[lane].put(work)

    @property
    def is_busy(self) -> bool:
        """Whether something is under way, or has ended and has not been polled."""
        return self._num_pending > 0

    def poll(self) -> list[Task]:
        """Tasks that follow from what has ended since the last call.

        Raises:
            BaseException: what the first piece of work that failed has raised.
        """
        tasks: list[Task] = []
        while True:
            try:
                done = self._done.get_nowait()
            except queue.Empty:
                return tasks
            # Counted down here and not in the thread: until its tasks are handed on, it is busy.
            with self._lock:
                self._num_pending -= 1
            if done.error is not None:
                raise done.error
            tasks += done.tasks

    def close(self, patience_s: float = 0.0) -> bool:
        """Drop what has not begun, and wait for what is under way; whether it ended in time.

        Args:
            patience_s: for all lanes together.
        """
        with self._lock:
            self._is_closed = True
            lanes = list(self._lanes.values())
        for lane in lanes:
            _empty(lane)
            lane.put(None)
        deadline = time.monotonic() + patience_s
        for thread in self._threads:
            thread.join(max(0.0, deadline - time.monotonic()))
        return not any(thread.is_alive() for thread in self._threads)

    def _run(self, lane: queue.SimpleQueue[Work | None]) -> None:
        while (work := lane.get()) is not None:
            try:
                done = _Done(tuple(work()))
            except BaseException as error:
                done = _Done(error=error)
            self._done.put(done)


def _empty(lane: queue.SimpleQueue[Work | None]) -> None:
    while not lane.empty():
        try:
            lane.get_nowait()
        except queue.Empty:
            return
