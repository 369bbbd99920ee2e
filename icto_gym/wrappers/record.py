"""The step-reward recorder: every finished episode becomes a trajectory on disk."""

from __future__ import annotations

import os
from collections import Counter
from typing import Any

import gymnasium as gym

from icto_gym.errors import ConfigError
from icto_gym.store import TrajectoryStore
from icto_gym.trajectory import Step, Trajectory


class RecordTrajectory(gym.Wrapper[str, str, str, str]):
    """Writes each episode to a `TrajectoryStore` when it ends; goes outermost, around `ReAct`.

    An episode that is left by `reset` or `close` before its end is not written: it is no episode.
    After the end `last_trajectory` holds the record. What the environment names in its
    ``recorded_info``, its `progress` after every step, and what a caller puts into `extra` during the
    episode, goes into the trajectory's ``extra``.
    """

    def __init__(
        self,
        env: gym.Env[str, str],
        store: TrajectoryStore | str | os.PathLike[str] | None,
        *,
        policy: str = "unnamed",
    ) -> None:
        """Args:
        env: a text environment, with or without `ReAct`.
        store: a store, the path of one, or None to keep only `last_trajectory`.
        policy: who acts, for the record.
        """
        super().__init__(env)
        self.store = TrajectoryStore(store) if isinstance(store, (str, os.PathLike)) else store
        self.policy = policy
        self.last_trajectory: Trajectory | None = None
        self.extra: dict[str, Any] = {}
        self._attempts: Counter[str] | None = None
        self._progress: list[float | None] = []
        self._open = False

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[str, dict[str, Any]]:
        """Start an episode; the option ``attempt`` numbers it (default: the next number of this task and policy)."""
        options = dict(options or {})
        attempt = options.pop("attempt", None)
        if attempt is not None and (isinstance(attempt, bool) or not isinstance(attempt, int) or attempt < 0):
            raise ConfigError(f"The reset option 'attempt' is {attempt!r:.80}; give a whole number from 0.")
        observation, info = self.env.reset(seed=seed, options=options)
        self._seed, self._attempt = seed or 0, attempt
        self._info, self._observation = info, observation
        self._steps: list[Step] = []
        self._progress = []
        self.extra = {}
        self._open = True
        return observation, info

    def step(self, action: str) -> tuple[str, float, bool, bool, dict[str, Any]]:
        observation, reward, terminated, truncated, info = self.env.step(action)
        if self._open:
            step = Step(
                self._observation, action, str(info.get("thought", "")), str(info.get("action", action)),
                float(reward), bool(info["valid_action"]),
            )  # fmt: skip
            self._steps.append(step)
            self._progress.append(getattr(self.unwrapped, "progress", _unknown)())
            self._observation = observation
            if terminated or truncated:
                self._open = False
                self._finish(info, terminated, truncated)
        return observation, float(reward), terminated, truncated, info

    def _finish(self, info: dict[str, Any], terminated: bool, truncated: bool) -> None:
        task_id = info["task_id"]
        attempt = self._number(task_id)
        named = getattr(self.unwrapped, "recorded_info", ())
        extra = {**{key: info[key] for key in named}, **self.progress, **self.extra}
        self.last_trajectory = Trajectory(
            trajectory_id=f"{task_id}@{self.policy}#{attempt}",
            env_id=self._env_id(),
            task_id=task_id,
            system_prompt=info["system_prompt"],
            instruction=info["instruction"],
            steps=tuple(self._steps),
            final_observation=self._observation,
            score=float(info["score"]),
            success=bool(info["success"]),
            terminated=bool(terminated),
            truncated=bool(truncated),
            policy=self.policy,
            seed=self._seed,
            error=info.get("error"),
            extra=extra or None,
        )
        if self.store is not None:
            self.store.append(self.last_trajectory)

    @property
    def progress(self) -> dict[str, list[float | None]]:
        """The share of sub-goals after every step so far, as it stands in ``extra``; empty where there are none."""
        known = any(share is not None for share in self._progress)
        return {"progress": list(self._progress)} if known else {}

    def _number(self, task_id: str) -> int:
        """The attempt the caller named, or the first number above all that the store has for this task and policy."""
        if self._attempts is None:
            self._attempts = Counter()
            for trajectory in () if self.store is None else self.store:
                if trajectory.policy == self.policy:
                    self._count(trajectory.task_id, trajectory.trajectory_id.rpartition("#")[2])
        attempt = self._attempts[task_id] if self._attempt is None else self._attempt
        self._count(task_id, str(attempt))
        return attempt

    def _count(self, task_id: str, attempt: str) -> None:
        assert self._attempts is not None
        taken = int(attempt) + 1 if attempt.isdecimal() else 0  # an id of another making has no number
        self._attempts[task_id] = max(self._attempts[task_id], taken)

    def _env_id(self) -> str:
        return self.env.spec.id if self.env.spec is not None else type(self.unwrapped).__name__


def _unknown() -> None:
    """Environments of others need not tell how far they are."""
