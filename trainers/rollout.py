"""Playing: a policy and environments in, finished trajectories out, each on disk before the next question.

`batch_size` episodes are in flight at once and the policy answers all of them together; a finished
episode is replaced at once. Every random draw derives from an episode's own seed, so its result
depends on neither the batch nor the order.
"""

from __future__ import annotations

import logging
import os
import sys
from collections import deque
from collections.abc import Callable, Iterable
from typing import Any

import gymnasium as gym
from tqdm import tqdm

from icto_gym.errors import BackendError, ConfigError
from icto_gym.store import TrajectoryStore
from icto_gym.trajectory import Trajectory
from icto_gym.wrappers import BriefObservation, ReAct
from trainers.episodes import EnvPool, Episode, trajectory_id
from trainers.policies.base import Policy
from trainers.sampling import Job, RolloutConfig, make_env, plan_jobs, worked_example

__all__ = ["Job", "RolloutConfig", "plan_jobs", "rollout", "trajectory_id"]

logger = logging.getLogger(__name__)

BROKEN_IN_A_ROW = 8
"""So many broken episodes without a sound one between them (or twice a full batch of them) end the run."""


def rollout(
    policy: Policy,
    source: RolloutConfig | Callable[[], gym.Env[str, str]],
    jobs: Iterable[Job],
    store: TrajectoryStore,
    *,
    batch_size: int | None = None,
    progress: bool | None = None,
) -> None:
    """Play the jobs that the store does not hold yet.

    Args:
        policy: who acts.
        source: how to make an environment: a configuration, or a function that returns a text
            environment with `ReAct` around it.
        jobs: the episodes, such as `plan_jobs` gives.
        store: finished episodes go here, one by one; those in it are not played again.
        batch_size: episodes in flight; default: the configuration's, else 8.
        progress: show a progress bar; default: where standard error is a terminal or ``ICTO_PROGRESS=1``.

    Raises:
        BackendError: the policy's endpoint or every environment is broken. What was stored stays.
    """
    present = store.ids()
    pending = deque(dict.fromkeys(job for job in jobs if trajectory_id(job, policy) not in present))
    size = batch_size or (source.batch_size if isinstance(source, RolloutConfig) else 8)
    optimal = isinstance(source, RolloutConfig) and source.optimal_actions
    pool = EnvPool(_env_factory(source, policy), policy.name)
    log = _Log(store, len(pending), max(BROKEN_IN_A_ROW, 2 * size), progress)
    logger.info("playing %d episodes with %s, %d at a time", len(pending), policy.name, size)
    try:
        _play(policy, pool, pending, log, size, optimal)
        log.settle()
    finally:
        log.bar.close()
        pool.close()
    logger.info("played %d episodes with %s: %d successes, %d broken", log.done, policy.name, log.successes, log.broken)


def _play(policy: Policy, pool: EnvPool, pending: deque[Job], log: _Log, size: int, optimal: bool) -> None:
    active: list[Episode] = []
    while active or pending:
        while pending and len(active) < size:
            active.append(Episode(pending.popleft(), pool, policy, optimal))
        _step_all(policy, [episode for episode in active if episode.trajectory is None])
        for episode in [episode for episode in active if episode.trajectory is not None]:
            log.keep(episode.trajectory)  # type: ignore[arg-type]
            active.remove(episode)
            getattr(policy, "forget", _nothing)(episode.name)


def _nothing(episode: str) -> None:
    """Most policies keep nothing between turns."""


def _step_all(policy: Policy, episodes: list[Episode]) -> None:
    """One step in every episode; only those whose step is not drawn at random ask the policy."""
    responses = {episode.name: episode.explore() for episode in episodes}
    asking = [episode for episode in episodes if responses[episode.name] is None]
    if asking:
        answers = policy.act([episode.turn() for episode in asking])
        if len(answers) != len(asking):
            raise ConfigError(f"Policy {policy.name!r} gave {len(answers)} responses to {len(asking)} turns.")
        usages = getattr(policy, "last_usage", None) or [None] * len(asking)
        for episode, answer, usage in zip(asking, answers, usages, strict=True):
            if not isinstance(answer, str):
                raise ConfigError(f"Policy {policy.name!r} gave {type(answer).__name__} {answer!r:.80}, not a str.")
            responses[episode.name] = answer
            episode.count(usage)
    for episode in episodes:
        episode.step(responses[episode.name] or "")


def _env_factory(source: RolloutConfig | Callable[[], Any], policy: Policy) -> Callable[[], gym.Env[str, str]]:
    if not isinstance(source, RolloutConfig):
        return source
    config, expert = source, bool(getattr(policy, "needs_expert", False))

    def make() -> gym.Env[str, str]:
        env = make_env(config, expert=expert)
        env = BriefObservation(env) if config.brief else env
        return ReAct(env, window=config.window, example=worked_example(env) if config.example else ())

    return make


class _Log:
    """Keeps finished episodes and shows how it goes.

    Broken episodes are held back until a sound one (or the end) shows that the run is alive: where
    everything is broken nothing is recorded, and the same command plays those tasks again once it is mended.
    """

    def __init__(self, store: TrajectoryStore, total: int, limit: int, progress: bool | None) -> None:
        self._store, self._limit = store, limit
        self._held: list[Trajectory] = []
        self.done = self.successes = self.broken = 0
        shown = progress if progress is not None else sys.stderr.isatty() or os.environ.get("ICTO_PROGRESS") == "1"
        self.bar = tqdm(total=total, desc="episodes", unit="ep", disable=not shown, file=sys.stderr)

    def keep(self, trajectory: Trajectory) -> None:
        """Store an episode, or hold it back.

        Raises:
            BackendError: too many in a row were broken.
        """
        self.done += 1
        self.successes += trajectory.success
        self.bar.update()
        self.bar.set_postfix_str(f"success {self.successes / self.done:.0%}")
        if trajectory.error is None:
            self.settle()
            self._store.append(trajectory)
            return
        logger.warning("%s broke: %s", trajectory.trajectory_id, trajectory.error)
        self.broken += 1
        self._held.append(trajectory)
        if len(self._held) >= self._limit:
            raise BackendError(
                f"The last {len(self._held)} episodes all broke; the latest: {trajectory.error} "
                "They were not recorded; mend the environment and run again, and they are played."
            )

    def settle(self) -> None:
        """Store what was held back."""
        for trajectory in self._held:
            self._store.append(trajectory)
        self._held.clear()
