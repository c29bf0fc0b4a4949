"""``tuning/<model>.json``: the batch size that the replicas of a model share.

Batches decide the last bits of scores, and the best size comes from a clock. So it is measured once
for an output, by the first replica that needs it, and put if absent: every replica, that one too,
goes on with the size that is stored, and so does a later session.
"""

from __future__ import annotations

import hashlib
import json
import logging
import uuid
from collections.abc import Callable, Iterator

from cluster.errors import ObjectNotFoundError, UserActionError
from cluster.storage import Storage
from jobs.stereoset.inventory import Inventory
from steering_core.tuning import Tuning

logger = logging.getLogger(__name__)

TUNING = "tuning/"
_VERSION = 1


def tuning_key(model: str) -> str:
    """Storage key of a model's tuning."""
    return f"{TUNING}{model}.json"


def read_tuning(storage: Storage, key: str) -> Tuning | None:
    """What is stored, or None where nothing is yet.

    Raises:
        UserActionError: what is stored is no tuning.
    """
    try:
        data = storage.read(key)
    except ObjectNotFoundError:
        return None
    try:
        content = json.loads(data)
        tokens = content["tokens_per_batch"]
        if content["tuning_version"] != _VERSION or type(tokens) is not int or tokens < 1:
            raise ValueError
        return Tuning(tokens, {int(size): float(v) for size, v in content["rows_per_s"].items()})
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise UserActionError(
            f"{storage.uri_of(key)} is damaged; delete it to have the batch size measured again"
        ) from error


def shared_tokens_per_batch(storage: Storage, key: str, measure: Callable[[], Tuning]) -> int:
    """The size that is stored; where none is, this replica's, unless another one was first.

    Raises:
        UserActionError: what is stored is no tuning.
    """
    tuning = read_tuning(storage, key)
    while tuning is None:  # again only where the file was deleted this very moment
        _put(storage, key, measure())
        tuning = read_tuning(storage, key)
    logger.info("batches of %d tokens, as in %s", tuning.tokens_per_batch, key)
    return tuning.tokens_per_batch


def _put(storage: Storage, key: str, measured: Tuning) -> None:
    content = {
        "tuning_version": _VERSION,
        "tokens_per_batch": measured.tokens_per_batch,
        "rows_per_s": {str(size): rate for size, rate in measured.rows_per_s.items()},
    }
    data = json.dumps(content, indent=2, allow_nan=False).encode()
    digest = hashlib.sha256(data).hexdigest()
    outcome = storage.put_if_absent(key, data, attempt=uuid.uuid4().hex, digest=digest)
    logger.info("measured %s: %s", measured, outcome.value)


def described(storage: Storage, inventory: Inventory) -> Iterator[str]:
    """A line for each model of an output whose batch size is known."""
    planned = {task.group.model: task.tokens_per_batch for task in inventory.planned}
    for model, given in sorted(planned.items()):
        tuning = Tuning(given, {}) if given else read_tuning(storage, tuning_key(model))
        if tuning is not None:
            measured = ", measured" if tuning.rows_per_s else ""
            yield f"{model}: batches of {tuning.tokens_per_batch:,} tokens{measured}"
