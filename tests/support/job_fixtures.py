"""Fixtures of the contract suite over jobs: each job with a sweep file and a finished run of it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from jobs.sweeps.registry import registered
from tests.support.job_cases import CASES, Case
from tests.support.personas import save_chat_model
from tests.support.sweeps import steersweep
from tests.support.toy_job import LettersJob


@pytest.fixture(scope="module", autouse=True)
def toy() -> Iterator[None]:
    """The command knows the job of the tests."""
    with registered(LettersJob()):
        yield


@pytest.fixture(scope="module")
def chat(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A chat model, for the job that needs one."""
    return save_chat_model(tmp_path_factory.mktemp("chat") / "model")


@pytest.fixture(scope="module", params=CASES, ids=lambda case: case.name)
def case(request: pytest.FixtureRequest) -> Case:
    """One job."""
    found: Case = request.param
    return found


@pytest.fixture(scope="module")
def spec(case: Case, chat: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Its sweep file."""
    return case.write_spec(tmp_path_factory.mktemp(case.name), chat)


@pytest.fixture(scope="module")
def finished(case: Case, spec: Path) -> Path:
    """The output of a run that nothing disturbed; tests change copies of it."""
    done = steersweep("run", str(spec))
    assert done.code == 0, done
    return spec.parent / "out"
