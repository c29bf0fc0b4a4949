"""Every run carries the proof that it is right, and a fault in the fast path breaks it."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
import torch

from cluster.parts import check_part
from cluster.storage import StorageSpec
from jobs.resources import local_path
from jobs.scoring.worker import ScoredWorker
from jobs.sweeps.worker import StoredVectors
from steering_core import packing, probes, trunk
from steering_core.engine import Engine
from steering_core.hook_points import HookPoint
from steering_core.models import LoadedModel, ModelSource, load_tokenizer
from steering_core.protocol import Protocol
from steering_core.stereoset import LABELS
from steering_core.vectors import SteeringVectors
from tests.support.golden import model_path
from tests.support.sweeps import Finished, change_part, part_keys, read_rows, steersweep, write_spec
from tests.support.tiny_models import save_model

SCORES = [f"score_{label.replace('-', '_')}" for label in LABELS]
DATA = {"path": "embedded:examples.json", "limit": 1, "bias_types": ["gender", "race"]}
NUM_TASKS = 8
"""Two splits, two bias types, two phases."""


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Gemma-2 whose soft-caps are so low that leaving one out shows."""
    tokenizer = load_tokenizer(ModelSource(str(model_path("gemma2-tiny"))))
    return save_model(tmp_path_factory.mktemp("model") / "gemma2", "gemma2", tokenizer)


def _spec(folder: Path, model: Path, **changes: Any) -> Path:
    document: dict[str, Any] = {
        "models": {"capped": {"path": str(model)}},
        "data": DATA,
        "steering": {"layers": [1, 3], "coeffs": [2]},
    }
    return write_spec(folder / "sweep.yaml", **(document | changes))


def _certificate(output: Path) -> dict[str, Any]:
    content: dict[str, Any] = json.loads((output / "certificate.json").read_text())
    return content


def _footers(output: Path, table: str) -> list[dict[str, Any]]:
    """Certificates in the footers of a table's parts."""
    storage = StorageSpec(str(output)).open()
    infos = [check_part(storage, entry.key) for entry in storage.list(f"{table}/")]
    return [json.loads(i.metadata["certificate"]) for i in infos if "certificate" in i.metadata]


@pytest.fixture(scope="module")
def undisturbed(model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small sweep, computed right."""
    folder = tmp_path_factory.mktemp("undisturbed")
    finished = steersweep("run", str(_spec(folder, model)))
    assert finished.code == 0, finished
    assert "certificate: holds" in finished.out
    assert finished.err == ""
    return folder / "out"


def test_a_run_certifies_every_task(undisturbed: Path) -> None:
    content = _certificate(undisturbed)
    for summary in (content["overall"], content["models"]["capped"]):
        assert (summary["verdict"], summary["dtype"]) == ("holds", "float32")
        assert summary["num_tasks"] == summary["num_tasks_checked"] == NUM_TASKS
        # One example in a group: one baseline row, and both steered cells.
        assert summary["num_rows_checked"] == NUM_TASKS // 2 * (1 + 2)
        assert 0 <= summary["largest_difference"] < summary["tolerance"] == 1e-4
        assert 0 <= summary["largest_pooled_difference"] < summary["pooled_tolerance"]
        for count in ("num_changed_choices", "num_non_finite", "num_tasks_fell_back"):
            assert summary[count] == 0
    rows = read_rows(str(undisturbed))
    worst = content["overall"]["worst_row"]
    assert worst["example_id"] in set(rows["example_id"])
    assert {"split", "bias_type", "layer", "coeff", "difference"} <= set(worst)


def test_the_footer_of_each_tasks_last_part_tells_its_own(undisturbed: Path) -> None:
    assert _footers(undisturbed, "sums") == []
    for table, num_rows in (("baseline", 1), ("steered", 2)):
        footers = _footers(undisturbed, table)
        assert len(footers) == NUM_TASKS // 2
        assert {f["path"] for f in footers} == {"engine"}
        assert {f["found"]["num_rows_checked"] for f in footers} == {num_rows}
        pooled = [f["found"]["largest_pooled_difference"] for f in footers]
        assert all((p is not None) == (table == "baseline") for p in pooled)


def test_report_writes_it_again_from_the_parts(undisturbed: Path, tmp_path: Path) -> None:
    copy = shutil.copytree(undisturbed, tmp_path / "out")
    (copy / "certificate.json").unlink()
    finished = steersweep("report", str(copy))
    assert finished.code == 0, finished
    assert "certificate: holds" in finished.out
    assert _certificate(copy) == _certificate(undisturbed)


def test_checking_changes_no_row_and_can_be_turned_off(
    undisturbed: Path, model: Path, tmp_path: Path
) -> None:
    finished = steersweep("run", str(_spec(tmp_path, model, certificate={"rows_per_task": 0})))
    assert finished.code == 0, finished
    assert "certificate: not checked" in finished.out
    summary = _certificate(tmp_path / "out")["overall"]
    assert (summary["verdict"], summary["num_rows_checked"]) == ("not checked", 0)
    for table in ("baseline", "steered"):
        rows = [read_rows(str(o), table) for o in (tmp_path / "out", undisturbed)]
        pd.testing.assert_frame_equal(*rows, check_exact=True)


# Planted faults. Each is put into the path of the engine alone.


def _patch_engine(
    monkeypatch: pytest.MonkeyPatch, change: Callable[[LoadedModel, Protocol], tuple[Any, Any]]
) -> None:
    """The worker's engine gets another model or protocol than the worker itself has."""

    def faulty(model: LoadedModel, protocol: Protocol, **options: Any) -> Engine:
        return Engine(*change(model, protocol), **options)

    monkeypatch.setattr(probes, "Engine", faulty)


def _branches_see_each_other(monkeypatch: pytest.MonkeyPatch) -> None:
    """Once the model is loaded: while loading, `can_pack` would notice and not pack at all."""
    load, tree_mask = ScoredWorker.load, packing.tree_mask

    def wrong_mask(branch_RS: torch.Tensor, *arguments: Any, **options: Any) -> torch.Tensor:
        return tree_mask(branch_RS.clamp(max=1), *arguments, **options)

    def load_and_break(self: ScoredWorker) -> Any:
        facts = load(self)
        assert facts["rows"] == "packed"
        for module in (packing, trunk):
            monkeypatch.setattr(module, "tree_mask", wrong_mask)
        return facts

    monkeypatch.setattr(ScoredWorker, "load", load_and_break)


class _AppliesOneBlockOff(Protocol):
    def apply_at(self, layer: int) -> HookPoint:
        return HookPoint(layer, self.apply)


class _ReadsOneBlockOff(Protocol):
    def read_at(self, layer: int) -> HookPoint:
        return HookPoint(layer, self.read)


def _hook_one_block_off(monkeypatch: pytest.MonkeyPatch) -> None:
    _patch_engine(monkeypatch, lambda m, p: (m, _AppliesOneBlockOff(**asdict(p))))


def _steered_one_block_off(monkeypatch: pytest.MonkeyPatch) -> None:
    """The stream is measured where it should be steered."""

    class Off(Engine):
        def steered_in_arms(self, *arguments: Any, **options: Any) -> Any:
            right = self._protocol
            self._protocol = _AppliesOneBlockOff(**asdict(right))
            try:
                return super().steered_in_arms(*arguments, **options)
            finally:
                self._protocol = right

    monkeypatch.setattr(probes, "Engine", Off)


def _states_read_one_block_off(monkeypatch: pytest.MonkeyPatch) -> None:
    _patch_engine(monkeypatch, lambda m, p: (m, _ReadsOneBlockOff(**asdict(p))))


def _final_cap_ignored(monkeypatch: pytest.MonkeyPatch) -> None:
    _patch_engine(
        monkeypatch, lambda m, p: (replace(m, layout=replace(m.layout, logit_softcap=None)), p)
    )


def _attention_cap_ignored(monkeypatch: pytest.MonkeyPatch) -> None:
    @contextmanager
    def without_caps(model: LoadedModel) -> Iterator[None]:
        attentions: list[Any] = [block.self_attn for block in model.layout.blocks]
        caps = [a.attn_logit_softcapping for a in attentions]
        assert set(caps) == {5.0}
        for attention in attentions:
            attention.attn_logit_softcapping = None
        try:
            yield
        finally:
            for attention, cap in zip(attentions, caps, strict=True):
                attention.attn_logit_softcapping = cap

    class Uncapped(Engine):
        def __init__(self, model: LoadedModel, *arguments: Any, **options: Any) -> None:
            super().__init__(model, *arguments, **options)
            self._of = model

        def baseline(self, *arguments: Any, **options: Any) -> Any:
            with without_caps(self._of):
                return super().baseline(*arguments, **options)

        def steered_in_arms(self, *arguments: Any, **options: Any) -> Any:
            with without_caps(self._of):
                return super().steered_in_arms(*arguments, **options)

    monkeypatch.setattr(probes, "Engine", Uncapped)


def _stale_vectors(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every group is steered with the vectors of the first one."""
    load, kept = ScoredWorker.vectors, list[SteeringVectors]()

    def load_once(self: ScoredWorker, stored: StoredVectors) -> SteeringVectors:
        kept.append(kept[0] if kept else load(self, stored))
        return kept[0]

    monkeypatch.setattr(ScoredWorker, "vectors", load_once)


FAULTS: dict[str, tuple[Callable[[pytest.MonkeyPatch], None], int]] = {
    "branches see each other": (_branches_see_each_other, 8),
    "hook one block off": (_hook_one_block_off, 8),
    "steered one block off": (_steered_one_block_off, 4),
    "states read one block off": (_states_read_one_block_off, 4),
    "attention soft-cap ignored": (_attention_cap_ignored, 8),
    "final soft-cap ignored": (_final_cap_ignored, 8),
    "stale vectors": (_stale_vectors, 3),
}
"""What is planted, and how many of the eight tasks it makes wrong."""


def _run_with(
    fault: str, folder: Path, model: Path, monkeypatch: pytest.MonkeyPatch, on_failure: str
) -> Finished:
    spec = _spec(folder, model, certificate={"on_failure": on_failure})
    with monkeypatch.context() as patched:
        FAULTS[fault][0](patched)
        return steersweep("run", str(spec))


@pytest.mark.parametrize("fault", list(FAULTS))
def test_a_planted_fault_is_caught_in_every_task_that_it_touches(
    fault: str, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    finished = _run_with(fault, tmp_path, model, monkeypatch, "warn")
    assert finished.code == 0, finished
    assert "warning: certificate: broken" in finished.err
    output = tmp_path / "out"
    summary = _certificate(output)["overall"]
    assert (summary["verdict"], summary["num_tasks_fell_back"]) == ("broken", 0)
    worst = summary["worst_row"]
    assert worst["difference"] > 10 * worst["tolerance"]
    footers = [f for t in ("baseline", "steered") for f in _footers(output, t)]
    broken = [f for f in footers if f["found"]["worst"]["difference"] > _limit(f)]
    assert len(broken) == FAULTS[fault][1]
    assert {f["path"] for f in footers} == {"engine"}


def _limit(footer: dict[str, Any]) -> float:
    return float(footer["found"]["worst"]["tolerance"])


@pytest.mark.parametrize("fault", ["steered one block off", "attention soft-cap ignored"])
def test_fall_back_leaves_the_right_rows_and_says_so(
    fault: str, undisturbed: Path, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    finished = _run_with(fault, tmp_path, model, monkeypatch, "fall_back")
    assert finished.code == 0, finished
    output, num_wrong = tmp_path / "out", FAULTS[fault][1]
    assert f"{num_wrong} of {NUM_TASKS} tasks exceeded the tolerance" in finished.err
    summary = _certificate(output)["overall"]
    assert (summary["verdict"], summary["num_tasks_fell_back"]) == ("holds", num_wrong)
    assert summary["largest_difference"] < 1e-4 < summary["largest_difference_fell_back"]
    paths = [f["path"] for t in ("baseline", "steered") for f in _footers(output, t)]
    assert paths.count("reference") == num_wrong
    for table in ("baseline", "steered"):
        rows, wanted = (read_rows(str(o), table) for o in (output, undisturbed))
        gap = np.abs(rows[SCORES].to_numpy(float) - wanted[SCORES].to_numpy(float)).max()
        assert gap < 1e-5
        same = [c for c in rows if c not in (*SCORES, "task_id")]
        pd.testing.assert_frame_equal(rows[same], wanted[same])
    assert steersweep("verify", str(output)).code == 0


def test_stop_ends_the_run_with_one_line_that_says_where(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    finished = _run_with("steered one block off", tmp_path, model, monkeypatch, "stop")
    assert finished.code == 2, finished
    assert finished.err.startswith("error: ")
    assert finished.err.count("\n") == 1
    says = (
        str(model),
        "layer ",
        "coeff 2",
        "example ",
        "nats",
        "tolerance: 0.0001",
        "on_failure",
    )
    for words in says:
        assert words in finished.err
    assert "Traceback" not in finished.err + finished.out
    assert json.loads((tmp_path / "out" / "run.json").read_text())["outcome"] == "stopped"
    # What could not be certified was not stored; the baseline was right.
    assert {key.partition("/")[0] for key in part_keys(str(tmp_path / "out"))} == {
        "baseline",
        "sums",
    }
    again = steersweep("run", str(tmp_path / "sweep.yaml"))
    assert (again.code, "certificate: holds" in again.out) == (0, True), again


def test_overflow_in_half_precision_is_counted_and_is_not_a_fault(
    model: Path, tmp_path: Path
) -> None:
    spec = _spec(
        tmp_path,
        model,
        models={"half": {"path": str(model), "dtype": "float16"}},
        data=DATA | {"splits": ["intersentence"], "bias_types": ["gender"]},
        steering={"layers": [2], "coeffs": ["1e8"]},
    )
    finished = steersweep("run", str(spec))
    assert finished.code == 0, finished
    summary = _certificate(tmp_path / "out")["overall"]
    assert (summary["verdict"], summary["dtype"]) == ("holds", "float16")
    assert (summary["num_non_finite"], summary["num_one_sided"]) == (3, 0)
    assert "3 values overflow on both paths" in finished.out
    assert steersweep("verify", str(tmp_path / "out")).code == 0


# `steersweep verify`.


def test_verify_passes_on_an_output_and_on_its_spec(undisturbed: Path) -> None:
    before = {f: f.read_bytes() for f in undisturbed.rglob("*") if f.is_file()}
    for source in (undisturbed, undisturbed.parent / "sweep.yaml"):
        finished = steersweep("verify", str(source), "--rows", "100")
        assert finished.code == 0, finished
        assert re.search(r"^capped +12 ", finished.out, re.MULTILINE)
        assert "holds" in finished.out
        assert "largest difference" in finished.out
    assert {f: f.read_bytes() for f in undisturbed.rglob("*") if f.is_file()} == before


def test_verify_draws_as_many_rows_as_asked_from_all_groups(undisturbed: Path) -> None:
    finished = steersweep("verify", str(undisturbed), "--rows", "5", "--seed", "3")
    assert finished.code == 0, finished
    assert re.search(r"^capped +5 ", finished.out, re.MULTILINE)


def _one_score_changed(table: pa.Table) -> pa.Table:
    at = table.schema.get_field_index(SCORES[0])
    scores = table[SCORES[0]].to_pylist()
    return table.set_column(at, table.field(at), [[scores[0] + 0.01, *scores[1:]]])


@pytest.mark.parametrize("table", ["baseline", "steered"])
def test_verify_notices_a_changed_score_behind_a_digest_in_order(
    table: str, undisturbed: Path, tmp_path: Path
) -> None:
    copy = shutil.copytree(undisturbed, tmp_path / "out")
    key = next(k for k in sorted(part_keys(str(copy))) if k.startswith(f"{table}/"))
    change_part(copy, key, _one_score_changed)
    assert steersweep("report", str(copy)).code == 0
    finished = steersweep("verify", str(copy), "--rows", "100")
    assert finished.code == 1, finished
    assert "broken" in finished.out
    assert "largest difference: 0.01 nats" in finished.out
    assert "differs by 0.01 nats" in finished.err


def test_verify_notices_vectors_that_are_not_those_of_the_rows(
    undisturbed: Path, tmp_path: Path
) -> None:
    copy = shutil.copytree(undisturbed, tmp_path / "out")
    folder = copy / "vectors" / "capped" / "intersentence"
    shutil.copy(folder / "gender.safetensors", folder / "race.safetensors")
    finished = steersweep("verify", str(copy))
    assert finished.code == 1, finished
    assert "1 of its tasks have no results for the vectors" in finished.err


def _assert_refused(finished: Finished, *says: str) -> None:
    assert finished.code == 2, finished
    assert finished.err.startswith("error: ")
    assert finished.err.count("\n") == 1
    for words in says:
        assert words in finished.err


def test_verify_refuses_what_it_cannot_check(tmp_path: Path) -> None:
    copied = shutil.copytree(local_path("embedded:gemma2-tiny"), tmp_path / "model")
    data = tmp_path / "dev.json"
    shutil.copy(local_path("embedded:examples.json"), data)
    spec = _spec(tmp_path, copied, data=DATA | {"path": str(data)})
    output = str(tmp_path / "out")
    _assert_refused(steersweep("verify", output), "holds no run")
    _assert_refused(steersweep("verify", str(spec)), "holds no run")
    assert steersweep("run", str(spec)).code == 0
    assert steersweep("verify", output).code == 0

    whole = data.read_text()
    data.write_text(whole.replace("nurse", "baker"))
    _assert_refused(steersweep("verify", output), "have changed since the run: data (content): ")
    data.write_text(whole)
    copied.rename(tmp_path / "elsewhere")
    _assert_refused(steersweep("verify", output), str(copied), "run.json")
