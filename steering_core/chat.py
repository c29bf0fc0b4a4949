"""Prompts as a chat model was trained to see them: its template, applied once, as token ids."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import datetime, tzinfo
from typing import Any, Literal

from steersweep.errors import UserError

SystemRole = Literal["merge_into_user", "refuse"]
"""What becomes of a system message where the model has no such role: put before the user's text
with an empty line between, or refused."""

_MARK = "steersweep-system-mark"
# Every part of a date and time differs between the two.
_TWO_DATES = (datetime(2001, 2, 3, 4, 5, 6), datetime(2034, 12, 25, 17, 48, 59))
_NAME_OF_A_DATE = re.compile(r"\b\w*date\w*\b", re.IGNORECASE)
_SOME_DATE = "26 Jul 2024"


class ChatFormat:
    """Chat prompts of one model.

    Args:
        tokenizer: of the model, with its chat template.
        model: its name, for messages.
        system: what becomes of system messages where the template has no role for them.
        options: more for the template, for instance ``{"date_string": "26 Jul 2024"}``: templates
            that write today's date make other prompts tomorrow.

    Raises:
        UserError: the tokenizer has no chat template.
    """

    def __init__(
        self,
        tokenizer: Any,
        model: str,
        *,
        system: SystemRole = "merge_into_user",
        options: Mapping[str, Any] | None = None,
    ) -> None:
        if not getattr(tokenizer, "chat_template", None):
            raise UserError(
                f"the tokenizer of {model} has no chat template; choose an instruction-tuned "
                "model, or save the template next to its tokenizer (chat_template.jinja)"
            )
        if system not in ("merge_into_user", "refuse"):
            raise UserError(f"system must be merge_into_user or refuse, got {system!r}")
        self._tokenizer = tokenizer
        self._model = model
        self._system = system
        self._options = dict(options or {})
        self.has_system_role = self._shows_system()

    def text(self, user: str, system: str | None = None) -> str:
        """The prompt up to where the answer begins, special tokens spelled out."""
        return str(self._apply(self._messages(user, system), tokenize=False))

    def prompt_ids(self, user: str, system: str | None = None) -> tuple[int, ...]:
        """The prompt's token ids, with exactly the special tokens that the template writes.

        Raises:
            UserError: a system message where there is no role for it and ``refuse`` was chosen, a
                template that refuses the messages, or one that leaves the user's text out.
        """
        ids = self._apply(self._messages(user, system), tokenize=True)
        bos = self._tokenizer.bos_token_id
        if bos is not None and list(ids[:2]) == [bos, bos]:
            raise UserError(
                f"the chat template of {self._model} starts with two BOS tokens; fix the template"
            )
        return tuple(int(token) for token in ids)

    @property
    def writes_the_date(self) -> bool:
        """Whether prompts depend on the day or time on which they are rendered."""
        return self._differs_by_date(self._options)

    def options_for_the_date(self) -> list[str]:
        """Options of the template that fix the date, found by trying; empty if it has none."""
        template = str(self._tokenizer.chat_template)
        names = dict.fromkeys(_NAME_OF_A_DATE.findall(template))
        return [
            name for name in names if not self._differs_by_date({**self._options, name: _SOME_DATE})
        ]

    def _differs_by_date(self, options: Mapping[str, Any]) -> bool:
        # A template may write the date in one of the two only: in its own system message, say.
        for messages in (self._messages("x", None), self._messages("x", "y")):
            texts = set()
            for date in _TWO_DATES:
                with _clock_at(date):
                    texts.add(str(self._apply(messages, tokenize=False, options=options)))
            if len(texts) > 1:
                return True
        return False

    def _messages(self, user: str, system: str | None) -> list[dict[str, str]]:
        if system is None or self.has_system_role:
            told = [] if system is None else [{"role": "system", "content": system}]
            return [*told, {"role": "user", "content": user}]
        if self._system == "refuse":
            raise UserError(
                f"{self._model} has no system role, and a system message is to be sent",
                cause="no_system_role",
            )
        return [{"role": "user", "content": f"{system}\n\n{user}"}]

    def _shows_system(self) -> bool:
        """Whether a system message is to be seen in a prompt, under a role of its own."""
        messages = [{"role": "system", "content": _MARK}, {"role": "user", "content": "x"}]
        try:
            return _MARK in self._apply(messages, tokenize=False)
        except UserError:
            return False

    def _apply(
        self,
        messages: list[dict[str, str]],
        *,
        tokenize: bool,
        options: Mapping[str, Any] | None = None,
    ) -> Any:
        try:
            return self._tokenizer.apply_chat_template(
                messages,
                tokenize=tokenize,
                add_generation_prompt=True,
                **({"return_dict": False} if tokenize else {}),
                **(self._options if options is None else options),
            )
        except Exception as error:  # templates raise what they like; each means the same to a user
            line = next(iter(str(error).splitlines()), type(error).__name__)
            raise UserError(
                f"the chat template of {self._model} refuses the messages: {line}"
            ) from error


@contextmanager
def _clock_at(date: datetime) -> Iterator[None]:
    """Templates that ask for the time are told this one.

    Transformers gives templates the function ``strftime_now``, which reads ``datetime`` of that
    module; an option of the same name does not replace it, since options are turned into plain
    data first. Only this thread may render templates meanwhile.
    """
    from transformers.utils import chat_template_utils

    class Fixed(datetime):
        @classmethod
        def now(cls, tz: tzinfo | None = None) -> Fixed:
            return cls.combine(date.date(), date.time(), tz)

    module: Any = chat_template_utils
    before = module.datetime
    module.datetime = Fixed
    try:
        yield
    finally:
        module.datetime = before
