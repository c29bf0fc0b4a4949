"""Fixtures for every suite."""

import os
import uuid
from collections.abc import Iterator

import pytest
from hypothesis import settings

# Before transformers is imported: a test that would ask a hub fails, here and in its children.
os.environ["HF_HUB_OFFLINE"] = "1"
# What Ray starts for a test ends with it; a cluster that is there for others is left alone.
os.environ.setdefault("RAY_ADDRESS", "local")
# Drawing takes longer than a small sweep; a test of figures asks for them.
os.environ["STEERSWEEP_FIGURES"] = "0"

from tests.support.s3 import BUCKET, S3Server, faulty_s3_server

# Hypothesis draws the same examples each time, so that a change fails for what it changed; to look
# for more, HYPOTHESIS_PROFILE=default.
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "ci"))


@pytest.fixture(scope="session")
def s3_server_with_faults() -> Iterator[S3Server]:
    """One S3 server for the whole session, with its list of faults."""
    with faulty_s3_server() as server:
        yield server


@pytest.fixture(scope="session")
def s3_endpoint(s3_server_with_faults: S3Server) -> str:
    """The endpoint URL of the session's S3 server; the AWS variables point to it."""
    return s3_server_with_faults.endpoint_url


@pytest.fixture
def s3_uri(s3_endpoint: str) -> str:
    """A fresh prefix in the test bucket."""
    return f"s3://{BUCKET}/{uuid.uuid4().hex}/run"


@pytest.fixture
def s3_faults(s3_server_with_faults: S3Server) -> Iterator[S3Server]:
    """The session's S3 server; faults added to it end with the test."""
    yield s3_server_with_faults
    s3_server_with_faults.faults.clear()
