"""The policy that knows nothing: what chance alone reaches."""

from __future__ import annotations

from collections.abc import Sequence

from trainers.policies.base import Turn, draw_admissible


class RandomPolicy:
    """Draws each action uniformly from the admissible ones, by the turn's seed."""

    def __init__(self, *, name: str = "random") -> None:
        self.name = name

    def act(self, turns: Sequence[Turn]) -> list[str]:
        return [draw_admissible(turn.info, turn.seed) for turn in turns]
