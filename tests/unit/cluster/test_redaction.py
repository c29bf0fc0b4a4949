"""Secrets of every form that this project meets are hidden, and words that look like them stay."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest

from cluster.ledger import Ledger
from cluster.logs import StoredLog
from cluster.redaction import HIDDEN, redact, redact_all
from cluster.storage import StorageSpec

SIGNED = (
    "https://bucket.s3.amazonaws.com/k?X-Amz-Algorithm=AWS4-HMAC-SHA256"
    "&X-Amz-Credential=AKIAPLANTED0000SECRET%2F20260101&X-Amz-Signature=plantedc0ffee"
    "&X-Amz-Security-Token=plantedFwoGZXIvYXdz"
)
SECRETS = {
    "signed address": (SIGNED, ["PLANTED", "planted", "c0ffee"]),
    "user and password": ("http://planted:hunter2@host:9000/x", ["planted", "hunter2"]),
    "access key": ("key AKIAPLANTED0000SECRET is unknown", ["PLANTED"]),
    "hub token": ("Invalid token hf_plantedplantedplanted", ["planted"]),
    "bearer": ("Authorization: Bearer planted.planted-planted", ["planted"]),
    "json": ('{"aws_secret_access_key": "planted/planted", "x": 1}', ["planted"]),
    "assignment": ("api_key='planted-planted', limit=3", ["planted"]),
    "environment": ("AWS_SESSION_TOKEN=planted+planted==", ["planted"]),
    "jwt": ("got eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiJwbGFudGVkIn0.c2lnbmF0dXJl", ["eyJ"]),
}
HARMLESS = [
    "tokens_per_batch=1048576, tokenizer: models/gemma2",
    "task 5d41402abc4b2a76b9719d911017c592 failed: layer must be in 1..26",
    "s3://bucket/prefix/run.json at http://127.0.0.1:9000",
    "models.tiny (tokenizer): 5d41402abc4b -> 7d793037a076",
    "the AWS credentials have expired (ExpiredToken); renew them",
]


@pytest.mark.parametrize("name", list(SECRETS))
def test_a_secret_is_hidden(name: str) -> None:
    text, planted = SECRETS[name]
    shown = redact(text)
    assert HIDDEN in shown
    for secret in planted:
        assert secret not in shown


@pytest.mark.parametrize("text", HARMLESS)
def test_what_is_no_secret_stays(text: str) -> None:
    assert redact(text) == text


def test_where_it_was_said_stays() -> None:
    shown = redact(SIGNED)
    assert shown.startswith("https://bucket.s3.amazonaws.com/k?X-Amz-Algorithm=AWS4-HMAC-SHA256")
    assert redact("http://u:p@host/x") == f"http://{HIDDEN}@host/x"


def test_values_of_secret_variables_are_hidden_wherever_they_stand(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "Planted/With+Signs=")
    monkeypatch.setenv("MY_SERVICE_TOKEN", "planted value")
    monkeypatch.setenv("SHORT_TOKEN", "short")
    monkeypatch.setenv("TOKENIZERS_PARALLELISM", "falsehood")
    shown = redact("a Planted/With+Signs=b planted value; a short falsehood")
    assert shown == f"a {HIDDEN}b {HIDDEN}; a short falsehood"


def test_plain_data_is_redacted_all_the_way_down() -> None:
    data = {"a": [SIGNED, 1, None], "b": {"c": ("hf_plantedplantedplanted", 2.5, True)}}
    shown = redact_all(data)
    assert "lanted" not in str(shown)
    assert shown["a"][1:] == [1, None]
    assert shown["b"]["c"] == [HIDDEN, 2.5, True]


def test_logs_and_records_go_through_it(tmp_path: Path) -> None:
    storage = StorageSpec(str(tmp_path)).open()
    log = StoredLog(storage, "log/x.log")
    try:
        raise RuntimeError(f"cannot get {SIGNED}")
    except RuntimeError as error:
        record = logging.LogRecord(
            "cluster", logging.ERROR, __file__, 1, "failed: %s", (SIGNED,), None
        )
        record.exc_info = (type(error), error, error.__traceback__)
        log.emit(record)
    log.close()
    fields = {"identity": {}, "spec": {"path": SIGNED}, "started": "", "outcome": "", "sessions": 0}
    Ledger(storage).write_record(fields)
    for file in tmp_path.rglob("*"):
        if file.is_file():
            assert "lanted" not in file.read_text(), file
            assert HIDDEN in file.read_text()
