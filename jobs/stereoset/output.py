"""What a StereoSet run keeps in its output."""

from __future__ import annotations

from typing import ClassVar

from jobs.scoring.manifest import NAME
from jobs.scoring.output import ScoredOutput


class StereoSetOutput(ScoredOutput):
    """An output of ``job: stereoset``."""

    axis_values: ClassVar = NAME
