"""The zip that travels to a cluster: this package as it is here, and the sweep."""

from __future__ import annotations

import zipfile
from collections.abc import Iterator
from pathlib import Path

import cluster
import jobs
import steering_core
import steersweep
from jobs.submit.travel import SPEC_NAME, Travelling
from steersweep.errors import UserError

MOST_BYTES = 16 * 2**20
_EPOCH = (1980, 1, 1, 0, 0, 0)


def write_package(file: Path, sweep: Travelling, most_bytes: int = MOST_BYTES) -> None:
    """Write the zip. Equal content gives equal bytes, and is uploaded once.

    Raises:
        UserError: it would be larger than ``most_bytes`` unpacked.
    """
    contents = {name: path.read_bytes() for name, path in _sources()}
    contents |= {SPEC_NAME: sweep.spec.encode(), **sweep.files}
    num_bytes = sum(map(len, contents.values()))
    if num_bytes > most_bytes:
        largest = max(contents, key=lambda name: len(contents[name]))
        raise UserError(
            f"the package to upload to the cluster has {num_bytes / 2**20:.1f} MiB, more than the "
            f"limit of {most_bytes / 2**20:.1f} MiB; its largest file is {largest}: remove files "
            "that are not part of steersweep"
        )
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        for name in sorted(contents):
            entry = zipfile.ZipInfo(name, _EPOCH)
            entry.compress_type = zipfile.ZIP_DEFLATED
            entry.external_attr = 0o644 << 16
            archive.writestr(entry, contents[name])


def _sources() -> Iterator[tuple[str, Path]]:
    """Every file of the four packages, by its name in the zip."""
    for package in (cluster, jobs, steering_core, steersweep):
        root = Path(str(package.__file__)).parent
        for path in sorted(root.rglob("*")):
            inside = path.relative_to(root.parent)
            is_made = any(part == "__pycache__" or part.startswith(".") for part in inside.parts)
            if path.is_file() and not is_made:
                yield inside.as_posix(), path
