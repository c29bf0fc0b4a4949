"""Fixtures for every suite."""

import os
import signal
import uuid
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
from hypothesis import settings
from xdist.scheduler import LoadScopeScheduling

# Before transformers is imported: a test that would ask a hub fails, here and in its children.
os.environ["HF_HUB_OFFLINE"] = "1"
# What Ray starts for a test ends with it; a cluster that is there for others is left alone.
os.environ.setdefault("RAY_ADDRESS", "local")
# Drawing takes longer than a small sweep; a test of figures asks for them.
os.environ["STEERSWEEP_FIGURES"] = "0"

# A shell without job control lets what it starts in the background ignore Ctrl-C, which tests send.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

from tests.support.s3 import BUCKET, S3Server, faulty_s3_server

# Hypothesis draws the same examples each time, so that a change fails for what it changed; to look
# for more, HYPOTHESIS_PROFILE=default.
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "ci"))

TESTS = Path(__file__).parent
# A new test joins `make test-fast` by where it is; what it needs or its length keeps it out.
FAST_FOLDERS = {"unit", "parity"}
NOT_FAST = {"gpu", "nightly", "ray", "real", "slow", "xla"}
NICE = 5


@pytest.hookimpl(tryfirst=True)  # before -m selects
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Mark the fast tests; in a process of `pytest -n`, put the longest files first."""
    for item in items:
        marks = {mark.name for mark in item.iter_markers()}
        folder = item.path.relative_to(TESTS).parts[0]
        if folder in FAST_FOLDERS and not marks & NOT_FAST:
            item.add_marker("fast")
    if hasattr(config, "workerinput"):
        # What starts last ends last: a long file should not be it.
        ranks = ("ray", "real")
        items.sort(key=lambda i: next((n for n, mark in enumerate(ranks) if names(i, mark)), 2))


def names(item: pytest.Item, mark: str) -> bool:
    """Whether the item's file names that mark."""
    return f"mark.{mark}" in source_of(item.path)


@cache
def source_of(path: Path) -> str:
    return path.read_text()


class Files(LoadScopeScheduling):
    """A file stays in one process, and all files with Ray share one: clusters would starve each
    other. (xdist's own groups do nothing under pytest 9.2.)"""

    def _split_scope(self, nodeid: str) -> str:
        """Name of what is given to one process as a whole."""
        file = nodeid.partition("::")[0]
        return "ray" if "mark.ray" in source_of(self.config.rootpath / file) else file


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> None:
    """Processes of `pytest -n` leave the processor to the one with Ray: its tests have deadlines,
    and it takes longest. It comes down to the others when it has done those."""
    if hasattr(item.config, "workerinput") and not names(item, "ray") and os.nice(0) < NICE:
        os.nice(NICE)


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Files | None:
    """Ours for `--dist loadfile`."""
    return Files(config, log) if config.getvalue("dist") == "loadfile" else None


@pytest.fixture(scope="session", autouse=True)
def no_power_cut() -> Iterator[None]:
    """Do not wait for the disk: nothing has to survive a power cut, and a run syncs 150 times."""
    with mock.patch.object(os, "fsync"):
        yield


@pytest.fixture(scope="session")
def s3_server_with_faults() -> Iterator[S3Server]:
    """One S3 server for the whole session, with its list of faults."""
    with faulty_s3_server() as server:
        yield server


@pytest.fixture(scope="session")
def s3_endpoint(s3_server_with_faults: S3Server) -> str:
    """The endpoint URL of the session's S3 server; the AWS variables point to it."""
    return s3_server_with_faults.endpoint_url


@pytest.fixture(scope="session")
def ray_head(s3_endpoint: str) -> Iterator[str]:
    """Address of a Ray cluster of two CPUs that all modules of the session may join.

    Replicas have the environment that it is started with: the AWS variables, and a path on which
    `tests` can be imported.
    """
    from ray.cluster_utils import Cluster

    with mock.patch.dict(os.environ, PYTHONPATH=str(TESTS.parent)):
        cluster = Cluster(
            initialize_head=True,
            head_node_args={
                "num_cpus": 2,
                "include_dashboard": False,
                "object_store_memory": 128 * 2**20,
            },
        )
    yield cluster.address
    cluster.shutdown()


@pytest.fixture(scope="module")
def ray_cluster(ray_head: str) -> Iterator[None]:
    """This process is connected to the session's cluster; `steersweep run` joins it, too."""
    import ray

    ray.init(address=ray_head, log_to_driver=False)
    yield
    ray.shutdown()


@pytest.fixture
def s3_uri(s3_endpoint: str) -> str:
    """A fresh prefix in the test bucket."""
    return f"s3://{BUCKET}/{uuid.uuid4().hex}/run"


@pytest.fixture
def s3_faults(s3_server_with_faults: S3Server) -> Iterator[S3Server]:
    """The session's S3 server; faults added to it end with the test."""
    yield s3_server_with_faults
    s3_server_with_faults.faults.clear()
