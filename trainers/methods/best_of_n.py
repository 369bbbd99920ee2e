"""Best of N: the clone tries every task N times and its best attempt counts.

An upper bound and no agent: it picks by the true reward of tasks that are being tested.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

from icto_gym.errors import ConfigError
from trainers import stages
from trainers.diagnostics import budget
from trainers.method_stages import best_of
from trainers.methods.common import MethodConfig, cloned, demonstrated, prepared
from trainers.runs import Run


@dataclass(frozen=True)
class BestOfNConfig(MethodConfig):
    """Clone, then take the best of several attempts at each task by its true reward: an upper bound."""

    samples: int = 10
    """N, attempts at each task."""
    temperature: float = 0.7
    """Sampling temperature of all attempts."""

    def __post_init__(self) -> None:
        if self.samples < 1 or self.temperature <= 0:
            raise ConfigError(f"best_of_n wants samples >= 1 and a temperature above 0; got {self.samples!r} and "
                              f"{self.temperature!r}.")  # fmt: skip


def run_best_of_n(config: BestOfNConfig, run: Run) -> Path | None:
    """π ← SFT(D); on each final task N samples of π, of which the best is kept."""
    config = prepared(config)
    clone = cloned(config, run, demonstrated(config, run))
    for split in config.evaluation.final_splits:
        bound(config, run, clone, split, config.evaluation.final_max_tasks)
    stages.note(run.path("budget.json"), budget(run))
    return clone


def bound(config: BestOfNConfig, run: Run, clone: Path, split: str, max_tasks: int | None) -> Path:
    """The best of N samples on the tasks of one split; returns its metrics.json."""
    label = f"best-of-{config.samples}"
    played = replace(
        config.rollout, split=split, max_tasks=max_tasks, attempts=config.samples, temperature=config.temperature,
        greedy_first=False, epsilon=0.0, branch_fraction=0.0,
    )  # fmt: skip
    out = run.path("evaluation", label, split.replace("/", "_"))
    return best_of(run, out, stages.model_player(clone, label, config.acting), played, label=label)
