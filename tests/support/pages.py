"""Summaries with chosen numbers, and pages of them, for tests and for a look by eye."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from itertools import product
from typing import Any

import numpy as np
import pyarrow as pa

from jobs.stereoset.differences import DIFFERENCES_SCHEMA
from jobs.stereoset.geometry import GEOMETRY_SCHEMA
from jobs.stereoset.null_tests import NULL_TESTS_SCHEMA
from jobs.stereoset.page.facts import Facts
from jobs.stereoset.summary import Summary
from jobs.stereoset.summary_tables import (
    BASELINE_SCHEMA,
    DOSE_RESPONSE_SCHEMA,
    FINDINGS_SCHEMA,
    HEADLINE_SCHEMA,
    cells_schema,
    nulls_schema,
)
from steering_core.quantities import FLOW_PAIRS, TESTED
from steering_core.stereoset import BIAS_TYPES, OFFICIAL_COUNTS, SPLITS


def cell(
    model: str = "base",
    split: str = "all",
    bias_type: str = "all",
    layer: int | None = None,
    coeff: float = 20.0,
    **numbers: Any,
) -> dict[str, Any]:
    """A row of ``cells`` or ``pooled`` in which nothing has changed, but for the numbers given.

    A number is a value, whose interval is then itself, or (value, low, high).
    """
    row: dict[str, Any] = dict.fromkeys(cells_schema().names, 0.0)
    row |= {"model": model, "split": split, "bias_type": bias_type, "layer": layer, "coeff": coeff}
    row |= {"num_examples": 100, "num_terms": 20, "num_non_finite": 0, "few_terms": False}
    row |= {f"{name}{end}": None for name in TESTED for end in ("_p", "_q")}
    row |= {f"kl{end}": None for end in ("", "_low", "_high")}  # few sweeps measure it
    row["dose"] = None  # as in outputs of earlier versions
    for name, number in numbers.items():
        if isinstance(number, tuple):
            row |= dict(zip((name, f"{name}_low", f"{name}_high"), number, strict=True))
        elif f"{name}_low" in row:
            row |= {name: number, f"{name}_low": number, f"{name}_high": number}
        else:
            row[name] = number
    return row


def summary_of(
    cells: Iterable[dict[str, Any]] = (),
    pooled: Iterable[dict[str, Any]] = (),
    baseline: Iterable[dict[str, Any]] = (),
    of_nulls: Iterable[dict[str, Any]] = (),
    geometry: Iterable[dict[str, Any]] = (),
    headline: Iterable[dict[str, Any]] = (),
    findings: Iterable[dict[str, Any]] = (),
    dose_response: Iterable[dict[str, Any]] = (),
    held_out: Iterable[dict[str, Any]] = (),
    held_out_pooled: Iterable[dict[str, Any]] = (),
    null_tests: Iterable[dict[str, Any]] = (),
    differences: Iterable[dict[str, Any]] = (),
    num_missing: int = 0,
    vectors: str = "held_out",
    has_intent: bool = True,
) -> Summary:
    """A summary of these rows."""
    return Summary(
        vectors=vectors,
        has_intent=has_intent,
        differences=pa.Table.from_pylist(list(differences), schema=DIFFERENCES_SCHEMA),
        held_out=pa.Table.from_pylist(list(held_out), schema=cells_schema()),
        held_out_pooled=pa.Table.from_pylist(list(held_out_pooled), schema=cells_schema()),
        null_tests=pa.Table.from_pylist(list(null_tests), schema=NULL_TESTS_SCHEMA),
        findings=pa.Table.from_pylist(list(findings), schema=FINDINGS_SCHEMA),
        cells=pa.Table.from_pylist(list(cells), schema=cells_schema()),
        pooled=pa.Table.from_pylist(list(pooled), schema=cells_schema()),
        headline=pa.Table.from_pylist(list(headline), schema=HEADLINE_SCHEMA),
        nulls=pa.Table.from_pylist(list(of_nulls), schema=nulls_schema()),
        geometry=pa.Table.from_pylist(list(geometry), schema=GEOMETRY_SCHEMA),
        baseline=pa.Table.from_pylist(list(baseline), schema=BASELINE_SCHEMA),
        dose_response=pa.Table.from_pylist(list(dose_response), schema=DOSE_RESPONSE_SCHEMA),
        num_missing=num_missing,
    )


def record_of(**spec: Any) -> dict[str, Any]:
    """What ``run.json`` holds of a small run, with keys of its spec changed."""
    return {
        "spec": {
            "job": "stereoset",
            "models": {"base": {"path": "google/gemma-2-2b", "revision": None, "dtype": "auto"}},
            "data": {"path": "dev.json", "splits": ["a"], "bias_types": ["b"]}
            | {"limit": None, "seed": 0},
            "protocol": "aligned",
            "vectors": {"pooling": "candidate", "read": "resid_post", "folds": 5},
            "steering": {"layers": [1], "coeffs": ["0.1", "400"]}
            | {"apply": "resid_post", "positions": "all"},
            "scoring": "aligned",
            **spec,
        },
        "identity": {"data (content)": "0123456789abcdef0123", "models.base (weights)": "fedcba"},
        "started": "2026-11-22T08:00:00+00:00",
        "sessions": [
            {"started": "2026-11-22T08:00:00+00:00", "ended": "2026-11-22T09:00:00+00:00"}
            | {"host": "node", "device": "cuda", "versions": {"torch": "2.13"}}
        ],
    }


def facts_of(summary: Summary, record: dict[str, Any], **changes: Any) -> Facts:
    """A finished run with this summary, whose certificate holds."""
    models = {row["model"] for row in summary.cells.to_pylist()}
    certified = {
        "verdict": "holds",
        "tolerance": 0.1,
        "num_tasks": 64,
        "num_tasks_checked": 64,
        "num_tasks_fell_back": 0,
        "num_rows_checked": 128,
        "largest_difference": 0.0312,
        "num_changed_choices": 0,
        "worst_row": None,
    }
    content = {"overall": certified, "models": dict.fromkeys(sorted(models), certified)}
    return Facts(
        **{
            "summary": summary,
            "record": record,
            "certificate": content,
            "num_tasks": 128,
            "num_tasks_done": 128,
            "num_rows_done": 274_885,
            "incomplete": (),
            "without_baseline": (),
            "non_finite": (),
            "set_aside": (),
            "made": datetime(2026, 11, 22, 9, 0, tzinfo=UTC),
            **changes,
        }
    )


def synthetic(models: Sequence[str], layers: Sequence[int], coeffs: Sequence[float]) -> Summary:
    """The whole development set with plausible numbers: side effects outgrow what is intended."""
    random = np.random.default_rng(0)
    cells, pooled = [], []
    splits, bias_types = (*SPLITS, "all"), (*BIAS_TYPES, "all")
    for model, split, bias, layer, coeff in product(
        models, splits, bias_types, (*layers, None), coeffs
    ):
        num = sum(
            OFFICIAL_COUNTS[s][b]
            for s, b in product(SPLITS, BIAS_TYPES)
            if split in (s, "all") and bias in (b, "all")
        )
        depth = 0.5 if layer is None else layer / max(layers)
        is_cell = "all" not in (split, bias) and layer is not None
        strength = math.copysign(math.log1p(abs(coeff)), coeff) * (1.2 - depth)
        row = _drawn(random, strength, num, 0.6 if model == models[-1] else 1.0, is_cell)
        place = cell(model, split, bias, layer, coeff, **row) | {"num_examples": num}
        (cells if is_cell else pooled).append(place)
    baseline = [
        {"model": model, "split": split, "bias_type": bias, "num_non_finite": 0}
        | {"num_examples": OFFICIAL_COUNTS[split][bias]}
        | _triples(
            {"lms": 91.0, "ss": 62.0, "icat": 69.2, "share_stereotype": 0.55}
            | {"share_anti_stereotype": 0.33, "share_unrelated": 0.12},
            1 / math.sqrt(OFFICIAL_COUNTS[split][bias]),
        )
        for model, split, bias in product(models, SPLITS, BIAS_TYPES)
    ]
    return summary_of(cells, pooled, baseline)


def _drawn(
    random: np.random.Generator, strength: float, num: int, share: float, is_cell: bool
) -> dict[str, Any]:
    width = 1.0 / math.sqrt(num)
    noise = random.normal(0, width / 2, 12)
    u2a = 0.06 * strength * share + noise[0]
    s2u = 0.02 * strength + noise[1]
    flows = {
        "flow_s2a": 0.015 * strength + noise[2] / 2,
        "flow_u2a": 0.03 * strength + noise[3] / 2,
    }
    flows |= {"flow_s2u": 0.008 * strength * share + noise[4] / 2}
    lms_change = -1.6 * abs(strength) * share + 20 * noise[5]
    moved = dict(
        zip(FLOW_PAIRS, (0.5, 0.04, 0.02, 0.02, 0.28, 0.02, 0.02, 0.03, 0.07), strict=True)
    )
    moved |= {"s_a": max(0, moved["a_s"] + flows["flow_s2a"])}
    moved |= {"u_a": max(0, moved["a_u"] + flows["flow_u2a"])}
    moved |= {"s_u": max(0, moved["u_s"] + flows["flow_s2u"])}
    total = sum(moved.values())
    row: dict[str, Any] = _triples({"s2a": u2a + s2u, "u2a": u2a, "s2u": s2u}, 2 * width)
    row |= _triples(flows, 1.5 * width)
    row |= _triples({f"flow_{pair}": value / total for pair, value in moved.items()}, width)
    row |= _triples({"lms": 91 + lms_change, "ss": 62 - 3 * strength, "icat": 66 - strength}, 2)
    row |= _triples(
        {"lms_change": lms_change, "ss_change": -3 * strength, "icat_change": -strength}, 60 * width
    )
    for name in ("flow_s2a", "flow_u2a", "flow_s2u") if is_cell else ():
        row[f"{name}_p"] = row[f"{name}_q"] = float(math.exp(-abs(flows[name]) / width))
    return row


def _triples(numbers: dict[str, float], width: float) -> dict[str, float]:
    return {
        f"{name}{end}": value + step * width
        for name, value in numbers.items()
        for end, step in (("", 0), ("_low", -1), ("_high", 1))
    }
