"""What one bench measures: a model, rows for it, the cells, and vectors to steer with."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch

from jobs.bench.machine import bench_device
from jobs.bench.options import check_one_model, check_options
from jobs.bench.plain import Steering
from jobs.bench.rows import check_kind, contrast_of, draw_examples, encode, train_tokenizer
from jobs.bench.shapes import build_shape
from jobs.resources import model_source
from steering_core.encoding import EncodedExample
from steering_core.engine import Cell, Engine
from steering_core.hook_points import check_layers
from steering_core.models import (
    LoadedModel,
    load_model,
    load_tokenizer,
    resolve_dtype,
)
from steering_core.probes import engine_for
from steering_core.protocol import PROTOCOLS, ProtocolName
from steering_core.vectors import SteeringVectors, fit_mean_difference
from steersweep.errors import UserError

_POOL, _POOL_EMBEDDED = 1024, 192
_ROWS_FOR_VECTORS = 8


@dataclass(frozen=True)
class BenchOptions:
    """What to measure, and for how long.

    Attributes:
        shape: name of a random-weight shape; ``gemma2-mid`` where neither is given.
        model: a local folder or a hub id, instead of a shape.
        data: a data file; the embedded StereoSet examples, repeated, if left out.
        format: what the file is, a name of ``steering_core.datasets.registry``.
        rows: examples; as many as fit ``seconds`` where left out.
        layers: 1-based; every second layer where empty.
        coeffs: coefficients at each layer.
        device, dtype: as in a sweep file.
        threads: of torch on the CPU; torch's choice where left out.
        tokens_per_batch: of the engine; the best of a few that are tried where left out.
        seconds: wall time to aim at, without loading.
        repeats: times that each loop is timed; the median counts.
        with_scaling: also time the engine as coefficients and as examples grow.
        json: file for the results.
    """

    shape: str | None = None
    model: str | None = None
    data: str | None = None
    format: str = "stereoset"
    rows: int | None = None
    layers: tuple[int, ...] = ()
    coeffs: tuple[float, ...] = (20.0,)
    device: str = "auto"
    dtype: str = "auto"
    threads: int | None = None
    tokens_per_batch: int | None = None
    seconds: float = 60.0
    repeats: int = 3
    with_scaling: bool = False
    json: str | None = None

    def check(self) -> None:
        """Raise UserError for a combination or a number that cannot be measured."""
        check_one_model(self.shape, self.model)
        check_kind(self.format)
        check_options(self, {"rows": 1, "threads": 1, "tokens_per_batch": 1, "repeats": 1})
        if self.seconds <= 0:
            raise UserError(f"--seconds must be more than 0, got {self.seconds}")


@dataclass(frozen=True)
class Subject:
    """A loaded model and everything that the loops share.

    Attributes:
        pool: rows in random order, of which some are measured.
        cells: layer by layer, each with every coefficient.
        vectors: mean differences of a few rows of the pool.
    """

    model: LoadedModel
    engine: Engine
    is_packed: bool
    protocol_name: ProtocolName
    pool: Sequence[EncodedExample]
    cells: Sequence[Cell]
    vectors: SteeringVectors
    _on_device: dict[int, torch.Tensor] = field(default_factory=dict, repr=False)

    def steering(self, cell: Cell) -> Steering:
        """Where and what the plain loops add for a cell; the vector stays on the device."""
        if cell.layer not in self._on_device:
            vector = torch.as_tensor(self.vectors.for_fold(cell.layer, 0))
            self._on_device[cell.layer] = vector.to(self.model.device)
        point = PROTOCOLS[self.protocol_name].apply_at(cell.layer)
        return point, self._on_device[cell.layer], cell.coeff

    @property
    def streams(self) -> list[int]:
        """The stream that each cell is added to."""
        return [self.steering(cell)[0].stream for cell in self.cells]


def load_subject(options: BenchOptions) -> Subject:
    """Model, rows, cells and vectors of the options.

    Raises:
        UserError: a device, model, shape, data file or layer that is not there.
    """
    device = bench_device(options.device)
    # Read first: a wrong path should not cost the time of loading a model.
    pool_size = _POOL_EMBEDDED if options.data is None else _POOL
    num = max(pool_size, options.rows or 0)
    chosen, examples = draw_examples(options.data, num, kind=options.format)
    tokenizer: Any
    if options.model is not None:
        source = model_source(options.model)
        tokenizer = load_tokenizer(source)
        model = load_model(source, device=options.device, dtype=options.dtype)
    else:
        dtype = resolve_dtype(options.dtype, device)
        model = build_shape(options.shape or "gemma2-mid", device, dtype)
        tokenizer = train_tokenizer(examples, int(model.layout.config.vocab_size))
    has_both = tokenizer.bos_token_id is not None and tokenizer.pad_token_id is not None
    is_stereoset = options.format == "stereoset"
    name: ProtocolName = "as_published" if has_both and is_stereoset else "aligned"
    num_blocks = model.layout.num_blocks
    layers = options.layers or tuple(range(1, num_blocks + 1, 2))
    check_layers(layers, num_blocks, model.name)
    max_tokens = getattr(model.layout.config, "max_position_embeddings", None)
    engine = engine_for(model, PROTOCOLS[name])
    contrast = contrast_of(examples, options.format)
    pool = encode(chosen, tokenizer, PROTOCOLS[name], max_tokens, contrast)
    if not pool:
        raise UserError(f"every row is longer than the {max_tokens} positions of {model.name}")
    few = pool[:_ROWS_FOR_VECTORS]
    _, pooled = engine.baseline(few, max(row.num_packed_tokens for row in few), sorted(set(layers)))
    return Subject(
        model=model,
        engine=engine,
        is_packed=engine.is_packed,
        protocol_name=name,
        pool=pool,
        cells=[Cell(layer, coeff) for layer in layers for coeff in options.coeffs],
        vectors=fit_mean_difference(pooled.sums(), 1),
    )
