"""What a reader must know before trusting the numbers of a choices sweep."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import pyarrow as pa

from jobs.choices.words import widest
from jobs.page.cautions import FEW_CLUSTERS, Caution, of_lost_record, of_random_weights
from jobs.page.words import coefficient, counted


def cautions(tables: Mapping[str, pa.Table], record: Mapping[str, Any]) -> list[Caution]:
    """Every warning that follows from tables and ``run.json``, the gravest first."""
    return [
        *of_random_weights(record),
        *of_lost_record(record),
        *_in_sample(tables),
        *_non_finite(tables),
        *_few_clusters(tables),
    ]


def _in_sample(tables: Mapping[str, pa.Table]) -> Iterator[Caution]:
    if not any(row["vectors"] == "in_sample" for row in tables["cells"].to_pylist()):
        return
    if tables["held_out"].num_rows:
        yield Caution(
            "Rows marked in-sample are steered with vectors that were fitted to the same examples. "
            "Part of what these vectors seem to do is this fit. The finding is about held-out "
            "vectors, which were fitted to other examples."
        )
    else:
        yield Caution(
            "The vectors were fitted to the same examples that they steer (in-sample). Part of "
            "what they seem to do is this fit."
        )


def _non_finite(tables: Mapping[str, pa.Table]) -> Iterator[Caution]:
    places = [
        f"{row['model']}, {row['fit']}, layer {row['layer']}, coefficient "
        f"{coefficient(row['coeff'])} ({row['vectors']}): "
        f"{counted(row['num_non_finite'], 'example')}"
        for name in ("cells", "held_out")
        for row in tables[name].to_pylist()
        if row["num_non_finite"]
    ]
    places += [
        f"{row['model']}, {row['fit']}, without steering: "
        f"{counted(row['num_non_finite'], 'example')}"
        for row in tables["baseline"].to_pylist()
        if row["num_non_finite"] and not row["group_key"] and row["fit"] is not None
    ]
    if places:
        yield Caution.of(
            "Scores that are not finite are left out before and after steering. The coefficient "
            "may be too large for the model's precision:",
            places,
        )


def _few_clusters(tables: Mapping[str, pa.Table]) -> Iterator[Caution]:
    rows = [*tables["cells"].to_pylist(), *widest(tables)]
    few = dict.fromkeys(
        f"{row['model']}, {row['fit'] or 'all fits'}: {row['num_clusters']}"
        for row in rows
        if row["num_clusters"] < FEW_CLUSTERS
    )
    if few:
        yield Caution.of(
            f"Fewer than {FEW_CLUSTERS} clusters of examples. Intervals are wide, and few tests "
            "can be significant:",
            list(few),
        )
