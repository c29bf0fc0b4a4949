"""What a persona sweep comes to: tables of scores, projections and angles, from its parts."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations_with_replacement

import numpy as np
import pandas as pd
import pyarrow as pa

from cluster.parts import read_part
from cluster.storage import Storage
from jobs.persona.index import Group, Parts
from jobs.persona.plan import hook_point
from jobs.persona.tables import ANSWERS_SCHEMA, PROJECTIONS_SCHEMA, SCORES_SCHEMA, Phase, rows_of
from jobs.sweeps.parts import PartRef
from steering_core.projections import cosines
from steering_core.stats.clusters import Cluster, means, side_by_side
from steering_core.stats.flips import signs, simultaneous
from steering_core.vectors import from_safetensors

CELL = ["model", "trait", "layer", "coeff", "positions"]
SCORES = ("trait_score", "coherence")
_OUTCOMES = ("scored", "refused", "unparsable", "failed")
_QUANTILES = {"low": 0.05, "lower": 0.25, "median": 0.5, "upper": 0.75, "high": 0.95}


@dataclass(frozen=True)
class PersonaSummary:
    """The tables of a summary.

    Attributes:
        contrast: per model, trait and polarity: answers, outcomes, mean scores, effective pairs.
        steered: per model, trait, layer, coefficient and positions: mean trait score and coherence
            with 95 % intervals (the answers to a question are a cluster), and outcomes.
            Coefficient 0 is the same at each layer and positions. ``trait_score_change`` and
            ``coherence_change`` are paired differences from coefficient 0, see ``_changes``.
        projections: per condition (``positive``, ``negative``, ``baseline`` at coefficient 0,
            ``steered``), vector, pooling and layer of the vector: quantiles over answers.
        cosines: of each two traits' vectors at each layer.
        answers: every answer with its scores, each once: layer and positions of those at
            coefficient 0 are null.
    """

    contrast: pd.DataFrame
    steered: pd.DataFrame
    projections: pd.DataFrame
    cosines: pd.DataFrame
    answers: pd.DataFrame

    def tables(self) -> Mapping[str, pd.DataFrame]:
        """Those that are written, by name."""
        return {
            "contrast": self.contrast,
            "steered": self.steered,
            "projections": self.projections,
            "cosines": self.cosines,
        }


def summarise(storage: Storage, parts: Parts) -> PersonaSummary:
    """The tables of what a sweep's parts hold.

    Raises:
        CorruptPartError: a damaged part.
    """
    answers = _answers(storage, parts).astype({"layer": "Int32"})
    projections = [_projections(storage, key, parts, answers) for key in parts.projections]
    return PersonaSummary(
        contrast=pd.DataFrame(_contrast(answers[answers["phase"] == "contrast"], parts)),
        steered=_steered(at_each_cell(answers[answers["phase"] == "steered"], parts)),
        projections=pd.concat(projections, ignore_index=True) if projections else pd.DataFrame(),
        cosines=pd.DataFrame(_cosines(storage, parts)),
        answers=answers,
    )


def _answers(storage: Storage, parts: Parts) -> pd.DataFrame:
    """Every answer that has been judged, with its scores."""
    frames = []
    for (group, phase), score_parts in parts.scores.items():
        rows = _frame(storage, parts.answers[group, phase], ANSWERS_SCHEMA)
        scores = _frame(storage, score_parts, SCORES_SCHEMA)
        names = {"model": group.model, "trait": group.trait, "phase": phase}
        frames.append(rows.merge(scores, on="row_id").assign(**names))
    if not frames:
        empty = pa.schema([*ANSWERS_SCHEMA, *SCORES_SCHEMA]).empty_table().to_pandas()
        frames = [empty.assign(model="", trait="", phase="")]
    return pd.concat(frames, ignore_index=True)


def at_each_cell(steered: pd.DataFrame, parts: Parts) -> pd.DataFrame:
    """Steered rows with those that nothing steers repeated at each layer and positions.

    Args:
        steered: columns layer, coeff, positions and apply, of the steered phase.
    """
    is_unsteered = steered["layer"].isna()  # never in outputs of earlier versions
    unsteered = steered[is_unsteered]
    if unsteered.empty:
        return steered
    repeated = [
        unsteered.assign(layer=layer, positions=positions, apply=str(hook_point(layer)))
        for layer, positions in parts.cells
    ]
    frames = [steered[~is_unsteered], *repeated]
    return pd.concat(frames, ignore_index=True).astype({"layer": "Int32"})


def _frame(storage: Storage, parts: Sequence[PartRef], schema: pa.Schema) -> pd.DataFrame:
    tables = [read_part(storage, part.key, part.task_id) for part in parts]
    frame: pd.DataFrame = rows_of(tables, schema).to_pandas()
    return frame


def _counts(rows: pd.DataFrame) -> dict[str, int]:
    """Answers, empty ones (which no state is taken of), and outcomes of both judgements."""
    return {
        "num_answers": len(rows),
        "num_empty": int((rows["answer_ids"].map(len) == 0).sum()),
    } | {
        f"num_{aspect}_{outcome}": int((rows[f"{aspect}_outcome"] == outcome).sum())
        for aspect in ("trait", "coherence")
        for outcome in _OUTCOMES
    }


def _contrast(answers: pd.DataFrame, parts: Parts) -> Iterator[dict[str, object]]:
    for (model, trait, polarity), rows in answers.groupby(["model", "trait", "polarity"]):
        pairs = parts.pairs.get(Group(str(model), str(trait)))
        yield {
            "model": model,
            "trait": trait,
            "polarity": polarity,
            "trait_score": rows["trait_score"].mean(),
            "coherence": rows["coherence"].mean(),
            "num_pairs": None if pairs is None else pairs.num_pairs,
            "num_effective_pairs": None if pairs is None else len(pairs.kept),
            **_counts(rows),
        }


def _steered(answers: pd.DataFrame) -> pd.DataFrame:
    rows = []
    for key, of_cell in answers.groupby(CELL):
        means_of_cell: dict[str, float] = {}
        for name in SCORES:
            low, high = _interval(of_cell, name)
            means_of_cell |= {name: of_cell[name].mean(), f"{name}_low": low, f"{name}_high": high}
        rows.append(
            {
                **dict(zip(CELL, key, strict=True)),
                "layer": int(of_cell["layer"].iloc[0]),
                "apply": of_cell["apply"].iloc[0],
                **means_of_cell,
                **_counts(of_cell),
            }
        )
    if not rows:
        return pd.DataFrame()
    changes = [_changes(of_group) for _, of_group in answers.groupby(["model", "trait"])]
    return pd.DataFrame(rows).merge(pd.concat(changes), on=CELL, how="left")


def _changes(answers: pd.DataFrame) -> pd.DataFrame:
    """How each cell of one model and trait differs from coefficient 0, for all cells together.

    Answers to the same question with the same random stream are compared. The answers to a question
    are a cluster. Intervals and p-values hold for all cells and both scores together.

    Returns:
        A row per cell with ``<score>_change``, ``_change_low``, ``_change_high``, ``_change_p``;
        missing at coefficient 0, or where there is no coefficient 0 or no pair of scores.
    """
    pair = ["layer", "positions", "question_index", "rollout"]
    before = answers.loc[answers["coeff"] == 0, [*pair, *SCORES]]
    steered = answers[answers["coeff"] != 0].merge(before, on=pair, suffixes=("", "_before"))
    columns = [f"{name}_change{end}" for name in SCORES for end in ("", "_low", "_high", "_p")]
    cells = list(steered.groupby(CELL))
    estimates = []
    for _, rows in cells:
        questions, question_of_row = np.unique(rows["question_index"], return_inverse=True)
        differences = np.column_stack([rows[n] - rows[f"{n}_before"] for n in SCORES]).astype(float)
        clusters = [Cluster("questions", str(question)) for question in questions]
        estimates.append(means(differences, question_of_row, clusters))
    if not estimates:
        return pd.DataFrame(columns=[*CELL, *columns])
    family = side_by_side(estimates)
    found = simultaneous(family, signs(len(family.clusters)))
    numbers = np.stack([family.value, found.low, found.high, found.p], axis=-1)
    frame = pd.DataFrame(numbers.reshape(len(cells), -1), columns=columns)
    keys = pd.DataFrame([key for key, _ in cells], columns=CELL)
    return pd.concat([keys, frame], axis=1)


def pooled(answers: pd.DataFrame, parts: Parts, by: Sequence[str]) -> pd.DataFrame:
    """Mean scores with 95 % intervals, a row for each combination of some columns of a cell.

    What is pooled over are answers, each with the same weight and each once: those at coefficient 0
    count at each layer and positions only if these columns are separated.

    Args:
        answers: as ``PersonaSummary.answers``.
        by: of model, trait, layer, positions and coeff.
    """
    steered = answers[answers["phase"] == "steered"]
    if steered.empty:
        return pd.DataFrame()
    rows = at_each_cell(steered, parts).drop_duplicates(["model", "trait", "row_id", *by])
    found = []
    for key, of_key in rows.groupby(list(by)) if by else [((), rows)]:
        scores: dict[str, float] = {}
        for name in SCORES:
            low, high = _interval(of_key, name)
            scores |= {name: of_key[name].mean(), f"{name}_low": low, f"{name}_high": high}
        found.append({**dict(zip(by, key, strict=True)), **scores, "num_answers": len(of_key)})
    return pd.DataFrame(found)


def _interval(rows: pd.DataFrame, name: str) -> tuple[float, float]:
    """95 % interval of the mean; the answers to one question of a trait are a cluster."""
    scored = rows[rows[name].notna()]
    asked = scored["trait"] + "/" + scored["question_index"].astype(str)
    questions, question_of_row = np.unique(asked.to_numpy(str), return_inverse=True)
    clusters = [Cluster("questions", str(question)) for question in questions]
    (low,), (high,) = means(scored[[name]].to_numpy(float), question_of_row, clusters).interval()
    # Scores lie between 0 and 100, and so do their means.
    return float(np.clip(low, 0, 100)), float(np.clip(high, 0, 100))


def _projections(
    storage: Storage, key: tuple[Group, Phase], parts: Parts, answers: pd.DataFrame
) -> pd.DataFrame:
    """Quantiles by condition, vector and layer of the answers of one group and phase."""
    group, phase = key
    rows = _frame(storage, parts.projections[key], PROJECTIONS_SCHEMA)
    is_group = (answers["model"] == group.model) & (answers["trait"] == group.trait)
    asked = answers[is_group & (answers["phase"] == phase)]
    rows = rows.merge(
        asked[["row_id", "polarity", "layer", "coeff", "positions", "apply"]], on="row_id"
    )
    rows = at_each_cell(rows, parts) if phase == "steered" else rows
    condition = rows["polarity"].where(rows["coeff"].isna(), "steered")
    rows = rows.assign(condition=condition.mask(rows["coeff"] == 0, "baseline"))
    by = ["condition", "layer", "coeff", "positions", "vector", "pooling", "at_layer"]
    values = rows.groupby(by, dropna=False)["response_mean"]
    columns = {name: values.quantile(share) for name, share in _QUANTILES.items()}
    others = rows.groupby(by, dropna=False)[["prompt_last", "cosine"]].mean()
    frame = pd.DataFrame({"num_answers": values.size(), "mean": values.mean(), **columns})
    frame = frame.join(others.rename(columns={"prompt_last": "mean_prompt_last"})).reset_index()
    frame.insert(0, "trait", group.trait)
    frame.insert(0, "model", group.model)
    return frame


def _cosines(storage: Storage, parts: Parts) -> Iterator[dict[str, object]]:
    for model in dict.fromkeys(group.model for group in parts.vectors):
        of_model = {
            group.trait: from_safetensors(storage.read(key), key).whole
            for group, key in parts.vectors.items()
            if group.model == model
        }
        traits = list(of_model)
        for layer in sorted(set.intersection(*(set(whole) for whole in of_model.values()))):
            vectors = np.stack([of_model[trait][layer] for trait in traits])
            if not vectors.any(axis=1).all():
                continue  # a vector of zeros has no direction
            matrix = cosines(vectors)
            for i, j in combinations_with_replacement(range(len(traits)), 2):
                yield {
                    "model": model,
                    "layer": layer,
                    "trait": traits[i],
                    "other": traits[j],
                    "cosine": float(matrix[i, j]),
                }
