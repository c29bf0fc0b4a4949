"""Checks some answers of each task against the plain forward pass, in their own replica."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from jobs.spec import CertificateSpec
from jobs.sweeps.certificate import TaskCertificate, judged
from steering_core.answer_check import check_answer
from steering_core.certificate import AnswerName, Certificate, Tolerance, draw
from steering_core.generation import Generated, GenerationRow
from steering_core.models import LoadedModel
from steering_core.reference_generation import reference_generate
from steering_core.sampling import Sampling

_TOLERANCES = {"float32": 1e-4}
_TOLERANCE_OF_HALF_PRECISION = 0.05


def answer_tolerance(dtype: str, given: float | Literal["auto"] = "auto") -> float:
    """The largest change of a token's probability that counts as rounding.

    Args:
        given: ``certificate.tolerance`` of the spec.
    """
    return _TOLERANCES.get(dtype, _TOLERANCE_OF_HALF_PRECISION) if given == "auto" else given


class AnswerCertifier:
    """Holds answers against one plain forward each, with a hook, without cache or batch.

    Args:
        name: the model's, for messages.
    """

    def __init__(
        self, model: LoadedModel, sampling: Sampling, spec: CertificateSpec, name: str
    ) -> None:
        self._model, self._sampling, self._spec, self._name = model, sampling, spec, name
        self._dtype = str(model.dtype).removeprefix("torch.")
        self._tolerance = answer_tolerance(self._dtype, spec.tolerance)

    def checked(
        self,
        task_id: str,
        row_ids: Sequence[str],
        rows: Sequence[GenerationRow],
        written: list[Generated],
    ) -> tuple[list[Generated], TaskCertificate | None]:
        """The answers that are to be stored: what came in, or the slow path's; and the certificate.

        Args:
            task_id: decides which answers are checked.

        Raises:
            StopRunError: past the tolerance, if the spec says stop.
        """
        chosen = draw(task_id, len(rows), self._spec.rows_per_task)
        if not chosen:
            return written, None
        found = Certificate.joined(
            self._certificate(row_ids[n], rows[n], written[n]) for n in chosen
        )
        tolerance = Tolerance(score=self._tolerance, pooled=self._tolerance)
        certificate = judged(found, self._spec, self._dtype, tolerance, self._name)
        if certificate.path == "reference":
            written = [reference_generate(self._model, row, self._sampling) for row in rows]
        return written, certificate

    def _certificate(self, row_id: str, row: GenerationRow, answer: Generated) -> Certificate:
        check = check_answer(self._model, row, answer, self._sampling)
        name = AnswerName(row_id)
        return Certificate.of_answer(name, check.num_other, check.furthest, self._tolerance)
