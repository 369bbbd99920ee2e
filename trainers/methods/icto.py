"""Iterative contrastive trajectory optimisation (Jing, Jing, Li, 2024)."""

from __future__ import annotations

import logging
from dataclasses import dataclass, field, replace
from pathlib import Path

from icto_gym.errors import ConfigError
from trainers import stages
from trainers.diagnostics import iteration_facts
from trainers.evaluation.evaluate import EvaluationConfig, ProbeConfig
from trainers.feedback import JudgeConfig, StepRewardConfig, make_judge, make_step_rewarder
from trainers.methods.common import check_splits, checkpoint_of, evaluate_splits, seeded
from trainers.models.config import ModelConfig
from trainers.pairing import PairingConfig, make_pairing
from trainers.policies.base import derive_seed
from trainers.rollout import RolloutConfig
from trainers.runs import Run
from trainers.stages import ActingConfig, DemonstrationConfig, Start, Watch
from trainers.training.config import DPOConfig, RewardConfig, SFTConfig

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class ICTOConfig:
    """Clone the expert, then explore, judge, contrast and train, again and again."""

    seed: int | None = None
    """Takes the place of the seeds of all sections; None: they keep their own."""
    iterations: int = 1
    """Rounds of exploring and learning after cloning."""
    cloning: bool = True
    """Start from a clone of the expert; off: from the model as it is (ablation)."""
    contrast: bool = True
    """Learn from pairs; off: imitate the successes instead (ablation)."""
    model: ModelConfig = field(default_factory=ModelConfig)
    """What is trained."""
    rollout: RolloutConfig = field(default_factory=RolloutConfig)
    """The environment, and how training tasks are explored."""
    acting: ActingConfig = field(default_factory=ActingConfig)
    """How the model writes."""
    demonstrations: DemonstrationConfig = field(default_factory=DemonstrationConfig)
    """Whom to imitate."""
    sft: SFTConfig = field(default_factory=SFTConfig)
    """How to imitate."""
    judge: JudgeConfig = field(default_factory=JudgeConfig)
    """What may be learned from."""
    step_rewards: StepRewardConfig = field(default_factory=StepRewardConfig)
    """What each step was worth."""
    reward: RewardConfig = field(default_factory=RewardConfig)
    """The reward model, where step rewards are predicted."""
    pairing: PairingConfig = field(default_factory=lambda: PairingConfig(granularity="trajectory"))
    """Who is set against whom."""
    dpo: DPOConfig = field(default_factory=DPOConfig)
    """How to learn from pairs."""
    probe: ProbeConfig = field(default_factory=ProbeConfig)
    """How to watch training."""
    evaluation: EvaluationConfig = field(default_factory=EvaluationConfig)
    """What to measure."""

    def __post_init__(self) -> None:
        if self.iterations < 0:
            raise ConfigError(f"iterations is {self.iterations!r}; give 0 or more.")
        if not (self.cloning or self.iterations):
            raise ConfigError("cloning is off and iterations is 0, so there is nothing to train.")


def run_icto(config: ICTOConfig, run: Run) -> Path | None:
    """Clone, then iterate; the reference of iteration k is the policy that explored in it."""
    config = seeded(config)
    check_splits(config)
    _check_levels(config)
    _check_plug_ins(config)
    demonstrations = stages.demonstrate(run, run.path("demonstrations.jsonl"), config.demonstrations, config.rollout)
    policy: Start = config.model
    results = {"base": policy} if config.evaluation.base else {}
    if config.cloning:
        policy = stages.train_sft(run, run.path("sft"), demonstrations, policy, config.sft, _cloning_watch(config))
        results["sft"] = policy
        evaluate_splits(run, policy, "sft", config, config.evaluation.splits, config.evaluation.max_tasks)
    for number in range(1, config.iterations + 1):
        policy = _iterate(config, run, number, policy, demonstrations)
        results[f"icto-{number}"] = policy
    for label in [name for name in ("base", "sft", f"icto-{config.iterations}") if name in results]:
        splits, limit = config.evaluation.final_splits, config.evaluation.final_max_tasks
        evaluate_splits(run, results[label], label, config, splits, limit)
    return checkpoint_of(policy)


def _check_levels(config: ICTOConfig) -> None:
    """Pairs cut for one level and trained at another are legal (an ablation), but rarely meant."""
    granularity, objective = config.pairing.granularity, config.dpo.objective
    same = ":" in granularity or granularity == objective or (granularity, objective) == ("trajectory", "log_ratio")
    if config.contrast and not same:
        logger.warning("pairing.granularity is %r and dpo.objective is %r; is that meant?", granularity, objective)


def _check_plug_ins(config: ICTOConfig) -> None:
    """Load what is named by a dotted path, so that a wrong one is found before training."""
    make_pairing(config.pairing)
    if ":" in config.judge.judge and not config.judge.judge.startswith("endpoint:"):
        make_judge(config.judge)
    if ":" in config.step_rewards.source:
        make_step_rewarder(config.step_rewards)


def _iterate(config: ICTOConfig, run: Run, number: int, policy: Start, demonstrations: Path) -> Start:
    """Explore with the policy, judge, contrast, train; returns the next policy."""
    here, label = run.iteration(number), f"icto-{number}"
    explorer = stages.model_player(policy, f"explore-{number}", config.acting)
    exploration = replace(config.rollout, seed=derive_seed(config.rollout.seed, "iteration", number))
    explored = stages.explore(run, here / "trajectories.jsonl", explorer, exploration)
    verdicts = stages.judge(run, here / "verdicts.jsonl", explored, config.judge)
    if config.contrast:
        rewards = _score(config, run, here, [explored, demonstrations], policy)
        pairs = stages.pair(
            run, here / "pairs.jsonl", explored, config.pairing,
            verdicts=verdicts, step_rewards=rewards, demonstrations=demonstrations,
        )  # fmt: skip
        if stages.facts_of(run, pairs)["pairs"]:
            policy = stages.train_dpo(run, here / "dpo", pairs, policy, config.dpo, _watch(config))
        else:
            logger.warning("iteration %d made no pairs (%s); the policy stays as it is", number, pairs)
    else:
        threshold = config.pairing.success_threshold or config.demonstrations.min_score
        kept = stages.keep_successes(
            run, here / "successes.jsonl", explored, verdicts, min_score=threshold, also=demonstrations
        )
        policy = stages.train_sft(run, here / "sft", kept, policy, config.sft, _watch(config))
    played = evaluate_splits(run, policy, label, config, config.evaluation.splits, config.evaluation.max_tasks)
    stages.note(here / "metrics.json", iteration_facts(run, number, played))
    return policy


def _score(config: ICTOConfig, run: Run, here: Path, trajectories: list[Path], policy: Start) -> Path:
    """Step rewards as recorded, or predicted by a reward model fitted to this iteration's episodes."""
    model = None
    if config.step_rewards.source == "learned":
        model = stages.train_reward(run, here / "reward", trajectories, config.step_rewards, policy, config.reward)
    return stages.score_steps(run, here / "step_rewards.jsonl", trajectories, config.step_rewards, model)


def _cloning_watch(config: ICTOConfig) -> Watch | None:
    """Cloning is watched where asked: DPO measures its outcome anyway, before its own first step."""
    return _watch(config) if config.sft.probe_every else None


def _watch(config: ICTOConfig) -> Watch:
    return Watch(config.probe, config.rollout, config.acting)
