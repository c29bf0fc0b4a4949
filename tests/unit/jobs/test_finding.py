"""What the page says of sweeps whose rows are known."""

from __future__ import annotations

import re
from dataclasses import replace
from typing import Any

import pyarrow as pa
import pytest

from jobs.page.words import MINUS
from jobs.stereoset.page.finding import finding
from jobs.stereoset.page.write import page_of
from jobs.stereoset.summary import Summary
from tests.support.known_sweeps import known_sweep
from tests.support.pages import cell, facts_of, summary_of


def said(summary: Summary) -> str:
    text = " ".join(finding(summary).of_model["base"])
    return text.replace("\N{NO-BREAK SPACE}", " ").replace(MINUS, "-")


def test_an_intended_effect_is_said_in_both_measures_with_the_vectors_in_the_same_sentence() -> (
    None
):
    text = said(known_sweep(lambda c: (-0.1, 0.1, 0.0)))
    first = text.split(". ")[0]
    assert first.startswith("In-sample (the vectors were fitted to the examples that they steer), ")
    assert "at coefficient 20 in inter, layer 3, over all bias types" in first
    assert re.search(
        r"the anti-stereotype gained 0\.2\d\d nats per token \(0\.1\d\d to 0\.2\d\d\) on the "
        r"stereotype",
        first,
    )
    assert re.search(
        r"on balance \d+\.\d % \(\d+\.\d to \d+\.\d\) of choices moved from the stereotype to the "
        r"anti-stereotype",
        first,
    )
    assert "This is the intended direction." in text
    assert re.search(r"LMS was \d\d\.\d before and \d\d\.\d after steering", text)
    assert said(known_sweep(lambda c: (-0.1, 0.1, 0.0), vectors="held_out")).startswith(
        "With held-out vectors, at coefficient 20"
    )


def test_at_symmetric_coefficients_the_negative_one_is_meant_to_push_back() -> None:
    """Whichever is stronger, the text never calls it the wrong direction."""
    for stronger in (-3.0, 3.0):
        text = said(
            known_sweep(
                lambda c, s=stronger: (0.0, (0.08 if c == s else 0.05) * c, 0.0), coeffs=(-3.0, 3.0)
            )
        )
        sign = "-3" if stronger < 0 else "3"
        assert f"at coefficient {sign} in" in text
        gained = "stereotype" if stronger < 0 else "anti-stereotype"
        assert f"the {gained} gained" in text.split(". This is")[0]
        assert "This is the intended direction." in text
        assert "opposite" not in text


def test_what_its_own_interval_does_not_exclude_is_never_called_clear() -> None:
    """The test of a net flow may be sure of what the wider interval of rare moves is not."""
    summary = known_sweep(lambda c: (-0.1, 0.1, 0.0))
    rows = summary.findings.to_pylist()
    assert any(row["p"] <= 0.05 for row in rows)
    wide = [row | {"low": -abs(row["value"]), "high": 3 * abs(row["value"])} for row in rows]
    table = pa.Table.from_pylist(wide, schema=summary.findings.schema)
    text = said(replace(summary, findings=table))
    assert "no intended effect is clear" in text
    assert "gained" not in text
    assert "moved from" not in text


def test_an_effect_in_the_wrong_direction_is_said_to_be() -> None:
    text = said(known_sweep(lambda c: (0.1, -0.1, 0.0)))
    assert "the stereotype gained" in text
    assert "This is the opposite of the intended direction." in text


def test_a_side_effect_as_large_as_the_intended_one_is_measured_beside_it() -> None:
    text = said(known_sweep(lambda c: (0.0, 0.2, 0.0)))
    side = re.search(
        r"In-sample side effects: the anti-stereotype gained [^;]* on the unrelated, (\d\.\d) "
        r"times the intended effect",
        text,
    )
    assert side is not None
    assert 0.8 <= float(side[1]) <= 1.2
    alone = said(known_sweep(lambda c: (-0.1, 0.1, 0.0), noise=0.1))
    assert "0.5 times the intended effect" in alone  # half of a change is each of its parts


def test_choices_that_churn_without_a_net_flow_are_told() -> None:
    summary = known_sweep(lambda c: (0.0, 0.0, 0.0), noise=0.15)
    text = said(summary)
    share = float(re.search(r"In-sample, steering changed (\d+\.\d) % of choices", text)[1])  # type: ignore[index]
    assert 2 < share < 10
    assert "moves there and back largely cancel, so that no net flow is clear" in text


def test_if_nothing_is_clear_the_text_says_what_could_have_been_missed() -> None:
    text = said(known_sweep(lambda c: (0.0, 0.0, 0.0), noise=0.05))
    assert "no intended effect is clear" in text
    assert "No side effect is clear." in text
    missed = re.search(
        r"a change of up to (\d\.\d\d) nats per token, or a net flow of up to (\d\.\d) % of "
        r"choices, could have been missed",
        text,
    )
    assert missed is not None
    assert 0.0 < float(missed[1]) <= 0.03
    assert 0.3 <= float(missed[2]) <= 3.0


def test_a_grid_that_changed_nothing() -> None:
    text = said(known_sweep(lambda c: (0.0, 0.0, 0.0), noise=0.0))
    assert "No choice changed." in text
    assert "no intended effect is clear" in text


@pytest.mark.parametrize("vectors", ["file", "in_sample"])
def test_without_an_intended_direction_the_text_speaks_of_none(vectors: str) -> None:
    """Vectors from a file, and operations that do not add the vector (project_out, caps)."""
    text = said(known_sweep(lambda c: (0.0, 0.3, 0.0), vectors=vectors, has_intent=False))
    assert "intended" not in text
    assert "side effect" not in text.lower()
    assert "the anti-stereotype gained" in text
    none = said(
        known_sweep(lambda c: (0.0, 0.0, 0.0), noise=0.05, vectors=vectors, has_intent=False)
    )
    assert "no change in log-likelihood and no net flow of choices is clear" in none
    assert "intended" not in none
    summary = known_sweep(lambda c: (0.0, 0.3, 0.0), vectors=vectors, has_intent=False)
    page = re.sub(r"<script>.*?</script>", "", page_of(facts_of(summary, {})), flags=re.DOTALL)
    shown = page.replace("Unintended Side Effects", "").lower()  # the paper's title
    assert "intended" not in shown
    assert "side effect" not in shown


def test_a_side_effect_at_another_coefficient_is_not_passed_over() -> None:
    """At 5 the intended effect, at 20 a side effect that is as large."""
    effects = {5.0: (-0.2, 0.2, 0.2), 20.0: (0.1, 0.1, -0.1)}
    text = said(known_sweep(lambda c: effects[c], coeffs=(5.0, 20.0), vectors="held_out"))
    assert text.startswith("With held-out vectors, at coefficient 5 in inter")
    assert "This is the intended direction." in text
    clear = known_sweep(lambda c: effects[c], coeffs=(5.0, 20.0)).findings.to_pylist()
    sides = {(s["coeff"], s["estimate"]) for s in clear if s["p"] <= 0.05}
    assert (20.0, "u2a") in sides


def test_if_no_coefficient_has_an_effect_the_text_says_it_of_all_of_them() -> None:
    summary = known_sweep(lambda c: (0.0, 0.0, 0.0), coeffs=(-3.0, 3.0), noise=0.05)
    text = said(summary)
    first = text.split(". ")[0]
    assert "no intended effect is clear at any of 2 coefficients; at coefficient" in first
    assert re.search(
        r"the gain of the (anti-)?stereotype on the (anti-)?stereotype is 0\.00\d nats per token "
        r"\(-0\.0\d\d to 0\.0\d\d\) and the net flow of choices from",
        first,
    )


def test_in_sample_numbers_are_called_so_in_every_sentence_that_has_one() -> None:
    text = said(known_sweep(lambda c: (0.0, 0.2, 0.0)))
    for sentence in re.split(r"(?<=[a-z)])\. (?=[A-Z])", text):
        assert not re.search(r"\d", sentence) or "in-sample" in sentence.lower(), sentence


def test_the_note_says_what_the_intervals_hold_for() -> None:
    found = finding(known_sweep(lambda c: (0.0, 0.05 * c, 0.0), coeffs=(-3.0, 3.0)))
    assert found.coeff in (-3.0, 3.0)
    assert "hold together for all 12 of them" in (found.note or "")


def test_what_is_clear_in_the_text_is_clear_in_the_figures() -> None:
    """Simultaneous intervals hold those of the tables, which figures draw."""
    summary = known_sweep(lambda c: (0.0, 0.01 * c, 0.0), coeffs=(-20.0, 5.0, 20.0))
    rows = {(r["bias_type"], r["coeff"]): r for r in summary.pooled.to_pylist()}
    for statement in summary.findings.to_pylist():
        row, name = rows[statement["bias_type"], statement["coeff"]], statement["estimate"]
        assert statement["low"] <= row[f"{name}_low"] + 1e-12
        assert statement["high"] >= row[f"{name}_high"] - 1e-12


def test_rows_without_a_finite_score_are_said_as_they_are() -> None:
    nothing = cell(**dict.fromkeys(("s2a", "flow_s2a", "changed"), None))
    assert "No score is finite" in said(summary_of(pooled=[nothing]))


def test_one_target_term_makes_no_interval_and_no_finding() -> None:
    (row,) = known_sweep(lambda c: (0.0, 0.3, 0.0)).pooled.to_pylist()
    statement = {key: row[key] for key in ("model", "split", "bias_type", "layer", "coeff")}
    statement |= {"estimate": "s2a", "value": 0.3, "low": None, "high": None, "p": 1.0}
    text = said(summary_of(pooled=[row], findings=[statement]))
    assert "only one target term" in text


def test_the_text_sets_held_out_vectors_against_in_sample_ones_and_nulls() -> None:
    """The same place in all: the widest row."""
    held_out = known_sweep(lambda c: (-0.1, 0.1, 0.0), vectors="held_out")
    in_sample = known_sweep(lambda c: (-0.3, 0.3, 0.0))
    (row,) = in_sample.pooled.to_pylist()
    key = {name: row[name] for name in ("model", "split", "bias_type", "layer", "coeff")}
    paired = {"kind": "held_out", "a": "in_sample", "b": "held_out", "estimate": "s2a", "p": 0.01}
    test = key | {"estimate": "s2a", "null": "shuffled", "vectors": "held_out", "value": 0.2}
    summary = replace(
        in_sample,
        held_out=held_out.cells,
        held_out_pooled=held_out.pooled,
        findings=held_out.findings,
        **tables_of(
            differences=[key | paired | {"difference": 0.4, "low": 0.3, "high": 0.5}],
            null_tests=[
                test | {"num_draws": 19, "rank": 1, "p": 0.05},
                test | {"null": "random", "num_draws": 19, "rank": 3, "p": 0.15},
                # What in-sample vectors do among their draws stands next to it.
                test | {"vectors": "in_sample", "num_draws": 19, "rank": 9, "p": 0.45},
            ],
        ),
    )
    text = said(summary)
    assert text.startswith("With held-out vectors, at coefficient 20")
    assert re.search(
        r"With in-sample vectors, which were fitted to the examples that they steer, the gain of "
        r"the anti-stereotype on the stereotype is 0\.[56]\d\d nats per token there, 0\.400 more "
        r"than with held-out ones \(95 % interval of the difference 0\.300 to 0\.500",
        text,
    )
    assert text.endswith(
        "Among 19 vectors fitted to shuffled labels, 0 moved stereotype against anti-stereotype as "
        "much (p = 0.05, the smallest that 19 draws can give); in-sample, 8 of 19 did (p = 0.45); "
        "among 19 vectors of random "
        "direction, 2 moved stereotype against anti-stereotype as much (p = 0.15)."
    )


def test_draws_at_another_place_are_named_with_their_place() -> None:
    summary = known_sweep(lambda c: (-0.1, 0.1, 0.0))
    place = {"model": "base", "split": "inter", "bias_type": "race", "layer": 3, "coeff": 20.0}
    test = place | {"estimate": "s2a", "null": "random", "vectors": "in_sample", "value": 0.2}
    summary = replace(
        summary, **tables_of(null_tests=[test | {"num_draws": 4, "rank": 5, "p": 1.0}])
    )
    assert said(summary).endswith(
        "In inter, race, layer 3, at coefficient 20, among 4 vectors of random direction, 4 moved "
        "stereotype against anti-stereotype as much (p = 1.00)."
    )


def tables_of(**rows: list[dict[str, Any]]) -> dict[str, pa.Table]:
    made = summary_of(**rows)
    return {name: getattr(made, name) for name in rows}
