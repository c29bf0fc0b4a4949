"""StereoSet as choice data: the same texts, and the same metrics as StereoSet's own module."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from jobs.resources import local_path
from steering_core.datasets.stereoset import STEREOSET, choice_example
from steering_core.metrics import (
    TermSums,
    example_values,
    stereoset_estimates,
    sums_by_term,
)
from steering_core.stereoset import LABELS, Example, read_stereoset
from tests.support.choice_scores import scored_at_random, shared_file, values_of


def embedded() -> tuple[Example, ...]:
    return read_stereoset(local_path("embedded:examples.json")).examples


def test_the_scored_text_is_that_of_the_encoder() -> None:
    for example in embedded():
        choice = choice_example(example)
        assert choice.prompt == example.prompt
        assert choice.texts == example.texts
        assert choice.labels == example.labels
        assert choice.cluster == example.target


def test_records_with_their_split_are_read() -> None:
    example = embedded()[0]
    record: dict[str, Any] = {
        "split": example.split,
        "id": example.example_id,
        "target": example.target,
        "bias_type": example.bias_type,
        "context": example.context,
        "sentences": [
            {"sentence": text, "gold_label": label}
            for text, label in zip(example.sentences, example.labels, strict=True)
        ],
    }
    assert STEREOSET.read([record], "f") == [choice_example(example)]


def estimates(examples: tuple[Example, ...], scores_N3: np.ndarray) -> dict[str, float]:
    """The metrics as ``steering_core.metrics`` has them, of scores in the order of LABELS."""
    by_bias_type = {}
    for bias_type in dict.fromkeys(e.bias_type for e in examples):
        rows = [n for n, e in enumerate(examples) if e.bias_type == bias_type]
        terms = tuple(dict.fromkeys(examples[n].target for n in rows))
        term_N = np.asarray([terms.index(examples[n].target) for n in rows])
        chosen_N = np.zeros(len(rows), int)
        values = example_values(scores_N3[rows], scores_N3[rows][None], chosen_N, chosen_N[None])
        by_bias_type[bias_type] = TermSums(terms, sums_by_term(values, term_N, len(terms)))
    found = stereoset_estimates(by_bias_type).estimates
    return {name: float(estimate.value[0]) for name, estimate in found.items()}


@pytest.mark.parametrize("source", ["embedded", "real"])
def test_metrics_equal_those_of_the_stereoset_job(source: str) -> None:
    path: Path = (
        Path(local_path("embedded:examples.json"))
        if source == "embedded"
        else shared_file("stereoset/dev.json")
    )
    # One split, as the job has a table for each; terms come several times.
    examples = tuple(
        replace(e, target=f"term {n % 5}") if source == "embedded" else e
        for n, e in enumerate(read_stereoset(path).examples)
        if e.split == "intersentence"
    )
    scored = scored_at_random([choice_example(e) for e in examples], seed=3)
    scores_N3 = np.asarray(
        [
            [row[e.index_of(label)] for label in LABELS]
            for e, row in zip(examples, scored.scores, strict=True)
        ]
    )
    scored.sums[0, 1] = np.nan
    scores_N3[0] = np.nan
    values = values_of(STEREOSET.metrics([]), scored)
    assert values == pytest.approx(estimates(examples, scores_N3))
