"""What a reader must know before trusting the numbers of a StereoSet sweep."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from jobs.page.cautions import Caution, of_certificate, of_lost_record, of_random_weights
from jobs.page.estimate import Estimate
from jobs.page.words import coefficient, counted
from jobs.scoring.push import push_of
from jobs.stereoset.page.facts import Facts
from jobs.stereoset.summary_keys import widest
from jobs.stereoset.summary_tables import FEW_TERMS
from jobs.sweeps.status import set_aside_words

FEW_EXAMPLES = 30
LMS_FALL = 10.0
"""Points. After a larger fall of LMS, choices are partly choices between nonsense."""


def cautions(facts: Facts) -> list[Caution]:
    """Every warning, the gravest first."""
    return [
        *of_random_weights(facts.record),
        *of_certificate(facts.certificate["overall"]),
        *_missing(facts),
        *of_lost_record(facts.record),
        *_vectors(facts),
        *_numbers(facts),
        *_terms(facts),
        *_stereoset(facts),
    ]


def _stereoset(facts: Facts) -> Iterator[Caution]:
    if facts.summary.cells.num_rows:
        yield Caution(
            "LMS, SS and ICAT are computed with multiple-choice prompts here. They are not "
            "comparable with the published values of StereoSet's leaderboard."
        )


def _vectors(facts: Facts) -> Iterator[Caution]:
    rows = [row for row in facts.summary.cells.to_pylist() if row["coeff"] != 0]
    if facts.summary.held_out.num_rows:
        yield Caution(
            "Rows marked in-sample are steered with vectors that were fitted to the same "
            "examples. Part of what these vectors seem to do is this fit. The finding and the "
            "figures are of held-out vectors, which were fitted to examples about other target "
            "terms."
        )
        yield from _without_held_out(facts)
    elif rows and facts.summary.vectors == "in_sample":
        yield Caution(
            "The vectors were fitted to the same examples that they steer (in-sample). Part of "
            "what they seem to do is this fit: `--set vectors.folds=5` in a new output steers "
            "with vectors of other examples."
        )
    if (push := push_of(rows)) is not None:
        yield from (Caution(text) for text in push.warnings(facts.summary.unit))
    if rows and all(row["changed"] == 0 for row in rows):
        yield Caution(
            "No cell changed a single choice. The coefficients may be too small for this model; "
            "try larger ones."
        )


def _without_held_out(facts: Facts) -> Iterator[Caution]:
    held_out = {_group(row) for row in facts.summary.held_out.to_pylist()}
    single = {
        _group(row)
        for row in facts.summary.cells.to_pylist()
        if row["num_terms"] == 1 and _group(row) not in held_out
    }
    if single:
        yield Caution.of(
            "Groups with a single target term have no held-out vectors, because there are no "
            "other terms to fit them to. All their rows are in-sample:",
            sorted(single),
        )


def _group(row: Mapping[str, Any]) -> str:
    return f"{row['model']}/{row['split']}/{row['bias_type']}"


def _terms(facts: Facts) -> Iterator[Caution]:
    """Rows that the finding rests on and that have few target terms."""
    all_rows = [*facts.summary.shown_pooled.to_pylist(), *facts.summary.shown_cells.to_pylist()]
    few = {
        f"{_group(row)}: {row['num_terms']}"
        for rows in widest(all_rows).values()
        for row in rows
        if row["few_terms"]
    }
    if few:
        yield Caution.of(
            f"The finding rests on fewer than {FEW_TERMS} target terms. With so few, no test can "
            "be significant, and intervals are very wide:",
            sorted(few),
        )


def _missing(facts: Facts) -> Iterator[Caution]:
    if facts.set_aside:
        yield Caution.of(
            f"{counted(len(facts.set_aside), 'task')} failed; their results are missing:",
            [set_aside_words(task) for task in facts.set_aside],
        )
    if facts.incomplete:
        num = sum(group.num_missing for group in facts.incomplete)
        yield Caution.of(
            f"{counted(num, 'cell')} are not complete and left out:",
            [f"{g.group}: {g.num_missing:,} of {g.num_planned:,}" for g in facts.incomplete],
        )
    if facts.without_baseline:
        yield Caution.of(
            "Some groups have steered rows but lack part of their baseline. `steersweep run` with "
            "the same spec computes it again:",
            list(facts.without_baseline),
        )


def _numbers(facts: Facts) -> Iterator[Caution]:
    if facts.non_finite:
        yield Caution.of("Some scores are not finite (NaN or infinite):", list(facts.non_finite))
    if broken := _broken_down(facts):
        yield Caution.of(
            f"LMS fell by more than {LMS_FALL:g} points in {counted(len(broken), 'cell')}. The "
            "model prefers meaningful text less often there, so its choices say less about "
            "stereotypes. Largest falls first:",
            broken,
        )
    small = [
        f"{_group(row)}: {row['num_examples']:,}"
        for row in facts.summary.baseline.to_pylist()
        if row["num_examples"] < FEW_EXAMPLES
    ]
    if small:
        yield Caution.of(
            f"Groups of fewer than {FEW_EXAMPLES} examples. Their intervals are wide:",
            small,
        )


def _broken_down(facts: Facts) -> list[str]:
    falls = []
    for row in facts.summary.shown_cells.to_pylist():
        change = Estimate.of(row, "lms_change")
        if change is not None and change.value < -LMS_FALL and change.high < 0:
            place = (
                f"{_group(row)}, layer {row['layer']}, "
                f"coefficient {coefficient(row['coeff'])}: {change.text()} ({change.range()})"
            )
            falls.append((change.value, place))
    return [place for _, place in sorted(falls)]
