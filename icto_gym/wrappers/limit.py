"""Step limits that depend on the task."""

from __future__ import annotations

from typing import Any

import gymnasium as gym
from gymnasium.utils import RecordConstructorArgs
from gymnasium.wrappers import TimeLimit


class TaskStepLimit(gym.Wrapper[str, str, str, str], RecordConstructorArgs):
    """Truncates after as many steps as the environment's ``step_limit`` names for the task being played.

    ``gymnasium.make(..., max_episode_steps=n)`` puts a ``TimeLimit`` beneath, and then this one does nothing.
    """

    def __init__(self, env: gym.Env[str, str]) -> None:
        RecordConstructorArgs.__init__(self)
        gym.Wrapper.__init__(self, env)
        self._overridden = _has_time_limit(env)
        self._limit: int | None = None
        self._elapsed = 0

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[str, dict[str, Any]]:
        observation, info = self.env.reset(seed=seed, options=options)
        self._elapsed = 0
        self._limit = None if self._overridden else self.env.unwrapped.step_limit  # type: ignore[attr-defined]
        return observation, info

    def step(self, action: str) -> tuple[str, float, bool, bool, dict[str, Any]]:
        observation, reward, terminated, truncated, info = self.env.step(action)
        self._elapsed += 1
        at_limit = self._limit is not None and self._elapsed >= self._limit
        return observation, float(reward), terminated, truncated or at_limit, info


def _has_time_limit(env: gym.Env[Any, Any]) -> bool:
    while isinstance(env, gym.Wrapper):
        if isinstance(env, TimeLimit):
            return True
        env = env.env
    return False
