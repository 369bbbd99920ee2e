"""Opinions on trajectories: whether to learn from them, and what each step was worth."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Protocol, runtime_checkable

from icto_gym.errors import ConfigError
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
    """Judge a set, in order; by the judge's own ``judge_all`` where it has one.

    Raises:
        ConfigError: an answer is no verdict on its trajectory.
    """
    asked, whole = list(trajectories), getattr(judge, "judge_all", None)
    verdicts = list(whole(asked)) if whole is not None else [judge.judge(trajectory) for trajectory in asked]
    if len(verdicts) != len(asked):
        raise ConfigError(f"The judge {judge.name!r} gave {len(verdicts)} verdicts on {len(asked)} trajectories.")
    for verdict, trajectory in zip(verdicts, asked, strict=True):
        _check_kind(verdict, Verdict, f"judge {judge.name!r}")
        if verdict.trajectory_id != trajectory.trajectory_id:
            raise ConfigError(
                f"The judge {judge.name!r} was asked of {trajectory.trajectory_id!r} and spoke of "
                f"{verdict.trajectory_id!r:.80}."
            )
    return verdicts


def score_all(rewarder: StepRewarder, trajectories: Sequence[Trajectory]) -> list[StepRewards]:
    """Score the steps of a set, in order; every answer is checked against its trajectory.

    Raises:
        ConfigError: an answer is no `StepRewards`.
        DataError: it is of another trajectory, or has another number of steps.
    """
    answers = [rewarder.score_steps(trajectory) for trajectory in trajectories]
    for answer in answers:
        _check_kind(answer, StepRewards, f"step rewarder {rewarder.name!r}")
    return [answer.check(trajectory) for answer, trajectory in zip(answers, trajectories, strict=True)]


def _check_kind(answer: object, wanted: type, who: str) -> None:
    if not isinstance(answer, wanted):
        raise ConfigError(f"The {who} gave a {type(answer).__name__}; it must give {wanted.__name__} records.")
