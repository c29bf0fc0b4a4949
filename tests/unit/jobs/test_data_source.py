"""What an output says about the source and license of the texts that it copies."""

from __future__ import annotations

import json

import pyarrow as pa

from jobs.data_source import DataSource, source_of_persona, source_of_stereoset
from steering_core.stereoset import read_stereoset
from tests.support.stereoset_data import DEV_JSON, needs_dev_json


@needs_dev_json
def test_the_official_file_is_known_by_its_content() -> None:
    digest = read_stereoset(DEV_JSON).digest
    found = source_of_stereoset("some/name.json", digest)
    assert found.license == "cc-by-sa-4.0"
    assert "Nadeem" in found.source
    assert found.homepage == "https://github.com/moinnadeem/StereoSet"


def test_other_files_have_no_license_that_we_know() -> None:
    found = source_of_stereoset("/home/me/dev.json", "0" * 64)
    assert found.license == "unknown"
    assert "dev.json, which is not StereoSet's official development set" in found.source
    assert "/home" not in json.dumps(found.metadata()), "a path of this machine is published"
    assert source_of_persona().license == "unknown"
    assert source_of_stereoset("embedded:examples.json", "0" * 64).license == "apache-2.0"


def test_a_table_of_texts_keeps_its_source() -> None:
    source = DataSource("cc-by-sa-4.0", "the makers", "https://example.org")
    table = pa.table({"text": ["a"]}).replace_schema_metadata(source.metadata())
    assert DataSource.of(table) == source
    assert DataSource.of(pa.table({"text": ["a"]})).license == "unknown"
    described = json.loads(source.metadata()["huggingface"])["info"]
    assert (described["license"], described["homepage"]) == ("cc-by-sa-4.0", "https://example.org")
