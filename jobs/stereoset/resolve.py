"""From a valid spec to a sweep over StereoSet."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from jobs.data import stereoset_file
from jobs.scoring.groups import GroupKey
from jobs.scoring.resolve import resolved
from jobs.scoring.sweep import FILE_DIGEST, ScoredSweep
from jobs.stereoset.groups import AXES
from jobs.stereoset.spec import StereoSetSpec
from jobs.stereoset.tables import StereoSetRows
from steering_core.datasets.stereoset import CONTRAST
from steering_core.stereoset import Example, StereoSet, examples_digest, read_stereoset
from steersweep.errors import UserError


class Sweep(ScoredSweep[StereoSetSpec, Example]):
    """A resolved sweep."""

    axes = AXES
    cluster = "target term"
    contrast = CONTRAST

    def examples_digest(self, examples: Sequence[Example]) -> str:
        """See ``ScoredSweep``."""
        return examples_digest(examples)

    def data_identity(self) -> dict[str, Any]:
        """See ``ScoredSweep``."""
        return {"data.limit": self.spec.data.limit, "data.seed": self.spec.data.seed}

    def resolved_spec(self) -> dict[str, Any]:
        """See ``ScoredSweep``."""
        return {**super().resolved_spec(), "scoring": self.protocol.scoring}


def recorded_identity(record: Mapping[str, Any]) -> dict[str, Any]:
    """The identity in a run's record, with what keys meant before they were there."""
    before: dict[str, Any] = {
        "vectors.method": "mean_difference",
        "steering.operation": "add",
        "steering.unit": "vector",
        "measures": [],
        FILE_DIGEST: None,
    }
    return {**before, **record["identity"]}


def resolve(spec: StereoSetSpec, device: str | None = None) -> Sweep:
    """The sweep of a spec, with its data read, its tokenizers loaded and its grid checked.

    Args:
        device: the replicas' kind of device where the caller knows it; otherwise the spec's, on
            this machine.

    Raises:
        UserError: anything the user must change, in one line.
    """
    dataset = read_stereoset(stereoset_file(spec.data.path))
    examples = _examples(spec, dataset)
    rows = StereoSetRows()
    return resolved(Sweep, spec, dataset.digest, examples, lambda e: e.target, rows, device)


def _examples(spec: StereoSetSpec, dataset: StereoSet) -> dict[GroupKey, tuple[Example, ...]]:
    """Of each split and bias type."""
    groups: dict[GroupKey, tuple[Example, ...]] = {}
    for split in spec.data.splits:
        for bias_type in spec.data.bias_types:
            examples = dataset.group(split, bias_type, spec.data.limit, spec.data.seed)
            if not examples:
                there = ", ".join(f"{s}: {'/'.join(c)}" for s, c in dataset.counts().items())
                raise UserError(
                    f"{spec.data.path} holds no {bias_type} example in {split}; it holds {there}"
                )
            groups[split, bias_type] = examples
    return groups
