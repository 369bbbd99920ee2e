"""Text to index terms, as Lucene's English analyser does it.

Order: word segmentation (Unicode UAX #29), possessive ``'s`` dropped, lower case, stop words dropped, Porter stems.
"""

from __future__ import annotations

import re
import unicodedata
from functools import lru_cache

from icto_gym.envs.webshop.pictographs import MARKS, marks_end, may_begin, sign_end
from icto_gym.envs.webshop.stemming import stem

STOP_WORDS = frozenset(
    """
    a an and are as at be but by for if in into is it no not of on or such that the their then there these they this
    to was will with
    """.split()  # noqa: SIM905
)
MAX_TOKEN = 255
"""Longer words are cut into pieces of this many letters, as Lucene's tokenizer does."""

# Letters, digits and underscores run on; .':  join letters, .,;' join digits, and only between two of a kind.
_ASCII_WORD = re.compile(r"_*[a-zA-Z0-9](?:[a-zA-Z0-9_]|(?<=[a-zA-Z])[.':](?=[a-zA-Z])|(?<=[0-9])[.,;'](?=[0-9]))*")

_BETWEEN_LETTERS = frozenset(".':\u2018\u2019\u2024\ufe52\uff07\uff0e\u00b7\u0387\u05f4\u2027\ufe13\ufe55\uff1a")
_BETWEEN_DIGITS = frozenset(
    ".,;'\u2018\u2019\u2024\ufe52\uff07\uff0e\u037e\u0589\u060c\u060d\u066c\u07f8\u2044\ufe10\ufe14"
)


def tokenize(text: str) -> list[str]:
    """Cut a text into words; punctuation and symbols are dropped, but for those of `pictographs`."""
    words = _ASCII_WORD.findall(text) if text.isascii() else _unicode_words(text)
    if any(len(word) > MAX_TOKEN for word in words):
        return [word[i : i + MAX_TOKEN] for word in words for i in range(0, len(word), MAX_TOKEN)]
    return words


def _unicode_words(text: str) -> list[str]:
    """The same for any script: ideographs, hiragana and signs stand alone, marks belong to what is before them."""
    words: list[str] = []
    start, last, i = -1, "", 0  # where the open word begins; the kind of its last character
    while i < len(text):
        kind, end = _kind(text[i]), i + 1
        if kind == "mark" and start >= 0:
            i = end
            continue
        if start >= 0 and not _joins(last, kind, text, i):
            _close(words, text[start:i])
            start = -1
        if kind in ("letter", "digit", "link", "katakana") and start < 0:
            start = i
        elif kind == "alone":
            end = marks_end(text, end)
            words.append(text[i:end])
        elif start < 0 and may_begin(text[i]) and sign_end(text, i) > i:
            end = sign_end(text, i)
            words.append(text[i:end])
        last = kind if kind in ("letter", "digit", "link", "katakana") or start < 0 else last
        i = end
    if start >= 0:
        _close(words, text[start:])
    return words


def _close(words: list[str], word: str) -> None:
    if not all(_kind(character) in ("link", "mark") for character in word):
        words.append(word)


def _joins(last: str, kind: str, text: str, i: int) -> bool:
    """Whether the character at ``i`` continues a word whose last real character was of kind ``last``."""
    if kind in ("letter", "digit"):
        return last != "katakana"
    if kind == "link":
        return True
    if kind == "katakana":
        return last in ("katakana", "link")
    following = next((_kind(c) for c in text[i + 1 : i + 9] if _kind(c) != "mark"), "")
    if last == "letter" and text[i] in _BETWEEN_LETTERS:
        return following == "letter"
    return last == "digit" and text[i] in _BETWEEN_DIGITS and following == "digit"


@lru_cache(maxsize=1 << 14)
def _kind(character: str) -> str:
    category = unicodedata.category(character)
    if category == "Nd":
        return "digit"
    if character == "\u200b":
        return ""  # a space without a width
    if category == "Pc":
        return "link"
    if category in MARKS:
        return "mark"
    if category[0] == "L" or category == "Nl" or "\u24b6" <= character <= "\u24e9":
        name = unicodedata.name(character, "")
        if name.startswith(("CJK", "HIRAGANA")):
            return "alone"
        return "katakana" if name.startswith(("KATAKANA", "HALFWIDTH KATAKANA")) else "letter"
    return ""


def analyze(text: str) -> list[str]:
    """The index terms of a text, in order, repeats kept."""
    terms = []
    for word in tokenize(text):
        term = _term(word)
        if term:
            terms.append(term)
    return terms


@lru_cache(maxsize=1 << 16)
def _term(word: str) -> str:
    if len(word) > 1 and word[-1] in "sS" and word[-2] in "'\u2019\uff07":
        word = word[:-2]
    word = word.lower()
    return "" if word in STOP_WORDS else stem(word)
