"""Made-up tables of side effects with known effects, for tests and for a look by eye."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import product
from typing import Any

import numpy as np
import pyarrow as pa

from jobs.side_effects.tables import (
    MEASURES_SCHEMA,
    fidelity_schema,
    picked_schema,
    prompt_matches_schema,
    side_effects_schema,
)

AXES = ("split", "bias_type")
TOGETHER, ALONE = 3.4, 2.0
"""Half widths of intervals in standard errors."""

Row = dict[str, Any]
KEYS = ("set", "group", "metric")


def measure(
    kind: str, of_set: str, group: str, metric: str, label: str, unit: str, better: str = ""
) -> Row:
    """A row of ``measures``."""
    formula = f"mean of {label} over examples"
    return {
        "kind": kind,
        "set": of_set,
        "group": group,
        "metric": metric,
        "in_matrix": True,
        "label": label,
        "unit": unit,
        "better": better,
        "formula": formula,
        "source": "Somebody 2024",
    }


def measures(groups: Sequence[str] = ("gender", "race"), num_sets: int = 0) -> list[Row]:
    """The target, three of the same data, one of each group, and other data sets."""
    return [
        measure("target", "data", "", "s2a", "shift S→A", "nats"),
        measure("own", "data", "", "lms", "LMS", "percent", "higher"),
        measure("own", "data", "", "u2a", "shift U→A", "nats"),
        measure("own", "data", "", "changed", "changed choices", "share"),
        *(
            measure("transfer", "data", f"intersentence/{name}", "s2a", "shift S→A", "nats")
            for name in groups
        ),
        measure("bias", "crows_pairs", "", "pct_stereotype", "more stereotypical chosen", "share"),
        *(
            measure("bias", f"bbq_{n}" if n else "bbq_religion", "", *of)
            for n in range(1 + num_sets)
            for of in (
                ("acc", "accuracy", "share", "higher"),
                ("bias_ambiguous", "bias score, ambiguous", "percent", "lower"),
            )
        ),
        *(
            measure("capability", f"mmlu_{n}" if n else "mmlu", "", *of)
            for n in range(1 + num_sets // 2)
            for of in (
                ("acc", "accuracy", "share", "higher"),
                ("acc_norm", "accuracy by length", "share", "higher"),
            )
        ),
        measure("text", "neutral", "", "log_likelihood", "log-probability", "nats", "higher"),
        *(
            [measure("other", "winogender", "", "gap", "gap of pronouns", "number")]
            * bool(num_sets)
        ),
    ]


def steerings(
    models: Sequence[str],
    groups: Sequence[str],
    layers: Sequence[int],
    doses: Sequence[float],
    prompts: Sequence[str],
) -> Iterator[Row]:
    """Vectors at every layer and dose, then prompts."""
    for model, group in product(models, groups):
        place = {"model": model, "split": "intersentence", "bias_type": group}
        for layer, dose in product(layers, doses):
            yield place | {"layer": layer, "coeff": dose, "dose": abs(dose), "prompt": ""}
        for prompt in prompts:
            yield place | {"layer": None, "coeff": None, "dose": None, "prompt": prompt}


SPREAD = {"nats": 0.8, "share": 0.5, "percent": 30.0, "number": 1.0}


def _cell(steering: Row, of: Row, rng: np.random.Generator, effect: float) -> Row:
    """A cell whose change is about ``effect`` standard deviations."""
    spread, num = SPREAD[of["unit"]], 200 if of["kind"] != "text" else 50
    error = spread * (0.025 if of["unit"] == "nats" else 0.05)
    change = spread * effect + float(rng.normal(0, error / 2))
    low, high = change - TOGETHER * error, change + TOGETHER * error
    before = 0.6 * spread if of["unit"] != "nats" else -2.5
    return {
        **steering,
        "vectors": "" if steering["prompt"] else "held_out",
        **{key: of[key] for key in ("kind", *KEYS)},
        "before": before,
        "after": before + change,
        "change": change,
        "change_low": change - ALONE * error,
        "change_high": change + ALONE * error,
        "num_examples": num,
        "num_clusters": num // 5,
        "standardized": change / spread,
        "p": 0.001 if low > 0 or high < 0 else 0.4,
        "simultaneous_low": low,
        "simultaneous_high": high,
        "is_clear": low > 0 or high < 0,
    }


def _effect(steering: Row, of: Row, rng: np.random.Generator, side_effects: float) -> float:
    push = 0.25 if steering["prompt"] else 2.0 * steering["coeff"]
    if of["kind"] == "target":
        return push
    return push * side_effects * float(rng.choice([0, 0, 0.3, -0.8]))


def side_effects(
    found: Sequence[Row], of: Sequence[Row], seed: int, side_effects: float
) -> Iterator[Row]:
    """Cells: a vector is not measured on its own group by transfer.

    Parts of a data set, coefficient 0 and in-sample vectors are not in the matrix.
    """
    rng = np.random.default_rng(seed)
    for steering in found:
        for column in of:
            if column["group"] != f"{steering['split']}/{steering['bias_type']}":
                yield _cell(steering, column, rng, _effect(steering, column, rng, side_effects))
        untested = dict.fromkeys(("p", "simultaneous_low", "simultaneous_high", "is_clear"))
        (bias, *_) = [column for column in of if column["kind"] == "bias"]
        yield _cell(steering, bias | {"group": "bias_type=age"}, rng, 0.1) | untested
        if not steering["prompt"]:
            zero = steering | {"coeff": 0.0, "dose": 0.0}
            yield _cell(zero, of[0], rng, 0.0) | untested | {"change": 0.0}
            yield _cell(steering, of[0], rng, 9.0) | untested | {"vectors": "in_sample"}


def fidelity(found: Sequence[Row], cells: Sequence[Row]) -> list[Row]:
    """Rows of ``fidelity``: mean sizes of the standardized changes."""
    rows = []
    for steering in found:
        mine = [
            row
            for row in cells
            if row["is_clear"] is not None and all(row[key] == steering[key] for key in steering)
        ]
        (target,) = [row for row in mine if row["kind"] == "target"]
        others = [abs(row["standardized"]) for row in mine if row["kind"] != "target"]
        intended, unintended = abs(target["standardized"]), float(np.mean(others))
        numbers = {
            "intended": (intended, 0.05),
            "unintended": (unintended, 0.02),
            "fidelity": (intended / (intended + unintended), 0.1),
        }
        row = dict(steering) | {"num_measures": len(others)}
        for name, (value, half) in numbers.items():
            row |= {name: value, f"{name}_low": value - half, f"{name}_high": value + half}
        rows.append(row)
    place = ("model", *AXES)
    for row in rows:
        same = [other for other in rows if all(other[key] == row[key] for key in place)]
        row["is_best"] = not any(
            other["intended"] > row["intended"] and other["unintended"] < row["unintended"]
            for other in same
        )
    return rows


def prompt_matches(found: Sequence[Row], cells: Sequence[Row], of: Sequence[Row]) -> list[Row]:
    """Rows of ``prompt_matches``: the first layer reaches the prompt's effect, others do not."""
    rows = []
    for steering in [row for row in found if row["prompt"]]:
        (target,) = [
            row
            for row in cells
            if row["kind"] == "target" and all(row[key] == steering[key] for key in steering)
        ]
        place = {key: steering[key] for key in ("model", *AXES)}
        layers = sorted(
            {
                row["layer"]
                for row in found
                if row["layer"] is not None and all(row[key] == place[key] for key in place)
            }
        )
        for n, layer in enumerate(layers):
            rows.append(
                place
                | {"prompt": steering["prompt"], "layer": layer}
                | {key: target[key] for key in ("change", "change_low", "change_high")}
                | {"coeff": None if n else 0.125, "dose": None if n else 0.125}
                | {"unintended_of_prompt": 0.09, "unintended_of_vector": None if n else 0.05}
            )
    return rows


def picked(rows: Sequence[Row]) -> list[Row]:
    """Rows of ``picked``: of the first three vectors by fidelity, the last no longer holds."""
    of = sorted((row for row in rows if not row["prompt"]), key=lambda row: -row["fidelity"])[:3]
    return [
        {key: row[key] for key in ("model", *AXES, "layer", "coeff", "prompt", "dose")}
        | {"rank": n + 1, "metric": "s2a", "change_choosing": 0.2, "unintended_choosing": 0.03}
        | {"change": 0.18 - 0.1 * n, "change_low": 0.1 - 0.1 * n, "change_high": 0.26 - 0.1 * n}
        | {"unintended": 0.04, "unintended_low": 0.01, "unintended_high": 0.07}
        | {"still_holds": n < 2}
        for n, row in enumerate(of)
    ]


def tables(
    models: Sequence[str] = ("base",),
    groups: Sequence[str] = ("gender", "race"),
    layers: Sequence[int] = (15,),
    doses: Sequence[float] = (-0.2, 0.1, 0.2),
    prompts: Sequence[str] = ("fair",),
    num_sets: int = 0,
    seed: int = 0,
    strength: float = 1.0,
) -> Mapping[str, pa.Table]:
    """The tables: 8 steerings and 12 measures if nothing else is said.

    Args:
        num_sets: how many more bias sets there are, and half as many of capability.
        strength: of the side effects; 0: there are none.
    """
    found = list(steerings(models, groups, layers, doses, prompts))
    of = measures(groups, num_sets)
    cells = list(side_effects(found, of, seed, strength))
    scores = fidelity(found, cells)
    part = measure("bias", "crows_pairs", "bias_type=age", "pct_stereotype", "stereotype", "share")
    return {
        "side_effects": pa.Table.from_pylist(cells, schema=side_effects_schema(AXES)),
        "measures": pa.Table.from_pylist(
            [*of, part | {"in_matrix": False}], schema=MEASURES_SCHEMA
        ),
        "fidelity": pa.Table.from_pylist(scores, schema=fidelity_schema(AXES)),
        "prompt_matches": pa.Table.from_pylist(
            prompt_matches(found, cells, of), schema=prompt_matches_schema(AXES)
        ),
        "picked": pa.Table.from_pylist(picked(scores), schema=picked_schema(AXES)),
    }


def large() -> Mapping[str, pa.Table]:
    """100 steerings of two models, and 40 measures."""
    return tables(
        models=("gemma-2-2b", "gemma-2-2b-it"),
        groups=("gender", "profession", "race", "religion", "politics"),
        layers=(5, 10, 15),
        doses=(-0.2, 0.1, 0.2),
        prompts=("fair",),
        num_sets=8,
        seed=1,
    )
