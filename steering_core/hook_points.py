"""Places in the residual stream: a block's number (0-based) and the site before or after it."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal, get_args

from steering_core.errors import InputError

Site = Literal["resid_pre", "resid_post"]
SITES: tuple[Site, ...] = get_args(Site)

_TEXT = re.compile(r"blocks\.(\d+)\.(resid_pre|resid_post)")


@dataclass(frozen=True, slots=True, order=True)
class HookPoint:
    """The residual stream entering (``resid_pre``) or leaving (``resid_post``) a block.

    ``resid_post`` of the last block is before the final norm, as in TransformerLens.
    """

    block: int
    site: Site

    def __str__(self) -> str:
        return f"blocks.{self.block}.{self.site}"

    @property
    def stream(self) -> int:
        """Index 0..N of the stream: s is what block s reads, N what the last block leaves."""
        return self.block + (self.site == "resid_post")

    @classmethod
    def parse(cls, text: str) -> HookPoint:
        """The hook point written as ``blocks.4.resid_post``; raises InputError otherwise."""
        match = _TEXT.fullmatch(text)
        if match is None:
            raise InputError(
                f"hook point {text!r} is not of the form blocks.<block>.<{'|'.join(SITES)}>"
            )
        site: Site = "resid_pre" if match[2] == "resid_pre" else "resid_post"
        return cls(int(match[1]), site)


def check_layers(layers: tuple[int, ...], num_blocks: int, model: str) -> None:
    """Raise InputError unless every layer (1-based hidden-state number) is in 1..num_blocks."""
    for layer in layers:
        if not 1 <= layer <= num_blocks:
            raise InputError(f"layer must be in 1..{num_blocks} for {model}, got {layer}")


def hook_point_of_layer(layer: int, site: Site) -> HookPoint:
    """The hook point that a spec's 1-based ``layer`` means at block ``layer - 1``."""
    if layer < 1:
        raise InputError(f"layer must be at least 1, got {layer}")
    return HookPoint(layer - 1, site)
