"""Lists of options in a prompt: ``A. ...`` or ``(A) ...`` lines, read and written."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from string import ascii_uppercase

LETTERS = tuple(ascii_uppercase)

_MARKER = re.compile(
    r"^[ \t]*(?:\((?P<round>[A-Z])\)[ \t]?|(?P<plain>[A-Z])[.):][ \t])", re.MULTILINE
)
_CUE = re.compile(r"\s*(?:\n[^\n]*\banswer\b[^\n]*)?\s*\Z", re.IGNORECASE)
_ENDING_CUE = re.compile(r"\s*\b(?:Answer|A):\s*\Z")
_HEADING = re.compile(r"\s*(?:Choices|Options):?\s*\Z")


@dataclass(frozen=True, slots=True)
class Listing:
    """A prompt that lists options.

    Attributes:
        stem: what comes before the list, without a heading such as ``Choices:``.
        options: the listed texts.
        pieces: the prompt around them: ``pieces[0] + options[0] + pieces[1] + ... + pieces[-1]``.
    """

    stem: str
    options: tuple[str, ...]
    pieces: tuple[str, ...]

    def with_options(self, options: Sequence[str]) -> str:
        """The prompt with other texts in its list."""
        rest = (o + piece for o, piece in zip(options, self.pieces[1:], strict=True))
        return self.pieces[0] + "".join(rest)


def find_listing(prompt: str) -> Listing | None:
    """The list of options that ends a prompt; None if there is none.

    Only a line that asks for the answer may follow the last option, which has to be a single line:
    other text after it could belong to it or not.
    """
    markers = list(_MARKER.finditer(prompt))
    letters = [match["round"] or match["plain"] for match in markers]
    if "A" not in letters:
        return None
    first = len(letters) - 1 - letters[::-1].index("A")
    markers = markers[first:]
    if tuple(letters[first:]) != LETTERS[: len(markers)] or len(markers) < 2:
        return None
    end = prompt.find("\n", markers[-1].end())
    end = len(prompt) if end < 0 else end
    if not _CUE.match(prompt, end):
        return None
    starts = [match.end() for match in markers]
    # An option runs to the line breaks before the next marker.
    ends = [len(prompt[: match.start()].rstrip("\n")) for match in markers[1:]] + [end]
    options = tuple(prompt[a:b] for a, b in zip(starts, ends, strict=True))
    if not all(option.strip() for option in options):
        return None
    bounds = zip([0, *ends], [*starts, len(prompt)], strict=True)
    stem = _HEADING.sub("", prompt[: markers[0].start()]).rstrip()
    return Listing(stem, options, tuple(prompt[a:b] for a, b in bounds))


def without_cue(prompt: str) -> str:
    """The prompt without an ``Answer:`` or ``A:`` at its end."""
    return _ENDING_CUE.sub("", prompt)


def lettered(stem: str, options: Sequence[str]) -> str:
    """The stem, a line ``A. option`` for each option, and a line that asks for the answer."""
    lines = [f"{letter}. {option}" for letter, option in zip(LETTERS, options, strict=False)]
    return "\n".join([*([stem] if stem else []), *lines, "Answer:"])


def are_letters(texts: Sequence[str]) -> bool:
    """Whether texts are the letters of a list in its order: `` A``, `` (B``, `` C.``."""
    return [re.sub(r"[\s().:]", "", text) for text in texts] == list(LETTERS[: len(texts)])
