"""Two results against each other: may they be compared, what is the difference, and what does it mean in words."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from icto_gym.errors import ConfigError, DataError, check_name
from trainers.evaluation.compare import FEWEST_TASKS, Comparison, difference_of_means, task_differences
from trainers.evaluation.intervals import tasks_needed
from trainers.evaluation.metrics import METRICS
from trainers.evaluation.provenance import differences
from trainers.evaluation.result import Result

MAIN = ("average_reward", "success_rate", "mean_actions")
"""The three of the paper's tables: what is compared unless more is asked for."""

_SAME_QUESTION = ("env_id", "env_kwargs", "split", "manifest_digest", "scoring")
_SAME_PLAY = ("seeds", "decoding", "prompt_digest", "versions", "code")


@dataclass(frozen=True)
class Verdict:
    """One metric of two results, b minus a."""

    comparison: Comparison
    wanted: float
    """The difference one would like to see."""
    needed: int | None
    """About how many tasks would show it; None: cannot be told."""

    @property
    def words(self) -> str:
        """Such as ``"success: b is better by 0.080 [0.030, 0.130] on 270 tasks"``."""
        found = self.comparison
        title = METRICS[found.metric].title
        better = {"first": found.first, "second": found.second}.get(found.better)
        if better is None:
            return f"{title}: {self._unclear()}"
        sign = 1 if found.difference > 0 else -1
        low, high = sorted((sign * found.low, sign * found.high))
        figures = f"{abs(found.difference):.3f} [{low:.3f}, {high:.3f}]"
        return f"{title}: {better} is better by {figures} on {found.n} tasks"

    def _unclear(self) -> str:
        found = self.comparison
        figures = f"{found.first} minus {found.second} is {found.difference + 0.0:+.3f}"
        text = f"no difference can be shown on {found.n} tasks ({figures} [{found.low:.3f}, {found.high:.3f}])"
        if found.n < FEWEST_TASKS:
            return f"{text}; fewer than {FEWEST_TASKS} tasks never show one"
        if self.needed is None:
            return f"{text}; it is the same on every task, so how many would be needed cannot be told"
        if self.needed <= found.n:
            return f"{text}; a true difference of {self.wanted:.3g} would probably have been seen"
        return f"{text}; to see {self.wanted:.3g} you would need about {self.needed} tasks"

    def to_json(self) -> dict[str, Any]:
        """JSON values."""
        found = self.comparison
        return {
            "metric": found.metric, "difference": found.difference, "low": found.low, "high": found.high,
            "n": found.n, "better": {"first": "b", "second": "a"}.get(found.better),
            "wanted": self.wanted, "tasks_needed": self.needed, "words": self.words,
        }  # fmt: skip


def what_differs(a: Result, b: Result) -> tuple[list[str], list[str]]:
    """Lines on what makes them answers to different questions, and on how the play differed besides."""
    sides = a.to_json(), b.to_json()
    question, play = (
        differences({name: sides[0][name] for name in names}, {name: sides[1][name] for name in names})
        for names in (_SAME_QUESTION, _SAME_PLAY)
    )
    if a.manifest_digest is None or b.manifest_digest is None:
        question = [line for line in question if not line.startswith(("manifest_digest", "split", "env_kwargs"))]
        which = "both" if a.manifest_digest == b.manifest_digest else "a" if a.manifest_digest is None else "b"
        question.append(f"manifest_digest: not known of {which}, so only the names of the tasks could be compared")
    lost, new = len(a.task_ids - b.task_ids), len(b.task_ids - a.task_ids)
    if lost or new:
        question.append(f"tasks: {lost} only in a, {new} only in b, {len(a.task_ids & b.task_ids)} in both")
    return [_of_two(line) for line in question], [_of_two(line) for line in play]


def _of_two(line: str) -> str:
    """`differences` speaks of then and now; here it is one and the other."""
    return line.replace(", now ", " in a, ") + " in b" if ", now " in line else line


def compare_results(
    a: Result, b: Result, metrics: Sequence[str] = MAIN, *, names: tuple[str, str] = ("a", "b"), force: bool = False,
    wanted: float | None = None,
) -> list[Verdict]:  # fmt: skip
    """Compare b with a, task by task; several episodes of a task (its seeds) are averaged first.

    Args:
        a, b: results on the same tasks, scored alike.
        metrics: which; those that either does not have are left out.
        names: how to call a and b.
        force: compare on the tasks they share although they are answers to different questions.
        wanted: the difference one would like to see, in the metric's unit; default: 0.05 of a share, else a
            twentieth of a's value.

    Raises:
        DataError: they are not of the same tasks (and ``force`` is off), share no task, or no metric.
    """
    question, _ = what_differs(a, b)
    if question and not force:
        listed = "\n  ".join(question)
        raise DataError(
            f"{names[0]} and {names[1]} do not answer the same question:\n  {listed}\nEvaluate both on the same tasks, "
            "or compare on the tasks they share with --force."
        )
    for name in metrics:
        check_name(name, METRICS, "metric")
    if not a.task_ids & b.task_ids:
        raise DataError(f"{names[0]} and {names[1]} share no task, so nothing can be compared.")
    verdicts = [_verdict(a, b, name, names, wanted) for name in metrics if a.means(name).keys() & b.means(name).keys()]
    if not verdicts:
        raise DataError(f"{names[0]} and {names[1]} share no task for which {', '.join(metrics)} is known of both.")
    return verdicts


def _verdict(a: Result, b: Result, metric: str, names: tuple[str, str], wanted: float | None) -> Verdict:
    first, second = b.means(metric), a.means(metric)
    found = difference_of_means(first, second, metric, names=(names[1], names[0]))
    if wanted is None:
        level = sum(second.values()) / len(second)
        wanted = 0.05 if METRICS[metric].bounds else max(abs(level) / 20, 1e-9)
    elif not 0 < wanted < float("inf"):
        raise ConfigError(f"The difference to be seen is {wanted!r}; give a number above 0.")
    return Verdict(found, wanted, tasks_needed(task_differences(first, second), wanted))
