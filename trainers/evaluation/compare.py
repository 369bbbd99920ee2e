"""Two results on the same tasks: the difference, how sure it is, and what that means in words."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from icto_gym.errors import DataError
from icto_gym.trajectory import Trajectory
from trainers.evaluation.intervals import RESAMPLES, Bounds, estimate
from trainers.evaluation.metrics import METRICS, Optimal, episode_values, task_means

_ROUNDING = 1e-9
"""An end of an interval this close to 0 is 0: differences of means are not exact."""

FEWEST_TASKS = 6
"""With fewer, even the same sign on every task comes about by chance more than once in 20 times (2 / 2^5)."""


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
    """``"first"``, ``"second"`` or ``"unclear"`` (the interval holds 0, or there are fewer than 6 tasks)."""

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
    return difference_of_means(first, second, metric, names=names, seed=seed, resamples=resamples)


def difference_of_means(
    first: Mapping[str, float],
    second: Mapping[str, float],
    metric: str,
    *,
    names: tuple[str, str],
    seed: int = 0,
    resamples: int = RESAMPLES,
) -> Comparison:
    """First minus second, given the mean of every task.

    Raises:
        DataError: they share no task.
    """
    differences = task_differences(first, second)
    if not differences:
        raise DataError(f"{names[0]} and {names[1]} share no task for which {metric} is known.")
    kind = METRICS[metric]
    found = estimate(differences, seed=seed, resamples=resamples, bounds=_bounds_of_difference(kind.bounds))
    clear = found.n >= FEWEST_TASKS
    better = _better(found.low, found.high, kind.higher_is_better) if clear else "unclear"
    return Comparison(metric, *found, *names, better)


def task_differences(first: Mapping[str, float], second: Mapping[str, float]) -> list[float]:
    """First minus second on every task that both have, tasks sorted."""
    return [first[task] - second[task] for task in sorted(first.keys() & second.keys())]


def _bounds_of_difference(bounds: Bounds | None) -> Bounds | None:
    return None if bounds is None else (bounds[0] - bounds[1], bounds[1] - bounds[0])


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
