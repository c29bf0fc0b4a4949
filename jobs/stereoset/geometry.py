"""Anisotropy of the pooled states by layer, from the sums that phase 1 has left."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from itertools import product

import pyarrow as pa

from cluster.parts import read_part
from cluster.storage import Storage
from jobs.scoring.groups import Group
from jobs.scoring.inventory import Inventory
from jobs.scoring.tables import fold_sums
from jobs.stereoset.groups import place_of
from jobs.stereoset.summary_keys import POOLED
from steering_core.anisotropy import StateSums

GEOMETRY_SCHEMA = pa.schema(
    [
        ("model", pa.string()),
        ("split", pa.string()),
        ("bias_type", pa.string()),
        ("layer", pa.int32()),
        ("num_states", pa.int64()),
        ("mean_norm", pa.float64()),
        ("mean_cosine", pa.float64()),
        ("mean_pairwise_cosine", pa.float64()),
    ]
)
"""Estimates of ``steering_core.anisotropy`` over the pooled states of stereotype and
anti-stereotype, where the vectors are read."""


def geometry(storage: Storage, inventory: Inventory) -> pa.Table:
    """A row per (model, split, bias_type, layer) of which every state is summed, and pooled ones.

    Over bias types and splits (``all``) where there are several and all of them are complete.
    """
    by_group = dict(_complete(storage, inventory))
    rows = []
    for model in sorted({group.model for group, _ in by_group}):
        of_model = {key: sums for key, sums in by_group.items() if key[0].model == model}
        planned = {
            (task.group, layer)
            for task in inventory.of_own_data
            for layer in task.layers
            if task.group.model == model
        }
        rows += [
            {
                "model": model,
                "split": split,
                "bias_type": bias_type,
                "layer": layer,
                "num_states": sums.num_states,
                "mean_norm": sums.mean_norm,
                "mean_cosine": sums.mean_cosine,
                "mean_pairwise_cosine": sums.mean_pairwise_cosine,
            }
            for (split, bias_type, layer), sums in _with_pooled(planned, of_model)
        ]
    return pa.Table.from_pylist(rows, schema=GEOMETRY_SCHEMA)


_Key = tuple[Group, int]


def _complete(storage: Storage, inventory: Inventory) -> Iterator[tuple[_Key, StateSums]]:
    """The sums of each group and layer whose tasks are all done."""
    missing: dict[_Key, int] = defaultdict(int)
    for task in inventory.of_own_data:
        for layer in task.layers:
            missing[task.group, layer] += 1
    sums: dict[_Key, StateSums] = {}
    for task, task_id, key in inventory.parts_done("sums"):
        by_layer: dict[int, list[StateSums]] = defaultdict(list)
        for entry in fold_sums(read_part(storage, key, task_id)):
            if entry.states is not None:  # older outputs have none
                by_layer[entry.layer].append(entry.states)
        for layer, of_folds in by_layer.items():
            of = task.group, layer
            before = [sums[of]] if of in sums else []
            sums[of] = StateSums.joined([*before, *of_folds])
            missing[of] -= 1
    yield from ((of, of_group) for of, of_group in sums.items() if not missing[of])


def _with_pooled(
    planned: set[_Key], complete: dict[_Key, StateSums]
) -> Iterator[tuple[tuple[str, str, int], StateSums]]:
    """What is complete, and what all of its parts are complete of."""
    splits = sorted({place_of(group)[0] for group, _ in planned})
    bias_types = sorted({place_of(group)[1] for group, _ in planned})
    for split, bias_type, layer in product(
        [*splits, *([POOLED] if len(splits) > 1 else [])],
        [*bias_types, *([POOLED] if len(bias_types) > 1 else [])],
        sorted({layer for _, layer in planned}),
    ):
        parts = [
            (group, at)
            for group, at in sorted(planned)
            if at == layer
            and split in (place_of(group)[0], POOLED)
            and bias_type in (place_of(group)[1], POOLED)
        ]
        if parts and all(part in complete for part in parts):
            yield (split, bias_type, layer), StateSums.joined(complete[part] for part in parts)
