"""A loopback proxy in front of an S3 server that breaks requests at random, by a seed.

Faults are drawn for each request from the mix that is set now, and counted as they are done.
"""

from __future__ import annotations

import http.client
import random
import socket
import threading
import time
from collections import Counter
from contextlib import suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import urlsplit

KINDS = (
    "500",  # answered at once, not done
    "503",  # SlowDown, not done
    "500_after",  # done, and answered as if not
    "cut_before",  # connection closed, not done
    "cut_after",  # done, reply lost
    "truncate",  # done, half of the reply
    "stall",  # done, and the reply comes after the client has given up
)
_DONE_FIRST = frozenset({"500_after", "cut_after", "truncate", "stall"})
_HOP_BY_HOP = frozenset({"connection", "keep-alive", "transfer-encoding", "content-length"})


@dataclass
class Mix:
    """How much goes wrong: share of requests, of which kinds, and since when nothing works."""

    share: float = 0.0
    kinds: tuple[str, ...] = KINDS
    down_until: float = 0.0
    stall_s: float = 1.5
    rng: random.Random = field(default_factory=random.Random)
    done: Counter[str] = field(default_factory=Counter)
    lock: threading.Lock = field(default_factory=threading.Lock)

    def draw(self) -> str | None:
        """The fault of the next request, if any; counted."""
        with self.lock:
            if time.monotonic() < self.down_until:
                kind: str | None = "down"
            elif self.rng.random() < self.share:
                kind = self.rng.choice(self.kinds)
            else:
                kind = None
            if kind is not None:
                self.done[kind] += 1
            return kind


class FaultProxy:
    """Forwards to `upstream` (http://host:port); a context manager."""

    def __init__(self, upstream: str) -> None:
        self.mix = Mix()
        # moto looks whether a key exists, then writes it, without a lock: two writers could win.
        write_lock = threading.Lock()
        address = urlsplit(upstream)
        proxy = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"
            timeout = 60

            def log_message(self, format: str, *args: Any) -> None:  # noqa: A002
                pass

            def forward(self) -> None:
                body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
                fault = proxy.mix.draw()
                if fault in ("500", "503"):
                    return self.refuse(int(fault))
                if fault in ("cut_before", "down"):
                    return self.cut()
                if self.command in ("PUT", "DELETE"):
                    with write_lock:
                        status, headers, content = self.ask(body)
                else:
                    status, headers, content = self.ask(body)
                if fault == "500_after":
                    return self.refuse(500)
                if fault == "cut_after":
                    return self.cut()
                if fault == "stall":
                    time.sleep(proxy.mix.stall_s)
                self.send_response_only(status)
                for name, value in headers:
                    if name.lower() not in _HOP_BY_HOP:
                        self.send_header(name, value)
                length = len(content)
                if self.command == "HEAD":
                    length = next((int(v) for n, v in headers if n.lower() == "content-length"), 0)
                self.send_header("Content-Length", str(length))
                self.end_headers()
                if fault == "truncate":
                    self.wfile.write(content[: len(content) // 2])
                    return self.cut()
                self.wfile.write(content)
                return None

            do_GET = do_PUT = do_HEAD = do_DELETE = do_POST = forward

            def ask(self, body: bytes) -> tuple[int, list[tuple[str, str]], bytes]:
                link = http.client.HTTPConnection(address.hostname or "", address.port, timeout=30)
                try:
                    headers = {n: v for n, v in self.headers.items() if n.lower() != "connection"}
                    link.request(self.command, self.path, body, headers)
                    reply = link.getresponse()
                    return reply.status, reply.getheaders(), reply.read()
                finally:
                    link.close()

            def refuse(self, status: int) -> None:
                code = "SlowDown" if status == 503 else "InternalError"
                content = f"<Error><Code>{code}</Code></Error>".encode()
                self.send_response_only(status)
                self.send_header("Content-Length", str(len(content)))
                self.send_header("Content-Type", "application/xml")
                self.end_headers()
                if self.command != "HEAD":
                    self.wfile.write(content)

            def cut(self) -> None:
                self.close_connection = True
                with suppress(OSError):  # the client was faster
                    self.connection.shutdown(socket.SHUT_RDWR)

            def handle_one_request(self) -> None:
                try:
                    super().handle_one_request()
                except OSError:
                    self.close_connection = True

        class Server(ThreadingHTTPServer):
            daemon_threads = True
            request_queue_size = 128

        self._server = Server(("127.0.0.1", 0), Handler)
        self._thread = threading.Thread(target=self._server.serve_forever, daemon=True)

    @property
    def url(self) -> str:
        """Where clients are to go."""
        return f"http://127.0.0.1:{self._server.server_port}"

    def __enter__(self) -> FaultProxy:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()
