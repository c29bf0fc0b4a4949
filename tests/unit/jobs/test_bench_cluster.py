"""The bench of the cluster layer runs real tasks each way; the twin stands in for Ray here."""

from __future__ import annotations

import json
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path

import pytest

from cluster.backends.in_process import InProcessBackend
from cluster.storage import Storage
from jobs.bench import cluster
from jobs.bench.cluster import ClusterOptions, ClusterResult, bench_cluster
from steersweep.errors import UserError
from tests.support.sweeps import steersweep

TINY = ClusterOptions(shape="tiny", task_seconds=0.1, tasks=2, repeats=2, layers=(2,))


def test_each_way_runs_the_same_tasks_and_commits_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("cluster.backends.ray_backend.RayBackend", InProcessBackend)
    monkeypatch.setattr("cluster.backends.ray_session.ray_session", nullcontext)
    monkeypatch.setenv("RAY_ADDRESS", "local")
    parts: dict[str, list[tuple[str, int]]] = {}

    def count_parts(work: cluster._Work, num: int, sessions: object) -> ClusterResult:
        result = measure(work, num, sessions)  # type: ignore[arg-type]
        for name in ("output-0", "output-1", "output-2"):
            storage: Storage = cluster.StorageSpec(str(work.folder / name)).open()
            parts[name] = [(e.key, e.size_bytes) for e in storage.list("steered/")]
        return result

    measure = cluster._measure
    monkeypatch.setattr(cluster, "_measure", count_parts)
    said: list[str] = []
    result = bench_cluster(replace(TINY, json=str(tmp_path / "f.json")), said.append)

    # Warm-up: two tasks a replica; the length of a task: two more; then two repeats of two tasks.
    assert [len(parts[f"output-{n}"]) for n in range(3)] == [2 + 2 + 4, 2 + 4, 4 + 4]
    of_repeats = [{size for _, size in found} for found in parts.values()]
    assert of_repeats[1] & of_repeats[2]
    written = json.loads((tmp_path / "f.json").read_text())
    assert written == json.loads(json.dumps(result.as_json()))
    one, two, twin = (result.rows_cells_per_s[n] for n in (*list(result.took_s)[1:], "in process"))
    assert written["cluster_speedup"] == two / one
    assert written["cluster_overhead"] == twin / one - 1
    assert all(len(took) == 2 for took in result.took_s.values())
    assert "2 replicas over one" in said[-1]


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"replicas": 1}, "--replicas must be at least 2"),
        ({"tasks": 3}, "--tasks must be a multiple of --replicas"),
        ({"task_seconds": 0.0}, "--task-seconds"),
        ({"coeffs": ()}, "--coeffs"),
        ({"json": "nowhere/f.json"}, "does not exist"),
        ({"shape": "gemma9"}, "gemma2-mid"),
        ({"layers": (5,)}, r"layer must be in 1\.\.4"),
    ],
)
def test_what_the_user_must_change_is_said(changed: dict[str, object], message: str) -> None:
    with pytest.raises(UserError, match=message):
        bench_cluster(replace(TINY, **changed), lambda _: None)  # type: ignore[arg-type]


def test_options_that_it_does_not_take_are_refused() -> None:
    done = steersweep("bench", "--cluster", "--model", "x")
    assert done.code == 2
    assert "No such option: --model" in done.err
