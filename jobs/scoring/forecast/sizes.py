"""Bytes of what a sweep stores, from counts.

Calibrated on parts that were written with random scores and states, as ``cluster.parts`` writes
them (Parquet, zstd), of 3 to 256 examples, 1 to 26 cells, 1 to 26 layers and 1 or 5 folds of width
64 to 2304: within 9 % of each of them, 3 % in the mean. A test holds it to what runs wrote.
"""

from __future__ import annotations

from collections.abc import Sequence

_ROWS_PART_BYTES, _SUMS_PART_BYTES, _STATES_PART_BYTES = 6_000, 4_500, 2_600
"""Of a part without rows: schema, footer, page headers."""
CERTIFICATE_BYTES = 1_050
"""In the footer of a task's last part; it stands there twice, the second time within the schema."""
_BYTES_PER_EXAMPLE, _BYTES_PER_CELL = 22.0, 25.0
"""Of ids and names, which stand in a part's dictionaries once."""
_BYTES_PER_ROW, _SCORES = 23.5, 3
"""Three float64 scores, which hardly compress, and the indices of everything else."""
_BYTES_PER_VALUE = {8: 7.6, 4: 3.7}
"""Compressed entries of vectors, by the size of an entry."""
_SUMS_COLUMNS = 3.25
"""Of four: a sum of a few float32 states has zeros behind its digits."""
_DICTIONARY_BYTES = 2**20
"""A column holds its values in a dictionary, and an index of each, until that is so large."""
_VECTORS_FILE_BYTES, _LAYER_BYTES, _TENSOR_BYTES = 540, 130, 72
"""Of the header of a file of vectors: provenance; a layer's digest and hook point; a tensor."""


def rows_part_bytes(
    num_examples: int, num_cells: int, num_measures: int = 0, num_scores: float = _SCORES
) -> int:
    """A part of ``baseline`` (one cell), ``steered`` or a null, with a float64 for each measure.

    Args:
        num_scores: float64 scores of a row, on average.
    """
    names = num_examples * _BYTES_PER_EXAMPLE + num_cells * _BYTES_PER_CELL
    per_row = _BYTES_PER_ROW + (num_measures + num_scores - _SCORES) * _BYTES_PER_VALUE[8]
    return int(_ROWS_PART_BYTES + names + num_examples * num_cells * per_row)


def sums_part_bytes(num_layers: int, num_folds: int, width: int) -> int:
    """A part of ``sums``: four float64 vectors for each layer and each fold that it has rows of."""
    column = _column_bytes(num_layers * num_folds * width, 8)
    return int(_SUMS_PART_BYTES + _SUMS_COLUMNS * column)


def states_part_bytes(num_layers: int, num_examples: int, width: int) -> int:
    """A part of ``states``: two float32 vectors for each layer and example."""
    columns = 2 * _column_bytes(num_layers * num_examples * width, 4)
    return int(_STATES_PART_BYTES + num_examples * _BYTES_PER_EXAMPLE + columns)


def vectors_bytes(layers: Sequence[int], num_folds: int, width: int) -> int:
    """A group's file of vectors: float32, one for each layer and, cross-fitted, each fold."""
    num_tensors = len(layers) * (1 + (num_folds if num_folds > 1 else 0))
    header = _VECTORS_FILE_BYTES + len(layers) * _LAYER_BYTES + num_tensors * _TENSOR_BYTES
    return header + num_tensors * 4 * width


def _column_bytes(num_values: int, size: int) -> float:
    in_dictionary = min(num_values, _DICTIONARY_BYTES // size)
    return num_values * _BYTES_PER_VALUE[size] + in_dictionary * in_dictionary.bit_length() / 8
