"""A small job of the tests, written against the public interface alone; no model is needed.

count the letters of each shard of texts --all of them--> merge
-> score each text by how common its letters are, on a grid of weights
-> judge each part of scores in the driver
"""

from __future__ import annotations

import json
import math
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal

import pyarrow as pa
from pydantic import Field

from cluster.parts import read_part
from cluster.storage import Storage
from cluster.tasks import Pool, Task, WorkerFactory
from jobs.identity import digest
from jobs.spec import (
    AtLeastOne,
    Coeff,
    ComputeSpec,
    JobSpec,
    StorageOptions,
    identity_of,
    role,
)
from jobs.sweeps.job import DriverPool, Files, Growth, Replicas, Shipment, Workflow
from jobs.sweeps.parts import PartRef
from jobs.sweeps.steps import Stage, Step
from jobs.sweeps.stored_table import StoredTable, Tables
from jobs.sweeps.table_job import TableJob, TableOutput
from steersweep.errors import UserError

COUNTING = Stage("counting", "texts", "counted")
SCORING = Stage("scoring", "rows", "scored")
JUDGING = Stage("judging", "rows", "judged")
POOL, JUDGE = "letters", "judge:"
MERGED_KEY = "merged.json"

SCORES = StoredTable(
    "scores",
    "Scores: a row per text and weight",
    pa.schema([("text_id", pa.string()), ("weight", pa.float64()), ("score", pa.float64())]),
)
VERDICTS = StoredTable(
    "verdicts",
    "Verdicts: a row per score",
    pa.schema([("text_id", pa.string()), ("weight", pa.float64()), ("verdict", pa.string())]),
)
COUNTS = StoredTable(
    "counts",
    "Letters: a row per shard and letter",
    pa.schema([("letter", pa.string()), ("num", pa.int64())]),
)


class LettersSpec(JobSpec):
    """The sweep file of the job."""

    job: Literal["letters"] = Field(json_schema_extra=role("identity"))
    texts: str = Field(min_length=1, json_schema_extra=role("runtime"))
    ignore_case: bool = Field(True, json_schema_extra=role("identity"))
    texts_per_task: AtLeastOne = Field(2, json_schema_extra=role("identity"))
    weights: tuple[Coeff, ...] = Field(min_length=1, json_schema_extra=role("grid"))
    pause_s: float = Field(0.0, ge=0, json_schema_extra=role("runtime"))
    compute: ComputeSpec = ComputeSpec()
    storage: StorageOptions = StorageOptions()
    output: str = Field(min_length=1, json_schema_extra=role("runtime"))


@dataclass(frozen=True)
class LettersSweep:
    """A spec and its texts by id."""

    spec: LettersSpec
    texts: Mapping[str, str]
    device: str = "cpu"

    def resolved_spec(self) -> dict[str, Any]:
        return self.spec.model_dump(mode="json")

    def identity(self) -> dict[str, Any]:
        return {**identity_of(self.spec), "texts (content)": digest(self.texts)}

    def shards(self) -> list[dict[str, str]]:
        """The texts of each task."""
        entries, size = list(self.texts.items()), self.spec.texts_per_task
        return [dict(entries[low : low + size]) for low in range(0, len(entries), size)]


# -- workers --------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Payload:
    """Counts letters if there are no merged counts yet, and scores otherwise."""

    texts: Mapping[str, str]
    merged: Mapping[str, int] | None = None
    weight: float = 1.0


class LetterWorker:
    """A ``cluster`` worker."""

    def __init__(self, *, ignore_case: bool, pause_s: float) -> None:
        self._ignore_case, self._pause_s = ignore_case, pause_s

    def load(self) -> Mapping[str, str]:
        return {"device": "cpu"}

    def run(self, payload: Payload) -> Mapping[str, pa.Table]:
        time.sleep(self._pause_s)
        letters = {name: letters_of(t, self._ignore_case) for name, t in payload.texts.items()}
        if payload.merged is None:
            counts = sorted(Counter("".join(letters.values())).items())
            rows = [{"letter": letter, "num": num} for letter, num in counts]
            return {COUNTS.name: pa.Table.from_pylist(rows, schema=COUNTS.schema)}
        total = sum(payload.merged.values())
        rows = [
            {
                "text_id": name,
                "weight": payload.weight,
                "score": payload.weight
                * math.fsum(math.log(payload.merged[letter] / total) for letter in text)
                / len(text),
            }
            for name, text in letters.items()
        ]
        return {SCORES.name: pa.Table.from_pylist(rows, schema=SCORES.schema)}


class Judge:
    """Runs in the driver: reads a part of scores, and says which are common."""

    def __init__(self, storage: Storage) -> None:
        self._storage = storage

    def load(self) -> Mapping[str, str]:
        return {}

    def run(self, payload: PartRef) -> Mapping[str, pa.Table]:
        scores = read_part(self._storage, payload.key, payload.task_id).to_pylist()
        rows = [
            {**row, "verdict": "common" if row["score"] > -3 * abs(row["weight"]) else "rare"}
            for row in scores
        ]
        return {VERDICTS.name: pa.Table.from_pylist(rows, schema=VERDICTS.schema)}


def letters_of(text: str, ignore_case: bool) -> str:
    """The letters of a text."""
    return "".join(filter(str.isalpha, text.lower() if ignore_case else text))


# -- the job --------------------------------------------------------------------------------------


class LettersWorkflow(Workflow):
    """See the module."""

    def __init__(self, sweep: LettersSweep, output: TableOutput, files: Files) -> None:
        self.stored = output.parts
        self._sweep, self._files, self._storage = sweep, files, output.storage

    def totals(self) -> Mapping[Stage, int]:
        num = len(self._sweep.texts)
        num_rows = num * len(self._sweep.spec.weights)
        return {COUNTING: num, SCORING: num_rows, JUDGING: num_rows}

    def most_tasks(self) -> int:
        return len(self._sweep.shards()) * len(self._sweep.spec.weights)

    def examples(self) -> pa.Table:
        texts = self._sweep.texts
        return pa.table({"text_id": list(texts), "text": list(texts.values())})

    def pools(self, replicas: Replicas) -> Sequence[Pool | DriverPool]:
        spec = self._sweep.spec
        factory = WorkerFactory(
            "tests.support.toy_job:LetterWorker",
            {"ignore_case": spec.ignore_case, "pause_s": spec.pause_s},
        )
        return [Pool(POOL, factory, replicas.share), DriverPool(JUDGE, Judge(self._storage))]

    def steps(self) -> Iterator[Step]:
        tasks = [self._task(COUNTS, POOL, Payload(shard), shard) for shard in self._sweep.shards()]
        yield Step(COUNTING, "all", tasks, then=lambda: self._merged(tasks))

    def _merged(self, counted: Sequence[Task]) -> Iterator[Step]:
        merged: Counter[str] = Counter()
        for task in counted:
            part = read_part(self._storage, task.parts[COUNTS.name], task.id)
            merged.update({row["letter"]: row["num"] for row in part.to_pylist()})
        counts = dict(sorted(merged.items()))
        self._files.replace(MERGED_KEY, json.dumps(counts).encode())
        for weight in map(float, self._sweep.spec.weights):
            tasks = [
                self._task(SCORES, POOL, Payload(shard, counts, weight), shard, weight, counts)
                for shard in self._sweep.shards()
            ]
            yield Step(SCORING, f"weight {weight:g}", tasks, each=self._judging)

    def _judging(self, scored: Task) -> Iterable[Step]:
        ref = PartRef(scored.parts[SCORES.name], scored.id)
        task = self._task(VERDICTS, JUDGE, ref, ref.task_id, num_items=scored.num_items)
        return [Step(JUDGING, "judge", [task])]

    def _task(
        self, table: StoredTable, pool: str, payload: Any, *covers: Any, num_items: int = 0
    ) -> Task:
        of = digest({"table": table.name, **self._sweep.identity(), "covers": list(covers)})
        key = table.part_key(self._sweep, of)
        num_items = num_items or len(payload.texts)
        return Task(of, pool, float(num_items), {table.name: key}, payload, num_items)


class LettersJob(TableJob[LettersSpec, LettersSweep]):
    """See the module."""

    name = "letters"
    spec_type = LettersSpec
    title, question = "Letters", "Which texts consist of common letters?"
    tables = (SCORES, VERDICTS, COUNTS)
    owns = ("scores/", "verdicts/", "counts/", MERGED_KEY)
    marker = "counts/"
    grows: ClassVar[Mapping[str, Growth]] = {"weights": Growth("weights")}
    reasons: ClassVar[Mapping[str, str]] = {"ignore_case": "it decides which letters are the same"}

    def resolve(
        self, spec: LettersSpec, device: str | None, output: TableOutput | None
    ) -> LettersSweep:
        try:
            lines = Path(spec.texts).read_text(encoding="utf-8").splitlines()
        except OSError as error:
            raise UserError(f"texts: {spec.texts} cannot be read: {error.strerror}") from error
        return LettersSweep(spec, {row["id"]: row["text"] for row in map(json.loads, lines)})

    def workflow(self, sweep: LettersSweep, output: TableOutput, files: Files) -> LettersWorkflow:
        return LettersWorkflow(sweep, output, files)

    def summarise(self, output: TableOutput) -> Tables:
        scores = SCORES.read(output.storage).group_by("weight").aggregate(
            [("score", "mean"), ("score", "count")]
        )  # fmt: skip
        verdicts = VERDICTS.read(output.storage).group_by(["weight", "verdict"])
        return {
            "weights": scores.sort_by("weight"),
            "verdicts": verdicts.aggregate([("verdict", "count")]).sort_by("weight"),
        }

    def recompute(
        self, sweep: LettersSweep, output: TableOutput, rows: Sequence[Mapping[str, Any]]
    ) -> Mapping[str, float]:
        every = "".join(letters_of(text, sweep.spec.ignore_case) for text in sweep.texts.values())
        found = {}
        for row in rows:
            text = letters_of(sweep.texts[row["text_id"]], sweep.spec.ignore_case)
            logs = [math.log(every.count(letter) / len(every)) for letter in text]
            wanted = row["weight"] * math.fsum(logs) / len(text)
            found[f"{row['text_id']} at {row['weight']:g}"] = abs(row["score"] - wanted)
        return found

    def shipment(self, spec: LettersSpec) -> Shipment:
        document = {**super().shipment(spec).document, "texts": "texts.jsonl"}
        return Shipment(document, {"texts.jsonl": Path(spec.texts).read_bytes()})
