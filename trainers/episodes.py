"""Episodes being played in one room: in this thread, in another, in a process, or on another machine.

A room answers every call with what the episode needs next: a `Turn` for the policy, or, once it has
ended, its `Trajectory`. Whoever calls need not know where the room is.
"""

from __future__ import annotations

import logging
import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import gymnasium as gym

from icto_gym.errors import BackendError
from icto_gym.trajectory import Step, Trajectory
from icto_gym.wrappers import BriefObservation, ReAct, RecordTrajectory
from trainers.policies.base import (
    LIMITS,
    Answer,
    Policy,
    Turn,
    Usage,
    derive_seed,
    draw_admissible,
    write_response,
)
from trainers.sampling import Job, RolloutConfig, make_env, text_env, worked_example

logger = logging.getLogger(__name__)

Source = RolloutConfig | Callable[[], "gym.Env[str, str]"]
"""How environments are made: a configuration, or a function that returns one with `ReAct` around it."""


@dataclass(frozen=True)
class Setting:
    """What a room must know to play; it pickles where its sources do."""

    sources: tuple[Source, ...]
    policy: str
    """Who acts, for the record."""
    expert: bool = False
    """Environments put the demonstrated action into ``info``."""
    lists_actions: bool = True
    """Turns carry ``info["admissible_actions"]``, which a room elsewhere has to list before it sends them."""


class Playroom:
    """The episodes of one room and the environments they take turns in."""

    def __init__(self, setting: Setting) -> None:
        self._setting = setting
        self._pools = [EnvPool(env_factory(source, setting.expert), setting.policy) for source in setting.sources]
        self._episodes: dict[str, Episode] = {}

    def begin(self, job: Job, said: Sequence[Answer] = ()) -> Turn | Trajectory:
        """Start an episode; what was ``said`` in it before, in a room now lost, is played again."""
        source = self._setting.sources[job.source]
        optimal = isinstance(source, RolloutConfig) and source.optimal_actions
        episode = Episode(job, self._pools[job.source], self._setting.policy, optimal)
        self._episodes[episode.name] = episode
        episode.begin()
        for answer in said:
            if episode.trajectory is None:
                episode.answer(answer)
        return self._next(episode)

    def answer(self, name: str, answer: Answer) -> Turn | Trajectory:
        """Carry out what the policy answered to an episode's turn."""
        episode = self._episodes[name]
        episode.answer(answer)
        return self._next(episode)

    def close(self) -> None:
        """Close every environment."""
        for pool in self._pools:
            pool.close()

    def _next(self, episode: Episode) -> Turn | Trajectory:
        if episode.trajectory is not None:
            del self._episodes[episode.name]
            return episode.trajectory
        turn = episode.turn()
        if self._setting.lists_actions:
            return turn
        return turn._replace(info={key: value for key, value in turn.info.items() if key != "admissible_actions"})


def env_factory(source: Source, expert: bool) -> Callable[[], gym.Env[str, str]]:
    """How to make an environment with its wrappers, the recorder excepted."""
    if not isinstance(source, RolloutConfig):
        return source
    config = source

    def make() -> gym.Env[str, str]:
        env = make_env(config, expert=expert)
        env = BriefObservation(env) if config.brief else env
        return ReAct(env, window=config.window, example=worked_example(env) if config.example else ())

    return make


def trajectory_id(job: Job, policy: Policy | str) -> str:
    """The id under which the episode of a job is stored."""
    return f"{job.task_id}@{policy if isinstance(policy, str) else policy.name}#{job.attempt}"


class Episode:
    """One job being played. It goes on by itself until the policy is needed; `trajectory` is set when it has ended."""

    def __init__(self, job: Job, pool: EnvPool, policy: str, optimal: bool) -> None:
        self.job, self._pool, self._policy = job, pool, policy
        self.name = trajectory_id(job, policy)
        self.trajectory: Trajectory | None = None
        self._random_steps: list[int] = []
        self._optimal: list[bool] | None = [] if optimal else None
        self._usages: dict[int, Usage] = {}
        self._prefix_steps = self._number = 0
        self._info: dict[str, Any] = {}
        self._env = pool.take()

    def begin(self) -> None:
        """Reset, and go on to the first turn that the policy is asked."""
        try:
            options = {"task_id": self.job.task_id, "attempt": self.job.attempt}
            _, self._info = self._env.reset(seed=self.job.seed, options=options)
            if self.job.prefix:
                self._replay(self.job.prefix)
            elif self.job.prefix_fraction > 0:
                self._play_prefix()
        except BackendError as error:
            self._break(error)
        self._explore()

    def turn(self) -> Turn:
        """What the policy is asked next."""
        seed = derive_seed(self.job.seed, "turn", self._number)
        return Turn(self._info["messages"], self._info, self.name, self.job.temperature, seed)

    def answer(self, answer: Answer) -> None:
        """Carry out what the policy answered, and go on to the next turn."""
        if answer.usage is not None:
            self._usages[self._number] = answer.usage
        self._step(answer.text)
        self._explore()

    def _explore(self) -> None:
        """Carry out commands drawn at random, as long as the steps' own draws say so."""
        while self.trajectory is None and self.job.epsilon > 0:
            draw = random.Random(derive_seed(self.job.seed, "explore", self._number)).random()
            if draw >= self.job.epsilon:
                return
            self._random_steps.append(self._number)
            self._step(draw_admissible(self._info, derive_seed(self.job.seed, "action", self._number)))

    def _step(self, response: str) -> None:
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

    def _replay(self, responses: tuple[str, ...]) -> None:
        """Carry out given responses; an episode that they end is over, and nobody is asked for one more."""
        for response in responses:
            if self.trajectory is not None:
                return
            self._prefix_steps += 1
            self._step(response)

    def _play_prefix(self) -> None:
        """Let the expert play the first part of its path; at least one step is left for the policy."""
        env = text_env(self._env)
        path = env.expert_actions() or []
        steps = min(1 + int(self.job.prefix_fraction * (len(path) - 1)), len(path) - 1)
        while self._prefix_steps < steps and self.trajectory is None:
            actions = env.expert_actions()
            if not actions:
                return
            self._step(write_response(env.expert_rationale(actions[0]), actions[0]))
            self._prefix_steps += 1

    def _end(self) -> None:
        recorded = self._env.last_trajectory
        assert recorded is not None
        extra = {**(recorded.extra or {}), **self._facts()}
        self.trajectory = replace(recorded, extra=extra)
        self._pool.give_back(self._env, sound=recorded.error is None)

    def _break(self, error: BackendError) -> None:
        """A reset or step that failed is an episode too: what was played, and why it ended."""
        self.trajectory = broken_trajectory(
            self.job, self._policy, self._env.spec.id if self._env.spec else type(self._env.unwrapped).__name__,
            str(error), info=self._info, steps=self._env.get_wrapper_attr("steps") if self._info else (),
            facts={**(self._env.progress if self._info else {}), **self._facts()},
        )  # fmt: skip
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
        if self._usages:
            facts["prompt_tokens"] = sum(usage.prompt_tokens for usage in self._usages.values())
            facts["response_tokens"] = sum(usage.response_tokens for usage in self._usages.values())
        for limit in LIMITS:  # named only where met, so that other records stay as they were
            steps = [number for number, usage in self._usages.items() if getattr(usage, limit)]
            facts |= {f"{limit}_steps": steps} if steps else {}
        return facts


def broken_trajectory(
    job: Job,
    policy: str,
    env_id: str,
    error: str,
    *,
    info: Mapping[str, Any],
    steps: Sequence[Step] = (),
    facts: Mapping[str, Any] | None = None,
) -> Trajectory:
    """The record of an episode that something broke: how far it came, and why it ended."""
    return Trajectory(
        trajectory_id=trajectory_id(job, policy),
        env_id=env_id,
        task_id=job.task_id,
        system_prompt=info.get("system_prompt", ""),
        instruction=info.get("instruction", ""),
        steps=tuple(steps),
        final_observation="",
        score=float(info.get("score", 0.0)),
        success=False,
        terminated=True,
        truncated=False,
        policy=policy,
        seed=job.seed,
        error=error,
        extra=facts,
    )


def lost_trajectory(job: Job, setting: Setting, error: Exception) -> Trajectory:
    """The record of an episode that was lost with worker after worker."""
    source = setting.sources[job.source]
    env_id = source.env_id if isinstance(source, RolloutConfig) else getattr(source, "__name__", str(source))
    return broken_trajectory(job, setting.policy, env_id, str(error), info={})


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
