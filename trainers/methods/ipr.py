"""Iterative step-level process refinement (Xiong et al., 2024): contrast at every step of the expert's path."""

from __future__ import annotations

import logging
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from icto_gym.errors import check_name
from trainers import stages
from trainers.config import at_least, read_yaml
from trainers.feedback import MonteCarloConfig, StepRewardConfig
from trainers.methods.common import (
    MethodConfig,
    cloned,
    concluded,
    contrasted,
    demonstrated,
    explorer,
    iteration_seed,
    measured,
    prepared,
)
from trainers.pairing.along import AlongPairingConfig, along_expert
from trainers.playing_on import continue_compared, continue_episodes, explore_along, predict_values, value_steps
from trainers.presets import fit_to, preset_names, preset_path
from trainers.rollout import RolloutConfig
from trainers.runs import Run
from trainers.stages import Start
from trainers.training.config import DPOConfig, RewardConfig

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class IPRConfig(MethodConfig):
    """Clone, then act from every step of every demonstration and contrast steps and trajectories with the expert's."""

    iterations: int = 4
    """Rounds; best ones published: 4 in the shop, 3 in household tasks."""
    starts_per_task: int | None = None
    """Act from at most so many steps of a demonstration, its first among them; None: from all."""
    values: Literal["monte_carlo", "reward_model"] = "monte_carlo"
    """Step rewards: by playing on from each step, or predicted by a reward model that is fitted to the explored
    episodes (each is one continuation of the steps it took)."""
    moving_reference: bool = False
    """The reference is the policy of the iteration, as in ETO; off: the clone, in all iterations."""
    rollout: RolloutConfig = field(
        default_factory=lambda: RolloutConfig(attempts=1, temperature=0.0, epsilon=0.0, branch_fraction=0.0)
    )
    """The environment, and the temperature at which the agent acts along the expert's path."""
    monte_carlo: MonteCarloConfig = field(default_factory=lambda: MonteCarloConfig(steps="decision"))
    """How steps are played on: `decision` from those alone, the agent's and the expert's, that a pair compares and no
    earlier iteration continued; `all` from every step of both, the expert's once, as published, for the same pairs."""
    reward: RewardConfig = field(default_factory=RewardConfig)
    """The reward model, where values are predicted."""
    pairing: AlongPairingConfig = field(default_factory=AlongPairingConfig)
    """When one side is better by enough."""
    dpo: DPOConfig = field(
        default_factory=lambda: DPOConfig(
            beta=0.1,
            learning_rate=3e-6,
            epochs=3,
            batch_size=48,
            schedule="constant",
            warmup_ratio=0.1,
            sft_weight=1.0,
            sft_reduction="sum",
            sft_scope="all",
            holdout=0.0,
        )
    )
    """How to learn from pairs: - log sigma(beta * delta) - log pi(chosen), the second term a sum."""

    def __post_init__(self) -> None:
        check_name(self.values, ("monte_carlo", "reward_model"), "ipr values")
        at_least("iterations", self.iterations, 1)
        at_least("starts_per_task", self.starts_per_task, 1)


def run_ipr(config: IPRConfig, run: Run) -> Path | None:
    """π ← π_s ← SFT(D); repeat: act from every step of D, value the steps by π_s, π ← DPO + SFT on the pairs."""
    config = prepared(config)
    _check_exploration(config)
    demonstrations = demonstrated(config, run)
    scorer = cloned(config, run, demonstrations)
    policy: Start = scorer
    policies = {"sft": policy}
    for number in range(1, config.iterations + 1):
        here, seed = run.iteration(number), iteration_seed(config, number)
        player = explorer(config, number, policy)
        episodes = explore_along(
            run, here / "trajectories.jsonl", demonstrations, player, config.rollout, seed, config.starts_per_task
        )
        values = _values(config, run, number, episodes, demonstrations, scorer)
        pairs = stages.pair(
            run, here / "pairs.jsonl", episodes, config.pairing,
            build=along_expert, step_rewards=values, demonstrations=demonstrations,
        )  # fmt: skip
        reference = policy if config.moving_reference else scorer
        policy = contrasted(config, run, pairs, policy, config.dpo, reference)
        policies[f"ipr-{number}"] = policy
        measured(config, run, number, f"ipr-{number}", policy)
    return concluded(config, run, policies)


def _check_exploration(config: IPRConfig) -> None:
    """Say which settings of exploration have no effect along the expert's path.

    What a preset says to all methods, such as the tasks they explore, nobody asked of this one: it is passed over.
    """
    unused = {"attempts": 1, "epsilon": 0.0, "branch_fraction": 0.0, "max_tasks": None}
    asked = {name: getattr(config.rollout, name) for name in unused}
    for name in (name for name, value in asked.items() if value != unused[name] and value not in _preset(name)):
        logger.warning(
            "rollout.%s is %r and has no effect: IPR acts once from each step of each demonstration; "
            "demonstrations.max_tasks and starts_per_task say how many", name, asked[name],
        )  # fmt: skip


def _preset(name: str) -> list[Any]:
    """What the presets that ship with the package give IPR for a setting of exploration."""
    fit = fit_to("ipr", IPRConfig)
    sections = [fit(read_yaml(preset_path(preset))).get("rollout") or {} for preset in preset_names()]
    return [section[name] for section in sections if name in section]


def _values(
    config: IPRConfig, run: Run, number: int, episodes: Path, demonstrations: Path, scorer: Path
) -> Path | None:
    """The value of every step, explored and demonstrated, under the scorer; None where outcomes alone decide."""
    if config.pairing.step_margin is None or not config.pairing.step_pairs:
        return None
    here, files = run.iteration(number), [episodes, demonstrations]
    if config.values == "reward_model":
        targets = StepRewardConfig(source="learned")
        model = stages.train_reward(run, here / "reward", files, targets, scorer, config.reward)
        return predict_values(run, here / "step_rewards.jsonl", files, model)
    continuations = _continuations(config, run, number, episodes, demonstrations, scorer)
    return value_steps(run, here / "step_rewards.jsonl", files, continuations)


def _continuations(
    config: IPRConfig, run: Run, number: int, episodes: Path, demonstrations: Path, scorer: Path
) -> list[Path]:
    """What the scorer played on: from the steps that pairs compare, or from all."""
    here, player = run.iteration(number), stages.model_player(scorer, "scorer", config.acting)
    seed = iteration_seed(config, number)
    if config.monte_carlo.steps == "decision":
        before = [run.iteration(earlier) / "continuations.jsonl" for earlier in range(1, number)]
        now = continue_compared(
            run, here / "continuations.jsonl", episodes, demonstrations, config.pairing, player, config.monte_carlo,
            config.rollout, seed, before,
        )  # fmt: skip
        return [*before, now]
    known = continue_episodes(
        run, run.path("expert_continuations.jsonl"), demonstrations, player, config.monte_carlo, config.rollout,
        config.rollout.seed,
    )  # fmt: skip
    found = continue_episodes(
        run, here / "continuations.jsonl", episodes, player, config.monte_carlo, config.rollout, seed, [known],
    )  # fmt: skip
    return [known, found]
