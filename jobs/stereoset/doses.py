"""Rows of ``summary/dose_response``: the share of examples that follow the coefficient."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from jobs.stereoset.summary_keys import POOLED, SummaryKey
from jobs.stereoset.summary_sums import GroupSums
from jobs.stereoset.summary_tables import FEW_TERMS
from steering_core.dose_response import DOSE_SUMS, monotone_shares
from steering_core.stats.clusters import Cluster

_Place = tuple[str, str, int | None]
"""Split, bias type and layer of a row; ``POOLED``, or None for the layer, if it is pooled."""


def dose_rows(
    groups: Sequence[GroupSums], planned: Mapping[SummaryKey, int], vectors: str
) -> list[dict[str, Any]]:
    """A row for each layer of a group, and pooled, of a model's complete cells.

    Only where there are two coefficients or more.

    Args:
        planned: what the summary has a row for, see ``summary_keys``.
        vectors: what steered: ``in_sample``, ``held_out`` or ``file``.
    """
    coeffs: dict[tuple[str, str], dict[int, set[float]]] = {}
    for key in planned:
        if key.is_cell and key.layer is not None:
            of_group = coeffs.setdefault((key.split, key.bias_type), {})
            of_group.setdefault(key.layer, set()).add(key.coeff)
    there = {(group.split, group.bias_type): group for group in groups}
    places = sorted({(k.split, k.bias_type, k.layer) for k in planned}, key=_order)
    rows = []
    for place in places:
        split, bias_type, layer = place
        wanted = {
            key: sorted(of_group if layer is None else of_group.keys() & {layer})
            for key, of_group in coeffs.items()
            if split in (key[0], POOLED) and bias_type in (key[1], POOLED)
        }
        is_complete = all(
            key in there
            and layer in there[key].doses
            and there[key].doses[layer].coeffs == coeffs[key][layer]
            for key, layers in wanted.items()
            for layer in layers
        )
        if is_complete and any(wanted.values()):
            chosen = [(there[key], layers) for key, layers in wanted.items()]
            rows.append(_row(place, chosen, vectors))
    return rows


def _row(
    place: _Place, chosen: Sequence[tuple[GroupSums, Sequence[int]]], vectors: str
) -> dict[str, Any]:
    split, bias_type, layer = place
    num_layers = max(len(layers) for _, layers in chosen)
    sums = dict(_sums(chosen))
    shares = monotone_shares(sums, num_layers)
    num_examples = sum(group.num_examples for group, _ in chosen)
    num_rows = sum(group.num_examples * len(layers) for group, layers in chosen)
    num_finite = sum(float(of_terms[:, 0].sum()) for _, of_terms in sums.values())
    num_terms = sum(len(clusters) for clusters, _ in sums.values())
    ends = ("", "_low", "_high")
    return {
        "split": split,
        "bias_type": bias_type,
        "layer": layer,
        "vectors": vectors,
        "num_points": max(g.doses[layer].num_points for g, layers in chosen for layer in layers),
        "num_examples": num_examples,
        "num_terms": num_terms,
        "num_non_finite": num_rows - int(num_finite),
        "few_terms": num_terms < FEW_TERMS,
        **{
            f"{name}{end}": None if np.isnan(number) else number
            for name, numbers in shares.items()
            for end, number in zip(ends, numbers, strict=True)
        },
    }


def _sums(
    chosen: Sequence[tuple[GroupSums, Sequence[int]]],
) -> Iterator[tuple[str, tuple[tuple[Cluster, ...], np.ndarray]]]:
    """By bias type, its terms and their sums [K, E]; terms of several splits are the same."""
    for name in sorted({group.bias_type for group, _ in chosen}):
        of_name = [(group, layers) for group, layers in chosen if group.bias_type == name]
        terms = sorted({term for group, _ in of_name for term in group.terms})
        of_terms = np.zeros((len(terms), len(DOSE_SUMS)))
        for group, layers in of_name:
            at = [terms.index(term) for term in group.terms]
            for layer in layers:
                of_terms[at] += group.doses[layer].sums
        yield name, (tuple(Cluster(name, term) for term in terms), of_terms)


def _order(place: _Place) -> tuple[str, str, int]:
    split, bias_type, layer = place
    return split, bias_type, layer or 0
