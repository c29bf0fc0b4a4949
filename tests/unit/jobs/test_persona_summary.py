"""How a persona sweep compares its cells with coefficient 0."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from jobs.persona.page.finding import finding
from jobs.persona.summary import _steered
from steering_core.stats.clusters import Cluster, means
from tests.support.persona_summaries import summary_of

QUESTIONS, ROLLOUTS = 20, 5


def answers(effect: dict[float, float], *, seed: int = 0) -> pd.DataFrame:
    """Judged answers at each coefficient; questions differ much, and answers to one are alike."""
    rng = np.random.default_rng(seed)
    of_question = rng.normal(50, 15, QUESTIONS)
    of_answer = rng.normal(0, 5, (QUESTIONS, ROLLOUTS))
    rows = [
        {"model": "m", "trait": "t", "layer": 2, "positions": "response", "coeff": coeff,
         "apply": "blocks.1.resid_post", "question_index": q, "rollout": r, "answer_ids": [1],
         "trait_score": of_question[q] + of_answer[q, r] + shift + rng.normal(0, 1),
         "coherence": 90.0, "trait_outcome": "scored", "coherence_outcome": "scored"}
        for coeff, shift in effect.items()
        for q in range(QUESTIONS)
        for r in range(ROLLOUTS)
    ]  # fmt: skip
    return pd.DataFrame(rows).astype({"layer": "Int32"})


def test_a_cell_is_compared_with_coefficient_0_by_question_and_rollout() -> None:
    """Questions differ by far more than steering does; the difference of pairs sees it anyway."""
    asked = answers({0.0: 0.0, 1.0: 0.0, 3.0: 2.0})
    cells = _steered(asked).set_index("coeff")
    moved, still = cells.loc[3.0], cells.loc[1.0]
    by_pair = asked.pivot(
        index=["question_index", "rollout"], columns="coeff", values="trait_score"
    )
    difference = (by_pair[3.0] - by_pair[0.0]).to_numpy()
    assert moved["trait_score_change"] == pytest.approx(difference.mean())
    assert moved["trait_score_change_p"] < 0.01
    assert moved["trait_score_change_low"] > 0
    assert moved["trait_score_low"] < cells.loc[0.0, "trait_score_high"]  # marginally they overlap
    assert still["trait_score_change_p"] > 0.05
    names = [Cluster("q", str(q)) for q in range(QUESTIONS)]
    alone = means(difference[:, None], np.repeat(np.arange(QUESTIONS), ROLLOUTS), names)
    low, high = alone.interval()
    assert moved["trait_score_change_low"] <= low[0] < high[0] <= moved["trait_score_change_high"]
    assert cells.loc[0.0, [c for c in cells if "_change" in c]].isna().all()


def test_answers_without_a_score_are_no_pair() -> None:
    asked = answers({0.0: 0.0, 3.0: 2.0})
    asked.loc[(asked["coeff"] == 0) & (asked["question_index"] < 5), "trait_score"] = np.nan
    moved = _steered(asked).set_index("coeff").loc[3.0]
    kept = asked[asked["question_index"] >= 5]
    wanted = kept.groupby("coeff")["trait_score"].mean()
    assert moved["trait_score_change"] == pytest.approx(wanted[3.0] - wanted[0.0])


def test_without_coefficient_0_nothing_is_compared() -> None:
    cells = _steered(answers({1.0: 0.0, 3.0: 9.0}))
    assert cells[[c for c in cells if "_change" in c]].isna().all(axis=None)
    ((_, text),) = finding(replace(summary_of(("kind",)), steered=cells))
    assert "The grid has no coefficient 0" in text


def test_nothing_is_called_clear_without_an_effect_more_than_five_times_in_a_hundred() -> None:
    clear = 0
    for seed in range(60):
        cells = _steered(answers({0.0: 0.0, 1.0: 0.0, 2.0: 0.0, 3.0: 0.0}, seed=seed))
        clear += bool((cells["trait_score_change_p"] <= 0.05).any())
    assert clear <= 9  # 3 are expected; more than 9 come once in 500 times
