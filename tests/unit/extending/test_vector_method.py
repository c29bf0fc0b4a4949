"""A new way to fit vectors: one function and one entry."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from cluster.parts import commit_part
from cluster.storage import StorageSpec
from jobs.scoring.fit_task import FitPayload, SetToFit, fit, fitted_vectors
from jobs.scoring.tables import states_table
from jobs.stereoset.page.ran import ran
from jobs.sweeps.parts import PartRef
from steering_core.pairs import PairMeans, Pairs
from steering_core.pooled import PooledStates
from steering_core.vector_fits import METHODS, VectorMethod, registered
from tests.support.golden import golden_examples
from tests.support.pages import facts_of, record_of, summary_of
from tests.support.pairs import correlated_pairs

LAYER, NUM_FOLDS = 3, 2


def median_difference(pairs: Pairs, what: str) -> np.ndarray:
    """The median difference of each dimension, with the sign and the norm of the mean."""
    direction_D = np.median(pairs.differences(), axis=0)
    return PairMeans.of(pairs, what).push_along(direction_D)


MEDIAN = VectorMethod(
    formula="median over examples of (pooled anti-stereotype - pooled stereotype)",
    source="this test",
    words="median over examples of the difference of the pooled states",
    fit=median_difference,
)


@pytest.fixture
def median() -> Iterator[None]:
    with registered("median", MEDIAN):
        yield


def test_a_fit_task_fits_it_from_the_states_of_all_and_of_those_outside_each_fold(
    median: None, tmp_path: Path
) -> None:
    storage = StorageSpec(str(tmp_path)).open()
    examples = golden_examples().examples
    pairs = correlated_pairs(len(examples), num_folds=NUM_FOLDS)
    fold_of = {e.example_id: n % NUM_FOLDS for n, e in enumerate(examples)}
    states = PooledStates(
        layers=(LAYER,),
        differences=pairs.differences()[None],
        states=np.stack([pairs.stereotype, pairs.anti])[:, None],
        stream_norms=np.ones((1, len(examples))),
        num_positions=np.ones(len(examples), np.int64),
    )
    part = PartRef("states/a.parquet", "a")
    table = states_table(examples, list(fold_of.values()), states, ("negative", "positive"))
    commit_part(storage, part.key, table, task_id="a", attempt="1")
    to_fit = SetToFit("steered", "states", fold_of, NUM_FOLDS)
    payload = FitPayload("fit", "m/s/b", "median", (LAYER,), (), (), (part,), (to_fit,))
    found = fitted_vectors(fit(storage, payload), "steered")

    differences_ND = pairs.anti.astype(float) - pairs.stereotype
    for fold, vector in ((None, found.whole[LAYER]), *enumerate(found.folds[LAYER])):
        kept = differences_ND[[fold != own for own in fold_of.values()]]
        middle = np.median(kept, axis=0)
        wanted = middle / np.linalg.norm(middle) * np.linalg.norm(kept.mean(axis=0))
        np.testing.assert_allclose(vector, wanted, rtol=1e-5)
    assert len(found.folds[LAYER]) == NUM_FOLDS


def test_the_page_says_how_vectors_were_made(median: None) -> None:
    vectors = {"method": "median", "pooling": "candidate", "read": "resid_post", "folds": 5}
    told = dict(ran(facts_of(summary_of(), record_of(vectors=vectors))).terms)
    assert told["Vectors"].startswith("median over examples of the difference")


def test_every_method_has_words_for_a_report() -> None:
    for method in METHODS.values():
        assert method.words and method.formula and method.source
