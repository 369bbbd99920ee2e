"""Contrast by instruction (RLCD, Yang et al., 2023), on agents: careful against careless, without a reward.

There is no authoritative version for agents; what varies, the unit and the objective are this project's choices, and
they stand in the run's config.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path

from trainers.method_stages import explore_prompted, pair_trajectories, pair_turns, sample_turns
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
)
from trainers.pairing.prompt import PromptPairingConfig
from trainers.rollout import RolloutConfig
from trainers.runs import Run
from trainers.stages import Start
from trainers.training.config import DPOConfig


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


def run_rlcd(config: RLCDConfig, run: Run) -> Path | None:
    """π ← SFT(D); π ← DPO(π, π_ref = π, answers under p+ against answers under p-, both given the plain prompt)."""
    config = prepared(config)
    demonstrations = demonstrated(config, run)
    clone: Start = cloned(config, run, demonstrations)
    here, player = run.iteration(1), explorer(config, 1, clone)
    if config.pairing.unit == "turn":
        episodes = explored(config, run, 1, clone)
        contrasts = sample_turns(run, here / "contrasts.jsonl", episodes, player, config.pairing)
        pairs = pair_turns(run, here / "pairs.jsonl", episodes, contrasts, player, config.pairing, config.rollout)
    else:
        played = replace(config.rollout, greedy_first=False, temperature=config.pairing.temperature)
        sides = [
            explore_prompted(run, here / name / "trajectories.jsonl", player, config.pairing, played, side)
            for side, name in enumerate(("positive", "negative"))
        ]
        pairs = pair_trajectories(run, here / "pairs.jsonl", *sides)
    policy = contrasted(config, run, pairs, clone, config.dpo)
    measured(config, run, 1, "rlcd-1", policy)
    return concluded(config, run, {"sft": clone, "rlcd-1": policy})
