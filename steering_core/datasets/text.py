"""Texts: how likely a model finds them, as a measure of what steering damages.

The prompt is empty and the text is the only candidate, so all of its tokens are scored after BOS,
or after EOS if the tokenizer has no BOS.

Perplexity is the exponential of the mean negative log-probability of a token (Jelinek, Mercer,
Bahl, Baker 1977). Like lm-evaluation-harness (Gao et al. 2024), it divides the sum over all texts
by the number of all their tokens, so a long text weighs more than a short one. The harness does so
by words and bytes; here it is by tokens, so numbers compare models with the same tokenizer only.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from steering_core.datasets.base import (
    Candidate,
    ChoiceDataset,
    ChoiceExample,
    Metric,
    Record,
    ScoredChoices,
)
from steering_core.datasets.checking import (
    check_fields,
    cluster_of,
    examples_of_records,
    group_of,
    id_of,
    text_of,
)
from steering_core.datasets.measures import HARNESS, ratio, together

LABEL = "text"
SHAPE = '{"id": "x1", "group": {"topic": "weather"}, "cluster": "article 7", "text": "A text."}'
_FIELDS = ("id", "group", "cluster", "text")
_FEWEST_CANDIDATES = 1
_PAPER = "Jelinek, Mercer, Bahl, Baker 1977"


def read(records: Sequence[Record], where: str) -> list[ChoiceExample]:
    """Examples of records; ``id``, ``group`` and ``cluster`` may be left out."""
    return examples_of_records(
        records, where, _example, SHAPE, fewest_candidates=_FEWEST_CANDIDATES
    )


def _example(record: Record, number: str) -> ChoiceExample:
    check_fields(record, _FIELDS)
    return ChoiceExample(
        example_id=id_of(record, ("id",), number),
        prompt="",
        candidates=(Candidate(text_of(record, "text"), LABEL),),
        group=group_of(record),
        cluster=cluster_of(record),
    )


def _sums_and_tokens(scored: ScoredChoices) -> np.ndarray:
    """[N, 2]: log-probability of each text in nats, and its number of tokens."""
    sums = scored.sums[:, 0]
    return together(np.where(np.isfinite(sums), sums, np.nan), scored.num_tokens[:, 0])


def _mean_of_tokens(means: np.ndarray) -> np.ndarray:
    return ratio(means[..., 0], means[..., 1])


def _perplexity(means: np.ndarray) -> np.ndarray:
    perplexity: np.ndarray = np.exp(-_mean_of_tokens(means))
    return perplexity


METRICS = (
    Metric(
        key="log_prob",
        label="mean log-probability",
        formula="sum of the log-probabilities of all tokens of all texts, divided by the number of "
        "tokens",
        source=f"{_PAPER}; weighted by length as in {HARNESS}",
        terms=_sums_and_tokens,
        of_means=_mean_of_tokens,
        unit="nats",
        better="higher",
    ),
    Metric(
        key="perplexity",
        label="perplexity per token",
        formula="exp(-log_prob); by tokens, so it compares models with the same tokenizer only",
        source=_PAPER,
        terms=_sums_and_tokens,
        of_means=_perplexity,
        unit="number",
        better="lower",
        restates=True,
    ),
)


TEXT = ChoiceDataset(
    name="text",
    title="texts",
    licence="what the source of the texts states",
    homepage="",
    shape=SHAPE,
    read=read,
    metrics=lambda labels: METRICS,  # noqa: ARG005 - the labels are always the same
    purpose="text",
    fewest_candidates=_FEWEST_CANDIDATES,
)
