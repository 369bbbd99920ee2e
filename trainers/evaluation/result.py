"""A result file: the numbers, every episode's values, and all that is needed to play it again.

``metrics.json`` names no machine, folder or hour of its own making, so the same evaluation gives the same bytes.
"""

from __future__ import annotations

import json
import math
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from icto_gym.errors import ConfigError, DataError
from icto_gym.files import read_json
from icto_gym.tasks import content_digest
from icto_gym.trajectory import Trajectory
from trainers.config import from_mapping
from trainers.evaluation.intervals import Estimate, deviation
from trainers.evaluation.metrics import (
    METRICS,
    Scoring,
    estimate_metric,
    metrics_from_json,
    metrics_to_json,
    task_means,
    values_of,
)

FORMAT_VERSION = 2
"""1 (which the file did not say) had no episodes, so it can be read for its numbers only."""


@dataclass(frozen=True)
class EpisodeRow:
    """One episode as a result keeps it."""

    task_id: str
    number: int
    """Which of the task's episodes: the place of its seed in `Result.seeds`."""
    digest: str
    """Of everything that happened, see `episode_digest`."""
    values: dict[str, Any] = field(default_factory=dict)
    """Its metrics, where known."""
    broken: bool = False


@dataclass(frozen=True)
class Result:
    """What stands in ``metrics.json``."""

    label: str
    policy: str
    env_id: str
    split: str
    n_tasks: int
    metrics: dict[str, Any]
    episodes: tuple[EpisodeRow, ...]
    env_kwargs: dict[str, Any] = field(default_factory=dict)
    manifest_digest: str | None = None
    """SHA-256 over ids and contents of the tasks; None: scored from a file that does not tell."""
    seeds: tuple[int, ...] | None = None
    """Each task was played once with each; None: scored from a file that does not tell."""
    over_seeds: dict[str, Any] = field(default_factory=dict)
    """By metric: the value of each seed, their mean and sample deviation."""
    decoding: dict[str, Any] = field(default_factory=dict)
    scoring: Scoring = field(default_factory=Scoring)
    settings: dict[str, Any] = field(default_factory=dict)
    """The environment and how it was played, as a `RolloutConfig`."""
    recipe: dict[str, Any] = field(default_factory=dict)
    """How the policy is made again: its description, options, model, and digest."""
    prompt_digest: str | None = None
    versions: dict[str, Any] = field(default_factory=dict)
    code: dict[str, Any] = field(default_factory=dict)
    format_version: int = FORMAT_VERSION

    @property
    def estimates(self) -> dict[str, Estimate]:
        """The metrics with their intervals."""
        return metrics_from_json(self.metrics)

    def means(self, metric: str) -> dict[str, float]:
        """One metric by task, mean over its episodes."""
        return task_means((row.task_id, row.values[metric]) for row in self.episodes if metric in row.values)

    @property
    def task_ids(self) -> set[str]:
        return {row.task_id for row in self.episodes}

    def to_json(self) -> dict[str, Any]:
        """JSON values."""
        return asdict(self)

    def summary(self) -> dict[str, Any]:
        """The same without the rows of single episodes."""
        return {**{name: value for name, value in self.to_json().items() if name != "episodes"}, "broken": self.broken}

    @property
    def broken(self) -> int:
        """How many episodes broke; they count with the score they had reached."""
        return sum(row.broken for row in self.episodes)


def episode_digest(trajectory: Trajectory) -> str:
    """SHA-256 (hex) of what was seen, written, done and paid, and how it ended; not of who played it or when."""
    steps = [[step.observation, step.response, step.action, step.reward, step.valid] for step in trajectory.steps]
    ending = [trajectory.score, trajectory.success, trajectory.terminated, trajectory.truncated]
    broken = trajectory.error is not None  # its words may name a process or port
    parts = [trajectory.instruction, steps, trajectory.final_observation, ending, broken]
    return content_digest(trajectory.task_id, json.dumps(parts))


def make_rows(trajectories: Iterable[Trajectory], scoring: Scoring) -> tuple[EpisodeRow, ...]:
    """Every episode's row, in order; the number is that of the trajectory's id, else episodes of a task are counted."""
    rows: list[EpisodeRow] = []
    seen: dict[str, int] = {}
    for item in trajectories:
        last = item.trajectory_id.rpartition("#")[2]
        number = int(last) if last.isascii() and last.isdecimal() and len(last) < 10 else seen.get(item.task_id, 0)
        seen[item.task_id] = number + 1
        values = values_of(item, scoring)
        rows.append(EpisodeRow(item.task_id, number, episode_digest(item), values, item.error is not None))
    return tuple(rows)


def numbers_of(rows: Sequence[EpisodeRow], *, seed: int = 0) -> tuple[dict[str, Any], dict[str, Any]]:
    """Metrics with intervals over tasks, and the same over seeds (empty for one episode per task)."""
    metrics, over_seeds = {}, {}
    for metric in METRICS:
        values = [(row.task_id, row.values[metric]) for row in rows if metric in row.values]
        found = estimate_metric(metric, values, seed=seed)
        if found is not None:
            metrics[metric] = found
            by_seed = _by_seed(rows, metric)
            if len(by_seed) > 1:
                mean = math.fsum(by_seed) / len(by_seed)
                over_seeds[metric] = {"values": by_seed, "mean": mean, "deviation": deviation(by_seed)}
    return metrics_to_json(metrics), over_seeds


def _by_seed(rows: Sequence[EpisodeRow], metric: str) -> list[float]:
    """The metric's mean over tasks for each seed, in order; none where the tasks were not all played with the same."""
    numbers = defaultdict[str, set[int]](set)
    for row in rows:
        numbers[row.task_id].add(row.number)
    if len({frozenset(found) for found in numbers.values()}) > 1:
        return []
    found: dict[int, list[float]] = {}
    for row in rows:
        if metric in row.values:
            found.setdefault(row.number, []).append(row.values[metric])
    return [math.fsum(found[number]) / len(found[number]) for number in sorted(found)]


def check_one_kind(trajectories: Sequence[Trajectory], source: str) -> None:
    """An average over several environments or policies means nothing.

    Raises:
        DataError: naming them.
    """
    if not trajectories:
        raise DataError(f"{source} holds no trajectories, so there is nothing to score.")
    for what in ("env_id", "policy"):
        found = sorted({getattr(item, what) for item in trajectories})
        if len(found) > 1:
            kind = "environments" if what == "env_id" else "policies"
            raise DataError(f"{source} mixes {kind}: {', '.join(map(repr, found[:5]))}. Give each a file of its own.")
    ids = [item.trajectory_id for item in trajectories]
    if len(set(ids)) < len(ids):
        twice = next(name for name in ids if ids.count(name) > 1)
        raise DataError(f"{source} holds {twice!r} more than once. Remove the copies.")


def read_result(path: Path) -> Result:
    """Read a result file, or the ``metrics.json`` of a folder, and check it field by field.

    Raises:
        DataError: naming the file and what in it cannot be used.
    """
    path = path / "metrics.json" if path.is_dir() else path
    if not path.exists():
        raise ConfigError(f"There is no result file {path}.")
    record = read_json(path)
    if not isinstance(record, dict):
        raise DataError(f"{path}: a result is an object; found {type(record).__name__}.")
    version = record.get("format_version", 1)
    if version != FORMAT_VERSION:
        raise DataError(
            f"{path} has format_version {version!r:.20}; this version reads {FORMAT_VERSION}. Score its episodes anew "
            "without playing: icto evaluate --from <folder>/trajectories.jsonl --out <another folder>."
        )
    try:
        result = from_mapping(Result, record, str(path))
        _check(result)
    except (ConfigError, DataError) as error:
        raise DataError(str(error) if str(path) in str(error) else f"{path}: {error}") from error
    return result


def _check(result: Result) -> None:
    metrics_from_json(result.metrics)
    places = [(row.task_id, row.number) for row in result.episodes]
    if not places or len(set(places)) < len(places):
        raise DataError("it holds no episodes." if not places else "it holds an episode twice.")
    for row in result.episodes:
        for name, value in row.values.items():
            number = isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)
            if name not in METRICS or not number:
                raise DataError(f"{name} of {row.task_id!r} is {value!r:.60}, no finite number of a known metric.")
    if result.seeds is not None and {number for _, number in places} - set(range(len(result.seeds))):
        raise DataError(f"it has {len(result.seeds)} seeds and an episode numbered {max(n for _, n in places)}.")
