"""A real S3 server (moto) on a free port of this machine, that can be told to misbehave."""

import os
import re
import socket
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import boto3
from moto.server import ThreadedMotoServer

BUCKET = "steersweep-test"

_ENVIRONMENT = {
    "AWS_ACCESS_KEY_ID": "testing",
    "AWS_SECRET_ACCESS_KEY": "testing-secret",
    "AWS_REGION": "us-east-1",
    "AWS_DEFAULT_REGION": "us-east-1",
    "AWS_CONFIG_FILE": os.devnull,
    "AWS_SHARED_CREDENTIALS_FILE": os.devnull,
    "AWS_EC2_METADATA_DISABLED": "true",
    "NO_PROXY": "127.0.0.1,localhost",
}
_UNSET = ("AWS_PROFILE", "AWS_DEFAULT_PROFILE", "AWS_SESSION_TOKEN", "AWS_ENDPOINT_URL_S3")

_App = Callable[[dict[str, Any], Any], Iterable[bytes]]


@dataclass
class Fault:
    """What happens to the next `times` requests of `method` whose path matches `path`.

    `status`: answer with it instead of asking the store. `lose_reply`: let the store act, then cut
    the connection. `ignore_conditions`: drop If-Match and If-None-Match. `cut_body`: send half the
    content.
    """

    method: str
    path: str = ""
    times: int = 1
    status: int | None = None
    code: str = "Fault"
    lose_reply: bool = False
    ignore_conditions: bool = False
    cut_body: bool = False
    num_done: int = 0


@dataclass
class FaultyApp:
    """Sits between the HTTP server and moto."""

    app: _App
    faults: list[Fault] = field(default_factory=list)
    # moto looks whether a key exists, then writes it, without a lock: two writers can both win.
    lock: threading.Lock = field(default_factory=threading.Lock)

    def __call__(self, environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
        fault = self._take(environ)
        if fault is not None and fault.status is not None:
            return _error(environ, start_response, fault)
        if fault is not None and fault.ignore_conditions:
            environ.pop("HTTP_IF_NONE_MATCH", None)
            environ.pop("HTTP_IF_MATCH", None)
        if environ["REQUEST_METHOD"] != "PUT":
            body = self.app(environ, start_response)
        else:
            with self.lock:
                body = list(self.app(environ, start_response))
        if fault is not None and fault.lose_reply:
            environ["werkzeug.socket"].shutdown(socket.SHUT_RDWR)
            return []
        if fault is not None and fault.cut_body:
            whole = b"".join(body)
            return [whole[: len(whole) // 2]]
        return body

    def _take(self, environ: dict[str, Any]) -> Fault | None:
        with self.lock:
            for fault in self.faults:
                if (
                    fault.num_done < fault.times
                    and fault.method == environ["REQUEST_METHOD"]
                    and re.search(fault.path, environ["PATH_INFO"])
                ):
                    fault.num_done += 1
                    return fault
        return None


@dataclass
class S3Server:
    """The running server; `faults` may be filled at any time."""

    endpoint_url: str
    faults: list[Fault]


@contextmanager
def faulty_s3_server() -> Iterator[S3Server]:
    """Run a server with an empty bucket, and set the AWS variables of this process to it."""
    server = ThreadedMotoServer("127.0.0.1", 0, verbose=False)
    server.start()
    saved = {name: os.environ.get(name) for name in (*_ENVIRONMENT, *_UNSET, "AWS_ENDPOINT_URL")}
    try:
        host, port = server.get_host_and_port()
        endpoint_url = f"http://{host}:{port}"
        os.environ.update(_ENVIRONMENT, AWS_ENDPOINT_URL=endpoint_url)
        for name in _UNSET:
            os.environ.pop(name, None)
        inner: Any = server._server
        app = FaultyApp(inner.app)
        inner.app = app
        boto3.session.Session().client("s3").create_bucket(Bucket=BUCKET)
        yield S3Server(endpoint_url, app.faults)
    finally:
        for name, value in saved.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value
        server.stop()


@contextmanager
def s3_server() -> Iterator[str]:
    """Run a server as `faulty_s3_server` does, without faults; yield its endpoint URL."""
    with faulty_s3_server() as server:
        yield server.endpoint_url


def _error(environ: dict[str, Any], start_response: Any, fault: Fault) -> list[bytes]:
    environ["wsgi.input"].read(int(environ.get("CONTENT_LENGTH") or 0))
    text = (
        f"<Error><Code>{fault.code}</Code><Message>key AKIASECRET, "
        "https://host/?X-Amz-Signature=abc</Message></Error>"
    )
    body = text.encode()
    headers = [("Content-Type", "application/xml"), ("Content-Length", str(len(body)))]
    start_response(f"{fault.status} Fault", headers)
    return [] if environ["REQUEST_METHOD"] == "HEAD" else [body]
