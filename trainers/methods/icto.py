"""Iterative contrastive trajectory optimisation (Jing, Jing, Li, 2024)."""

from __future__ import annotations

import logging
from dataclasses import dataclass, field
from pathlib import Path

from icto_gym.errors import ConfigError
from trainers import distributed, stages
from trainers.config import LATER, at_least, check_score
from trainers.feedback import JudgeConfig, MonteCarloConfig, StepRewardConfig, make_judge, make_step_rewarder
from trainers.methods.common import (
    MethodConfig,
    check_base,
    cloned,
    concluded,
    contrasted,
    demonstrated,
    explored,
    explorer,
    iteration_seed,
    measured,
    prepared,
    watching,
)
from trainers.pairing import PairingConfig, make_pairing
from trainers.playing_on import continue_episodes, retry
from trainers.retries import RetryConfig
from trainers.runs import Run
from trainers.stages import Start
from trainers.training.config import DPOConfig, RewardConfig

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class ICTOConfig(MethodConfig):
    """Clone the expert, then explore, judge, contrast and train, again and again."""

    iterations: int = 1
    """Rounds of exploring and learning after cloning."""
    cloning: bool = True
    """Start from a clone of the expert; off: from the model as it is (ablation)."""
    contrast: bool = True
    """Learn from pairs; off: imitate the successes instead (ablation)."""
    imitation: bool = False
    """Before contrasting, train again from the model on the demonstrations and one's own distinct successes, as RFT
    does, so that contrast begins where imitation ends; off: contrast from the policy that explored."""
    retries: RetryConfig = field(default_factory=RetryConfig)
    """Guided exploration: episodes taken up again from where they went wrong."""
    imitate_retries: bool = False
    """With `imitation`: imitate the successes among these as well, from where they were taken up; off: those of the
    exploration alone, as RFT does."""
    best_margin: float | None = field(default=None, metadata=LATER)
    """With `imitation`: of tasks without a success, imitate the best attempt where another is worse by this much at
    least (RAFT, Dong et al., 2023); None: imitate successes alone."""
    judge: JudgeConfig = field(default_factory=JudgeConfig)
    """What may be learned from."""
    step_rewards: StepRewardConfig = field(default_factory=StepRewardConfig)
    """What each step was worth."""
    reward: RewardConfig = field(default_factory=RewardConfig)
    """The reward model, where step rewards are predicted."""
    monte_carlo: MonteCarloConfig = field(default_factory=MonteCarloConfig)
    """The continuations, where step rewards are sampled."""
    pairing: PairingConfig = field(default_factory=lambda: PairingConfig(granularity="trajectory"))
    """Who is set against whom."""
    dpo: DPOConfig = field(default_factory=DPOConfig)
    """How to learn from pairs."""

    def __post_init__(self) -> None:
        at_least("iterations", self.iterations, 0)
        if not (self.cloning or self.iterations):
            raise ConfigError("cloning is off and iterations is 0, so there is nothing to train.")
        if self.pairing.retries_only and not self.retries.branches:
            raise ConfigError(
                "pairing.retries_only is on, but retries.branches is 0, so there would be no pairs. Give "
                "retries.branches, such as 8, or set pairing.retries_only to false."
            )
        if self.imitation and not (self.cloning and self.contrast):
            raise ConfigError(
                "imitation trains on demonstrations and successes before contrast, so it needs both cloning and "
                f"contrast (they are {self.cloning} and {self.contrast}). Set imitation to false; without contrast, "
                "successes are imitated anyway."
            )
        if self.imitate_retries and not (self.imitation and self.retries.branches):
            raise ConfigError(
                "imitate_retries is on, so it needs both imitation and retries.branches (they are "
                f"{self.imitation} and {self.retries.branches}). Give --imitation and --retries.branches, such as 8, "
                "or set imitate_retries to false."
            )
        check_score("best_margin", self.best_margin)
        if self.best_margin is not None and not self.imitation:
            raise ConfigError(
                f"best_margin is {self.best_margin}, but imitation is off, so no attempt is imitated. "
                "Give --imitation, or leave best_margin out."
            )
        if self.start is not None and not self.cloning:
            raise ConfigError(
                f"start is {str(self.start)!r}, a clone, but cloning is off. Leave start out, or put the checkpoint's "
                "folder under model.name to begin with it as it is."
            )


def run_icto(config: ICTOConfig, run: Run) -> Path | None:
    """Clone, then iterate.

    The reference of iteration k is the policy that its contrast begins with: the one that explored in it, or with
    `imitation` the one that imitation has just trained.
    """
    config = prepared(config)
    if config.imitation:
        check_base(config)
    _check_levels(config)
    _check_plug_ins(config)
    demonstrations = demonstrated(config, run)
    policy: Start = config.model
    policies: dict[str, Start] = {}
    rounds: list[Path] = []
    if config.cloning:
        policies["sft"] = policy = cloned(config, run, demonstrations)
    for number in range(1, config.iterations + 1):
        policies[f"icto-{number}"] = policy = _iterate(config, run, number, policy, demonstrations, rounds)
    return concluded(config, run, policies)


def _check_levels(config: ICTOConfig) -> None:
    """Pairs cut for one level and trained at another are legal (an ablation), but rarely meant."""
    granularity, objective = config.pairing.granularity, config.dpo.objective
    fitting = {(objective, objective), ("trajectory", "log_ratio"), ("trajectory", "mixed")}
    same = ":" in granularity + objective or (granularity, objective) in fitting
    if config.contrast and not same:
        logger.warning("pairing.granularity is %r and dpo.objective is %r; is that meant?", granularity, objective)


def _check_plug_ins(config: ICTOConfig) -> None:
    """Make what is named by a dotted path or asks an endpoint, so that a wrong name, a package that is not there or a
    missing key is found before training."""
    make_pairing(config.pairing)
    # of several processes the first alone judges and needs a key; the others are told whether it could be made
    distributed.on_first(lambda: type(make_judge(config.judge)).__name__)
    if ":" in config.step_rewards.source:
        make_step_rewarder(config.step_rewards)


def _iterate(
    config: ICTOConfig, run: Run, number: int, policy: Start, demonstrations: Path, rounds: list[Path]
) -> Start:
    """Explore with the policy, judge, contrast, train; returns the next policy, and adds what to imitate to rounds."""
    here = run.iteration(number)
    episodes = first_tries = explored(config, run, number, policy)
    if config.retries.branches:
        episodes = _retried(config, run, number, policy, first_tries)
    rounds.append(episodes if config.imitate_retries else first_tries)
    verdicts = stages.judge(run, here / "verdicts.jsonl", episodes, config.judge)
    if config.contrast:
        rewards = _score(config, run, number, [episodes, demonstrations], policy)
        pairs = stages.pair(
            run, here / "pairs.jsonl", episodes, config.pairing,
            verdicts=verdicts, step_rewards=rewards, demonstrations=demonstrations,
        )  # fmt: skip
        if config.imitation:
            policy = _imitated(config, run, number, rounds, demonstrations)
        policy = contrasted(config, run, pairs, policy, config.dpo)
    else:
        kept = stages.keep_successes(
            run, here / "successes.jsonl", episodes, verdicts, min_score=_success(config), also=demonstrations
        )
        policy = stages.train_sft(run, here / "sft", kept, policy, config.sft, watching(config))
    measured(config, run, number, f"icto-{number}", policy)
    return policy


def _retried(config: ICTOConfig, run: Run, number: int, policy: Start, episodes: Path) -> Path:
    """The explored episodes, and what came of taking some of them up again."""
    player, seed = explorer(config, number, policy), iteration_seed(config, number)
    out = run.iteration(number) / "with-retries.jsonl"
    return retry(run, out, episodes, player, config.retries, config.rollout, seed)


def _imitated(config: ICTOConfig, run: Run, number: int, rounds: list[Path], demonstrations: Path) -> Path:
    """The model trained on D and the successes of all rounds: RFT's step, unjudged as there, so that contrast alone
    tells the two methods apart."""
    here = run.iteration(number)
    kept = stages.keep_successes(
        run, here / "successes.jsonl", rounds[-1], None, min_score=_success(config), also=demonstrations,
        earlier=rounds[:-1], best_margin=config.best_margin,
    )  # fmt: skip
    return stages.train_sft(run, here / "sft", kept, config.model, config.sft, watching(config))


def _success(config: ICTOConfig) -> float | None:
    """The score from which on an episode is imitated."""
    asked = config.pairing.success_threshold
    return config.demonstrations.min_score if asked is None else asked


def _score(config: ICTOConfig, run: Run, number: int, trajectories: list[Path], policy: Start) -> Path:
    """Step rewards as recorded, predicted by a reward model fitted to these episodes, or sampled by playing on."""
    here, model, continuations = run.iteration(number), None, None
    if config.step_rewards.source == "learned":
        model = stages.train_reward(run, here / "reward", trajectories, config.step_rewards, policy, config.reward)
    if config.step_rewards.source == "monte_carlo":
        player, seed = explorer(config, number, policy), iteration_seed(config, number)
        continuations = [
            continue_episodes(
                run, here / "continuations" / file.name, file, player, config.monte_carlo, config.rollout, seed
            )
            for file in trajectories
        ]
    rewards = here / "step_rewards.jsonl"
    return stages.score_steps(run, rewards, trajectories, config.step_rewards, model, continuations)
