"""Whose probabilities of each action the report shows, and where they are kept.

A policy is named by the folder it was trained in, such as ``sft`` or ``iteration-01/dpo``; ``base`` is the model
before any training. ``icto report --likelihoods`` has the start and the result of a training rate the episodes that
the report sets side by side, and keeps what they said in ``likelihoods/`` of the run folder.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from icto_gym.errors import IctoError
from icto_gym.files import read_json
from icto_gym.trajectory import Trajectory
from trainers.digests import digest
from trainers.report.data import Iteration, RunData, display_name

BASE = "base"


def trained_as(run: RunData, label: str) -> str | None:
    """The folder in which the policy of an evaluation was trained; None for one that is no model of this run."""
    if label == BASE:
        return BASE if isinstance(run.config.get("model"), dict) else None
    number = re.search(r"-(\d{1,9})$", label)
    names = [f"iteration-{int(number[1]):02d}/{kind}" for kind in ("dpo", "sft")] if number else [label]
    return next((name for name in names if _record(run, name)), None)


def before_and_after(run: RunData, iteration: Iteration) -> tuple[str, ...]:
    """The start and the result of an iteration's training, where both are there to be asked."""
    after = next((f"{iteration.folder.name}/{kind}" for kind in ("dpo", "sft") if _has(run, iteration, kind)), None)
    start = _record(run, after).get("start") if after else None
    if after is None or not isinstance(start, dict):
        return ()
    wanted = start.get("weights")
    if wanted is None:
        return (BASE, after)
    earlier = [path.parent.relative_to(run.folder).as_posix() for path in run.folder.glob("**/checkpoint")]
    before = next((name for name in sorted(earlier) if _record(run, name).get("weights_digest") == wanted), None)
    return (before, after) if before else ()


def rater_name(run: RunData, rater: str) -> str:
    """How a rater is called: ``iteration-01/dpo`` -> ``ICTO 1``."""
    number = re.match(r"iteration-(\d+)", rater)
    return display_name(f"{run.config.get('method', 'icto')}-{int(number[1])}" if number else rater)


def weights_digest(run: RunData, rater: str) -> str | None:
    """Digest of a rater's weights (of the model's settings for ``base``); None if its checkpoint is gone."""
    if rater == BASE:
        return digest(run.config.get("model"))
    found = _record(run, rater).get("weights_digest")
    return found if isinstance(found, str) else None


def checkpoint_of(run: RunData, rater: str) -> Path:
    """The rater's checkpoint folder."""
    return run.folder / rater / "checkpoint"


def likelihood_file(folder: Path, rater: str) -> Path:
    """Where a rater's answers are kept."""
    return folder / "likelihoods" / f"{rater.replace('/', '.')}.jsonl"


def known(run: RunData, trajectory: Trajectory, rater: str) -> tuple[float, ...]:
    """Log-probability of each command, as the rater said; empty where it was not asked or is another one now."""
    found = run.likelihoods.get(trajectory.trajectory_id, {}).get(rater)
    if found is None or len(found.commands) > len(trajectory.steps):
        return ()
    current = weights_digest(run, rater)
    fresh = current in (None, found.weights) and found.content == digest(trajectory.to_json())
    return found.commands if fresh else ()


def _has(run: RunData, iteration: Iteration, kind: str) -> bool:
    return bool(_record(run, f"{iteration.folder.name}/{kind}"))


def _record(run: RunData, rater: str) -> dict[str, Any]:
    try:
        found = read_json(run.folder / rater / "checkpoint" / "checkpoint.json")
    except (OSError, IctoError):
        return {}
    return found if isinstance(found, dict) else {}
