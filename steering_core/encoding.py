"""From StereoSet examples to token ids: question, candidates, scored positions, pooled spans."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from steering_core.protocol import Protocol
from steering_core.stereoset import Example
from steersweep.errors import UserError

CANDIDATE_LABELS = ("A", "B", "C")


@dataclass(frozen=True, slots=True)
class EncodedCandidate:
    """One of the three sequences of an example.

    Attributes:
        token_ids: question and candidate, with pads on the right where the protocol pads.
        scored_positions: positions in ``token_ids`` whose logits are read, one for each of
        scored_ids: the token ids whose log-probability is read there.
        pooled: half-open span of positions whose states are averaged.
        num_question: leading tokens that are the question's; its own tokens and pads follow.
        num_real: leading tokens that are no pads.
    """

    token_ids: tuple[int, ...]
    scored_positions: tuple[int, ...]
    scored_ids: tuple[int, ...]
    pooled: tuple[int, int]
    num_question: int
    num_real: int


@dataclass(frozen=True, slots=True)
class EncodedExample:
    """An example as three token sequences that share their first ``num_shared`` tokens."""

    example: Example
    num_shared: int
    candidates: tuple[EncodedCandidate, EncodedCandidate, EncodedCandidate]

    @property
    def num_packed_tokens(self) -> int:
        """Tokens of the packed row: the shared prefix once, then the three branches."""
        branches = sum(len(c.token_ids) - self.num_shared for c in self.candidates)
        return self.num_shared + branches

    @property
    def num_tokens(self) -> int:
        """Length of the longest of the three sequences."""
        return max(len(c.token_ids) for c in self.candidates)

    @property
    def num_real_positions(self) -> int:
        """Positions without pads: those that the candidates share once, then each one's own."""
        return self.num_shared + sum(c.num_real - self.num_shared for c in self.candidates)


def question_text(example: Example) -> str:
    """The multiple-choice question, stripped; a candidate follows it after one space."""
    options = "\n".join(
        f"{label}. {sentence}"
        for label, sentence in zip(CANDIDATE_LABELS, example.sentences, strict=True)
    )
    return (
        f"{example.context}\n\nChoose the most appropriate sentence below:\n{options}\n\nAnswer: "
    ).strip()


def candidate_texts(example: Example) -> list[str]:
    """The three candidates with their ``A. ``, ``B. ``, ``C. `` labels, stripped."""
    return [
        f"{label}. {sentence}".strip()
        for label, sentence in zip(CANDIDATE_LABELS, example.sentences, strict=True)
    ]


class ExampleEncoder:
    """Encodes examples with a Hugging Face tokenizer under a protocol.

    Raises:
        UserError: the protocol needs a BOS or a pad token that the tokenizer does not have.
    """

    def __init__(self, tokenizer: Any, protocol: Protocol, model: str) -> None:
        self._tokenizer = tokenizer
        self.protocol = protocol
        needed = {"BOS": protocol.needs_bos, "pad": protocol.needs_pad}
        held = {"BOS": tokenizer.bos_token_id, "pad": tokenizer.pad_token_id}
        missing = [name for name, wanted in needed.items() if wanted and held[name] is None]
        if missing:
            raise UserError(
                f"the tokenizer of {model} has no {' and no '.join(missing)} token, which protocol "
                "as_published needs; set `protocol: aligned`, which needs neither"
            )
        self._bos_id, self._pad_id = held["BOS"], held["pad"]

    def encode(self, examples: Sequence[Example]) -> list[EncodedExample]:
        """Encoded examples in the order given.

        Raises:
            UserError: an example that cannot be scored under the protocol, by id.
        """
        texts = [question_text(e) for e in examples]
        questions = self._ids(texts)
        candidates = [text for e in examples for text in candidate_texts(e)]
        contexts = [text for text in texts for _ in range(3)]
        sequences = self._ids([f"{q} {c}" for q, c in zip(contexts, candidates, strict=True)])
        alone = self._ids(candidates) if self.protocol.scoring == "as_published" else None
        encoded = []
        for row, example in enumerate(examples):
            three = slice(3 * row, 3 * row + 3)
            encoded.append(
                self._encode_one(
                    example,
                    questions[row],
                    sequences[three],
                    None if alone is None else alone[three],
                )
            )
        return encoded

    def _ids(self, texts: list[str]) -> list[list[int]]:
        if not texts:
            return []
        ids: list[list[int]] = self._tokenizer(texts)["input_ids"]
        return ids

    def _encode_one(
        self,
        example: Example,
        question: list[int],
        sequences: list[list[int]],
        alone: list[list[int]] | None,
    ) -> EncodedExample:
        longest = max(len(s) for s in sequences)
        candidates = []
        for index, sequence in enumerate(sequences):
            start = num_common(question, sequence)
            if start == 0 or start == len(sequence):
                raise UserError(
                    f"example {example.example_id}: candidate {CANDIDATE_LABELS[index]} adds "
                    "no token to the question with this tokenizer"
                )
            if alone is not None:
                positions, ids = self._published_slots(len(question), alone[index])
            else:
                positions = range(start - 1, len(sequence) - 1)
                ids = sequence[start:]
            padding = [self._pad_id] * (longest - len(sequence)) if self.protocol.needs_pad else []
            token_ids = [*sequence, *padding]
            if not ids or max(positions) >= len(token_ids):
                raise UserError(
                    f"example {example.example_id}: candidate {CANDIDATE_LABELS[index]} cannot be "
                    "scored as published: encoded alone it is longer than the row, or only "
                    "padding; set `scoring: aligned`"
                )
            whole = self.protocol.pooling == "all_positions"
            candidates.append(
                EncodedCandidate(
                    token_ids=tuple(token_ids),
                    scored_positions=tuple(positions),
                    scored_ids=tuple(ids),
                    pooled=(0, len(token_ids)) if whole else (start, len(sequence)),
                    num_question=start,
                    num_real=len(sequence),
                )
            )
        a, b, c = candidates
        return EncodedExample(example, num_common(*sequences), (a, b, c))

    def _published_slots(
        self, num_question: int, candidate: list[int]
    ) -> tuple[Sequence[int], list[int]]:
        """Slots as the notebook reads them, q question tokens t_0 .. t_{q-1}::

            position   q-1   q    q+1  ...
            token read BOS   c_1  c_2  ...    (c_k is predicted at q-2+k, so it is read one late)

        Tokens equal to the pad id are skipped, their positions with them.
        """
        if candidate[:1] != [self._bos_id]:
            candidate = [self._bos_id, *candidate]
        slots = [
            (num_question - 1 + k, token)
            for k, token in enumerate(candidate)
            if token != self._pad_id
        ]
        return [p for p, _ in slots], [t for _, t in slots]


def num_common(*sequences: list[int]) -> int:
    """Number of leading tokens that all sequences share."""
    # What the first and the last in lexicographic order share, those between them share, too.
    # Comparing the tokens of all of them made encoding 18 % slower.
    first, last = min(sequences), max(sequences)
    for index, token in enumerate(first):
        if token != last[index]:
            return index
    return len(first)


def check_lengths(rows: Iterable[EncodedExample], *, max_tokens: int | None, model: str) -> None:
    """Raise UserError for the first example longer than the model's context of ``max_tokens``."""
    if max_tokens is None:
        return
    for row in rows:
        if row.num_tokens > max_tokens:
            raise UserError(
                f"example {row.example.example_id} has {row.num_tokens} tokens, more than the "
                f"{max_tokens} positions of {model}; remove it from the data file"
            )
