"""The account that the trials keep of a judge sees what is paid for twice."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from cluster.storage import StorageSpec
from tests.chaos.judge import PaidJudge, num_again, settled
from tests.chaos.sweeps import PERSONA
from tests.support.personas import KEY, save_chat_model, write_persona_spec
from tests.support.sweeps import steersweep


def test_what_is_asked_again_is_counted_and_known_to_be_settled(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NO_PROXY", "*")
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    model, output = save_chat_model(tmp_path / "model"), tmp_path / "out"
    storage = StorageSpec(str(output)).open()
    with PaidJudge().running() as judge:
        judge.server.delay_s = 0.0
        compute = PERSONA["compute"] | {"executor": "in_process"}
        spec = write_persona_spec(
            tmp_path, model, **PERSONA | {"compute": compute}, judge=judge.spec
        )
        assert steersweep("run", str(spec)).code == 0
        paid = judge.paid()
        assert num_again(paid) == 0
        assert settled(storage) == set(paid)
        assert judge.num_asked_by(KEY) >= len(paid)

        (lost, *_) = (output / "scores").rglob("phase=steered/*.parquet")
        lost.unlink()
        assert settled(storage) < set(paid)
        assert steersweep("run", str(spec)).code == 0
        assert judge.paid() == paid, "every reply is kept, whatever becomes of the scores"

        lost.unlink()
        shutil.rmtree(output / "judge")
        assert steersweep("run", str(spec)).code == 0
        assert 0 < num_again(judge.paid()) <= 2 * 3
        judge.forget()
        assert not judge.paid()
