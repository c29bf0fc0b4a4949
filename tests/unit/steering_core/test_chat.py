"""Chat prompts: the template once, one BOS, and models without a system role."""

from __future__ import annotations

from datetime import datetime
from functools import cache
from typing import Any

import pytest

from steering_core.chat import ChatFormat
from steersweep.errors import UserError
from tests.support.tiny_models import train_tokenizer

WITH_SYSTEM = (
    "{{ bos_token }}{% for m in messages %}<{{ m['role'] }}>{{ m['content'] }}\n{% endfor %}"
    "{% if add_generation_prompt %}<assistant>{% endif %}"
)
RAISES = (
    "{% if messages[0]['role'] == 'system' %}{{ raise_exception('System role not supported') }}"
    "{% endif %}" + WITH_SYSTEM
)
LEAVES_OUT = (
    "{{ bos_token }}{% for m in messages %}{% if m['role'] != 'system' %}<{{ m['role'] }}>"
    "{{ m['content'] }}\n{% endif %}{% endfor %}<assistant>"
)


@cache
def trained() -> Any:
    return train_tokenizer(["Be kind.", "What is rain?", "<user> <system> <assistant>"], 300)


def tokenizer_with(template: str | None) -> Any:
    tokenizer = trained()
    tokenizer.chat_template = template
    return tokenizer


def test_a_prompt_is_the_template_applied_once() -> None:
    chat = ChatFormat(tokenizer_with(WITH_SYSTEM), "m")
    assert chat.has_system_role
    text = chat.text("What is rain?", "Be kind.")
    assert text == "<bos><system>Be kind.\n<user>What is rain?\n<assistant>"
    ids = chat.prompt_ids("What is rain?", "Be kind.")
    assert ids.count(trained().bos_token_id) == 1
    assert ids[0] == trained().bos_token_id
    assert trained().decode(ids) == text
    assert chat.text("x") == "<bos><user>x\n<assistant>"


def test_a_template_without_bos_gets_none() -> None:
    """The tokenizer would put one in front of a text: a template's word counts."""
    chat = ChatFormat(tokenizer_with(WITH_SYSTEM.replace("{{ bos_token }}", "")), "m")
    assert trained().bos_token_id not in chat.prompt_ids("What is rain?")
    assert trained()("x")["input_ids"][0] == trained().bos_token_id


def test_a_template_with_two_is_refused() -> None:
    chat = ChatFormat(tokenizer_with("{{ bos_token }}" + WITH_SYSTEM), "m")
    with pytest.raises(UserError, match="starts with two BOS tokens"):
        chat.prompt_ids("x")


@pytest.mark.parametrize("template", [RAISES, LEAVES_OUT])
def test_without_a_system_role_the_message_goes_before_the_users(template: str) -> None:
    chat = ChatFormat(tokenizer_with(template), "m")
    assert not chat.has_system_role
    assert chat.text("Why?", "Be kind.") == "<bos><user>Be kind.\n\nWhy?\n<assistant>"
    assert chat.text("Why?") == "<bos><user>Why?\n<assistant>"
    refusing = ChatFormat(tokenizer_with(template), "m", system="refuse")
    assert refusing.text("Why?") == "<bos><user>Why?\n<assistant>"
    with pytest.raises(UserError, match="m has no system role, and a system message"):
        refusing.prompt_ids("Why?", "Be kind.")


def test_a_system_role_is_used_whatever_is_said_for_models_without() -> None:
    chat = ChatFormat(tokenizer_with(WITH_SYSTEM), "m", system="refuse")
    assert "<system>Be kind." in chat.text("Why?", "Be kind.")


def test_options_reach_the_template() -> None:
    chat = ChatFormat(tokenizer_with("{{ day }}" + WITH_SYSTEM), "m", options={"day": "Monday"})
    assert chat.text("x").startswith("Monday")


def test_a_model_without_a_template_is_refused() -> None:
    with pytest.raises(UserError, match="the tokenizer of base-7b has no chat template"):
        ChatFormat(tokenizer_with(None), "base-7b")


def test_what_a_template_refuses_is_said_in_one_line() -> None:
    template = "{{ raise_exception('no\nusers') }}"
    with pytest.raises(UserError, match="the chat template of m refuses the messages"):
        ChatFormat(tokenizer_with(template), "m").prompt_ids("x")


def test_an_unknown_choice_is_refused() -> None:
    with pytest.raises(UserError, match="merge_into_user or refuse, got 'drop'"):
        ChatFormat(tokenizer_with(WITH_SYSTEM), "m", system="drop")  # type: ignore[arg-type]


LLAMA_3 = (
    "{% if not date_string is defined %}{% set date_string = strftime_now('%d %b %Y') %}{% endif %}"
    "Today Date: {{ date_string }}\n" + WITH_SYSTEM
)
WITHOUT_OPTION = "Today Date: {{ strftime_now('%H:%M') }}" + WITH_SYSTEM
IN_ITS_OWN_SYSTEM_MESSAGE = (
    "{% if messages[0]['role'] != 'system' %}{{ strftime_now('%B') }}{% endif %}" + WITH_SYSTEM
)


@pytest.mark.parametrize(
    ("template", "options"),
    [(LLAMA_3, ["date_string"]), (WITHOUT_OPTION, []), (IN_ITS_OWN_SYSTEM_MESSAGE, [])],
)
def test_a_template_that_writes_the_date_is_found_with_the_option_that_fixes_it(
    template: str, options: list[str]
) -> None:
    chat = ChatFormat(tokenizer_with(template), "m")
    assert chat.writes_the_date
    assert chat.options_for_the_date() == options
    # The clock goes on afterwards.
    assert f"{datetime.now():%Y}" in ChatFormat(
        tokenizer_with("{{ strftime_now('%Y') }}" + WITH_SYSTEM), "m"
    ).text("x")


def test_a_template_without_a_date_or_with_a_fixed_one_is_not() -> None:
    assert not ChatFormat(tokenizer_with(WITH_SYSTEM), "m").writes_the_date
    fixed = ChatFormat(tokenizer_with(LLAMA_3), "m", options={"date_string": "1 May 2026"})
    assert not fixed.writes_the_date
    assert "Today Date: 1 May 2026\n" in fixed.text("x")
