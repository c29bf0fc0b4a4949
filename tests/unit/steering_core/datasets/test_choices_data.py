"""The general format: what is read of a record, and accuracies by hand."""

from __future__ import annotations

import numpy as np
import pytest

from steering_core.datasets.base import num_chars
from steering_core.datasets.choices import CHOICES
from steering_core.datasets.registry import DATASETS
from tests.support.choice_scores import scored_as, scored_at_random, value_of, values_of


def record(name: str, texts: list[str], correct: int = 0, **more: object) -> dict[str, object]:
    candidates = [
        {"text": text, "label": "correct" if n == correct else "incorrect"}
        for n, text in enumerate(texts)
    ]
    return {"id": name, "prompt": "Q:", "candidates": candidates, **more}


def test_a_record_becomes_an_example() -> None:
    [example] = CHOICES.read(
        [record("x1", [" A b", " C"], group={"topic": "gender", "year": 3}, cluster="nurse")], "f"
    )
    assert (example.example_id, example.prompt, example.cluster) == ("x1", "Q:", "nurse")
    assert example.texts == (" A b", " C")
    assert example.labels == ("correct", "incorrect")
    assert example.group == (("topic", "gender"), ("year", "3"))


def test_ids_and_groups_may_be_left_out() -> None:
    bare = {"prompt": "", "candidates": record("", [" x", " y"])["candidates"]}
    first, second = CHOICES.read([bare, bare], "f")
    assert (first.example_id, second.example_id) == ("1", "2")
    assert (first.group, first.cluster, first.options) == ((), "", ())


def test_accuracies_by_hand() -> None:
    examples = CHOICES.read(
        [
            record("a", [" long answer", " no"]),
            record("b", [" x", " yy", " zzz"], correct=2),
            record("c", [" x", " y"], correct=1),
        ],
        "f",
    )
    # a: chosen by sum is " no" (wrong), per character -6/11 > -2/2 the long one (right).
    # b: by sum 0 (wrong); per character -1, -2/2, -9/3: the first of equal ones (wrong).
    scored = scored_as(examples, [[-6, -2], [-1, -2, -9], [-2, -1]])
    values = values_of(CHOICES.metrics(["correct", "incorrect"]), scored)
    assert values == pytest.approx(
        {"acc": 1 / 3, "acc_norm": 2 / 3, "share_correct": 1 / 3, "share_incorrect": 2 / 3}
    )


def test_accuracies_equal_a_plain_loop() -> None:
    rng = np.random.default_rng(1)
    records = [
        record(str(n), [f" {'w' * (1 + k + n % 3)}" for k in range(2 + n % 25)], correct=n % 2)
        for n in range(60)
    ]
    examples = CHOICES.read(records, "f")
    scored = scored_at_random(examples, seed=int(rng.integers(99)))
    hits, norm_hits = [], []
    for example, sums in zip(examples, scored.sums, strict=True):
        own = list(sums[: len(example.candidates)])
        hits.append(example.labels[own.index(max(own))] == "correct")
        per_char = [s / num_chars(t) for s, t in zip(own, example.texts, strict=True)]
        norm_hits.append(example.labels[per_char.index(max(per_char))] == "correct")
    acc, acc_norm, *_ = CHOICES.metrics(["incorrect", "correct"])
    assert value_of(acc, scored) == pytest.approx(np.mean(hits))
    assert value_of(acc_norm, scored) == pytest.approx(np.mean(norm_hits))


def test_a_row_that_is_not_finite_is_left_out() -> None:
    examples = CHOICES.read([record("a", [" x", " y"]), record("b", [" x", " y"])], "f")
    scored = scored_as(examples, [[-1, -2], [np.nan, -2]])
    assert value_of(CHOICES.metrics(["correct"])[0], scored) == 1.0
    assert np.isnan(CHOICES.metrics(["correct"])[0].terms(scored)[1]).all()


def test_without_a_correct_label_there_are_only_shares() -> None:
    assert [m.key for m in CHOICES.metrics(["yes", "no", "yes"])] == ["share_yes", "share_no"]


def test_options_come_from_a_list_or_from_the_candidates() -> None:
    listed = record("a", [" A", " B"], prompt="Why?\nA. Because\nB. So\nAnswer:")
    plain = record("b", [" Because", " So"], prompt="Why?\nAnswer:")
    unlisted = record("c", [" A", " B"], prompt="Why?")
    first, second, third = CHOICES.read([listed, plain, unlisted], "f")
    assert (first.stem, first.options) == ("Why?", ("Because", "So"))
    assert (second.stem, second.options) == ("Why?", ("Because", "So"))
    assert (third.stem, third.options) == ("", ())


def test_every_data_set_says_what_a_user_must_know() -> None:
    assert list(DATASETS) == [
        "choices", "stereoset", "crows_pairs", "bbq", "model_written_evals", "winogender",
        "text",
    ]  # fmt: skip
    for name, dataset in DATASETS.items():
        assert dataset.name == name
        assert dataset.title and dataset.licence and dataset.shape.startswith("{")
        assert name in ("choices", "text") or dataset.homepage.startswith("https://")
        metrics = dataset.metrics(["correct", "x"])
        assert len({metric.key for metric in metrics}) == len(metrics)


def test_every_data_set_says_what_it_is_measured_for() -> None:
    purposes = {name: dataset.purpose_of(["correct", "x"]) for name, dataset in DATASETS.items()}
    assert purposes == {
        "choices": "capability",
        "stereoset": "bias",
        "crows_pairs": "bias",
        "bbq": "bias",
        "model_written_evals": "other",
        "winogender": "bias",
        "text": "text",
    }
    assert CHOICES.purpose_of(["incorrect", "x"]) == "other"
