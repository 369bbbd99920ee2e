"""Is a repeated evaluation the same, and if not, where does it first differ?

Two episodes are the same if everything seen, written, done and paid is (`episode_digest`); equal means prove nothing.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from icto_gym.errors import ConfigError, DataError, IctoError
from icto_gym.store import TrajectoryStore
from icto_gym.trajectory import Trajectory
from trainers.config import from_mapping
from trainers.evaluation.evaluate import Decoding, chosen_manifest
from trainers.evaluation.provenance import differences
from trainers.evaluation.result import EpisodeRow, Result, episode_digest
from trainers.sampling import RolloutConfig, make_env, text_env

_CIRCUMSTANCES = ("prompt_digest", "decoding", "versions", "code")
_OURS = ("random", "expert")
_OUR_ENVIRONMENTS = re.compile(r"icto/[\w-]+|icto_gym(\.testing)?:[\w/-]+", re.ASCII)


@dataclass(frozen=True)
class Repeat:
    """What came of repeating an evaluation."""

    before: Result
    after: Result
    changed: tuple[str, ...]
    """One line per episode that came out otherwise, in order."""
    circumstances: tuple[str, ...]
    """One line per value that may explain it: versions, code, prompt."""

    @property
    def matches(self) -> bool:
        return not self.changed

    @property
    def words(self) -> str:
        """The outcome as text."""
        n, tasks = len(self.before.episodes), self.before.n_tasks
        if self.matches:
            lines = [f"It matches: all {n} episodes on {tasks} tasks are the same, step by step."]
        else:
            lines = [f"It does not match: {len(self.changed)} of {n} episodes on {tasks} tasks differ."]
            lines += ["First:", *(f"  {line}" for line in self.changed[:5])]
            lines += [f"  and {len(self.changed) - 5} more"] if len(self.changed) > 5 else []
        if self.circumstances:
            lines += ["Other circumstances:", *(f"  {line}" for line in self.circumstances)]
        return "\n".join(lines)


def compare_repeat(before: Result, after: Result, episodes_before: Path | None, episodes_after: Path) -> Repeat:
    """Hold a repeat against the result it repeats.

    Args:
        before: as it was.
        after: as it came out now.
        episodes_before: the trajectories of ``before`` where they are still there, to say at which step they part.
        episodes_after: those of ``after``.
    """
    old, new = _by_place(before.episodes), _by_place(after.episodes)
    wrong = [place for place in {**old, **new} if _digest(old.get(place)) != _digest(new.get(place))]
    played = _find(episodes_before, wrong, old), _find(episodes_after, wrong, new)
    changed = tuple(
        _describe(place, old.get(place), new.get(place), played[0].get(place), played[1].get(place), before)
        for place in wrong
    )
    then, now = ({name: getattr(result, name) for name in _CIRCUMSTANCES} for result in (before, after))
    return Repeat(before, after, changed, tuple(differences(then, now)))


_Place = tuple[str, int]


def _by_place(rows: Iterable[EpisodeRow]) -> dict[_Place, EpisodeRow]:
    return {(row.task_id, row.number): row for row in rows}


def _digest(row: EpisodeRow | None) -> str | None:
    return row.digest if row else None


def _find(path: Path | None, places: list[_Place], rows: dict[_Place, EpisodeRow]) -> dict[_Place, Trajectory]:
    """The trajectories of some episodes, of those that are what the result says; none where the file cannot be read."""
    if path is None or not places:
        return {}
    wanted = {rows[place].digest: place for place in places if place in rows}
    found: dict[_Place, Trajectory] = {}
    try:
        for trajectory in TrajectoryStore(path):
            place = wanted.get(episode_digest(trajectory))
            if place is not None:
                found[place] = trajectory
    except (IctoError, OSError):
        return {}
    return found


def _describe(
    place: _Place, old: EpisodeRow | None, new: EpisodeRow | None, before: Trajectory | None, after: Trajectory | None,
    result: Result,
) -> str:  # fmt: skip
    task_id, number = place
    seed = f" (seed {result.seeds[number]})" if result.seeds and number < len(result.seeds) else ""
    where = f"{task_id}{seed}: "
    if old is None or new is None:
        return where + ("was not played then" if old is None else "is not played now")
    if before is not None and after is not None:
        return where + _parting(before, after)
    changes = [
        f"{name.replace('_', ' ')} {old.values.get(name)!r} -> {new.values.get(name)!r}"
        for name in ("average_reward", "mean_actions")
        if old.values.get(name) != new.values.get(name)
    ]
    return where + (", ".join(changes) or "the same score and length, other words")


def _parting(before: Trajectory, after: Trajectory) -> str:
    """The first thing in which two episodes differ, in words."""
    for number, (one, other) in enumerate(zip(before.steps, after.steps, strict=False), start=1):
        for what in ("observation", "response", "action", "reward", "valid"):
            if getattr(one, what) != getattr(other, what):
                return f"step {number}, {what}: {getattr(one, what)!r:.100}, now {getattr(other, what)!r:.100}"
    if len(before.steps) != len(after.steps):
        return f"{len(before.steps)} steps, now {len(after.steps)}"
    for what in ("instruction", "final_observation", "score", "success", "terminated", "truncated", "error"):
        if getattr(before, what) != getattr(after, what):
            return f"{what}: {getattr(before, what)!r:.100}, now {getattr(after, what)!r:.100}"
    return "not the same, though every field is"


# ---- what a file may ask for
def read_settings(result: Result) -> tuple[RolloutConfig, Decoding]:
    """How a result was played.

    Raises:
        DataError: it does not say (its episodes were scored without playing), or not in a way that can be used; or it
            is a bound, which no policy's play comes to.
    """
    if "best_of" in result.decoding:
        raise DataError(
            f"The result is a bound, the best of {result.decoding['best_of']!r:.20} attempts at each task by the true "
            "reward, and no play of a policy, so it cannot be repeated by itself. Make it anew, icto run best_of_n "
            "--config <its run>/config.yaml --run <another folder>, and hold them side by side with icto compare."
        )
    if not result.settings or not result.recipe or result.seeds is None:
        raise DataError(
            "The result does not say how it was played (it was scored from a file), so it cannot be repeated."
        )
    try:
        config = from_mapping(RolloutConfig, result.settings, "settings")
        return config, Decoding(float(result.decoding.get("temperature", 0.0)), tuple(result.seeds))
    except (ConfigError, TypeError, ValueError) as error:
        raise DataError(f"The result's settings cannot be used: {error}") from error


def needs_trust(result: Result, config: RolloutConfig, *, own_policy: bool) -> list[str]:
    """What repeating this file would run or call because the file says so: nothing a stranger may decide.

    Args:
        result: the file.
        config: its settings.
        own_policy: the user named the policy, so the file's does not count.
    """
    found = []
    spec = result.recipe.get("spec")
    is_data = spec in _OURS or (isinstance(spec, str) and spec.startswith("hf:")) or result.recipe.get("model")
    if not own_policy and not is_data:
        found.append(f"the policy {spec!r:.80} with options {result.recipe.get('options')!r:.120}")
    if not _OUR_ENVIRONMENTS.fullmatch(config.env_id):
        found.append(f"the environment {config.env_id!r:.80}")
        return found
    env = make_env(RolloutConfig(env_id=config.env_id))
    try:
        programs = [name for name in text_env(env).program_arguments if config.env_kwargs.get(name) is not None]
    finally:
        env.close()
    return found + [f"the program {name}={config.env_kwargs[name]!r:.80}" for name in programs]


def check_tasks(result: Result, config: RolloutConfig) -> None:
    """Refuse a repeat on other tasks before anything is played.

    Raises:
        DataError: the split is not what it was.
    """
    manifest = chosen_manifest(config)
    if manifest.digest == result.manifest_digest:
        return
    ids = {task.task_id for task in manifest}
    lost, new = sorted(result.task_ids - ids), sorted(ids - result.task_ids)
    kind = f"{len(lost)} are gone and {len(new)} are new" if lost or new else "the same ids, with other contents"
    raise DataError(
        f"It does not match: the tasks of {config.split!r} are not those that were played ({kind}; digest "
        f"{str(result.manifest_digest)[:12]}, now {manifest.digest[:12]}). Use the data and version of then."
    )


def check_weights(recipe: dict[str, Any], now: str | None) -> None:
    """Refuse a repeat with other weights before anything is played.

    Raises:
        DataError: showing both digests.
    """
    then = recipe.get("digest")
    if then is not None and then != now:
        raise DataError(
            f"It does not match: the weights of {recipe.get('spec') or 'the model'} are not those that were measured "
            f"(digest {str(then)[:12]}, now {str(now)[:12]}). If they lie elsewhere, name them: "
            "icto evaluate hf:<folder> --repeat <result>."
        )
