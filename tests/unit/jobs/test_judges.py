"""Judges behind an address, at hand, and by words: scores, counts, cost, and what goes wrong."""

from __future__ import annotations

import asyncio
import logging
import math
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
from pydantic import TypeAdapter

from cluster.errors import StorageUnavailableError
from cluster.parts import read_part
from cluster.storage import Storage, StorageSpec
from jobs.persona.judges import (
    Answer,
    Judge,
    JudgeSpec,
    Query,
    Scorer,
    Verdict,
)
from jobs.persona.judges.local_judge import LocalJudge
from jobs.persona.judges.prompts import COHERENCE_PROMPT, fill
from jobs.persona.judges.replies import PREFIX, ReplyStore
from jobs.persona.judges.scoring import MOST_FAILURES_IN_A_ROW
from jobs.persona.judges.word_list import telling_words
from jobs.spec import SpecModel, load_spec
from steersweep.errors import UserError
from tests.support.judge_server import (
    NUM_TOKENS_IN,
    NUM_TOKENS_OUT,
    JudgeServer,
    Reply,
    anthropic_reply,
    first_tokens,
    judge_server,
    openai_reply,
)
from tests.support.traits import TRAIT, answers

KEY = "sk-not-a-real-key-0123456789abcdef"
ANSWERS = answers(6)
_SPEC: TypeAdapter[Any] = TypeAdapter(JudgeSpec)


@pytest.fixture(autouse=True)
def environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("OPENAI_BASE_URL", "ANTHROPIC_BASE_URL", "OPENAI_ORG_ID", "OPENAI_PROJECT_ID"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("NO_PROXY", "*")
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    monkeypatch.setenv("ANTHROPIC_API_KEY", KEY)


def openai_judge(server: JudgeServer, **changed: Any) -> Judge:
    document = {"kind": "openai", "model": "m", "base_url": server.openai_url, "max_retries": 2}
    return _SPEC.validate_python({**document, **changed}).open([TRAIT])


def anthropic_judge(server: JudgeServer, **changed: Any) -> Judge:
    document = {"kind": "anthropic", "model": "m", "base_url": server.url, "max_retries": 2}
    return _SPEC.validate_python({**document, **changed}).open([TRAIT])


def test_plans_and_submitting_learn_from_its_settings_what_a_judge_needs() -> None:
    server = _SPEC.validate_python({"kind": "openai", "model": "m"})
    here = _SPEC.validate_python({"kind": "local", "path": "org/judge"})
    words = _SPEC.validate_python({"kind": "word_list"})
    assert [judge.is_server for judge in (server, here, words)] == [True, False, False]
    models = [judge.local_model and judge.local_model.path for judge in (server, here, words)]
    assert models == [None, "org/judge", None]


def storage_in(folder: Path) -> Storage:
    return StorageSpec(str(folder / "run")).open()


def by_answer(replies: Sequence[Reply], coherence: Reply) -> Callable[[str, int], Reply]:
    """Replies to queries of the trait by the answer's number, and one to all of coherence."""

    def reply(prompt: str, _num_before: int) -> Reply:
        if "Is it cheerful?" not in prompt:
            return coherence
        return replies[int(prompt.partition("answer ")[2].split("\n")[0])]

    return reply


def said(verdicts: Sequence[Verdict]) -> list[tuple[str, float | None]]:
    return [
        (v.outcome, None if v.score is None else pytest.approx(v.score)) for v in verdicts
    ]  # fmt: skip


COHERENT = first_tokens({"90": 0.9, "80": 0.1})


def test_log_probabilities_become_scores_refusals_and_nonsense_are_none(tmp_path: Path) -> None:
    replies = [
        first_tokens({"80": 0.6, "90": 0.2, "The": 0.1}),
        first_tokens({"REF": 0.9, "0": 0.1}),
        openai_reply(None, refusal="I will not"),
        openai_reply("", finish="content_filter"),
        openai_reply("85"),
        first_tokens({"Sure": 0.8, "100": 0.2}),
    ]
    with judge_server(by_answer(replies, COHERENT)) as server:
        scorer = Scorer(openai_judge(server), storage_in(tmp_path))
        judgements = scorer.score(TRAIT, ANSWERS)
    assert said([j.trait for j in judgements]) == [
        ("scored", (80 * 0.6 + 90 * 0.2) / 0.8),
        ("refused", None),
        ("refused", None),
        ("refused", None),
        ("unparsable", None),
        ("unparsable", None),
    ]
    assert said([j.coherence for j in judgements]) == [("scored", 89.0)] * 6
    assert sorted(server.prompts) == sorted(
        fill(prompt, a.question, a.text)
        for a in ANSWERS
        for prompt in (TRAIT.eval_prompt, COHERENCE_PROMPT)
    )
    body = server.bodies[0]
    assert {k: body[k] for k in ("max_tokens", "logprobs", "top_logprobs", "temperature")} == {
        "max_tokens": 1,
        "logprobs": True,
        "top_logprobs": 20,
        "temperature": 0.0,
    }
    assert server.keys == [f"Bearer {KEY}"] * 12


def test_the_cost_is_counted(tmp_path: Path) -> None:
    with judge_server(lambda *_: COHERENT) as server:
        scorer = Scorer(openai_judge(server), storage_in(tmp_path))
        scorer.score(TRAIT, ANSWERS)
        scorer.score(TRAIT, [*ANSWERS, Answer("How are you?", "new")])
    calls = 14
    assert len(server.prompts) == calls
    assert (scorer.usage.num_calls, scorer.usage.num_cached) == (calls, 12)
    assert scorer.usage.num_tokens_in == NUM_TOKENS_IN * calls
    assert scorer.cost_line() == (
        f"judge m: 14 queries ({NUM_TOKENS_IN * calls} tokens in, {NUM_TOKENS_OUT * calls} tokens "
        "out); 12 verdicts were reused"
    )


def test_answers_that_are_alike_are_judged_once() -> None:
    with judge_server(lambda *_: COHERENT) as server:
        judgements = Scorer(openai_judge(server)).score(TRAIT, [ANSWERS[0]] * 3)
    assert len(server.prompts) == 2
    assert judgements[0] == judgements[2]


@pytest.mark.parametrize("failure", [429, 500, 503, b"<html>busy</html>"])
def test_what_passes_is_tried_again_and_what_stays_has_failed(failure: Reply) -> None:
    def reply(prompt: str, num_before: int) -> Reply:
        stays = "answer 0" in prompt
        return failure if stays or ("answer 1" in prompt and num_before < 2) else COHERENT

    with judge_server(reply) as server:
        judgements = Scorer(openai_judge(server)).score(TRAIT, ANSWERS[:3])
    if isinstance(failure, int):
        assert [j.trait.outcome for j in judgements] == ["failed", "scored", "scored"]
        assert judgements[0].trait.said == f"HTTP {failure}"
        # Two queries each: three tries for what stays and for what passes at the third, one else.
        assert len(server.prompts) == 2 * (3 + 3 + 1)
    else:
        assert [j.trait.outcome for j in judgements] == ["failed", "failed", "scored"]
    assert judgements[0].trait.score is None


def test_a_failed_query_is_asked_again_by_the_next_session_and_no_other(tmp_path: Path) -> None:
    is_down = True

    def reply(prompt: str, _num_before: int) -> Reply:
        return 400 if is_down and "answer 2" in prompt else COHERENT

    with judge_server(reply) as server:
        first = Scorer(openai_judge(server), storage_in(tmp_path)).score(TRAIT, ANSWERS)
        assert [j.trait.outcome for j in first].count("failed") == 1
        assert len(server.prompts) == 12  # 400 is not tried again
        is_down = False
        scorer = Scorer(openai_judge(server), storage_in(tmp_path))
        second = scorer.score(TRAIT, ANSWERS)
    assert [j.trait.outcome for j in second] == ["scored"] * 6
    assert [p for p in server.prompts[12:] if "answer 2" not in p] == []
    assert (scorer.usage.num_calls, scorer.usage.num_cached) == (2, 10)


def test_requests_under_way_are_bounded_and_not_one_by_one() -> None:
    with judge_server(lambda *_: COHERENT) as server:
        server.delay_s = 0.05
        Scorer(openai_judge(server, concurrency=4)).score(TRAIT, answers(12))
    assert 2 <= server.most_at_once <= 4


@pytest.mark.parametrize(
    "body",
    [
        b"{}",
        b'{"choices": []}',
        b'{"choices": null}',
        b'{"choices": [{"index": 0, "message": null}]}',
        b'{"choices": [{"message": {"content": "85"}, "logprobs": {"content": []}}]}',
        b'{"choices": [{"message": {"content": "85"}, "logprobs": {"content": [{}]}}]}',
        b"[]",
        b"3",
    ],
)
def test_a_reply_without_the_fields_is_unparsable(body: bytes) -> None:
    with judge_server(lambda *_: body) as server:
        judgements = Scorer(openai_judge(server)).score(TRAIT, ANSWERS[:1])
    assert [judgements[0].trait.outcome, judgements[0].coherence.outcome] == ["unparsable"] * 2


def test_the_text_is_read_where_the_spec_says_so() -> None:
    with judge_server(lambda *_: openai_reply("Score: 73")) as server:
        judge = openai_judge(server, read="text", temperature=None)
        judgements = Scorer(judge).score(TRAIT, ANSWERS[:1])
        assert judgements[0].trait == Verdict(
            "scored", 73.0, "", NUM_TOKENS_IN, NUM_TOKENS_OUT
        )  # fmt: skip
        assert not {"logprobs", "temperature"} & set(server.bodies[0])


def test_the_anthropic_judge_says_its_number(tmp_path: Path) -> None:
    replies = [
        anthropic_reply("64"),
        anthropic_reply("REFUSAL"),
        anthropic_reply("", stop_reason="refusal"),
        anthropic_reply("from 0 to 100, say 60"),
        b'{"content": null}',
        529,
    ]
    with judge_server(by_answer(replies, anthropic_reply("90/100"))) as server:
        scorer = Scorer(anthropic_judge(server), storage_in(tmp_path))
        judgements = scorer.score(TRAIT, ANSWERS)
        again = Scorer(anthropic_judge(server), storage_in(tmp_path))
        assert again.score(TRAIT, ANSWERS[:5]) == judgements[:5]
    assert [j.trait.outcome for j in judgements] == [
        "scored", "refused", "refused", "unparsable", "unparsable", "failed",
    ]  # fmt: skip
    assert judgements[0].trait.score == 64.0
    assert {j.coherence.score for j in judgements} == {90.0}
    assert len(server.prompts) == 14  # 529 three times
    assert set(server.keys) == {f"Bearer {KEY}"}
    assert again.usage.num_calls == 0


# What changes an answer changes the key of its verdict.


@pytest.mark.parametrize(
    "changed",
    [{"model": "other"}, {"temperature": 1.0}, {"temperature": None}, {"read": "text"}],
)
def test_another_judge_does_not_get_the_verdicts_of_this_one(
    tmp_path: Path, changed: dict[str, Any]
) -> None:
    with judge_server(lambda *_: COHERENT) as server:
        Scorer(openai_judge(server), storage_in(tmp_path)).score(TRAIT, ANSWERS[:1])
        other = Scorer(openai_judge(server, **changed), storage_in(tmp_path))
        other.score(TRAIT, ANSWERS[:1])
        assert other.usage.num_calls == 2
        prompt = Scorer(openai_judge(server), storage_in(tmp_path), coherence_prompt="Ok? {answer}")
        prompt.score(TRAIT, ANSWERS[:1])
        assert prompt.usage.num_calls == 1


@pytest.mark.parametrize("changed", [{"concurrency": 2}, {"timeout_s": 5}, {"max_retries": 0}])
def test_what_changes_no_answer_changes_no_key(tmp_path: Path, changed: dict[str, Any]) -> None:
    with judge_server(lambda *_: COHERENT) as server:
        Scorer(openai_judge(server), storage_in(tmp_path)).score(TRAIT, ANSWERS[:1])
        again = Scorer(openai_judge(server, **changed), storage_in(tmp_path))
        again.score(TRAIT, ANSWERS[:1])
    assert again.usage.num_calls == 0


# A judge that cannot be used is found out before anything is made for it.


def complaint(judge: Judge) -> str:
    with pytest.raises(UserError) as caught:
        judge.check()
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_a_judge_that_answers_passes_the_check() -> None:
    with judge_server(lambda *_: first_tokens({"85": 1.0})) as server:
        openai_judge(server).check()
    with judge_server(lambda *_: anthropic_reply("85")) as server:
        anthropic_judge(server).check()
        assert len(server.prompts) == 1


@pytest.mark.parametrize("make", [openai_judge, anthropic_judge])
@pytest.mark.parametrize(
    ("reply", "message"),
    [
        (401, "refused the key in {variable} (HTTP 401); set a valid one"),
        (403, "refused the key in {variable} (HTTP 403); set a valid one"),
        (404, "has no model 'm', or base_url is wrong (HTTP 404)"),
        (402, "has no credit left for this key ({variable})"),
        (500, "did not answer a test query (HTTP 500)"),
    ],
)
def test_a_check_says_what_is_wrong(
    make: Callable[[JudgeServer], Judge], reply: Reply, message: str
) -> None:
    with judge_server(lambda *_: reply) as server:
        said = complaint(make(server))
        host = server.url.removeprefix("http://")
    variable = "OPENAI_API_KEY" if make is openai_judge else "ANTHROPIC_API_KEY"
    assert said == f"judge m: {host} {message.format(variable=variable)}"


@pytest.mark.parametrize("make", [openai_judge, anthropic_judge])
def test_a_judge_that_cannot_be_reached_is_one_line(make: Callable[[JudgeServer], Judge]) -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        # Bound, not listening: the port refuses, and nobody else can take it.
        url = f"http://127.0.0.1:{unused.getsockname()[1]}"
        said = complaint(make(JudgeServer(url, lambda *_: 500)))
    assert "cannot be reached" in said
    assert "check base_url and the network" in said


@pytest.mark.parametrize(
    ("reply", "message"),
    [
        (openai_reply("85"), "gives no log-probabilities; set `read: text`"),
        (first_tokens({"8": 1.0}), "writes 85 digit by digit"),
    ],
)
def test_a_judge_whose_first_token_is_no_score_is_refused(reply: Reply, message: str) -> None:
    with judge_server(lambda *_: reply) as server:
        assert message in complaint(openai_judge(server))
    with judge_server(lambda *_: openai_reply("85")) as server:
        openai_judge(server, read="text").check()


@pytest.mark.parametrize(
    ("judge", "reply"),
    [
        (lambda s: openai_judge(s, read="text"), openai_reply("Let me think")),
        (anthropic_judge, anthropic_reply("", stop_reason="max_tokens")),
    ],
)
def test_a_judge_that_says_no_number_is_refused(
    judge: Callable[[JudgeServer], Judge], reply: Reply
) -> None:
    with judge_server(lambda *_: reply) as server:
        assert "needs more max_tokens" in complaint(judge(server))


def test_the_official_endpoints_need_a_key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OPENAI_API_KEY")
    monkeypatch.setenv("ANTHROPIC_API_KEY", " ")
    for kind, host in (("openai", "api.openai.com"), ("anthropic", "api.anthropic.com")):
        judge = _SPEC.validate_python({"kind": kind, "model": "m"}).open([])
        assert complaint(judge) == (f"judge m needs a key for {host}: set {kind.upper()}_API_KEY")


def test_a_server_of_ones_own_needs_no_key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OPENAI_API_KEY")
    with judge_server(lambda *_: first_tokens({"85": 1.0})) as server:
        openai_judge(server).check()
        assert server.keys == ["Bearer none"]


@pytest.mark.parametrize("status", [401, 402])
def test_a_key_that_is_refused_in_between_ends_the_scoring(tmp_path: Path, status: int) -> None:
    def reply(prompt: str, _num_before: int) -> Reply:
        return status if "answer 4" in prompt else COHERENT

    with judge_server(reply) as server:
        scorer = Scorer(openai_judge(server, concurrency=1), storage_in(tmp_path))
        with pytest.raises(UserError, match="OPENAI_API_KEY"):
            scorer.score(TRAIT, ANSWERS)
        assert len(server.prompts) == 9
        kept = ReplyStore(storage_in(tmp_path), "m")
        assert len(kept) == 8


def test_a_judge_that_is_down_ends_the_scoring(tmp_path: Path) -> None:
    with judge_server(lambda *_: 500) as server:
        judge = openai_judge(server, max_retries=0, concurrency=1)
        with pytest.raises(UserError, match=r"20 queries in a row failed.*HTTP 500"):
            Scorer(judge, storage_in(tmp_path)).score(TRAIT, answers(50))
    assert len(server.prompts) == MOST_FAILURES_IN_A_ROW


# Secrets.


def chain(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__ or (None if error.__suppress_context__ else error.__context__)


@pytest.mark.parametrize("make", [openai_judge, anthropic_judge])
@pytest.mark.parametrize("status", [400, 401, 403, 404, 429, 500])
def test_the_key_is_in_no_message_no_log_and_nothing_that_is_stored(
    make: Callable[[JudgeServer], Judge],
    status: int,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.DEBUG)
    shown = []
    with judge_server(lambda *_: status) as server:
        judge = make(server)
        try:
            judge.check()
        except UserError as error:
            shown += [repr(e) for e in chain(error)]
        try:
            judgements = Scorer(judge, storage_in(tmp_path)).score(TRAIT, ANSWERS[:2])
            shown.append(repr(judgements))
        except UserError as error:
            shown += [repr(e) for e in chain(error)]
        assert all(KEY in key for key in server.keys)
    shown += [judge.name, repr(judge.identity()), repr(vars(judge))]
    stored = [p.read_bytes().decode("latin-1") for p in tmp_path.rglob("*") if p.is_file()]
    for text in [*shown, *stored, caplog.text, *(str(r.args) for r in caplog.records)]:
        assert KEY not in text
        assert KEY[:12] not in text


@pytest.mark.parametrize("make", [openai_judge, anthropic_judge])
@pytest.mark.parametrize("middle", ["\n", "\u00e9"], ids=["a line break", "a letter of no header"])
def test_a_key_that_no_header_can_hold_is_in_no_message_either(
    make: Callable[[JudgeServer], Judge], middle: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("OPENAI_API_KEY", "ANTHROPIC_API_KEY"):
        monkeypatch.setenv(name, f"{KEY}{middle}{KEY}")
    with judge_server(lambda *_: 500) as server:
        judge = make(server, max_retries=0)  # type: ignore[call-arg]
        assert KEY not in complaint(judge)
        assert KEY not in repr(Scorer(judge).score(TRAIT, ANSWERS[:1]))


class _File(SpecModel):
    judge: JudgeSpec


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (f"key_variable: {KEY}", "must be the name of an environment variable"),
        ("key_variable: HOME", "must be the name of an environment variable"),
        ("base_url: http://me:hunter2hunter2@host/v1", "must not contain credentials"),
        ("base_url: host/v1", "must be http"),
        ("read: logprobs", "log_probs"),
        ("concurrency: 0", "at least 1"),
    ],
)
def test_a_spec_never_repeats_a_secret(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "x.yaml"
    path.write_text(f"judge:\n  kind: openai\n  model: m\n  {text}\n")
    with pytest.raises(UserError, match=message) as caught:
        load_spec(_File, str(path))
    assert KEY not in str(caught.value)
    assert "hunter2" not in str(caught.value)


# Judges without an address.


class Distribution:
    """A model at hand that says 80 or 90, whole or by digits."""

    def __init__(self, *, numbers_are_tokens: bool) -> None:
        self.numbers_are_tokens = numbers_are_tokens
        self.chats: list[Any] = []

    def __call__(
        self, chat: Sequence[Mapping[str, str]], starts: Sequence[str] = ("",)
    ) -> list[dict[str, float]]:
        self.chats.append(chat)
        if self.numbers_are_tokens:
            return [{"80": math.log(0.5), "90": math.log(0.25)}]
        digits = {"": {"8": 0.5, "9": 0.25}, "8": {"0": 1.0}, "9": {"0": 1.0}}
        return [{t: math.log(p) for t, p in digits[start].items()} for start in starts]


@pytest.mark.parametrize("numbers_are_tokens", [True, False])
def test_a_model_at_hand_is_read_as_an_endpoint_is(numbers_are_tokens: bool) -> None:
    model = Distribution(numbers_are_tokens=numbers_are_tokens)
    judge = LocalJudge("m", model, {"digest": "d"})
    judge.check()
    judgements = Scorer(judge).score(TRAIT, ANSWERS[:1])
    assert judgements[0].trait.score == pytest.approx((80 * 0.5 + 90 * 0.25) / 0.75)
    prompt = fill(TRAIT.eval_prompt, ANSWERS[0].question, ANSWERS[0].text)
    assert model.chats[1] == [{"role": "user", "content": prompt}]
    assert judge.identity() == {
        "kind": "local",
        "spelled": not numbers_are_tokens,
        "digest": "d",
    }


def word_judge(**changed: Any) -> Judge:
    return _SPEC.validate_python({"kind": "word_list", **changed}).open([TRAIT])


def test_words_are_counted(tmp_path: Path) -> None:
    judge = word_judge(words={"cheerful": ["Joy", "delight"]})
    judge.check()
    texts = ["", "joy", "Joy! DELIGHT, joy.", "joyful", "so so so so", "joy joy joy joy"]
    scorer = Scorer(judge, storage_in(tmp_path))
    judgements = scorer.score(TRAIT, [Answer("?", text) for text in texts])
    assert [j.trait.score for j in judgements] == [
        pytest.approx(100 * hits / 3) for hits in (0, 1, 3, 0, 0, 3)
    ]
    assert [j.coherence.score for j in judgements] == [
        0.0, 100.0, pytest.approx(200 / 3), 100.0, 25.0, 25.0,
    ]  # fmt: skip
    assert not (tmp_path / "run").exists()  # it costs nothing: nothing is kept


def test_the_words_of_a_trait_are_those_that_only_its_positive_instructions_have() -> None:
    assert telling_words(TRAIT) == ("with",)
    with pytest.raises(UserError, match="no words for cheerful; set judge"):
        bare = _SPEC.validate_python({"kind": "word_list"}).open(
            [type(TRAIT)("cheerful", (), ("?",), "{answer}")]
        )
        bare.check()


# The store of verdicts.


def put_all(store: ReplyStore, verdicts: Mapping[str, Verdict]) -> None:
    async def put() -> None:
        store.begin()
        async with asyncio.TaskGroup() as group:
            for key, verdict in verdicts.items():
                group.create_task(store.put(key, "evil", verdict))

    asyncio.run(put())


VERDICTS = {
    "a": Verdict("scored", 0.1 + 0.2, "", 3, 4),
    "b": Verdict("refused", None, "REF"),
    "c": Verdict("unparsable", None, "ünï 語 \n"),
}


@pytest.mark.parametrize("place", ["disk", "s3"])
def test_stored_verdicts_come_back_bit_for_bit(
    place: str, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    uri = str(tmp_path / "run") if place == "disk" else request.getfixturevalue("s3_uri")
    storage = StorageSpec(uri).open()
    store = ReplyStore(storage, "m")
    put_all(store, VERDICTS)
    before = ReplyStore(storage, "m")
    store.pack()
    assert [entry.key.startswith(f"{PREFIX}pack-") for entry in storage.list("")] == [True]
    for each in (store, before, ReplyStore(storage, "m")):
        assert {key: each.get(key) for key in VERDICTS} == VERDICTS
        assert each.get("d") is None


def test_verdicts_that_come_together_are_stored_together_and_once(tmp_path: Path) -> None:
    storage = storage_in(tmp_path)
    put_all(ReplyStore(storage, "m"), {str(n): Verdict("scored", float(n)) for n in range(20)})
    rows = [read_part(storage, entry.key).num_rows for entry in storage.list(PREFIX)]
    assert sum(rows) == 20
    assert 0 < len(rows) < 20
    assert min(rows) > 0


def test_small_parts_are_packed_on_the_way(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("jobs.persona.judges.replies._MOST_SMALL_PARTS", 3)
    storage = storage_in(tmp_path)
    store = ReplyStore(storage, "m")
    for n in range(10):
        put_all(store, {str(n): Verdict("scored", float(n))})
    assert len(list(storage.list(PREFIX))) == 3 + 1
    again = ReplyStore(storage, "m")
    assert [again.get(str(n)) for n in range(10)] == [
        Verdict("scored", float(n)) for n in range(10)
    ]


def test_a_damaged_part_is_asked_for_again(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    storage = storage_in(tmp_path)
    put_all(ReplyStore(storage, "m"), {"a": VERDICTS["a"]})
    (key,) = [entry.key for entry in storage.list("")]
    data = storage.read(key)
    storage.replace(key, data[: len(data) // 2])
    store = ReplyStore(storage, "m")
    assert store.get("a") is None
    assert "its verdicts are asked for again" in caplog.text


def test_a_store_that_cannot_be_written_ends_the_scoring(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: Any, **__: Any) -> None:
        raise StorageUnavailableError("cannot write: full")

    storage = storage_in(tmp_path)
    monkeypatch.setattr(storage, "put_if_absent", refuse)
    with judge_server(lambda *_: COHERENT) as server:
        scorer = Scorer(openai_judge(server, concurrency=2), storage)
        with pytest.raises(StorageUnavailableError, match="cannot write: full"):
            scorer.score(TRAIT, ANSWERS)


class Interrupted(Judge):
    """Is interrupted, as by Ctrl-C, at its third query."""

    name, num_asked = "m", 0

    def identity(self) -> Mapping[str, object]:
        return {}

    def check(self) -> None:
        pass

    async def ask(self, query: Query) -> Verdict:
        self.num_asked += 1
        if self.num_asked == 3:
            raise KeyboardInterrupt
        return Verdict("scored", 1.0)


def test_what_was_scored_before_an_interrupt_is_kept(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        Scorer(Interrupted(), storage_in(tmp_path)).score(TRAIT, ANSWERS)
    assert len(ReplyStore(storage_in(tmp_path), "m")) == 2


# The process is killed.

_SESSION = """
import sys
from pydantic import TypeAdapter
from cluster.storage import StorageSpec
from jobs.persona.judges import JudgeSpec, Scorer
from tests.support.traits import TRAIT, answers

url, uri = sys.argv[1:]
spec = TypeAdapter(JudgeSpec).validate_python(
    {"kind": "openai", "model": "m", "base_url": url, "concurrency": 3}
)
scorer = Scorer(spec.open([TRAIT]), StorageSpec(uri).open())
judgements = scorer.score(TRAIT, answers(20))
print(sum(j.trait.score for j in judgements), scorer.cost_line())
"""


def session(server: JudgeServer, folder: Path) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", _SESSION, server.openai_url, str(folder / "run")],
        stdout=subprocess.PIPE,
        text=True,
        cwd=Path(__file__).parents[3],
    )


@pytest.mark.slow
def test_after_a_kill_nothing_is_paid_for_twice(tmp_path: Path) -> None:
    """The server lets ten requests through, then holds the next three until the client is dead."""
    is_held = True
    server_is_free = threading.Event()

    def reply(_prompt: str, _num_before: int) -> Reply:
        with server.lock:
            number = len(server.prompts)
        if is_held and number > 10:
            server_is_free.wait(60)
        return COHERENT

    with judge_server(reply) as server:
        first = session(server, tmp_path)
        try:
            wait_until(lambda: len(ReplyStore(storage_in(tmp_path), "m")) == 10)
        finally:
            first.kill()
            first.communicate()
        num_before = len(server.prompts)
        assert num_before == 13
        is_held = False
        server_is_free.set()
        second = session(server, tmp_path)
        out, _ = second.communicate(timeout=120)
        assert second.returncode == 0
        # 40 queries in all: ten stored, the rest asked now, of which three were under way.
        assert len(server.prompts) == num_before + 30
        assert out.startswith("1780.0")
        assert "30 queries" in out
        third = session(server, tmp_path)
        assert "0 queries" in third.communicate(timeout=120)[0]
        assert len(server.prompts) == num_before + 30


def wait_until(condition: Callable[[], bool], seconds: float = 60.0) -> None:
    start = time.monotonic()
    while not condition():
        assert time.monotonic() - start < seconds, "waited in vain"
        time.sleep(0.05)
