"""Where the texts of an output come from and under which license, as far as that is known."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import PurePath

import pyarrow as pa

from jobs.resources import EMBEDDED
from steering_core.datasets.base import ChoiceDataset

_OFFICIAL_STEREOSET = "fe354a3b8a08de01f341b7539d3b7ba684b4ad0396df144a526748d9f2b74f4c"
"""``examples_digest`` of the official development set: all examples, in the file's order."""


@dataclass(frozen=True)
class DataSource:
    """What a reader of copied texts must know about them.

    Attributes:
        license: an identifier as the Hugging Face hub spells it, or ``unknown``.
        source: who made the texts, in a sentence.
        homepage: where they are published; empty if that is not known.
    """

    license: str
    source: str
    homepage: str = ""

    @classmethod
    def of(cls, texts: pa.Table) -> DataSource:
        """The source that a table of texts names in its metadata."""
        found = {k.decode(): v.decode() for k, v in (texts.schema.metadata or {}).items()}
        return cls(
            found.get("license", "unknown"),
            found.get("source", "not stated"),
            found.get("homepage", ""),
        )

    @classmethod
    def joined(cls, sources: Sequence[DataSource]) -> DataSource:
        """What must be known of texts from several sources."""
        each = list(dict.fromkeys(sources))
        if len(each) == 1:
            return each[0]
        licenses = dict.fromkeys(source.license for source in each)
        return cls(" and ".join(licenses), "; ".join(source.source for source in each))

    def metadata(self) -> dict[str, str]:
        """Key-value metadata for a Parquet file.

        ``huggingface`` is what the ``datasets`` library keeps there of a data set's description.
        """
        info = {"description": self.source, "license": self.license, "homepage": self.homepage}
        return {
            "license": self.license,
            "source": self.source,
            "homepage": self.homepage,
            "huggingface": json.dumps({"info": info}),
        }


def source_of_stereoset(path: str, digest: str) -> DataSource:
    """The source of a data file in StereoSet's format.

    Args:
        path: as the spec has it.
        digest: of the file's examples. The official file is known by it; a file with changed,
            reordered or missing examples is not.
    """
    if digest == _OFFICIAL_STEREOSET:
        return DataSource(
            "cc-by-sa-4.0",
            "StereoSet, development set (Nadeem, Bethke, Reddy 2020), CC BY-SA 4.0",
            "https://github.com/moinnadeem/StereoSet",
        )
    if path.startswith(EMBEDDED):
        return DataSource("apache-2.0", "Examples written for steersweep's own demo and tests")
    return DataSource(
        "unknown",
        f"{PurePath(path).name}, which is not StereoSet's official development set; its license "
        "is what its own source states",
    )


def source_of_persona() -> DataSource:
    """The source of questions, instructions and answers of a persona sweep."""
    return DataSource(
        "unknown",
        "Questions and instructions from trait files, answers written by language models; the "
        "license is what the sources of both state",
    )


def source_of_set(dataset: ChoiceDataset, path: str) -> DataSource:
    """Where the texts of a data set come from, for whoever gets a copy of them."""
    if not dataset.homepage:  # a user's own
        return DataSource("unknown", f"{path}; the license is what its source says")
    return DataSource(dataset.licence, dataset.title, dataset.homepage)
