"""Trajectories to numbers, each with a 95 % interval over tasks; pure functions.

A task played several times counts once: its episodes are averaged first. The interval is a percentile
bootstrap over tasks, so it says how the number would vary with other tasks of the same kind, not with
other seeds of the same training.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from icto_gym.errors import DataError, check_name
from icto_gym.trajectory import Trajectory
from trainers.feedback.outcome import find_loop

RESAMPLES = 2000
CONFIDENCE = 0.95

HIGHER_IS_BETTER: dict[str, bool] = {
    "average_reward": True,
    "success_rate": True,
    "mean_actions": False,
    "mean_actions_success": False,
    "invalid_action_share": False,
    "loop_share": False,
    "optimal_action_rate": True,
    "ended_by_itself_rate": True,
    "tokens_per_episode": False,
}
"""All metrics, in the order they are shown, and which way is better."""

Optimal = Mapping[str, Sequence[bool | None]]
"""For a trajectory id: was each action optimal in its state; None where it is not known."""


class Estimate(NamedTuple):
    """A mean over tasks and its 95 % bootstrap interval."""

    value: float
    low: float
    high: float
    n: int
    """Number of tasks that have this number."""

    def as_dict(self) -> dict[str, float | int]:
        """The form kept in ``metrics.json``."""
        return {"value": self.value, "low": self.low, "high": self.high, "n": self.n}


def average_reward(trajectory: Trajectory, gamma: float = 1.0) -> float:
    """Discounted sum of step rewards, sum over t of gamma^t r_t (Eq. 6), t from 0."""
    return math.fsum(step.reward * gamma**t for t, step in enumerate(trajectory.steps))


def invalid_action_share(trajectory: Trajectory) -> float | None:
    """Share of actions that were not understood; None for an episode without actions."""
    if not trajectory.steps:
        return None
    return sum(not step.valid for step in trajectory.steps) / len(trajectory.steps)


def optimal_action_rate(trajectory: Trajectory, optimal: Optimal | None = None) -> float | None:
    """Share of actions that begin a shortest continuation to success (Eq. 7); None where unknown.

    Taken from ``optimal`` or, without it, from the trajectory's ``extra["optimal"]``: one true, false or
    null per step, as a rollout records it where it is asked to.
    """
    extra = trajectory.extra or {}
    marks = optimal.get(trajectory.trajectory_id) if optimal is not None else extra.get("optimal")
    if marks is None:
        return None
    if len(marks) != len(trajectory.steps):
        raise DataError(
            f"{trajectory.trajectory_id!r} has {len(trajectory.steps)} steps and {len(marks)} marks of optimal actions."
        )
    known = [bool(mark) for mark in marks if mark is not None]
    return sum(known) / len(known) if known else None


def _tokens(trajectory: Trajectory) -> float | None:
    extra = trajectory.extra or {}
    counts = [extra.get(name) for name in ("prompt_tokens", "response_tokens")]
    known = [count for count in counts if isinstance(count, (int, float)) and not isinstance(count, bool)]
    return float(sum(known)) if known else None


def episode_values(
    trajectories: Iterable[Trajectory], metric: str, *, optimal: Optimal | None = None, gamma: float = 1.0
) -> list[tuple[str, float]]:
    """One (task id, value) per episode for which the metric is known.

    Raises:
        ConfigError: there is no such metric.
    """
    check_name(metric, HIGHER_IS_BETTER, "metric")
    of_one: dict[str, Callable[[Trajectory], float | None]] = {
        "average_reward": lambda item: average_reward(item, gamma),
        "success_rate": lambda item: float(item.success),
        "mean_actions": lambda item: float(len(item.steps)),
        "mean_actions_success": lambda item: float(len(item.steps)) if item.success else None,
        "invalid_action_share": invalid_action_share,
        "loop_share": lambda item: float(find_loop(item) is not None),
        "optimal_action_rate": lambda item: optimal_action_rate(item, optimal),
        "ended_by_itself_rate": lambda item: float(item.terminated),
        "tokens_per_episode": _tokens,
    }
    values = ((item.task_id, of_one[metric](item)) for item in trajectories)
    return [(task_id, value) for task_id, value in values if value is not None]


def task_means(values: Iterable[tuple[str, float]]) -> dict[str, float]:
    """Mean over the episodes of each task, tasks sorted."""
    found: dict[str, list[float]] = defaultdict(list)
    for task_id, value in values:
        found[task_id].append(value)
    return {task_id: math.fsum(found[task_id]) / len(found[task_id]) for task_id in sorted(found)}


def bootstrap_means(values: Sequence[float] | np.ndarray, *, resamples: int = RESAMPLES, seed: int = 0) -> np.ndarray:
    """Means of resampled tasks, shape (resamples,); the same seed and length draw the same tasks."""
    array = np.asarray(values, dtype=np.float64)
    generator = np.random.default_rng(seed)
    rows = max(1, 4_000_000 // max(1, len(array)))  # at most 32 MB of indices at a time
    means = [
        array[generator.integers(0, len(array), size=(min(rows, resamples - done), len(array)))].mean(axis=1)
        for done in range(0, resamples, rows)
    ]
    return np.concatenate(means)


def estimate(values: Sequence[float], *, seed: int = 0, resamples: int = RESAMPLES) -> Estimate:
    """Mean of the tasks' values and its percentile bootstrap interval.

    Raises:
        DataError: there are no values.
    """
    if not len(values):
        raise DataError("there are no values to average.")
    tail = 100 * (1 - CONFIDENCE) / 2
    low, high = np.percentile(bootstrap_means(values, resamples=resamples, seed=seed), [tail, 100 - tail])
    return Estimate(float(np.mean(values)), float(low), float(high), len(values))


def summarize(
    trajectories: Iterable[Trajectory], optimal: Optimal | None = None, gamma: float = 1.0, seed: int = 0
) -> dict[str, Estimate]:
    """All metrics of a set of episodes; a metric that no episode has is absent, not guessed.

    Broken episodes count with the score they had reached.

    Args:
        trajectories: of one policy; several episodes per task are averaged first.
        optimal: which actions were optimal, where the trajectories do not say so themselves.
        gamma: discount of ``average_reward``.
        seed: of the bootstrap.

    Raises:
        DataError: there are no trajectories.
    """
    episodes = list(trajectories)
    if not episodes:
        raise DataError("there are no trajectories to summarize.")
    found = {}
    for metric in HIGHER_IS_BETTER:
        means = task_means(episode_values(episodes, metric, optimal=optimal, gamma=gamma))
        if means:
            found[metric] = estimate(list(means.values()), seed=seed)
    return found


def metrics_to_json(metrics: Mapping[str, Estimate]) -> dict[str, Any]:
    """The form kept in ``metrics.json``."""
    return {name: value.as_dict() for name, value in metrics.items()}


def metrics_from_json(record: Mapping[str, Any]) -> dict[str, Estimate]:
    """Read what `metrics_to_json` wrote.

    Raises:
        DataError: naming the metric that cannot be read.
    """
    found = {}
    for name, value in record.items():
        try:
            found[name] = Estimate(float(value["value"]), float(value["low"]), float(value["high"]), int(value["n"]))
        except (TypeError, KeyError, ValueError) as error:
            raise DataError(f"metric {name} is {value!r:.80}, expected value, low, high and n.") from error
    return found
