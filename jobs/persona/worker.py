"""What a replica computes: one chat model; answers, sums of their states, projections."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa

from cluster.parts import read_part
from jobs.advice import advised
from jobs.persona.certifier import AnswerCertifier
from jobs.persona.measuring import PROTOCOL
from jobs.persona.plan import (
    AnswersPayload,
    Asked,
    ProjectionsPayload,
    SumsPayload,
    hook_point,
)
from jobs.persona.spec import POOLINGS, GenerationSpec
from jobs.persona.tables import ANSWERS_SCHEMA, PROJECTIONS_SCHEMA, SUMS_SCHEMA
from jobs.scoring.rows import RowFormat
from jobs.scoring.set_scorer import Payload as ScoringPayload
from jobs.scoring.set_scorer import scorers_of
from jobs.spec import CertificateSpec, ComputeSpec
from jobs.sweeps.parts import PartRef
from jobs.sweeps.worker import ModelWorker
from steering_core.generation import Generated, GenerationRow, generate
from steering_core.generation_probe import slots_problem
from steering_core.interventions import Intervention
from steering_core.models import LoadedModel
from steering_core.projections import projections
from steering_core.reference_generation import reference_generate
from steering_core.response_states import AnsweredPrompt, ResponseStates, collect_response_states
from steering_core.sampling import Sampling, eos_ids_of
from steering_core.vectors import SteeringVectors
from steersweep.errors import UserError

_TOKENS_PER_BATCH = {"cpu": 2048}
_TOKENS_ON_ACCELERATOR = 16_384

Payload = AnswersPayload | SumsPayload | ProjectionsPayload | ScoringPayload


def states_batch_tokens(compute: ComputeSpec, device_type: str) -> int:
    """Positions of a forward that reads states, as the spec says."""
    given = compute.tokens_per_batch
    return _auto_tokens(device_type) if given == "auto" else given


def _auto_tokens(device_type: str) -> int:
    return _TOKENS_PER_BATCH.get(device_type, _TOKENS_ON_ACCELERATOR)


def generation_row(asked: Asked, vectors: SteeringVectors | None) -> GenerationRow:
    """How an answer is written.

    Args:
        vectors: that steer it; None if nothing does.
    """
    steering = None
    if vectors is not None and asked.layer is not None and asked.coeff is not None:
        vector = vectors.whole[asked.layer]
        steering = Intervention(hook_point(asked.layer), vector, asked.coeff)
    return GenerationRow(
        prompt_ids=asked.prompt_ids,
        seed=asked.seed,
        steering=steering,
        positions=asked.positions or "all",
    )


def sampling_of(
    spec: GenerationSpec, model: LoadedModel, tokenizer: Any, eos_ids: tuple[int, ...]
) -> Sampling:
    """How tokens are chosen, as the spec says.

    Args:
        eos_ids: tokens that end an answer, as the plan read them.

    Raises:
        UserError: the loaded model ends its answers with other tokens.
    """
    loaded = eos_ids_of(model.module, tokenizer)
    if loaded != eos_ids:
        # Tasks are named after what the plan read: answers that end otherwise are not theirs.
        raise UserError(
            f"{model.name} ends answers with the tokens {list(loaded)}, but the driver read "
            f"{list(eos_ids)} from its files; give every node the same model files and "
            "transformers version"
        )
    return Sampling(
        max_new_tokens=spec.max_new_tokens,
        eos_ids=eos_ids,
        greedy=spec.greedy,
        temperature=spec.temperature,
        top_p=spec.top_p,
    )


class PersonaWorker(ModelWorker):
    """Holds one chat model and turns payloads into tables (a ``cluster`` worker)."""

    def __init__(
        self,
        *,
        eos_ids: tuple[int, ...],
        generation: GenerationSpec,
        certificate: CertificateSpec,
        tokens_per_batch: int | None,
        sets: Mapping[str, RowFormat[Any]] | None = None,
        **model: Any,
    ) -> None:
        """Nothing is loaded yet.

        Args:
            sets: how the rows of each data set of side effects are encoded and stored, by name.
            model: as ``ModelWorker`` takes it.
        """
        super().__init__(**model)
        self._eos_ids, self._spec = eos_ids, generation
        self._certificate_spec = certificate
        self._tokens = tokens_per_batch
        self._forms = sets or {}

    def prepare(self) -> Mapping[str, str]:
        """See ``ModelWorker``."""
        problem = slots_problem(self.model)
        self._in_slots, why = problem is None, f"{self.source.path}: {problem}"
        self._sampling = sampling_of(self._spec, self.model, self.tokenizer, self._eos_ids)
        self._certifier = AnswerCertifier(
            self.model, self._sampling, self._certificate_spec, self.source.path
        )
        self._tokens = self._tokens or _auto_tokens(self.model.device.type)
        sets = {name: (form, PROTOCOL) for name, form in self._forms.items()}
        self._scorers = scorers_of(self, sets, self._certificate_spec)
        return {"answers": "in slots" if problem is None else f"one at a time ({why})"}

    @advised()
    def run(self, payload: Payload) -> Mapping[str, pa.Table]:
        """The table that the payload names.

        Raises:
            UserError: a prompt that the model cannot take, or vectors that are not those of the
                plan.
        """
        if isinstance(payload, AnswersPayload):
            return {"answers": self._answers(payload)}
        if isinstance(payload, SumsPayload):
            return {"sums": self._sums(payload)}
        if isinstance(payload, ProjectionsPayload):
            return {"projections": self._projections(payload)}
        return self._scored(payload)

    def _scored(self, payload: ScoringPayload) -> Mapping[str, pa.Table]:
        scorer = self._scorers[payload.set]
        rows, tokens = scorer.rows(payload), payload.tokens_per_batch
        assert tokens is not None, "planned with a number"
        if payload.cells:
            return scorer.steered(payload, rows, tokens, self)
        return scorer.unsteered(payload, rows, tokens, self.dtype)

    def _answers(self, payload: AnswersPayload) -> pa.Table:
        vectors = None if payload.vectors is None else self.vectors(payload.vectors)
        rows = [generation_row(asked, vectors) for asked in payload.rows]
        written, certificate = self._certifier.checked(
            payload.task_id,
            [asked.row_id for asked in payload.rows],
            rows,
            self._generate(rows),
        )
        table = pa.Table.from_pylist(
            [
                {
                    "row_id": asked.row_id,
                    "question_index": asked.question_index,
                    "question": asked.question,
                    "rollout": asked.rollout,
                    "instruction": asked.instruction,
                    "polarity": asked.polarity,
                    "system": asked.system,
                    "layer": asked.layer,
                    "coeff": asked.coeff,
                    "positions": asked.positions,
                    "apply": asked.apply,
                    "prompt_ids": list(row.prompt_ids),
                    "answer_ids": list(answer.token_ids),
                    "answer": self.tokenizer.decode(answer.token_ids, skip_special_tokens=True),
                    "ended_by": answer.ended_by,
                    "task_id": payload.task_id,
                }
                for asked, row, answer in zip(payload.rows, rows, written, strict=True)
            ],
            schema=ANSWERS_SCHEMA,
        )
        return table if certificate is None else certificate.attached_to(table)

    def _generate(self, rows: Sequence[GenerationRow]) -> list[Generated]:
        if self._in_slots:
            at_once = self._spec.num_slots(self.model.device.type)
            return generate(self.model, rows, self._sampling, rows_at_once=at_once)
        return [reference_generate(self.model, row, self._sampling) for row in rows]

    def _sums(self, payload: SumsPayload) -> pa.Table:
        answers = self._read(payload.answers)
        kept = set(payload.kept)
        rows = [row for row in answers if row["row_id"] in kept]
        states = self._states(rows)
        polarity = np.asarray([rows[number]["polarity"] for number in states.kept])
        return pa.Table.from_pylist(
            [
                {
                    "polarity": sign,
                    "pooling": pooling,
                    "layer": layer + 1,
                    "num_answers": int((polarity == sign).sum()),
                    "total": getattr(states, pooling)[polarity == sign, layer].sum(axis=0),
                }
                for sign in sorted(set(polarity))
                for pooling in POOLINGS
                for layer in range(self.model.layout.num_blocks)
            ],
            schema=SUMS_SCHEMA,
        )

    def _projections(self, payload: ProjectionsPayload) -> pa.Table:
        rows = self._read(payload.answers)
        states = self._states(rows)
        ids = [rows[number]["row_id"] for number in states.kept]
        norms = np.linalg.norm(states.response_mean, axis=-1)
        tables = []
        for trait, pooling, stored in payload.vectors:
            vectors = self.vectors(stored)
            for layer, vector in sorted(vectors.whole.items()):
                along = projections(states.response_mean[:, layer - 1], vector)
                columns = {
                    "row_id": ids,
                    "vector": [trait] * len(ids),
                    "pooling": [pooling] * len(ids),
                    "at_layer": [layer] * len(ids),
                    "response_mean": along,
                    "prompt_last": projections(states.prompt_last[:, layer - 1], vector),
                    "cosine": along / norms[:, layer - 1],
                }
                tables.append(pa.table(columns, schema=PROJECTIONS_SCHEMA))
        return pa.concat_tables([PROJECTIONS_SCHEMA.empty_table(), *tables]).combine_chunks()

    def _states(self, rows: Sequence[Mapping[str, Any]]) -> ResponseStates:
        assert self._tokens is not None, "not loaded"
        answered = [AnsweredPrompt(tuple(r["prompt_ids"]), tuple(r["answer_ids"])) for r in rows]
        return collect_response_states(self.model, answered, self._tokens)

    def _read(self, part: PartRef) -> list[dict[str, Any]]:
        rows: list[dict[str, Any]] = read_part(self.storage, part.key, part.task_id).to_pylist()
        return rows
