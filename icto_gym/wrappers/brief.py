"""Observations without what the agent has just read: fewer tokens to train on and to generate after."""

from __future__ import annotations

from typing import Any

import gymnasium as gym

SAME = "(same as before)"


class BriefObservation(gym.Wrapper[str, str, str, str]):
    """Shows a page once, and the goal once; goes beneath `ReAct`.

    After the first observation, one that equals the one before becomes ``(same as before)``, and what
    the benchmark repeats on every page (`TextEnv.brief_observation`) is left out. Acting, recording and
    training see the same short text. A result with it is a result under another prompt: say so.
    """

    def __init__(self, env: gym.Env[str, str]) -> None:
        super().__init__(env)
        self._last = ""

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[str, dict[str, Any]]:
        self._last, info = self.env.reset(seed=seed, options=options)
        return self._last, info

    def step(self, action: str) -> tuple[str, float, bool, bool, dict[str, Any]]:
        observation, reward, terminated, truncated, info = self.env.step(action)
        shown = SAME if observation == self._last else self.unwrapped.brief_observation(observation)  # type: ignore[attr-defined]
        self._last = observation
        return shown, float(reward), terminated, truncated, info
