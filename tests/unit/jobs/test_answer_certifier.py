"""What becomes of a task whose answers are not those of the plain forward pass."""

from __future__ import annotations

import logging
from dataclasses import replace
from typing import Any

import pytest

from jobs.persona import certifier as certifier_module
from jobs.persona.certifier import AnswerCertifier
from jobs.spec import CertificateSpec
from steering_core.generation import Generated, generate
from steering_core.reference_generation import reference_generate
from steering_core.sampling import Sampling
from steersweep.errors import StopRunError
from tests.support.generation import VOCAB, model_of, row_of

SAMPLING = Sampling(max_new_tokens=6, eos_ids=(1,), greedy=True, temperature=1.0, top_p=1.0)
ROWS = [row_of(number, "all") for number in range(4)]
IDS = [f"row-{number}" for number in range(4)]
TASK = "task"


@pytest.fixture(scope="module")
def written() -> list[Generated]:
    return generate(model_of("llama"), ROWS, SAMPLING, rows_at_once=4)


@pytest.fixture(scope="module")
def wrong(written: list[Generated]) -> list[Generated]:
    """The same with one wrong token in the middle of each answer."""
    return [
        replace(answer, token_ids=(*ids[:2], (ids[2] + 7) % (VOCAB - 3) + 3, *ids[3:]))
        for answer in written
        for ids in [answer.token_ids]
    ]


def certifier(rows_per_task: int = 2, **options: Any) -> AnswerCertifier:
    spec = CertificateSpec(rows_per_task=rows_per_task, **options)
    return AnswerCertifier(model_of("llama"), SAMPLING, spec, "tiny")


def test_answers_that_hold_are_stored_as_they_are(written: list[Generated]) -> None:
    stored, certificate = certifier().checked(TASK, IDS, ROWS, written)
    assert stored is written
    assert certificate is not None
    assert certificate.found.holds
    assert not certificate.is_broken
    assert (certificate.path, certificate.dtype) == ("engine", "float32")
    assert certificate.found.num_rows_checked == 2


def test_nothing_is_checked_if_the_spec_says_so(wrong: list[Generated]) -> None:
    assert certifier(0).checked(TASK, IDS, ROWS, wrong) == (wrong, None)


def test_as_many_answers_as_the_spec_says_are_drawn_by_the_task(
    written: list[Generated], monkeypatch: pytest.MonkeyPatch
) -> None:
    checked: list[Any] = []
    real = certifier_module.check_answer

    def noting(model: Any, row: Any, answer: Any, sampling: Any) -> Any:
        checked.append(ROWS.index(row))
        assert answer is written[checked[-1]]
        return real(model, row, answer, sampling)

    monkeypatch.setattr(certifier_module, "check_answer", noting)
    drawn = set()
    for number in range(12):
        checked.clear()
        certifier(1).checked(f"task {number}", IDS, ROWS, written)
        assert len(checked) == 1
        drawn.add(checked[0])
    assert len(drawn) > 1, "another task, other rows"
    checked.clear()
    certifier(100).checked(TASK, IDS, ROWS, written)
    assert sorted(checked) == [0, 1, 2, 3]


def test_a_wrong_token_makes_the_reference_write_all_answers_of_the_task(
    wrong: list[Generated], caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING):
        stored, certificate = certifier(1, on_failure="fall_back").checked(TASK, IDS, ROWS, wrong)
    reference = [reference_generate(model_of("llama"), row, SAMPLING) for row in ROWS]
    assert [answer.token_ids for answer in stored] == [r.token_ids for r in reference]
    assert all(a.token_ids != w.token_ids for a, w in zip(stored, wrong, strict=True))
    assert certificate is not None
    assert not certificate.found.holds
    assert certificate.path == "reference"
    assert not certificate.is_broken, "what is stored is right"
    assert "tiny: the fast path is inaccurate here" in caplog.text


def test_one_wrong_answer_among_right_ones_is_enough(
    written: list[Generated], wrong: list[Generated]
) -> None:
    mixed = [*written[:3], wrong[3]]
    _, certificate = certifier(4, on_failure="warn").checked(TASK, IDS, ROWS, mixed)
    assert certificate is not None
    assert not certificate.found.holds
    worst = certificate.found.worst
    assert worst is not None
    assert "row-3" in str(worst)


def test_stop_ends_the_run(wrong: list[Generated]) -> None:
    with pytest.raises(StopRunError, match=r"tiny: the fast path .*on_failure: fall_back"):
        certifier(on_failure="stop").checked(TASK, IDS, ROWS, wrong)


def test_warn_keeps_the_answers_and_says_that_they_are_broken(
    wrong: list[Generated], caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING):
        stored, certificate = certifier(on_failure="warn").checked(TASK, IDS, ROWS, wrong)
    assert stored is wrong
    assert certificate is not None
    assert certificate.path == "engine"
    assert certificate.is_broken
    assert "on_failure: warn" in caplog.text
