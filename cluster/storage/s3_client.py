"""Requests to S3: the client, what is worth repeating, and errors in one line.

botocore's own retries are off. It does not repeat a 409, nor a body cut short while it is read, so
a loop around it is needed anyway; two loops would multiply their patience.
"""

import itertools
import os
import random
import re
import time
from collections.abc import Callable, Collection
from typing import Any, TypeVar
from urllib.parse import urlsplit

import boto3.session
import botocore.exceptions as boto_errors
from botocore.config import Config

from cluster.errors import StorageUnavailableError, TransientStorageError
from cluster.storage.base import StorageSpec, check_endpoint_url
from steersweep.errors import UserError

T = TypeVar("T")

CONNECT_TIMEOUT_S = 5.0
_FIRST_DELAY_S = 0.2
_LONGEST_DELAY_S = 10.0
_DEFAULT_REGION = "us-east-1"  # what S3-compatible stores expect where nothing is set

_TRANSIENT_STATUSES = frozenset({408, 409, 425, 429, 500, 502, 503, 504})
_TRANSIENT_CODES = frozenset(
    {"RequestTimeout", "SlowDown", "BadDigest", "XAmzContentChecksumMismatch"}
)
_TRANSIENT_ERRORS = (
    boto_errors.HTTPClientError,
    boto_errors.ConnectionError,
    boto_errors.IncompleteReadError,
    boto_errors.FlexibleChecksumError,
)
_CREDENTIAL_ERRORS = (
    boto_errors.NoCredentialsError,
    boto_errors.PartialCredentialsError,
    boto_errors.CredentialRetrievalError,
    boto_errors.TokenRetrievalError,
)


def make_client(spec: StorageSpec, *, read_timeout_s: float) -> Any:
    """Return a thread-safe boto3 S3 client that sends each request once.

    Endpoint and region come from `spec`, else from the standard AWS variables and profile.
    """
    try:
        session = boto3.session.Session()
        region = spec.s3_region or os.environ.get("AWS_REGION") or session.region_name
        client = session.client(
            "s3",
            endpoint_url=spec.s3_endpoint_url,
            region_name=region or _DEFAULT_REGION,
            config=Config(
                connect_timeout=CONNECT_TIMEOUT_S,
                read_timeout=read_timeout_s,
                retries={"mode": "standard", "total_max_attempts": 1},
                max_pool_connections=32,
            ),
        )
    except (boto_errors.BotoCoreError, ValueError) as error:
        raise UserError(
            f"cannot set up S3 for {spec.uri} ({type(error).__name__}); check the AWS variables "
            "(endpoint, region, profile)"
        ) from error
    check_endpoint_url(client.meta.endpoint_url)
    return client


def request(
    fn: Callable[[], T],
    *,
    action: str,
    endpoint_url: str,
    patience_s: Callable[[], float],
    tolerate: Collection[int] = (),
) -> T | None:
    """Return `fn()`, or None when the store answers with one of the statuses in `tolerate`.

    `fn` is repeated with jitter after transient failures until `patience_s()` has passed, so it
    must be safe to repeat after an unknown outcome. `action` reads on after "cannot". Raises
    `TransientStorageError` when the patience is over, `StorageUnavailableError` for a refusal.
    """
    start = time.monotonic()
    for num_failed in itertools.count():
        try:
            return fn()
        except (boto_errors.ClientError, boto_errors.BotoCoreError) as error:
            status, code = _status_and_code(error)
            if status in tolerate and code != "NoSuchBucket":
                return None
            most = min(_LONGEST_DELAY_S, _FIRST_DELAY_S * 2**num_failed)
            delay = random.uniform(0, most)  # noqa: S311  jitter, not a secret
            waited = time.monotonic() - start
            is_transient = _is_transient(error)
            if not is_transient or waited + delay > patience_s():
                kind = TransientStorageError if is_transient else StorageUnavailableError
                reason = _reason(error, endpoint_url, waited)
                raise kind(f"cannot {action}: {reason}") from error
        time.sleep(delay)
    raise AssertionError("unreachable")


def _status_and_code(error: Exception) -> tuple[int | None, str]:
    if not isinstance(error, boto_errors.ClientError):
        return None, ""
    status = error.response.get("ResponseMetadata", {}).get("HTTPStatusCode")
    code = str(error.response.get("Error", {}).get("Code", ""))
    return status, code if re.fullmatch(r"\w{1,64}", code) else "no code"


def _is_transient(error: Exception) -> bool:
    if isinstance(error, boto_errors.ClientError):
        status, code = _status_and_code(error)
        return status in _TRANSIENT_STATUSES or code in _TRANSIENT_CODES
    if isinstance(error, (boto_errors.SSLError, boto_errors.ProxyConnectionError)):
        return False
    return isinstance(error, _TRANSIENT_ERRORS)


def _reason(error: Exception, endpoint_url: str, waited_s: float) -> str:
    """Return what to tell the user, made of codes only: texts of the server may hold secrets."""
    status, code = _status_and_code(error)
    host = urlsplit(endpoint_url).netloc.rpartition("@")[2]
    if code == "NoSuchBucket":
        return f"no such bucket at {host}; create it or correct the output"
    if code in ("ExpiredToken", "InvalidToken", "ExpiredTokenException"):
        return f"the AWS credentials have expired ({code}); renew them"
    if code == "RequestTimeTooSkewed":
        return "the clock of this machine differs too much from that of S3; set it"
    if status in (401, 403):
        return (
            f"no permission at {host} ({code}); the AWS credentials need ListBucket, GetObject, "
            "PutObject and DeleteObject"
        )
    if status in (301, 307) or code in ("AuthorizationHeaderMalformed", "PermanentRedirect"):
        return f"the bucket is in another region ({code}); set AWS_REGION or the S3 region"
    if isinstance(error, _CREDENTIAL_ERRORS):
        return "no usable AWS credentials; set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY"
    what = f"{code or type(error).__name__}, HTTP {status or 'none'}"
    if _is_transient(error):
        return f"{host} did not answer for {waited_s:.0f} s ({what}); check endpoint and network"
    return f"{host} refused the request ({what}); check endpoint, region and permissions"
