"""The vectors of a sweep's groups: which are known, which are lacking, and files made of fits."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import replace

import pyarrow as pa

from jobs import __version__
from jobs.scoring.fit_task import fitted_vectors
from jobs.scoring.plan import PlannedTask, VectorSet, uses_held_out_folds
from jobs.scoring.sweep import AnySweep
from jobs.scoring.tables import HELD_OUT, STEERED, NullTable
from jobs.sweeps.worker import StoredVectors
from steering_core.nulls import draw_seed, random_vectors, with_norms_of
from steering_core.vector_fits import METHODS
from steering_core.vectors import SteeringVectors, to_safetensors
from steersweep.errors import UserError

_NONE = SteeringVectors({}, {})


class GroupVectors:
    """Sets of vectors by group and table.

    Attributes:
        known: sets that are stored, or merged since.
    """

    def __init__(self, sweep: AnySweep, known: Mapping[VectorSet, SteeringVectors]) -> None:
        self._sweep = sweep
        self.known = dict(known)

    def stored(self, of: VectorSet, layers: Collection[int]) -> StoredVectors:
        """Where a set is, and the digests of some layers, for the payload of a task."""
        vectors = self.known[of]
        return StoredVectors(of.key, {layer: vectors.digest(layer) for layer in layers})

    def lacking(
        self, missing: Sequence[PlannedTask], of_group: Sequence[PlannedTask]
    ) -> dict[VectorSet, list[int]]:
        """Layers by set that steered tasks need and that are not known, in the order of their
        making.

        Draws come after the vectors that they stand for, whose norms they take.

        Args:
            missing: steered tasks of one group that are not done.
            of_group: every task of the group: a set is made for all layers that are planned.
        """
        wanted: dict[VectorSet, None] = {}
        for of in (of for task in missing for of in task.vector_sets):
            if of.null is not None:
                wanted.setdefault(self._stands_for(of))
        for of in (of for task in missing for of in task.vector_sets):
            wanted.setdefault(of)
        ordered = sorted(wanted, key=lambda of: of.null is not None)
        found = {of: self._lacking_layers(of, of_group) for of in ordered}
        return {of: layers for of, layers in found.items() if layers}

    def _lacking_layers(self, of: VectorSet, of_group: Sequence[PlannedTask]) -> list[int]:
        planned = {layer for task in of_group if of in task.vector_sets for layer, _ in task.cells}
        return sorted(planned - self.known.get(of, _NONE).whole.keys())

    def merged(
        self, lacking: Mapping[VectorSet, Collection[int]], fits: pa.Table
    ) -> Iterator[tuple[VectorSet, bytes]]:
        """Files of the sets, with the vectors that were lacking; the sets are known from then on.

        Args:
            lacking: as the method of that name gives it.
            fits: what the fit tasks have left (``FITS_SCHEMA``).

        Raises:
            UserError: ``unit: stream``, and the stream has no norm where it is steered.
        """
        unit = self._sweep.spec.steering.unit
        for of, layers in lacking.items():
            made = replace(self._made(of, layers, fits), unit=unit)
            unmeasured = sorted(set(layers) - set(made.stream_norms))
            if unit == "stream" and unmeasured:
                raise UserError(
                    f"{of.group}: the stream where layer {unmeasured[0]} is steered has no finite "
                    "mean norm above 0, so steering.unit: stream has no meaning there; leave the "
                    "layer out, or use a models.<name>.dtype with a larger range"
                )
            vectors = self.known.get(of, _NONE).with_layers_of(made)
            self.known[of] = vectors
            yield of, to_safetensors(vectors, self._provenance(of, vectors))

    def folds(self, of: VectorSet) -> tuple[dict[str, int], int]:
        """The fold of each example, by which a set is cross-fitted, and how many there are."""
        key = of.group.key
        held_out = uses_held_out_folds(self._sweep, of.table)
        num_folds = self._sweep.num_folds(key, held_out=held_out)
        if held_out:
            return dict(self._sweep.held_out_by_id[key]), num_folds
        return {i: fold for i, (_, fold) in self._sweep.by_id[key].items()}, num_folds

    def _stands_for(self, of: VectorSet) -> VectorSet:
        """The fitted vectors that a draw stands for."""
        is_beside = uses_held_out_folds(self._sweep, of.table)
        return VectorSet(of.group, HELD_OUT if is_beside else STEERED)

    def _made(self, of: VectorSet, layers: Collection[int], fits: pa.Table) -> SteeringVectors:
        if of.null is not None:
            return self._draw(of, of.null, layers, fits)
        found = fitted_vectors(fits, of.table)
        if self._sweep.vectors is not None:
            given = self._sweep.vectors.vectors.whole
            found = replace(found, whole={layer: given[layer] for layer in layers})
        sizes = Counter(self.folds(of)[0].values())
        return replace(
            found, fold_sizes=tuple(sizes[fold] for fold in sorted(sizes)) if found.folds else ()
        )

    def _draw(
        self, of: VectorSet, null: NullTable, layers: Collection[int], fits: pa.Table
    ) -> SteeringVectors:
        """Vectors that mean nothing, of the norms of those that they stand for."""
        like = self.known[self._stands_for(of)].of_layers(sorted(layers))
        if null.null == "random":
            seed = draw_seed(null.null, self._sweep.spec.data.seed, null.draw)
            name = str(of.group) if null.is_old else f"{of.group}/{seed}"
            return random_vectors(like, name, one_direction=not null.is_old)
        return with_norms_of(replace(fitted_vectors(fits, of.table), stream_norms={}), like)

    def _provenance(self, of: VectorSet, vectors: SteeringVectors) -> dict[str, str]:
        group = of.group
        model, protocol = self._sweep.models[group.model], self._sweep.protocol
        given = self._sweep.vectors
        examples, _ = self._sweep.groups[group.key]
        method = self._sweep.spec.vectors.method
        read = {f"read.layer.{layer}": str(protocol.read_at(layer)) for layer in vectors.whole}
        made = {
            "method": method,
            "formula": METHODS[method].formula_of(self._sweep.contrast),
            "source": METHODS[method].source,
        }
        if given is not None and of.null is None:
            told = {f"file.{key}": text for key, text in given.provenance.items()}
            made = {"method": "file", "file": str(self._sweep.spec.vectors.file), **told}
        return {
            "created_by": f"steersweep {__version__}",
            **made,
            **({} if of.null is None else _provenance_of_draw(of.null)),
            "model": self._sweep.spec.models[group.model].path,
            "model_digest": model.facts.digest,
            "dtype": model.dtype,
            **dict(group.place),
            "pooling": protocol.pooling,
            "folds": str(self.folds(of)[1]),
            "num_examples": str(len(examples)),
            "data_digest": self._sweep.data_digest,
            **read,
        }


def _provenance_of_draw(null: NullTable) -> dict[str, str]:
    if null.is_old:
        return {"null": null.null}
    return {"null": null.null, "null.vectors": null.vectors, "null.draw": str(null.draw)}
