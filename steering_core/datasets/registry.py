"""All data sets by name."""

from __future__ import annotations

from collections.abc import Mapping

from steering_core.datasets.base import ChoiceDataset
from steering_core.datasets.bbq import BBQ
from steering_core.datasets.choices import CHOICES
from steering_core.datasets.crows_pairs import CROWS_PAIRS
from steering_core.datasets.model_written_evals import MODEL_WRITTEN_EVALS
from steering_core.datasets.stereoset import STEREOSET
from steering_core.datasets.text import TEXT
from steering_core.datasets.winogender import WINOGENDER

DATASETS: Mapping[str, ChoiceDataset] = {
    dataset.name: dataset
    for dataset in (CHOICES, STEREOSET, CROWS_PAIRS, BBQ, MODEL_WRITTEN_EVALS, WINOGENDER, TEXT)
}
