"""What methods share: one seed for all sections, and measuring a policy on several splits."""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Protocol, TypeVar

from icto_gym.tasks import shared_tasks
from trainers import stages
from trainers.evaluation.evaluate import EvaluationConfig, ProbeConfig, chosen_manifest, greedy
from trainers.rollout import RolloutConfig
from trainers.runs import Run
from trainers.sampling import list_tasks
from trainers.stages import ActingConfig, DemonstrationConfig, Start

logger = logging.getLogger(__name__)

C = TypeVar("C")


class Playing(Protocol):
    """The sections of a config that say how a policy plays and is measured."""

    @property
    def rollout(self) -> RolloutConfig: ...
    @property
    def acting(self) -> ActingConfig: ...
    @property
    def demonstrations(self) -> DemonstrationConfig: ...
    @property
    def probe(self) -> ProbeConfig: ...
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


def check_splits(config: Playing) -> None:
    """List the tasks of every split that will be played, so that a wrong name is found before training.

    Raises:
        InvalidTask: a split that does not exist or has no tasks.
    """
    trained = list_tasks(config.rollout)
    splits = [config.rollout.split, *config.evaluation.splits, *config.evaluation.final_splits]
    splits += [config.probe.split] if config.probe.tasks else []
    splits += [config.demonstrations.split] if config.demonstrations.file is None else []
    for split in dict.fromkeys(splits):
        tasks = chosen_manifest(replace(config.rollout, split=split, max_tasks=None))
        shared = shared_tasks(tasks, trained)
        if shared and split != config.rollout.split:
            logger.warning("%d tasks of %r stand in %r too", len(shared), split, config.rollout.split)


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
