"""What may travel in the open, and what each node must bring."""

from __future__ import annotations

import os

import pytest

from cluster.environment import NEEDS_VARIABLE, needs, plain_variables, require_variables
from cluster.replica import Replica
from cluster.storage import StorageSpec
from cluster.tasks import Failure, FailureKind, WorkerFactory
from steersweep.errors import UserError


def test_plain_settings_travel() -> None:
    assert plain_variables(["A=1", "B=x=y", "C="]) == {"A": "1", "B": "x=y", "C": ""}


@pytest.mark.parametrize(
    "setting",
    [
        "HF_TOKEN=abc",
        "AWS_SECRET_ACCESS_KEY=abc",
        "OPENAI_API_KEY=abc",
        "PLAIN=hf_abcdefghijklmnopqrst",
        "PLAIN=planted-in-the-environment",
        "PLAIN=https://user:word@host/",
        "PLAIN=${HF_TOKEN}",
    ],
)
def test_a_setting_that_looks_like_a_secret_is_refused_and_not_repeated(
    setting: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SOME_PASSWORD", "planted-in-the-environment")
    name, _, value = setting.partition("=")
    with pytest.raises(UserError, match=f"{name} looks like a secret") as caught:
        plain_variables([setting])
    assert value not in str(caught.value)


@pytest.mark.parametrize("setting", ["A", "=x", "1A=x", "A B=x"])
def test_a_setting_is_name_and_value(setting: str) -> None:
    with pytest.raises(UserError, match="NAME=VALUE"):
        plain_variables([setting])


def test_needs_take_names_only() -> None:
    assert needs([]) == {}
    assert needs(["HF_TOKEN", "X", "HF_TOKEN"]) == {NEEDS_VARIABLE: "HF_TOKEN,X"}
    with pytest.raises(UserError) as caught:
        needs(["HF_TOKEN=verysecret"])
    assert "verysecret" not in str(caught.value)


def test_what_is_needed_and_not_there_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(NEEDS_VARIABLE, raising=False)
    require_variables()
    monkeypatch.setenv("NEEDED_HERE", "1")
    monkeypatch.setenv(NEEDS_VARIABLE, "NEEDED_HERE")
    require_variables()
    monkeypatch.setenv(NEEDS_VARIABLE, "NEEDED_HERE,NOT_THERE")
    with pytest.raises(UserError, match=r"^NOT_THERE must be in the environment"):
        require_variables()


def test_a_replica_on_a_node_without_it_is_not_ready(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(NEEDS_VARIABLE, "NOT_THERE")
    factory = WorkerFactory("tests.support.workers:NoSuchWorker", {})
    failure = Replica(factory, StorageSpec(os.devnull)).ready()
    assert isinstance(failure, Failure)
    assert (failure.kind, failure.user_must_act) == (FailureKind.RUN, True)
    assert "NOT_THERE" in failure.message
