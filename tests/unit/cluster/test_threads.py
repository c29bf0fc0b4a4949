"""A pool of threads does not hold up whoever leaves it."""

from __future__ import annotations

import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from cluster.threads import thread_pool

REPOSITORY = Path(__file__).parents[3]
LEAVES = 10.0
"Seconds; a request waits six times as long for its reply."

CHECKS_PARTS = """
import sys
from cluster.parts import check_parts
from cluster.storage import StorageSpec
from jobs.sweeps.signals import StopSignals
storage = StorageSpec("s3://bucket/out", sys.argv[1]).open()
with StopSignals() as signals:
    try:
        check_parts(storage, {f"rows/{n}.parquet": "task" for n in range(1000)})
    except KeyboardInterrupt:
        sys.exit(signals.exit_code)
"""


def test_all_results_come_in_order() -> None:
    with thread_pool(4) as pool:
        assert list(pool.imap(str, range(100))) == [str(n) for n in range(100)]


def test_an_interrupt_waits_for_nothing_and_drops_what_has_not_begun() -> None:
    begun: list[int] = []
    go_on = threading.Event()

    def work(number: int) -> None:
        begun.append(number)
        go_on.wait(30)

    start = time.monotonic()
    with pytest.raises(KeyboardInterrupt), thread_pool(2) as pool:
        pool.imap(work, range(50))
        raise KeyboardInterrupt
    assert time.monotonic() - start < LEAVES
    go_on.set()
    time.sleep(0.2)
    assert len(begun) <= 2


def test_ctrl_c_leaves_while_a_store_that_took_the_requests_does_not_answer() -> None:
    environment = {"AWS_ACCESS_KEY_ID": "test", "AWS_SECRET_ACCESS_KEY": "test"}
    with socket.create_server(("127.0.0.1", 0)) as server:
        url = f"http://127.0.0.1:{server.getsockname()[1]}"
        process = subprocess.Popen(
            [sys.executable, "-c", CHECKS_PARTS, url], cwd=REPOSITORY, env=environment
        )
        try:
            server.settimeout(60)
            connection, _ = server.accept()
            with connection:
                assert connection.recv(16).startswith(b"GET")
                begun = time.monotonic()
                process.send_signal(signal.SIGINT)
                assert process.wait(LEAVES) == 130
                assert time.monotonic() - begun < LEAVES
        finally:
            process.kill()
            process.wait()
