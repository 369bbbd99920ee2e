"""Why episodes fail, read from the record alone and without knowing the benchmark."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

from icto_gym.trajectory import Trajectory
from trainers.feedback.outcome import find_loop, parse_rate

CAUSES: tuple[str, ...] = (
    "success",
    "ended with a partial score",
    "ended with nothing",
    "went in circles",
    "commands not understood",
    "responses without a command",
    "ran out of steps",
    "broken",
)
"""In the order they are shown; every episode has exactly one."""


def failure_cause(trajectory: Trajectory) -> str:
    """The one cause, from `CAUSES`, that says most about how an episode ended."""
    if trajectory.error is not None:
        return "broken"
    if trajectory.success:
        return "success"
    if trajectory.terminated:
        return "ended with a partial score" if trajectory.score > 0 else "ended with nothing"
    return _cause_of_truncation(trajectory)


def _cause_of_truncation(trajectory: Trajectory) -> str:
    steps = max(len(trajectory.steps), 1)
    if 1.0 - parse_rate(trajectory) >= 0.5:
        return "responses without a command"
    if sum(not step.valid for step in trajectory.steps) / steps >= 0.5:
        return "commands not understood"
    return "went in circles" if find_loop(trajectory) is not None else "ran out of steps"


def count_causes(trajectories: Iterable[Trajectory]) -> dict[str, int]:
    """Episodes by cause, in the order of `CAUSES`; causes that do not occur are left out."""
    found = Counter(failure_cause(trajectory) for trajectory in trajectories)
    return {cause: found[cause] for cause in CAUSES if found[cause]}
