"""Persona sweeps for tests: a tiny chat model, traits, and a judge that goes by the answer."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import torch
import yaml
from transformers import AutoModelForCausalLM

from jobs.persona.judges.endpoint import PROBE
from steering_core.models import ModelSource, load_tokenizer
from tests.support.golden import model_path
from tests.support.judge_server import Reply, first_tokens, openai_reply
from tests.support.tiny_models import save_model, train_tokenizer
from tests.support.traits import write_trait

TEMPLATE = (
    "{{ bos_token }}{% for m in messages %}<{{ m['role'] }}>{{ m['content'] }}\n{% endfor %}"
    "{% if add_generation_prompt %}<assistant>{% endif %}"
)
KEY = "sk-not-a-real-key-0123456789abcdef"
QUESTIONS = ["How are you?", "What is new?", "Where to?"]


def save_chat_model(folder: Path, template: str | None = TEMPLATE) -> Path:
    """A random model of four blocks with a chat template, or without one."""
    tokenizer = load_tokenizer(ModelSource(str(model_path("gemma2-tiny"))))
    tokenizer.chat_template = template
    save_model(folder, "qwen2", tokenizer, seed=5, num_hidden_layers=4,
               max_position_embeddings=1024)  # fmt: skip
    return folder


def save_judge_model(folder: Path) -> Path:
    """A random chat model that puts most of its probability on numbers."""
    tokenizer = train_tokenizer(["How are you? A number.", "0 1 2 3 4 5 6 7 8 9"], 300)
    tokenizer.add_tokens([str(number) for number in range(101)])
    tokenizer.chat_template = TEMPLATE
    save_model(folder, "llama", tokenizer, seed=3)
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    numbers = tokenizer.convert_tokens_to_ids([str(number) for number in range(101)])
    with torch.no_grad():
        head = torch.zeros_like(model.lm_head.weight)
        head[numbers] = model.lm_head.weight[numbers] * 8
        model.lm_head.weight.copy_(head)
    model.save_pretrained(folder)
    return folder


def eval_prompt(trait: str) -> str:
    """What a judge of ``write_persona_spec`` is asked about a trait."""
    return f"How {trait}? Q: {{question}} A: {{answer}}"


def write_persona_spec(folder: Path, model: Path, **changes: Any) -> Path:
    """A valid spec of two traits, in process, with top-level keys changed."""
    traits = {
        name: {"path": str(write_trait(folder, f"{name}.json", questions=QUESTIONS,
                                       eval_prompt=eval_prompt(name)))}
        for name in ("kind", "sly")
    }  # fmt: skip
    document: dict[str, Any] = {
        "job": "persona",
        "models": {"chat": {"path": str(model)}},
        "traits": traits,
        "generation": {"max_new_tokens": 12},
        "judge": {"kind": "word_list"},
        "steering": {"layers": [2, 3], "coeffs": [-3, 0, 5], "questions": 2},
        "compute": {"executor": "in_process", "examples_per_task": 8},
        "output": str(folder / "out"),
    } | changes
    path = folder / "persona.yaml"
    path.write_text(yaml.safe_dump(document))
    return path


def judge_spec(url: str) -> dict[str, Any]:
    """The spec's ``judge`` for a server on this machine."""
    return {"kind": "openai", "model": "m", "base_url": url, "max_retries": 2, "concurrency": 4}


@cache
def verdict_on(prompt: str) -> tuple[str, float | None]:
    """(outcome, score) that ``moody`` gives a prompt in the end, from the prompt alone."""
    number = int(hashlib.sha256(prompt.encode()).hexdigest()[:8], 16)
    kind = number % 20
    if kind == 0:
        return "refused", None
    if kind == 1:
        return "unparsable", None
    # The weighted mean of two numbers, a fifth of the probability being on no number.
    low, high = number // 20 % 50, 50 + number // 1000 % 51
    return "scored", (0.3 * low + 0.5 * high) / 0.8


def moody() -> Callable[[str, int], Reply]:
    """An OpenAI judge: scores, refusals, words, and trouble at first for some prompts."""

    def answer(prompt: str, num_before: int) -> Reply:
        number = int(hashlib.sha256(prompt.encode()).hexdigest()[:8], 16)
        if num_before == 0 and number % 7 == 0:
            return 429 if number % 2 else 500
        if prompt == PROBE:
            return first_tokens({"85": 1.0})
        outcome, _ = verdict_on(prompt)
        if outcome == "refused":
            return openai_reply(None, refusal="I will not.")
        if outcome == "unparsable":
            return first_tokens({"Well": 0.9, "42": 0.1})
        low, high = number // 20 % 50, 50 + number // 1000 % 51
        return first_tokens({str(low): 0.3, str(high): 0.5, "Hm": 0.2})

    return answer
