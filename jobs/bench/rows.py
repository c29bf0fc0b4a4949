"""The rows that are measured: examples as token ids, with or without a tokenizer."""

from __future__ import annotations

import random
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from jobs.resources import local_path
from steering_core.datasets.base import ChoiceDataset, Contrast
from steering_core.datasets.stereoset import CONTRAST as STEREOSET_CONTRAST
from steering_core.encoding import EncodedExample, ExampleEncoder, Scorable
from steering_core.protocol import Protocol
from steering_core.stereoset import Example, read_stereoset
from steersweep.errors import UserError

EMBEDDED = "embedded:examples.json"
STEREOSET = "stereoset"
_LARGEST_VOCAB = 8192
_SPECIAL = {"pad_token": "<pad>", "eos_token": "<eos>", "bos_token": "<bos>"}


def draw_examples(
    data: str | None, num: int, seed: int = 0, kind: str = STEREOSET
) -> tuple[list[Scorable], Sequence[Scorable]]:
    """``num`` examples in random order, and all examples of the file.

    Of a file, without repetition and at most as many as it holds. Without one, the 24 embedded
    examples, repeated where more are asked for.

    Args:
        kind: of the file, a name of ``steering_core.datasets.registry``.

    Raises:
        UserError: the file is not of that kind.
    """
    examples = _examples(data, kind)
    rng = random.Random(seed)  # noqa: S311 - a sample, not a secret
    if data is not None:
        return rng.sample(examples, min(num, len(examples))), examples
    repeated = [examples[index % len(examples)] for index in range(num)]
    rng.shuffle(repeated)
    return repeated, examples


def contrast_of(examples: Sequence[Scorable], kind: str) -> Contrast:
    """The data set's usual contrast; without one, the first two labels that occur."""
    usual = STEREOSET_CONTRAST if kind == STEREOSET else _datasets()[kind].contrast
    if usual is not None:
        return usual
    labels = [*dict.fromkeys(label for e in examples for label in e.labels), "", ""]
    return Contrast((labels[0],), (labels[1],))


def check_kind(kind: str) -> None:
    """Raise UserError unless it is a kind of data set."""
    if kind != STEREOSET and kind not in _datasets():
        raise UserError(f"--format must be one of {', '.join(_datasets())}, got {kind!r}")


def _datasets() -> Mapping[str, ChoiceDataset]:
    # They measure with scipy, which a bare machine does not have; StereoSet's rows do without.
    from steering_core.datasets.registry import DATASETS

    return DATASETS


def _examples(data: str | None, kind: str) -> Sequence[Scorable]:
    if kind == STEREOSET:
        return read_stereoset(Path(local_path(data or EMBEDDED))).examples
    if data is None:
        raise UserError(f"--format {kind} needs --data FILE; the package has StereoSet's form only")
    from jobs.datasets.load import load_examples

    return load_examples(data, kind).examples


def train_tokenizer(examples: Sequence[Scorable], vocab_size: int) -> Any:
    """A byte-level BPE tokenizer of the examples' texts that puts BOS in front.

    At most ``min(vocab_size, 8192)`` entries, so that every id is within the shape's vocabulary and
    texts become about as many tokens as with a published tokenizer.
    """
    from transformers import PreTrainedTokenizerFast

    texts = [text for e in examples for text in texts_of(e)]
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


def texts_of(example: Scorable) -> Sequence[str]:
    """The texts that a tokenizer is trained on: of StereoSet, those without the question's frame,
    so that its rows are as long as they always were."""
    if isinstance(example, Example):
        return example.context, *example.sentences
    return example.prompt, *example.texts


def encode(
    examples: Sequence[Scorable],
    tokenizer: Any,
    protocol: Protocol,
    max_tokens: int | None,
    contrast: Contrast = STEREOSET_CONTRAST,
) -> list[EncodedExample]:
    """Encoded examples in the order given; those longer than ``max_tokens`` are left out."""
    encoder = ExampleEncoder(tokenizer, protocol, "the benched model", contrast=contrast)
    rows = encoder.encode(examples)
    return [row for row in rows if max_tokens is None or row.num_tokens <= max_tokens]
