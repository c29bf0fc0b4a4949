"""Results of many calls, in order, made by this process, by several, or by tasks on a cluster."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from queue import SimpleQueue
from threading import Event, Lock
from typing import Protocol, TypeVar

from cluster.errors import LostCallError
from cluster.threads import thread_pool
from jobs.console import warn
from jobs.processes.process import Process, ProcessEndedError

Value = TypeVar("Value")
Call = Callable[[], Value]


class Begin(Protocol):
    """Begins a call somewhere, and gives what waits for its result."""

    def __call__(self, call: Call[Value], /) -> Call[Value]:
        """The result of the call, once it is called.

        Raises:
            LostCallError: whoever made the call is gone.
        """


def here() -> AbstractContextManager[Begin]:
    """This process, which makes a call only when its result is wanted."""

    def begin(call: Call[Value], /) -> Call[Value]:
        return call

    return nullcontext(begin)


@contextmanager
def processes(num: int, what: str) -> Iterator[Begin]:
    """So many processes of this machine. Leaving the context ends them, whatever they do.

    Args:
        what: each call in words, for messages: ``reading rows``.
    """
    idle: SimpleQueue[Process | None] = SimpleQueue()
    started: list[Process] = []
    lock, is_over = Lock(), Event()

    def start() -> Process:
        with lock:
            if is_over.is_set():  # nobody would end it
                raise LostCallError(f"{what} was given up")
            started.append(Process())
            return started[-1]

    def made(call: Call[Value]) -> Value:
        process = idle.get() or start()
        try:
            process.begin(what, call)
            value: Value = process.result()
        except ProcessEndedError as error:
            idle.put(None)
            raise LostCallError(str(error)) from error
        except BaseException:
            idle.put(process)
            raise
        idle.put(process)
        return value

    try:
        # A thread waits for each process, so that none has to wait for this one to take its result.
        with thread_pool(num) as threads:

            def begin(call: Call[Value], /) -> Call[Value]:
                return threads.apply_async(made, (call,)).get

            for _ in range(num):
                idle.put(start())
            yield begin
    finally:
        with lock:
            is_over.set()
        for process in started:
            process.end()


def in_order(calls: Iterable[Call[Value]], begin: Begin, ahead: int) -> Iterator[Value]:
    """What each call returns; so many calls after the one whose result is wanted have begun.

    A call that was lost is made again by this process: what ended the other one, such as a limit
    of memory or a node that left, need not concern this one.

    Raises:
        Exception: what a call raised.
    """
    waiting: deque[tuple[Call[Value], Call[Value]]] = deque()
    for call in calls:
        waiting.append((call, begin(call)))
        if len(waiting) > ahead:
            yield _result(*waiting.popleft())
    while waiting:
        yield _result(*waiting.popleft())


def _result(call: Call[Value], wait: Call[Value]) -> Value:
    try:
        return wait()
    except LostCallError as error:
        value = call()
        warn(f"{error}; its work was done by this process instead")
        return value
