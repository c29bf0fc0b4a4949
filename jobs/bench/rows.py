"""The rows that are measured: StereoSet examples as token ids, with or without a tokenizer."""

from __future__ import annotations

import random
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from jobs.resources import local_path
from steering_core.encoding import EncodedExample, ExampleEncoder
from steering_core.protocol import Protocol
from steering_core.stereoset import Example, read_stereoset

EMBEDDED = "embedded:examples.json"
_LARGEST_VOCAB = 8192
_SPECIAL = {"pad_token": "<pad>", "eos_token": "<eos>", "bos_token": "<bos>"}


def draw_examples(
    data: str | None, num: int, seed: int = 0
) -> tuple[list[Example], Sequence[Example]]:
    """``num`` examples in random order, and all examples of the file.

    Of a file, without repetition and at most as many as it holds. Without one, the 24 embedded
    examples, repeated where more are asked for.

    Raises:
        UserError: the file is not StereoSet's.
    """
    examples = read_stereoset(Path(local_path(data or EMBEDDED))).examples
    rng = random.Random(seed)  # noqa: S311 - a sample, not a secret
    if data is not None:
        return rng.sample(examples, min(num, len(examples))), examples
    repeated = [examples[index % len(examples)] for index in range(num)]
    rng.shuffle(repeated)
    return repeated, examples


def train_tokenizer(examples: Sequence[Example], vocab_size: int) -> Any:
    """A byte-level BPE tokenizer of the examples' texts that puts BOS in front.

    At most ``min(vocab_size, 8192)`` entries, so that every id is within the shape's vocabulary and
    texts become about as many tokens as with a published tokenizer.
    """
    from transformers import PreTrainedTokenizerFast

    texts = [text for e in examples for text in (e.context, *e.sentences)]
    tokenizer = train_bpe(texts, min(vocab_size, _LARGEST_VOCAB), list(_SPECIAL.values()))
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, **_SPECIAL)


def train_bpe(
    texts: Iterable[str], vocab_size: int, special_tokens: Sequence[str], *, has_bos: bool = True
) -> Any:
    """A byte-level BPE ``tokenizers.Tokenizer`` of the texts; ``<bos>`` in front where asked."""
    from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, processors, trainers

    tokenizer = Tokenizer(models.BPE(unk_token=None))
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(r" ?\w+| ?[^\w\s]+|\s+"), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=list(special_tokens),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    if has_bos:
        tokenizer.post_processor = processors.TemplateProcessing(
            single="<bos> $A", special_tokens=[("<bos>", tokenizer.token_to_id("<bos>"))]
        )
    return tokenizer


def encode(
    examples: Sequence[Example], tokenizer: Any, protocol: Protocol, max_tokens: int | None
) -> list[EncodedExample]:
    """Encoded examples in the order given; those longer than ``max_tokens`` are left out."""
    rows = ExampleEncoder(tokenizer, protocol, "the benched model").encode(examples)
    return [row for row in rows if max_tokens is None or row.num_tokens <= max_tokens]
