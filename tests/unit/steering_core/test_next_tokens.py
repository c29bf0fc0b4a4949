"""Next-token log-probabilities of a chat model, held against its own forward pass."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from jobs.persona.judges import Answer, Scorer
from jobs.persona.judges.reading import number_masses, spelled_masses, weighted_score
from jobs.persona.judges.spec import LocalJudgeSpec
from steering_core.models import LoadedModel, ModelSource, load_model, load_tokenizer
from steering_core.next_tokens import ChatNextTokens
from steersweep.errors import UserError
from tests.support.tiny_models import save_model, train_tokenizer
from tests.support.traits import TRAIT

TEMPLATE = "{{ bos_token }}{% for m in messages %}{{ m['content'] }}\n{% endfor %}Answer:"
TEXTS = ["How are you? A number.", "0 1 2 3 4 5 6 7 8 9", "answer question cheerful"]
CHAT = [{"role": "user", "content": "How are you?"}]


def judge_model(folder: Path, family: str, *, whole_numbers: bool) -> tuple[LoadedModel, Any]:
    tokenizer = train_tokenizer(TEXTS, 300)
    if whole_numbers:
        tokenizer.add_tokens([str(number) for number in range(101)])
    tokenizer.chat_template = TEMPLATE
    save_model(folder, family, tokenizer)
    source = ModelSource(str(folder))
    return load_model(source, device="cpu"), load_tokenizer(source)


def direct(model: LoadedModel, tokenizer: Any, text: str, more: str = "") -> np.ndarray:
    """Log-probabilities [V] behind a text and some more digits, by the model's own forward."""
    ids = tokenizer(text, add_special_tokens=False)["input_ids"]
    ids = [*ids, *tokenizer.convert_tokens_to_ids(list(more))]
    with torch.inference_mode():
        logits = model.module(input_ids=torch.tensor([ids])).logits[0, -1]
    return torch.log_softmax(logits.double(), -1).numpy()


@pytest.mark.parametrize("family", ["llama", "gemma2", "cohere"])
def test_they_are_those_of_the_models_own_forward(tmp_path: Path, family: str) -> None:
    model, tokenizer = judge_model(tmp_path, family, whole_numbers=False)
    ask = ChatNextTokens(model, tokenizer, num_tokens=None)
    assert not ask.numbers_are_tokens
    starts = ("", "1", "8", "10")
    text = "<bos>How are you?\nAnswer:"
    for start, found in zip(starts, ask(CHAT, starts), strict=True):
        log_probs_V = direct(model, tokenizer, text, start)
        wanted: dict[str, float] = {}
        for token, value in enumerate(np.exp(log_probs_V)):
            key = tokenizer.decode([token])
            wanted[key] = wanted.get(key, 0.0) + value
        assert found.keys() == wanted.keys()
        for key, value in found.items():
            assert np.exp(value) == pytest.approx(wanted[key], abs=1e-5)
        assert sum(np.exp(value) for value in found.values()) == pytest.approx(1, abs=1e-5)


@pytest.mark.parametrize("whole_numbers", [True, False])
def test_the_masses_of_numbers_are_those_of_numpy(tmp_path: Path, whole_numbers: bool) -> None:
    model, tokenizer = judge_model(tmp_path, "llama", whole_numbers=whole_numbers)
    ask = ChatNextTokens(model, tokenizer, num_tokens=None)
    assert ask.numbers_are_tokens is whole_numbers
    text = "<bos>How are you?\nAnswer:"
    texts_V = [tokenizer.decode([t]) for t in range(len(tokenizer))]

    def of(start: str, wanted: str) -> float:
        """Probability of a number behind a start; at first, white space around it is nothing."""
        probabilities_V = np.exp(direct(model, tokenizer, text, start))
        has_it = [(t if start else t.strip()) == wanted for t in texts_V]
        return float(probabilities_V[has_it].sum())

    wanted = np.zeros(101)
    for number in range(101):
        spelled = str(number)
        if whole_numbers:
            wanted[number] = of("", spelled)
            continue
        mass = np.prod([of(spelled[:at], digit) for at, digit in enumerate(spelled)])
        if 1 <= number <= 10:  # only these can be the beginning of a number up to 100
            mass *= 1 - sum(of(spelled, digit) for digit in "0123456789")
        wanted[number] = mass
    found = (
        number_masses(ask(CHAT)[0].items())
        if whole_numbers
        else spelled_masses(lambda starts: ask(CHAT, starts))
    )
    np.testing.assert_allclose([found.get(n, 0.0) for n in range(101)], wanted, rtol=1e-4)
    score = weighted_score({n: m / wanted.sum() for n, m in found.items()})
    assert score == pytest.approx(wanted @ np.arange(101) / wanted.sum(), rel=1e-4)


def test_a_model_folder_becomes_a_judge(tmp_path: Path) -> None:
    """A random model says no numbers; the point is that its folder is all that it takes."""
    judge_model(tmp_path, "llama", whole_numbers=True)
    judge = LocalJudgeSpec(kind="local", path=str(tmp_path)).open([TRAIT])  # type: ignore[call-arg]
    judge.check()
    judgements = Scorer(judge).score(TRAIT, [Answer("How are you?", "cheerful")])
    assert judgements[0].trait.outcome in ("scored", "unparsable", "refused")
    assert len(str(judge.identity()["model_digest"])) == 64


def test_only_the_likeliest_are_returned_and_no_hook_is_left(tmp_path: Path) -> None:
    model, tokenizer = judge_model(tmp_path, "llama", whole_numbers=False)
    whole = ChatNextTokens(model, tokenizer, num_tokens=None)(CHAT)[0]
    some = ChatNextTokens(model, tokenizer, num_tokens=5)(CHAT)[0]
    assert len(some) <= 5
    assert max(some, key=lambda t: some[t]) == max(whole, key=lambda t: whole[t])
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.module.modules())


def test_a_model_that_cannot_chat_is_refused(tmp_path: Path) -> None:
    model, tokenizer = judge_model(tmp_path, "llama", whole_numbers=False)
    tokenizer.chat_template = None
    with pytest.raises(UserError, match="has no chat template; a judge must be a chat model"):
        ChatNextTokens(model, tokenizer)
