"""Checks some rows of each task on the slow path, in the replica that computed them."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass

import numpy as np

from jobs.spec import CertificateSpec
from jobs.sweeps.certificate import TaskCertificate, judged
from steering_core.certificate import Certificate, RowName, draw, tolerance_for
from steering_core.encoding import EncodedExample
from steering_core.engine import Arm, Scores
from steering_core.models import LoadedModel
from steering_core.pooled import PooledStates
from steering_core.protocol import Protocol
from steering_core.scoring import Measure
from steering_core.slow_engine import SlowEngine


@dataclass(frozen=True)
class TaskRows:
    """The rows of a task, as both engines take them.

    Attributes:
        task_id: decides which rows are checked.
        place: what names them in messages, pairs of axis and value.
    """

    task_id: str
    place: tuple[tuple[str, str], ...]
    encoded: Sequence[EncodedExample]


class Certifier:
    """Holds the engine against the slow path, task by task.

    Args:
        name: the model's, for messages.
        measures: what the engine measures of steered rows beside scores.
    """

    def __init__(
        self,
        model: LoadedModel,
        protocol: Protocol,
        spec: CertificateSpec,
        name: str,
        measures: Collection[Measure] = (),
    ) -> None:
        self._slow = SlowEngine(model, protocol, measures)
        self._spec, self._name = spec, name
        self._dtype = str(model.dtype).removeprefix("torch.")
        self._tolerance = tolerance_for(
            self._dtype, None if spec.tolerance == "auto" else spec.tolerance
        )

    def baseline(
        self, rows: TaskRows, scores: Scores, pooled: PooledStates
    ) -> tuple[Scores, PooledStates, TaskCertificate | None]:
        """What is to be stored of phase 1: what came in, or the slow path's; and its certificate.

        Raises:
            StopRunError: past the tolerance, where the spec says stop.
        """
        chosen = draw(rows.task_id, len(rows.encoded), self._spec.rows_per_task)
        if not chosen:
            return scores, pooled, None
        encoded = [rows.encoded[row] for row in chosen]
        wanted = [self._slow.row_scores(row) for row in encoded]
        found = [
            Certificate.of_scores(
                [_name(rows, row) for row in chosen],
                [scores.of_row(row) for row in chosen],
                wanted,
                self._tolerance,
            )
        ]
        if pooled.layers:
            index = draw(f"{rows.task_id}/layer", len(pooled.layers), 1)[0]
            for row in chosen:
                found += self._pooled(rows, pooled, index, row)
        certificate = self._judged(Certificate.joined(found))
        if certificate.path == "reference":
            scores, pooled = self._slow.baseline(rows.encoded, pooled.layers)
        return scores, pooled, certificate

    def _pooled(
        self, rows: TaskRows, pooled: PooledStates, index: int, row: int
    ) -> list[Certificate]:
        """The row's difference, both of its states and its stream's mean norm at one layer."""
        encoded = rows.encoded[row]
        layer, num_positions = pooled.layers[index], encoded.num_real_positions
        states = self._slow.row_states(encoded, [layer])[:, 0]
        pairs = [
            (pooled.differences[index, row], states[1] - states[0]),
            (pooled.states[:, index, row].ravel(), states.ravel()),
        ]
        norm_1, wanted_1 = (
            totals / num_positions
            for totals in (
                pooled.stream_norms[index, [row]],
                self._slow.row_norms(encoded, [layer]),
            )
        )
        name = _name(rows, row, layer)
        return [
            *(Certificate.of_pooled(name, *pair, self._tolerance) for pair in pairs),
            Certificate.of_pooled(name, norm_1, wanted_1, self._tolerance, "stream_norm"),
        ]

    def steered(
        self, rows: TaskRows, arms: Sequence[Arm], scores: list[list[Scores]]
    ) -> tuple[list[list[Scores]], TaskCertificate | None]:
        """What is to be stored of phase 2, and its certificate; see ``baseline``.

        Args:
            arms: with vectors that were read anew from storage, so that stale ones in memory show.
            scores: of each cell of each arm.
        """
        steps = [
            (arm, cell, of_cell)
            for arm, of_arm in zip(arms, scores, strict=True)
            for cell, of_cell in zip(arm.cells, of_arm, strict=True)
        ]
        num_rows = len(rows.encoded)
        chosen = draw(rows.task_id, num_rows * len(steps), self._spec.rows_per_task)
        if not chosen:
            return scores, None
        pairs = [(*steps[number // num_rows], number % num_rows) for number in chosen]
        wanted, wanted_kl = zip(
            *(
                self._slow.row_measured(rows.encoded[row], cell, arm.vectors, arm.folds[row])
                for arm, cell, _, row in pairs
            ),
            strict=True,
        )
        names = [_name(rows, row, cell.layer, cell.coeff) for _, cell, _, row in pairs]
        found = [of_cell.of_row(row) for _, _, of_cell, row in pairs]
        certificates = [Certificate.of_scores(names, found, wanted, self._tolerance)]
        kl = [of_cell.kl[row] for _, _, of_cell, row in pairs if of_cell.kl is not None]
        if kl:
            certificates.append(
                Certificate.of_kl(names, np.asarray(kl), np.asarray(wanted_kl), self._tolerance)
            )
        certificate = self._judged(Certificate.joined(certificates))
        if certificate.path == "reference":
            scores = [
                self._slow.steered(rows.encoded, arm.cells, arm.vectors, arm.folds) for arm in arms
            ]
        return scores, certificate

    def _judged(self, found: Certificate) -> TaskCertificate:
        return judged(found, self._spec, self._dtype, self._tolerance, self._name)


def _name(
    rows: TaskRows, row: int, layer: int | None = None, coeff: float | None = None
) -> RowName:
    return RowName(rows.encoded[row].example.example_id, rows.place, layer, coeff)
