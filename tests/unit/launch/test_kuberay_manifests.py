"""The KubeRay manifests: keys that are known, and what they are meant to say."""

from __future__ import annotations

import copy
import re
import shlex
from decimal import Decimal
from pathlib import Path

import jsonschema
import pytest
import typer
import yaml
from kubernetes_validate.utils import ValidationError as KubernetesError
from pydantic import ValidationError

from cluster.redaction import redact
from jobs import __version__
from jobs.cli import app
from jobs.spec import load_spec
from jobs.stereoset.spec import StereoSetSpec
from tests.support import kuberay
from tests.support.kuberay import Manifest

ROOT = Path(__file__).parents[3]
FOLDER = ROOT / "cluster" / "launch" / "kuberay"
NAMES = ("gpu", "spot", "tpu")
SPOT_LABELS = (
    {"cloud.google.com/gke-spot": "true"},
    {"eks.amazonaws.com/capacityType": "SPOT"},
    {"karpenter.sh/capacity-type": "spot"},
    {"kubernetes.azure.com/scalesetpriority": "spot"},
)
STABLE_LABELS = (
    {},
    {"cloud.google.com/gke-spot": "false"},
    {"eks.amazonaws.com/capacityType": "ON_DEMAND"},
)
ACCELERATORS = ("nvidia.com/gpu", "google.com/tpu")
TPU_LABELS = {
    "cloud.google.com/gke-tpu-accelerator": "tpu-v5-lite-podslice",
    "cloud.google.com/gke-tpu-topology": "1x1",
}


@pytest.fixture(params=NAMES)
def manifest(request: pytest.FixtureRequest) -> Manifest:
    return Manifest(FOLDER / f"{request.param}.yaml")


def test_every_manifest_is_tested() -> None:
    assert {path.name for path in FOLDER.iterdir()} == {f"{name}.yaml" for name in NAMES}


def test_every_key_is_known(manifest: Manifest) -> None:
    assert manifest.job
    for template in manifest.templates().values():
        kuberay.require_pod_template(template)
    for document in manifest.documents:
        if document["kind"] != "RayJob":
            kuberay.require_known_to_kubernetes(document)


def test_a_key_that_nobody_knows_is_found(manifest: Manifest) -> None:
    """KubeRay would drop it, and the manifest mean something else than it says."""
    spec = copy.deepcopy(manifest.of_kind("RayJob")["spec"])
    with pytest.raises(ValidationError, match="ttlSecondAfterFinished"):
        kuberay.RayJob.model_validate(spec | {"ttlSecondAfterFinished": 1})
    template = copy.deepcopy(manifest.templates()["head"])
    template["spec"]["nodeSelectors"] = {}
    with pytest.raises(KubernetesError, match="nodeSelectors"):
        kuberay.require_pod_template(template)


@pytest.mark.skipif(
    not kuberay.PUBLISHED_CRD.is_file(),
    reason="KubeRay's ray.io_rayjobs.yaml is not beside the checkout in shared/; "
    "STEERSWEEP_KUBERAY_CRD may name it",
)
def test_the_published_schema_accepts_it(manifest: Manifest) -> None:
    crd = yaml.load(kuberay.PUBLISHED_CRD.read_text(), Loader=yaml.CSafeLoader)
    (version,) = [v for v in crd["spec"]["versions"] if v["name"] == "v1"]
    schema = kuberay.closed(version["schema"]["openAPIV3Schema"]["properties"]["spec"])
    jsonschema.Draft202012Validator(schema).validate(manifest.of_kind("RayJob")["spec"])


def test_the_entrypoint_runs_the_sweep_of_the_config_map(
    manifest: Manifest, tmp_path: Path
) -> None:
    program, command, *arguments = shlex.split(manifest.job.entrypoint)
    assert program == "steersweep"
    parser = typer.main.get_command(app).commands[command]
    path = Path(parser.make_context(command, arguments).params["spec"])

    head = manifest.templates()["head"]["spec"]
    (mount,) = [
        m for m in head["containers"][0]["volumeMounts"] if m["mountPath"] == str(path.parent)
    ]
    (volume,) = [v for v in head["volumes"] if v["name"] == mount["name"]]
    config = manifest.of_kind("ConfigMap")
    assert volume["configMap"]["name"] == config["metadata"]["name"]

    (tmp_path / path.name).write_text(config["data"][path.name])
    spec = load_spec(StereoSetSpec, str(tmp_path / path.name))
    assert spec.output.startswith("s3://")
    data_mounts = {m["mountPath"] for m in head["containers"][0]["volumeMounts"]}
    assert str(Path(spec.data.path).parent) in data_mounts
    (data,) = [c["command"] for c in head["initContainers"] if c["name"] == "data"]
    assert data == ["steersweep", "data", "fetch", "--to", spec.data.path]


def test_each_worker_holds_one_replica(manifest: Manifest, tmp_path: Path) -> None:
    path = tmp_path / "sweep.yaml"
    path.write_text(manifest.of_kind("ConfigMap")["data"]["sweep.yaml"])
    compute = load_spec(StereoSetSpec, str(path)).compute
    (group,) = manifest.job.rayClusterSpec.workerGroupSpecs
    limits = group.template["spec"]["containers"][0]["resources"]["limits"]
    assert compute.replicas == group.replicas
    assert compute.cpus_per_replica == int(limits["cpu"])  # a second one does not fit
    assert compute.gpus_per_replica == int(limits.get("nvidia.com/gpu", 0))
    assert compute.device == ("xla" if "google.com/tpu" in limits else "auto")
    assert group.minReplicas <= group.replicas <= group.maxReplicas


def test_the_head_stays_and_holds_no_replica(manifest: Manifest) -> None:
    head = manifest.job.rayClusterSpec.headGroupSpec
    assert head.rayStartParams["num-cpus"] == "0"
    for labels in SPOT_LABELS:
        assert not kuberay.may_run_on(head.template, labels, set())
    for labels in STABLE_LABELS:
        assert kuberay.may_run_on(head.template, labels, set())
    for accelerator in ACCELERATORS:
        assert not kuberay.may_run_on(head.template, {}, {accelerator})


def test_workers_run_where_they_are_meant_to() -> None:
    gpu, spot, tpu = (Manifest(FOLDER / f"{name}.yaml").templates()[name] for name in NAMES)
    gpu_taint, tpu_taint = ({accelerator} for accelerator in ACCELERATORS)
    for labels in SPOT_LABELS:
        taints = gpu_taint | {k for k in labels if k.startswith(("cloud", "kubernetes"))}
        assert kuberay.may_run_on(spot, labels, taints)
        assert not kuberay.may_run_on(gpu, labels, gpu_taint)
        assert not kuberay.may_run_on(tpu, labels | TPU_LABELS, tpu_taint)
    for labels in STABLE_LABELS:
        assert kuberay.may_run_on(gpu, labels, gpu_taint)
        assert not kuberay.may_run_on(spot, labels, gpu_taint)
        assert kuberay.may_run_on(tpu, labels | TPU_LABELS, tpu_taint)
    assert not kuberay.may_run_on(tpu, {}, tpu_taint)


def test_a_failure_starts_over_and_every_end_gives_the_nodes_back(manifest: Manifest) -> None:
    job = manifest.job
    assert job.backoffLimit >= 1
    # As a job of its own, the submitter would start the sweep again on a head that came back, and
    # KubeRay end it for good where that took five minutes.
    assert job.submissionMode == "SidecarMode"
    assert job.shutdownAfterJobFinishes
    assert job.preRunningDeadlineSeconds <= 3600
    assert job.activeDeadlineSeconds >= 3600


def test_only_the_spot_pool_scales() -> None:
    clusters = {name: Manifest(FOLDER / f"{name}.yaml").job.rayClusterSpec for name in NAMES}
    assert {n for n, c in clusters.items() if c.enableInTreeAutoscaling} == {"spot"}
    (group,) = clusters["spot"].workerGroupSpecs
    assert group.minReplicas < group.maxReplicas


def test_no_secret_stands_in_it(manifest: Manifest) -> None:
    assert redact(manifest.text) == manifest.text
    for template in manifest.templates().values():
        (container,) = template["spec"]["containers"]
        assert [s["secretRef"]["name"] for s in container["envFrom"]] == ["steersweep"]
        for variable in container["env"]:
            assert not re.search("TOKEN|KEY|SECRET|PASSWORD", variable["name"])


def test_nobody_reaches_the_dashboard_without_the_token(manifest: Manifest) -> None:
    cluster = manifest.job.rayClusterSpec
    assert cluster.headGroupSpec.serviceType == "ClusterIP"
    assert cluster.authOptions.mode == "token"
    assert "Ingress" not in {document["kind"] for document in manifest.documents}


def test_versions_are_those_of_the_project(manifest: Manifest) -> None:
    pinned = dict(line.split("==") for line in (ROOT / "constraints.txt").read_text().split())
    assert manifest.job.rayClusterSpec.rayVersion == pinned["ray"]
    images = set(re.findall(r"image: (\S+)", manifest.text))
    assert len(images) == 1
    assert images.pop().partition(":")[2] == __version__


def test_pods_are_confined(manifest: Manifest) -> None:
    for name, template in manifest.templates().items():
        spec = template["spec"]
        for container in [*spec["containers"], *spec.get("initContainers", [])]:
            security, resources = container["securityContext"], container["resources"]
            assert security["allowPrivilegeEscalation"] is False
            assert security["capabilities"] == {"drop": ["ALL"]}
            # Memory that was not asked for is taken back by killing the pod.
            assert resources["requests"] == resources["limits"]
            assert Decimal(resources["limits"]["memory"].removesuffix("Gi")) >= 1
        is_root = spec["securityContext"].get("runAsUser") == 0
        assert is_root == (name == "tpu")
