"""Opinions on trajectories: whether to learn from them, and what each step was worth."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Protocol, runtime_checkable

from icto_gym.trajectory import Trajectory
from trainers.records import StepRewards, Verdict


@runtime_checkable
class Judge(Protocol):
    """Decides what may be learned from; nothing is deleted, a verdict stands beside its trajectory.

    A judge that needs to see the whole set (to find duplicates) may also have ``judge_all``.
    """

    name: str

    def judge(self, trajectory: Trajectory) -> Verdict:
        """Decide about one trajectory, with a reason."""
        ...


@runtime_checkable
class StepRewarder(Protocol):
    """Gives every step of a trajectory a reward in units of score.

    One that asks a model may count what it read in ``tokens_read``, for the cost of its stage.
    """

    name: str

    def score_steps(self, trajectory: Trajectory) -> StepRewards:
        """One reward per step."""
        ...


def judge_all(judge: Judge, trajectories: Iterable[Trajectory]) -> list[Verdict]:
    """Judge a set, in order; by the judge's own ``judge_all`` where it has one."""
    whole = getattr(judge, "judge_all", None)
    if whole is not None:
        return list(whole(trajectories))
    return [judge.judge(trajectory) for trajectory in trajectories]


def score_all(rewarder: StepRewarder, trajectories: Sequence[Trajectory]) -> list[StepRewards]:
    """Score the steps of a set, in order; every answer is checked against its trajectory."""
    return [rewarder.score_steps(trajectory).check(trajectory) for trajectory in trajectories]
