"""What methods share: one seed for all sections, and measuring a policy on several splits."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Protocol, TypeVar

from trainers import stages
from trainers.evaluation.evaluate import EvaluationConfig, greedy
from trainers.rollout import RolloutConfig
from trainers.runs import Run
from trainers.stages import ActingConfig, Start

C = TypeVar("C")


class Playing(Protocol):
    """The sections of a config that say how a policy plays and is measured."""

    @property
    def rollout(self) -> RolloutConfig: ...
    @property
    def acting(self) -> ActingConfig: ...
    @property
    def evaluation(self) -> EvaluationConfig: ...


def seeded(config: C) -> C:
    """The config with its own ``seed``, if it has one, in the place of every section's."""
    seed = getattr(config, "seed", None)
    if seed is None:
        return config
    changed: dict[str, Any] = {}
    for field in dataclasses.fields(config):  # type: ignore[arg-type]
        section = getattr(config, field.name)
        if dataclasses.is_dataclass(section) and any(inner.name == "seed" for inner in dataclasses.fields(section)):
            changed[field.name] = replace(section, seed=seed)  # type: ignore[type-var]
    return replace(config, **changed)  # type: ignore[type-var]


def evaluate_splits(
    run: Run, start: Start, label: str, config: Playing, splits: Sequence[str], max_tasks: int | None
) -> list[Path]:
    """Measure one policy greedily on splits; returns ``evaluation/<label>/<split>/metrics.json`` of each."""
    player, written = stages.model_player(start, label, config.acting), []
    for split in splits:
        played = greedy(config.rollout, split, max_tasks, optimal=config.evaluation.optimal_actions)
        out = run.path("evaluation", label, split.replace("/", "_"))
        written.append(stages.evaluate(run, out, player, played, label=label))
    return written


def checkpoint_of(policy: Start) -> Path | None:
    """The policy's checkpoint folder; None for a model that nothing was trained on."""
    return policy if isinstance(policy, Path) else None
