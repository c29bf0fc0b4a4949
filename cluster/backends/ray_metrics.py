"""Numbers of a run for Prometheus, by Ray's own exporter on the driver's node."""

from __future__ import annotations

from collections.abc import Mapping

from ray.util.metrics import Counter, Gauge, Histogram

from cluster.outcome import Progress
from cluster.redaction import redact
from cluster.tasks import Event, Receipt, ReplicaLost, Task, TaskFailed

COUNTERS = {
    "steersweep_rows": ("Rows written", ("run", "pool")),
    "steersweep_cell_rows": (
        "Results in the job's own unit, such as examples x cells",
        ("run", "pool"),
    ),
    "steersweep_tasks_done": ("Tasks done", ("run", "pool")),
    "steersweep_busy_seconds": ("Replica time of tasks done, seconds", ("run", "pool")),
    "steersweep_failures": ("Attempts that failed, lost replicas included", ("run", "kind")),
}
"""By name, what is counted and its tags; Prometheus has them as ray_<name>_total."""

GAUGES = {
    "steersweep_rows_per_second": "Rows per second since the first replica was ready",
    "steersweep_tasks_known": "Tasks known so far",
    "steersweep_tasks_finished": "Tasks done or set aside",
    "steersweep_tasks_set_aside": "Tasks given up",
    "steersweep_tasks_in_flight": "Tasks under way",
    "steersweep_replicas_ready": "Replicas that are loaded",
    "steersweep_driver_memory_bytes": "Resident memory of the driver",
}
"""By name, what is shown, each by run; Prometheus has them as ray_<name>."""

TASK_SECONDS = "steersweep_task_seconds"
_BOUNDARIES = [0.1, 1, 3, 10, 20, 30, 60, 120, 300, 600, 1800]


class RayMetrics:
    """See `cluster.metrics.Metrics`; only while this process is connected to Ray."""

    def __init__(self, run: str) -> None:
        """`run`: the output's name, in the tag of the same name."""
        self._run = {"run": redact(run)}
        self._counters = {
            name: Counter(name, description, tag_keys=keys)
            for name, (description, keys) in COUNTERS.items()
        }
        self._gauges = {
            name: Gauge(name, description, tag_keys=("run",))
            for name, description in GAUGES.items()
        }
        self._task_seconds = Histogram(
            TASK_SECONDS, "Duration of tasks done", _BOUNDARIES, tag_keys=("run", "pool")
        )

    def saw(self, event: Event) -> None:
        """See `Metrics.saw`."""
        if isinstance(event, TaskFailed | ReplicaLost):
            self._count("steersweep_failures", 1, {"kind": str(event.failure.kind)})

    def finished(self, task: Task, receipt: Receipt) -> None:
        """See `Metrics.finished`."""
        pool = {"pool": task.pool}
        self._count("steersweep_tasks_done", 1, pool)
        self._count("steersweep_rows", receipt.num_rows, pool)
        self._count("steersweep_cell_rows", task.num_items, pool)
        self._count("steersweep_busy_seconds", receipt.duration_s, pool)
        self._task_seconds.observe(receipt.duration_s, self._run | pool)

    def report(self, progress: Progress, rows_per_s: float, memory_bytes: int) -> None:
        """See `Metrics.report`."""
        now = {
            "steersweep_rows_per_second": rows_per_s,
            "steersweep_tasks_known": progress.num_tasks,
            "steersweep_tasks_finished": progress.num_done + progress.num_set_aside,
            "steersweep_tasks_set_aside": progress.num_set_aside,
            "steersweep_tasks_in_flight": progress.num_in_flight,
            "steersweep_replicas_ready": progress.num_ready_replicas,
            "steersweep_driver_memory_bytes": memory_bytes,
        }
        for name, value in now.items():
            self._gauges[name].set(value, self._run)

    def _count(self, name: str, by: float, tags: Mapping[str, str]) -> None:
        if by > 0:  # Ray takes no other
            self._counters[name].inc(by, {**self._run, **tags})


def exported_names() -> set[str]:
    """The names under which Prometheus finds all of it."""
    buckets = {f"ray_{TASK_SECONDS}_{part}" for part in ("bucket", "count", "sum")}
    return {f"ray_{name}_total" for name in COUNTERS} | {f"ray_{name}" for name in GAUGES} | buckets
