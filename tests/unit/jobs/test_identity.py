"""Digests of descriptions: what changes them, what does not."""

from __future__ import annotations

from decimal import Decimal
from hashlib import sha256
from typing import Any

import pytest

from jobs import identity
from jobs.identity import changed_keys, decimal_text, digest, float_text

DESCRIPTION: dict[str, Any] = {
    "model": "abc",
    "coeffs": [Decimal("0.1"), Decimal("400")],
    "layers": (1, 2),
    "nested": {"limit": None, "seed": 0, "is_packed": True},
}


def test_digest_of_a_known_description_is_pinned() -> None:
    """A change here makes every finished part unusable: raise IDENTITY_VERSION with it."""
    assert identity.IDENTITY_VERSION == 1
    assert digest(DESCRIPTION) == "36c3d7a2d47faf90ce35dac2db4eb58a0ac078e3f4edb12d92d4399930b026e1"


def test_equal_content_gives_equal_digests() -> None:
    backwards = {key: DESCRIPTION[key] for key in reversed(DESCRIPTION)}
    assert digest(backwards) == digest(DESCRIPTION)
    assert digest({**DESCRIPTION, "layers": [1, 2]}) == digest(DESCRIPTION)
    respelled = {**DESCRIPTION, "coeffs": [Decimal("0.10"), Decimal("4E+2")]}
    assert digest(respelled) == digest(DESCRIPTION)


@pytest.mark.parametrize(
    "change",
    [
        {"model": "abd"},
        {"layers": [2, 1]},
        {"layers": [1]},
        {"coeffs": [Decimal("0.1"), Decimal("401")]},
        {"nested": {"limit": 0, "seed": 0, "is_packed": True}},
        {"nested": {"limit": None, "seed": 1, "is_packed": True}},
        {"nested": {"limit": None, "seed": 0, "is_packed": False}},
        {"extra": None},
    ],
    ids=str,
)
def test_any_other_content_gives_another_digest(change: dict[str, Any]) -> None:
    assert digest({**DESCRIPTION, **change}) != digest(DESCRIPTION)


def test_a_newer_identity_version_gives_other_digests(monkeypatch: pytest.MonkeyPatch) -> None:
    before = digest(DESCRIPTION)
    monkeypatch.setattr(identity, "IDENTITY_VERSION", 2)
    assert digest(DESCRIPTION) != before


def test_minus_zero_is_zero() -> None:
    assert digest({"x": -0.0}) == digest({"x": 0.0})
    assert digest({"x": Decimal("-0")}) == digest({"x": Decimal("0.00")})


@pytest.mark.parametrize("kind", [float, Decimal])
@pytest.mark.parametrize("value", ["nan", "inf", "-inf"])
def test_a_number_that_is_not_finite_has_no_digest(value: str, kind: Any) -> None:
    with pytest.raises(ValueError):
        digest({"nested": [kind(value)]})


def test_callers_description_is_not_changed() -> None:
    description = {"x": [-0.0, Decimal("4E+2")]}
    digest(description)
    assert str(description) == "{'x': [-0.0, Decimal('4E+2')]}"


@pytest.mark.parametrize(
    ("value", "text"),
    [
        ("400", "400"),
        ("4E2", "400"),
        ("400.0", "400"),
        ("0.1", "0.1"),
        ("0.10", "0.1"),
        ("1E-7", "0.0000001"),
        ("-3", "-3"),
        ("-0", "0"),
        ("0E+5", "0"),
        ("1e30", "1" + "0" * 30),
    ],
)
def test_each_number_has_one_spelling(value: str, text: str) -> None:
    assert decimal_text(Decimal(value)) == text
    assert Decimal(text) == Decimal(value)


def test_changed_keys_lists_both_values_of_each_key_that_differs() -> None:
    old, new = "0123456789abcdef" * 4, "fedcba9876543210" * 4
    before = {"same": 1, "protocol": "aligned", "weights": old, "gone": 2}
    after = {"same": 1, "protocol": "as_published", "weights": new, "added": [3]}
    assert changed_keys(before, after) == [
        "added: None -> [3]",
        "gone: 2 -> None",
        "protocol: aligned -> as_published",
        f"weights: {old[:12]} -> {new[:12]}",
    ]
    assert changed_keys(before, dict(before)) == []


def test_only_digests_are_shortened() -> None:
    long_path = "/models/" + "x" * 56
    assert changed_keys({"path": long_path}, {"path": "y"}) == [f"path: {long_path} -> y"]


def test_long_texts_are_told_apart_by_their_digest() -> None:
    template = "{{ bos_token }}" * 100
    (change,) = changed_keys({"template": template}, {"template": template + "x"})
    assert change == (
        "template: 1,500 characters with SHA-256 "
        f"{sha256(template.encode()).hexdigest()[:12]} -> 1,501 characters with SHA-256 "
        f"{sha256((template + 'x').encode()).hexdigest()[:12]}"
    )


@pytest.mark.parametrize(
    ("value", "text"),
    [(400.0, "400"), (-3.0, "-3"), (-0.0, "0"), (0.1, "0.1"), (1e-7, "0.0000001"),
     (1.0000001, "1.0000001"), (1e22, "1" + "0" * 22)],
)  # fmt: skip
def test_the_text_of_a_float_names_it_alone(value: float, text: str) -> None:
    assert float_text(value) == text
    assert float(float_text(value)) == value
