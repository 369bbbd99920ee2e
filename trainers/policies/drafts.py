"""Guesses at how a response goes on, made of what the policy wrote before.

An agent's responses repeat themselves: the same turns of phrase, actions and names. What was guessed is read in one
pass together with the token before it, and as much of it stays as the model says itself, token by token (speculative
decoding: Leviathan et al., 2023, arXiv 2211.17192; with a store of earlier texts in place of a small model: He et al.,
2024, arXiv 2311.08252). So guesses decide how many passes a response takes, and not what it says.
"""

from __future__ import annotations

from collections.abc import Sequence

LONGEST = 6
"""So many tokens before a guess are looked up at most."""
SURE = 0.4
"""Least lead of a guess over all else that was seen in its place, as a share: 0.4 is seven times against three."""
KEPT = 1 << 18
"""Most beginnings that are remembered, of about 200 bytes each; then the store starts anew."""
_START = -1


class Drafts:
    """Which token followed which; see the module's text."""

    def __init__(self, most: int) -> None:
        """Args:
        most: tokens that are guessed at once, at most.
        """
        self.most = most
        self.guessed = self.right = 0
        """Tokens guessed so far, and those of them that came."""
        self._after: dict[tuple[int, ...], tuple[int, int, int]] = {}

    def __len__(self) -> int:
        return len(self._after)

    def learn(self, response: Sequence[int]) -> None:
        """Remember a response, its end included."""
        tokens = (_START, *response[: KEPT // LONGEST - 1])
        if len(self._after) + LONGEST * len(tokens) > KEPT:
            self._after.clear()
        for place in range(1, len(tokens)):
            for begin in range(max(0, place - LONGEST), place):
                self._count(tokens[begin:place], tokens[place])

    def guess(self, written: Sequence[int], room: int) -> list[int]:
        """How a response goes on after what is written of it, for at most ``room`` tokens and as long as it is sure."""
        tokens = [_START, *written][-LONGEST:]
        found: list[int] = []
        while len(found) < min(self.most, room):
            token = self._next(tuple(tokens[-LONGEST:]))
            if token is None:
                break
            found.append(token)
            tokens.append(token)
        return found

    def _next(self, before: tuple[int, ...]) -> int | None:
        """What followed the longest known ending of these tokens, if one token leads there."""
        for begin in range(len(before)):
            known = self._after.get(before[begin:])
            if known is not None:
                token, lead, seen = known
                return token if lead >= SURE * seen else None
        return None

    def _count(self, before: tuple[int, ...], token: int) -> None:
        """A majority vote in constant memory (Boyer and Moore, 1991): the lead falls where another token comes."""
        leader, lead, seen = self._after.get(before, (token, 0, 0))
        if token == leader:
            lead += 1
        elif lead:
            lead -= 1
        else:
            leader, lead = token, 1
        self._after[before] = (leader, lead, seen + 1)
