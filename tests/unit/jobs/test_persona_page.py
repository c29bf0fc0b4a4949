"""The page of a persona sweep: its finding, warnings, what was run, and verification."""

from __future__ import annotations

import re
from dataclasses import replace
from typing import Any

import pandas as pd
import pytest

from jobs.persona.page.answers import compared
from jobs.persona.page.cautions import cautions
from jobs.persona.page.finding import finding
from jobs.persona.page.tables import projections, steered
from jobs.persona.page.write import page_of
from jobs.persona.summary import PersonaSummary
from tests.support.persona_summaries import answers_of, summary_of


def record(path: str = "real/model", judge: str = "openai") -> dict[str, Any]:
    """What run.json holds of a small run."""
    kinds = {
        "openai": {"kind": "openai", "model": "judge-1"},
        "word_list": {"kind": "word_list", "words": {}, "words_for_100": 3},
    }
    return {
        "spec": {
            "job": "persona",
            "models": {"chat": {"path": path, "revision": None, "dtype": "float32"}},
            "traits": {"kind": {"path": "kind.json", "steered": "new.json", "vectors": None}},
            "contrast": {"rollouts": 1, "questions": None},
            "generation": {"max_new_tokens": 40, "greedy": False, "temperature": 0.7}
            | {"top_p": 0.9, "seed": 5},
            "judge": kinds[judge],
            "filter": {"positive_at_least": 50, "negative_below": 50, "coherence_at_least": 50},
            "vectors": {"pooling": "response_mean"},
            "steering": {"layers": [2], "coeffs": ["-3", "0", "5"], "positions": ["response"]}
            | {"rollouts": 1, "questions": None},
        },
        "identity": {
            "traits.kind (content)": "0123456789abcdef0123",
            "models.chat (weights)": "fedcba9876543210ffff",
        },
        "started": "2026-11-22T08:00:00+00:00",
        "sessions": [
            {"started": "2026-11-22T08:00:00+00:00", "ended": "2026-11-22T09:00:00+00:00"}
            | {"host": "node", "device": "cuda", "versions": {"torch": "2.13"}}
        ],
    }


def contrast_table(num_effective: int, num_pairs: int) -> pd.DataFrame:
    outcomes = ("refused", "unparsable", "failed")
    counts = {f"num_{aspect}_{o}": 0 for aspect in ("trait", "coherence") for o in outcomes}
    row = {"model": "chat", "trait": "kind", "trait_score": 60.0, "coherence": 90.0}
    row |= {"num_pairs": num_pairs, "num_effective_pairs": num_effective, "num_answers": num_pairs}
    return pd.DataFrame(
        [{**row, **counts, "num_empty": 0, "polarity": p} for p in ("positive", "negative")]
    )


def summary(**changes: Any) -> PersonaSummary:
    """A run about which there is nothing to warn."""
    made = summary_of(("kind",))
    counts = [c for c in contrast_table(1, 1).columns if c.startswith("num_")]
    steered = made.steered.assign(**dict.fromkeys(counts, 0), apply="blocks.1.resid_post")
    parts = {"steered": steered, "contrast": contrast_table(8, 10)}
    return replace(made, **{**parts, "answers": answers_of("ab", "cd"), **changes})


def warned(of: PersonaSummary, **of_record: str) -> str:
    found = cautions(of, record(**of_record), "")
    return "\n".join(" ".join([caution.title, *caution.places]) for caution in found)


def test_a_run_without_weaknesses_has_no_warning() -> None:
    assert warned(summary()) == ""


def test_a_word_list_judge_is_named_as_one_and_so_is_its_double_use() -> None:
    text = warned(summary(), judge="word_list")
    assert "it does not read the answer" in text
    assert "selects the pairs that the vectors are made of and scores the steered answers" in text
    given = warned(summary(contrast=pd.DataFrame()), judge="word_list")
    assert "does not read the answer" in given
    assert "selects the pairs" not in given


def test_few_effective_pairs_are_a_warning() -> None:
    assert "chat, kind: 4 of 10" in warned(summary(contrast=contrast_table(4, 10)))
    assert "chat, kind: 4 pairs" in warned(summary(contrast=contrast_table(4, 10)))
    assert warned(summary(contrast=contrast_table(5, 10))) == ""


def test_answers_that_were_cut_are_a_warning_if_they_are_more_than_half() -> None:
    answers = answers_of("ab", "cd", ended_by="length")
    text = warned(summary(answers=answers))
    assert "cut by generation.max_new_tokens" in text
    assert "chat, kind, steered answers: 6 of 6" in text
    answers.loc[answers.index % 2 == 0, "ended_by"] = "eos"
    assert warned(summary(answers=answers)) == ""


def test_an_answer_without_a_score_is_counted_once_however_many_layers_repeat_it() -> None:
    answers = answers_of("ab", "cd")
    one = (answers["coeff"] == 0) & (answers["question"] == "c")
    answers.loc[one, "trait_outcome"] = "refused"
    answers.loc[answers["question"] == "a", "answer_ids"] = pd.Series([[]] * len(answers))
    text = warned(summary(answers=answers))
    assert "1 judgement of steered answers is refused" in text
    assert "1 contrast answer is empty" in text


def test_questions_of_both_phases_are_a_warning() -> None:
    text = warned(summary(answers=answers_of("abc", "bcd")))
    assert "chat, kind: 2 questions of 3" in text


def test_random_weights_are_in_the_title_and_the_first_warning() -> None:
    random = record(path="embedded:gemma2-tiny")
    assert "weights of chat are random" in cautions(summary(), random, "answers")[0].title
    page = page_of(summary(), random, "")
    assert "<title>Persona vectors with random weights: chat</title>" in page
    assert "random weights" not in page_of(summary(), record(), "")


def test_the_highest_score_is_named_as_the_largest_of_its_cells() -> None:
    ((name, text),) = finding(summary())
    assert name == "chat, kind"
    # Coefficient 5 broke the text down, so 4 of 6 cells were compared.
    assert "highest at coefficient 0 of layer 3" in text
    assert (
        "53.0 (95\N{NO-BREAK SPACE}% interval 40.0 to 80.0) of 100 (the largest of 4 cells" in text
    )
    assert "lowest at coefficient \N{MINUS SIGN}3 of layer 2" in text
    assert "This leaves out 2 of 6 cells, at coefficient 5, whose text broke down" in text
    same = summary()
    same.steered["trait_score"] = 7.0
    ((_, text),) = finding(same)
    assert text.startswith("All 4 cells have the same trait score: 7.0.")


def test_what_steering_changed_is_told_from_coefficient_0() -> None:
    """Also where the highest score is the unsteered one, or there is a single cell."""
    ((_, text),) = finding(summary())
    assert "At coefficient 0 it is 52.0" in text
    assert "The largest clear change from that is at coefficient \N{MINUS SIGN}3 of layer 2" in text
    assert "\N{MINUS SIGN}15.0 (95\N{NO-BREAK SPACE}% interval" in text
    unclear = summary()
    unclear.steered["trait_score_change_p"] = 0.3
    ((_, text),) = finding(unclear)
    assert "No change from that is clear; the largest is at coefficient" in text
    table = steered(summary())
    titles = [column.title for column in table.columns]
    at = titles.index("trait score change"), titles.index("coherence change")
    for row in table.rows:
        if row[titles.index("coefficient")].sort == 0:
            assert {row[index].text for index in at} == {"\N{EN DASH}"}
        else:
            assert all(row[index].mark == "*" and " to " in row[index].detail for index in at)


@pytest.mark.parametrize("num_cells", [1, 2])
def test_a_grid_without_coefficient_0_says_that_nothing_can_be_compared(num_cells: int) -> None:
    whole = summary()
    rows = whole.steered.query("coeff == -3").head(num_cells)
    ((_, text),) = finding(replace(whole, steered=rows))
    assert "has no coefficient 0, so it does not show what steering changed" in text


def test_what_was_run_and_how_to_verify_it_are_on_the_page() -> None:
    page = page_of(summary(), record(), "", "runs/my output")
    for said in (
        "real/model", "fedcba9876543210", "float32", "node (cuda)", "kind.json",
        "steering questions from new.json", "2 contrast questions",
        "judge-1 through the openai API",
        "temperature 0.7, top_p 0.9, seed 5", "at most 40 new tokens", "2 (blocks.1.resid_post)",
        "\N{MINUS SIGN}3, 0, 5", "2026-11-22 08:00:00 to 2026-11-22 09:00:00 UTC", "torch 2.13",
        "No answer was computed a second time while the sweep ran.",
        "steersweep verify &#39;runs/my output&#39;",
    ):  # fmt: skip
        assert said in page, said


def test_links_lead_to_the_sections_in_their_order() -> None:
    page = page_of(summary(), record(), "")
    assert re.findall(r'href="#([^"]+)"', page) == re.findall(r'<section id="([^"]+)"', page)


def test_projection_means_are_in_a_table() -> None:
    table = projections(summary())
    titles = [column.title for column in table.columns]
    rows = [dict(zip(titles, (cell.text for cell in row), strict=True)) for row in table.rows]
    of_layer = [row for row in rows if row["layer"] == "2"]
    assert [(row["answers"], row["coefficient"]) for row in of_layer] == [
        ("asked not to show it", "\N{EN DASH}"), ("asked to show it", "\N{EN DASH}"),
        ("steered", "\N{MINUS SIGN}3"), ("not steered", "0"), ("steered", "5"),
    ]  # fmt: skip
    assert {row["mean projection"] for row in rows} == {"1.25"}


def test_answers_are_shown_question_by_question_in_the_order_of_coefficients() -> None:
    answers = answers_of("ab", "cd")
    answers.loc[answers["coeff"].notna(), "layer"] = 3  # where the score is highest
    (group,) = compared(summary(answers=answers.iloc[::-1]))
    assert [question for question, _ in group.questions] == ["c", "d"]
    _, shown = group.questions[0]
    assert [answer.coeff for answer in shown] == ["\N{MINUS SIGN}3", "0", "5"]
    assert shown[0].text == "c at -3.0"


def overall(**changes: Any) -> dict[str, Any]:
    """``overall`` of a certificate that holds."""
    return {
        "verdict": "holds", "num_rows_checked": 16, "largest_difference": 0.00123,
        "tolerance": 0.01, "num_changed_choices": 0, "num_tasks": 8, "num_tasks_fell_back": 0,
    } | changes  # fmt: skip


def test_the_page_says_what_the_certificate_says() -> None:
    page = page_of(summary(), record(), "", certificate=overall())
    assert "It holds: 16 answers recomputed with one plain forward pass each" in page
    assert "No answer was computed a second time" not in page
    assert 'class="grave"' not in page
    broken = page_of(summary(), record(), "", certificate=overall(verdict="broken"))
    assert "It is broken: 16 answers" in broken
    assert '<li class="grave">The certificate is broken' in broken
    fell_back = page_of(summary(), record(), "", certificate=overall(num_tasks_fell_back=2))
    assert '<li class="grave">2 of 8 tasks differed by more than the tolerance' in fell_back
