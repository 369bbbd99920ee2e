"""Old episodes, new numbers: a result from recorded trajectories, without playing."""

from __future__ import annotations

import logging
from dataclasses import replace
from pathlib import Path

from icto_gym.errors import ConfigError, DataError
from icto_gym.store import TrajectoryStore
from trainers.evaluation.metrics import Scoring
from trainers.evaluation.provenance import prompt_digest
from trainers.evaluation.result import Result, check_one_kind, make_rows, numbers_of, read_result

logger = logging.getLogger(__name__)


def rescore(path: Path, scoring: Scoring, *, label: str | None = None) -> Result:
    """Score the episodes of a file anew.

    What the file cannot tell (the digest of the tasks, seeds, versions, how the policy is made) is taken over
    from a ``metrics.json`` beside it if that is about these very episodes; else it is left out, not guessed.

    Args:
        path: trajectories of one policy in one environment.
        scoring: how episodes become numbers.
        label: what the policy is called; None: as before, else its own name.

    Raises:
        DataError: the file mixes policies or environments, or cannot be read.
    """
    if not path.is_file():
        raise ConfigError(f"There is no file {path}.")
    trajectories = list(TrajectoryStore(path))
    check_one_kind(trajectories, str(path))
    rows = make_rows(trajectories, scoring)
    metrics, over_seeds = numbers_of(rows)
    first = trajectories[0]
    fresh = Result(
        label=label or first.policy, policy=first.policy, env_id=first.env_id, split=path.parent.name or path.stem,
        n_tasks=len({row.task_id for row in rows}), metrics=metrics, episodes=rows, over_seeds=over_seeds,
        scoring=scoring, prompt_digest=prompt_digest(trajectories),
    )  # fmt: skip
    before = _beside(path, fresh)
    if before is None:
        return fresh
    return replace(
        before, label=label or before.label, metrics=metrics, episodes=rows, over_seeds=over_seeds, scoring=scoring
    )


def _beside(path: Path, fresh: Result) -> Result | None:
    """The result beside the file, if it is of the same episodes."""
    try:
        found = read_result(path.with_name("metrics.json"))
    except (ConfigError, DataError):
        return None
    same = {(row.task_id, row.number, row.digest) for row in found.episodes} == {
        (row.task_id, row.number, row.digest) for row in fresh.episodes
    }
    if not same:
        logger.warning("%s is not about the episodes of %s, so nothing is taken from it", found.label, path)
    return found if same else None
