"""Places in a model where states are read and changed: a block's number (0-based) and a site.

::

    resid_pre --+--> attention --> attn_out --+--> MLP --> mlp_out --+--> resid_post
                |                             |                      |
                +-----------------------------+----------------------+   (residual stream)
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal, get_args

from steersweep.errors import UserError

Site = Literal["resid_pre", "attn_out", "mlp_out", "resid_post"]
SITES: tuple[Site, ...] = get_args(Site)

_TEXT = re.compile(rf"blocks\.(\d+)\.({'|'.join(SITES)})")


@dataclass(frozen=True, slots=True)
class HookPoint:
    """A place in a block; points are in the order in which a forward pass comes to them.

    ``resid_pre`` and ``resid_post`` are the residual stream entering and leaving the block;
    ``attn_out`` and ``mlp_out`` are what attention and MLP add to it, behind any norm or factor of
    their own, as in TransformerLens. ``resid_post`` of the last block is before the final norm.
    """

    block: int
    site: Site

    def __str__(self) -> str:
        return f"blocks.{self.block}.{self.site}"

    def __lt__(self, other: HookPoint) -> bool:
        return (self.block, SITES.index(self.site)) < (other.block, SITES.index(other.site))

    @property
    def stream(self) -> int:
        """Index 0..N of the last stream that a change here leaves alone, or changes itself.

        s is what block s reads, N what the last block leaves.
        """
        return self.block + (self.site == "resid_post")

    @classmethod
    def parse(cls, text: str) -> HookPoint:
        """The hook point written as ``blocks.4.resid_post``; raises UserError otherwise."""
        match = _TEXT.fullmatch(text)
        if match is None:
            raise UserError(
                f"hook point {text!r} is not of the form blocks.<block>.<{'|'.join(SITES)}>"
            )
        site = next(site for site in SITES if site == match[2])
        return cls(int(match[1]), site)


def check_layers(layers: tuple[int, ...], num_blocks: int, model: str) -> None:
    """Raise UserError unless every layer (1-based hidden-state number) is in 1..num_blocks."""
    for layer in layers:
        if not 1 <= layer <= num_blocks:
            raise UserError(f"layer must be in 1..{num_blocks} for {model}, got {layer}")


def hook_point_of_layer(layer: int, site: Site) -> HookPoint:
    """The hook point that a spec's 1-based ``layer`` means at block ``layer - 1``."""
    if layer < 1:
        raise UserError(f"layer must be at least 1, got {layer}")
    return HookPoint(layer - 1, site)
