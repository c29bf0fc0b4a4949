"""Every job gives the same rows on Ray as in this process, bit for bit.

One job is enough between changes: the others have tests of their own on Ray (tests/e2e).
"""
# ruff: noqa: F811 - fixtures are imported, and then named by tests

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support.job_cases import CASES, Case, parts_of
from tests.support.job_fixtures import chat, finished, spec, toy  # noqa: F401
from tests.support.sweeps import steersweep


def _case(job: Case) -> object:
    marks = [] if job.name == "letters" else [pytest.mark.nightly]
    return pytest.param(job, id=job.name, marks=marks)


@pytest.fixture(scope="module", params=[_case(job) for job in CASES])
def case(request: pytest.FixtureRequest) -> Case:
    """One job."""
    found: Case = request.param
    return found


@pytest.mark.ray
@pytest.mark.usefixtures("ray_cluster")
def test_the_same_rows_on_ray(spec: Path, finished: Path, tmp_path: Path) -> None:
    options = ("--set", "compute.executor=ray", "--set", "compute.replicas=1")
    output = tmp_path / "out"
    done = steersweep("run", str(spec), "--output", str(output), *options)
    assert done.code == 0, done
    assert parts_of(str(output)) == parts_of(str(finished))
