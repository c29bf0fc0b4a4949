"""Encoded examples of the shards that a replica has seen lately."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from steering_core.encoding import EncodedExample

MOST_ROWS = 8192
"""Rows that are kept: of StereoSet, twice its development set, about 60 MB."""


class Encodings:
    """Encodes shards, and keeps them for their other tasks: phase 2 has those of phase 1.

    Encoding takes about a millisecond a row, in which an accelerator has nothing to do.

    Args:
        encode: examples in their order, see ``ExampleEncoder.encode``.
        most_rows: kept at most; the shard that was used longest ago goes first.
    """

    def __init__(
        self,
        encode: Callable[[Sequence[Any]], list[EncodedExample]],
        most_rows: int = MOST_ROWS,
    ) -> None:
        self._encode, self._most_rows = encode, most_rows
        self._kept: dict[tuple[Any, ...], list[EncodedExample]] = {}

    def of(self, examples: tuple[Any, ...]) -> list[EncodedExample]:
        """The encoded examples, in the order given.

        Raises:
            UserError: an example that cannot be encoded.
        """
        encoded = self._kept.pop(examples, None)
        if encoded is None:
            encoded = self._encode(examples)
        self._kept[examples] = encoded  # last: used most lately
        while sum(map(len, self._kept)) > self._most_rows and len(self._kept) > 1:
            del self._kept[next(iter(self._kept))]
        return encoded
