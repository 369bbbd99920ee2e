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
from trainers.evaluation.evaluate import chosen_manifest, greedy
from trainers.evaluation.result import FORMAT_VERSION
from trainers.models.loading import CHECKPOINT_FILE
from trainers.policies.players import ActingConfig, Player, Start, policy_digest
from trainers.records import write_records
from trainers.rollout import Job, RolloutConfig, trajectory_id
from trainers.runs import Run

LOOKS, KEPT = "looks", "kept.json"


def asked_of(environment: RolloutConfig, acting: ActingConfig) -> str:
    """SHA-256 (hex) of what decides a greedy episode in ``environment`` beside weights and task."""
    return digest([greedy(environment, environment.split, optimal=environment.optimal_actions), acting])


def look_file(out: Path, step: int) -> Path:
    """Where the look after ``step`` optimiser steps of the training in ``out`` keeps its episodes."""
    return out / LOOKS / f"{step:06d}.jsonl"


def keep_chosen(out: Path, asked: str) -> None:
    """Of a finished training in ``out`` keep the look that chose its weights, if there was one; the others go."""
    checkpoint = out / "checkpoint"
    chosen = _chosen(checkpoint)
    for path in out.glob(f"{LOOKS}/*.jsonl"):
        if path != chosen:
            path.unlink()
    if chosen.exists():
        write_json(chosen.with_name(KEPT), {"asked": asked, "weights": weights_of(checkpoint)})


def _chosen(checkpoint: Path) -> Path:
    return look_file(checkpoint.parent, int(_record(checkpoint).get("step", 0)))


def _record(checkpoint: Path) -> dict[str, Any]:
    path = checkpoint / CHECKPOINT_FILE
    return dict(read_json(path)) if path.exists() else {}


def played_before(run: Run, start: Start, asked: str) -> list[Trajectory]:
    """Whole episodes that the weights of the checkpoint ``start`` have played, asked the same; none if unknown.

    Args:
        run: whose trainings and finished evaluations count.
        start: whose weights; those of a model by its config are not looked for.
        asked: see `asked_of`.
    """
    if not isinstance(start, Path):
        return []
    # what a stranger's folder says that his weights have played is no play
    own = start.resolve().is_relative_to(run.folder.resolve())
    files = [_beside(start, asked) if own else None, *_evaluated(run, start, asked)]
    found = {item.task_id: item for path in files if path is not None for item in TrajectoryStore(path)}
    return [item for item in found.values() if item.error is None]


def known_of(run: Run, player: Player, config: RolloutConfig) -> list[Trajectory]:
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


def weights_of(checkpoint: Path) -> str:
    """SHA-256 (hex) of what a checkpoint folder does: all of it but the story of its training, so that weights which a
    training gave back as they were are the same."""
    told = _record(checkpoint)
    files = {path.relative_to(checkpoint).as_posix(): path for path in checkpoint.rglob("*") if path.is_file()}
    files.pop(CHECKPOINT_FILE, None)
    return digest([{name: told.get(name) for name in ("kind", "model", "base_digest", "markers")}, files])


def _beside(start: Path, asked: str) -> Path | None:
    chosen = _chosen(start)
    kept = chosen.with_name(KEPT)
    same = kept.exists() and read_json(kept) == {"asked": asked, "weights": weights_of(start)}
    return chosen if same else None


def _evaluated(run: Run, start: Path, asked: str) -> list[Path]:
    """Episodes of the run's finished evaluations of these weights that were asked this, once per task, greedily."""
    folders = sorted(path.parent for path in run.path().glob("evaluation/*/*/metrics.json"))
    results = {path: read_json(path / "metrics.json") for path in folders if run.is_complete(run.name_of(path))}
    return [
        folder / "trajectories.jsonl"
        for folder, result in results.items()
        if _asked_this(result, asked) and _is_of(folder, result["recipe"], start)
    ]


def _is_of(folder: Path, recipe: dict[str, Any], start: Path) -> bool:
    """Whether a result in ``folder`` is of the checkpoint ``start``, or of another one with its weights."""
    if recipe.get("digest") == policy_digest(start):
        return True
    kind, _, place = str(recipe.get("spec")).partition(":")
    other = folder / place
    if kind != "hf" or not place or not other.is_dir() or policy_digest(other) != recipe.get("digest"):
        return False
    return weights_of(other) == weights_of(start)


def _asked_this(result: dict[str, Any], asked: str) -> bool:
    if result.get("format_version") != FORMAT_VERSION:  # such a result does not say what was asked
        return False
    known = {field.name for field in fields(ActingConfig)}
    options = {name: value for name, value in (result["recipe"].get("options") or {}).items() if name in known}
    try:
        environment = from_mapping(RolloutConfig, result["settings"], "settings")
        acting = from_mapping(ActingConfig, {**asdict(ActingConfig()), **options}, "options")
    except (ConfigError, DataError):  # of another version of this package
        return False
    once = result["seeds"] == [environment.seed] and result["decoding"].get("temperature") == 0.0
    return once and asked_of(environment, acting) == asked
