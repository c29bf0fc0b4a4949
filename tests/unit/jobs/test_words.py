"""Numbers as a person would write them."""

from __future__ import annotations

import pytest

from jobs.page.words import MINUS, PERCENT, typeset
from jobs.words import coefficient, count, duration, p_value, percent, rate, signed


@pytest.mark.parametrize(
    ("seconds", "wanted"),
    [
        (0, "0 s"),
        (5e-5, "less than 0.01 s"),
        (4.21, "4.2 s"),
        (9.97, "10 s"),
        (59.7, "1 min"),
        (450, "7 min 30 s"),
        (599.8, "10 min"),
        (1200, "20 min"),
        (3599, "1 h"),
        (9960, "2 h 46 min"),
        (7500, "2 h 05 min"),
        (200_000, "2 d 08 h"),
        (float("inf"), "an unknown time"),
    ],
)
def test_a_duration_has_at_most_two_units(seconds: float, wanted: str) -> None:
    assert duration(seconds) == wanted


@pytest.mark.parametrize(
    ("per_s", "wanted"),
    [
        (0.25, "0.25 rows/s"),
        (2.13, "2.1 rows/s"),
        (9.97, "10 rows/s"),
        (1234.4, "1,234 rows/s"),
        (0.0002, "0.72 rows/h"),
        (0.009, "32 rows/h"),
    ],
)
def test_a_rate_is_never_rounded_to_zero(per_s: float, wanted: str) -> None:
    assert rate(per_s) == wanted


@pytest.mark.parametrize(
    ("part", "whole", "wanted"),
    [
        (8, 2520, "0.3 %"),
        (1, 100_000, "<0.1 %"),
        (99_999, 100_000, "99.9 %"),
        (0, 5, "0 %"),
        (5, 5, "100 %"),
        (0, 0, "100 %"),
    ],
)
def test_a_share_is_whole_only_if_it_is(part: int, whole: int, wanted: str) -> None:
    assert percent(part, whole) == wanted


@pytest.mark.parametrize(
    ("value", "wanted"),
    [
        (0.0124, "+0.012"),
        (-9.9994, "-9.999"),
        (-9.9996, "-10.00"),
        (123.44, "+123.4"),
        (-12345.6, "-12,346"),
        (-0.0001, "0.000"),
    ],
)
def test_an_estimate_keeps_its_width(value: float, wanted: str) -> None:
    assert signed(value) == wanted


def test_coefficients_that_differ_read_differently() -> None:
    shown = [coefficient(value) for value in (1.0, 1.0000001, 1.0000002, -3.0, 0.5, 400.0)]
    assert shown == ["1", "1.0000001", "1.0000002", "-3", "0.5", "400"]


def test_a_page_has_minus_signs_where_a_console_has_hyphens() -> None:
    text = "gemma-2, coefficient -3: 95 % interval -1.5 to +2.0"
    wanted = f"gemma-2, coefficient {MINUS}3: 95{PERCENT} interval {MINUS}1.5 to +2.0"
    assert typeset(text) == wanted


def test_nouns_agree_with_their_number() -> None:
    assert [count(number, "row") for number in (0, 1, 2520)] == ["0 rows", "1 row", "2,520 rows"]


def test_a_p_value_is_never_shown_as_zero() -> None:
    assert [p_value(p) for p in (0.0, 0.00099, 0.001, 0.0416, 1.0)] == [
        "<0.001",
        "<0.001",
        "0.001",
        "0.042",
        "1.000",
    ]
