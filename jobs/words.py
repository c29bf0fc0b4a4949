"""Numbers as a person would write them: durations, rates, shares, signed estimates."""

from __future__ import annotations

import math
from datetime import UTC, datetime

_MINUTE_S, _HOUR_S, _DAY_S = 60, 3600, 86_400
_SMALLEST_P = 0.001


def duration(seconds: float) -> str:
    """A time in at most two units: ``4.2 s``, ``42 s``, ``7 min 30 s``, ``20 min``, ``2 h 46 min``.

    Seconds are left out from ten minutes on, minutes from two days on.
    """
    if not math.isfinite(seconds):
        return "an unknown time"
    if 0 < seconds < 0.01:
        return "less than 0.01 s"
    if seconds < 9.95:
        return f"{seconds:.2g} s" if seconds >= 1 else f"{round(seconds, 2):g} s"
    whole_s = round(seconds)
    if whole_s < _MINUTE_S:
        return f"{whole_s} s"
    if whole_s < 10 * _MINUTE_S:
        return _two_units(whole_s, _MINUTE_S, "min", "s")
    whole_min = round(seconds / _MINUTE_S)
    if whole_min < 60:
        return f"{whole_min} min"
    if whole_min < 48 * 60:
        return _two_units(whole_min, 60, "h", "min")
    return _two_units(round(seconds / _HOUR_S), 24, "d", "h")


def rate(per_s: float, unit: str = "rows") -> str:
    """How many per second, or per hour if that is very few: ``179 rows/s``, ``0.25 rows/s``."""
    if per_s <= 0:
        return f"0 {unit}/s"
    if per_s < 0.01:
        return f"{_two_digits(per_s * _HOUR_S)} {unit}/h"
    return f"{_two_digits(per_s)} {unit}/s"


def percent(part: float, whole: float) -> str:
    """A share: ``40.0 %``; ``100 %`` and ``0 %`` only if it is exactly that."""
    if whole <= 0 or part >= whole:
        return "100 %"
    if part <= 0:
        return "0 %"
    share = 100 * part / whole
    if share < 0.1:
        return "<0.1 %"
    return f"{min(share, 99.9):.1f} %"


def signed(value: float) -> str:
    """An estimate in six characters: ``+0.012``, ``-12.34``, ``+123.4``."""
    if abs(value) < 0.0005:
        return "0.000"
    for limit, digits in ((9.9995, 3), (99.995, 2), (999.95, 1)):
        if abs(value) < limit:
            return f"{value:+.{digits}f}"
    return f"{value:+,.0f}"


def p_value(p: float) -> str:
    """A p-value with three digits: ``0.042``, ``<0.001``."""
    return f"{p:.3f}" if p >= _SMALLEST_P else f"<{_SMALLEST_P}"


def coefficient(value: float) -> str:
    """The shortest decimal text that gives the same float64: ``400``, ``-3``, ``0.5``."""
    return str(int(value)) if value == int(value) and abs(value) < 1e15 else repr(float(value))


def count(number: int, noun: str, plural: str | None = None) -> str:
    """``1 layer``, ``2,520 layers``."""
    return f"{number:,} {noun if number == 1 else plural or noun + 's'}"


def moment(iso: str) -> str:
    """A stored time in words: ``2026-11-30 at 11:57 UTC``."""
    return f"{datetime.fromisoformat(iso).astimezone(UTC):%Y-%m-%d at %H:%M} UTC"


def _two_units(number: int, per_large: int, large: str, small: str) -> str:
    many, rest = divmod(number, per_large)
    return f"{many} {large} {rest:02} {small}" if rest else f"{many} {large}"


def _two_digits(number: float) -> str:
    return f"{number:,.0f}" if number >= 9.95 else f"{number:.2g}"
