"""A method of your own out of parts of your own: pairing, judge, step rewarder and loss, each by its dotted path.

    python examples/custom_method.py runs/custom

A random model of two layers plays a toy game, so nothing is learned; every part is really called. From your own package
the same is `icto run my_package.my_module:run_mine --run runs/mine`, and each part fits into `icto run icto` too.
"""

import sys
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from icto_gym.trajectory import Trajectory
from trainers import stages
from trainers.cli import main as icto
from trainers.feedback import JudgeConfig, StepRewardConfig
from trainers.methods.common import (
    MethodConfig,
    cloned,
    concluded,
    contrasted,
    demonstrated,
    explored,
    measured,
    prepared,
)  # fmt: skip
from trainers.pairing import PairingConfig
from trainers.records import PreferencePair, StepRewards, Verdict
from trainers.runs import Run
from trainers.training.config import DPOConfig

HERE = Path(__file__).stem
"""Dotted paths name this file as a module: Python finds it because a script's folder is on its path."""


class ShortJudge:
    """Accepts episodes of at most three steps."""

    name = "short"

    def judge(self, trajectory: Trajectory) -> Verdict:
        steps = len(trajectory.steps)
        return Verdict(trajectory.trajectory_id, steps <= 3, 1.0 / max(steps, 1), f"{steps} steps", self.name)


class LastStepCounts:
    """The outcome belongs to the last step."""

    name = "last-step"

    def score_steps(self, trajectory: Trajectory) -> StepRewards:
        rewards = (0.0,) * (len(trajectory.steps) - 1) + (trajectory.score,) if trajectory.steps else ()
        return StepRewards(trajectory.trajectory_id, rewards, self.name)


def first_steps(
    trajectories: Iterable[Trajectory], verdicts: Any, step_rewards: Any, config: Any, *, expert: Iterable[Trajectory]
) -> list[PreferencePair]:
    """The expert's first response over the policy's, where they differ."""
    from icto_gym.dialogue import trajectory_messages

    experts = {demonstration.task_id: demonstration for demonstration in expert}
    pairs = []
    for own in trajectories:
        other = experts.get(own.task_id)
        if other is None or other.score <= own.score or own.steps[0].response == other.steps[0].response:
            continue
        sides = [tuple(trajectory_messages(side)[3:4]) for side in (other, own)]
        ids = other.trajectory_id, own.trajectory_id
        prompt, margin = tuple(trajectory_messages(other)[:3]), other.score - own.score
        pairs.append(PreferencePair(own.task_id, prompt, *sides, margin, "trajectory", *ids))
    return pairs


def hinge(
    chosen: Any, rejected: Any, chosen_reference: Any, rejected_reference: Any, weights: Any, *, beta: float
) -> Any:
    """max(0, 1 - beta * margin), the margin being that of DPO; all arguments are (pairs, steps), in nats."""
    from torch.nn.functional import relu

    from trainers.losses import PreferenceLoss

    better, worse = (chosen - chosen_reference).sum(-1), (rejected - rejected_reference).sum(-1)
    return PreferenceLoss(relu(1 - beta * (better - worse)), beta * better.detach(), beta * worse.detach())


@dataclass(frozen=True)
class MineConfig(MethodConfig):
    """Clone, explore once, contrast once."""

    judge: JudgeConfig = field(default_factory=lambda: JudgeConfig(judge=f"{HERE}:ShortJudge"))
    step_rewards: StepRewardConfig = field(default_factory=lambda: StepRewardConfig(source=f"{HERE}:LastStepCounts"))
    pairing: PairingConfig = field(default_factory=lambda: PairingConfig(granularity=f"{HERE}:first_steps"))
    dpo: DPOConfig = field(default_factory=lambda: DPOConfig(objective=f"{HERE}:hinge"))


def run_mine(config: MineConfig, run: Run) -> Path | None:
    """The algorithm: each line is a stage that is skipped when complete and resumed when it was cut short."""
    config = prepared(config)
    demonstrations = demonstrated(config, run)
    clone = cloned(config, run, demonstrations)
    episodes, here = explored(config, run, 1, clone), run.iteration(1)
    verdicts = stages.judge(run, here / "verdicts.jsonl", episodes, config.judge)
    rewards = stages.score_steps(run, here / "step_rewards.jsonl", [episodes], config.step_rewards)
    pairs = stages.pair(
        run, here / "pairs.jsonl", episodes, config.pairing,
        verdicts=verdicts, step_rewards=rewards, demonstrations=demonstrations,
    )  # fmt: skip
    policy = contrasted(config, run, pairs, clone, config.dpo)
    measured(config, run, 1, "mine-1", policy)
    return concluded(config, run, {"sft": clone, "mine-1": policy})


def main(run: str = "runs/custom") -> int:
    small = [
        "--model.name", "tiny-random", "--rollout.env-id", "icto_gym.testing:Scripted-v0", "--rollout.max-tasks", "4",
        "--rollout.attempts", "2", "--acting.max-new-tokens", "8", "--demonstrations.max-tasks", "4", "--probe.tasks",
        "0", "--evaluation.max-tasks", "2", "--evaluation.final-max-tasks", "2",
    ]  # fmt: skip
    return icto(["run", f"{HERE}:run_mine", "--run", run, *small])


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:2]))
