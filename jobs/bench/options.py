"""Checks that the benches' options have in common."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Protocol, TypeVar

from steersweep.errors import UserError

_Number = TypeVar("_Number", int, float)


class Options(Protocol):
    """What every bench is told."""

    @property
    def coeffs(self) -> tuple[float, ...]:
        """Coefficients at each layer."""

    @property
    def json(self) -> str | None:
        """File for the results."""


def check_options(options: Options, at_least: Mapping[str, int]) -> None:
    """Raise UserError for no coefficients, a file without a folder, or too small a number.

    Args:
        at_least: least value of each option named; one that is None is chosen by the bench.
    """
    for name, least in at_least.items():
        value = getattr(options, name)
        if value is not None and value < least:
            raise UserError(f"--{name.replace('_', '-')} must be at least {least}, got {value}")
    if not options.coeffs:
        raise UserError("--coeffs needs at least one coefficient")
    if options.json is not None:
        folder = Path(options.json).expanduser().parent
        if not folder.is_dir():
            raise UserError(f"--json-file {options.json}: the folder {folder} does not exist")


def check_one_model(shape: str | None, model: str | None) -> None:
    """Raise UserError where both are given."""
    if shape is not None and model is not None:
        raise UserError("give --shape or --model, not both")


def numbers(text: str, of: Callable[[str], _Number], option: str) -> tuple[_Number, ...]:
    """The numbers of ``1,3,5``; raises UserError for anything else, naming the option."""
    try:
        return tuple(of(part) for part in text.split(","))
    except ValueError:
        raise UserError(f"{option} takes numbers separated by commas, got {text!r}") from None
