"""Contrast by instruction (RLCD, Yang et al., 2023), on agents: careful against careless, without a reward.

There is no authoritative version for agents; what varies, the unit and the objective are this project's choices, and
they stand in the run's config; the record of its pairs says so too. ``objective`` dpo learns from the pairs directly,
which needs no further model; rm_ppo is the original form: a reward model fitted to the pairs, and PPO against it.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal

from icto_gym.errors import ConfigError, check_name
from trainers.diagnostics import SIDES
from trainers.distributed import splits_weights
from trainers.method_stages import (
    explore_prompted,
    pair_trajectories,
    pair_turns,
    sample_turns,
    train_ppo,
    train_preference_reward,
)
from trainers.methods.common import (
    MethodConfig,
    cloned,
    concluded,
    contrasted,
    demonstrated,
    explored,
    explorer,
    measured,
    prepared,
    watching,
)
from trainers.pairing.prompt import PromptPairingConfig
from trainers.rollout import RolloutConfig
from trainers.runs import Run
from trainers.stages import Start, facts_of
from trainers.training.config import DPOConfig, PPOConfig, RewardConfig

logger = logging.getLogger(__name__)
OBJECTIVES = ("dpo", "rm_ppo")


@dataclass(frozen=True)
class RLCDConfig(MethodConfig):
    """Clone, answer under contrasting instructions, and learn to prefer the careful answer without being told to."""

    rollout: RolloutConfig = field(default_factory=lambda: RolloutConfig(attempts=1, epsilon=0.0, branch_fraction=0.0))
    """The environment, and how the histories (or whole episodes) come about."""
    pairing: PromptPairingConfig = field(default_factory=PromptPairingConfig)
    """The instructions, and what is contrasted under them."""
    dpo: DPOConfig = field(
        default_factory=lambda: DPOConfig(beta=0.1, learning_rate=1e-6, batch_size=32, epochs=3, sft_weight=0.0)
    )
    """How to learn from pairs; the reference is the clone."""
    objective: Literal["dpo", "rm_ppo"] = "dpo"
    """How the contrast is learned: `dpo` on the pairs, or `rm_ppo`, a reward model fitted to them and PPO from the
    clone on their prompts (the original form; of single turns only)."""
    reward: RewardConfig = field(default_factory=RewardConfig)
    """For rm_ppo: how the reward model is fitted, on the clone's backbone."""
    ppo: PPOConfig = field(default_factory=PPOConfig)
    """For rm_ppo: how the policy is raised by it; the reference is the clone."""

    def __post_init__(self) -> None:
        check_name(self.objective, OBJECTIVES, "objective")


def run_rlcd(config: RLCDConfig, run: Run) -> Path | None:
    """π ← SFT(D); π ← DPO(π, π_ref = π, answers under p+ against answers under p-, both given the plain prompt).

    With rm_ppo in place of DPO: R ← BT(answers under p+ over answers under p-); π ← PPO(π, R, π_ref = π).
    """
    _check_objective(config)
    config = prepared(config)
    demonstrations = demonstrated(config, run)
    clone: Start = cloned(config, run, demonstrations)
    here, player = run.iteration(1), explorer(config, 1, clone)
    if config.pairing.unit == "turn":
        episodes = explored(config, run, 1, clone)
        contrasts = sample_turns(run, here / "contrasts.jsonl", episodes, player, config.pairing, config.rollout)
        pairs = pair_turns(run, here / "pairs.jsonl", episodes, contrasts, player, config.pairing, config.rollout)
    else:
        played = replace(config.rollout, greedy_first=False, temperature=config.pairing.temperature)
        sides = [
            explore_prompted(run, here / name / "trajectories.jsonl", player, config.pairing, played, side)
            for side, name in enumerate(SIDES)
        ]
        pairs = pair_trajectories(run, here / "pairs.jsonl", *sides)
    if config.objective == "dpo":
        policy = contrasted(config, run, pairs, clone, config.dpo)
    else:
        policy = reinforced(config, run, pairs, clone)
    measured(config, run, 1, "rlcd-1", policy)
    return concluded(config, run, {"sft": clone, "rlcd-1": policy})


def reinforced(config: RLCDConfig, run: Run, pairs: Path, clone: Start) -> Start:
    """The policy after PPO against a reward model of the pairs; as it was where there are none."""
    if not facts_of(run, pairs)["pairs"]:
        logger.warning("%s made no pairs; the policy stays as it is", run.name_of(pairs.parent))
        return clone
    reward = train_preference_reward(run, pairs.parent / "reward", pairs, clone, config.reward)
    return train_ppo(run, pairs.parent / "ppo", pairs, reward, clone, config.ppo, watching(config))


def _check_objective(config: RLCDConfig) -> None:
    if config.objective == "rm_ppo" and config.pairing.unit != "turn":
        raise ConfigError(
            f"objective is 'rm_ppo' and pairing.unit is {config.pairing.unit!r}: PPO answers one turn at a time, so a "
            "reward of whole episodes does not fit. Set pairing.unit to 'turn', or objective to 'dpo'."
        )
    if config.objective == "rm_ppo" and splits_weights(config):
        raise ConfigError(
            f"objective is 'rm_ppo' and deepspeed is {config.deepspeed!r}, which splits the weights over the "
            "processes, so the policy cannot answer while it is trained. Use zero2, or set objective to 'dpo'."
        )
