"""One episode being played, and the environments that episodes take turns in."""

from __future__ import annotations

import logging
import random
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import gymnasium as gym

from icto_gym.errors import BackendError
from icto_gym.trajectory import Trajectory
from icto_gym.wrappers import RecordTrajectory
from trainers.policies.base import Policy, Turn, Usage, derive_seed, draw_admissible, write_response
from trainers.sampling import Job, text_env

logger = logging.getLogger(__name__)


def trajectory_id(job: Job, policy: Policy) -> str:
    """The id under which the episode of a job is stored."""
    return f"{job.task_id}@{policy.name}#{job.attempt}"


class Episode:
    """One job being played; `trajectory` is set when it has ended."""

    def __init__(self, job: Job, pool: EnvPool, policy: Policy, optimal: bool) -> None:
        self.job, self._pool, self._policy = job, pool, policy
        self.name = trajectory_id(job, policy)
        self.trajectory: Trajectory | None = None
        self._random_steps: list[int] = []
        self._optimal: list[bool] | None = [] if optimal else None
        self._tokens: list[Usage] = []
        self._prefix_steps = self._number = 0
        self._info: dict[str, Any] = {}
        self._env = pool.take()
        try:
            options = {"task_id": job.task_id, "attempt": job.attempt}
            _, self._info = self._env.reset(seed=job.seed, options=options)
            if job.prefix_fraction > 0:
                self._play_prefix()
        except BackendError as error:
            self._break(error)

    def turn(self) -> Turn:
        """What the policy is asked next."""
        seed = derive_seed(self.job.seed, "turn", self._number)
        return Turn(self._info["messages"], self._info, self.name, self.job.temperature, seed)

    def explore(self) -> str | None:
        """A command drawn at random, where this step's draw says so."""
        draw = random.Random(derive_seed(self.job.seed, "explore", self._number)).random()
        if draw >= self.job.epsilon:
            return None
        self._random_steps.append(self._number)
        return draw_admissible(self._info, derive_seed(self.job.seed, "action", self._number))

    def count(self, usage: Usage | None) -> None:
        """Add the tokens of one response."""
        if usage is not None:
            self._tokens.append(usage)

    def step(self, response: str) -> None:
        """Carry out a response."""
        try:
            best = text_env(self._env).optimal_actions() if self._optimal is not None else None
            *_, terminated, truncated, self._info = self._env.step(response)
        except BackendError as error:
            self._break(error)
            return
        self._number += 1
        self._note_optimal(best)
        if terminated or truncated:
            self._end()

    def _note_optimal(self, best: set[str] | None) -> None:
        if self._optimal is not None:
            # a state without known optimal actions makes the episode's whole list unknown
            self._optimal = None if best is None else [*self._optimal, self._info["action"].strip() in best]

    def _play_prefix(self) -> None:
        """Let the expert play the first part of its path; at least one step is left for the policy."""
        env = text_env(self._env)
        path = env.expert_actions() or []
        steps = min(1 + int(self.job.prefix_fraction * (len(path) - 1)), len(path) - 1)
        while self._prefix_steps < steps and self.trajectory is None:
            actions = env.expert_actions()
            if not actions:
                return
            self.step(write_response(env.expert_rationale(actions[0]), actions[0]))
            self._prefix_steps += 1

    def _end(self) -> None:
        recorded = self._env.last_trajectory
        assert recorded is not None
        extra = {**(recorded.extra or {}), **self._facts()}
        self.trajectory = replace(recorded, extra=extra)
        self._pool.give_back(self._env, sound=recorded.error is None)

    def _break(self, error: BackendError) -> None:
        """A reset or step that failed is an episode too: what was played, and why it ended."""
        info = self._info
        self.trajectory = Trajectory(
            trajectory_id=self.name,
            env_id=self._env.spec.id if self._env.spec else type(self._env.unwrapped).__name__,
            task_id=self.job.task_id,
            system_prompt=info.get("system_prompt", ""),
            instruction=info.get("instruction", ""),
            steps=tuple(self._env.get_wrapper_attr("steps")) if info else (),
            final_observation="",
            score=float(info.get("score", 0.0)),
            success=False,
            terminated=True,
            truncated=False,
            policy=self._policy.name,
            seed=self.job.seed,
            error=str(error),
            extra={**(self._env.progress if info else {}), **self._facts()},
        )
        self._pool.give_back(self._env, sound=False)

    def _facts(self) -> dict[str, Any]:
        """How the episode was played, as it stands in the trajectory's ``extra``."""
        facts: dict[str, Any] = {
            "temperature": self.job.temperature,
            "prefix_steps": self._prefix_steps,
            "random_steps": self._random_steps,
        }
        if self._optimal is not None:
            facts["optimal"] = self._optimal
        if self._tokens:
            facts["prompt_tokens"] = sum(usage.prompt_tokens for usage in self._tokens)
            facts["response_tokens"] = sum(usage.response_tokens for usage in self._tokens)
        return facts


class EnvPool:
    """Environments between episodes; a broken one is closed, not used again."""

    def __init__(self, make: Callable[[], gym.Env[str, str]], policy_name: str) -> None:
        self._make, self._policy_name = make, policy_name
        self._free: list[RecordTrajectory] = []
        self._taken: list[RecordTrajectory] = []

    def take(self) -> RecordTrajectory:
        """An environment that nobody plays in."""
        env = self._free.pop() if self._free else RecordTrajectory(self._make(), None, policy=self._policy_name)
        self._taken.append(env)
        return env

    def give_back(self, env: RecordTrajectory, *, sound: bool) -> None:
        """The episode is over."""
        self._taken.remove(env)
        if sound:
            self._free.append(env)
        else:
            self._close(env)

    def close(self) -> None:
        """Close every environment, those in the middle of an episode too."""
        for env in self._free + self._taken:
            self._close(env)
        self._free, self._taken = [], []

    def _close(self, env: RecordTrajectory) -> None:
        try:
            env.close()
        except Exception as error:  # what is broken may break again when it is closed
            logger.warning("closing an environment failed: %s", error)
