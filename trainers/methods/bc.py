"""Behavioural cloning: imitate demonstrations."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from trainers import stages
from trainers.methods.common import MethodConfig, concluded, demonstrated, evaluate_splits, prepared, watching
from trainers.runs import Run
from trainers.stages import Start


@dataclass(frozen=True)
class BCConfig(MethodConfig):
    """Clone the expert."""


def run_bc(config: BCConfig, run: Run) -> Path | None:
    """Demonstrate, imitate (from the model, or going on from ``start``), measure; returns the checkpoint."""
    config = prepared(config)
    demonstrations = demonstrated(config, run)
    begin: Start = config.start or config.model
    policy = stages.train_sft(run, run.path("sft"), demonstrations, begin, config.sft, watching(config))
    evaluate_splits(run, policy, "sft", config, config.evaluation.splits, config.evaluation.max_tasks)
    return concluded(config, run, {"sft": policy})
