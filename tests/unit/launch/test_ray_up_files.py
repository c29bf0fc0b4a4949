"""The files of Ray's cluster launcher: its own checks, and AWS's part of it against a stand-in."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml
from moto import mock_aws
from ray._private.accelerators import TPUAcceleratorManager
from ray.autoscaler._private.aws.config import bootstrap_aws
from ray.autoscaler._private.util import prepare_config, validate_config

from cluster.redaction import redact_all
from jobs import __version__

FOLDER = Path(__file__).parents[3] / "cluster" / "launch" / "ray-up"
NAMES = ("aws-gpu", "gcp-tpu")


def read(name: str) -> dict[str, Any]:
    """The file as the launcher reads it."""
    return dict(yaml.safe_load((FOLDER / f"{name}.yaml").read_text()))


def test_every_file_is_tested() -> None:
    assert {path.name for path in FOLDER.iterdir()} == {f"{name}.yaml" for name in NAMES}


@pytest.mark.parametrize("name", NAMES)
def test_the_launcher_accepts_it(name: str) -> None:
    config = prepare_config(read(name))
    validate_config(config)
    workers = {k: t for k, t in config["available_node_types"].items() if k != "head"}
    assert all(0 < t["min_workers"] <= t["max_workers"] for t in workers.values())


@pytest.mark.parametrize("name", NAMES)
def test_the_head_stays_and_holds_no_replica(name: str) -> None:
    config = read(name)
    head = config["available_node_types"][config["head_node_type"]]
    assert head["resources"] == {"CPU": 0}
    assert head["max_workers"] == 0
    assert any("--head" in c and "--num-cpus=0" in c for c in config["head_start_ray_commands"])
    assert not {"InstanceMarketOptions", "scheduling", "schedulingConfig"} & set(
        head["node_config"]
    )


@pytest.mark.parametrize("name", NAMES)
def test_nobody_reaches_the_dashboard_without_the_token(name: str) -> None:
    config = read(name)
    starts = config["head_start_ray_commands"] + config["worker_start_ray_commands"]
    assert all("RAY_AUTH_MODE=token" in command for command in starts if "ray start" in command)
    assert "--dashboard-host=127.0.0.1" in config["head_start_ray_commands"][-1]
    assert config["file_mounts"]["~/.ray/auth_token"] == "~/.ray/auth_token"


@pytest.mark.parametrize("name", NAMES)
def test_no_secret_stands_in_it_and_the_image_is_this_version(name: str) -> None:
    config = read(name)
    assert all(source.startswith("~/") for source in config.pop("file_mounts").values())
    assert redact_all(config) == config
    assert config["docker"]["image"].rpartition(":")[2] == __version__


def test_aws_would_start_spot_workers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The launcher looks up keys, networks and images, and asks for nothing more."""
    (tmp_path / ".ssh").mkdir()
    monkeypatch.setenv("HOME", str(tmp_path))
    for variable in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(variable, "testing")
    monkeypatch.delenv("AWS_ENDPOINT_URL", raising=False)
    monkeypatch.delenv("AWS_ENDPOINT_URL_S3", raising=False)
    mock = mock_aws()
    mock.start(reset=False)  # the data are those of the session's S3 server, too
    try:
        config = bootstrap_aws(prepare_config(read("aws-gpu")))
    finally:
        mock.stop(remove_data=False)
    types = config["available_node_types"]
    worker, head = (types[name]["node_config"] for name in ("gpu-spot", "head"))
    assert worker["InstanceMarketOptions"] == {"MarketType": "spot"}
    assert worker["IamInstanceProfile"] == {"Name": "steersweep-worker"}
    assert head["SecurityGroupIds"] == worker["SecurityGroupIds"]
    assert head["SubnetIds"] and head["KeyName"]


def test_a_tpu_worker_is_one_preemptible_chip() -> None:
    worker = read("gcp-tpu")["available_node_types"]["tpu-preemptible"]
    kind = worker["node_config"]["acceleratorType"]
    assert TPUAcceleratorManager.is_valid_tpu_accelerator_type(kind)
    assert kind.endswith("-1")
    assert worker["resources"]["TPU"] == 1
    assert worker["node_config"]["schedulingConfig"] == {"preemptible": True}
