"""What tests of the KubeRay manifests need: the keys of a RayJob, and where a pod may run.

Models list the keys of KubeRay's API that the manifests use, and refuse any other; pod templates
are held against Kubernetes' own schemas.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, TypeAlias

import kubernetes_validate
import yaml
from pydantic import BaseModel, ConfigDict, Field

KUBERNETES = "1.31"
"""The oldest version that the manifests are held against; newer ones know all of its fields."""

PUBLISHED_CRD = Path(
    os.environ.get("STEERSWEEP_KUBERAY_CRD")
    or Path(__file__).parents[3] / "shared" / "data" / "kuberay" / "ray.io_rayjobs.yaml"
)
"""KubeRay's own schema, where somebody has put it."""

Document: TypeAlias = dict[str, Any]


class _Keys(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)


class AutoscalerOptions(_Keys):
    idleTimeoutSeconds: int = Field(ge=0)
    resources: Document


class AuthOptions(_Keys):
    mode: Literal["disabled", "token"]


class HeadGroup(_Keys):
    serviceType: Literal["ClusterIP", "NodePort", "LoadBalancer"]
    rayStartParams: dict[str, str]
    template: Document


class WorkerGroup(_Keys):
    groupName: str = Field(pattern=r"[a-z]([-a-z0-9]*[a-z0-9])?")
    replicas: int = Field(ge=0)
    minReplicas: int = Field(ge=0)
    maxReplicas: int = Field(ge=1)
    rayStartParams: dict[str, str]
    template: Document


class RayCluster(_Keys):
    rayVersion: str = Field(pattern=r"\d+\.\d+\.\d+")
    authOptions: AuthOptions
    enableInTreeAutoscaling: bool = False
    autoscalerOptions: AutoscalerOptions | None = None
    headGroupSpec: HeadGroup
    workerGroupSpecs: list[WorkerGroup] = Field(min_length=1)


class RayJob(_Keys):
    """``spec`` of a RayJob."""

    entrypoint: str
    submissionMode: Literal["K8sJobMode", "SidecarMode"]
    backoffLimit: int = Field(ge=0)
    preRunningDeadlineSeconds: int = Field(ge=1)
    activeDeadlineSeconds: int = Field(ge=1)
    shutdownAfterJobFinishes: bool
    ttlSecondsAfterFinished: int = Field(ge=0)
    rayClusterSpec: RayCluster


class Manifest:
    """The documents of one file, by kind."""

    def __init__(self, path: Path) -> None:
        self.text = path.read_text()
        self.documents: list[Document] = list(yaml.safe_load_all(self.text))

    def of_kind(self, kind: str) -> Document:
        """The one document of that kind."""
        (found,) = [d for d in self.documents if d["kind"] == kind]
        return found

    @property
    def job(self) -> RayJob:
        return RayJob.model_validate(self.of_kind("RayJob")["spec"])

    def templates(self) -> dict[str, Document]:
        """The pod templates by the name of their group."""
        cluster = self.job.rayClusterSpec
        workers = {group.groupName: group.template for group in cluster.workerGroupSpecs}
        return {"head": cluster.headGroupSpec.template, **workers}


def require_known_to_kubernetes(document: Document) -> None:
    """Raise where Kubernetes would refuse the document or drop one of its keys."""
    kubernetes_validate.validate(document, KUBERNETES, strict=True)


def require_pod_template(template: Document) -> None:
    """As above, for a template, which KubeRay completes with a name."""
    pod = {"apiVersion": "v1", "kind": "PodTemplate", "metadata": {"name": "x"}}
    require_known_to_kubernetes({**pod, "template": template})


def may_run_on(template: Document, labels: Mapping[str, str], taints: set[str]) -> bool:
    """Whether a pod of the template may be placed on a node of these labels and taint keys."""
    spec = template["spec"]
    if taints - {t["key"] for t in spec.get("tolerations", [])}:
        return False
    if any(labels.get(key) != value for key, value in spec.get("nodeSelector", {}).items()):
        return False
    affinity = spec.get("affinity", {}).get("nodeAffinity", {})
    terms = affinity.get("requiredDuringSchedulingIgnoredDuringExecution", {}).get(
        "nodeSelectorTerms", [{"matchExpressions": []}]
    )
    return any(all(_matches(e, labels) for e in term["matchExpressions"]) for term in terms)


def _matches(expression: Document, labels: Mapping[str, str]) -> bool:
    is_in = labels.get(expression["key"]) in expression["values"]
    return {"In": is_in, "NotIn": not is_in}[expression["operator"]]


def closed(schema: Any) -> Any:
    """The OpenAPI schema with unknown keys refused, which an API server drops without a word."""
    if isinstance(schema, list):
        return [closed(entry) for entry in schema]
    if not isinstance(schema, dict):
        return schema
    made = {key: closed(value) for key, value in schema.items()}
    has_keys = isinstance(schema.get("properties"), dict) and schema.get("type") == "object"
    if has_keys and not schema.get("x-kubernetes-preserve-unknown-fields"):
        made.setdefault("additionalProperties", False)
    return made
