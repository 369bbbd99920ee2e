"""What looks at a policy have played, so that the same weights are not asked the same again.

A training whose policy was watched keeps, beside its checkpoint, the episodes of the look that chose its weights::

    out/looks/000040.jsonl     what the look after step 40 played
    out/looks/kept.json        of which weights, and what they were asked

Whoever asks these weights the same begins with those episodes: the evaluation after the training, and the first look of
a training that starts from them. What an evaluation of the run has played serves a first look likewise.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, fields, replace
from pathlib import Path
from typing import Any

from icto_gym.errors import ConfigError, DataError
from icto_gym.files import read_json, write_json
from icto_gym.store import TrajectoryStore
from icto_gym.trajectory import Trajectory
from trainers.config import from_mapping
from trainers.digests import digest
from trainers.evaluation.evaluate import chosen_manifest
from trainers.policies.players import ActingConfig, Player, Start, policy_digest
from trainers.records import write_records
from trainers.rollout import Job, RolloutConfig, trajectory_id

LOOKS, KEPT = "looks", "kept.json"


def asked_of(environment: RolloutConfig, acting: ActingConfig) -> str:
    """SHA-256 (hex) of what decides a greedy episode beside weights and task."""
    return digest([replace(environment, max_tasks=None), acting])


def look_file(out: Path, step: int) -> Path:
    """Where the look after ``step`` optimiser steps of the training in ``out`` keeps its episodes."""
    return out / LOOKS / f"{step:06d}.jsonl"


def keep_chosen(out: Path, asked: str) -> None:
    """Of a finished training in ``out`` keep the look that chose its weights, if there was one; the others go."""
    checkpoint = out / "checkpoint"
    chosen = look_file(out, int(read_json(checkpoint / "checkpoint.json").get("step", -1)))
    for path in out.glob(f"{LOOKS}/*.jsonl"):
        if path != chosen:
            path.unlink()
    if chosen.exists():
        record = {"episodes": chosen.name, "asked": asked, "weights": policy_digest(checkpoint)}
        write_json(chosen.with_name(KEPT), record)


def played_before(run: Path, start: Start, asked: str) -> list[Trajectory]:
    """Whole episodes that the weights of the checkpoint ``start`` have played, asked the same; none if unknown.

    Args:
        run: the run folder, whose trainings and evaluations count.
        start: whose weights; those of a model by its config are not looked for.
        asked: see `asked_of`.
    """
    if not isinstance(start, Path):
        return []
    weights = policy_digest(start)
    own = start.resolve().is_relative_to(run.resolve())  # what a stranger says that his weights have played is no play
    files = [_beside(start.parent / LOOKS, weights, asked) if own else None, *_evaluated(run, weights, asked)]
    found = {item.task_id: item for path in files if path is not None for item in TrajectoryStore(path)}
    return [item for item in found.values() if item.error is None]


def known_of(run: Path, player: Player, config: RolloutConfig) -> list[Trajectory]:
    """Of the greedy episodes that ``config`` asks of a player, those that are known, as it would have stored them."""
    if player.acting is None:
        return []
    known = played_before(run, player.source, asked_of(config, player.acting))
    tasks = {task.task_id for task in chosen_manifest(config)} if known else set()
    return [_of(item, player.name) for item in known if item.task_id in tasks]


def _of(item: Trajectory, policy: str) -> Trajectory:
    number = item.trajectory_id.rpartition("#")[2]
    return replace(item, policy=policy, trajectory_id=trajectory_id(Job(item.task_id, int(number), item.seed), policy))


def begin_with(known: Sequence[Trajectory], out: Path) -> None:
    """Add episodes to a file that lacks them."""
    before = list(TrajectoryStore(out)) if out.exists() else []
    there = {item.trajectory_id for item in before}
    if new := [item for item in known if item.trajectory_id not in there]:
        write_records(out, [*before, *new])


def _beside(looks: Path, weights: str | None, asked: str) -> Path | None:
    record = read_json(looks / KEPT) if (looks / KEPT).exists() else {}
    same = (record.get("weights"), record.get("asked")) == (weights, asked)
    return looks / Path(record["episodes"]).name if same else None


def _evaluated(run: Path, weights: str | None, asked: str) -> list[Path]:
    results = sorted(run.glob("evaluation/*/*/metrics.json"))
    return [path.with_name("trajectories.jsonl") for path in results if _is_of(read_json(path), weights, asked)]


def _is_of(result: dict[str, Any], weights: str | None, asked: str) -> bool:
    """Whether a result is of these weights, asked this once per task, greedily."""
    recipe, known = result.get("recipe") or {}, {field.name for field in fields(ActingConfig)}
    if weights is None or recipe.get("digest") != weights or result.get("decoding", {}).get("temperature") != 0.0:
        return False
    options = {name: value for name, value in (recipe.get("options") or {}).items() if name in known}
    try:
        environment = from_mapping(RolloutConfig, result["settings"], "settings")
        acting = from_mapping(ActingConfig, {**asdict(ActingConfig()), **options}, "options")
    except (ConfigError, DataError):  # of another version of this package
        return False
    return result.get("seeds") == [environment.seed] and asked_of(environment, acting) == asked
