"""A Ray cluster for the end-to-end tests of a module, asked for by name."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import ray


@pytest.fixture(scope="module")
def ray_cluster(s3_endpoint: str) -> Iterator[None]:
    """Two CPUs on this machine; `steersweep run` joins it, as it is connected already.

    Replicas inherit the environment that the cluster was started with, the AWS variables too.
    """
    ray.init(
        address="local",
        num_cpus=2,
        include_dashboard=False,
        log_to_driver=False,
        object_store_memory=128 * 2**20,
    )
    yield
    ray.shutdown()
