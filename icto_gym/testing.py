"""Doubles for tests and examples: a tiny text game with the interface of the real ones."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import gymnasium as gym

from icto_gym.core import LazyActions, Outcome, TextEnv
from icto_gym.tasks import Manifest, Task, content_digest

_FRUITS = ("apple", "banana", "cherry", "date", "elder", "fig", "grape", "haw")


class ScriptedEnv(TextEnv):
    """Fetch the fruit the instruction names, from one of three bowls; two steps are enough.

    ``look`` tells which bowl holds it; ``take <fruit> from bowl <n>`` pays 1 from the right bowl and 0
    from a wrong one, and ends the episode; ``knock`` raises the score by 0.25 once. Anything else is answered with
    "What?".
    """

    system_prompt = (
        "Fetch the fruit. Commands: look, knock, take FRUIT from bowl N. Answer with 'Thought: ...' and 'Action: ...'."
    )

    @classmethod
    def tasks(cls, split: str | None = None, **kwargs: Any) -> Manifest:
        found = []
        for name, numbers in (("train", range(12)), ("dev", range(12, 16)), ("test", range(16, 24))):
            if split in (None, name):
                for number in numbers:
                    fruit = _FRUITS[number % len(_FRUITS)]
                    found.append(
                        Task(f"scripted/{name}/{number:02d}", name, "Scripted", "fetch", content_digest(fruit))
                    )
        return Manifest("Scripted", split, found)

    def _begin(self, task: Task) -> Outcome:
        number = int(task.task_id.rsplit("/", 1)[1])
        self._fruit, self._bowl, self._knocked = _FRUITS[number % len(_FRUITS)], number % 3 + 1, False
        return Outcome("Three bowls stand here.")

    def _instruction(self) -> str:
        return f"Bring the {self._fruit}."

    def _advance(self, action: str) -> Outcome:
        score = 0.25 if self._knocked else 0.0
        if action == "look":
            return Outcome(f"The {self._fruit} lies in bowl {self._bowl}.", score, score)
        if action == "knock":
            self._knocked = True
            return Outcome("Knock, knock.", 0.25, 0.25)
        if action in self._admissible_now():
            won = action.endswith(str(self._bowl))
            text = f"You took the {self._fruit}." if won else "That bowl is empty."
            return Outcome(text, float(won), float(won), terminated=True, success=won)
        return Outcome("What?", score, score, valid=False)

    def _admissible_now(self) -> list[str]:
        return ["look", "knock", *(f"take {self._fruit} from bowl {bowl}" for bowl in (1, 2, 3))]

    def _admissible(self) -> Sequence[str]:
        return LazyActions(self._admissible_now)

    def expert_actions(self) -> list[str]:
        take = f"take {self._fruit} from bowl {self._bowl}"
        return [take] if "look" in self._actions else ["look", take]

    def expert_rationale(self, action: str) -> str:
        return "I should see where it is." if action == "look" else f"The {self._fruit} lies in bowl {self._bowl}."

    def optimal_actions(self) -> set[str]:
        return {f"take {self._fruit} from bowl {self._bowl}"}


if "Scripted-v0" not in gym.registry:  # so that gymnasium.make("icto_gym.testing:Scripted-v0") works
    gym.register("Scripted-v0", entry_point="icto_gym.testing:ScriptedEnv", max_episode_steps=6)
