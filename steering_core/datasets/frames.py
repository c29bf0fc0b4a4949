"""How an example is put to the model: its frame, and the order of its candidates.

A model that likes the letter A, or the first line of a list, is not a model that knows the answer.
So an example can be scored under several orders of its candidates, and two metrics tell how much
the order mattered.

Shapes: N scored rows, which are examples under one of their orders; C positions of candidates.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import count
from math import factorial

import numpy as np

from steering_core.datasets.base import Candidate, ChoiceExample, Frame, Metric, ScoredChoices
from steering_core.datasets.listing import LETTERS, are_letters, find_listing, lettered
from steering_core.datasets.measures import choices, column
from steersweep.errors import UserError

ORDER = "order"
"""The key of an example's group that tells under which order it is: ``0`` is the order as given."""


def with_frame(example: ChoiceExample, frame: Frame) -> ChoiceExample:
    """The example as a frame puts it; options of the same text are scored alike.

    ``letters`` is the stem, a line ``A. option`` for each option, and ``Answer:``; the candidates
    are `` A``, `` B``. ``cloze`` is the stem, and the candidates are the options after a space.

    Raises:
        UserError: the example exists only as it is given.
    """
    if frame == "as_given":
        return example
    if not example.options:
        raise UserError(
            f"example {example.example_id} cannot be put into the frame {frame!r}: it has no "
            "options apart from its candidates; use 'as_given'"
        )
    if frame == "letters":
        prompt = lettered(example.stem, example.options)
        texts = [f" {letter}" for letter in LETTERS[: len(example.options)]]
    else:
        prompt = example.stem
        texts = [after(prompt, option) for option in example.options]
    return replace(example, prompt=prompt, candidates=_candidates(texts, example.labels))


def after(prompt: str, text: str) -> str:
    """The text with a space that separates it from the prompt, if it needs one."""
    needs_space = bool(prompt) and not prompt[-1].isspace() and not text[:1].isspace()
    return f" {text}" if needs_space else text


def in_orders(
    examples: Sequence[ChoiceExample], num_orders: int, seed: int = 0
) -> list[ChoiceExample]:
    """Every example under several orders of its candidates, one after the other.

    Order 0 is the order as given. The others are drawn with the seed and the example's id, so they
    do not depend on other examples; none is drawn twice before all have been. Lists and letters in
    the prompt are written anew. Ids become ``x1``, ``x1@1``, ...; the group gets ``order``; rows of
    one example share a cluster.

    Raises:
        UserError: the prompt of an example does not list its options, so that their order cannot
            matter; or ids of the data look like those that are made here.
    """
    if num_orders == 1:
        return list(examples)
    ordered = [o for example in examples for o in _orders_of(example, num_orders, seed)]
    [(most_common, times)] = Counter(o.example_id for o in ordered).most_common(1) or [("", 0)]
    if times > 1:
        raise UserError(f"id {most_common} would occur twice under {num_orders} orders; rename it")
    return ordered


def _orders_of(example: ChoiceExample, num_orders: int, seed: int) -> Iterator[ChoiceExample]:
    if example.group_value(ORDER) is not None:
        raise UserError(
            f"example {example.example_id} has {ORDER!r} in its group already; rename that key"
        )
    rng = random.Random(f"{seed}/{example.example_id}")  # noqa: S311 - an order, not a secret
    for number, order in zip(range(num_orders), _permutations(example, rng), strict=False):
        yield replace(
            _reordered(example, order),
            example_id=f"{example.example_id}@{number}" if number else example.example_id,
            group=(*example.group, (ORDER, str(number))),
            cluster=example.cluster or example.example_id,
        )


def _permutations(example: ChoiceExample, rng: random.Random) -> Iterator[list[int]]:
    """The order as given, then drawn ones; all of them before one comes again."""
    as_given = list(range(len(example.candidates)))
    seen: set[tuple[int, ...]] = {tuple(as_given)}
    yield as_given
    for _ in count():
        if len(seen) == factorial(len(as_given)):
            seen.clear()
        order = rng.sample(as_given, len(as_given))
        while tuple(order) in seen:
            order = rng.sample(as_given, len(as_given))
        seen.add(tuple(order))
        yield order


def _reordered(example: ChoiceExample, order: Sequence[int]) -> ChoiceExample:
    """The example with candidate ``order[j]`` at position j."""
    listing = find_listing(example.prompt)
    if listing is None or not example.options or listing.options != example.options:
        raise UserError(
            f"example {example.example_id} cannot be put into another order: its prompt does not "
            "list its candidates, so their order changes nothing"
            + ("; use the frame 'letters'" if example.options else "")
        )
    options = tuple(example.options[o] for o in order)
    texts = list(example.texts)
    if not are_letters(texts):
        texts = [_retold(example, at, source) for at, source in enumerate(order)]
    labels = [example.labels[o] for o in order]
    return replace(
        example,
        prompt=listing.with_options(options),
        candidates=_candidates(texts, labels),
        options=options,
    )


def _retold(example: ChoiceExample, at: int, source: int) -> str:
    """Text of a candidate that moves to another position: the letter there, and its option."""
    lead = example.texts[at].removesuffix(example.options[at].strip())
    return lead + example.options[source].strip()


def _candidates(texts: Sequence[str], labels: Sequence[str]) -> tuple[Candidate, ...]:
    return tuple(Candidate(text, label) for text, label in zip(texts, labels, strict=True))


def order_metrics(most_candidates: int) -> list[Metric]:
    """What is measured of rows that ``in_orders`` made: all rows of an example must be there.

    Args:
        most_candidates: candidates of the example that has most of them.
    """
    return [
        Metric(
            key="order_agreement",
            label="same choice in all orders",
            formula="share of examples that choose the same option under all orders",
            source="Zheng et al. 2024, Large Language Models Are Not Robust Multiple Choice "
            "Selectors (the measure: steersweep)",
            terms=lambda scored: column(_agreement(scored)),
            better="higher",
        ),
        Metric(
            key="position_bias",
            label="position bias",
            formula="half the sum over positions of |excess|, where a position's excess is the "
            "share of choices there minus what the same choices of options would give if they did "
            "not depend on the order",
            source="steersweep",
            terms=_excess,
            of_means=lambda means: 0.5 * np.abs(means).sum(axis=-1),
            better="lower",
        ),
        *(_position_excess(at) for at in range(most_candidates)),
    ]


def _position_excess(at: int) -> Metric:
    return Metric(
        key=f"position_excess_{LETTERS[at]}",
        label=f"excess choices of position {LETTERS[at]}",
        formula=f"share of choices at position {LETTERS[at]} minus what the same choices of "
        "options would give if they did not depend on the order",
        source="steersweep",
        terms=lambda scored: column(_excess(scored)[:, at]),
    )


def _rows_by_example(scored: ScoredChoices, choice: np.ndarray) -> Iterator[list[int]]:
    """Rows of each example that has a choice under two orders or more."""
    rows: dict[str, list[int]] = {}
    for row, example in enumerate(scored.examples):
        order = example.group_value(ORDER)
        if order is not None and choice[row] >= 0:
            original = example.example_id
            if order != "0":
                original = original.removesuffix(f"@{order}")
            rows.setdefault(original, []).append(row)
    return (members for members in rows.values() if len(members) > 1)


def _agreement(scored: ScoredChoices) -> np.ndarray:
    """[N]: 1 in all rows of an example that always chooses the same option, 0 in others."""
    choice = choices(scored)
    agreement = np.full(len(choice), np.nan)
    for rows in _rows_by_example(scored, choice):
        chosen = {scored.examples[row].options[choice[row]] for row in rows}
        agreement[rows] = len(chosen) == 1
    return agreement


def _excess(scored: ScoredChoices) -> np.ndarray:
    """[N, C]: whether a row chose the position, minus how often its example would by content.

    Of an example's orders, let f(o) be the share that choose option o, and g(o, j) the share that
    have it at position j. A chooser who picks options that often, whatever their order, is at
    position j in the share sum over o of f(o) g(o, j).
    """
    choice = choices(scored)
    excess: np.ndarray = np.full(scored.sums.shape, np.nan)
    positions = np.eye(scored.sums.shape[1])
    for rows in _rows_by_example(scored, choice):
        excess[rows] = positions[choice[rows]]
        options: list[Sequence[str]] = [scored.examples[row].options for row in rows]
        share = Counter(listed[choice[row]] for listed, row in zip(options, rows, strict=True))
        by_content = np.zeros(len(positions))
        for listed in options:
            # Options of the same text are one content, whose choice falls on any of them.
            by_content[: len(listed)] += [share[o] / listed.count(o) for o in listed]
        by_content /= len(rows) ** 2
        excess[rows] -= by_content
    return excess
