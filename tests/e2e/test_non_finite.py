"""Numbers that are not numbers: kept, counted by group, shown, and left out of means by name."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from jobs.scoring.fit_task import FitPayload
from jobs.scoring.set_scorer import Payload
from jobs.scoring.worker import ScoredWorker
from steering_core.engine import Engine
from tests.support.sweeps import Finished, read_rows, steersweep, write_spec

DATA = {
    "path": "embedded:examples.json",
    "splits": ["intersentence"],
    "bias_types": ["gender", "race"],
}


@pytest.fixture(scope="module")
def overflown(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Finished]:
    """Half precision, and a coefficient that it cannot hold."""
    folder = tmp_path_factory.mktemp("overflown")
    spec = write_spec(
        folder / "sweep.yaml",
        models={"tiny": {"path": "embedded:gemma2-tiny", "dtype": "float16"}},
        steering={"layers": [1, 4], "coeffs": [20, 1e6]},
        data=DATA,
    )
    return folder / "out", steersweep("run", str(spec))


def test_overflow_is_kept_and_told_apart_from_a_bug(overflown: tuple[Path, Finished]) -> None:
    output, finished = overflown
    assert finished.code == 0, finished
    rows = read_rows(str(output))
    large = rows["coeff"] == 1e6
    scores = rows.filter(like="score_").to_numpy(dtype=float, na_value=np.nan)
    assert not np.isfinite(scores[large]).any()
    assert np.isfinite(scores[~large]).all()
    assert rows["choice"][large].isna().all()
    certificate = json.loads((output / "certificate.json").read_text())["overall"]
    assert certificate["verdict"] == "holds"
    assert certificate["num_non_finite"] > 0
    assert certificate["num_one_sided"] == 0


def test_status_and_report_count_them_by_group(overflown: tuple[Path, Finished]) -> None:
    output, finished = overflown
    for shown in (finished, *(steersweep(c, str(output)) for c in ("status", "report"))):
        assert shown.code == 0, shown
        for group in ("gender", "race"):
            assert (
                f"tiny/intersentence/{group}: 12 of 27 rows" in (output / "report.html").read_text()
            )
            assert f"tiny/intersentence/{group}: 12 of 27 rows" in shown.err
    cells = pd.read_parquet(output / "summary/cells.parquet").set_index(["bias_type", "coeff"])
    assert (cells.loc[(slice(None), 1e6), "num_non_finite"] == 3).all()
    assert cells.loc[(slice(None), 1e6), ["s2a", "lms", "icat"]].isna().all(axis=None)
    assert cells.loc[(slice(None), 20.0), ["s2a", "lms", "icat"]].notna().all(axis=None)


def test_hidden_states_that_are_not_finite_are_the_fault_of_their_task(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run, baseline = ScoredWorker.run, Engine.baseline
    groups: list[str] = []

    def noting(self: ScoredWorker, payload: Payload | FitPayload) -> object:
        if isinstance(payload, Payload):
            groups.append(payload.examples[0].bias_type)
        return run(self, payload)

    def overflowing(self: Engine, *args: object, **kwargs: object) -> object:
        scores, pooled = baseline(self, *args, **kwargs)  # type: ignore[arg-type]
        if groups[-1] == "race":
            pooled.differences[0, 1, :] = np.inf
        return scores, pooled

    monkeypatch.setattr(ScoredWorker, "run", noting)
    monkeypatch.setattr(Engine, "baseline", overflowing)
    spec = write_spec(tmp_path / "sweep.yaml", data=DATA, certificate={"rows_per_task": 0})
    finished = steersweep("run", str(spec))
    assert finished.code == 1, finished
    assert "set aside: tiny/intersentence/race" in finished.err
    assert "are not finite at layer 1 in float32" in finished.err
    assert groups.count("race") == 2
    assert set(read_rows(str(tmp_path / "out"))["bias_type"]) == {"gender"}
    page = (tmp_path / "out/report.html").read_text()
    assert "1 task failed; their results are missing" in page
    assert "are not finite at layer 1 in float32" in page
    assert "tiny/intersentence/race: 4 of 4" in page
