"""The stages of a persona sweep, each resumable: what storage holds under a stage's ids is done.

contrast -> judge -> filter -> vectors -> steer -> judge -> project

Ids cover everything that changes a stage's numbers, those of the stages before it included: so
equal specs find their parts again, and a change makes new ones beside the old.
"""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence

import numpy as np
import pyarrow as pa

from cluster.errors import UserActionError
from cluster.parts import commit_part, read_part
from cluster.storage import Storage
from cluster.tasks import Task
from jobs import __version__
from jobs.console import say, warn
from jobs.identity import digest
from jobs.persona.filter import EffectivePairs, check_enough, effective_pairs
from jobs.persona.index import Group, Parts
from jobs.persona.judges import Answer, Judge, Judgement, Scorer, Verdict
from jobs.persona.judges.prompts import COHERENCE_PROMPT
from jobs.persona.plan import (
    POLARITIES,
    Asked,
    PartRef,
    answer_tasks,
    contrast_rows,
    hook_point,
    projections_task,
    steered_rows,
    sums_task,
)
from jobs.persona.resolve import PersonaModel, PersonaSweep
from jobs.persona.spec import POOLINGS
from jobs.persona.tables import SCORES_SCHEMA, Phase, part_key, prefix, vectors_key
from steering_core.vectors import SteeringVectors, to_safetensors


class FailedVerdictsError(Exception):
    """Some queries could not be asked: their answers have no verdict yet."""


class Pipeline:
    """Runs the stages in turn.

    Args:
        execute: runs tasks that are not done yet on the replicas; raises where some cannot be.
    """

    def __init__(
        self,
        sweep: PersonaSweep,
        storage: Storage,
        judge: Judge,
        scorer: Scorer,
        execute: Callable[[str, Sequence[Task]], None],
    ) -> None:
        self._sweep, self._storage = sweep, storage
        self._judge, self._scorer, self._execute = judge, scorer, execute
        self._groups = [Group(model, trait) for model in sweep.models for trait in sweep.traits]

    def run(self) -> Parts:
        """All stages; what is there already is not made again.

        Raises:
            UserActionError: the judge cannot go on, or no pair is effective.
            InputError: no pair is effective.
            FailedVerdictsError: verdicts are missing; the same command asks for them again.
        """
        parts = Parts()
        self._write(parts, "contrast", self._contrast_tasks())
        self._score(parts, "contrast")
        kept = {
            group: self._effective(parts, group, parts.scores[group, "contrast"])
            for group in self._groups
        }
        vectors = self._vectors(parts, kept)
        self._write(parts, "steered", self._steered_tasks(vectors))
        self._score(parts, "steered")
        self._project(parts, vectors)
        return parts

    def _contrast_tasks(self) -> Iterator[tuple[Group, list[Task]]]:
        for group in self._groups:
            rows = list(contrast_rows(self._sweep, group.trait))
            yield group, self._answer_tasks(group, "contrast", rows)

    def _steered_tasks(
        self, vectors: Mapping[Group, Mapping[str, SteeringVectors]]
    ) -> Iterator[tuple[Group, list[Task]]]:
        pooling = self._sweep.spec.vectors.pooling
        for group in self._groups:
            of = vectors[group][pooling]
            digests = {layer: of.digest(layer) for layer in of.whole}
            key = vectors_key(group.model, group.trait, pooling)
            rows = list(steered_rows(self._sweep, group.trait))
            yield group, self._answer_tasks(group, "steered", rows, (key, digests))

    def _answer_tasks(
        self,
        group: Group,
        phase: Phase,
        rows: Sequence[Asked],
        vectors: tuple[str, Mapping[int, str]] | None = None,
    ) -> list[Task]:
        model = self._sweep.models[group.model]
        return answer_tasks(self._sweep, model, group.trait, phase, rows, vectors)

    def _write(
        self, parts: Parts, phase: Phase, by_group: Iterator[tuple[Group, list[Task]]]
    ) -> None:
        tasks = dict(by_group)
        for group, of in tasks.items():
            parts.num_rows[group, phase] = sum(len(task.payload.rows) for task in of)
        parts.write(self._storage)
        self._run_missing(f"{phase} answers", [t for of in tasks.values() for t in of])
        for group, of in tasks.items():
            parts.answers[group, phase] = [PartRef(t.parts["answers"], t.id) for t in of]
        parts.write(self._storage)

    def _run_missing(self, what: str, tasks: Sequence[Task]) -> None:
        places = {key.rsplit("/", 1)[0] + "/" for task in tasks for key in task.parts.values()}
        there = {entry.key for place in sorted(places) for entry in self._storage.list(place)}
        missing = [task for task in tasks if not there.issuperset(task.parts.values())]
        kept = f", {len(tasks) - len(missing)} done before" if len(missing) < len(tasks) else ""
        say(f"{what}: {len(tasks)} tasks{kept}")
        if missing:
            self._execute(what, missing)

    def _score(self, parts: Parts, phase: Phase) -> None:
        num_failed = 0
        for group in self._groups:
            place = prefix("scores", group.model, group.trait, phase)
            there = {entry.key for entry in self._storage.list(place)}
            refs = []
            for part in parts.answers[group, phase]:
                trait = self._sweep.traits[group.trait].trait
                task_id = digest(
                    {
                        "table": "scores",
                        "answers": part.task_id,
                        "judge": dict(self._judge.identity()),
                        "eval_prompt": trait.eval_prompt,
                        "coherence_prompt": COHERENCE_PROMPT,
                    }
                )
                ref = PartRef(part_key("scores", group.model, group.trait, phase, task_id), task_id)
                refs.append(ref)
                if ref.key not in there:
                    num_failed += self._score_part(group, part, ref)
            parts.scores[group, phase] = refs
        if num_failed:
            raise FailedVerdictsError(
                f"{num_failed:,} verdicts on {phase} answers failed; all others are kept, and the "
                "same command asks for these again"
            )
        parts.write(self._storage)

    def _score_part(self, group: Group, part: PartRef, into: PartRef) -> int:
        """Judge a part's answers; stored only where no query has failed. How many have."""
        rows = read_part(self._storage, part.key, part.task_id).to_pylist()
        trait = self._sweep.traits[group.trait].trait
        say(f"{group}: judging {len(rows):,} answers")
        answers = [Answer(row["question"], row["answer"]) for row in rows]
        judged = self._scorer.score(trait, answers)
        num_failed = sum(
            verdict.outcome == "failed" for j in judged for verdict in (j.trait, j.coherence)
        )
        if not num_failed:
            table = pa.Table.from_pylist(
                [_scores_row(row["row_id"], j) for row, j in zip(rows, judged, strict=True)],
                schema=SCORES_SCHEMA,
            )
            attempt = uuid.uuid4().hex
            commit_part(self._storage, into.key, table, task_id=into.task_id, attempt=attempt)
        return num_failed

    def _effective(self, parts: Parts, group: Group, scores: Sequence[PartRef]) -> frozenset[str]:
        """The ids of the rows whose pairs pass the filter."""
        judged = {
            row["row_id"]: _judgement(row)
            for part in scores
            for row in read_part(self._storage, part.key, part.task_id).to_pylist()
        }
        pairs = sorted({row_id.rsplit(".", 1)[0] for row_id in judged})
        positive, negative = (
            [judged[f"{pair}.{polarity}"] for pair in pairs] for polarity in POLARITIES
        )
        found = effective_pairs(positive, negative, self._sweep.spec.filter)
        parts.pairs[group] = found
        parts.write(self._storage)
        warning = check_enough(found, str(group))
        if warning is None:
            say(found.line(str(group)))
        else:
            warn(warning)
        return frozenset(
            f"{pairs[index]}.{polarity}" for index in found.kept for polarity in POLARITIES
        )

    def _vectors(
        self, parts: Parts, kept: Mapping[Group, frozenset[str]]
    ) -> dict[Group, dict[str, SteeringVectors]]:
        tasks: dict[Group, list[Task]] = {}
        for group in self._groups:
            for part in parts.answers[group, "contrast"]:
                ids = read_part(self._storage, part.key, part.task_id)["row_id"].to_pylist()
                if of_part := [row_id for row_id in ids if row_id in kept[group]]:
                    task = sums_task(group.model, group.trait, part, of_part)
                    tasks.setdefault(group, []).append(task)
        self._run_missing("states", [t for of in tasks.values() for t in of])
        found = {}
        for group, of_group in tasks.items():
            sums = [read_part(self._storage, t.parts["sums"], t.id) for t in of_group]
            found[group] = mean_differences(pa.concat_tables(sums), group)
            for pooling, vectors in found[group].items():
                data = to_safetensors(vectors, self._provenance(group, pooling, parts.pairs[group]))
                self._storage.replace(vectors_key(group.model, group.trait, pooling), data)
            steers = self._sweep.spec.vectors.pooling
            parts.vectors[group] = vectors_key(group.model, group.trait, steers)
        parts.write(self._storage)
        return found

    def _provenance(self, group: Group, pooling: str, pairs: EffectivePairs) -> dict[str, str]:
        model: PersonaModel = self._sweep.models[group.model]
        num_blocks = model.facts.num_blocks
        return {
            "created_by": f"steersweep {__version__}",
            "method": "mean_difference",
            "formula": "mean over effective pairs of (positive - negative), float64 sums",
            "source": "Chen et al. 2025, Persona Vectors",
            "model": self._sweep.spec.models[group.model].path,
            "model_digest": model.facts.digest,
            "dtype": model.dtype,
            "trait": group.trait,
            "pooling": pooling,
            "num_pairs": str(len(pairs.kept)),
            **{f"read.layer.{n}": str(hook_point(n)) for n in range(1, num_blocks + 1)},
        }

    def _project(
        self, parts: Parts, vectors: Mapping[Group, Mapping[str, SteeringVectors]]
    ) -> None:
        tasks: dict[tuple[Group, Phase], list[Task]] = {}
        for (group, phase), of_group in parts.answers.items():
            of_model = [
                (
                    other.trait,
                    pooling,
                    vectors_key(other.model, other.trait, pooling),
                    {layer: of.digest(layer) for layer in of.whole},
                )
                for other, by_pooling in vectors.items()
                if other.model == group.model
                for pooling, of in by_pooling.items()
            ]
            tasks[group, phase] = [
                projections_task(group.model, group.trait, phase, part, 1, of_model)
                for part in of_group
            ]
        self._run_missing("projections", [t for of in tasks.values() for t in of])
        for key, of in tasks.items():
            parts.projections[key] = [PartRef(t.parts["projections"], t.id) for t in of]
        parts.write(self._storage)


def mean_differences(sums: pa.Table, group: Group) -> dict[str, SteeringVectors]:
    """Vectors of each pooling from sums of kept answers: mean positive minus mean negative.

    Raises:
        UserActionError: every kept answer of a polarity is empty.
    """
    totals: dict[tuple[str, str, int], tuple[np.ndarray, int]] = {}
    for row in sums.to_pylist():
        key = row["pooling"], row["polarity"], row["layer"]
        total, num = totals.get(key, (np.zeros(len(row["total"])), 0))
        totals[key] = total + np.asarray(row["total"]), num + row["num_answers"]
    layers = sorted({layer for _, _, layer in totals})
    found: dict[str, SteeringVectors] = {}
    for pooling in POOLINGS:
        whole = {}
        for layer in layers:
            means = [
                totals.get((pooling, polarity, layer), (np.zeros(0), 0)) for polarity in POLARITIES
            ]
            if not all(num for _, num in means):
                raise UserActionError(
                    f"{group}: all effective answers of a polarity are empty; raise "
                    "generation.max_new_tokens, or use another model"
                )
            (positive, num_positive), (negative, num_negative) = means
            whole[layer] = (positive / num_positive - negative / num_negative).astype(np.float32)
        found[pooling] = SteeringVectors(whole, {})
    return found


def _scores_row(row_id: str, judged: Judgement) -> dict[str, object]:
    said = [verdict.said for verdict in (judged.trait, judged.coherence) if verdict.said]
    return {
        "row_id": row_id,
        "trait_score": judged.trait.score,
        "trait_outcome": judged.trait.outcome,
        "coherence": judged.coherence.score,
        "coherence_outcome": judged.coherence.outcome,
        "said": "; ".join(said) or None,
    }


def _judgement(row: Mapping[str, object]) -> Judgement:
    return Judgement(
        Verdict(row["trait_outcome"], row["trait_score"]),  # type: ignore[arg-type]
        Verdict(row["coherence_outcome"], row["coherence"]),  # type: ignore[arg-type]
    )
