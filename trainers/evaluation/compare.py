"""Two results on the same tasks: the difference, how sure it is, and what that means in words."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from icto_gym.errors import DataError
from icto_gym.trajectory import Trajectory
from trainers.evaluation.metrics import (
    CONFIDENCE,
    HIGHER_IS_BETTER,
    RESAMPLES,
    Optimal,
    bootstrap_means,
    episode_values,
    task_means,
)

_ROUNDING = 1e-9
"""An end of an interval this close to 0 is 0: differences of means are not exact."""


@dataclass(frozen=True)
class Comparison:
    """First minus second on the same tasks."""

    metric: str
    difference: float
    low: float
    high: float
    """Ends of the 95 % paired bootstrap interval of the difference."""
    n: int
    """Tasks that both have."""
    first: str
    second: str
    better: str
    """``"first"``, ``"second"`` or ``"unclear"`` (the interval holds 0)."""

    @property
    def words(self) -> str:
        """The verdict as a sentence."""
        name = self.metric.replace("_", " ")
        difference, low, high = (f"{value + 0.0:+.3f}".replace("-", "−") for value in self._rounded())
        figures = f"{difference}, 95 % interval {low} to {high}, {self.n} tasks"
        if self.better == "unclear":
            return f"No difference in {name} is shown between {self.first} and {self.second} ({figures})."
        winner, loser = (self.first, self.second) if self.better == "first" else (self.second, self.first)
        return f"{winner} is better than {loser} in {name} ({self.first} minus {self.second}: {figures})."

    def _rounded(self) -> tuple[float, float, float]:
        return round(self.difference, 3), round(self.low, 3), round(self.high, 3)


def paired_difference(
    a: Iterable[Trajectory],
    b: Iterable[Trajectory],
    metric: str = "success_rate",
    *,
    names: tuple[str, str] = ("the first", "the second"),
    force: bool = False,
    gamma: float = 1.0,
    optimal: tuple[Optimal | None, Optimal | None] = (None, None),
    seed: int = 0,
    resamples: int = RESAMPLES,
) -> Comparison:
    """Compare two sets of episodes task by task (a minus b), by a paired bootstrap over tasks.

    Args:
        a, b: episodes of two policies on the same tasks; several per task are averaged first.
        metric: a name from `HIGHER_IS_BETTER`.
        names: how to call the two in words.
        force: compare on the tasks they share although the sets differ.
        gamma, optimal: as for `summarize`.
        seed: of the bootstrap.

    Raises:
        DataError: the sets of tasks differ (and ``force`` is off), or share no task with this metric.
    """
    sides = [list(a), list(b)]
    _check_tasks(*({item.task_id for item in side} for side in sides), force=force)
    first, second = (
        task_means(episode_values(side, metric, optimal=known, gamma=gamma))
        for side, known in zip(sides, optimal, strict=True)
    )
    common = sorted(first.keys() & second.keys())
    if not common:
        raise DataError(f"{names[0]} and {names[1]} share no task for which {metric} is known.")
    differences = np.array([first[task] - second[task] for task in common])
    tail = 100 * (1 - CONFIDENCE) / 2
    low, high = np.percentile(bootstrap_means(differences, resamples=resamples, seed=seed), [tail, 100 - tail])
    better = _better(float(low), float(high), HIGHER_IS_BETTER[metric])
    return Comparison(metric, float(differences.mean()), float(low), float(high), len(common), *names, better)


def _check_tasks(first: set[str], second: set[str], *, force: bool) -> None:
    if first == second or force:
        return
    only = sorted(first ^ second)
    raise DataError(
        f"The two results are not on the same tasks: {len(first - second)} only in the first, {len(second - first)} "
        f"only in the second, {len(first & second)} in both (for instance {only[0]!r} is in one only). "
        "Evaluate both on one split, or force the comparison on the tasks they share."
    )


def _better(low: float, high: float, higher_is_better: bool) -> str:
    if low <= _ROUNDING and high >= -_ROUNDING:
        return "unclear"
    return "first" if (low > 0) == higher_is_better else "second"
