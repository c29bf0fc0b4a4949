"""Frames and orders: what is written, what is refused, and what the order metrics count."""

from __future__ import annotations

from dataclasses import replace
from itertools import permutations
from typing import Any

import numpy as np
import pytest

from steering_core.datasets.base import Candidate, ChoiceExample, Frame
from steering_core.datasets.checking import checked_prefix
from steering_core.datasets.choices import CHOICES
from steering_core.datasets.crows_pairs import CROWS_PAIRS
from steering_core.datasets.frames import in_orders, order_metrics, with_frame
from steering_core.datasets.listing import find_listing
from steering_core.datasets.model_written_evals import MODEL_WRITTEN_EVALS
from steering_core.datasets.stereoset import choice_example
from steering_core.stereoset import LABELS, Example, examples_digest
from steersweep.errors import UserError
from tests.support.choice_scores import scored_as, value_of, values_of

MMLU = {
    "id": "m1",
    "cluster": "topic",
    "prompt": "Why?\nA. Because\nB. So\nC. Never\nAnswer:",
    "candidates": [
        {"text": " A", "label": "incorrect"},
        {"text": " B", "label": "correct"},
        {"text": " C", "label": "incorrect"},
    ],
}


def mmlu(**changes: Any) -> ChoiceExample:
    return CHOICES.read([MMLU | changes], "f")[0]


def yes_no() -> ChoiceExample:
    record = {
        "question": "Sure?",
        "answer_matching_behavior": " Yes",
        "answer_not_matching_behavior": " No",
    }
    return MODEL_WRITTEN_EVALS.read([record], "f")[0]


def test_frames() -> None:
    example = mmlu()
    assert with_frame(example, "as_given") is example
    letters, cloze = with_frame(example, "letters"), with_frame(example, "cloze")
    assert (letters.prompt, letters.texts) == (example.prompt, (" A", " B", " C"))
    assert (cloze.prompt, cloze.texts) == ("Why?", (" Because", " So", " Never"))
    assert letters.labels == cloze.labels == example.labels
    assert with_frame(cloze, "letters") == letters


def test_letters_of_options_that_are_scored_by_their_text() -> None:
    record = {
        "prompt": "The sky is",
        "candidates": [{"text": " blue", "label": "x"}, {"text": " red", "label": "y"}],
    }
    [example] = CHOICES.read([record], "f")
    assert with_frame(example, "letters").prompt == "The sky is\nA. blue\nB. red\nAnswer:"


def test_a_frame_needs_options() -> None:
    with pytest.raises(
        UserError, match=r"example 1 cannot be put into the frame 'cloze'.*as_given"
    ):
        with_frame(yes_no(), "cloze")


def test_an_order_needs_a_list() -> None:
    with pytest.raises(UserError, match="example 1 cannot be put into another order"):
        in_orders([yes_no()], 2)
    with pytest.raises(UserError, match="use the frame 'letters'"):
        in_orders([with_frame(mmlu(), "cloze")], 2)


def test_orders_move_options_and_labels_and_leave_letters() -> None:
    first, *others = in_orders([mmlu()], 6, seed=5)
    assert (first.example_id, first.prompt, first.texts) == (
        "m1",
        MMLU["prompt"],
        (" A", " B", " C"),
    )
    assert first.group == (("order", "0"),)
    seen = {first.options}
    for number, other in enumerate(others, 1):
        assert other.example_id == f"m1@{number}"
        assert other.group_value("order") == str(number)
        assert (other.cluster, other.stem) == ("topic", "Why?")
        assert other.texts == (" A", " B", " C")
        assert other.options[other.labels.index("correct")] == "So"
        listed = "".join(f"\n{x}. {o}" for x, o in zip("ABC", other.options, strict=True))
        assert other.prompt == f"Why?{listed}\nAnswer:"
        seen.add(other.options)
    assert seen == set(permutations(("Because", "So", "Never")))


def test_orders_are_seeded_and_do_not_depend_on_other_examples() -> None:
    alone = in_orders([mmlu()], 3, seed=1)
    assert alone == in_orders([mmlu(id="m0"), mmlu()], 3, seed=1)[3:]
    draws = {tuple(e.options for e in in_orders([mmlu()], 3, seed=s)) for s in range(20)}
    assert len(draws) > 1
    assert in_orders([mmlu()], 1, seed=1) == [mmlu()]
    assert in_orders([mmlu(cluster=None)], 2)[1].cluster == "m1"


def test_more_orders_than_there_are_begin_again() -> None:
    pair = mmlu(prompt="Why?\nA. x\nB. y\nAnswer:", candidates=MMLU["candidates"][:2])
    options = [e.options for e in in_orders([pair], 5)]
    assert options[:2] == [("x", "y"), ("y", "x")]
    assert set(options[2:4]) == {("x", "y"), ("y", "x")}


def test_stereoset_in_another_order_is_the_question_of_that_order() -> None:
    example = Example(
        "s1", "intersentence", "race", "t", "They came.", ("One. ", "Two.", " Three."),
        ("stereotype", "anti-stereotype", "unrelated"),
    )  # fmt: skip
    for other in in_orders([choice_example(example)], 6)[1:]:
        at = [example.sentences.index(option) for option in other.options]
        sentences = tuple(example.sentences[i] for i in at)
        labels = tuple(example.labels[i] for i in at)
        direct = replace(example, sentences=sentences, labels=labels)
        assert other.prompt == direct.prompt
        assert [t.replace("  ", " ") for t in other.texts] == [
            text.replace("  ", " ") for text in direct.texts
        ]
        assert other.labels == direct.labels


PREFIX = "Be fair. A. is a letter.\n"


@pytest.mark.parametrize("frame", ["as_given", "letters", "cloze"])
def test_a_prefix_comes_directly_before_the_prompt_in_every_frame(frame: Frame) -> None:
    plain = with_frame(mmlu(), frame)
    prompted = plain.with_prefix(PREFIX)
    assert prompted.prompt == PREFIX + plain.prompt
    assert replace(prompted, prompt=plain.prompt, stem=plain.stem) == plain
    assert with_frame(mmlu().with_prefix(PREFIX), frame) == prompted


def test_a_prefix_is_the_prompt_of_an_example_without_one() -> None:
    pair = CROWS_PAIRS.read([{"sent_more": "a", "sent_less": "b", "bias_type": "age",
                              "stereo_antistereo": "stereo"}], "f")[0]  # fmt: skip
    assert pair.with_prefix(PREFIX) == replace(pair, prompt=PREFIX)


@pytest.mark.parametrize("split", ["intersentence", "intrasentence"])
def test_a_prefix_of_stereoset_is_the_same_in_both_jobs(split: str) -> None:
    sentences = ("One. ", "Two.", " Three.")
    example = Example("s1", split, "race", "t", " They came.", sentences, LABELS)
    prompted = example.with_prefix("\n Be fair. ")
    assert prompted.prompt == "\n Be fair. " + example.prompt
    assert (prompted.texts, prompted.labels) == (example.texts, example.labels)
    assert examples_digest([prompted]) != examples_digest([example])
    as_choices = choice_example(example)
    assert choice_example(prompted) == as_choices.with_prefix("\n Be fair. ")


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "expected text that is not empty"),
        (" \n", "expected text that is not empty"),
        ("Be\0fair. ", "holds a NUL character"),
        ("Be fair\ud800 ", "holds a lone surrogate"),
        ("Be fair.", "must end with a space or a line break, because it is put directly before"),
    ],
)
def test_a_prefix_that_is_refused(text: str, says: str) -> None:
    with pytest.raises(ValueError, match=says):
        checked_prefix(text)
    assert checked_prefix("Be fair. ") == "Be fair. "
    assert checked_prefix("\tBe\nfair.\n\n") == "\tBe\nfair.\n\n"


@pytest.mark.parametrize("ids", [("x", "x@1"), ("x@1", "x")])
def test_ids_that_would_clash_are_refused(ids: tuple[str, str]) -> None:
    with pytest.raises(UserError, match="id x@1 would occur twice under 2 orders"):
        in_orders([mmlu(id=name) for name in ids], 2)


def test_a_group_that_has_an_order_already_is_refused() -> None:
    with pytest.raises(UserError, match="example m1 has 'order' in its group"):
        in_orders([mmlu(group={"order": "z"})], 2)


@pytest.mark.parametrize(
    ("prompt", "options"),
    [
        ("Q\nA. x\nB. y", ("x", "y")),
        ("Q\n\nChoices:\n (A) x\n (B) y\n\nAnswer:", ("x", "y")),
        ("Q\nA. one\ntwo\nB. y\nAnswer:", ("one\ntwo", "y")),
        ("A. old\nB. list\nQ\nA. x\nB. y\nAnswer:", ("x", "y")),
        ("A. x\nB. y", ("x", "y")),
        ("Q\nA. x\nB. y\n\nThe best answer is", ("x", "y")),
        ("Q\nA. x\nC. y", None),
        ("Q\nA. x", None),
        ("Q\nA. x\nB. y\nPick one!", None),
        ("Q (A) x (B) y", None),
        ("", None),
    ],
)
def test_lists_in_prompts(prompt: str, options: tuple[str, ...] | None) -> None:
    listing = find_listing(prompt)
    assert (None if listing is None else listing.options) == options
    if listing is not None:
        assert listing.with_options(listing.options) == prompt


def ordered_pair(num_orders: int, name: str = "p") -> list[ChoiceExample]:
    pair = mmlu(id=name, prompt="Why?\nA. x\nB. y\nAnswer:", candidates=MMLU["candidates"][:2])
    return in_orders([pair], num_orders)


def test_a_chooser_by_content_has_no_position_bias() -> None:
    rows = [e for n in range(8) for e in in_orders([mmlu(id=f"m{n}")], 4, seed=n)]
    sums = [[{"Because": -3.0, "So": -1.0, "Never": -2.0}[o] for o in e.options] for e in rows]
    values = values_of(order_metrics(3), scored_as(rows, sums))
    assert values["order_agreement"] == 1.0
    assert values["position_bias"] == pytest.approx(0.0)


def test_a_chooser_by_position_is_biased_toward_it() -> None:
    rows = [*ordered_pair(2, "p"), *ordered_pair(2, "q")]
    values = values_of(order_metrics(2), scored_as(rows, [[-1.0, -2.0]] * 4))
    # Always the first: half of the time each option, which by content is the first in half.
    assert values == pytest.approx(
        {
            "order_agreement": 0.0,
            "position_bias": 0.5,
            "position_excess_A": 0.5,
            "position_excess_B": -0.5,
        }
    )


def test_position_bias_equals_its_definition() -> None:
    rng = np.random.default_rng(0)
    rows = [e for n in range(30) for e in in_orders([mmlu(id=f"m{n}")], 3, seed=n)]
    sums = rng.normal(size=(len(rows), 3))
    sums[:, 0] += 0.7
    excess = np.zeros(3)
    for start in range(0, len(rows), 3):
        own, chosen = rows[start : start + 3], sums[start : start + 3].argmax(axis=1)
        picked = [e.options[c] for e, c in zip(own, chosen, strict=True)]
        for position in range(3):
            share = np.mean(chosen == position)
            by_content = sum(
                picked.count(o) / 3 * np.mean([e.options[position] == o for e in own])
                for o in own[0].options
            )
            excess[position] += (share - by_content) / 30
    values = values_of(order_metrics(3), scored_as(rows, sums.tolist()))
    assert values["position_excess_A"] == pytest.approx(excess[0])
    assert values["position_bias"] == pytest.approx(np.abs(excess).sum() / 2)


def test_rows_without_an_order_or_a_choice_are_left_out() -> None:
    single = ChoiceExample("z", "", (Candidate("a", "x"), Candidate("b", "y")))
    rows = [*ordered_pair(2), single, *ordered_pair(2, "q")]
    scored = scored_as(rows, [[-1, -2], [-2, -1], [-1, -2], [np.nan, -1], [-1, -2]])
    terms = order_metrics(2)[0].terms(scored)[:, 0]
    assert np.isnan(terms).tolist() == [False, False, True, True, True]
    assert value_of(order_metrics(2)[0], scored) == 1.0
