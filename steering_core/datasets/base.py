"""A multiple-choice example, a data set of them, and the metrics of its scores.

Shapes: N examples, C candidates of the example that has most of them, T terms of a metric.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import numpy as np

FEWEST_CANDIDATES, MOST_CANDIDATES = 2, 26

CORRECT = "correct"
"""The label of a right answer."""

Record = Mapping[str, Any]
"""One record of a data file: a JSON object, or a row of a table by column."""

Frame = Literal["as_given", "letters", "cloze"]
"""How an example is put to the model. ``as_given``: as the data set publishes it. ``letters``: the
options are listed as ``A. ...``, and the letters are scored. ``cloze``: the text of each option is
scored after the question, without a list."""

Purpose = Literal["bias", "capability", "text", "other"]
"""What a data set is measured for. ``bias``: social bias. ``capability``: what a model knows.
``text``: how likely given texts are. ``other``: anything else, such as opinions."""


@dataclass(frozen=True, slots=True)
class Candidate:
    """One text that may follow the prompt.

    Attributes:
        text: scored exactly as it is; a space that separates it from the prompt is part of it.
        label: what choosing it means: ``correct``, ``stereotype``, ``yes``. Several candidates may
            have the same label.
    """

    text: str
    label: str


@dataclass(frozen=True, slots=True)
class ChoiceExample:
    """A prompt, and the candidates that are scored after it.

    Attributes:
        example_id: unique in the data set.
        prompt: may be empty.
        candidates: 2 to 26, in the order in which results list them; of a text, the text alone.
        group: (key, value) pairs, by which results can be split and vectors fitted.
        cluster: the unit that intervals are clustered by; by default each example is its own.
        stem: the prompt without a list of options and without what asks for a letter; only if the
            example has ``options``.
        options: what each candidate stands for, in the order of ``candidates``: the texts that
            another frame lists or scores. Empty if the example exists only as it is given.
    """

    example_id: str
    prompt: str
    candidates: tuple[Candidate, ...]
    group: tuple[tuple[str, str], ...] = ()
    cluster: str = ""
    stem: str = ""
    options: tuple[str, ...] = ()

    @property
    def labels(self) -> tuple[str, ...]:
        """Of the candidates, in order."""
        return tuple(candidate.label for candidate in self.candidates)

    @property
    def texts(self) -> tuple[str, ...]:
        """Of the candidates, in order."""
        return tuple(candidate.text for candidate in self.candidates)

    def group_value(self, key: str) -> str | None:
        """The value of a key of its group; None if it has no such key."""
        return dict(self.group).get(key)

    def with_prefix(self, text: str) -> ChoiceExample:
        """The example with a text directly before its prompt: what a prompt steers by.

        Candidates, labels and ids are the same. Put it into its frame and order first: a list of
        options in the text could be taken for that of the example.
        """
        stem = text + self.stem if self.options else self.stem
        return replace(self, prompt=text + self.prompt, stem=stem)


@dataclass(frozen=True)
class ScoredChoices:
    """Scores of examples as arrays, for metrics. All examples are of one data set.

    Attributes:
        examples: [N].
        sums: [N, C] float64, total log-probability of each candidate in nats; NaN where an example
            has fewer candidates, or where a score is not a number.
        num_tokens: [N, C] int64, scored tokens; 0 where there is no such candidate.
    """

    examples: Sequence[ChoiceExample]
    sums: np.ndarray
    num_tokens: np.ndarray

    @property
    def is_there(self) -> np.ndarray:
        """[N, C] bool: whether the example has that candidate."""
        there: np.ndarray = self.num_tokens > 0
        return there

    @property
    def scores(self) -> np.ndarray:
        """[N, C] float64, mean log-probability of a token in nats; NaN as in ``sums``."""
        means: np.ndarray = self.sums / np.where(self.is_there, self.num_tokens, 1)
        return means

    @property
    def num_chars(self) -> np.ndarray:
        """[N, C] int64, characters of each text without its leading space; 0 if there is none."""
        counts = np.zeros(self.sums.shape, np.int64)
        for n, example in enumerate(self.examples):
            counts[n, : len(example.candidates)] = [num_chars(text) for text in example.texts]
        return counts

    def has_label(self, *labels: str) -> np.ndarray:
        """[N, C] bool: candidates with one of these labels."""
        found = np.zeros(self.sums.shape, bool)
        for n, example in enumerate(self.examples):
            found[n, : len(example.candidates)] = [label in labels for label in example.labels]
        return found

    def in_group(self, key: str, value: str) -> np.ndarray:
        """[N] bool: examples with this value of a key of their group."""
        return np.asarray([e.group_value(key) == value for e in self.examples], bool)


def num_chars(text: str) -> int:
    """Characters of a candidate's text that ``acc_norm`` divides by: without one leading space, as
    lm-evaluation-harness counts them."""
    return len(text.removeprefix(" "))


@dataclass(frozen=True)
class Metric:
    """A number that is measured of scored examples, and how it reads.

    It is a smooth function of means over examples, so that an interval that is clustered follows
    from the terms (``steering_core.stats.clusters``).

    Attributes:
        key: name of its columns: ``pct_stereotype``.
        label: as a table or figure shows it: a noun of a few words, without an article.
        formula: how it is computed, in one sentence.
        source: who defined it.
        terms: [N, T] float64 of scored examples; NaN in a row leaves that example out.
        of_means: value of the metric from the means of the terms [..., T], which are taken over the
            same examples; [...]. Default: the mean of the only term.
        unit: ``share`` (0 to 1, shown in percent), ``percent`` (0 to 100), ``nats`` or ``number``.
        better: whether more of it is better (``higher``), less (``lower``), or neither.
        restates: whether it says what other metrics of the data set say, in another way: it has no
            place of its own where each metric counts once.
    """

    key: str
    label: str
    formula: str
    source: str
    terms: Callable[[ScoredChoices], np.ndarray]
    of_means: Callable[[np.ndarray], np.ndarray] = field(default=lambda means: means[..., 0])
    unit: Literal["share", "percent", "nats", "number"] = "share"
    better: Literal["higher", "lower", "neither"] = "neither"
    restates: bool = False


@dataclass(frozen=True)
class Contrast:
    """Which candidates a steering vector tells apart: it points from negative to positive.

    Attributes:
        positive, negative: labels.
        by: keys of ``ChoiceExample.group``: one vector for each combination of their values. Empty:
            one vector for all examples.
    """

    positive: tuple[str, ...]
    negative: tuple[str, ...]
    by: tuple[str, ...] = ()

    def names(self) -> dict[str, str]:
        """Both sides in words: ``positive`` and ``negative``, several labels joined by ``or``."""
        return {"positive": " or ".join(self.positive), "negative": " or ".join(self.negative)}


@dataclass(frozen=True)
class ChoiceDataset:
    """A kind of data set.

    Attributes:
        name: in sweep files.
        title: its full name.
        licence: of the data.
        homepage: where it comes from and can be downloaded.
        shape: one record, as an error message shows it.
        read: examples of records, in their order. ``where`` names the file; faults are collected
            and raised as one UserError with a line for each, at most ten.
        metrics: what is measured of an example's scores, given the labels that occur.
        contrast: the usual one; None if the user has to say it.
        purpose: what it is measured for; None: what ``purpose_of`` says of its labels.
        fewest_candidates: that an example may have. With 1, examples are texts: nothing is chosen,
            and there are no frames and orders.
    """

    name: str
    title: str
    licence: str
    homepage: str
    shape: str
    read: Callable[[Sequence[Record], str], list[ChoiceExample]]
    metrics: Callable[[Sequence[str]], Sequence[Metric]]
    contrast: Contrast | None = None
    purpose: Purpose | None = None
    fewest_candidates: int = FEWEST_CANDIDATES

    def purpose_of(self, labels: Collection[str]) -> Purpose:
        """What it is measured for, given the labels that occur: by default ``capability`` if one of
        them is ``correct``, otherwise ``other``."""
        return self.purpose or ("capability" if CORRECT in labels else "other")
