"""Choice data through the engine, against a plain Hugging Face loop written here.

Rows of 1, 2, 3, 4, 5 and 26 candidates share batches; prompts may be empty, candidates one token
long, and a candidate may merge with the last token of its prompt. One candidate is a text.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import cache
from string import ascii_uppercase
from typing import Any

import numpy as np
import pytest
import torch

from steering_core.datasets.base import Candidate, ChoiceExample, Contrast
from steering_core.encoding import EncodedExample, ExampleEncoder
from steering_core.engine import Cell, Engine, Scores
from steering_core.interventions import Positions
from steering_core.models import LoadedModel
from steering_core.packing import batches
from steering_core.probes import can_pack, can_reuse_prefix
from steering_core.protocol import PROTOCOLS, Pooling
from steering_core.scoring import choose
from steering_core.slow_engine import SlowEngine
from steering_core.vectors import SteeringVectors
from tests.support.golden import golden_examples, on_cpu
from tests.support.tiny_models import random_model, train_tokenizer

TOLERANCE = 1e-5
FAMILIES = ("gemma2", "llama", "qwen3", "gpt2", "bloom")
"""Caps and windows, neither, norms of heads, learned positions, and no tree mask."""
ALIGNED = replace(PROTOCOLS["aligned"], folds=1)
CONTRAST = Contrast(positive=("yes",), negative=("no",))
LAYERS = (1, 3)
COEFF = 4.0

families = pytest.mark.parametrize("family", FAMILIES)


def example(name: str, prompt: str, *candidates: str) -> ChoiceExample:
    """Candidates as ``text=label``."""
    pairs = (candidate.rsplit("=", 1) for candidate in candidates)
    return ChoiceExample(name, prompt, tuple(Candidate(text, label) for text, label in pairs))


EXAMPLES = (
    example("two", "Is the nurse kind?", " Yes=yes", " No=no"),
    example("three", "The doctor said that", " he was tired=yes", " she was=no", " no=other"),
    example("pair", "", "The nurse is kind.=yes", "The nurse is a very patient man.=no"),
    example(
        "four",
        "She went to the\nAnswer:",
        " store=no",
        " school=yes",
        " moon=no",
        " big old house=no",
    ),
    # The candidate goes on in the middle of a word: with some texts, tokens merge.
    example("merged", "The doc", "tor is here=yes", "k=no", "ument=no", "s are here=no", "ile=yes"),
    example(
        "letters",
        "Choose a letter:",
        *(f" {c}={'yes' if c < 'D' else 'no'}" for c in ascii_uppercase),
    ),
)

TEXTS = (
    example("text", "", "The nurse is a very patient man. She went to the store.=text"),
    example("short", "", "moon=text"),
    example("prompted", "", "The doctor said that he was here.=text").with_prefix("Be kind.\n"),
    example("spaced", "", "school is here.=text").with_prefix("She went to "),
)


@cache
def tokenizer() -> Any:
    texts = [t for e in golden_examples().examples for t in (e.context, *e.sentences)]
    return train_tokenizer([*texts, *(e.prompt + t for e in EXAMPLES for t in e.texts * 9)], 600)


@cache
def model_of(family: str) -> LoadedModel:
    return on_cpu(random_model(family, len(tokenizer())), family)


def encoded(
    protocol: Any = ALIGNED, examples: Sequence[ChoiceExample] = EXAMPLES
) -> list[EncodedExample]:
    return ExampleEncoder(tokenizer(), protocol, "tiny", contrast=CONTRAST).encode(examples)


# -- the plain loop -------------------------------------------------------------------------------


def tokens_of(prompt: str, text: str) -> tuple[list[int], int]:
    """Ids of prompt + text, and how many of them lead up to the candidate."""
    before: list[int] = tokenizer()(prompt)["input_ids"] if prompt else []
    whole: list[int] = tokenizer()(prompt + text)["input_ids"]
    if not prompt and whole[0] != tokenizer().bos_token_id:
        whole, before = [tokenizer().bos_token_id, *whole], [tokenizer().bos_token_id]
    elif not prompt:
        before = whole[:1]
    start = 0
    while start < min(len(before), len(whole)) and before[start] == whole[start]:
        start += 1
    return whole, start


def blocks_of(model: LoadedModel) -> torch.nn.ModuleList:
    """The transformer's list of blocks."""
    lists = [m for m in model.module.modules() if isinstance(m, torch.nn.ModuleList)]
    return next(m for m in lists if len(m) == 4)


@contextmanager
def added(model: LoadedModel, layer: int, vector: np.ndarray, at: slice) -> Iterator[None]:
    """While open, a vector is added to what block ``layer - 1`` leaves."""

    def hook(_module: Any, _args: Any, output: Any) -> Any:
        hidden = (output[0] if isinstance(output, tuple) else output).clone()
        hidden[:, at] += torch.from_numpy(vector)
        return (hidden, *output[1:]) if isinstance(output, tuple) else hidden

    handle = blocks_of(model)[layer - 1].register_forward_hook(hook)
    try:
        yield
    finally:
        handle.remove()


def plain(
    model: LoadedModel,
    layer: int = 0,
    vector: np.ndarray | None = None,
    positions: Positions = "all",
    examples: Sequence[ChoiceExample] = EXAMPLES,
) -> list[list[list[float]]]:
    """Log-probabilities of each scored token of each candidate of each example."""
    found = []
    for e in examples:
        of_example = []
        prompt_end = min(tokens_of(e.prompt, text)[1] for text in e.texts)
        at = {
            "all": slice(None),
            "question": slice(prompt_end),
            "candidate": slice(prompt_end, None),
            "last": slice(prompt_end - 1, prompt_end),
        }[positions]
        for text in e.texts:
            ids, start = tokens_of(e.prompt, text)
            step = np.zeros(64, np.float32) if vector is None else vector
            with torch.no_grad(), added(model, max(layer, 1), step, at):
                logits = model.module(input_ids=torch.tensor([ids]), use_cache=False).logits[0]
            logs = torch.log_softmax(logits.float(), dim=-1)
            of_example.append([float(logs[i - 1, ids[i]]) for i in range(start, len(ids))])
        found.append(of_example)
    return found


def assert_same(found: Scores, wanted: list[list[list[float]]]) -> None:
    for n, of_example in enumerate(wanted):
        counts = [len(logs) for logs in of_example]
        means = np.asarray([np.mean(logs) for logs in of_example])
        assert found.num_scored[n, : len(counts)].tolist() == counts
        assert not found.num_scored[n, len(counts) :].any()
        assert np.isnan(found.scores[n, len(counts) :]).all()
        np.testing.assert_allclose(found.of_row(n), means, rtol=0, atol=TOLERANCE)
        sums = found.scores[n, : len(counts)] * counts
        np.testing.assert_allclose(sums, [sum(logs) for logs in of_example], rtol=0, atol=1e-4)
        assert choose(found.scores[[n]], found.is_there[[n]])[0] == int(np.argmax(means))


def vectors() -> SteeringVectors:
    rng = np.random.default_rng(5)
    return SteeringVectors({n: rng.standard_normal(64).astype(np.float32) for n in LAYERS}, {})


# -- tests ----------------------------------------------------------------------------------------


def test_the_examples_have_what_they_are_here_for() -> None:
    rows = {row.example.example_id: row for row in encoded()}
    assert sorted(len(row.candidates) for row in rows.values()) == [2, 2, 3, 4, 5, 26]
    assert all(len(c.scored_ids) == 1 for c in rows["letters"].candidates)
    alone = len(tokenizer()("The doc")["input_ids"])
    ends = [tokens_of("The doc", text)[1] for text in EXAMPLES[4].texts]
    assert min(ends) < alone, "no candidate merges with its prompt"
    assert rows["merged"].candidates[0].num_question == min(ends)


@families
@pytest.mark.parametrize("tokens_per_batch", [64, 2000])
def test_unsteered_and_steered_scores_are_those_of_a_plain_loop(
    family: str, tokens_per_batch: int
) -> None:
    model, rows = model_of(family), encoded()
    engine = Engine(model, ALIGNED, is_packed=can_pack(model, 512))
    scores, _ = engine.baseline(rows, tokens_per_batch, LAYERS)
    assert_same(scores, plain(model))
    steered = engine.steered(rows, tokens_per_batch, [Cell(n, COEFF) for n in LAYERS], vectors())
    for layer, found in zip(LAYERS, steered, strict=True):
        assert_same(found, plain(model, layer, COEFF * vectors().whole[layer]))
        assert np.nanmax(np.abs(found.scores - scores.scores)) > 1e-3


@pytest.mark.parametrize("positions", ["question", "candidate", "last"])
@pytest.mark.parametrize("family", ["llama", "bloom"])
def test_positions_are_those_of_a_plain_loop(family: str, positions: Positions) -> None:
    model, protocol = model_of(family), replace(ALIGNED, positions=positions)
    is_packed = can_pack(model, 512)
    engine = Engine(
        model,
        protocol,
        is_packed=is_packed,
        reuses_prefix=is_packed and can_reuse_prefix(model, 512),
    )
    (found,) = engine.steered(encoded(protocol), 500, [Cell(3, COEFF)], vectors())
    assert_same(found, plain(model, 3, COEFF * vectors().whole[3], positions))


@pytest.mark.parametrize("is_static", [False, True])
@pytest.mark.parametrize("pooling", ["candidate", "candidate_last"])
@pytest.mark.parametrize("family", ["gemma2", "bloom"])
def test_pooled_states_are_those_of_the_contrasts_labels(
    family: str, pooling: Pooling, is_static: bool
) -> None:
    """``candidate_last``: the last token of each answer, as in Rimsky et al. 2024."""
    model, protocol = model_of(family), replace(ALIGNED, pooling=pooling)
    rows = encoded(protocol)
    engine = Engine(model, protocol, is_packed=can_pack(model, 512), is_static=is_static)
    scores, pooled = engine.baseline(rows, 800, [3])
    slow_scores, slow = SlowEngine(model, protocol).baseline(rows, [3])
    np.testing.assert_allclose(scores.scores, slow_scores.scores, rtol=0, atol=TOLERANCE)
    assert scores.num_scored.tolist() == slow_scores.num_scored.tolist()
    wanted = []
    for e in EXAMPLES:
        sides: dict[str, list[torch.Tensor]] = {"yes": [], "no": [], "other": []}
        for text, label in zip(e.texts, e.labels, strict=True):
            ids, start = tokens_of(e.prompt, text)
            with torch.no_grad():
                states = model.module(input_ids=torch.tensor([ids]), output_hidden_states=True)
            state = states.hidden_states[3][0].double()
            sides[label].append(state[-1] if pooling == "candidate_last" else state[start:].mean(0))
        wanted.append(
            (torch.stack(sides["yes"]).mean(0) - torch.stack(sides["no"]).mean(0)).numpy()
        )
    for found in (pooled, slow):
        np.testing.assert_allclose(found.differences[0], wanted, rtol=0, atol=1e-4)


@families
def test_texts_share_batches_with_choices(family: str) -> None:
    model, examples = model_of(family), (*TEXTS, *EXAMPLES)
    rows, is_packed = encoded(ALIGNED, examples), can_pack(model_of(family), 512)
    num_batches = len([*batches(rows, 4000, is_packed=is_packed)])
    assert num_batches == (1 if is_packed else len({len(e.candidates) for e in examples}))
    engine = Engine(model, ALIGNED, is_packed=is_packed)
    scores, _ = engine.baseline(rows, 4000, LAYERS)
    assert_same(scores, plain(model, examples=examples))
    (steered,) = engine.steered(rows, 4000, [Cell(3, COEFF)], vectors())
    assert_same(steered, plain(model, 3, COEFF * vectors().whole[3], examples=examples))
    assert np.abs(steered.scores[: len(TEXTS), 0] - scores.scores[: len(TEXTS), 0]).min() > 1e-3


@pytest.mark.parametrize("positions", ["all", "question", "candidate", "last"])
@pytest.mark.parametrize("is_static", [False, True])
def test_texts_alone_at_every_position_fast_and_slow(positions: Positions, is_static: bool) -> None:
    model, protocol = model_of("llama"), replace(ALIGNED, positions=positions)
    engine = Engine(model, protocol, reuses_prefix=True, is_static=is_static, measures=("kl",))
    slow = SlowEngine(model, protocol, ("kl",))
    rows, cells = encoded(protocol, TEXTS), [Cell(3, COEFF)]
    (found,) = engine.steered(rows, 500, cells, vectors())
    assert_same(found, plain(model, 3, COEFF * vectors().whole[3], positions, TEXTS))
    (wanted,) = slow.steered(rows, cells, vectors(), [0] * len(rows))
    np.testing.assert_allclose(found.scores, wanted.scores, rtol=0, atol=TOLERANCE)
    assert found.kl is not None and wanted.kl is not None
    np.testing.assert_allclose(found.kl, wanted.kl, rtol=0, atol=TOLERANCE)
    whole = len(tokenizer()(TEXTS[0].texts[0])["input_ids"])
    assert found.num_scored[0] == [whole - 1], "all tokens but BOS"


def test_nothing_is_pooled_without_a_contrast() -> None:
    model = model_of("llama")
    rows = ExampleEncoder(tokenizer(), ALIGNED, "tiny", contrast=None).encode(EXAMPLES)
    scores, pooled = Engine(model, ALIGNED).baseline(rows, 500, [3])
    assert_same(scores, plain(model))
    assert not pooled.differences.any()
    assert pooled.stream_norms.all()
