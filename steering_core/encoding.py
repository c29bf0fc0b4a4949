"""From examples to token ids: prompt, candidates, scored positions, pooled spans.

An example is anything with a prompt and candidate texts (``Scorable``): StereoSet's ``Example``, or
a ``ChoiceExample`` of any data set.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from string import ascii_uppercase
from typing import Any, Protocol

from steering_core.chat import ChatFormat
from steering_core.datasets.base import Contrast
from steering_core.datasets.stereoset import CONTRAST as STEREOSET_CONTRAST
from steering_core.protocol import Protocol as ScoringProtocol
from steersweep.errors import UserError


class Scorable(Protocol):
    """What the encoder needs of an example."""

    @property
    def example_id(self) -> str:
        """Unique in the data set."""

    @property
    def prompt(self) -> str:
        """What all candidates share; may be empty."""

    @property
    def texts(self) -> tuple[str, ...]:
        """The candidates, each with the space that separates it from the prompt, if any."""

    @property
    def labels(self) -> tuple[str, ...]:
        """Of the candidates, in the same order."""


@dataclass(frozen=True, slots=True)
class EncodedCandidate:
    """One of the sequences of an example.

    Attributes:
        token_ids: prompt and candidate, with pads on the right if the protocol pads.
        scored_positions: positions in ``token_ids`` whose logits are read, one for each of
        scored_ids: the token ids whose log-probability is read there.
        pooled: half-open span of positions whose states are averaged.
        num_question: leading tokens that are the prompt's in every sequence of the example, which
            decides what steering a position such as ``last`` means. The candidate's own tokens may
            begin later only: a candidate whose first characters merge with the prompt's last token
            takes that token from all of them.
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
    """An example as token sequences, one for each candidate, that share ``num_shared`` tokens.

    Attributes:
        contrast: the labels that states are pooled for; None if nothing is pooled.
    """

    example: Scorable
    num_shared: int
    candidates: tuple[EncodedCandidate, ...]
    contrast: Contrast | None = STEREOSET_CONTRAST

    @property
    def sides(self) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """Indices of the candidates whose states are pooled: those of the negative labels of the
        contrast, and those of the positive ones."""
        if self.contrast is None:
            return (), ()
        labels = self.example.labels
        negative, positive = (
            tuple(c for c, label in enumerate(labels) if label in side)
            for side in (self.contrast.negative, self.contrast.positive)
        )
        return negative, positive

    @property
    def num_packed_tokens(self) -> int:
        """Tokens of the packed row: the shared prefix once, then the branches."""
        branches = sum(len(c.token_ids) - self.num_shared for c in self.candidates)
        return self.num_shared + branches

    @property
    def num_tokens(self) -> int:
        """Length of the longest sequence."""
        return max(len(c.token_ids) for c in self.candidates)

    @property
    def num_real_positions(self) -> int:
        """Positions without pads: those that the candidates share once, then each one's own."""
        return self.num_shared + sum(c.num_real - self.num_shared for c in self.candidates)


class ExampleEncoder:
    """Encodes examples with a Hugging Face tokenizer under a protocol.

    The scored text is prompt + candidate, exactly as given, with the tokenizer's own special
    tokens. A candidate's tokens are those behind the longest run of leading tokens that the
    encodings of the prompt and of prompt + candidate share. If that leaves nothing before the
    candidate, as after an empty prompt, all sequences of the example begin with the BOS token, or
    with EOS if the tokenizer has no BOS, as in lm-evaluation-harness.

    Args:
        contrast: the labels that states are pooled for.
        chat: puts each prompt into the model's chat template; the candidate is then the beginning
            of the model's turn, without a leading space.

    Attributes:
        tokenizer: the model's.

    Raises:
        UserError: the protocol needs a BOS or a pad token that the tokenizer does not have.
    """

    def __init__(
        self,
        tokenizer: Any,
        protocol: ScoringProtocol,
        model: str,
        *,
        contrast: Contrast | None = STEREOSET_CONTRAST,
        chat: ChatFormat | None = None,
    ) -> None:
        self.tokenizer, self._model = tokenizer, model
        self.protocol = protocol
        self._contrast, self._chat = contrast, chat
        needed = {"BOS": protocol.needs_bos, "pad": protocol.needs_pad}
        held = {"BOS": tokenizer.bos_token_id, "pad": tokenizer.pad_token_id}
        missing = [name for name, wanted in needed.items() if wanted and held[name] is None]
        if missing:
            raise UserError(
                f"the tokenizer of {model} has no {' and no '.join(missing)} token, which protocol "
                "as_published needs",
                cause="no_special_token",
            )
        self._bos_id, self._pad_id = held["BOS"], held["pad"]

    def encode(self, examples: Sequence[Scorable]) -> list[EncodedExample]:
        """Encoded examples in the order given.

        Raises:
            UserError: an example that cannot be scored under the protocol, by id.
        """
        prompts = [self._prompt(e.prompt) for e in examples]
        texts = [self._candidate(text) for e in examples for text in e.texts]
        contexts = [p for p, e in zip(prompts, examples, strict=True) for _ in e.texts]
        questions = iter(self._ids(prompts))
        sequences = iter(self._ids([p + text for p, text in zip(contexts, texts, strict=True)]))
        is_published = self.protocol.scoring == "as_published"
        alone = iter(self._ids([t.removeprefix(" ") for t in texts]) if is_published else ())
        return [
            self._encode_one(
                example,
                next(questions),
                [next(sequences) for _ in example.texts],
                [next(alone) for _ in example.texts] if is_published else None,
            )
            for example in examples
        ]

    def _prompt(self, prompt: str) -> str:
        return prompt if self._chat is None else self._chat.text(prompt)

    def _candidate(self, text: str) -> str:
        # A template ends where the answer begins, on a line of its own.
        return text if self._chat is None else text.removeprefix(" ")

    def _ids(self, texts: list[str]) -> list[list[int]]:
        if not texts:
            return []
        # A chat template writes its special tokens itself.
        options = {} if self._chat is None else {"add_special_tokens": False}
        ids: list[list[int]] = self.tokenizer(texts, **options)["input_ids"]
        return ids

    def _encode_one(
        self,
        example: Scorable,
        question: list[int],
        sequences: list[list[int]],
        alone: list[list[int]] | None,
    ) -> EncodedExample:
        starts = [num_common(question, sequence) for sequence in sequences]
        if min(starts) == 0:
            # Before all of them, so that the candidates still share what precedes them.
            context = self._context_token(example)
            question = [context, *question]
            sequences = [[context, *sequence] for sequence in sequences]
            starts = [start + 1 for start in starts]
        longest = max(len(s) for s in sequences)
        candidates = []
        for index, (start, sequence) in enumerate(zip(starts, sequences, strict=True)):
            name = f"example {example.example_id}: candidate {ascii_uppercase[index]}"
            if start == len(sequence):
                raise UserError(f"{name} adds no token to the question with this tokenizer")
            if alone is not None:
                positions, ids = self._published_slots(len(question), alone[index])
            else:
                positions, ids = range(start - 1, len(sequence) - 1), sequence[start:]
            padding = [self._pad_id] * (longest - len(sequence)) if self.protocol.needs_pad else []
            token_ids = [*sequence, *padding]
            if not ids or max(positions) >= len(token_ids):
                raise UserError(
                    f"{name} cannot be scored as published: encoded alone it is longer than the "
                    "row, or only padding",
                    cause="not_as_published",
                )
            candidates.append(
                EncodedCandidate(
                    token_ids=tuple(token_ids),
                    scored_positions=tuple(positions),
                    scored_ids=tuple(ids),
                    pooled=self._pooled(start, len(sequence), len(token_ids)),
                    num_question=min(starts),
                    num_real=len(sequence),
                )
            )
        return EncodedExample(example, num_common(*sequences), tuple(candidates), self._contrast)

    def _pooled(self, start: int, end: int, padded: int) -> tuple[int, int]:
        """Positions that are pooled of a sequence whose candidate is ``start`` to ``end``."""
        return {
            "all_positions": (0, padded),
            "candidate": (start, end),
            "candidate_last": (end - 1, end),
        }[self.protocol.pooling]

    def _context_token(self, example: Scorable) -> int:
        """What is put before sequences that have no prompt."""
        for token in (self.tokenizer.bos_token_id, self.tokenizer.eos_token_id):
            if token is not None:
                return int(token)
        raise UserError(
            f"example {example.example_id}: nothing precedes its candidates, and the tokenizer of "
            f"{self._model} has neither a BOS nor an EOS token to begin with; give the example a "
            "prompt"
        )

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
                f"{max_tokens} positions of {model}; shorten it, or remove it from the data file"
            )
