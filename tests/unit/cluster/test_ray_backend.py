"""What Ray's errors are taken for; the real ones are provoked in the contract suite."""

from __future__ import annotations

import pytest
from ray import exceptions as ray_errors

from cluster.backends.ray_backend import classify
from cluster.tasks import FailureKind

DIED = """The actor died unexpectedly before finishing this task.
\tclass_name: Replica
\tpid: 4711
The actor is dead because its node has died. Node Id: 0
\tSome common causes include: (1) much text"""
KILLED = DIED.replace("its node has died. Node Id: 0", "its worker process has died.")
OUT_OF_MEMORY = """1 worker(s) were killed due to the node running low on memory.
Top 10 memory users: PID\tMEM(GB)\tCOMMAND
4711\t1.69\tpython serve.py --token=hunter2"""
INIT = """The actor died because of an error raised in its creation task, ray::Replica.__init__()
Traceback (most recent call last):
ModuleNotFoundError: No module named 'cluster'"""


@pytest.mark.parametrize(
    ("error", "kind", "message"),
    [
        (
            ray_errors.RayActorError("id", DIED),
            FailureKind.PREEMPTED,
            "RayActorError: process 4711: its node has died. Node Id: 0",
        ),
        (
            ray_errors.RayActorError("id", KILLED),
            FailureKind.REPLICA,
            "RayActorError: process 4711: its worker process has died.",
        ),
        (
            ray_errors.RayActorError("id", DIED.replace("its node", "its owner")),
            FailureKind.RUN,
            "the Ray node that this driver was connected to is gone; when Ray is up, run the same "
            "command again",
        ),
        (
            ray_errors.RayActorError("id", DIED, preempted=True),
            FailureKind.PREEMPTED,
            "RayActorError: process 4711: its node has died. Node Id: 0",
        ),
        (
            ray_errors.RayActorError("id", INIT, actor_init_failed=True),
            FailureKind.RUN,
            "ModuleNotFoundError: No module named 'cluster'",
        ),
        (
            ray_errors.ActorUnavailableError("no reply", b"0" * 16),
            FailureKind.REPLICA,
            None,
        ),
        (
            ray_errors.ActorUnschedulableError("no such node"),
            FailureKind.RUN,
            None,
        ),
        (ray_errors.RuntimeEnvSetupError("no wheel"), FailureKind.RUN, None),
        (
            ray_errors.OutOfMemoryError(OUT_OF_MEMORY),
            FailureKind.MEMORY,
            "OutOfMemoryError: 1 worker(s) were killed due to the node running low on memory.",
        ),
        (ray_errors.WorkerCrashedError(), FailureKind.REPLICA, None),
        (ConnectionError("reset"), FailureKind.REPLICA, "ConnectionError: reset"),
    ],
)
def test_errors_of_ray_are_classified(
    error: Exception, kind: FailureKind, message: str | None
) -> None:
    failure = classify(error)
    assert failure.kind is kind
    assert "\n" not in failure.message
    assert failure.user_must_act or type(error).__name__ in failure.details
    assert "hunter2" not in failure.details
    if message is not None:
        assert failure.message == message
