"""Prompts as a chat model was trained to see them: its template, applied once, as token ids."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

from steering_core.errors import InputError

SystemRole = Literal["merge_into_user", "refuse"]
"""What becomes of a system message where the model has no such role: put before the user's text
with an empty line between, or refused."""

_MARK = "steersweep-system-mark"


class ChatFormat:
    """Chat prompts of one model.

    Args:
        tokenizer: of the model, with its chat template.
        model: its name, for messages.
        system: what becomes of system messages where the template has no role for them.
        options: more for the template, for instance ``{"date_string": "26 Jul 2024"}``: templates
            that write today's date make other prompts tomorrow.

    Raises:
        InputError: the tokenizer has no chat template.
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
            raise InputError(
                f"the tokenizer of {model} has no chat template; choose an instruction-tuned "
                "model, or save the template beside its tokenizer (chat_template.jinja)"
            )
        if system not in ("merge_into_user", "refuse"):
            raise InputError(f"system must be merge_into_user or refuse, got {system!r}")
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
            InputError: a system message where there is no role for it and ``refuse`` was chosen, a
                template that refuses the messages, or one that leaves the user's text out.
        """
        ids = self._apply(self._messages(user, system), tokenize=True)
        bos = self._tokenizer.bos_token_id
        if bos is not None and list(ids[:2]) == [bos, bos]:
            raise InputError(
                f"the chat template of {self._model} begins with two BOS tokens; mend the template"
            )
        return tuple(int(token) for token in ids)

    def _messages(self, user: str, system: str | None) -> list[dict[str, str]]:
        if system is None or self.has_system_role:
            told = [] if system is None else [{"role": "system", "content": system}]
            return [*told, {"role": "user", "content": user}]
        if self._system == "refuse":
            raise InputError(
                f"{self._model} has no system role; set `system: merge_into_user` to put system "
                "messages before the user's text"
            )
        return [{"role": "user", "content": f"{system}\n\n{user}"}]

    def _shows_system(self) -> bool:
        """Whether a system message is to be seen in a prompt, under a role of its own."""
        messages = [{"role": "system", "content": _MARK}, {"role": "user", "content": "x"}]
        try:
            return _MARK in self._apply(messages, tokenize=False)
        except InputError:
            return False

    def _apply(self, messages: list[dict[str, str]], *, tokenize: bool) -> Any:
        try:
            return self._tokenizer.apply_chat_template(
                messages,
                tokenize=tokenize,
                add_generation_prompt=True,
                **({"return_dict": False} if tokenize else {}),
                **self._options,
            )
        except Exception as error:  # templates raise what they like; each means the same to a user
            line = next(iter(str(error).splitlines()), type(error).__name__)
            raise InputError(
                f"the chat template of {self._model} refuses the messages: {line}"
            ) from error
