"""Negative-aware training (NAT, Wang et al., 2024): imitate good and bad episodes, told apart by markers."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from trainers import stages
from trainers.config import at_least
from trainers.markers import MarkerConfig
from trainers.method_stages import mark
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
class NATConfig(MethodConfig):
    """Clone, explore, and train again on demonstrations and failures, each with the marker of its class.

    The checkpoint remembers the markers: whoever acts with it asks for the best class.
    """

    rollout: RolloutConfig = field(
        default_factory=lambda: RolloutConfig(
            attempts=1, epsilon=0.0, branch_fraction=0.0, temperature=0.7, greedy_first=False
        )
    )
    """The environment, and how failures are collected: one pass over the tasks, sampled."""
    markers: MarkerConfig = field(default_factory=MarkerConfig)
    """The classes and their markers."""
    positives: int | None = None
    """How many demonstrations are used, the first ones; None: all."""
    negatives_per_positive: float = 2.0
    """At most so many failures per demonstration, drawn without replacement."""
    draw_seed: int = 42
    """Draws the failures."""
    from_base: bool = True
    """Train from the model as it was before cloning, as published; off: go on from the clone."""

    def __post_init__(self) -> None:
        at_least("positives", self.positives, 1)
        at_least("negatives_per_positive", self.negatives_per_positive, 0)


def run_nat(config: NATConfig, run: Run) -> Path | None:
    """π ← SFT(D); π ← SFT(D marked as good, failures of π marked by class)."""
    config = prepared(config)
    check_base(config)
    demonstrations = demonstrated(config, run)
    clone: Start = cloned(config, run, demonstrations)
    episodes, here = explored(config, run, 1, clone), run.iteration(1)
    marked = mark(
        run, here / "marked.jsonl", demonstrations, episodes, config.markers,
        negatives_per_positive=config.negatives_per_positive, positives=config.positives, seed=config.draw_seed,
    )  # fmt: skip
    begin = config.model if config.from_base else clone
    policy = stages.train_sft(run, here / "sft", marked, begin, config.sft, watching(config), config.markers)
    measured(config, run, 1, "nat-1", policy)
    return concluded(config, run, {"sft": clone, "nat-1": policy})
