"""A judge that counts words: free, and the same each time."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence

from jobs.persona.judges.base import Judge, Query, Verdict
from jobs.persona.traits import COHERENCE, Trait
from steersweep.errors import UserError

_WORD = re.compile(r"[^\W\d_]+(?:['\u2019][^\W\d_]+)*")
_SHORTEST = 4
"""Letters of a word that tells a trait; shorter ones are mostly grammar."""


class WordListJudge(Judge):
    """Trait: words of a list in the answer; coherence: how few of its words are repetitions."""

    is_worth_keeping = False

    def __init__(self, words: Mapping[str, Sequence[str]], words_for_100: int) -> None:
        self.name = "word_list"
        self._words = {t: frozenset(w.casefold() for w in own) for t, own in words.items()}
        self._words_for_100 = words_for_100

    def identity(self) -> Mapping[str, object]:
        """The lists and the scale."""
        words = {trait: sorted(own) for trait, own in self._words.items()}
        return {"kind": "word_list", "words": words, "words_for_100": self._words_for_100}

    def check(self) -> None:
        """Raise UserError for a trait without words."""
        for trait, words in self._words.items():
            if not words:
                raise UserError(f"judge word_list has no words for {trait}; set judge.words")

    async def ask(self, query: Query) -> Verdict:
        """The score; an answer without words is incoherent and shows no trait."""
        said = [word.casefold() for word in _WORD.findall(query.answer)]
        if query.subject == COHERENCE:
            return Verdict("scored", 100.0 * len(set(said)) / len(said) if said else 0.0)
        hits = sum(word in self._words[query.subject] for word in said)
        return Verdict("scored", 100.0 * min(1.0, hits / self._words_for_100))


def telling_words(trait: Trait) -> tuple[str, ...]:
    """Words of four letters or more that the positive instructions have and the negative lack."""
    positive = _words_of(pair.positive for pair in trait.instructions)
    negative = _words_of(pair.negative for pair in trait.instructions)
    return tuple(sorted(w for w in positive - negative if len(w) >= _SHORTEST))


def _words_of(texts: Iterable[str]) -> set[str]:
    return {word.casefold() for text in texts for word in _WORD.findall(text)}
