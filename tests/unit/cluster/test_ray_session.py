"""A cluster that is named but not there; what needs a cluster is in the contract suite."""

from __future__ import annotations

import socket
import time
from pathlib import Path

import pytest

from cluster.backends import ray_session as module
from cluster.backends.ray_session import ray_session
from steersweep.errors import UserError


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.mark.parametrize(
    "address", ["127.0.0.1:{port}", "nonsense", "127.0.0.1:http", "a:99999999"]
)
def test_a_named_cluster_that_is_not_there_is_one_line_within_seconds(
    monkeypatch: pytest.MonkeyPatch, address: str
) -> None:
    address = address.format(port=free_port())
    monkeypatch.setenv("RAY_ADDRESS", address)
    start = time.monotonic()
    with pytest.raises(UserError) as caught, ray_session():
        pass
    assert time.monotonic() - start < module.REACH_S + 5.0
    assert f"no Ray cluster at {address}" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_stale_note_of_ray_start_is_passed_over(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("RAY_TMPDIR", str(tmp_path))
    assert module._address_of_ray_start() is None
    note = tmp_path / "ray" / "ray_current_cluster"
    note.parent.mkdir()
    note.write_text(f"127.0.0.1:{free_port()}\n")
    assert module._address_of_ray_start() is None
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        server.listen()
        note.write_text(f"127.0.0.1:{server.getsockname()[1]}\n")
        assert module._address_of_ray_start() == note.read_text().strip()
