"""From a path and a format to examples: sampling, frames, orders, digests, and what is refused."""

from __future__ import annotations

import json
import random
import sys
import types
from pathlib import Path
from typing import Any, ClassVar

import pytest

from jobs.datasets.load import digest_of, load_examples
from jobs.resources import local_path
from steersweep.errors import UserError
from tests.support.choice_scores import shared_file


def record(number: int) -> dict[str, Any]:
    return {
        "id": f"x{number}",
        "prompt": f"Q{number}?\nA. one\nB. two\nC. three\nAnswer:",
        "candidates": [{"text": f" {x}", "label": x.lower()} for x in "ABC"],
    }


@pytest.fixture
def data(tmp_path: Path) -> str:
    path = tmp_path / "data.jsonl"
    path.write_text("\n".join(json.dumps(record(n)) for n in range(20)))
    return str(path)


def test_all_of_a_file(data: str) -> None:
    dataset, examples, digest = load_examples(data)
    assert dataset.name == "choices"
    assert [e.example_id for e in examples] == [f"x{n}" for n in range(20)]
    assert digest == digest_of(examples)


def test_a_sample_is_seeded_and_in_order(data: str) -> None:
    rng = random.Random("3/choices")
    expected = [f"x{n}" for n in sorted(rng.sample(range(20), 5))]
    loaded = load_examples(data, limit=5, seed=3)
    assert [e.example_id for e in loaded.examples] == expected
    assert len(load_examples(data, limit=99).examples) == 20


def test_the_digest_is_of_the_whole_content(data: str, tmp_path: Path) -> None:
    digest = load_examples(data).digest
    assert load_examples(data, limit=2, frame="cloze").digest == digest
    other = tmp_path / "other.json"
    other.write_text(json.dumps([record(n) for n in range(20)], indent=3))
    assert load_examples(str(other)).digest == digest
    other.write_text(json.dumps([record(n) for n in range(19)]))
    assert load_examples(str(other)).digest != digest


def test_frame_and_orders(data: str) -> None:
    examples = load_examples(data, frame="letters", candidate_orders=3, limit=2).examples
    assert [e.group_value("order") for e in examples] == ["0", "1", "2"] * 2
    assert {e.options for e in examples} > {("one", "two", "three")}
    with pytest.raises(UserError, match=r"data.jsonl: example x\d+ cannot be put into another"):
        load_examples(data, frame="cloze", candidate_orders=2)


def test_stereoset_is_fetched_by_its_name(monkeypatch: pytest.MonkeyPatch) -> None:
    file = Path(local_path("embedded:examples.json"))
    monkeypatch.setattr("jobs.data.fetch_stereoset", lambda: file)
    by_name = load_examples("stereoset")
    assert by_name.dataset.name == "stereoset"
    assert by_name == load_examples("embedded:examples.json", "stereoset")


def test_columns_are_mapped(tmp_path: Path) -> None:
    path = tmp_path / "data.csv"
    path.write_text("q,good,bad\nWhy?,because,so\n")
    fields = {"prompt": "q", "candidates": ["good", "bad"]}
    [example] = load_examples(str(path), fields=fields).examples
    assert (example.prompt, example.texts) == ("Why?", (" because", " so"))
    assert example.labels == ("good", "bad")


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"format": "crows"}, "unknown format 'crows'; choose one of choices, stereoset, crows"),
        (
            {"format": "bbq", "fields": {}},
            "fields: only the formats choices and text take them, and this is bbq",
        ),
        ({"format": "text", "frame": "cloze"}, "frame: format text has none, since a text has no"),
        ({"format": "text", "candidate_orders": 2}, "candidate_orders: format text has none"),
        ({"format": "text", "fields": {"txt": "prompt"}}, "unknown key txt; did you mean text?"),
        ({"format": "text", "fields": {"id": "id"}}, "fields.text is required: the column that"),
        ({"format": "text", "fields": {"text": ["id"]}}, "fields.text: expected the name of a"),
        ({"frame": "cloz"}, "frame: expected one of as_given, letters, cloze, got 'cloz'"),
        ({"candidate_orders": 0}, "candidate_orders: expected at least 1, got 0"),
        ({"limit": 0}, "limit: expected at least 1, got 0"),
        ({"split": "test"}, "split: only data on the hub (hf:owner/name) has one"),
        ({"format": "crows_pairs"}, "record 1 (id x0): sent_more: is missing"),
    ],
)
def test_options_that_are_refused(data: str, options: dict[str, Any], says: str) -> None:
    with pytest.raises(UserError) as caught:
        load_examples(data, **options)
    assert says in str(caught.value)


def test_texts_of_lines_and_of_a_column(tmp_path: Path) -> None:
    lines, table = tmp_path / "data.TXT", tmp_path / "data.csv"
    lines.write_text("It rains.\nIt snows.\n")
    table.write_text("article,source\nIt rains.,a\nIt snows.,b\n")
    loaded = load_examples(str(lines), "text")
    assert loaded.dataset.name == "text"
    assert [e.texts for e in loaded.examples] == [("It rains.",), ("It snows.",)]
    fields = {"text": "article", "cluster": "source", "group": {"from": "source"}}
    mapped = load_examples(str(table), "text", fields=fields).examples
    assert [e.texts for e in mapped] == [e.texts for e in loaded.examples]
    assert [(e.cluster, e.group_value("from")) for e in mapped] == [("a", "a"), ("b", "b")]
    with pytest.raises(UserError, match="is a plain text file, which only format text reads"):
        load_examples(str(lines))


def test_the_neutral_texts_are_fifty_different_paragraphs() -> None:
    path = Path(local_path("embedded:neutral-texts.txt"))
    texts = [e.texts[0] for e in load_examples(str(path), "text").examples]
    assert len(texts) == len(set(texts)) == 50
    assert all(40 <= len(text.split()) <= 90 for text in texts)
    assert all(text.isascii() and text == text.strip() for text in texts)


def test_an_id_in_both_splits_of_stereoset(tmp_path: Path) -> None:
    document = json.loads(Path(local_path("embedded:examples.json")).read_text())
    first = document["data"]["intersentence"][0]
    document["data"]["intrasentence"][0]["id"] = first["id"]
    path = tmp_path / "dev.json"
    path.write_text(json.dumps(document))
    with pytest.raises(UserError, match="occurs in both splits"):
        load_examples(str(path), "stereoset")


class _Classes:
    """A column of classes, as the package ``datasets`` has it."""

    names = ("age", "gender")

    def int2str(self, number: int) -> str:
        return self.names[number]


class _Table(list[dict[str, Any]]):
    features: ClassVar = {"bias_type": _Classes(), "n": object()}


def hub(monkeypatch: pytest.MonkeyPatch, loaded: Any) -> list[Any]:
    """Puts a package ``datasets`` in place whose calls are kept."""
    calls: list[Any] = []

    def load_dataset(*arguments: Any, **options: Any) -> Any:
        calls.append((arguments, options))
        if isinstance(loaded, Exception):
            raise loaded
        return loaded

    package = types.ModuleType("datasets")
    package.load_dataset = load_dataset  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "datasets", package)
    return calls


PAIR = {"sent_more": "a", "sent_less": "b", "stereo_antistereo": "stereo", "bias_type": 1}


def test_rows_of_the_hub_have_names_for_classes(monkeypatch: pytest.MonkeyPatch) -> None:
    calls = hub(monkeypatch, {"test": _Table([PAIR])})
    [example] = load_examples("hf:o/pairs", "crows_pairs", config="en", revision="v1").examples
    assert example.group_value("bias_type") == "gender"
    assert calls == [(("o/pairs", "en"), {"split": None, "revision": "v1"})]


def test_a_split_must_be_chosen(monkeypatch: pytest.MonkeyPatch) -> None:
    hub(monkeypatch, {"train": _Table(), "test": _Table()})
    with pytest.raises(UserError, match="hf:o/pairs: has the splits train, test; choose one"):
        load_examples("hf:o/pairs")


def test_the_hub_says_no(monkeypatch: pytest.MonkeyPatch) -> None:
    hub(monkeypatch, OSError("no such\ndata set"))
    with pytest.raises(UserError, match="hf:o/pairs: cannot be loaded: no such data set"):
        load_examples("hf:o/pairs")
    with pytest.raises(UserError, match="hf:: expected hf:owner/name"):
        load_examples("hf:")


def test_the_package_is_optional(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(UserError, match="install it with: pip install datasets"):
        load_examples("hf:o/pairs")


@pytest.mark.parametrize(
    ("name", "format_", "frame", "number"),
    [
        ("bbq/Age.jsonl", "bbq", "letters", 3680),
        ("crows_pairs/crows_pairs_anonymized.csv", "crows_pairs", "as_given", 1508),
        ("mmlu/mmlu-500.choices.jsonl", "choices", "cloze", 500),
        ("model_written_evals/myopic-reward.jsonl", "model_written_evals", "letters", 1000),
        ("stereoset/dev.json", "stereoset", "as_given", 4229),
    ],
)
def test_the_real_data(name: str, format_: str, frame: Any, number: int) -> None:
    loaded = load_examples(str(shared_file(name)), format_, frame=frame)
    assert len(loaded.examples) == number
