"""Rejection-sampling fine-tuning (Yuan et al., 2023): imitate the expert and one's own successes."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from trainers import stages
from trainers.config import LATER, at_least, check_score
from trainers.methods.common import (
    MethodConfig,
    check_base,
    cloned,
    concluded,
    demonstrated,
    explored,
    measured,
    prepared,
    watching,
)
from trainers.rollout import RolloutConfig
from trainers.runs import Run
from trainers.stages import Start


@dataclass(frozen=True)
class RFTConfig(MethodConfig):
    """Clone, explore, keep the distinct successes, and train again on them and the demonstrations."""

    iterations: int = 1
    """Rounds of exploring and training; each trains on the distinct successes of all rounds so far."""
    success_threshold: float | None = 1.0
    """A score from here on is a success; None: at least the expert's on the same task."""
    best_margin: float | None = field(default=None, metadata=LATER)
    """Of tasks without a success, imitate the best attempt where another is worse by this much at least (RAFT, Dong et
    al., 2023); None: imitate successes alone."""
    from_base: bool = True
    """Train again from the model as it was before cloning; off: go on from the policy."""
    rollout: RolloutConfig = field(default_factory=lambda: RolloutConfig(epsilon=0.0, branch_fraction=0.0))
    """The environment, and how training tasks are explored."""

    def __post_init__(self) -> None:
        at_least("iterations", self.iterations, 1)
        check_score("success_threshold", self.success_threshold)
        check_score("best_margin", self.best_margin)


def run_rft(config: RFTConfig, run: Run) -> Path | None:
    """π ← SFT(D), S ← ∅; repeat: S ← S ∪ successes of π, π ← SFT(D ∪ S)."""
    config = prepared(config)
    check_base(config)
    demonstrations = demonstrated(config, run)
    policy: Start = cloned(config, run, demonstrations)
    policies: dict[str, Start] = {"sft": policy}
    rounds: list[Path] = []
    for number in range(1, config.iterations + 1):
        here = run.iteration(number)
        episodes = explored(config, run, number, policy)
        kept = stages.keep_successes(
            run, here / "successes.jsonl", episodes, None, min_score=config.success_threshold, also=demonstrations,
            earlier=rounds, best_margin=config.best_margin,
        )  # fmt: skip
        rounds = [*rounds, episodes]
        begin = config.model if config.from_base else policy
        policy = stages.train_sft(run, here / "sft", kept, begin, config.sft, watching(config))
        policies[f"rft-{number}"] = policy
        measured(config, run, number, f"rft-{number}", policy)
    return concluded(config, run, policies)
