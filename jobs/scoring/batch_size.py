"""``tuning/<model>.json``: the batch size and the kernels that the replicas of a model share.

Both decide the last bits of scores, and both come from a clock. So they are measured once for an
output, by the first replica that needs them, and put if absent: every replica, that one too, goes
on with what is stored, and so does a later session.

Version 1 of the file says nothing of kernels: none are used then. Version 2 names them, and is
written wherever kernels can run, even if none was chosen and if the sweep gives the batch size.
"""

from __future__ import annotations

import hashlib
import json
import logging
import uuid
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from cluster.errors import ObjectNotFoundError
from cluster.storage import Storage
from jobs.scoring.inventory import Inventory
from steering_core.kernels.choice import KernelCheck
from steersweep.errors import StopRunError

logger = logging.getLogger(__name__)

TUNING = "tuning/"


@dataclass(frozen=True)
class ModelTuning:
    """What the replicas of a model share.

    Attributes:
        tokens_per_batch: None where the sweep gives it.
        rows_per_s: rate of each size that was timed.
        kernels: names of the engine's kernels (``steering_core.kernels``); None where no choice was
            made: none are used then.
        checks: what was measured of each kernel, for the reader of the file.
    """

    tokens_per_batch: int | None
    rows_per_s: Mapping[int, float]
    kernels: tuple[str, ...] | None = None
    checks: Mapping[str, KernelCheck] = field(default_factory=dict, compare=False)

    def __str__(self) -> str:
        """The tuning in words; empty if there is nothing to tell."""
        words = []
        if self.tokens_per_batch is not None:
            measured = ", measured" if self.rows_per_s else ""
            words.append(f"batches of {self.tokens_per_batch:,} tokens{measured}")
        if self.kernels is not None:
            words.append(f"kernels: {', '.join(self.kernels) or 'none'}")
        return "; ".join(words)


def tuning_key(model: str) -> str:
    """Storage key of a model's tuning."""
    return f"{TUNING}{model}.json"


def read_tuning(storage: Storage, key: str) -> ModelTuning | None:
    """What is stored, or None where nothing is yet.

    Raises:
        StopRunError: what is stored is no tuning.
    """
    try:
        data = storage.read(key)
    except ObjectNotFoundError:
        return None
    try:
        return _parsed(json.loads(data))
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise StopRunError(
            f"{storage.uri_of(key)} is damaged; delete it to have batch size and kernels chosen "
            "again"
        ) from error


def _parsed(content: Any) -> ModelTuning:
    tokens, kernels = content["tokens_per_batch"], None
    if content["tuning_version"] == 2:
        kernels = content["kernels"]
        if type(kernels) is not list or not all(type(name) is str for name in kernels):
            raise ValueError
    elif content["tuning_version"] != 1:
        raise ValueError
    is_given = tokens is None and kernels is not None
    if not is_given and (type(tokens) is not int or tokens < 1):
        raise ValueError
    rates = {int(size): float(v) for size, v in content["rows_per_s"].items()}
    return ModelTuning(tokens, rates, None if kernels is None else tuple(kernels))


def shared_tuning(storage: Storage, key: str, measure: Callable[[], ModelTuning]) -> ModelTuning:
    """What is stored; where nothing is, this replica's, unless another one was first.

    Raises:
        StopRunError: what is stored is no tuning.
    """
    tuning = read_tuning(storage, key)
    while tuning is None:  # again only where the file was deleted this very moment
        _put(storage, key, measure())
        tuning = read_tuning(storage, key)
    logger.info("%s, as in %s", tuning, key)
    return tuning


def _put(storage: Storage, key: str, measured: ModelTuning) -> None:
    content: dict[str, Any] = {
        "tuning_version": 1 if measured.kernels is None else 2,
        "tokens_per_batch": measured.tokens_per_batch,
        "rows_per_s": {str(size): rate for size, rate in measured.rows_per_s.items()},
    }
    if measured.kernels is not None:
        content["kernels"] = list(measured.kernels)
        content["kernel_checks"] = {name: asdict(c) for name, c in measured.checks.items()}
    data = json.dumps(content, indent=2, allow_nan=False).encode()
    digest = hashlib.sha256(data).hexdigest()
    outcome = storage.put_if_absent(key, data, attempt=uuid.uuid4().hex, digest=digest)
    logger.info("measured %s: %s", measured, outcome.value)


def described(storage: Storage, inventory: Inventory) -> Iterator[str]:
    """A line for each model of an output whose batch size or kernels are known."""
    planned = {task.group.model: task.tokens_per_batch for task in inventory.planned}
    for model, given in sorted(planned.items()):
        tuning = read_tuning(storage, tuning_key(model))
        if given is not None:
            tuning = ModelTuning(given, {}, None if tuning is None else tuning.kernels)
        if tuning is not None:
            yield f"{model}: {tuning}"
