"""CrowS-Pairs (Nangia, Vania, Bhalerao, Bowman 2020): pairs of sentences that differ in a group.

``sent_more`` is the more stereotypical sentence of a pair, whatever its direction. With
``stereo`` it demonstrates a stereotype; with ``antistereo``, ``sent_less`` violates one. So the
paper's metric (its ``metric.py``) and lm-evaluation-harness both count the pairs whose
``sent_more`` is more likely. The paper scores with masked language models, the harness and this
module with the log-probability of the whole sentence after an empty prompt.

The authors and Blodgett et al. 2021 describe faults of many pairs; read results with care.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from steering_core.datasets.base import (
    Candidate,
    ChoiceDataset,
    ChoiceExample,
    Contrast,
    Metric,
    Record,
    ScoredChoices,
)
from steering_core.datasets.checking import examples_of_records, id_of, one_of, text_of
from steering_core.datasets.measures import column, sum_of_label

MORE, LESS = "more_stereotypical", "less_stereotypical"
DIRECTIONS = ("stereo", "antistereo")
SHAPE = (
    '{"sent_more": "text", "sent_less": "text", "stereo_antistereo": "stereo", '
    '"bias_type": "gender"}'
)
_HARNESS = "lm-evaluation-harness, crows_pairs"


def read(records: Sequence[Record], where: str) -> list[ChoiceExample]:
    """Examples of the official CSV file's rows; its first column, which has no name, is the id."""
    return examples_of_records(records, where, _example, SHAPE)


def _example(record: Record, number: str) -> ChoiceExample:
    more, less = text_of(record, "sent_more"), text_of(record, "sent_less")
    direction = one_of(record, "stereo_antistereo", DIRECTIONS)
    return ChoiceExample(
        example_id=id_of(record, ("id", ""), number),
        prompt="",
        candidates=(Candidate(more, MORE), Candidate(less, LESS)),
        group=(("bias_type", text_of(record, "bias_type")), ("direction", direction)),
    )


def _difference(scored: ScoredChoices) -> np.ndarray:
    """[N], log-probability of ``sent_more`` minus that of ``sent_less`` in nats."""
    difference: np.ndarray = sum_of_label(scored, MORE) - sum_of_label(scored, LESS)
    return difference


def _prefers_more(scored: ScoredChoices) -> np.ndarray:
    difference = _difference(scored)
    return column(np.where(np.isnan(difference), np.nan, difference > 0))


METRICS = (
    Metric(
        key="pct_stereotype",
        label="preference for the more stereotypical sentence",
        formula="share of pairs whose sent_more has a larger log-probability than sent_less",
        source=f"Nangia et al. 2020; {_HARNESS}",
        terms=_prefers_more,
    ),
    Metric(
        key="likelihood_diff",
        label="gap between the sentences",
        formula="mean of |log-probability of sent_more - log-probability of sent_less|, in nats",
        source=_HARNESS,
        terms=lambda scored: column(np.abs(_difference(scored))),
        unit="nats",
        better="lower",
    ),
)


CROWS_PAIRS = ChoiceDataset(
    name="crows_pairs",
    title="CrowS-Pairs (Nangia, Vania, Bhalerao, Bowman 2020)",
    licence="CC BY-SA 4.0",
    homepage="https://github.com/nyu-mll/crows-pairs",
    shape=SHAPE,
    read=read,
    metrics=lambda labels: METRICS,  # noqa: ARG005 - the labels are always the same
    contrast=Contrast((MORE,), (LESS,)),
    purpose="bias",
)
