"""Trajectories to numbers, each with a 95 % interval over tasks; pure functions.

A task played several times counts once: its episodes are averaged first. The interval says how the number would
vary with other tasks of the same kind (and with other draws while playing them), not with other trainings.
"""

from __future__ import annotations

import itertools
import math
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, TypeGuard

from icto_gym.errors import ConfigError, DataError, check_name
from icto_gym.trajectory import Trajectory
from trainers.evaluation.intervals import RESAMPLES, Bounds, Estimate, bootstrap_means, estimate
from trainers.feedback.outcome import find_loop

__all__ = [
    "HIGHER_IS_BETTER", "METRICS", "RESAMPLES", "Estimate", "Metric", "Optimal", "Scoring", "average_reward",
    "bootstrap_means", "episode_values", "estimate", "metrics_from_json", "metrics_to_json", "summarize", "task_means",
]  # fmt: skip

SHARE: Bounds = (0.0, 1.0)


class Metric(NamedTuple):
    """What a number is."""

    title: str
    """In words, for tables."""
    higher_is_better: bool
    bounds: Bounds | None = None
    """What no value can be below and above; None: not known."""
    of_eto: bool = False
    """Defined by the protocol of the ETO line of papers, which other numbers here are not."""


METRICS: dict[str, Metric] = {
    "average_reward": Metric("average reward", True, SHARE),
    "success_rate": Metric("success", True, SHARE),
    "mean_actions": Metric("mean actions", False),
    "mean_actions_success": Metric("mean actions where it succeeded", False),
    "optimal_action_rate": Metric("optimal actions", True, SHARE),
    "progress": Metric("progress (sub-goals)", True, SHARE),
    "invalid_action_share": Metric("invalid actions", False, SHARE),
    "loop_share": Metric("episodes with a loop", False, SHARE),
    "tokens_per_episode": Metric("tokens read and written", False),
    "tokens_written_per_episode": Metric("tokens written", False),
    "best_score": Metric("reward (best score)", True, SHARE, of_eto=True),
    "ended_by_itself_rate": Metric("success (ended by itself)", True, SHARE, of_eto=True),
}
"""All metrics, in the order they are shown."""

HIGHER_IS_BETTER: dict[str, bool] = {name: metric.higher_is_better for name, metric in METRICS.items()}
"""All metrics, and which way is better."""

Optimal = Mapping[str, Sequence[bool | None]]
"""For a trajectory id: was each action optimal in its state; None where it is not known."""


@dataclass(frozen=True)
class Scoring:
    """How recorded episodes become numbers; may be changed without playing again."""

    gamma: float = 1.0
    """Discount of the average reward, per step."""
    success_threshold: float | None = None
    """A score from which an episode counts as a success; None: the benchmark's own criterion."""
    loop_repeats: int = 3
    """The same command with the same observation this many times is a loop."""

    def __post_init__(self) -> None:
        if not 0.0 <= self.gamma <= 1.0:
            raise ConfigError(f"gamma is {self.gamma!r}; give a number from 0 to 1.")
        if self.success_threshold is not None and not 0.0 < self.success_threshold <= 1.0:
            raise ConfigError(f"success_threshold is {self.success_threshold!r}; give a score above 0, at most 1.")
        if self.loop_repeats < 2:
            raise ConfigError(f"loop_repeats is {self.loop_repeats!r}; give 2 or more.")

    def success(self, trajectory: Trajectory) -> bool:
        """Whether the episode counts as a success."""
        if self.success_threshold is None:
            return trajectory.success
        return trajectory.error is None and trajectory.score >= self.success_threshold - 1e-9


# ---- one episode
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


def best_score(trajectory: Trajectory) -> float:
    """The highest score within the episode: the reward of the ETO protocol, where points may be lost again."""
    rewards = [step.reward for step in trajectory.steps]
    begun_with = trajectory.score - math.fsum(rewards)  # some tasks have points from the start
    scores = itertools.accumulate(rewards, initial=begun_with)
    return min(1.0, max(0.0, trajectory.score, *scores))


def progress(trajectory: Trajectory) -> float | None:
    """The largest share of sub-goals that stood fulfilled after a step; None where the environment has none.

    Taken from ``extra["progress"]``, one share per step; older records hold the last counts instead.
    """
    extra = trajectory.extra or {}
    shares = extra.get("progress")
    if shares is not None:
        known = [share for share in shares if share is not None] if isinstance(shares, (list, tuple)) else [shares]
        if not all(_is_number(share) and 0 <= share <= 1 for share in known):
            raise DataError(f"{trajectory.trajectory_id!r} has progress {shares!r:.80}; expected shares from 0 to 1.")
        return float(max(known)) if known else None
    done, total = extra.get("subgoals_done"), extra.get("subgoals_total")
    return min(1.0, done / total) if _is_number(done) and _is_number(total) and total > 0 else None


def _is_number(value: Any) -> TypeGuard[float]:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


def _tokens(trajectory: Trajectory, *names: str) -> float | None:
    extra = trajectory.extra or {}
    known = [extra[name] for name in names if _is_number(extra.get(name))]
    return float(sum(known)) if known else None


def _definitions(scoring: Scoring, optimal: Optimal | None) -> dict[str, Callable[[Trajectory], float | None]]:
    """Every metric as a function of one episode."""
    return {
        "average_reward": lambda item: average_reward(item, scoring.gamma),
        "success_rate": lambda item: float(scoring.success(item)),
        "mean_actions": lambda item: float(len(item.steps)),
        "mean_actions_success": lambda item: float(len(item.steps)) if scoring.success(item) else None,
        "optimal_action_rate": lambda item: optimal_action_rate(item, optimal),
        "progress": progress,
        "invalid_action_share": invalid_action_share,
        "loop_share": lambda item: float(find_loop(item, scoring.loop_repeats) is not None),
        "tokens_per_episode": lambda item: _tokens(item, "prompt_tokens", "response_tokens"),
        "tokens_written_per_episode": lambda item: _tokens(item, "response_tokens"),
        "best_score": best_score,
        # a broken episode is recorded as terminated, but it was not the task that ended it
        "ended_by_itself_rate": lambda item: float(item.terminated and item.error is None),
    }


def values_of(trajectory: Trajectory, scoring: Scoring | None = None) -> dict[str, float]:
    """Every metric that is known of one episode."""
    found = {name: value(trajectory) for name, value in _definitions(scoring or Scoring(), None).items()}
    return {name: value for name, value in found.items() if value is not None}


def episode_values(
    trajectories: Iterable[Trajectory], metric: str, *, optimal: Optimal | None = None, gamma: float = 1.0,
    scoring: Scoring | None = None,
) -> list[tuple[str, float]]:  # fmt: skip
    """One (task id, value) per episode for which the metric is known.

    Raises:
        ConfigError: there is no such metric.
    """
    check_name(metric, METRICS, "metric")
    of_one = _definitions(scoring or Scoring(gamma=gamma), optimal)[metric]
    values = ((item.task_id, of_one(item)) for item in trajectories)
    return [(task_id, value) for task_id, value in values if value is not None]


def task_means(values: Iterable[tuple[str, float]]) -> dict[str, float]:
    """Mean over the episodes of each task, tasks sorted."""
    found: dict[str, list[float]] = defaultdict(list)
    for task_id, value in values:
        found[task_id].append(value)
    return {task_id: math.fsum(found[task_id]) / len(found[task_id]) for task_id in sorted(found)}


def estimate_metric(metric: str, values: Iterable[tuple[str, float]], *, seed: int = 0) -> Estimate | None:
    """One metric over tasks from (task id, value) pairs of episodes; None where there is none."""
    means = task_means(values)
    return estimate(list(means.values()), seed=seed, bounds=METRICS[metric].bounds) if means else None


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
    for metric in METRICS:
        value = estimate_metric(metric, episode_values(episodes, metric, optimal=optimal, gamma=gamma), seed=seed)
        if value is not None:
            found[metric] = value
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
            if not all(map(math.isfinite, found[name])):
                raise ValueError("not a finite number")
        except (TypeError, KeyError, ValueError, OverflowError) as error:
            raise DataError(f"metric {name} is {value!r:.80}, expected value, low, high and n.") from error
    return found
