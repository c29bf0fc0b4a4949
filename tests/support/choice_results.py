"""Made-up rows of a choices sweep: random scores, a known effect of steering, stored and read."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import product

import numpy as np
import pyarrow as pa

from jobs.choices.summary import Cell, FitRows, summarise
from jobs.scoring.choice_rows import ChoiceRows, examples_of, examples_table, scored_choices
from steering_core.datasets.base import Candidate, ChoiceExample, Contrast, Metric, ScoredChoices
from steering_core.engine import Scores
from steering_core.scoring import choose

CONTRAST = Contrast(("yes",), ("no",), ("topic",))
ROWS = ChoiceRows(("topic", "kind"))


def example(
    number: int, topic: str = "work", cluster: str = "", num_candidates: int = 2
) -> ChoiceExample:
    """One with a candidate ``yes``, one ``no``, and others."""
    labels = ["yes", "no", *["other"] * (num_candidates - 2)]
    candidates = tuple(Candidate(f" {label}{n}", label) for n, label in enumerate(labels))
    group = (("topic", topic), ("kind", "odd" if number % 2 else "even"))
    return ChoiceExample(f"{topic}-{number}", f"Question {number}?", candidates, group, cluster)


def examples(topic: str, num: int, num_clusters: int | None = None) -> list[ChoiceExample]:
    """With two or three candidates; each its own cluster if no number of clusters is given."""
    return [
        example(n, topic, "" if num_clusters is None else f"c{n % num_clusters}", 2 + n % 2)
        for n in range(num)
    ]


def scores_of(found: Sequence[ChoiceExample], rng: np.random.Generator) -> Scores:
    """Random scores, one to three tokens each."""
    most = max(len(of.candidates) for of in found)
    scores, counts = np.full((len(found), most), np.nan), np.zeros((len(found), most), np.int64)
    for n, of in enumerate(found):
        num = len(of.candidates)
        scores[n, :num] = rng.normal(-2, 1, num)
        counts[n, :num] = rng.integers(1, 4, num)
    return Scores(scores, counts)


def pushed(
    before: Scores, found: Sequence[ChoiceExample], by: float, rng: np.random.Generator
) -> Scores:
    """Scores with ``by`` nats added to the gap of yes over no on average, and noise."""
    after = before.scores + rng.normal(0, 0.3, before.scores.shape)
    after[:, 0] += by / 2
    after[:, 1] -= by / 2
    return Scores(after, before.num_scored, kl=np.full(len(found), abs(by) / 10))


def stored(found: Sequence[ChoiceExample], scores: Scores) -> ScoredChoices:
    """Scores as they are read after they were stored."""
    by_id = examples_of(examples_table(found, {}))
    return scored_choices(ROWS.rows_table(found, scores, "task"), by_id)


def _chose(label: str) -> Metric:
    def terms(scored: ScoredChoices) -> np.ndarray:
        chosen = choose(scored.sums, scored.is_there)
        is_it = scored.has_label(label)[np.arange(len(chosen)), np.maximum(chosen, 0)]
        return np.where(chosen < 0, np.nan, is_it)[:, None]

    formula = f"share of examples whose candidate with the largest sum has label {label}"
    return Metric(f"chose_{label}", f"chose {label}", formula, "Somebody 2024", terms)


def _two_shares(scored: ScoredChoices) -> np.ndarray:
    return np.hstack([_chose("yes").terms(scored), _chose("no").terms(scored)])


CHOSE_YES = _chose("yes")
YES_TO_NO = Metric(
    "yes_to_no",
    "yes per no",
    "examples that chose yes divided by those that chose no",
    "Somebody 2024",
    _two_shares,
    lambda means: means[..., 0] / means[..., 1],
    unit="number",
)
METRICS = (CHOSE_YES, YES_TO_NO)


def fit_rows(
    fit: str = "work",
    *,
    model: str = "base",
    vectors: str = "in_sample",
    null: str = "",
    draw: int = 0,
    num: int = 60,
    num_clusters: int | None = None,
    layers: Sequence[int] = (3, 6),
    coeffs: Sequence[float] = (-2.0, 2.0),
    slope: float = 0.5,
    seed: int = 0,
) -> FitRows:
    """Rows of one fit, whose gap moves by ``slope`` nats for each unit of the coefficient.

    Equal fits and models have equal unsteered rows.
    """
    found = examples(fit, num, num_clusters)
    before = scores_of(found, np.random.default_rng([7, *map(ord, model + fit)]))
    rng = np.random.default_rng([seed, draw, *map(ord, model + fit + vectors + null)])

    def cells() -> Iterator[Cell]:
        for layer, coeff in product(layers, coeffs):
            after = pushed(before, found, slope * coeff, rng)
            yield layer, coeff, abs(coeff) / 20, stored(found, after), after.kl

    return FitRows(model, fit, vectors, null, draw, stored(found, before), cells())


def sweep(
    *,
    models: Sequence[str] = ("base",),
    fits: Sequence[str] = ("work", "home"),
    slope: float = 0.5,
    held_out: float | None = 0.3,
    num_draws: int = 9,
    layers: Sequence[int] = (3, 6),
    coeffs: Sequence[float] = (-2.0, 2.0),
    num: int = 60,
    num_clusters: int | None = None,
) -> Iterator[FitRows]:
    """Rows of a whole sweep; ``held_out``: the slope of held-out vectors, if there are any."""
    grid = {"layers": layers, "coeffs": coeffs, "num": num, "num_clusters": num_clusters}
    for model, fit in product(models, fits):
        yield fit_rows(fit, model=model, slope=slope, **grid)  # type: ignore[arg-type]
        if held_out is not None:
            yield fit_rows(fit, model=model, slope=held_out, vectors="held_out", **grid)  # type: ignore[arg-type]
        for null, draw in product(("random", "shuffled"), range(num_draws)):
            yield fit_rows(fit, model=model, slope=0.0, null=null, draw=draw, **grid)  # type: ignore[arg-type]


def tables(**changes: object) -> dict[str, pa.Table]:
    """The summary of ``sweep``."""
    return summarise(sweep(**changes), METRICS, CONTRAST)  # type: ignore[arg-type]
