"""Signs that Lucene's English analyser makes words of: ©, ®, ™, stars, arrows, emoji.

Real titles are full of them, so they count as words in the length of a document. Which ones, is read off Lucene 8.11
(as Anserini 0.14.3 brings it), which was asked of every code point up to U+1FFFF.
"""

from __future__ import annotations

import re
import unicodedata

_RANGES = """
    A9 AE 203C 2049 2122 2194-2199 21A9-21AA 231A-231B 2328 2388 23CF 23E9-23F3 23F8-23FA 25AA-25AB 25B6 25C0
    25FB-25FE 2600-2605 2607-2612 2614-2685 2690-2705 2708-2712 2714 2716 271D 2721 2728 2733-2734 2744 2747 274C
    274E 2753-2755 2757 2763-2767 2795-2797 27A1 27B0 27BF 2934-2935 2B05-2B07 2B1B-2B1C 2B50 2B55 3030 303D 3297
    3299 1F000-1F0FF 1F10D-1F10F 1F12F 1F16C-1F16F 1F18E 1F191-1F19A 1F1AD-1F1E5 1F200-1F20F 1F21A 1F22F 1F232-1F23A
    1F23C-1F23F 1F249-1F53D 1F546-1F64F 1F680-1F6FF 1F774-1F77F 1F7D5-1F7FF 1F80C-1F80F 1F848-1F84F 1F85A-1F85F
    1F888-1F88F 1F8AE-1F8FF 1F90C-1F93A 1F93C-1F945 1F947-1FFFD
"""
_TONED = """
    261D 26F9 270A-270D 1F385 1F3C2-1F3C4 1F3C7 1F3CA-1F3CC 1F442-1F443 1F446-1F450 1F466-1F469 1F46E 1F470-1F478
    1F47C 1F481-1F483 1F485-1F487 1F4AA 1F574-1F575 1F57A 1F590 1F595-1F596 1F645-1F647 1F64B-1F64F 1F6A3 1F6B4-1F6B6
    1F6C0 1F6CC 1F918-1F91C 1F91E-1F91F 1F926 1F930-1F939 1F93D-1F93E 1F9B5-1F9B6 1F9B8-1F9B9 1F9D1-1F9DD
"""
"""Those that a skin tone belongs to."""


def _one_of(ranges: str) -> re.Pattern[str]:
    ends = (part.split("-") for part in ranges.split())
    return re.compile("[" + "".join("-".join(chr(int(end, 16)) for end in pair) for pair in ends) + "]")


_JOINER, _EMOJI_STYLE = "\u200d", "\ufe0f"
_TONES = frozenset(map(chr, range(0x1F3FB, 0x1F400)))
_FLAG_LETTERS = frozenset(map(chr, range(0x1F1E6, 0x1F200)))
_PICTOGRAPH, _TAKES_A_TONE = _one_of(_RANGES), _one_of(_TONED)
_KEY = re.compile(f"[#*]{_EMOJI_STYLE}?\u20e3")


def may_begin(character: str) -> bool:
    """Whether a sign may begin with a character."""
    return character in "#*\u200d" or character in _FLAG_LETTERS or bool(_PICTOGRAPH.match(character))


def sign_end(text: str, start: int) -> int:
    """Where the sign that begins at ``start`` ends, with its marks, tone and what is joined to it; else ``start``."""
    if text[start] in _FLAG_LETTERS:
        second = marks_end(text, start + 1)
        return marks_end(text, second + 1) if text[second : second + 1] in _FLAG_LETTERS else start
    key = _KEY.match(text, start)
    if key:
        return marks_end(text, key.end())
    first = start
    while text[first : first + 1] == _JOINER:
        first += 1
    end = first
    while (end == first or text[end - 1] == _JOINER) and _PICTOGRAPH.match(text, end):
        end += bool(_TAKES_A_TONE.match(text, end)) and text[end + 1 : end + 2] in _TONES
        end = marks_end(text, end + 1, but=_EMOJI_STYLE if text[end] in _TONES else "")
    return start if end == first else end


def marks_end(text: str, start: int, but: str = "") -> int:
    """Where the marks that begin at ``start`` end."""
    while start < len(text) and unicodedata.category(text[start]) in MARKS and text[start] not in (but, "\u200b"):
        start += 1
    return start


MARKS = ("Mn", "Me", "Mc", "Cf")
"""Categories of what belongs to the character before it."""
