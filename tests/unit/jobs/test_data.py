"""Fetching the development set: a whole official copy, or a plain error and nothing left."""

from __future__ import annotations

import json
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from socketserver import StreamRequestHandler, ThreadingTCPServer
from typing import Any

import platformdirs
import pytest

from jobs import data
from jobs.data import check_official, fetch_stereoset, stereoset_file
from steering_core.stereoset import LABELS, OFFICIAL_COUNTS
from steersweep.errors import UserError


def official_document() -> dict[str, Any]:
    """Synthetic examples with the official file's counts."""
    return {
        "data": {
            split: [
                {
                    "id": f"{bias_type}-{n}",
                    "target": "t",
                    "bias_type": bias_type,
                    "context": "c",
                    "sentences": [{"sentence": "s", "gold_label": label} for label in LABELS],
                }
                for bias_type, count in counts.items()
                for n in range(count)
            ]
            for split, counts in OFFICIAL_COUNTS.items()
        }
    }


@pytest.fixture(scope="module")
def official() -> bytes:
    return json.dumps(official_document()).encode()


@pytest.fixture(scope="module")
def one_short() -> bytes:
    document = official_document()
    document["data"]["intrasentence"].pop()
    return json.dumps(document).encode()


@pytest.fixture(autouse=True)
def no_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("no_proxy", "*")


@pytest.fixture
def target(tmp_path: Path) -> Path:
    return tmp_path / "kept" / "deep" / "dev.json"


def left_in(folder: Path) -> list[Path]:
    return [path for path in folder.rglob("*") if path.is_file()]


@contextmanager
def serving(handler: Callable[..., Any], server: Any = ThreadingHTTPServer) -> Iterator[str]:
    with server(("127.0.0.1", 0), handler) as served:
        thread = threading.Thread(target=served.serve_forever, args=(0.02,), daemon=True)
        thread.start()
        try:
            yield f"http://127.0.0.1:{served.server_address[1]}"
        finally:
            served.shutdown()
            thread.join()


def mirror(body: bytes, *, status: int = 200, chunked: bool = False) -> Callable[..., Any]:
    """Serves ``body``; chunked, it goes away before the end."""

    class Mirror(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            self.send_response(status)
            if chunked:
                self.send_header("Transfer-Encoding", "chunked")
                self.end_headers()
                self.wfile.write(b"%x\r\n%s" % (len(body) + 100, body))
                self.close_connection = True
                return
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *args: Any) -> None:
            pass

    return Mirror


def test_a_file_with_the_official_counts_is_accepted(
    tmp_path: Path, target: Path, official: bytes
) -> None:
    source = tmp_path / "mine.json"
    source.write_bytes(official)
    assert fetch_stereoset(str(source), str(target)) == target
    assert target.read_bytes() == official
    assert sorted(left_in(tmp_path)) == sorted([source, target])


def test_a_mirror_on_http_works(target: Path, official: bytes) -> None:
    with serving(mirror(official)) as url:
        assert fetch_stereoset(f"{url}/dev.json", str(target)) == target
    assert target.read_bytes() == official
    assert left_in(target.parent) == [target]


def test_without_a_source_a_checked_cached_copy_is_used_as_it_is(
    tmp_path: Path, official: bytes, one_short: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(platformdirs, "user_cache_path", lambda name: tmp_path / name)
    cached = tmp_path / "steersweep" / "dev.json"
    with serving(mirror(official)) as url:
        monkeypatch.setattr(data, "OFFICIAL_URL", url)
        assert fetch_stereoset() == cached
        assert cached.read_bytes() == official
    # The server is gone; the copy needs none.
    assert fetch_stereoset() == cached
    # What a sweep file calls by its name.
    assert stereoset_file("stereoset") == cached
    cached.write_bytes(one_short)
    with pytest.raises(UserError, match=r"dev\.json is not StereoSet's development set"):
        fetch_stereoset()


@pytest.mark.parametrize("bias_type", ["gender", "religion"])
@pytest.mark.parametrize("split", OFFICIAL_COUNTS)
def test_counts_are_compared_in_every_group(tmp_path: Path, split: str, bias_type: str) -> None:
    document = official_document()
    moved = next(e for e in document["data"][split] if e["bias_type"] == bias_type)
    moved["bias_type"] = "race"
    path = tmp_path / "dev.json"
    path.write_text(json.dumps(document))
    with pytest.raises(UserError) as caught:
        check_official(path)
    found, wanted = OFFICIAL_COUNTS[split][bias_type] - 1, OFFICIAL_COUNTS[split][bias_type]
    message = str(caught.value)
    assert message.startswith(f"{path} is not StereoSet's development set: {split} has")
    assert f"'{bias_type}': {found}" in message
    assert f"'{bias_type}': {wanted}" in message


def test_wrong_counts_keep_nothing_and_name_the_source(
    tmp_path: Path, target: Path, one_short: bytes
) -> None:
    source = tmp_path / "mine.json"
    source.write_bytes(one_short)
    with pytest.raises(UserError, match=r"mine\.json is not StereoSet's development set") as caught:
        fetch_stereoset(str(source), str(target))
    assert "--from" in str(caught.value)
    assert left_in(tmp_path) == [source]


@pytest.mark.parametrize("of_file", [True, False], ids=["file", "http"])
def test_a_truncated_copy_keeps_nothing_and_names_the_source(
    tmp_path: Path, target: Path, official: bytes, of_file: bool
) -> None:
    half = official[: len(official) // 2]
    source = tmp_path / "mine.json"
    source.write_bytes(half)
    with serving(mirror(half)) as url:
        shown = str(source) if of_file else url
        with pytest.raises(UserError) as caught:
            fetch_stereoset(shown, str(target))
    assert str(caught.value).startswith(f"{shown}: not valid JSON")
    assert left_in(tmp_path) == [source]


def test_an_earlier_copy_survives_a_failed_fetch(
    tmp_path: Path, target: Path, official: bytes, one_short: bytes
) -> None:
    target.parent.mkdir(parents=True)
    target.write_bytes(official)
    with serving(mirror(one_short)) as url, pytest.raises(UserError):
        fetch_stereoset(url, str(target))
    assert target.read_bytes() == official
    assert left_in(tmp_path) == [target]


def fails_to_download(url: str, target: Path) -> str:
    with pytest.raises(UserError) as caught:
        fetch_stereoset(url, str(target))
    assert not target.exists()
    message = str(caught.value)
    assert message.startswith(f"{url} cannot be downloaded: ")
    assert "`steersweep data fetch --from FILE`" in message
    assert "\n" not in message
    return message


def test_an_unreachable_address_is_a_plain_error(target: Path) -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        # Bound, not listening: the port refuses, and nobody else can take it.
        message = fails_to_download(f"http://127.0.0.1:{unused.getsockname()[1]}/dev.json", target)
    assert "refused" in message


def test_an_http_error_is_a_plain_error(target: Path) -> None:
    with serving(mirror(b"", status=404)) as url:
        assert "Not Found" in fails_to_download(url, target)


def test_a_chunked_answer_that_breaks_off_is_a_plain_error(target: Path, official: bytes) -> None:
    with serving(mirror(official[:1000], chunked=True)) as url:
        fails_to_download(url, target)


class NotHttp(StreamRequestHandler):
    def handle(self) -> None:
        self.rfile.readline()
        self.wfile.write(b"SSH-2.0-OpenSSH_9.6\r\n")


def test_a_server_that_does_not_speak_http_is_a_plain_error(target: Path) -> None:
    with serving(NotHttp, ThreadingTCPServer) as url:
        fails_to_download(url, target)


@pytest.mark.parametrize("url", ["http://127.0.0.1:1/a b", "http://127.0.0.1:port/", "http://"])
def test_a_malformed_url_is_a_plain_error(url: str, target: Path) -> None:
    fails_to_download(url, target)


def test_an_answer_too_large_to_be_the_file_is_refused(
    target: Path, official: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(data, "_MOST_BYTES", len(official) - 1)
    with (
        serving(mirror(official)) as url,
        pytest.raises(UserError, match=f"larger than {len(official) - 1:,} bytes"),
    ):
        fetch_stereoset(url, str(target))
    assert not target.exists()
    monkeypatch.setattr(data, "_MOST_BYTES", len(official))
    with serving(mirror(official)) as url:
        fetch_stereoset(url, str(target))


def test_a_missing_file_and_an_impossible_target_are_plain_errors(
    tmp_path: Path, official: bytes
) -> None:
    source = tmp_path / "mine.json"
    with pytest.raises(UserError, match=r"mine\.json cannot be read: No such file"):
        fetch_stereoset(str(source), str(tmp_path / "dev.json"))
    source.write_bytes(official)
    with pytest.raises(UserError, match=r"cannot be written: "):
        fetch_stereoset(str(source), str(source / "dev.json"))
    with pytest.raises(UserError, match=r"cannot be written: "):
        (tmp_path / "folder").mkdir()
        fetch_stereoset(str(source), str(tmp_path / "folder"))
    assert left_in(tmp_path) == [source]
