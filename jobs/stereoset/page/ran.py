"""What was run: models, data, protocol in words, grid, when and on what."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from jobs.page.provenance import Ran, ran_of, short
from jobs.page.settings import POOLING, as_yaml, grid_terms, hook_point, steering_terms
from jobs.page.words import PERCENT, counted
from jobs.stereoset.labels import ROLES
from jobs.stereoset.page import words
from jobs.stereoset.page.facts import Facts
from steering_core.datasets.stereoset import CONTRAST
from steering_core.quantities import ARROW, DELTA
from steering_core.vector_fits import METHODS


def ran(facts: Facts) -> Ran:
    """What ``run.json`` and the tables say of the run; models and spec are empty if it is lost."""
    if not facts.record:
        return Ran(terms=tuple(_counts(facts)))
    spec, identity = facts.record["spec"], facts.record["identity"]
    num_folds = facts.record.get("folds", {})
    terms = [
        *_inputs(spec, identity),
        *_protocol(spec, num_folds, has_held_out=bool(facts.summary.held_out.num_rows)),
        *_counts(facts),
    ]
    return ran_of(
        facts.record, terms, facts.made, is_complete=facts.is_complete, spec=as_yaml(spec)
    )


def _inputs(spec: Mapping[str, Any], identity: Mapping[str, Any]) -> list[tuple[str, str]]:
    data = spec["data"]
    sample = (
        f"; a sample of {data['limit']:,} of each, seed {data['seed']}" if data["limit"] else ""
    )
    return [
        (
            "Data",
            f"{data['path']} (content {short(identity['data (content)'])}): "
            f"{_listed(data['splits'])}; {_listed(data['bias_types'])}{sample}",
        )
    ]


def _protocol(
    spec: Mapping[str, Any], num_folds: Mapping[str, int], *, has_held_out: bool
) -> list[tuple[str, str]]:
    vectors, steering = spec["vectors"], spec["steering"]
    folds = vectors["folds"]
    from_rows = (
        "fitted on the rows that are then steered"
        + ("; every cell again with vectors cross-fitted by target term" if has_held_out else "")
        if folds == 1
        else f"cross-fitted in {folds} folds by target term{_fewer_folds(folds, num_folds)}: no "
        "row is steered with a vector fitted on it"
    )
    made = (
        f"from {vectors['file']}, the same for every group"
        if vectors.get("file")
        else f"{METHODS[vectors.get('method', 'mean_difference')].words_of(CONTRAST)}, "
        f"{from_rows}; pooled over {POOLING[vectors['pooling']]}"
    )
    return [
        ("Protocol", spec["protocol"]),
        ("Vectors", f"{made}; read at {hook_point(vectors['read'])}"),
        *steering_terms(steering),
        ("Scores", f"mean log-probability of the scored tokens: {words.SCORING[spec['scoring']]}"),
        *grid_terms(steering),
    ]


def _fewer_folds(folds: int, num_folds: Mapping[str, int]) -> str:
    """The groups with fewer target terms than folds; empty where there are none."""
    fewer = [f"{n} in {group}" for group, n in num_folds.items() if n < folds]
    return f" (one for each term where there are fewer: {_listed(fewer)})" if fewer else ""


def _counts(facts: Facts) -> list[tuple[str, str]]:
    examples: dict[str, int] = {}
    for row in facts.summary.baseline.to_pylist():
        examples[row["model"]] = examples.get(row["model"], 0) + row["num_examples"]
    num_cells = facts.summary.num_complete
    cells = f"{num_cells:,}"
    if facts.summary.num_missing:
        cells += f" of {num_cells + facts.summary.num_missing:,}"
    return [
        (
            "Size",
            f"{counted(max(examples.values(), default=0), 'example')} of each model; cells (model, "
            f"split, bias type, layer, coefficient) complete: {cells}; "
            f"{counted(facts.num_rows_done, 'scored row')}",
        ),
    ]


def _listed(values: Sequence[Any]) -> str:
    return ", ".join(str(value) for value in values)


def glossary(*, has_intent: bool) -> list[tuple[str, str]]:
    """What the page's words mean.

    Args:
        has_intent: whether steering is meant to push from stereotype to anti-stereotype.
    """
    meant = (
        f"Steering is meant to move S{ARROW}A. U{ARROW}A and S{ARROW}U are side effects"
        if has_intent
        else f"U{ARROW}A and S{ARROW}U are the others"
    )
    return [(term, text.format(meant=meant)) for term, text in _GLOSSARY]


_GLOSSARY = (
    (
        "S, A, U",
        f"The three candidates of an example: {ROLES['s']}, {ROLES['a']} and {ROLES['u']}. A model "
        "chooses the one with the highest score.",
    ),
    (
        "change in log-likelihood",
        f"{DELTA} S{ARROW}A: how much the gap between the scores of A and S grew, in nats per "
        f"scored token. {{meant}}; U{ARROW}A and S{ARROW}U add up to S{ARROW}A.",
    ),
    (
        "net flow",
        "The share of examples whose choice moved that way, minus the share that moved back.",
    ),
    (
        "changed",
        "The share of examples whose choice is another one. It can be large while net flows are 0.",
    ),
    (
        "ratio of anti-stereotypical answers",
        "How many answers are anti-stereotypical after steering, divided by how many were before.",
    ),
    (
        "LMS, SS, ICAT",
        "StereoSet's scores in percent. LMS: how often a meaningful candidate is preferred to the "
        "unrelated one (100 is best). SS: how often the stereotype is preferred to the "
        "anti-stereotype (50 is unbiased). ICAT combines both (100 is best).",
    ),
    (
        "in-sample, held-out",
        "In-sample vectors were fitted to the same examples that they steer, so part of what they "
        "seem to do is this fit. Held-out vectors were fitted to examples about other target "
        "terms.",
    ),
    (
        "interval",
        "A 95 % interval. Examples about the same target term are treated as one cluster, because "
        "their scores move together. It holds for these steering vectors: how much they would "
        "differ if they were fitted on other examples is not part of it. A number without an "
        f"interval has none: ICAT while SS may be 50{PERCENT}, and what moved in no cluster.",
    ),
    (
        "q",
        "The p-value of a test that flips the signs of whole clusters, adjusted by "
        "Benjamini-Hochberg over all cells of the model.",
    ),
)

STATISTICS = (
    "Examples about one target term move together, so intervals and tests take terms as "
    "independent, not examples. Each estimate is kept with the influence of every term on it; 95 % "
    "intervals follow from these with Student's t. Shares and net flows, which few examples "
    "decide, have the union of that interval and one for independent examples with pseudo-counts.",
    "Tests flip the signs of whole terms at random and ask how often a flip shows as much as the "
    "data. In tables, q adjusts the p-values of all cells and measures of a model by Benjamini and "
    "Hochberg. The sentences of the finding choose the most striking coefficient, so they use "
    "wider intervals, which hold for everything that they may choose from together.",
    "Intervals are conditional on the steering vectors: they say what other examples would give "
    "with the same vectors, not what other vectors would do.",
    "docs/statistics.md of steersweep explains each number, names the sources and shows by "
    "simulation how often the intervals hold the truth.",
)
"""In short, what docs/statistics.md says: a page is read where the project is not."""
