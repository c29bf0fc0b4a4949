"""SIGINT and SIGTERM, once and twice, in a process of their own."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

PROGRAM = """
import os, sys, time
from jobs.signals import StopSignals
how = sys.argv[1]
with StopSignals() as signals:
    signals.install()
    try:
        print("ready" if how == "raised" else "slow", flush=True)
        time.sleep(30)
    except KeyboardInterrupt:
        print("interrupted", flush=True)
        if how == "twice":
            time.sleep(30)
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
    assert process.stdout.readline() == ("slow\n" if how == "twice" else "ready\n")
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
