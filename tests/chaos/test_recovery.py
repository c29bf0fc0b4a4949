"""Taking up a finished run is cheap; `python -m tests.chaos.recovery` takes 10,000 parts."""

from __future__ import annotations

import resource
from pathlib import Path

import pytest

from tests.chaos.recovery import make_finished, resume_s


def cpu_s_of_children() -> float:
    """Seconds that processors worked for the processes that this one has started and awaited."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


@pytest.mark.slow
def test_a_finished_run_is_taken_up_in_seconds(tmp_path: Path) -> None:
    """In seconds of processor time: by the clock it would depend on what else the machine does."""
    spec = make_finished(tmp_path, str(tmp_path / "out"), num_parts=1500)
    (tmp_path / "out" / "checked.parquet").unlink()  # as if no run had looked before
    before = cpu_s_of_children()
    resume_s(spec, str(tmp_path / "out"))
    assert cpu_s_of_children() - before < 30.0  # most of it is importing torch
