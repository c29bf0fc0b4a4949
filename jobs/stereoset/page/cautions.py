"""What a reader must know before trusting a number."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from jobs.stereoset.page.estimate import Estimate, coefficient, counted
from jobs.stereoset.page.facts import Facts

FEW_EXAMPLES = 30
LMS_FALL = 10.0
"""Points by which LMS falls where the text itself breaks down, rather than what it prefers."""
_MOST_LISTED = 8


@dataclass(frozen=True)
class Caution:
    """A warning with the places that it is about; ``is_grave`` where numbers may be wrong."""

    title: str
    places: tuple[str, ...] = ()
    num_more: int = 0
    is_grave: bool = False

    @classmethod
    def of(cls, title: str, places: list[str]) -> Caution:
        """With as many places as a reader takes in, and the number of the others."""
        return cls(title, tuple(places[:_MOST_LISTED]), max(0, len(places) - _MOST_LISTED))


def cautions(facts: Facts) -> list[Caution]:
    """Every warning there is, the gravest first."""
    return [*_certificate(facts), *_missing(facts), *_numbers(facts)]


def _certificate(facts: Facts) -> Iterator[Caution]:
    found = facts.certificate["overall"]
    if found["verdict"] == "broken":
        yield Caution(
            "The certificate is broken: rows in this output differ from the slow path by more "
            "than the tolerance.",
            is_grave=True,
        )
    if found["verdict"] == "not checked":
        yield Caution("No row was computed again, so nothing certifies these numbers.")
    if num := found["num_changed_choices"]:
        yield Caution(
            f"Of {counted(found['num_rows_checked'], 'row')} computed again, {num:,} chose another "
            "candidate on the slow path."
        )
    if num := found["num_tasks_fell_back"]:
        yield Caution(
            f"Past the tolerance, and computed on the slow path as a whole: {num:,} of "
            f"{counted(found['num_tasks'], 'task')}."
        )


def _missing(facts: Facts) -> Iterator[Caution]:
    if facts.set_aside:
        yield Caution.of(
            f"Failed and set aside: {counted(len(facts.set_aside), 'task')}.",
            [
                f"{task['group']}, shard {task['shard']} ({task['table']}): {task['reason']}"
                for task in facts.set_aside
            ],
        )
    if facts.incomplete:
        num = sum(group.num_missing for group in facts.incomplete)
        yield Caution.of(
            f"Not complete, and left out: {counted(num, 'cell')}.",
            [f"{g.group}: {g.num_missing:,} of {g.num_planned:,}" for g in facts.incomplete],
        )
    if facts.without_baseline:
        yield Caution.of(
            "Steered rows without a whole baseline, which `steersweep run` with the same spec "
            "makes again:",
            list(facts.without_baseline),
        )
    if not facts.record:
        yield Caution("run.json is lost, so the page cannot say what was run.")


def _numbers(facts: Facts) -> Iterator[Caution]:
    if facts.non_finite:
        yield Caution.of("Some scores are not finite.", list(facts.non_finite))
    if broken := _broken_down(facts):
        yield Caution.of(
            f"LMS fell by more than {LMS_FALL:g} points in {counted(len(broken), 'cell')}: the "
            "text broke down, and a flow says little about stereotypes. Largest falls first:",
            broken,
        )
    small = [
        f"{row['model']}/{row['split']}/{row['bias_type']}: {row['num_examples']:,}"
        for row in facts.summary.baseline.to_pylist()
        if row["num_examples"] < FEW_EXAMPLES
    ]
    if small:
        yield Caution.of(
            f"Groups of fewer than {FEW_EXAMPLES} examples; their intervals are wide, and a "
            "bootstrap of so few is too narrow rather than too wide:",
            small,
        )


def _broken_down(facts: Facts) -> list[str]:
    falls = []
    for row in facts.summary.cells.to_pylist():
        change = Estimate.of(row, "lms_change")
        if change is not None and change.value < -LMS_FALL and change.high < 0:
            place = (
                f"{row['model']}/{row['split']}/{row['bias_type']}, layer {row['layer']}, "
                f"coefficient {coefficient(row['coeff'])}: {change.text()} ({change.range()})"
            )
            falls.append((change.value, place))
    return [place for _, place in sorted(falls)]
