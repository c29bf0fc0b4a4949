"""Taking up a finished run is cheap; `python -m tests.chaos.recovery` takes 10,000 parts."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.chaos.recovery import make_finished, resume_s


@pytest.mark.slow
def test_a_finished_run_is_taken_up_in_seconds(tmp_path: Path) -> None:
    spec = make_finished(tmp_path, str(tmp_path / "out"), num_parts=1500)
    (tmp_path / "out" / "checked.parquet").unlink()  # as if no run had looked before
    assert resume_s(spec, str(tmp_path / "out")) < 15.0  # most of it is importing torch
