"""Whether an autoscaler is there, from what Ray's monitors were seen to report."""

from __future__ import annotations

import json
from types import SimpleNamespace
from typing import Any

import pytest
from ray.experimental import internal_kv

from cluster.backends import ray_nodes


@pytest.fixture(autouse=True)
def no_report(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is known, but what a test sets."""
    monkeypatch.setattr(ray_nodes, "_kinds_that_can_grow", set)
    monkeypatch.setattr(ray_nodes, "_kinds_of_new_status", set)
    set_status(monkeypatch, None)


def set_status(monkeypatch: pytest.MonkeyPatch, report: dict[str, Any] | None) -> None:
    text = None if report is None else json.dumps({"autoscaler_report": report}).encode()
    monkeypatch.setattr(internal_kv, "_internal_kv_get", lambda _key: text)


def test_without_a_report_there_is_none() -> None:
    assert not ray_nodes.has_autoscaler()


@pytest.mark.parametrize(
    ("report", "is_there"),
    [
        # `ray start --head` without an autoscaler, Ray 2.60.
        (
            {"active_nodes": {"node_72e6e0bc": 1}, "node_type_mapping": {"x": "node_72e6e0bc"}},
            False,
        ),
        ({"active_nodes": {}, "node_type_mapping": {"fff0": "ray.head.default"}}, True),
        ({"active_nodes": {"headgroup": 1, "gpus": 2}, "node_type_mapping": None}, True),
        (None, False),
    ],
)
def test_managed_nodes_are_told_from_those_of_ray_start(
    monkeypatch: pytest.MonkeyPatch, report: dict[str, Any] | None, is_there: bool
) -> None:
    set_status(monkeypatch, report)
    assert ray_nodes.has_autoscaler() is is_there


def test_a_platform_whose_groups_can_grow_has_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()
    set_status(monkeypatch, None)
    monkeypatch.setattr(ray_nodes, "_kinds_of_new_status", set)

    def groups(*bounds: tuple[int, int]) -> None:
        found = [SimpleNamespace(name="g", min_count=low, max_count=top) for low, top in bounds]
        state = SimpleNamespace(
            get_cluster_config=lambda: SimpleNamespace(node_group_configs=found)
        )
        monkeypatch.setattr(ray_nodes.ray._private.state, "state", state)

    for bounds, is_there in (((2, 2), False), ((0, 4), True), ((1, -1), True)):
        groups((1, 1), bounds)
        assert ray_nodes.has_autoscaler() is is_there


def test_a_ray_that_tells_nothing_of_it_is_no_error(monkeypatch: pytest.MonkeyPatch) -> None:
    def gone() -> set[str]:
        raise AttributeError("no such thing in this Ray")

    monkeypatch.setattr(ray_nodes, "_kinds_that_can_grow", gone)
    assert not ray_nodes.has_autoscaler()
