"""SIGINT and SIGTERM, once and twice, in a process of their own."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

PROGRAM = """
import atexit, os, sys, time
from jobs.sweeps.signals import StopSignals
how = sys.argv[1]

def linger():
    print("leaving", flush=True)
    time.sleep(1)

if how == "at the very end":
    atexit.register(linger)
with StopSignals() as signals:
    try:
        print("ready", flush=True)
        time.sleep(30)
    except KeyboardInterrupt:
        print("interrupted", flush=True)
        if how == "twice":
            time.sleep(30)
    if how == "while it ends":
        atexit.register(linger)  # as Ray does
print(signals.exit_code, flush=True)
"""


def start(how: str) -> subprocess.Popen[str]:
    process = subprocess.Popen(
        [sys.executable, "-c", PROGRAM, how],
        stdout=subprocess.PIPE,
        text=True,
        cwd=Path(__file__).parents[3],
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    return process


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, "130"), (signal.SIGTERM, "143")])
def test_the_first_signal_interrupts(number: signal.Signals, code: str) -> None:
    process = start("raised")
    process.send_signal(number)
    out, _ = process.communicate(timeout=10)
    assert out.split() == ["interrupted", code]
    assert process.returncode == 0


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_the_second_signal_ends_the_process_at_once(number: signal.Signals) -> None:
    process = start("twice")
    assert process.stdout is not None
    process.send_signal(signal.SIGINT)
    assert process.stdout.readline() == "interrupted\n"
    begun = time.monotonic()
    process.send_signal(number)
    assert process.wait(10) == 128 + number
    assert time.monotonic() - begun < 2.0


@pytest.mark.parametrize(
    ("how", "code"),
    [
        pytest.param("while it ends", 128 + signal.SIGTERM, id="Ray is being ended"),
        pytest.param("at the very end", 0, id="Python is about to give up its handlers"),
    ],
)
def test_a_second_signal_while_the_process_ends_is_not_its_exit_code(how: str, code: int) -> None:
    process = start(how)
    assert process.stdout is not None
    process.send_signal(signal.SIGINT)
    assert [process.stdout.readline() for _ in range(3)] == ["interrupted\n", "130\n", "leaving\n"]
    process.send_signal(signal.SIGTERM)
    assert process.wait(10) == code


DROPPED = """
import os, signal, time
from jobs.sweeps.signals import StopSignals

def ctrl_c():
    os.kill(os.getpid(), signal.SIGINT)

with StopSignals() as signals:
    try:
        os.register_at_fork(after_in_parent=ctrl_c)
        if os.fork() == 0:
            os._exit(0)
        time.sleep(30)
    except KeyboardInterrupt:
        print("interrupted", flush=True)
print(signals.exit_code, flush=True)
"""


def test_an_interrupt_that_python_drops_around_a_fork_comes_again() -> None:
    finished = subprocess.run(
        [sys.executable, "-c", DROPPED],
        capture_output=True,
        text=True,
        timeout=20,
        check=True,
        cwd=Path(__file__).parents[3],
    )
    assert finished.stdout.split() == ["interrupted", "130"]
    assert finished.stderr == ""
