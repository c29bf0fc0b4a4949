"""How all pages write numbers, counts and lists."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from jobs.identity import float_text

MINUS = "\N{MINUS SIGN}"
PERCENT = "\N{NO-BREAK SPACE}%"
DASH = "\N{EN DASH}"
"""Written for a number that is missing."""


def number(value: float, digits: int) -> str:
    """With thousands separators and a real minus sign; never -0."""
    text = f"{value:,.{digits}f}"
    if not text.strip("-0.,"):
        text = text.removeprefix("-")
    return text.replace("-", MINUS)


def counted(num: int, noun: str) -> str:
    """``1 cell``, ``2 cells``."""
    return f"{num:,} {noun}{'' if num == 1 else 's'}"


def coefficient(value: float) -> str:
    """A coefficient with every digit that it has, and a real minus sign."""
    return float_text(value).replace("-", MINUS)


def enumerated(texts: Sequence[Any]) -> str:
    """``a, b and c``."""
    *most, last = map(str, texts)
    return f"{', '.join(most)} and {last}" if most else last


def typeset(text: str) -> str:
    """A console's text as a page has it: real minus signs, and no line break before a %."""
    return re.sub(r"(?<!\S)-(?=\d)", MINUS, text.replace(" %", PERCENT))


def largest_of(num: int, noun: str = "cell") -> str:
    """What must stand next to a number that was picked for being the largest of several."""
    return f"the largest of {num:,} {noun}s, so likely overstated"
