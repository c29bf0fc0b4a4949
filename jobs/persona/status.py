"""How far a persona sweep has come, read from its output alone, also while a driver runs."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

import pyarrow.compute as pc

from cluster.parts import check_parts, read_part
from jobs.console import Verbosity, print_table, say
from jobs.persona.index import Group, Parts
from jobs.persona.output import PersonaOutput
from jobs.persona.stored import parts_of
from jobs.persona.tables import Phase
from jobs.scoring.status import phase_counts
from jobs.sweeps.certificate_file import tell_certificate
from jobs.sweeps.parts import PartRef, damaged
from jobs.sweeps.session import DriverState
from jobs.sweeps.status import print_counts, progress_line, progress_of, set_aside_words

Table = Literal["answers", "scores", "projections"]
DONE: Mapping[Table, str] = {"answers": "written", "scores": "judged", "projections": "projected"}
"""What has been done to the answers of which a table holds rows."""


@dataclass(frozen=True)
class PhaseProgress:
    """How far the answers of one model, trait and phase have come.

    Attributes:
        num_answers: that are planned.
        num_done: by table: answers of which the output holds rows.
        ended: tables that hold all of them.
    """

    group: Group
    phase: Phase
    num_answers: int
    num_done: Mapping[Table, int]
    ended: frozenset[Table]

    def as_json(self) -> dict[str, Any]:
        """Plain data: ``written`` and so on say whether all are, ``num_written`` how many."""
        return {
            "model": self.group.model,
            "trait": self.group.trait,
            "phase": self.phase,
            "num_answers": self.num_answers,
            **{word: table in self.ended for table, word in DONE.items()},
            **{f"num_{word}": self.num_done[table] for table, word in DONE.items()},
        }

    def as_row(self) -> list[str]:
        """The line of the printed table."""
        shown = [f"{self.num_done[table]:,}" if self.num_done[table] else "-" for table in DONE]
        return [self.group.model, self.group.trait, self.phase, f"{self.num_answers:,}", *shown]


def status(output: PersonaOutput, driver: DriverState) -> dict[str, Any]:
    """Print progress by model, trait and phase, and return it as plain data.

    Raises:
        UserError: a damaged index, or damaged parts.
    """
    storage, parts, session = output.storage, output.index, output.last_session
    phases = list(_phases(output))
    missing = missing_of(output)
    content = progress_of(
        sum(of.num_done["answers"] for of in phases),
        sum(of.num_answers for of in phases),
        session,
        is_running=driver.is_running,
    )
    say(f"{storage.uri}: {driver.told}", at=Verbosity.QUIET)
    if phases:
        line = progress_line(content, "answers", is_running=driver.is_running)
        say(line, at=Verbosity.QUIET)
    say(f"missing: {missing}" if missing else "all stages are done", at=Verbosity.QUIET)
    if phases:
        say()
        columns = ["model", "trait", "phase", "answers", *DONE.values()]
        print_table("", columns, [of.as_row() for of in phases])
    for group, pairs in parts.pairs.items():
        say(pairs.line(str(group)))
    side_effects = phase_counts(output.inventory)
    print_counts(side_effects, "rows")
    if side_effects:
        content["side_effects"] = side_effects
    content |= {
        "missing": missing or None,
        "stages": [of.as_json() for of in phases],
        "set_aside": list(session.get("set_aside", [])),
    }
    if footers := output.footers():
        content["certificate"] = tell_certificate(storage, footers, output.certified)
    for entry in content["set_aside"]:
        say(f"set aside: {set_aside_words(entry)}")
    return content


def _phases(output: PersonaOutput) -> Iterator[PhaseProgress]:
    parts = output.index
    found = {table: parts_of(output.storage, parts, table) for table in get_args(Table)}
    for (group, phase), num_answers in parts.num_rows.items():
        key = group, phase
        ended = frozenset(table for table in found if key in getattr(parts, table))
        num_done = {
            # Parts of an earlier grid may hold answers that the present one has elsewhere.
            table: num_answers
            if table in ended
            else min(num_answers, _num_answers(output, table, found[table].get(key, ())))
            for table in found
        }
        yield PhaseProgress(group, phase, num_answers, num_done, ended)


def _num_answers(output: PersonaOutput, table: Table, refs: Sequence[PartRef]) -> int:
    """Answers of which some parts hold rows."""
    if table == "projections":  # an answer has many rows
        tables = [read_part(output.storage, ref.key, ref.task_id) for ref in refs]
        return sum(int(pc.count_distinct(of["row_id"]).as_py()) for of in tables)
    good, bad = check_parts(output.storage, {ref.key: ref.task_id for ref in refs})
    if bad:
        raise damaged(bad)
    return sum(info.num_rows for info in good.values())


def missing_of(output: PersonaOutput) -> str:
    """What a sweep still lacks, in words; empty if it is complete."""
    is_measured = len(output.inventory.done) == len(output.inventory.planned)
    return not_there(output.index) or ("" if is_measured else "rows of side effects")


def not_there(parts: Parts) -> str:
    """The first stage that has not ended in every group, in words; empty where all have."""
    planned = list(parts.num_rows)
    contrast = [key for key in planned if key[1] == "contrast"]
    steered = [key for key in planned if key[1] == "steered"]
    if not planned or not all(key in parts.answers for key in contrast):
        return "answers"
    if not all(key in parts.scores for key in contrast):
        return "judgements of contrast answers"
    if not all(group in parts.vectors for group, _ in planned):
        return "vectors"
    if not all(key in parts.answers and key in parts.scores for key in steered):
        return "steered answers or their judgements"
    return "" if all(key in parts.projections for key in planned) else "projections"
