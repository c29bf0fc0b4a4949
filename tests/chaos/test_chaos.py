"""A few trials of the breaking machine; `make chaos TRIALS=200 SEED=1` runs many."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.chaos.machines import World, world
from tests.chaos.plan import Fault, Trial, draw
from tests.chaos.report import table
from tests.chaos.trial import Runner


@pytest.fixture(scope="module")
def shared() -> Iterator[World]:
    with world() as made:
        yield made


@pytest.fixture(scope="module")
def runner(shared: World) -> Runner:
    return Runner(shared)


def fault(kind: str, after_s: float) -> Fault:
    return Fault(kind, after_s, 0, 1.5)


def while_judging(kind: str, after_s: float, number: int = 0, amount: float = 1.5) -> Fault:
    return Fault(kind, after_s, number, amount, while_judging=True)


def trial(
    storage: str,
    *faults: Fault,
    shape: str = "one node",
    worker: str = "cheap",
    s3_share: float = 0.0,
) -> Trial:
    return Trial(0, 0, storage, shape, worker, s3_share, faults)


TRIALS = {
    "killed processes": trial(
        "local", fault("kill replica", 2.5), fault("kill driver", 0.5), fault("kill driver", 0.3)
    ),
    "two drivers": trial(
        "s3", fault("second driver", 0.2), fault("stop driver", 0.5), fault("wrong clock", 0)
    ),
    "a store in trouble": trial(
        "s3", fault("s3 down", 2.5), fault("interrupt driver", 0.3), s3_share=0.1
    ),
    "a full disk": trial("local", fault("disk full", 2.5)),
    "a judge that is paid": trial(
        "s3",
        while_judging("kill driver", 0.8),
        while_judging("interrupt driver", 0.3, number=2),  # twice
        while_judging("stop driver", 0.3, amount=15.0),
        worker="persona",
    ),
    "nodes that go": trial(
        "local", fault("kill raylet", 2.5), fault("remove node", 0.5), shape="three nodes"
    ),
    "a notice and a halt": trial(
        "s3", fault("drain node", 2.5), fault("stop replica", 0.5), shape="three nodes"
    ),
}


# A second driver and one that is overtaken are in tests/e2e/test_continue.py, too; a killed process
# that pays a judge in tests/unit/jobs/test_judges.py; in tests/contract, nodes that drain and go in
# test_elastic_run.py, a replica that halts in test_backends.py, a full disk in test_storage.py.
NIGHTLY = {
    "two drivers",
    "a notice and a halt",
    "nodes that go",
    "a full disk",
    "a judge that is paid",
}


@pytest.mark.ray
@pytest.mark.timeout(900)  # the undisturbed run of a job is made with its first trial
@pytest.mark.parametrize(
    "name",
    [pytest.param(n, marks=[pytest.mark.nightly] if n in NIGHTLY else []) for n in TRIALS],
)
def test_a_broken_run_ends_with_the_rows_of_an_undisturbed_one(name: str, runner: Runner) -> None:
    result = runner.run(TRIALS[name])
    assert result.is_good, table([result])
    assert result.faults_done
    assert bool(result.num_paid) == (TRIALS[name].worker == "persona")


def test_a_trial_is_the_same_for_the_same_seed_and_number() -> None:
    assert draw(3, 5) == draw(3, 5)
    assert draw(3, 5) != draw(3, 6)
    assert draw(4, 5) != draw(3, 5)
