"""Exploration-based trajectory optimisation (ETO, Song et al., 2024): attempts against the expert's, iterated."""

from __future__ import annotations

import logging
from dataclasses import dataclass, field, replace
from pathlib import Path

from icto_gym.errors import ConfigError
from trainers import stages
from trainers.config import at_least
from trainers.methods.common import (
    MethodConfig,
    cloned,
    concluded,
    contrasted,
    demonstrated,
    explored,
    measured,
    prepared,
)
from trainers.pairing.whole import WholePairingConfig, against_expert
from trainers.rollout import RolloutConfig
from trainers.runs import Run
from trainers.stages import Start
from trainers.training.config import DPOConfig

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class ETOConfig(MethodConfig):
    """Clone, then try every training task once and contrast with the expert; the reference moves along."""

    iterations: int = 2
    """Rounds; the published gains end after the second, in household tasks after the first."""
    betas: tuple[float, ...] = (0.1, 0.5)
    """beta of each iteration; the last one stays. Empty: that of dpo."""
    learning_rates: tuple[float, ...] = (1e-6, 5e-7)
    """Learning rate of each iteration; the last one stays. Empty: that of dpo. These are for all weights of a model of
    7 billion; a small model with LoRA takes ten to twenty times as much."""
    rollout: RolloutConfig = field(
        default_factory=lambda: RolloutConfig(attempts=1, temperature=0.0, epsilon=0.0, branch_fraction=0.0)
    )
    """The environment, and how training tasks are explored: once each, greedily."""
    pairing: WholePairingConfig = field(default_factory=WholePairingConfig)
    """How an attempt is set against the expert's episode."""
    dpo: DPOConfig = field(
        default_factory=lambda: DPOConfig(
            learning_rate=1e-6,
            epochs=3,
            batch_size=32,
            schedule="constant",
            warmup_ratio=0.1,
            sft_weight=0.0,
            holdout=0.0,
        )
    )
    """How to learn from pairs."""

    def __post_init__(self) -> None:
        at_least("iterations", self.iterations, 1)
        for name, values in (("betas", self.betas), ("learning_rates", self.learning_rates)):
            if any(value <= 0 for value in values):
                raise ConfigError(f"{name} is {list(values)!r}; each must be above 0.")


def run_eto(config: ETOConfig, run: Run) -> Path | None:
    """π ← SFT(D); repeat: π_ref ← π, try every task, π ← DPO(π, π_ref, attempts against experts)."""
    config = prepared(config)
    _check_schedule(config)
    demonstrations = demonstrated(config, run)
    policy: Start = cloned(config, run, demonstrations)
    policies = {"sft": policy}
    for number in range(1, config.iterations + 1):
        episodes = explored(config, run, number, policy)
        pairs = stages.pair(
            run, run.iteration(number) / "pairs.jsonl", episodes, config.pairing,
            build=against_expert, demonstrations=demonstrations,
        )  # fmt: skip
        policy = contrasted(config, run, pairs, policy, dpo_of(config, number))
        policies[f"eto-{number}"] = policy
        measured(config, run, number, f"eto-{number}", policy)
    return concluded(config, run, policies)


def _check_schedule(config: ETOConfig) -> None:
    """Say where the schedule leaves a value of ``dpo`` without effect."""
    for name, schedule in (("beta", config.betas), ("learning_rate", config.learning_rates)):
        value = getattr(config.dpo, name)
        if schedule and value != schedule[0]:
            logger.warning(
                "dpo.%s is %g, but %ss is %s and decides; leave that empty for dpo's", name, value, name, list(schedule)
            )


def dpo_of(config: ETOConfig, number: int) -> DPOConfig:
    """The settings of iteration ``number``, counted from 1."""
    dpo = config.dpo
    if config.betas:
        dpo = replace(dpo, beta=config.betas[min(number, len(config.betas)) - 1])
    if config.learning_rates:
        dpo = replace(dpo, learning_rate=config.learning_rates[min(number, len(config.learning_rates)) - 1])
    return dpo
