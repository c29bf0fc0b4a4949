"""Texts, tokens, scored positions and pooled spans, with tokenizers simple enough to do by hand."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest

from steering_core.chat import ChatFormat
from steering_core.datasets.base import Candidate, ChoiceExample
from steering_core.encoding import (
    EncodedExample,
    ExampleEncoder,
    check_lengths,
    num_common,
)
from steering_core.protocol import PROTOCOLS, Protocol
from steering_core.stereoset import LABELS, Example
from steersweep.errors import UserError
from tests.support.golden import golden_examples
from tests.support.tiny_models import train_tokenizer

BOS, PAD, MERGED = 1, 2, 3
EXAMPLE = Example("id-7", "intersentence", "race", "t", "Ctx.", ("Aa", "Bbbb", "C!"), LABELS)
QUESTION = "Ctx.\n\nChoose the most appropriate sentence below:\nA. Aa\nB. Bbbb\nC. C!\n\nAnswer:"
PUBLISHED, ALIGNED = PROTOCOLS["as_published"], PROTOCOLS["aligned"]


class Letters:
    """One token for each character, behind BOS; ``merge`` becomes one token wherever it stands."""

    def __init__(
        self,
        *,
        adds_bos: bool = True,
        bos_token_id: int | None = BOS,
        pad_token_id: int | None = PAD,
        merge: str = "",
        encode: Callable[[str], list[int]] | None = None,
    ) -> None:
        self.bos_token_id = bos_token_id
        self.pad_token_id = pad_token_id
        self.eos_token_id: int | None = None
        self._front = [BOS] if adds_bos else []
        self._merge = merge
        self._encode = encode

    def __call__(self, texts: list[str]) -> dict[str, list[list[int]]]:
        return {"input_ids": [self._front + (self._encode or self.ids)(t) for t in texts]}

    def ids(self, text: str) -> list[int]:
        marked = text.replace(self._merge, chr(MERGED)) if self._merge else text
        return [ord(c) for c in marked]


def encode(
    protocol: Protocol, tokenizer: Letters | None = None, example: Example = EXAMPLE
) -> EncodedExample:
    (row,) = ExampleEncoder(tokenizer or Letters(), protocol, "tiny").encode([example])
    return row


def text(ids: list[int] | tuple[int, ...]) -> str:
    return "".join(chr(i) for i in ids)


def test_question_is_the_papers_text() -> None:
    assert EXAMPLE.prompt == QUESTION


def test_outer_blanks_of_question_and_candidates_are_stripped_and_inner_ones_kept() -> None:
    example = Example("x", "", "", "", " \n Ctx. ", (" a ", "b\n", "c"), LABELS)
    assert example.prompt == (
        "Ctx. \n\nChoose the most appropriate sentence below:\nA.  a \nB. b\n\nC. c\n\nAnswer:"
    )
    assert example.texts == (" A.  a", " B. b", " C. c")


def test_a_sequence_is_question_space_candidate_with_the_tokenizers_own_bos() -> None:
    row = encode(ALIGNED)
    assert [text(c.token_ids) for c in row.candidates] == [
        f"{chr(BOS)}{QUESTION} {label}" for label in ("A. Aa", "B. Bbbb", "C. C!")
    ]


def test_published_reads_the_candidate_alone_behind_bos_one_late() -> None:
    row = encode(PUBLISHED)
    q = 1 + len(QUESTION)
    longest = q + len(" B. Bbbb")
    for candidate, own in zip(row.candidates, ("A. Aa", "B. Bbbb", "C. C!"), strict=True):
        assert candidate.scored_ids == (BOS, *map(ord, own))
        assert candidate.scored_positions == tuple(range(q - 1, q + len(own)))
        # Position q - 1 holds the question's last token, where BOS is read.
        assert chr(candidate.token_ids[candidate.scored_positions[0]]) == ":"
        padding = longest - q - 1 - len(own)
        assert candidate.token_ids[q:] == (ord(" "), *map(ord, own), *[PAD] * padding)
        assert candidate.pooled == (0, longest)
    assert row.num_tokens == longest
    assert row.num_shared == q + 1  # the blank behind the question too


def test_published_puts_bos_in_front_of_the_candidate_alone_where_the_tokenizer_does_not() -> None:
    row = encode(PUBLISHED, Letters(adds_bos=False))
    q = len(QUESTION)
    first = row.candidates[0]
    assert text(first.token_ids).startswith(QUESTION)
    assert first.scored_ids == (BOS, *map(ord, "A. Aa"))
    assert first.scored_positions == tuple(range(q - 1, q + 5))


def test_published_skips_tokens_equal_to_the_pad_id_and_their_positions() -> None:
    row = encode(PUBLISHED, Letters(pad_token_id=ord("b")))
    q = 1 + len(QUESTION)
    second = row.candidates[1]
    # BOS B . blank B b b b: the last three are skipped.
    assert second.scored_ids == (BOS, *map(ord, "B. B"))
    assert second.scored_positions == tuple(range(q - 1, q + 4))
    skipped_inside = encode(PUBLISHED, Letters(pad_token_id=ord("."))).candidates[1]
    assert skipped_inside.scored_ids == (BOS, *map(ord, "B Bbbb"))
    assert skipped_inside.scored_positions == (q - 1, q, *range(q + 2, q + 7))


def test_aligned_reads_the_continuation_where_it_is_predicted_and_pools_its_own_tokens() -> None:
    row = encode(ALIGNED)
    q = 1 + len(QUESTION)
    for candidate, own in zip(row.candidates, (" A. Aa", " B. Bbbb", " C. C!"), strict=True):
        assert candidate.scored_ids == tuple(map(ord, own))
        assert candidate.scored_positions == tuple(range(q - 1, q - 1 + len(own)))
        for position, token in zip(candidate.scored_positions, candidate.scored_ids, strict=True):
            assert candidate.token_ids[position + 1] == token
        assert candidate.pooled == (q, q + len(own))
        assert len(candidate.token_ids) == q + len(own)


def test_aligned_scores_a_token_equal_to_the_pad_id() -> None:
    row = encode(ALIGNED, Letters(pad_token_id=ord("b")))
    assert row.candidates[1].scored_ids == tuple(map(ord, " B. Bbbb"))


def test_packed_row_has_the_shared_prefix_once() -> None:
    row = encode(ALIGNED)
    own = len("A. Aa") + len("B. Bbbb") + len("C. C!")
    assert row.num_packed_tokens == row.num_shared + own
    assert row.num_tokens == row.num_shared + len("B. Bbbb")


def test_shared_prefix_ends_before_a_token_that_merges_across_the_boundary() -> None:
    """``: A`` is one token here, so candidate A already differs at the question's last token."""
    row = encode(ALIGNED, Letters(merge=": A"))
    before_colon = len(QUESTION)
    assert row.num_shared == before_colon
    a, b, _ = row.candidates
    assert a.token_ids[before_colon] == MERGED
    assert a.scored_ids == (MERGED, *map(ord, ". Aa"))
    assert a.scored_positions == tuple(range(before_colon - 1, before_colon + 4))
    assert a.pooled == (before_colon, before_colon + 5)
    # The others keep the question whole.
    assert b.scored_ids == tuple(map(ord, " B. Bbbb"))
    assert b.pooled[0] == before_colon + 1


def test_a_merge_that_all_candidates_share_stays_in_the_shared_prefix() -> None:
    row = encode(ALIGNED, Letters(merge=": "))
    assert row.candidates[0].token_ids[row.num_shared - 1] == MERGED
    assert row.candidates[0].scored_ids == (MERGED, *map(ord, "A. Aa"))


def test_shared_prefix_is_the_longest_common_one_with_a_trained_tokenizer() -> None:
    examples = golden_examples().examples
    tokenizer = train_tokenizer([t for e in examples for t in (e.context, *e.sentences)], 500)
    for row in ExampleEncoder(tokenizer, PUBLISHED, "tiny").encode(examples):
        a, b, c = (candidate.token_ids for candidate in row.candidates)
        n = row.num_shared
        assert a[:n] == b[:n] == c[:n]
        assert len({a[n], b[n], c[n]}) > 1
        assert n > 20
        assert len(a) == len(b) == len(c)


@pytest.mark.parametrize(
    ("bos", "pad", "missing"), [(None, PAD, "no BOS"), (BOS, None, "no pad"), (None, None, "both")]
)
def test_published_refuses_a_tokenizer_without_bos_or_pad(
    bos: int | None, pad: int | None, missing: str
) -> None:
    tokenizer = Letters(bos_token_id=bos, pad_token_id=pad)
    with pytest.raises(UserError) as caught:
        ExampleEncoder(tokenizer, PUBLISHED, "some/model")
    message = str(caught.value)
    assert ("no BOS and no pad" if missing == "both" else f"{missing} token") in message
    assert "some/model" in message
    assert message.endswith("protocol as_published needs")


def test_aligned_needs_neither_bos_nor_pad() -> None:
    tokenizer = Letters(adds_bos=False, bos_token_id=None, pad_token_id=None)
    row = encode(ALIGNED, tokenizer)
    assert text(row.candidates[0].token_ids) == f"{QUESTION} A. Aa"
    assert text(row.candidates[0].scored_ids) == " A. Aa"


def test_a_mixture_needs_only_what_its_parts_need() -> None:
    only_pooled = Protocol(pooling="all_positions", scoring="aligned")
    row = encode(only_pooled, Letters(bos_token_id=None))
    assert {len(c.token_ids) for c in row.candidates} == {row.num_tokens}
    assert row.candidates[0].pooled == (0, row.num_tokens)
    assert text(row.candidates[0].scored_ids) == " A. Aa"
    with pytest.raises(UserError, match="no pad token"):
        encode(only_pooled, Letters(pad_token_id=None))
    only_scored = encode(Protocol(pooling="candidate", scoring="as_published"))
    q = 1 + len(QUESTION)
    assert only_scored.candidates[0].pooled == (q, q + len(" A. Aa"))
    assert only_scored.candidates[0].scored_positions[0] == q - 1


@pytest.mark.parametrize("num_alone", [1, 2])
def test_published_refuses_a_candidate_that_is_longer_alone_than_its_row(num_alone: int) -> None:
    """One token in context, two alone: the last slot would lie just behind the row."""

    def one_in_context(text: str) -> list[int]:
        question, found, own = text.partition("Answer:")
        if not found:
            return [ord(c) for c in text[:num_alone]]
        return [*map(ord, question), *([1000 + ord(own[1])] if own else [])]

    tokenizer = Letters(encode=one_in_context)
    if num_alone == 1:
        row = encode(PUBLISHED, tokenizer)
        assert row.candidates[0].scored_positions[-1] == row.num_tokens - 1
        return
    with pytest.raises(UserError, match=r"candidate A cannot be scored as published.*padding"):
        encode(PUBLISHED, tokenizer)


def test_published_refuses_a_candidate_of_pads_alone() -> None:
    def alone_is_pads(text: str) -> list[int]:
        return [ord(c) for c in text] if "Answer" in text else [PAD] * 3

    tokenizer = Letters(adds_bos=False, bos_token_id=PAD, encode=alone_is_pads)
    with pytest.raises(UserError, match="or only padding"):
        encode(PUBLISHED, tokenizer)


def test_a_candidate_without_a_token_of_its_own_is_refused() -> None:
    tokenizer = Letters(encode=lambda t: [ord(c) for c in t.removesuffix(" C. C!")])
    with pytest.raises(UserError, match="id-7: candidate C adds no token"):
        encode(ALIGNED, tokenizer)


def test_several_examples_keep_their_order_and_none_is_fine() -> None:
    other = Example("id-8", "", "", "", "Longer context.", ("x", "y", "z"), LABELS)
    encoder = ExampleEncoder(Letters(), PUBLISHED, "tiny")
    both = encoder.encode([EXAMPLE, other])
    assert both == [encode(PUBLISHED), encode(PUBLISHED, example=other)]
    assert encoder.encode([]) == []


def test_a_row_longer_than_the_context_is_refused_by_id() -> None:
    row = encode(PUBLISHED)
    check_lengths([row], max_tokens=row.num_tokens, model="m")
    check_lengths([row], max_tokens=None, model="m")
    with pytest.raises(UserError) as caught:
        check_lengths([row], max_tokens=row.num_tokens - 1, model="some/model")
    assert "id-7" in str(caught.value)
    assert f"{row.num_tokens - 1} positions of some/model" in str(caught.value)


@pytest.mark.parametrize(
    ("sequences", "wanted"),
    [(([1, 2, 3], [1, 2, 4]), 2), (([1, 2], [1, 2, 3]), 2), (([1], [2]), 0), (([], [1]), 0)],
)
def test_num_common_counts_leading_tokens(sequences: tuple[list[int], ...], wanted: int) -> None:
    assert num_common(*sequences) == wanted


# -- any multiple-choice data ---------------------------------------------------------------------


def choices(
    tokenizer: Letters, prompt: str, *texts: str, protocol: Protocol = ALIGNED
) -> EncodedExample:
    example = ChoiceExample("q1", prompt, tuple(Candidate(text, "x") for text in texts))
    (row,) = ExampleEncoder(tokenizer, protocol, "some/model", contrast=None).encode([example])
    return row


def scored(row: EncodedExample) -> list[str]:
    return [text(c.scored_ids) for c in row.candidates]


@pytest.mark.parametrize("adds_bos", [True, False])
def test_without_a_prompt_candidates_follow_bos(adds_bos: bool) -> None:
    row = choices(Letters(adds_bos=adds_bos), "", "He ran", "She ran")
    assert [c.token_ids[0] for c in row.candidates] == [BOS, BOS]
    assert [text(c.token_ids[1:]) for c in row.candidates] == ["He ran", "She ran"]
    assert scored(row) == ["He ran", "She ran"]
    assert row.candidates[0].scored_positions == tuple(range(6))
    assert (row.num_shared, row.candidates[0].num_question) == (1, 1)


def test_without_bos_they_follow_eos_as_in_lm_eval() -> None:
    tokenizer = Letters(adds_bos=False, bos_token_id=None)
    tokenizer.eos_token_id = 9
    assert [c.token_ids[0] for c in choices(tokenizer, "", "a", "b").candidates] == [9, 9]
    tokenizer.eos_token_id = None
    with pytest.raises(
        UserError, match=r"q1: nothing precedes its candidates.*some/model has neith"
    ):
        choices(tokenizer, "", "a", "b")


def test_a_candidate_that_merges_with_the_prompt_takes_the_token() -> None:
    row = choices(Letters(merge="cd"), "abc", "d!", "x")
    assert [text(c.scored_ids) for c in row.candidates] == [chr(MERGED) + "!", "x"]
    # Both sequences have BOS, a, b in common; what is steered as the prompt is the same for both.
    assert row.num_shared == 3
    assert [c.num_question for c in row.candidates] == [3, 3]
    assert [c.scored_positions for c in row.candidates] == [(2, 3), (3,)]


def test_two_to_26_candidates_of_one_token_are_read_at_one_position() -> None:
    row = choices(Letters(), "Which letter?", *(f"{chr(65 + n)}" for n in range(26)))
    assert {c.scored_positions for c in row.candidates} == {(13,)}
    assert row.num_packed_tokens == 14 + 26


def test_the_last_token_of_a_candidate_can_be_pooled() -> None:
    row = choices(Letters(), "ab", "cde", "f", protocol=replace(ALIGNED, pooling="candidate_last"))
    assert [c.pooled for c in row.candidates] == [(5, 6), (3, 4)]


def test_all_tokens_of_a_text_are_scored_after_bos() -> None:
    row = choices(Letters(), "", "It rains.")
    assert scored(row) == ["It rains."]
    assert row.candidates[0].scored_positions == tuple(range(9))
    assert row.num_packed_tokens == row.num_real_positions == 10
    assert row.candidates[0].num_question == 1


@pytest.mark.parametrize(
    ("prefix", "merge", "wanted"),
    [("Be fair.\n", "", "It rains."), ("Be fair. ", " I", f"{chr(MERGED)}t rains.")],
)
def test_after_a_prefix_the_tokens_of_a_text_follow_those_that_it_shares_with_the_prefix(
    prefix: str, merge: str, wanted: str
) -> None:
    example = ChoiceExample("q1", "", (Candidate("It rains.", "text"),)).with_prefix(prefix)
    (row,) = ExampleEncoder(Letters(merge=merge), ALIGNED, "m", contrast=None).encode([example])
    (candidate,) = row.candidates
    assert scored(row) == [wanted]
    before = candidate.token_ids[: candidate.num_question]
    assert text(before) == chr(BOS) + (prefix.removesuffix(" ") if merge else prefix)
    assert candidate.scored_positions[0] == candidate.num_question - 1


@pytest.mark.parametrize("protocol", [PUBLISHED, ALIGNED], ids=["as_published", "aligned"])
def test_a_prefix_moves_a_stereoset_row_and_changes_nothing_else(protocol: Protocol) -> None:
    prefix = " Be fair.\n"
    plain, prompted = encode(protocol), encode(protocol, example=EXAMPLE.with_prefix(prefix))
    num = len(prefix)
    for before, after in zip(plain.candidates, prompted.candidates, strict=True):
        assert text(after.token_ids) == chr(BOS) + prefix + text(before.token_ids[1:])
        assert after.scored_ids == before.scored_ids
        assert after.scored_positions == tuple(at + num for at in before.scored_positions)
        assert after.num_question == before.num_question + num


class ChatLetters(Letters):
    """With a chat template, which writes BOS itself."""

    chat_template = "there is one"

    def apply_chat_template(self, messages: list[dict[str, str]], **_options: object) -> str:
        turns = "".join(f"<{m['role']}>{m['content']}" for m in messages)
        return f"{chr(BOS)}{turns}<model>\n"

    def __call__(
        self, texts: list[str], *, add_special_tokens: bool = True
    ) -> dict[str, list[list[int]]]:
        assert not add_special_tokens
        return {"input_ids": [self.ids(t) for t in texts]}


def test_a_chat_template_is_applied_once_and_the_answer_begins_the_models_turn() -> None:
    tokenizer = ChatLetters()
    example = ChoiceExample("q1", "Why?", (Candidate(" A", "x"), Candidate(" B", "y")))
    chat = ChatFormat(tokenizer, "some/model")
    encoder = ExampleEncoder(tokenizer, ALIGNED, "some/model", contrast=None, chat=chat)
    (row,) = encoder.encode([example])
    assert [text(c.token_ids) for c in row.candidates] == [
        f"{chr(BOS)}<user>Why?<model>\nA",
        f"{chr(BOS)}<user>Why?<model>\nB",
    ]
    assert scored(row) == ["A", "B"]
