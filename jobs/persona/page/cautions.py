"""What a reader must know before trusting the numbers of a persona sweep."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import pandas as pd

from jobs.page.cautions import Caution, of_lost_record, of_random_weights
from jobs.page.words import counted
from jobs.persona.filter import FEWEST_PAIRS
from jobs.persona.questions import questions_asked
from jobs.persona.summary import PersonaSummary

_HALF = 0.5


def cautions(
    summary: PersonaSummary,
    record: Mapping[str, Any],
    missing: str,
    certificate: Mapping[str, Any] | None = None,
) -> list[Caution]:
    """Every warning, the gravest first.

    Args:
        record: what ``run.json`` holds; empty if it is lost.
        missing: what is still to come, in words; empty if nothing is.
        certificate: ``overall`` of ``certificate.json``.
    """
    found = [*of_random_weights(record), *_certificate(certificate or {})]
    if missing:
        found.append(Caution(f"This sweep is not complete. Still to come: {missing}."))
    return [
        *found,
        *of_lost_record(record),
        *_judge(summary, record),
        *_pairs(summary),
        *_questions(summary),
        *_cut(summary),
        *_without_score(summary),
    ]


def _certificate(found: Mapping[str, Any]) -> Iterator[Caution]:
    if found.get("verdict") == "broken":
        yield Caution(
            "The certificate is broken: answers of this output differ from their second "
            "computation by more than the tolerance.",
            is_grave=True,
        )
    if num := found.get("num_tasks_fell_back"):
        yield Caution(
            f"{num:,} of {counted(found['num_tasks'], 'task')} differed by more than the tolerance "
            "and were computed answer by answer instead.",
            is_grave=True,
        )


def _judge(summary: PersonaSummary, record: Mapping[str, Any]) -> Iterator[Caution]:
    judge = record.get("spec", {}).get("judge", {})
    if judge.get("kind") != "word_list":
        return
    yield Caution(
        "The judge is a word list. It counts words of a list in each answer, and words that are "
        "repeated; it does not read the answer. A trait score says how often these words occur, "
        "and coherence says how few words are repeated, not whether the text makes sense."
    )
    if not summary.contrast.empty:
        yield Caution(
            "The same word list selects the pairs that the vectors are made of and scores the "
            "steered answers. So a high score may only mean that the vector raises these words."
        )


def _pairs(summary: PersonaSummary) -> Iterator[Caution]:
    few, half = [], []
    for name, rows in _groups(summary.contrast):
        kept, num = rows["num_effective_pairs"].iloc[0], rows["num_pairs"].iloc[0]
        if pd.isna(kept):
            continue
        if kept < FEWEST_PAIRS:
            few.append(f"{name}: {counted(int(kept), 'pair')}")
        if kept < _HALF * num:
            half.append(f"{name}: {kept:,.0f} of {num:,.0f}")
    if few:
        yield Caution.of(
            f"Some vectors are made of fewer than {FEWEST_PAIRS} pairs of answers:", few
        )
    if half:
        yield Caution.of(
            "Fewer than half of the contrast pairs are effective: the instructions made the "
            "difference that they asked for in these only, and the vector is made of them alone:",
            half,
        )


def _questions(summary: PersonaSummary) -> Iterator[Caution]:
    shared = [
        f"{model}, {trait}: {counted(len(asked.shared), 'question')} of {len(asked.steered):,}"
        for (model, trait), asked in questions_asked(summary.answers).items()
        if asked.shared
    ]
    if shared:
        yield Caution.of(
            "Questions that the vector is made of are also asked when steering, so these scores "
            "do not show that the vector works on new questions:",
            shared,
        )


def _cut(summary: PersonaSummary) -> Iterator[Caution]:
    if summary.answers.empty:
        return
    cut = []
    for (model, trait, phase), rows in summary.answers.groupby(["model", "trait", "phase"]):
        num_cut = int((rows["ended_by"] == "length").sum())
        if num_cut > _HALF * len(rows):
            cut.append(f"{model}, {trait}, {phase} answers: {num_cut:,} of {len(rows):,}")
    if cut:
        yield Caution.of(
            "More than half of the answers were cut by generation.max_new_tokens, so their scores "
            "are those of beginnings:",
            cut,
        )


def _without_score(summary: PersonaSummary) -> Iterator[Caution]:
    """Counts each answer once: tables of cells repeat those at coefficient 0."""
    for name in ("contrast", "steered"):
        if summary.answers.empty:
            return
        answers = summary.answers[summary.answers["phase"] == name]
        for outcome in ("refused", "unparsable", "failed"):
            columns = ["trait_outcome", "coherence_outcome"]
            num = int((answers[columns] == outcome).to_numpy().sum())
            if num:
                yield Caution(
                    f"{counted(num, 'judgement')} of {name} answers "
                    f"{'is' if num == 1 else 'are'} {outcome} and left out of the means."
                )
        num = int((answers["answer_ids"].map(len) == 0).sum())
        if num:
            yield Caution(
                f"{counted(num, f'{name} answer')} {'is' if num == 1 else 'are'} empty and have no "
                "hidden state."
            )


def _groups(table: pd.DataFrame) -> Iterator[tuple[str, pd.DataFrame]]:
    if table.empty:
        return
    for (model, trait), rows in table.groupby(["model", "trait"]):
        yield f"{model}, {trait}", rows
