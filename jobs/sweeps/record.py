"""What ``run.json`` says: the spec, what it was resolved to, and each session of the run."""

from __future__ import annotations

import importlib.metadata
import platform
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from cluster.ledger import Ledger
from jobs import __version__

if TYPE_CHECKING:
    from jobs.sweeps.job import Sweep

_PACKAGES = ("torch", "transformers", "ray", "pyarrow", "numpy")


class Record:
    """The record of one session, behind those of the sessions before it.

    Args:
        before: what ``run.json`` holds already.
        more: what else the record says of the whole run, plain data.
    """

    def __init__(
        self,
        ledger: Ledger,
        sweep: Sweep,
        before: Mapping[str, Any] | None,
        more: Mapping[str, Any] | None = None,
    ) -> None:
        self._ledger = ledger
        self._earlier = list(before["sessions"]) if before else []
        self._session: dict[str, Any] = {
            "started": _now(),
            "host": platform.node(),
            "device": sweep.device,
            "versions": {
                "steersweep": __version__,
                "python": platform.python_version(),
                **{name: importlib.metadata.version(name) for name in _PACKAGES},
            },
        }
        self._replicas: dict[tuple[tuple[str, str], ...], int] = {}
        self._content = {
            "spec": sweep.resolved_spec(),
            "identity": sweep.identity(),
            **(more or {}),
            "started": before["started"] if before else self._session["started"],
        }

    def saw_replica(self, facts: Mapping[str, str]) -> None:
        """Note what a replica said of itself when it was ready; written with the next record.

        Replicas that say the same are one entry: there may be thousands. Their hosts are in the
        log.
        """
        same = tuple(sorted((name, fact) for name, fact in facts.items() if name != "host"))
        self._replicas[same] = self._replicas.get(same, 0) + 1
        self._session["replicas"] = [
            {"num_replicas": number, **dict(said)} for said, number in self._replicas.items()
        ]

    def write(self, outcome: str, **more: Any) -> None:
        """Write ``run.json`` with this session's outcome so far, and what more there is to say."""
        self._session |= {"outcome": outcome, **more}
        if outcome != "running":
            self._session["ended"] = _now()
        self._ledger.write_record(
            {
                **self._content,
                "ended": self._session.get("ended"),
                "outcome": outcome,
                "sessions": [*self._earlier, self._session],
            }
        )


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
