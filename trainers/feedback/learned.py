"""Step rewards predicted by the reward model, where the environment gives none or too few."""

from __future__ import annotations

from pathlib import Path
from typing import Protocol

from icto_gym.errors import ConfigError
from icto_gym.trajectory import Trajectory
from trainers.records import StepRewards


class StepValueModel(Protocol):
    """What is needed of a reward model; `trainers.models.reward_model.RewardModel` is one."""

    def score(self, trajectory: Trajectory) -> list[float]:
        """R_phi(h_t, a_t) for every step t."""
        ...


class LearnedStepRewards:
    """Turns the values R_phi of a reward model into step rewards.

    By default the model was fitted to the outcome of the continuation, and the reward of a step is what
    it added: r_t = R_phi(t) - R_phi(t - 1), with R_phi before the first step 0. So the cumulative sums
    of Eq. 2 are the values themselves. With ``literal`` the model was fitted to raw step rewards, and
    its values are the rewards.
    """

    def __init__(self, model: StepValueModel, *, literal: bool = False) -> None:
        self.model = model
        self.literal = literal
        self.tokens_read = 0
        """By the model so far."""
        self.name = "learned:literal" if literal else "learned:increment"

    @classmethod
    def load(cls, path: Path | str, *, literal: bool = False) -> LearnedStepRewards:
        """Load a trained reward model (this imports torch).

        Raises:
            ConfigError: it was fitted to the other kind of target, so its values would be misread.
        """
        from trainers.models.loading import read_checkpoint
        from trainers.models.reward_model import RewardModel

        fitted, wanted = read_checkpoint(path).get("targets"), "recorded" if literal else "return_to_go"
        if fitted == "preference":
            raise ConfigError(
                f"{path} was fitted to preferences, so its values are rewards of answers, not of steps. Fit a reward "
                "model to episodes with `icto train reward`."
            )
        if fitted not in (None, wanted):
            raise ConfigError(f"{path} was fitted to {fitted!r} targets, not to {wanted!r}; set targets to {fitted!r}.")
        return cls(RewardModel.load(path), literal=literal)

    def score_steps(self, trajectory: Trajectory) -> StepRewards:
        """One predicted reward per step."""
        values = [float(value) for value in self.model.score(trajectory)] if trajectory.steps else []
        self.tokens_read = getattr(self.model, "tokens_read", 0)
        rewards = values if self.literal else increments(values)
        return StepRewards(trajectory.trajectory_id, tuple(rewards), self.name).check(trajectory)


def increments(values: list[float]) -> list[float]:
    """Differences of successive values, the first against 0: their running sums are the values."""
    return [value - before for value, before in zip(values, [0.0, *values], strict=False)]
