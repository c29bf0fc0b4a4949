"""The scores of a part's answers: a table, wherever the judge is."""

from __future__ import annotations

from collections.abc import Mapping

import pyarrow as pa
import torch

from cluster.parts import read_part
from cluster.storage import Storage, StorageSpec
from jobs.advice import advised
from jobs.persona.judges import Answer, Judgement, JudgeSpec, Scorer, Verdict
from jobs.persona.plan import ScoresPayload
from jobs.persona.tables import SCORES_SCHEMA
from jobs.persona.traits import Trait
from jobs.sweeps.parts import PartRef
from jobs.sweeps.worker import set_up_process
from steering_core.device_check import check_devices
from steering_core.device_settings import device_settings
from steering_core.models import resolve_device
from steersweep.errors import UserError


def score_part(
    storage: Storage, answers: PartRef, trait: Trait, scorer: Scorer
) -> tuple[pa.Table, int]:
    """What a judge says of a part's answers, and how many of its verdicts have failed.

    Raises:
        UserError: the judge cannot go on.
    """
    rows = read_part(storage, answers.key, answers.task_id).to_pylist()
    judged = scorer.score(trait, [Answer(row["question"], row["answer"]) for row in rows])
    table = pa.Table.from_pylist(
        [_row(row["row_id"], of) for row, of in zip(rows, judged, strict=True)],
        schema=SCORES_SCHEMA,
    )
    num_failed = sum(v.outcome == "failed" for of in judged for v in (of.trait, of.coherence))
    return table, num_failed


def judgement(row: Mapping[str, object]) -> Judgement:
    """What a row of the table says."""
    return Judgement(
        Verdict(row["trait_outcome"], row["trait_score"]),  # type: ignore[arg-type]
        Verdict(row["coherence_outcome"], row["coherence"]),  # type: ignore[arg-type]
    )


def _row(row_id: str, judged: Judgement) -> dict[str, object]:
    said = [verdict.said for verdict in (judged.trait, judged.coherence) if verdict.said]
    return {
        "row_id": row_id,
        "trait_score": judged.trait.score,
        "trait_outcome": judged.trait.outcome,
        "coherence": judged.coherence.score,
        "coherence_outcome": judged.coherence.outcome,
        "said": "; ".join(said) or None,
    }


class FailedVerdictsError(Exception):
    """Some queries could not be asked: their answers have no verdict yet."""


class JudgeHere:
    """Asks a judge from the driver, and scores parts of answers (a ``cluster`` worker)."""

    def __init__(self, scorer: Scorer, storage: Storage) -> None:
        self._scorer, self._storage = scorer, storage

    def load(self) -> Mapping[str, str]:
        """Nothing is to be loaded."""
        return {}

    def run(self, payload: ScoresPayload) -> Mapping[str, pa.Table]:
        """The table ``scores`` of the payload's answers.

        Raises:
            FailedVerdictsError: some queries failed; the verdicts on all others are kept.
        """
        table, num_failed = score_part(self._storage, payload.answers, payload.trait, self._scorer)
        if num_failed:
            raise FailedVerdictsError(
                f"{num_failed:,} of {2 * len(table):,} verdicts failed; all others are kept, and "
                "the same command requests these again"
            )
        return {"scores": table}


class JudgeWorker:
    """Holds a judge that is a model, and scores parts of answers (a ``cluster`` worker)."""

    def __init__(
        self,
        *,
        judge: JudgeSpec,
        device: str,
        num_threads: int,
        gpu_share: float,
        storage: StorageSpec,
    ) -> None:
        self._spec, self._device, self._num_threads = judge, device, num_threads
        self._gpu_share = gpu_share
        self._storage = storage.open()
        self._scorer: Scorer | None = None

    @advised()
    def load(self) -> Mapping[str, str]:
        """Load the model once; facts for the log and ``run.json``.

        Raises:
            UserError: the model cannot be loaded.
        """
        if self._scorer is None:
            set_up_process(self._num_threads)
            try:
                judge = self._spec.open([], self._device, self._gpu_share)
                judge.check()
            except UserError as error:
                raise UserError(str(error)) from error
            self._scorer = Scorer(judge)
        settings = device_settings(torch.device(self._device))
        return {"judge": self._spec.kind, "device": self._device, **settings}

    def check_device(self) -> None:
        """Raise if the judge's device no longer computes."""
        check_devices([resolve_device(self._device)])

    def run(self, payload: ScoresPayload) -> Mapping[str, pa.Table]:
        """The table ``scores`` of the payload's answers."""
        assert self._scorer is not None, "not loaded"
        table, _ = score_part(self._storage, payload.answers, payload.trait, self._scorer)
        return {"scores": table}
