"""Which stage of a persona sweep is the first that has not ended, as stages overlap."""

from __future__ import annotations

import pytest

from jobs.persona.index import Group, Parts
from jobs.persona.status import not_there
from jobs.persona.tables import Phase
from jobs.sweeps.parts import PartRef

ONE, TWO = Group("m", "one"), Group("m", "two")
KEYS: list[tuple[Group, Phase]] = [
    (group, phase) for phase in ("contrast", "steered") for group in (ONE, TWO)
]
CONTRAST, STEERED = KEYS[:2], KEYS[2:]
REFS = [PartRef("key", "id")]


def parts(
    answers: list[tuple[Group, Phase]],
    scores: list[tuple[Group, Phase]],
    vectors: list[Group],
    projections: list[tuple[Group, Phase]],
) -> Parts:
    return Parts(
        num_rows=dict.fromkeys(KEYS, 4),
        answers=dict.fromkeys(answers, REFS),
        scores=dict.fromkeys(scores, REFS),
        vectors=dict.fromkeys(vectors, "key"),
        projections=dict.fromkeys(projections, REFS),
    )


@pytest.mark.parametrize(
    ("found", "missing"),
    [
        (Parts(), "answers"),
        (parts(CONTRAST[:1], CONTRAST[:1], [ONE], []), "answers"),
        (parts(CONTRAST, CONTRAST[:1], [ONE], []), "judgements of contrast answers"),
        (parts(CONTRAST, CONTRAST, [ONE], []), "vectors"),
        (parts(KEYS[:3], KEYS[:3], [ONE, TWO], KEYS[:3]), "steered answers or their judgements"),
        (parts(KEYS, KEYS[:3], [ONE, TWO], KEYS), "steered answers or their judgements"),
        (parts(KEYS, KEYS, [ONE, TWO], KEYS[:3]), "projections"),
        (parts(KEYS, KEYS, [ONE, TWO], KEYS), ""),
    ],
)
def test_the_first_stage_that_some_group_lacks_is_missing(found: Parts, missing: str) -> None:
    assert not_there(found) == missing


def test_a_trait_that_brings_its_vectors_has_no_contrast() -> None:
    brought = Parts(num_rows={STEERED[0]: 4}, vectors={ONE: "key"})
    assert not_there(brought) == "steered answers or their judgements"
