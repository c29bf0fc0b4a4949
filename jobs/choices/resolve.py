"""From a valid spec to a sweep over choice data."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from jobs.choices.spec import ChoicesSpec
from jobs.datasets.load import LoadedChoices, digest_of, load_examples
from jobs.scoring.choice_rows import ChoiceRows
from jobs.scoring.groups import GroupKey
from jobs.scoring.resolve import resolved
from jobs.scoring.sweep import ScoredSweep
from steering_core.datasets.base import ChoiceDataset, ChoiceExample, Contrast
from steering_core.datasets.registry import DATASETS
from steersweep.errors import UserError

AXES = ("fit",)
ALL = "all"
"""The fit of a sweep with one vector for all examples."""
_LONGEST_NAME = 128
_MOST_NAMED = 8


@dataclass(frozen=True)
class ChoicesSweep(ScoredSweep[ChoicesSpec, ChoiceExample]):
    """A resolved sweep."""

    axes = AXES
    cluster = "cluster"

    @property
    def dataset(self) -> ChoiceDataset:
        """What the labels mean, and the metrics."""
        return DATASETS[self.spec.data.format_name]

    @property
    def contrast(self) -> Contrast | None:
        """What vectors tell apart; None if they come from a file and nothing is said."""
        return contrast_of(self.spec, self.dataset)

    @property
    def by(self) -> tuple[str, ...]:
        """Keys of the examples' group that tell fits apart."""
        return by_of(self.spec, self.dataset)

    def examples_digest(self, examples: Sequence[ChoiceExample]) -> str:
        """See ``ScoredSweep``."""
        return digest_of(examples)

    def data_identity(self) -> dict[str, Any]:
        """See ``ScoredSweep``."""
        data = self.spec.data
        return {
            "data.format": data.format_name,
            "data.frame": data.frame,
            "data.candidate_orders": data.candidate_orders,
            "data.limit": data.limit,
            "data.seed": data.seed,
            "contrast.by": list(self.by),
            **self.task_identity(),
        }

    def task_identity(self) -> dict[str, Any]:
        """See ``ScoredSweep``: what changes the numbers of an example and is not part of it."""
        contrast, data = self.contrast, self.spec.data
        return {
            "contrast.positive": None if contrast is None else list(contrast.positive),
            "contrast.negative": None if contrast is None else list(contrast.negative),
            "data.chat": {"options": data.chat_options} if data.chat else None,
        }

    def resolved_spec(self) -> dict[str, Any]:
        """See ``ScoredSweep``."""
        spec, contrast = super().resolved_spec(), self.contrast
        spec["data"]["format"] = self.spec.data.format_name
        spec["contrast"]["by"] = list(self.by)
        if contrast is not None:
            spec["contrast"] |= {
                "positive": list(contrast.positive),
                "negative": list(contrast.negative),
            }
        return spec


def resolve(spec: ChoicesSpec, device: str | None = None) -> ChoicesSweep:
    """The sweep of a spec, with its data read, its tokenizers loaded and its grid checked.

    Args:
        device: the replicas' kind of device if the caller knows it; otherwise the spec's, on this
            machine.

    Raises:
        UserError: anything the user must change.
    """
    loaded = load_examples(spec.data.path, spec.data.format, **spec.data.options())
    contrast = contrast_of(spec, loaded.dataset)
    _check_contrast(spec, loaded, contrast)
    groups = _fits(spec, by_of(spec, loaded.dataset), loaded.examples)
    keys = dict.fromkeys(key for e in loaded.examples for key, _ in e.group)
    rows = ChoiceRows(
        tuple(keys), contrast, spec.data.chat, tuple(sorted(spec.data.chat_options.items()))
    )
    return resolved(ChoicesSweep, spec, loaded.digest, groups, cluster_of, rows, device)


def cluster_of(example: ChoiceExample) -> str:
    """What folds and intervals go by: its cluster, or the example itself."""
    return example.cluster or example.example_id


def contrast_of(spec: ChoicesSpec, dataset: ChoiceDataset) -> Contrast | None:
    """The spec's contrast, completed by the data set's usual one.

    Raises:
        UserError: one side is missing, and the data set has no usual contrast.
    """
    usual, own = dataset.contrast, spec.contrast
    positive = own.positive or (usual and usual.positive)
    negative = own.negative or (usual and usual.negative)
    if positive and negative:
        return Contrast(positive, negative, by_of(spec, dataset))
    if spec.vectors.file is not None and not (own.positive or own.negative):
        return None
    if dataset.fewest_candidates == 1:
        raise UserError(
            f"vectors.file must be set: format {dataset.name} has no candidates to tell apart, so "
            "vectors cannot be fitted to it"
        )
    missing = "positive" if not positive else "negative"
    raise UserError(
        f"contrast.{missing} must be set: format {dataset.name} has no usual contrast, so say "
        "which labels a vector points to (positive) and away from (negative)"
    )


def by_of(spec: ChoicesSpec, dataset: ChoiceDataset) -> tuple[str, ...]:
    """Keys of the group that tell fits apart: the spec's, or the data set's usual ones."""
    if spec.contrast.by is not None:
        return spec.contrast.by
    return dataset.contrast.by if dataset.contrast is not None else ()


def _check_contrast(spec: ChoicesSpec, loaded: LoadedChoices, contrast: Contrast | None) -> None:
    """Refuse labels that do not occur, and examples that lack a side."""
    if contrast is None:
        return
    counts = Counter(label for e in loaded.examples for label in e.labels)
    for key in ("positive", "negative"):
        labels: tuple[str, ...] = getattr(contrast, key)
        for label in labels:
            if label not in counts:
                raise UserError(
                    f"contrast.{key}: no candidate in {spec.data.path} has the label {label!r}; "
                    f"there are: {_named(counts)}"
                )
        lacking = [e for e in loaded.examples if not set(labels) & set(e.labels)]
        if lacking and spec.vectors.file is None:
            raise UserError(
                f"contrast.{key}: {len(lacking):,} of {len(loaded.examples):,} examples in "
                f"{spec.data.path} have no candidate labeled {' or '.join(labels)} (the first is "
                f"{lacking[0].example_id!r}); remove them, or choose other labels"
            )


def _fits(
    spec: ChoicesSpec, by: Sequence[str], examples: Sequence[ChoiceExample]
) -> dict[GroupKey, tuple[ChoiceExample, ...]]:
    """Examples of each vector that is fitted, in the order in which they first occur."""
    fits: dict[GroupKey, list[ChoiceExample]] = {}
    for example in examples:
        fits.setdefault((_fit_name(spec, by, example),) if by else (ALL,), []).append(example)
    return {key: tuple(found) for key, found in fits.items()}


def _fit_name(spec: ChoicesSpec, by: Sequence[str], example: ChoiceExample) -> str:
    values = []
    for key in by:
        value = example.group_value(key)
        if value is None:
            there = ", ".join(name for name, _ in example.group) or "none"
            raise UserError(
                f"contrast.by: example {example.example_id!r} in {spec.data.path} has no group key "
                f"{key!r}; it has: {there}"
            )
        values.append(value)
    name = "/".join(values)
    if not name.strip() or len(name) > _LONGEST_NAME:
        raise UserError(
            f"contrast.by: the values of example {example.example_id!r}, {name[:60]!r}, cannot "
            f"name a vector; they must have 1 to {_LONGEST_NAME} characters together"
        )
    return name


def _named(counts: Mapping[str, int]) -> str:
    named = [f"{label!r} ({num:,})" for label, num in list(counts.items())[:_MOST_NAMED]]
    return ", ".join(named) + (", ..." if len(counts) > _MOST_NAMED else "")
