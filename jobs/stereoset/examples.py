"""The examples of a StereoSet sweep as the table ``examples.parquet``."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from contextlib import suppress
from typing import Any

import pyarrow as pa

from cluster.storage import Storage
from jobs.advice import advised
from jobs.data import stereoset_file
from jobs.data_source import source_of_stereoset
from jobs.examples_file import EXAMPLES_KEY, read_examples, write_examples
from jobs.scoring.inventory import Inventory
from jobs.stereoset.groups import place_of
from jobs.stereoset.resolve import Sweep
from steering_core.stereoset import BIAS_TYPES, SPLITS, Example, read_stereoset
from steersweep.errors import UserError

EXAMPLES_SCHEMA = pa.schema(
    [
        ("example_id", pa.string()),
        ("split", pa.string()),
        ("bias_type", pa.string()),
        ("target", pa.string()),
        ("context", pa.string()),
        ("candidates", pa.list_(pa.string())),
        ("labels", pa.list_(pa.string())),
    ]
)
"""``candidates`` and ``labels`` have three entries each, in the order of the data file."""
_DATA_DIGEST = "data (content)"


def sweep_examples(sweep: Sweep) -> pa.Table:
    """One row per example of the sweep."""
    examples = [e for group, _ in sweep.groups.values() for e in group]
    return _table(examples, sweep.spec.data.path, sweep.data_digest)


def stored_examples(storage: Storage, inventory: Inventory, record: Mapping[str, Any]) -> pa.Table:
    """The output's ``examples.parquet``; for an older output, made from its data file.

    Raises:
        UserError: it has no such file, and its data file is not here or has changed since.
    """
    stored = read_examples(storage)
    if stored is not None:
        return stored
    try:
        path = str(record["spec"]["data"]["path"])
        digest = str(record["identity"][_DATA_DIGEST])
        with advised():
            data = read_stereoset(stereoset_file(path))
    except (KeyError, TypeError) as error:
        raise UserError(
            f"{storage.uri} has no {EXAMPLES_KEY}, and its run.json does not name its data"
        ) from error
    except UserError as error:
        raise _without_texts(storage, str(error)) from error
    if data.digest != digest:
        raise _without_texts(storage, f"{path} has changed since the run")
    planned = {
        (*place_of(task.group), example_id)
        for task in inventory.of_own_data
        for example_id in task.example_ids
    }
    kept = [e for e in data.examples if (e.split, e.bias_type, e.example_id) in planned]
    return _table(kept, path, digest)


def store_missing_examples(
    storage: Storage, inventory: Inventory, record: Mapping[str, Any]
) -> None:
    """Give an output of an earlier version its ``examples.parquet``, if the texts can be had."""
    if read_examples(storage) is None:
        with suppress(UserError):
            write_examples(storage, stored_examples(storage, inventory, record))


def _without_texts(storage: Storage, reason: str) -> UserError:
    return UserError(
        f"{storage.uri} has no {EXAMPLES_KEY} (an earlier version made it), and the texts cannot "
        f"be taken from its data file: {reason}. Put the file back where the run read it, then "
        "`steersweep report` stores the texts"
    )


def _table(examples: Iterable[Example], path: str, digest: str) -> pa.Table:
    """Rows by split and bias type in StereoSet's order, then in the order of the data file."""
    in_order = sorted(
        examples, key=lambda e: (SPLITS.index(e.split), BIAS_TYPES.index(e.bias_type))
    )
    rows = [
        {
            "example_id": e.example_id,
            "split": e.split,
            "bias_type": e.bias_type,
            "target": e.target,
            "context": e.context,
            "candidates": e.sentences,
            "labels": e.labels,
        }
        for e in in_order
    ]
    source = source_of_stereoset(path, digest)
    schema = EXAMPLES_SCHEMA.with_metadata({**source.metadata(), "data_digest": digest})
    return pa.Table.from_pylist(rows, schema=schema)
