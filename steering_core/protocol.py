"""What a sweep computes: the published notebook's method, the paper's text, or a mixture."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np

from steering_core.hook_points import HookPoint, Site, hook_point_of_layer
from steering_core.interventions import Intervention, Positions

ProtocolName = Literal["as_published", "aligned"]
Pooling = Literal["all_positions", "candidate", "candidate_last"]
Scoring = Literal["as_published", "aligned"]


@dataclass(frozen=True, slots=True)
class Protocol:
    """The keys that decide the numbers of a StereoSet sweep (DESIGN: table of protocols).

    Attributes:
        read: site of block ``layer - 1`` where states are pooled.
        apply: site of block ``layer - 1`` that is steered.
        operation: what is done there with vector and coefficient (``interventions.intervene``).
        pooling: ``all_positions``: mean over every position of the right-padded row of three
            sequences (BOS, question, candidate, pads); ``candidate``: mean over the candidate's
            own tokens; ``candidate_last``: the last of these, as contrastive activation addition
            takes it (Rimsky et al. 2024).
        scoring: ``as_published``: the candidate encoded alone with BOS, token k read at position
            ``q - 1 + k``; ``aligned``: the continuation in context, read where it is predicted.
        positions: which positions are steered; ``all``: every one, pads too.
        folds: 1 for vectors from the rows they steer; more for cross-fitting by target term, in at
            most so many folds.
    """

    read: Site = "resid_post"
    apply: Site = "resid_pre"
    pooling: Pooling = "all_positions"
    scoring: Scoring = "as_published"
    positions: Positions = "all"
    operation: str = "add"
    folds: int = 1

    def read_at(self, layer: int) -> HookPoint:
        """Where the states of a 1-based ``layer`` are read."""
        return hook_point_of_layer(layer, self.read)

    def apply_at(self, layer: int) -> HookPoint:
        """Where the vector of a 1-based ``layer`` is added."""
        return hook_point_of_layer(layer, self.apply)

    def intervention(self, layer: int, coeff: float, vector: np.ndarray) -> Intervention:
        """What a 1-based ``layer`` and a coefficient do with a vector [D] float32."""
        return Intervention(
            point=self.apply_at(layer),
            vector=vector,
            coeff=coeff,
            operation=self.operation,
            positions=self.positions,
        )

    @property
    def leaves_prefix_alone(self) -> bool:
        """Whether the question's states, but for its last token's, are never steered."""
        return self.positions in ("candidate", "last")

    @property
    def needs_pad(self) -> bool:
        """Whether rows are right-padded to their longest sequence, as the notebook pads them."""
        return self.pooling == "all_positions" or self.scoring == "as_published"

    @property
    def needs_bos(self) -> bool:
        """Whether candidates are encoded alone behind a BOS token."""
        return self.scoring == "as_published"


PROTOCOLS: dict[ProtocolName, Protocol] = {
    "as_published": Protocol(),
    "aligned": Protocol(
        apply="resid_post", pooling="candidate", scoring="aligned", positions="all", folds=5
    ),
}
