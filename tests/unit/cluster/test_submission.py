"""Addresses that are none; what needs a cluster is in tests/e2e/test_submit.py."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from cluster import submission
from cluster.submission import JobServer
from steersweep.errors import UserError
from tests.support.ray_clusters import free_port


class _NotRay(BaseHTTPRequestHandler):
    status, body = 200, b"hello"

    def do_GET(self) -> None:
        self.send_response(self.status)
        self.send_header("Content-Length", str(len(self.body)))
        self.end_headers()
        self.wfile.write(self.body)

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def not_ray() -> Iterator[str]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), _NotRay)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_address[1]}"
    server.shutdown()
    server.server_close()


def _refused(address: str) -> str:
    with pytest.raises(UserError) as caught:
        JobServer(address)
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize(
    "address", ["head:8265", "127.0.0.1:6379", "ray://head:10001", "http://", "http://h:x", ""]
)
def test_an_address_is_that_of_a_dashboard(address: str) -> None:
    assert f"got {address!r}" in _refused(address)


def test_an_address_holds_no_credentials() -> None:
    said = _refused("http://me:word@head:8265")
    assert "word" not in said
    assert "RAY_JOB_HEADERS" in said


def test_nobody_there(monkeypatch: pytest.MonkeyPatch) -> None:
    # Ray's client would ask there instead.
    monkeypatch.setenv("RAY_ADDRESS", "http://127.0.0.1:1")
    address = f"http://127.0.0.1:{free_port()}"
    said = _refused(address)
    assert said.startswith(f"no Ray job server at {address} (")
    assert "Connection refused" in said


def test_somebody_else_there(not_ray: str) -> None:
    assert f"no Ray job server at {not_ray}" in _refused(not_ray)


@pytest.mark.parametrize("status", [302, 404, 500])
def test_a_server_that_knows_no_jobs(
    status: int, not_ray: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_NotRay, "status", status)
    assert f"no Ray job server at {not_ray}" in _refused(not_ray)


def test_somebody_who_says_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(submission, "READ_S", 0.2)
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        said = _refused(f"http://127.0.0.1:{silent.getsockname()[1]}")
    assert "(no answer)" in said


def test_headers_are_json(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_JOB_HEADERS", "Bearer verysecret")
    said = _refused("http://127.0.0.1:1")
    assert said.startswith("RAY_JOB_HEADERS must be JSON")
    assert "verysecret" not in said
