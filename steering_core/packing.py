"""Batches of rows as token arrays, either packed as trees or as separate sequences.

Shapes: N rows in a batch, R sequences, S positions, T scored tokens, M distinct positions read.

Packed, a row is one sequence (R = N): a shared prefix of P tokens, then a branch for each
candidate::

    position in row   0 .. P-1   P ..       ..         ..
    branch            0          1          2          3 ..     -1 behind the row's end
    position id       0 .. P-1   P, P+1 ..  P, P+1 ..  P, P+1 ..

A position sees the prefix and its own branch up to itself, so each branch computes what the whole
sequence would have computed. Rows of one batch may have different numbers of candidates.

Separate, a row is a sequence for each of its C candidates (R = C N), each with its prefix; rows of
one batch then have the same number of candidates.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from steering_core.encoding import EncodedExample
from steering_core.interventions import Positions
from steering_core.pooled import NUM_SIDES


@dataclass(frozen=True)
class Batch:
    """Rows of a task laid out for one forward pass; arrays on the host.

    Attributes:
        rows: [N] indices of the rows in the task.
        sequence_row: [R] index into ``rows`` that a sequence belongs to.
        input_ids, position_ids, branch: [R, S] int64; branch is -1 behind a sequence's end.
        num_question: [R, S] int64; question tokens of the sequence that a position belongs to.
        is_packed: whether sequences are trees, which need ``tree_mask`` and ``position_ids``.
        read_at: [M] flat positions ``r * S + s`` whose logits are needed, ascending, distinct.
        token_ids: [T] scored token ids, ordered by where they are read.
        token_slot: [T] index into ``read_at`` for each scored token, ascending.
        token_owner: [T] ``C * n + candidate`` that a scored token belongs to.
        num_scored: [N, C] scored tokens of each candidate; 0 if a row has fewer candidates than C.
        pooling_weights: [2, R, S] float64, by ``EncodedExample.sides``; summed over a row's
            sequences, states times these are its pooled negative and positive states.
        has_norm: [R, S] bool; positions whose state counts in the norm of a row's stream: its
            tokens without pads, and what its candidates share once.
        is_static: whether it was filled up to a shape that others share (``buckets.filled``). R
            and M then count copies of the last row and positions that no token is read at; behind
            the scored tokens that have an owner stand others, which have none.
    """

    rows: np.ndarray
    sequence_row: np.ndarray
    input_ids: np.ndarray
    position_ids: np.ndarray
    branch: np.ndarray
    num_question: np.ndarray
    is_packed: bool
    read_at: np.ndarray
    token_ids: np.ndarray
    token_slot: np.ndarray
    token_owner: np.ndarray
    num_scored: np.ndarray
    pooling_weights: np.ndarray
    has_norm: np.ndarray
    is_static: bool = False

    @property
    def difference_weights(self) -> np.ndarray:
        """Weights [R, S] float64 of pooled positive minus pooled negative states."""
        weights_RS: np.ndarray = self.pooling_weights[1] - self.pooling_weights[0]
        return weights_RS

    @property
    def num_candidates(self) -> int:
        """C: candidates of the row that has most of them."""
        return int(self.num_scored.shape[1])

    @property
    def sequences_per_row(self) -> int:
        """Sequences that a row is laid out as."""
        return 1 if self.is_packed else self.num_candidates

    @property
    def num_tokens(self) -> int:
        """Positions that hold a token of a row; the rest of R * S is padding."""
        num_sequences = len(self.rows) * self.sequences_per_row
        return int((self.branch[:num_sequences] >= 0).sum())

    @property
    def num_places(self) -> int:
        """Rows that it has room for: those that it holds, or more where it was filled."""
        return len(self.input_ids) // self.sequences_per_row

    @property
    def longest(self) -> int:
        """Positions of its longest sequence, or the most that one of its shape can have."""
        return self.input_ids.shape[1] if self.is_static else int(self.position_ids.max()) + 1

    def steered_at(self, positions: Positions) -> np.ndarray:
        """Which positions [R, S] bool a steering of these positions touches."""
        at, end = self.position_ids, self.num_question
        steered: np.ndarray = {
            "all": np.ones_like(at, bool),
            "question": at < end,
            "candidate": at >= end,
            "last": at == end - 1,
        }[positions]
        return steered


def num_sequences(row: EncodedExample, *, is_packed: bool) -> int:
    """Sequences that a row is laid out as."""
    return 1 if is_packed else len(row.candidates)


def width_of(row: EncodedExample, *, is_packed: bool) -> int:
    """Positions of a row's longest sequence."""
    return row.num_packed_tokens if is_packed else row.num_tokens


def room_behind(num_positions: int, width: int) -> int:
    """Positions that a fork of a static batch computes: half of its width, or all of it."""
    return width // 2 if num_positions <= width // 2 else width


def batches(
    rows: Sequence[EncodedExample], tokens_per_batch: int, *, is_packed: bool = True
) -> Iterator[Batch]:
    """Rows in batches of at most ``tokens_per_batch`` positions, similar lengths together.

    Depends on the arguments alone. A row longer than the limit gets a batch of its own.
    """
    widths = [width_of(row, is_packed=is_packed) for row in rows]
    counts = [num_sequences(row, is_packed=is_packed) for row in rows]
    for group in group_rows(counts, widths, tokens_per_batch):
        yield lay_out(rows, group, is_packed=is_packed)


def group_rows(
    counts: Sequence[int], widths: Sequence[int], tokens_per_batch: int
) -> Iterator[list[int]]:
    """Indices of the rows of each batch; see ``batches``.

    Args:
        counts: sequences that each row is laid out as: the same for all rows of a batch, so that
            a row's sequences are found by its number.
        widths: positions of each row's sequences.
    """
    for count in sorted(set(counts), reverse=True):
        rows = [row for row, of_row in enumerate(counts) if of_row == count]
        for group in group_by_size([count * widths[row] for row in rows], tokens_per_batch):
            yield [rows[index] for index in group]


def group_by_size(sizes: Sequence[int], tokens_per_batch: int) -> Iterator[list[int]]:
    """Indices of the rows of each batch, of rows of these sizes; see ``batches``."""
    group: list[int] = []
    for row in sorted(range(len(sizes)), key=lambda r: (-sizes[r], r)):
        # Rows come longest first, so the group's first row sets the width of its batch.
        if group and (len(group) + 1) * sizes[group[0]] > tokens_per_batch:
            yield group
            group = []
        group.append(row)
    if group:
        yield group


def lay_out(
    examples: Sequence[EncodedExample], rows: Sequence[int], *, is_packed: bool = True
) -> Batch:
    """The batch of the examples with these indices."""
    chosen = [examples[row] for row in rows]
    most = max(len(e.candidates) for e in chosen)
    per_row = 1 if is_packed else most
    assert is_packed or all(len(e.candidates) == most for e in chosen), "rows of different shapes"
    width = max(width_of(e, is_packed=is_packed) for e in chosen)
    shape = (per_row * len(chosen), width)
    input_ids, position_ids = np.zeros(shape, np.int64), np.zeros(shape, np.int64)
    num_question = np.zeros(shape, np.int64)
    branch, weights = np.full(shape, -1, np.int64), np.zeros((NUM_SIDES, *shape))
    has_norm = np.zeros(shape, bool)
    num_scored = np.zeros((len(chosen), most), np.int64)
    read, tokens, owners = [], [], []
    for n, example in enumerate(chosen):
        shared = example.num_shared if is_packed else 0
        end = shared
        sides = example.sides
        for c, candidate in enumerate(example.candidates):
            ids = np.asarray(candidate.token_ids)
            r = n if is_packed else most * n + c
            start, end = (end, end + len(ids) - shared) if is_packed else (0, len(ids))
            at = np.concatenate([np.arange(shared), np.arange(start, end)])
            input_ids[r, at] = ids
            position_ids[r, at] = np.arange(len(ids))
            num_question[r, at] = candidate.num_question
            branch[r, :shared], branch[r, start:end] = 0, c + 1
            has_norm[r, at[0 if c == 0 else example.num_shared : candidate.num_real]] = True
            low, high = candidate.pooled
            for side, members in enumerate(sides):
                if c in members:
                    # Added, not set: two candidates of a side may share positions of the prefix.
                    weights[side, r, at[low:high]] += 1.0 / (len(members) * (high - low))
            read.append(r * width + at[list(candidate.scored_positions)])
            tokens.append(np.asarray(candidate.scored_ids))
            owners.append(np.full(len(tokens[-1]), most * n + c))
            num_scored[n, c] = len(tokens[-1])
    read_at, slot = np.unique(np.concatenate(read), return_inverse=True)
    order = np.argsort(slot, kind="stable")
    return Batch(
        rows=np.asarray(rows),
        sequence_row=np.repeat(np.arange(len(chosen)), per_row),
        input_ids=input_ids,
        position_ids=position_ids,
        branch=branch,
        num_question=num_question,
        is_packed=is_packed,
        read_at=read_at,
        token_ids=np.concatenate(tokens)[order],
        token_slot=slot[order],
        token_owner=np.concatenate(owners)[order],
        num_scored=num_scored,
        pooling_weights=weights,
        has_norm=has_norm,
    )


def tree_mask(
    branch_RS: Tensor, position_RS: Tensor, dtype: torch.dtype, window: int | None = None
) -> Tensor:
    """Additive attention mask [R, 1, S, S]: 0 where a query sees a key, the dtype's minimum else.

    Args:
        window: sliding window in tokens; a query at position p sees keys at positions > p - window.
    """
    query_branch, key_branch = branch_RS[:, :, None], branch_RS[:, None, :]
    query_at, key_at = position_RS[:, :, None], position_RS[:, None, :]
    seen = (key_at <= query_at) & ((key_branch == 0) | (key_branch == query_branch))
    if window is not None:
        seen &= key_at > query_at - window
    # Positions behind a row's end see themselves: a row of the softmax must not be empty.
    seen |= torch.eye(seen.shape[-1], dtype=torch.bool, device=seen.device)
    mask = torch.zeros(seen.shape, dtype=dtype, device=seen.device)
    return mask.masked_fill_(~seen, torch.finfo(dtype).min)[:, None]
