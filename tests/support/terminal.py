"""Running the command line under a terminal of 80 columns, as a person sees it."""

from __future__ import annotations

import contextlib
import fcntl
import os
import pty
import re
import struct
import sys
import termios
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from unittest import mock

from rich.cells import cell_len

from jobs import cli, console

_CONTROL = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]|\x1b\][^\x07\x1b]*(?:\x07|\x1b\\)")


@dataclass(frozen=True)
class Screen:
    """What a command showed.

    Attributes:
        text: every line it printed, those that were overwritten included, without control codes.
    """

    code: int
    text: str
    columns: int

    def check(self) -> None:
        """Assert that nothing is cut: no ellipsis, and no line wider than the terminal.

        A single word may be wider: a path or a link is not broken, the terminal wraps it.
        """
        assert "…" not in self.text, self.text
        for line in self.text.splitlines():
            is_one_word = len(line.split()) == 1
            assert is_one_word or cell_len(line.rstrip()) <= self.columns, f"{line!r}\n{self.text}"


def steersweep_on_terminal(*arguments: str, columns: int = 80) -> Screen:
    """Run the command in this process with a pseudo-terminal as its three standard streams."""
    code = 0
    with _terminal(columns) as chunks, mock.patch("sys.argv", ["steersweep", *arguments]):
        try:
            cli.main()
        except SystemExit as end:
            code = int(end.code or 0)
    text = _CONTROL.sub("", b"".join(chunks).decode()).replace("\r\n", "\n").replace("\r", "\n")
    return Screen(code, re.sub(r" +$", "", text, flags=re.MULTILINE), columns)


@contextlib.contextmanager
def _terminal(columns: int) -> Iterator[list[bytes]]:
    """A pseudo-terminal in place of file descriptors 0 to 2; yields what is written to it."""
    master, slave = pty.openpty()
    fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", 50, columns, 0, 0))
    sys.stdout.flush()
    sys.stderr.flush()
    saved = [os.dup(number) for number in range(3)]
    chunks: list[bytes] = []
    reader = threading.Thread(target=_read, args=(master, chunks))
    reader.start()
    try:
        for number in range(3):
            os.dup2(slave, number)
        with (
            os.fdopen(os.dup(slave), "w", buffering=1) as stdout,
            os.fdopen(os.dup(slave), "w", buffering=1) as stderr,
            contextlib.redirect_stdout(stdout),
            contextlib.redirect_stderr(stderr),
            mock.patch.dict(os.environ, {"TERM": "xterm-256color"}),
            # Decided when the module was imported, without this terminal.
            mock.patch.object(console.out, "is_interactive", True),
            mock.patch.object(console.err, "is_interactive", True),
        ):
            yield chunks
    finally:
        for number, descriptor in enumerate(saved):
            os.dup2(descriptor, number)
            os.close(descriptor)
        os.close(slave)
        reader.join(timeout=60)
        os.close(master)


def _read(master: int, chunks: list[bytes]) -> None:
    while True:
        try:
            data = os.read(master, 65_536)
        except OSError:  # Linux: every descriptor of the other end is closed
            return
        if not data:
            return
        chunks.append(data)
