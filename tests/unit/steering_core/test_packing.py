"""Batches and tree masks against their definitions, by brute force on random rows."""

from __future__ import annotations

import itertools
from dataclasses import replace

import numpy as np
import pytest
import torch

from steering_core.datasets.base import Candidate, ChoiceExample, Contrast
from steering_core.encoding import EncodedCandidate, EncodedExample
from steering_core.packing import Batch, batches, lay_out, tree_mask

LABELS = ("no", "yes", "other")
CONTRAST = Contrast(positive=("yes",), negative=("no",))


def random_rows(num_rows: int, seed: int, *, num_candidates: int = 0) -> list[EncodedExample]:
    """Rows of random lengths; candidates read some positions, shared ones and own ones.

    Args:
        num_candidates: of each row; by default 2 to 26.
    """
    rng = np.random.default_rng(seed)
    rows = []
    for number in range(num_rows):
        num_shared = int(rng.integers(1, 9))
        shared = rng.integers(1, 99, num_shared).tolist()
        candidates = []
        num = num_candidates or int(rng.choice([2, 3, 5, 26]))
        for _ in range(num):
            ids = [*shared, *rng.integers(1, 99, int(rng.integers(1, 7))).tolist()]
            # The shared prefix's last position is read by all three, as the first token is.
            scored = sorted(
                {num_shared - 1, *rng.choice(len(ids), int(rng.integers(1, len(ids)))).tolist()}
            )
            low = int(rng.integers(0, len(ids)))
            candidates.append(
                EncodedCandidate(
                    tuple(ids),
                    tuple(scored),
                    tuple(rng.integers(1, 99, len(scored)).tolist()),
                    (low, int(rng.integers(low + 1, len(ids) + 1))),
                    num_shared,
                    len(ids),
                )
            )
        more = [LABELS[i] for i in rng.integers(0, 3, num - 2)]
        labels = rng.permutation([*LABELS[:2], *more]).tolist()
        example = ChoiceExample(f"id-{number}", "", tuple(Candidate("", text) for text in labels))
        rows.append(EncodedExample(example, num_shared, tuple(candidates), CONTRAST))
    return rows


layouts = pytest.mark.parametrize("is_packed", [True, False], ids=["packed", "separate"])


def place(
    row: EncodedExample, n: int, candidate: int, position: int, is_packed: bool
) -> tuple[int, int]:
    """Where a candidate's position stands in the batch: (sequence, position)."""
    if not is_packed:
        return len(row.candidates) * n + candidate, position
    if position < row.num_shared:
        return n, position
    earlier = sum(len(c.token_ids) - row.num_shared for c in row.candidates[:candidate])
    return n, position + earlier


@layouts
def test_every_token_stands_at_its_place_with_its_own_position(is_packed: bool) -> None:
    rows = random_rows(6, seed=1, num_candidates=0 if is_packed else 4)
    chosen = [4, 0, 5]
    batch = lay_out(rows, chosen, is_packed=is_packed)
    filled = np.zeros(batch.input_ids.shape, bool)
    for n, index in enumerate(chosen):
        row = rows[index]
        for c, candidate in enumerate(row.candidates):
            for position, token in enumerate(candidate.token_ids):
                at = place(row, n, c, position, is_packed)
                assert batch.input_ids[at] == token
                assert batch.position_ids[at] == position
                is_shared = is_packed and position < row.num_shared
                assert batch.branch[at] == (0 if is_shared else c + 1)
                filled[at] = True
    np.testing.assert_array_equal(batch.branch >= 0, filled)
    assert batch.num_tokens == filled.sum()
    assert batch.rows.tolist() == chosen
    assert batch.sequences_per_row == (1 if is_packed else 4)
    repeated = [n for n in range(3) for _ in range(batch.sequences_per_row)]
    assert batch.sequence_row.tolist() == repeated
    # Nothing is wider than its longest row.
    assert filled.any(axis=0).all()


@layouts
@pytest.mark.parametrize("seed", range(5))
def test_scored_tokens_are_read_where_their_candidate_reads_them(
    is_packed: bool, seed: int
) -> None:
    rows = random_rows(7, seed, num_candidates=0 if is_packed else 4)
    chosen = [6, 2, 3, 0]
    batch = lay_out(rows, chosen, is_packed=is_packed)
    width = batch.input_ids.shape[1]
    wanted = [
        (r * width + s, token, batch.num_candidates * n + c)
        for n, index in enumerate(chosen)
        for c, candidate in enumerate(rows[index].candidates)
        for position, token in zip(candidate.scored_positions, candidate.scored_ids, strict=True)
        for r, s in [place(rows[index], n, c, position, is_packed)]
    ]
    found = zip(batch.read_at[batch.token_slot], batch.token_ids, batch.token_owner, strict=True)
    assert sorted(tuple(map(int, entry)) for entry in found) == sorted(wanted)
    assert (np.diff(batch.read_at) > 0).all()
    assert (np.diff(batch.token_slot) >= 0).all()
    assert set(batch.token_slot.tolist()) == set(range(len(batch.read_at)))
    counts = [[len(c.scored_ids) for c in rows[index].candidates] for index in chosen]
    most = max(map(len, counts))
    assert batch.num_scored.tolist() == [[*of, *[0] * (most - len(of))] for of in counts]
    if is_packed:
        assert len(batch.read_at) < len(batch.token_ids)


@layouts
def test_norms_count_real_positions_and_what_candidates_share_once(is_packed: bool) -> None:
    rows = random_rows(4, seed=3, num_candidates=0 if is_packed else 4)
    # As rows are padded for the published protocol: two pads behind the first candidate.
    first, *others = rows[2].candidates
    padded = replace(first, token_ids=(*first.token_ids, 0, 0))
    rows[2] = replace(rows[2], candidates=(padded, *others))
    batch = lay_out(rows, [2, 0], is_packed=is_packed)
    wanted = np.zeros(batch.input_ids.shape, bool)
    for n, index in enumerate([2, 0]):
        row = rows[index]
        for c, candidate in enumerate(row.candidates):
            for position in range(row.num_shared if c else 0, candidate.num_real):
                wanted[place(row, n, c, position, is_packed)] = True
    np.testing.assert_array_equal(batch.has_norm, wanted)
    assert wanted.sum() == rows[2].num_real_positions + rows[0].num_real_positions
    assert rows[2].num_real_positions == rows[2].num_packed_tokens - 2


@layouts
@pytest.mark.parametrize("seed", range(5))
def test_weights_pool_both_states_and_their_difference(is_packed: bool, seed: int) -> None:
    rows = random_rows(5, seed, num_candidates=0 if is_packed else 4)
    batch = lay_out(rows, [3, 1, 4], is_packed=is_packed)
    states = np.random.default_rng(0).normal(size=(*batch.input_ids.shape, 2))
    by_side = np.einsum("lrs,rsd->lrd", batch.pooling_weights, states)
    difference = np.einsum("rs,rsd->rd", batch.difference_weights, states)
    for n, index in enumerate([3, 1, 4]):
        row = rows[index]
        pooled: dict[str, list[np.ndarray]] = {}
        for c, candidate in enumerate(row.candidates):
            span = range(*candidate.pooled)
            places = [place(row, n, c, position, is_packed) for position in span]
            mean = np.mean([states[at] for at in places], axis=0)
            pooled.setdefault(row.example.labels[c], []).append(mean)
        of_row = batch.sequence_row == n
        means = {label: np.mean(of_label, axis=0) for label, of_label in pooled.items()}
        for label, weighted in zip(("no", "yes"), by_side, strict=True):
            found = weighted[of_row].sum(axis=0)
            np.testing.assert_allclose(found, means[label], rtol=0, atol=1e-12)
        wanted = means["yes"] - means["no"]
        found = difference[of_row].sum(axis=0)
        np.testing.assert_allclose(found, wanted, rtol=0, atol=1e-12)


@pytest.mark.parametrize("window", [None, 1, 3, 8, 100])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_tree_mask_is_its_definition(window: int | None, dtype: torch.dtype) -> None:
    batch = lay_out(random_rows(5, seed=3), range(5))
    mask = tree_mask(
        torch.as_tensor(batch.branch), torch.as_tensor(batch.position_ids), dtype, window
    )
    num_rows, width = batch.branch.shape
    assert mask.shape == (num_rows, 1, width, width)
    assert mask.dtype == dtype
    hidden = torch.finfo(dtype).min
    for r, query, key in itertools.product(range(num_rows), range(width), range(width)):
        q_branch, k_branch = batch.branch[r, query], batch.branch[r, key]
        q_at, k_at = batch.position_ids[r, query], batch.position_ids[r, key]
        is_token = q_branch >= 0 and k_branch >= 0
        sees = is_token and k_at <= q_at and k_branch in (0, q_branch)
        if window is not None:
            sees = sees and k_at > q_at - window
        if q_branch < 0 and query != key:
            continue  # nothing is read behind a row's end
        value = float(mask[r, 0, query, key])
        assert value == (0.0 if sees or query == key else hidden)


def test_tree_mask_has_no_row_that_sees_nothing() -> None:
    """An empty softmax is NaN, and NaN in a padded position may reach real ones."""
    batch = lay_out(random_rows(5, seed=3), range(5))
    assert (batch.branch < 0).any()
    branch, positions = torch.as_tensor(batch.branch), torch.as_tensor(batch.position_ids)
    assert (tree_mask(branch, positions, torch.float32, 1) == 0).any(dim=-1).all()


def test_with_one_branch_the_tree_mask_is_causal() -> None:
    positions = torch.arange(6)[None]
    mask = tree_mask(torch.zeros_like(positions), positions, torch.float32)
    assert torch.equal(mask[0, 0] == 0, torch.ones(6, 6).tril().bool())


def size_of(batch: Batch) -> int:
    return int(np.prod(batch.input_ids.shape))


@layouts
@pytest.mark.parametrize("limit", [1, 40, 75, 200, 10**6])
def test_batches_hold_every_row_once_within_the_token_limit(is_packed: bool, limit: int) -> None:
    rows = random_rows(30, seed=4)
    made = list(batches(rows, limit, is_packed=is_packed))
    assert sorted(int(i) for batch in made for i in batch.rows) == list(range(30))
    for batch in made:
        assert size_of(batch) <= limit or len(batch.rows) == 1
        assert batch.is_packed == is_packed
    for per_row in {batch.sequences_per_row for batch in made}:
        widths = [b.input_ids.shape[1] for b in made if b.sequences_per_row == per_row]
        assert widths == sorted(widths, reverse=True)
    # No batch could have taken the next one's longest row too.
    for batch, following in itertools.pairwise(made):
        if batch.sequences_per_row == following.sequences_per_row:
            assert size_of(batch) + size_of(batch) // len(batch.rows) > limit
        assert len(following.rows) > 0
    if limit == 10**6:
        assert len(made) == (1 if is_packed else len({len(row.candidates) for row in rows}))


def test_rows_of_similar_length_stand_together() -> None:
    rows = random_rows(30, seed=4)
    sizes = [rows[int(i)].num_packed_tokens for batch in batches(rows, 75) for i in batch.rows]
    assert sizes == sorted(sizes, reverse=True)


@layouts
def test_batches_depend_on_their_arguments_alone(is_packed: bool) -> None:
    first = list(batches(random_rows(20, seed=5), 90, is_packed=is_packed))
    again = list(batches(random_rows(20, seed=5), 90, is_packed=is_packed))
    assert len(first) == len(again) > 1
    for a, b in zip(first, again, strict=True):
        for name in Batch.__dataclass_fields__:
            np.testing.assert_array_equal(getattr(a, name), getattr(b, name))


def test_no_rows_make_no_batch() -> None:
    assert list(batches([], 100)) == []
