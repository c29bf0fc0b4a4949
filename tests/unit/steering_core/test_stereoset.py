"""Reading StereoSet files: every field checked, samples that depend on nothing else."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from steering_core.stereoset import BIAS_TYPES, LABELS, OFFICIAL_COUNTS, read_stereoset
from steersweep.errors import UserError
from tests.support.golden import EXAMPLES_PATH

Document = dict[str, Any]


def row(number: int, bias_type: str = "race") -> Document:
    return {
        "id": f"id-{number}",
        "target": f"target {number}",
        "bias_type": bias_type,
        "context": f"Context {number}.",
        "sentences": [
            {"sentence": f"{label} {number}.", "gold_label": label, "id": f"s{i}"}
            for i, label in enumerate(LABELS)
        ],
    }


def document(num_rows: int = 2, bias_type: str = "race") -> Document:
    rows = [row(n, bias_type) for n in range(num_rows)]
    return {"data": {"intersentence": rows, "intrasentence": copy.deepcopy(rows)}}


def write(folder: Path, content: Any) -> Path:
    path = folder / "dev.json"
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    return path


def second(change: Callable[[Document], Any]) -> Callable[[Document], Any]:
    """A change to the second intrasentence example."""
    return lambda document: change(document["data"]["intrasentence"][1])


def sentence(key: str, value: Any) -> Callable[[Document], Any]:
    return second(lambda row: row["sentences"][2].update({key: value}))


AT = "data.intrasentence[1]"
AT_ID = f"{AT} (id id-1)"
CHANGES: dict[str, tuple[Callable[[Document], Any], str]] = {
    "no data": (lambda d: d.pop("data"), "no object under the key 'data'"),
    "data is a list": (lambda d: d.update(data=[]), "no object under the key 'data'"),
    "split is an object": (
        lambda d: d["data"].update(intrasentence={}),
        "data.intrasentence must be a list, got dict",
    ),
    "no example": (lambda d: d.update(data={}), "holds no example"),
    "row is text": (
        lambda d: d["data"]["intrasentence"].insert(1, "x"),
        f"{AT}: must be an object, got str",
    ),
    "no id": (second(lambda r: r.pop("id")), f"{AT}: id is missing"),
    "id is a number": (second(lambda r: r.update(id=7)), f"{AT}: id must be text, got int"),
    "id twice": (second(lambda r: r.update(id="id-0")), f"{AT}: id 'id-0' occurs twice in intra"),
    "no bias_type": (second(lambda r: r.pop("bias_type")), f"{AT_ID}: bias_type is missing"),
    "other bias_type": (
        second(lambda r: r.update(bias_type="age")),
        f"{AT_ID}: bias_type 'age' is not one of gender, profession, race, religion",
    ),
    "no target": (second(lambda r: r.pop("target")), f"{AT_ID}: target is missing"),
    "target is null": (
        second(lambda r: r.update(target=None)),
        f"{AT_ID}: target must be text, got NoneType",
    ),
    "empty context": (second(lambda r: r.update(context=" \n")), f"{AT_ID}: context is empty"),
    "lone surrogate": (
        second(lambda r: r.update(context="\ud800")),
        f"{AT_ID}: context holds a lone surrogate",
    ),
    "no sentences": (
        second(lambda r: r.pop("sentences")),
        f"{AT_ID}: needs exactly 3 sentences, got NoneType",
    ),
    "two sentences": (
        second(lambda r: r["sentences"].pop()),
        f"{AT_ID}: needs exactly 3 sentences, got 2",
    ),
    "four sentences": (
        second(lambda r: r["sentences"].append(r["sentences"][0])),
        f"{AT_ID}: needs exactly 3 sentences, got 4",
    ),
    "sentence is text": (
        second(lambda r: r["sentences"].insert(0, r["sentences"].pop()["sentence"])),
        f"{AT_ID}, sentence 0: must be an object, got str",
    ),
    "no text": (sentence("sentence", ""), f"{AT_ID}, sentence 2: sentence is empty"),
    "text is a list": (
        sentence("sentence", []),
        f"{AT_ID}, sentence 2: sentence must be text, got list",
    ),
    "no gold label": (
        second(lambda r: r["sentences"][2].pop("gold_label")),
        f"{AT_ID}, sentence 2: gold_label is missing",
    ),
    "label twice": (sentence("gold_label", "stereotype"), f"{AT_ID}: gold labels must be"),
    "unknown label": (
        sentence("gold_label", "related"),
        "got stereotype, anti-stereotype, related",
    ),
}


@pytest.mark.parametrize("change", CHANGES)
def test_a_bad_field_is_named_with_its_place(tmp_path: Path, change: str) -> None:
    apply, message = CHANGES[change]
    content = document()
    read_stereoset(write(tmp_path, content))
    apply(content)
    path = write(tmp_path, content)
    with pytest.raises(UserError) as caught:
        read_stereoset(path)
    assert str(caught.value).startswith(f"{path}: ")
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (json.dumps(document())[:-40], "not valid JSON at line 1"),
        ("", "not valid JSON at line 1, column 1"),
        ("[" * 100_000, "nested too deeply"),
        ('"text"', "no object under the key 'data'"),
    ],
    ids=["truncated", "empty", "deep", "a string"],
)
def test_a_file_that_is_not_a_json_object_is_refused(
    tmp_path: Path, content: str, message: str
) -> None:
    with pytest.raises(UserError, match=message):
        read_stereoset(write(tmp_path, content))


def test_an_absurdly_long_number_is_a_plain_error(tmp_path: Path) -> None:
    """Python refuses to parse it with a ValueError that is not a JSONDecodeError."""
    with pytest.raises(UserError, match=r"dev\.json: "):
        read_stereoset(write(tmp_path, '{"version": ' + "1" * 5000 + ', "data": {}}'))


def test_missing_unreadable_and_undecodable_files_are_plain_errors(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"no such data file$"):
        read_stereoset(tmp_path / "absent.json")
    with pytest.raises(UserError, match="cannot be read as UTF-8 text"):
        read_stereoset(tmp_path)
    (tmp_path / "latin.json").write_bytes(b'{"data": "\xe9"}')
    with pytest.raises(UserError, match="cannot be read as UTF-8 text"):
        read_stereoset(tmp_path / "latin.json")


def test_fields_keep_the_order_of_the_file(tmp_path: Path) -> None:
    content = document(1)
    content["data"]["intersentence"][0]["sentences"].reverse()
    first, second_ = read_stereoset(write(tmp_path, content)).examples
    assert (first.split, second_.split) == ("intersentence", "intrasentence")
    assert first.labels == LABELS[::-1]
    assert first.sentences == ("unrelated 0.", "anti-stereotype 0.", "stereotype 0.")
    assert [first.index_of(label) for label in LABELS] == [2, 1, 0]
    assert (first.target, first.context, first.bias_type) == ("target 0", "Context 0.", "race")


def test_the_same_id_may_stand_in_both_splits_and_one_split_may_be_absent(tmp_path: Path) -> None:
    content = document(3)
    assert len(read_stereoset(write(tmp_path, content)).examples) == 6
    del content["data"]["intrasentence"]
    assert read_stereoset(write(tmp_path, content)).counts() == {"intersentence": {"race": 3}}


def test_counts_are_by_split_and_bias_type() -> None:
    by_type = dict.fromkeys(BIAS_TYPES, 3)
    counts = read_stereoset(EXAMPLES_PATH).counts()
    assert counts == {"intersentence": by_type, "intrasentence": by_type}


def test_official_counts_are_those_of_the_paper() -> None:
    totals = {split: sum(counts.values()) for split, counts in OFFICIAL_COUNTS.items()}
    assert totals == {"intersentence": 2123, "intrasentence": 2106}


def test_digest_ignores_formatting_and_sees_every_field(tmp_path: Path) -> None:
    content = document()
    digest = read_stereoset(write(tmp_path, content)).digest
    shuffled = {"version": "9", "data": dict(reversed(content["data"].items()))}
    assert read_stereoset(write(tmp_path, json.dumps(shuffled, indent=3))).digest == digest

    changes: list[Callable[[Document], Any]] = [
        *(second(lambda r, k=k: r.update({k: "changed"})) for k in ("id", "target", "context")),
        second(lambda r: r.update(bias_type="gender")),
        sentence("sentence", "changed"),
        second(lambda r: r["sentences"].reverse()),
        lambda d: d["data"]["intrasentence"].reverse(),
        lambda d: d["data"].update(intersentence=[], intrasentence=d["data"]["intersentence"]),
    ]
    digests = [digest]
    for change in changes:
        changed = copy.deepcopy(content)
        change(changed)
        digests.append(read_stereoset(write(tmp_path, changed)).digest)
    assert len(set(digests)) == len(digests)


def test_a_sample_is_seeded_in_file_order_and_independent_of_other_groups(tmp_path: Path) -> None:
    content = document(40)
    data = read_stereoset(write(tmp_path, content))
    whole = data.group("intersentence", "race")
    assert [e.example_id for e in whole] == [f"id-{n}" for n in range(40)]

    sample = data.group("intersentence", "race", limit=10, seed=1)
    assert len(sample) == 10
    assert [e for e in whole if e in sample] == list(sample)
    assert data.group("intersentence", "race", limit=10, seed=1) == sample
    assert data.group("intersentence", "race", limit=10, seed=2) != sample
    other_split = data.group("intrasentence", "race", limit=10, seed=1)
    assert [e.example_id for e in other_split] != [e.example_id for e in sample]

    content["data"]["intersentence"] += [row(100 + n, "gender") for n in range(5)]
    del content["data"]["intrasentence"]
    alone = read_stereoset(write(tmp_path, content))
    assert alone.group("intersentence", "race", limit=10, seed=1) == sample


@pytest.mark.parametrize("limit", [None, 3, 4])
def test_a_limit_beyond_the_group_keeps_all_of_it(limit: int | None) -> None:
    data = read_stereoset(EXAMPLES_PATH)
    assert data.group("intersentence", "race", limit) == data.group("intersentence", "race")


@pytest.mark.parametrize("key", ["id", "bias_type"])
def test_a_value_of_megabytes_is_not_repeated(key: str, tmp_path: Path) -> None:
    document = json.loads(EXAMPLES_PATH.read_text())
    row = document["data"]["intersentence"][0]
    row[key] = "x" * 10_000_000
    row["sentences"] = [] if key == "id" else row["sentences"]
    path = tmp_path / "dev.json"
    path.write_text(json.dumps(document))
    with pytest.raises(UserError, match=f"{key}.*xxx") as caught:
        read_stereoset(path)
    assert len(str(caught.value)) < 500
