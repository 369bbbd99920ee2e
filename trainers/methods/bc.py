"""Behavioural cloning: imitate demonstrations."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from trainers import stages
from trainers.evaluation.evaluate import EvaluationConfig, ProbeConfig
from trainers.methods.common import check_splits, evaluate_splits, seeded
from trainers.models.config import ModelConfig
from trainers.rollout import RolloutConfig
from trainers.runs import Run
from trainers.stages import ActingConfig, DemonstrationConfig, Start, Watch
from trainers.training.config import SFTConfig


@dataclass(frozen=True)
class BCConfig:
    """Clone the expert."""

    seed: int | None = None
    """Takes the place of the seeds of all sections; None: they keep their own."""
    model: ModelConfig = field(default_factory=ModelConfig)
    """What is trained."""
    rollout: RolloutConfig = field(default_factory=RolloutConfig)
    """The environment (its exploration settings are not used here)."""
    acting: ActingConfig = field(default_factory=ActingConfig)
    """How the model writes."""
    demonstrations: DemonstrationConfig = field(default_factory=DemonstrationConfig)
    """Whom to imitate."""
    sft: SFTConfig = field(default_factory=SFTConfig)
    """How to imitate."""
    probe: ProbeConfig = field(default_factory=ProbeConfig)
    """How to watch the training."""
    evaluation: EvaluationConfig = field(default_factory=EvaluationConfig)
    """What to measure."""


def run_bc(config: BCConfig, run: Run) -> Path:
    """Demonstrate, imitate, measure; returns the checkpoint."""
    config = seeded(config)
    check_splits(config)
    watch = Watch(config.probe, config.rollout, config.acting)
    demonstrations = stages.demonstrate(run, run.path("demonstrations.jsonl"), config.demonstrations, config.rollout)
    checkpoint = stages.train_sft(run, run.path("sft"), demonstrations, config.model, config.sft, watch)
    evaluate_splits(run, checkpoint, "sft", config, config.evaluation.splits, config.evaluation.max_tasks)
    policies: list[tuple[Start, str]] = [(config.model, "base")] if config.evaluation.base else []
    for start, label in [*policies, (checkpoint, "sft")]:
        evaluate_splits(run, start, label, config, config.evaluation.final_splits, config.evaluation.final_max_tasks)
    return checkpoint
