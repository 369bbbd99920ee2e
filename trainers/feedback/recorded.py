"""Step rewards as the environment gave them, and what a reward model is fitted to."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from icto_gym.errors import check_name
from icto_gym.trajectory import Trajectory
from trainers.records import StepRewards

TARGETS = ("return_to_go", "recorded")


class RecordedStepRewards:
    """Each step's reward is the change of score it caused."""

    name = "recorded"

    def score_steps(self, trajectory: Trajectory) -> StepRewards:
        """The recorded rewards, in order."""
        return StepRewards(trajectory.trajectory_id, recorded(trajectory), self.name)


class ReturnToGo:
    """Gives each step the discounted outcome of going on from it: what a reward model is fitted to."""

    def __init__(self, gamma: float = 1.0) -> None:
        self.gamma = gamma
        self.name = "return_to_go"

    def score_steps(self, trajectory: Trajectory) -> StepRewards:
        """G_t for every step t."""
        values = return_to_go(recorded(trajectory), self.gamma)
        return StepRewards(trajectory.trajectory_id, tuple(values), self.name)


def recorded(trajectory: Trajectory) -> tuple[float, ...]:
    """The rewards of the steps as the environment gave them."""
    return tuple(float(step.reward) for step in trajectory.steps)


def return_to_go(rewards: Sequence[float], gamma: float = 1.0) -> list[float]:
    """G_t = sum over i >= t of gamma^(i - t) r_i: the discounted outcome of going on from step t."""
    found, ahead = [], 0.0
    for reward in reversed(rewards):
        ahead = reward + gamma * ahead
        found.append(ahead)
    return found[::-1]


def reward_targets(
    trajectories: Iterable[Trajectory], targets: str = "return_to_go", gamma: float = 1.0
) -> dict[str, list[float]]:
    """What the reward model's value of every step should be, by trajectory id.

    Args:
        trajectories: broken ones are left out, since nobody knows how they would have ended.
        targets: ``"return_to_go"`` (the discounted outcome of the continuation) or ``"recorded"`` (the
            raw step reward, the literal reading of Eq. 4 and 5).
        gamma: discount of the continuation.
    """
    check_name(targets, TARGETS, "reward target")
    whole = [trajectory for trajectory in trajectories if trajectory.error is None]
    if targets == "recorded":
        return {item.trajectory_id: list(recorded(item)) for item in whole}
    return {item.trajectory_id: return_to_go(recorded(item), gamma) for item in whole}
