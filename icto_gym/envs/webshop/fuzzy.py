"""Similarity of two short texts: the token-set score of thefuzz 0.19 as difflib computes it."""

from __future__ import annotations

import re
from difflib import SequenceMatcher
from functools import lru_cache

_NOT_WORD = re.compile(r"\W", re.IGNORECASE)
_HIGH_LATIN = dict.fromkeys(range(128, 256))


@lru_cache(maxsize=1 << 16)
def token_set_ratio(first: str | tuple[str, str], second: str | tuple[str, str]) -> int:
    """Score in 0..100: the words both share against each side's, whatever their order and repeats.

    Signs count as blanks and letters of the upper half of Latin-1 as nothing. A text without a word scores 0, also
    against itself; a pair is compared by its Python notation, as the original does.
    """
    a, b = _words(first), _words(second)
    if not a or not b:
        return 0
    shared = " ".join(sorted(a & b))
    only_a, only_b = " ".join(sorted(a - b)), " ".join(sorted(b - a))
    whole_a, whole_b = f"{shared} {only_a}".strip(), f"{shared} {only_b}".strip()
    return max(_ratio(shared, whole_a), _ratio(shared, whole_b), _ratio(whole_a, whole_b))


def _words(text: str | tuple[str, str]) -> set[str]:
    plain = str(text).translate(_HIGH_LATIN)
    return set(_NOT_WORD.sub(" ", plain).lower().split())


def _ratio(a: str, b: str) -> int:
    if a == b:
        return 100
    if not a or not b:
        return 0
    return round(100 * SequenceMatcher(None, a, b).ratio())
