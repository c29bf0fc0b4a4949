"""Texts: what is read of a record, and the metrics by hand."""

from __future__ import annotations

import numpy as np
import pytest

from steering_core.datasets.base import ScoredChoices
from steering_core.datasets.text import TEXT
from tests.support.choice_scores import scored_as, values_of


def scored(sums: list[float], num_tokens: list[int]) -> ScoredChoices:
    examples = TEXT.read([{"text": f"Text {n}."} for n in range(len(sums))], "f")
    columns = np.asarray(sums, float)[:, None], np.asarray(num_tokens)[:, None]
    return ScoredChoices(examples, *columns)


def test_a_record_becomes_an_example_with_one_candidate_after_an_empty_prompt() -> None:
    more = {"id": 7, "group": {"topic": "rain"}, "cluster": "page 3"}
    first, second = TEXT.read([{"text": " It rains. "}, {"text": "It snows."} | more], "f")
    assert (first.example_id, first.prompt, first.texts) == ("1", "", (" It rains. ",))
    assert (first.labels, first.group, first.cluster) == (("text",), (), "")
    assert (second.example_id, second.group) == ("7", (("topic", "rain"),))
    assert second.cluster == "page 3"


def test_all_tokens_weigh_the_same() -> None:
    values = values_of(TEXT.metrics(["text"]), scored([-30.0, -4.0], [10, 4]))
    assert values == pytest.approx({"log_prob": -34 / 14, "perplexity": np.exp(34 / 14)})


def test_a_text_without_a_finite_score_is_left_out() -> None:
    some = scored([-30.0, np.nan, -np.inf, -4.0], [10, 3, 3, 4])
    values = values_of(TEXT.metrics(["text"]), some)
    assert values["log_prob"] == pytest.approx(-34 / 14)


def test_more_of_one_is_better_and_less_of_the_other() -> None:
    log_prob, perplexity = TEXT.metrics(["text"])
    assert (log_prob.better, log_prob.unit) == ("higher", "nats")
    assert (perplexity.better, perplexity.unit) == ("lower", "number")
    likelier, unlikelier = (
        values_of([log_prob, perplexity], scored_as(scored([0.0], [1]).examples, [[s]]))
        for s in (-1.0, -2.0)
    )
    assert likelier["log_prob"] > unlikelier["log_prob"]
    assert likelier["perplexity"] < unlikelier["perplexity"]
