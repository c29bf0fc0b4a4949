"""What was run, for the page: data, vectors, steering and grid in words."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from jobs.page.settings import POOLING, grid_terms, hook_point, steering_terms
from jobs.page.words import counted
from steering_core.datasets.base import Contrast
from steering_core.datasets.registry import DATASETS
from steering_core.vector_fits import METHODS

_FRAMES = {
    "as_given": "",
    "letters": "; options are listed, and their letters are scored",
    "cloze": "; the text of each option is scored without a list",
}


def terms(
    record: Mapping[str, Any], contrast: Contrast | None, num_examples: int
) -> list[tuple[str, str]]:
    """Terms and texts; none if ``run.json`` is lost."""
    if not record:
        return []
    spec = record["spec"]
    return [
        *_data(spec["data"], num_examples),
        *_vectors(spec["vectors"], contrast),
        *steering_terms(spec["steering"]),
        *grid_terms(spec["steering"]),
    ]


def _data(data: Mapping[str, Any], num_examples: int) -> list[tuple[str, str]]:
    dataset = DATASETS[data["format"]]
    sample = f", drawn with seed {data['seed']}" if data["limit"] else ""
    orders = data["candidate_orders"]
    text = f"{data['path']}: {dataset.title}; {counted(num_examples, 'example')}{sample}"
    text += _FRAMES[data["frame"]]
    text += f"; each under {orders} orders of its options" if orders > 1 else ""
    text += "; prompts in the model's chat template" if data["chat"] else ""
    found = [("Data", text)]
    if dataset.homepage:
        found.append(("License of the data", f"{dataset.licence}; {dataset.homepage}"))
    return found


def _vectors(vectors: Mapping[str, Any], contrast: Contrast | None) -> list[tuple[str, str]]:
    if vectors["file"]:
        made = f"from {vectors['file']}, the same for every fit"
    else:
        folds = (
            "fitted to the examples that they steer"
            if vectors["folds"] == 1
            else f"cross-fitted in {vectors['folds']} folds by cluster"
        )
        again = "; every cell again with held-out ones" if vectors["held_out"] else ""
        made = (
            f"{METHODS[vectors['method']].words_of(contrast)}; {folds}{again}; pooled over "
            f"{POOLING[vectors['pooling']]}; read at {hook_point(vectors['read'])}"
        )
    by = contrast.by if contrast else ()
    return [("Vectors", made + (f"; one for each {' and '.join(by)}" if by else ""))]
