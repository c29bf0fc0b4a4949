"""Results of a persona sweep as pandas frames."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cached_property

import pandas as pd
import pyarrow as pa

from cluster.parts import check_part
from jobs.data_source import source_of_persona
from jobs.examples_file import read_examples
from jobs.persona.examples import examples_of_answers
from jobs.persona.measuring import AXES
from jobs.persona.output import PersonaOutput
from jobs.persona.report import side_effects_of
from jobs.persona.stored import (
    JUDGED_SCHEMA,
    judged_answers,
    parts_of,
    projection_rows,
    vectors_frame,
)
from jobs.persona.summary import summarise
from jobs.results import FlatRows, Results
from jobs.side_effects.flat import flat_rows

_FLAT_SCHEMA = pa.schema([("table", pa.string()), *JUDGED_SCHEMA])


class PersonaResults(Results):
    """Tables of one output of ``job: persona``; docs/persona.md lists all columns."""

    tables = ("answers", "vectors", "projections", "side_effects", "examples")

    def __init__(self, output: PersonaOutput) -> None:
        super().__init__(output.storage, output.record or {})
        self._output, self._parts = output, output.index

    @cached_property
    def answers(self) -> pd.DataFrame:
        """Answers with their scores: a row per stored answer.

        ``model``, ``trait``, ``phase`` (``contrast``: with an instruction, ``steered``: without);
        ``layer`` (1-based), ``coeff``, ``positions`` of a steered answer; ``question``,
        ``answer``; ``trait_score`` and ``coherence`` (0 to 100; NaN if the judge gave no score,
        or has not been asked yet); ``row_id``, ``rollout``; ``instruction``, ``polarity``,
        ``system`` of a contrasted answer; ``trait_outcome``, ``coherence_outcome``; ``ended_by``;
        ``num_prompt_tokens``, ``num_answer_tokens``. (model, trait, phase, row_id) is unique.

        Coefficient 0 changes nothing at any layer, so its answers are stored once: ``layer``,
        ``positions`` and ``apply`` are null there (outputs of earlier versions have them once for
        each layer and positions). ``summary["steered"]`` repeats them in each cell.
        """
        tables = [JUDGED_SCHEMA.empty_table(), *judged_answers(self._storage, self._parts)]
        frame: pd.DataFrame = pa.concat_tables(tables).to_pandas()
        whole_numbers = dict.fromkeys(("layer", "instruction"), "Int32")  # with nulls
        return frame.astype(whole_numbers)

    @cached_property
    def vectors(self) -> pd.DataFrame:
        """Persona vectors: a row per trait, pooling and layer.

        ``steers`` tells whether the sweep steers with this pooling; ``vector`` is a float32 array
        [d_model]; ``layer`` is 1-based.
        """
        return vectors_frame(self._storage, self._parts)

    @cached_property
    def projections(self) -> pd.DataFrame:
        """Answers along vectors: a row per answer, vector and layer.

        ``model``, ``trait``, ``phase`` and ``row_id`` name the answer in ``answers``; ``vector``
        is the trait of the vector, ``at_layer`` its layer; ``response_mean`` and ``prompt_last``
        are projections of the answer's mean state and of the prompt's last token, in the units
        of the stream; ``cosine`` is that of the mean state.
        """
        frame: pd.DataFrame = projection_rows(self._storage, self._parts).to_pandas()
        return frame

    @cached_property
    def examples(self) -> pd.DataFrame:
        """What was asked: a row per trait, instruction and question.

        ``system`` is the text of the instruction; it is null in phase ``steered``. An output of an
        earlier version does not have these texts stored; they are then those of its answers.
        """
        stored = read_examples(self._storage)
        if stored is None:
            stored = examples_of_answers(judged_answers(self._storage, self._parts))
        frame: pd.DataFrame = stored.to_pandas()
        return frame.astype({"instruction": "Int32"})

    def flat_side_effects(self) -> FlatRows:
        """See ``Results``."""
        stored = self._output.side_effects
        if not stored.has_any:
            return super().flat_side_effects()
        return flat_rows(stored.measured(), AXES, stored.num_rows, stored.sources)

    def flat_rows(self) -> FlatRows:
        """All answers with their scores: ``table`` is ``answers``, then the columns of it."""
        parts = parts_of(self._storage, self._parts, "answers")
        return FlatRows(
            schema=_FLAT_SCHEMA,
            num_rows=sum(
                check_part(self._storage, part.key, part.task_id).num_rows
                for group in parts.values()
                for part in group
            ),
            tables=self._flat_tables(),
            source=source_of_persona(),
        )

    def _flat_tables(self) -> Iterator[pa.Table]:
        for answers in judged_answers(self._storage, self._parts):
            names = pa.array(["answers"] * len(answers), pa.string())
            yield answers.add_column(0, "table", names).cast(_FLAT_SCHEMA)

    def _computed_summary(self) -> dict[str, pd.DataFrame]:
        measured = {
            name: table.to_pandas()
            for name, table in side_effects_of(self._output).items()
            if table.num_rows
        }
        return {**summarise(self._storage, self._parts).tables(), **measured}
