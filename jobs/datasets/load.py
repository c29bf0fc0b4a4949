"""From what a specification says about data to examples that can be scored."""

from __future__ import annotations

import hashlib
import json
import random
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, get_args

from jobs.data import stereoset_file
from jobs.datasets.fields import field_mapping, mapped_records, text_mapping
from jobs.datasets.files import PLAIN_TEXT, read_records
from jobs.datasets.hub import HUB, read_hub_records
from jobs.resources import local_path
from steering_core.datasets.base import ChoiceDataset, ChoiceExample, Frame
from steering_core.datasets.choices import CHOICES
from steering_core.datasets.frames import in_orders, with_frame
from steering_core.datasets.registry import DATASETS
from steering_core.datasets.stereoset import STEREOSET, choice_example
from steering_core.datasets.text import TEXT
from steering_core.stereoset import read_stereoset
from steersweep.errors import UserError

_MAPPINGS = {CHOICES.name: field_mapping, TEXT.name: text_mapping}
"""How ``fields`` are read, by the name of a data set that takes them."""


class LoadedChoices(NamedTuple):
    """Examples as they are scored.

    Attributes:
        dataset: what their labels mean, and their metrics.
        examples: sampled, in their frame, each under all of its orders.
        digest: SHA-256 of the content of all of the data, before sampling, frame and orders.
    """

    dataset: ChoiceDataset
    examples: tuple[ChoiceExample, ...]
    digest: str


def load_examples(
    path: str,
    format: str | None = None,  # noqa: A002 - the key of the specification
    *,
    fields: Mapping[str, Any] | None = None,
    frame: Frame = "as_given",
    candidate_orders: int = 1,
    limit: int | None = None,
    seed: int = 0,
    config: str | None = None,
    split: str | None = None,
    revision: str | None = None,
) -> LoadedChoices:
    """The examples of a file or of a data set on the hub.

    Args:
        path: a file, ``embedded:<name>``, ``hf:owner/name``, or ``stereoset`` for the official
            development set, which is fetched into the cache.
        format: a name of ``steering_core.datasets.registry``; by default ``choices``.
        fields: which columns hold what, only for ``choices`` (``FieldMapping``) and ``text``
            (``TextMapping``).
        limit: examples to draw with the seed; all of them if there are fewer.
        seed: of the sample, and of the orders.
        config, split, revision: of a data set on the hub.

    Raises:
        UserError: what ``path`` names cannot be had or read, or is not what ``format`` says.
    """
    dataset = _dataset(path, format)
    _check_options(fields, dataset, frame, candidate_orders, limit)
    _check_extension(path, dataset)
    if dataset is STEREOSET and not path.startswith(HUB):
        examples = _stereoset(path)
    else:
        records = _records(path, config, split, revision)
        if fields is not None:
            records = mapped_records(records, _MAPPINGS[dataset.name](fields), path)
        examples = dataset.read(records, path)
    digest = digest_of(examples)
    framed = _framed(_sampled(examples, limit, seed, dataset.name), frame, path)
    try:
        ordered = in_orders(framed, candidate_orders, seed)
    except UserError as error:
        raise UserError(f"{path}: {error}") from None
    return LoadedChoices(dataset, tuple(ordered), digest)


def digest_of(examples: Sequence[ChoiceExample]) -> str:
    """SHA-256 over the content of examples in order; the formatting of their file is left out."""
    sha = hashlib.sha256()
    for e in examples:
        candidates = [[c.text, c.label] for c in e.candidates]
        content = [e.example_id, e.prompt, candidates, e.group, e.cluster, e.stem, e.options]
        sha.update(json.dumps(content, ensure_ascii=True).encode())
    return sha.hexdigest()


def _dataset(path: str, name: str | None) -> ChoiceDataset:
    if name is None:
        return STEREOSET if path == STEREOSET.name else CHOICES
    if name not in DATASETS:
        raise UserError(f"{path}: unknown format {name!r}; choose one of {', '.join(DATASETS)}")
    return DATASETS[name]


def _check_options(
    fields: Mapping[str, Any] | None,
    dataset: ChoiceDataset,
    frame: str,
    candidate_orders: int,
    limit: int | None,
) -> None:
    if fields is not None and dataset.name not in _MAPPINGS:
        raise UserError(
            f"fields: only the formats {' and '.join(_MAPPINGS)} take them, and this is "
            f"{dataset.name}"
        )
    if frame not in get_args(Frame):
        raise UserError(f"frame: expected one of {', '.join(get_args(Frame))}, got {frame!r}")
    if candidate_orders < 1:
        raise UserError(f"candidate_orders: expected at least 1, got {candidate_orders}")
    if dataset.fewest_candidates == 1 and (frame != "as_given" or candidate_orders > 1):
        key = "candidate_orders" if frame == "as_given" else "frame"
        raise UserError(f"{key}: format {dataset.name} has none, since a text has no options")
    if limit is not None and limit < 1:
        raise UserError(f"limit: expected at least 1, got {limit}")


def _check_extension(path: str, dataset: ChoiceDataset) -> None:
    if path.lower().endswith(PLAIN_TEXT) and not path.startswith(HUB) and dataset is not TEXT:
        raise UserError(
            f"{path}: is a plain text file, which only format text reads, and this is format "
            f"{dataset.name}; set format: text, or name another file"
        )


def _records(
    path: str, config: str | None, split: str | None, revision: str | None
) -> Sequence[Any]:
    if path.startswith(HUB):
        return read_hub_records(path, config, split, revision)
    given = {"config": config, "split": split, "revision": revision}
    extra = next((name for name, value in given.items() if value is not None), None)
    if extra is not None:
        raise UserError(f"{extra}: only data on the hub ({HUB}owner/name) has one, not {path}")
    return read_records(local_path(path))


def _stereoset(path: str) -> list[ChoiceExample]:
    examples = [choice_example(e) for e in read_stereoset(stereoset_file(path)).examples]
    [(example_id, times)] = Counter(e.example_id for e in examples).most_common(1)
    if times > 1:
        raise UserError(f"{path}: id {example_id[:80]!r} occurs in both splits; rename one")
    return examples


def _sampled(
    examples: Sequence[ChoiceExample], limit: int | None, seed: int, name: str
) -> Sequence[ChoiceExample]:
    if limit is None or limit >= len(examples):
        return examples
    rng = random.Random(f"{seed}/{name}")  # noqa: S311 - a sample, not a secret
    return [examples[index] for index in sorted(rng.sample(range(len(examples)), limit))]


def _framed(examples: Sequence[ChoiceExample], frame: Frame, path: str) -> list[ChoiceExample]:
    try:
        return [with_frame(example, frame) for example in examples]
    except UserError as error:
        raise UserError(f"{path}: {error}") from None
