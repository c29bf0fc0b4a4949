"""What run.json says of a session's replicas."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from cluster.ledger import Ledger
from cluster.storage import StorageSpec
from jobs.sweeps.record import Record


class Sweep:
    """As much of a resolved sweep as the record asks for."""

    device = "cuda"

    def resolved_spec(self) -> dict[str, Any]:
        return {}

    def identity(self) -> dict[str, Any]:
        return {}


def test_replicas_that_computed_alike_are_one_entry(tmp_path: Path) -> None:
    storage = StorageSpec(str(tmp_path / "out")).open()
    record = Record(Ledger(storage), Sweep(), None)
    record.write("running")
    assert "replicas" not in Ledger(storage).read_record()["sessions"][0]  # type: ignore[index]
    for host, tf32 in (("a", "off"), ("b", "off"), ("c", "on"), ("a", "off")):
        record.saw_replica({"host": host, "device": "cuda:0", "tf32": tf32})
    record.write("done")
    written = Ledger(storage).read_record()
    assert written is not None
    assert written["sessions"][0]["replicas"] == [
        {"num_replicas": 3, "device": "cuda:0", "tf32": "off"},
        {"num_replicas": 1, "device": "cuda:0", "tf32": "on"},
    ]
