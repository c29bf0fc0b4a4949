"""A resolved sweep: a spec whose data, models and vectors were read and checked."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, ClassVar, Generic, TypeVar

from jobs.datasets.load import digest_of
from jobs.identity import CODE_KEY, decimal_text
from jobs.scoring.groups import ExampleT, Group, GroupKey
from jobs.scoring.measured import MeasuredSet, protocol_of_sets
from jobs.scoring.rows import RowFormat
from jobs.scoring.spec import ScoredSpec
from jobs.scoring.tables import SideTable, side_table
from jobs.vector_files import content_digest
from steering_core.datasets.base import Contrast
from steering_core.encoding import EncodedExample, ExampleEncoder, check_lengths
from steering_core.exchange.vector_file import VectorFile
from steering_core.models import ModelFacts, ModelSource
from steering_core.protocol import Protocol
from steering_core.work import RowCounts, counts_of

FILE_DIGEST = "vectors.file (content)"
"""Of the identity: the vectors of the spec's file."""

SpecT_co = TypeVar("SpecT_co", bound=ScoredSpec, covariant=True)


@dataclass(frozen=True)
class SweepModel:
    """A model of the sweep: where it is, what it is, and how its examples are encoded."""

    name: str
    source: ModelSource
    facts: ModelFacts
    dtype: str
    encoder: ExampleEncoder
    _counted: dict[Any, RowCounts] = field(default_factory=dict, repr=False, compare=False)
    _of_sets: dict[str, SweepModel] = field(default_factory=dict, repr=False, compare=False)

    def encode(self, examples: tuple[Any, ...]) -> list[EncodedExample]:
        """Encoded examples; raises UserError for one that the model cannot take."""
        rows = self.encoder.encode(examples)
        check_lengths(rows, max_tokens=self.facts.max_tokens, model=self.source.path)
        return rows

    def of_set(self, found: MeasuredSet, protocol: Protocol) -> SweepModel:
        """The same model, encoding the examples of a data set; made once for each set.

        Raises:
            UserError: the model cannot take the set, such as prompts for a chat template.
        """
        if found.name not in self._of_sets:
            tokenizer = self.encoder.tokenizer
            encoder = found.rows.encoder(tokenizer, protocol, self.source.path)
            of_set = replace(self, encoder=encoder, _counted={}, _of_sets={})
            self._of_sets[found.name] = of_set
        return self._of_sets[found.name]

    def counts(self, examples: Sequence[Any]) -> list[RowCounts]:
        """Token counts of examples, each encoded once and then forgotten; raises as ``encode``."""
        new = tuple(e for e in dict.fromkeys(examples) if e not in self._counted)
        for row in self.encode(new):
            self._counted[row.example] = counts_of(row, self.encoder.protocol)
        return [self._counted[e] for e in examples]


@dataclass(frozen=True)
class Subject:
    """What the rows of a table are of.

    Attributes:
        name: of the data set; empty: the sweep's own data.
        model: encodes the examples as ``protocol`` and ``rows`` say.
        examples: by id, as they are scored: a prompt that steers is part of them.
        folds: by id, those of the vectors of the main table; empty: the vector of all examples.
        digest: of some of the examples, in order.
        identity: what else changes the numbers of a task.
    """

    name: str
    model: SweepModel
    protocol: Protocol
    rows: RowFormat[Any]
    examples: Mapping[str, Any]
    folds: Mapping[str, int]
    digest: Callable[[Sequence[Any]], str]
    identity: Mapping[str, Any]


@dataclass(frozen=True)
class ScoredSweep(ABC, Generic[SpecT_co, ExampleT]):
    """A resolved sweep over examples of a job's type.

    Attributes:
        axes: what tells the groups of a model apart: ``split``, ``bias_type``.
        cluster: what examples are folded by, in words: ``target term``.
        device: ``cuda``, ``xla``, ``mps`` or ``cpu``; never ``auto``.
        groups: examples and their folds of each group.
        rows: how examples are encoded, and their scores stored.
        vectors: those of the spec's file, None where they are fitted.
        held_out_folds: of each group that can be cross-fitted beside in-sample vectors, the fold of
            each example. Empty if the main vectors are cross-fitted themselves, or a file's.
        has_held_out: whether rows steered with held-out vectors are part of the sweep, which an
            output may decide (``with_held_out``).
        measured: data sets of ``side_effects``, by name.
    """

    axes: ClassVar[tuple[str, ...]]
    cluster: ClassVar[str]

    spec: SpecT_co
    protocol: Protocol
    device: str
    data_digest: str
    models: Mapping[str, SweepModel]
    groups: Mapping[GroupKey, tuple[tuple[ExampleT, ...], tuple[int, ...]]]
    rows: RowFormat[ExampleT]
    vectors: VectorFile | None = None
    held_out_folds: Mapping[GroupKey, tuple[int, ...]] = field(default_factory=dict)
    has_held_out: bool = False
    measured: Mapping[str, MeasuredSet] = field(default_factory=dict)
    _subjects: dict[tuple[str, Group], Subject] = field(
        default_factory=dict, init=False, repr=False, compare=False
    )

    def group(self, model: str, key: GroupKey) -> Group:
        """The examples of a model that share vectors."""
        return Group(model, key, self.axes)

    @abstractmethod
    def examples_digest(self, examples: Sequence[ExampleT]) -> str:
        """A digest of all that is scored and stored of some examples, in order."""

    @abstractmethod
    def data_identity(self) -> dict[str, Any]:
        """What beside the data's content decides which examples are scored, by key of the spec."""

    @property
    @abstractmethod
    def contrast(self) -> Contrast | None:
        """What vectors tell apart; None if they are not fitted, and nothing is said."""

    def task_identity(self) -> dict[str, Any]:
        """What of the job changes the numbers of a task and is neither part of an example nor of
        the protocol; ids cover it."""
        return {}

    def subject(self, table: str, group: Group) -> Subject:
        """What the rows of a task's table are of.

        Args:
            group: the task's.

        Raises:
            KeyError: the sweep does not measure that.
        """
        key = (table, group)
        if key not in self._subjects:  # asked for by each of a sweep's tasks
            self._subjects[key] = self._subject(side_table(table) or SideTable(), group)
        return self._subjects[key]

    def _subject(self, side: SideTable, group: Group) -> Subject:
        text = self.spec.prompts[side.prompt] if side.prompt else ""
        identity = {"prompt": text} if text else {}
        model = self.models[group.model]
        if side.set:
            found = self.measured[side.set]
            examples: Mapping[str, Any] = found.examples
            if text:
                examples = {i: e.with_prefix(text) for i, e in examples.items()}
            return Subject(
                side.set,
                model.of_set(found, protocol_of_sets(self.protocol)),
                protocol_of_sets(self.protocol),
                found.rows,
                examples,
                {},
                digest_of,
                found.task_identity | identity,
            )
        is_own = not (side.of or side.prompt)
        own = self.by_id[side.key or group.key]
        examples = {i: e.with_prefix(text) if text else e for i, (e, _) in own.items()}
        folds = {i: fold for i, (_, fold) in own.items()} if is_own else {}
        return Subject(
            "",
            model,
            self.protocol,
            self.rows,
            examples,
            folds,
            self.examples_digest,
            self.task_identity() | identity,
        )

    @cached_property
    def side_cells(self) -> tuple[tuple[int, str], ...]:
        """(layer, coefficient as decimal text) pairs in which side effects are measured."""
        grid, cells = self.spec.steering, self.spec.side_effects.cells
        layers = grid.layers if cells.layers is None else cells.layers
        coeffs = grid.coeffs if cells.coeffs is None else cells.coeffs
        return tuple((layer, decimal_text(c)) for layer in sorted(layers) for c in coeffs)

    @cached_property
    def by_id(self) -> Mapping[GroupKey, Mapping[str, tuple[ExampleT, int]]]:
        """Each group's examples and their folds by example id; made once for all tasks."""
        return {
            key: {e.example_id: (e, fold) for e, fold in zip(examples, folds, strict=True)}
            for key, (examples, folds) in self.groups.items()
        }

    @cached_property
    def held_out_by_id(self) -> Mapping[GroupKey, Mapping[str, int]]:
        """The held-out fold of each group's examples by example id."""
        return {
            key: {e.example_id: fold for e, fold in zip(self.groups[key][0], folds, strict=True)}
            for key, folds in self.held_out_folds.items()
        }

    def holds_out(self, key: GroupKey) -> bool:
        """Whether a group is steered with held-out vectors beside its in-sample ones."""
        return self.has_held_out and key in self.held_out_folds

    @property
    def without_held_out(self) -> list[str]:
        """Groups that have no held-out vectors, by their values, if others have them."""
        lacking = [] if not self.has_held_out else [k for k in self.groups if not self.holds_out(k)]
        return ["/".join(key) for key in lacking]

    @property
    def main_vectors(self) -> str:
        """What the main rows are steered with: ``in_sample``, ``held_out`` or ``file``."""
        if self.vectors is not None:
            return "file"
        return "in_sample" if self.protocol.folds == 1 else "held_out"

    def num_folds(self, key: GroupKey, *, held_out: bool = False) -> int:
        """Folds that a group's vectors are cross-fitted in; fewer than asked if clusters are few.

        Args:
            held_out: of the held-out vectors beside in-sample ones.
        """
        folds = self.held_out_folds[key] if held_out else self.groups[key][1]
        return 1 + max(folds)

    def folds_by_group(self) -> dict[str, int]:
        """``num_folds`` of every group, by its values: plain data for ``run.json``."""
        return {"/".join(key): self.num_folds(key) for key in self.groups}

    def resolved_spec(self) -> dict[str, Any]:
        """The spec as plain data, every ``null`` and ``auto`` that decides numbers filled in."""
        spec, protocol = self.spec.model_dump(mode="json"), self.protocol
        spec["vectors"] |= {
            "pooling": protocol.pooling,
            "read": protocol.read,
            "folds": protocol.folds,
            "held_out": self.has_held_out,
        }
        spec["steering"] |= {"apply": protocol.apply, "positions": protocol.positions}
        spec["compute"]["device"] = self.device
        for name, model in self.models.items():
            spec["models"][name]["dtype"] = model.dtype
            if not model.source.is_local:
                spec["models"][name]["revision"] = model.source.revision
        for name, found in self.measured.items():
            spec["side_effects"][name]["format"] = found.dataset.name
        return spec

    def identity(self) -> dict[str, Any]:
        """Flat description of what decides the numbers, but for the grid, which may grow."""
        spec, protocol = self.spec, self.protocol
        description: dict[str, Any] = {
            "job": spec.job,
            "data (content)": self.data_digest,
            **self.data_identity(),
            "vectors.method": spec.vectors.method,
            FILE_DIGEST: None if self.vectors is None else content_digest(self.vectors),
            "vectors.pooling": protocol.pooling,
            "vectors.read": protocol.read,
            "vectors.folds": protocol.folds,
            "steering.apply": protocol.apply,
            "steering.positions": protocol.positions,
            "steering.operation": protocol.operation,
            "steering.unit": spec.steering.unit,
            "scoring": protocol.scoring,
            "measures": list(spec.measures),
        }
        for name, model in self.models.items():
            description |= {
                f"models.{name} (weights)": model.facts.digest,
                f"models.{name} (tokenizer)": model.facts.tokenizer_digest,
                f"models.{name}.dtype": model.dtype,
                f"models.{name}.trust_remote_code": model.source.trust_remote_code,
            }
            if model.facts.code_digest is not None:
                description[f"models.{name}{CODE_KEY}"] = model.facts.code_digest
        for found in self.measured.values():
            description |= found.identity()
        return description | {f"prompts.{name}": text for name, text in spec.prompts.items()}


AnySweep = ScoredSweep[ScoredSpec, Any]


def main_vectors_of(identity: Mapping[str, object]) -> str:
    """What steered: vectors of the same rows, cross-fitted ones, or a file's."""
    if identity.get(FILE_DIGEST):
        return "file"
    return "in_sample" if identity.get("vectors.folds", 1) == 1 else "held_out"


def adds_vector(identity: Mapping[str, object]) -> bool:
    """Whether a coefficient is a multiple of a vector that is added."""
    return identity.get("steering.operation", "add") == "add"
