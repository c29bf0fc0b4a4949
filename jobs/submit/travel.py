"""What of a spec travels to a cluster: its text and small files; never weights or data."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from cluster.redaction import redact
from cluster.storage import StorageSpec
from jobs.resources import EMBEDDED, PIP_MODELS, local_path
from jobs.spec import JobSpec
from jobs.sweeps.registry import job_of
from steersweep.errors import UserError

SPEC_NAME = "sweep.yaml"


@dataclass(frozen=True)
class Travelling:
    """A spec as the cluster gets it.

    Attributes:
        spec: YAML, with every override applied.
        files: what it names and brings along, by path beside it.
    """

    spec: str
    files: Mapping[str, bytes]


def travelling(spec: JobSpec) -> Travelling:
    """What of a spec travels.

    Raises:
        UserError: it names something that only this machine can see, or holds a secret, or would
            compute on the head itself.
    """
    if spec.compute.executor == "in_process":
        raise UserError(
            "compute.executor: in_process would compute on the cluster's head node, outside Ray; "
            "use ray"
        )
    _check_output(spec.output)
    shipped = job_of(spec).shipment(spec)
    for key, path in shipped.models:
        _check_model(key, path)
    for key, path in shipped.head_files:
        if not path.startswith("s3://"):
            _check_file(key, path, "the head")
    document = shipped.document
    for key, text in _texts(document):
        if redact(text) != text:
            raise UserError(
                f"{key} holds what looks like a secret, and the spec is sent unencrypted; put it "
                "into the environment of Ray on each node"
            )
    return Travelling(yaml.safe_dump(dict(document), sort_keys=False), shipped.files)


def _check_output(output: str) -> None:
    is_uri = "://" in output
    if not is_uri and not Path(output).is_absolute():
        raise UserError(
            f"output: {output} is a folder on this machine; give s3://bucket/prefix, or the "
            "absolute path of a folder that all nodes share"
        )
    StorageSpec(output)  # refuses what cannot be meant


def _check_model(key: str, path: str) -> None:
    if path.startswith(EMBEDDED):
        if path.removeprefix(EMBEDDED) not in PIP_MODELS:  # the nodes have their own
            local_path(path)  # refuses a name that is not there
        return
    is_here = path.startswith((".", "~")) or Path(path).is_dir()
    if is_here and not Path(path).is_absolute():
        raise UserError(
            f"{key}: {path} is a folder on this machine, and weights are not uploaded; give a hub "
            "id, or the absolute path of a folder that all nodes share"
        )


def _check_file(key: str, path: str, node: str) -> None:
    if path.startswith(EMBEDDED):
        local_path(path)
        return
    if not Path(path).is_absolute():
        raise UserError(
            f"{key}: {path} is a file on this machine, and data files are not uploaded; give its "
            f"absolute path on {node} of the cluster"
        )


def _texts(value: Any, place: str = "") -> Iterator[tuple[str, str]]:
    """Every text of plain data, with where it stands."""
    if isinstance(value, str):
        yield place, value
    elif isinstance(value, Mapping):
        for key, entry in value.items():
            yield from _texts(entry, f"{place}.{key}" if place else str(key))
    elif isinstance(value, list):
        for number, entry in enumerate(value):
            yield from _texts(entry, f"{place}[{number}]")
