"""A policy played on a split: every episode kept, and the numbers with their intervals."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from icto_gym.errors import ConfigError, InvalidTask, check_name
from icto_gym.files import write_json
from icto_gym.store import TrajectoryStore
from icto_gym.tasks import Manifest, Task
from icto_gym.trajectory import Trajectory
from trainers.config import at_least, to_mapping
from trainers.diagnostics import tokens_of
from trainers.evaluation.failures import count_causes
from trainers.evaluation.metrics import HIGHER_IS_BETTER, Scoring
from trainers.evaluation.provenance import code_version, environment_facts, package_versions, prompt_digest
from trainers.evaluation.result import Result, make_rows, numbers_of
from trainers.policies.base import Policy, derive_seed
from trainers.records import write_records
from trainers.rollout import Job, RolloutConfig, plan_jobs, play_in_order, rollout
from trainers.sampling import choose_tasks, list_tasks, without_replicas

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class EvaluationConfig:
    """What is measured, and when."""

    splits: tuple[str, ...] = ("dev",)
    """Splits that every iteration's policy plays."""
    final_splits: tuple[str, ...] = ("test",)
    """Splits that only the start, the cloned and the last policy play: asked once, after everything is chosen."""
    max_tasks: int | None = None
    """At most so many tasks of each split, the same ones every time; None: all."""
    final_max_tasks: int | None = None
    """The same for the final splits."""
    base: bool = True
    """Measure the model before any training too, on the final splits; not beside `start`, whose own run did."""
    optimal_actions: bool = False
    """Ask the environment at every step which actions are optimal (slower; for optimal_action_rate)."""
    choose: Literal["last", "best"] = "last"
    """Which policy of a run plays the final splits: the last, or the best on the first of `splits` (of equals the
    latest; the clone takes part, so a method that only harms returns its start)."""
    choose_by: str = "success_rate"
    """The number that decides which is best."""

    def __post_init__(self) -> None:
        check_name(self.choose, ("last", "best"), "evaluation.choose")
        check_name(self.choose_by, HIGHER_IS_BETTER, "evaluation.choose_by")
        at_least("evaluation.max_tasks", self.max_tasks, 1)
        at_least("evaluation.final_max_tasks", self.final_max_tasks, 1)
        if self.choose == "best" and self.choose_by == "optimal_action_rate" and not self.optimal_actions:
            raise ConfigError("evaluation.choose_by optimal_action_rate needs evaluation.optimal_actions true.")
        if self.choose == "best" and not self.splits:
            raise ConfigError("evaluation.choose is 'best', but no split in evaluation.splits says which one that is.")


@dataclass(frozen=True)
class ProbeConfig:
    """How a policy is watched while it is being trained."""

    split: str = "dev"
    """Where it plays; never a split that results are reported on."""
    tasks: int = 16
    """How many tasks it plays greedily at each look; 0: it is not watched."""

    def __post_init__(self) -> None:
        if self.tasks < 0:
            raise ConfigError(f"probe.tasks is {self.tasks!r}; give a number of tasks, 0 for none.")


def greedy(config: RolloutConfig, split: str, max_tasks: int | None = None, *, optimal: bool = False) -> RolloutConfig:
    """The same environment, played once per task and without exploration."""
    return replace(
        config, split=split, max_tasks=max_tasks, attempts=1, greedy_first=True, temperature=0.0, epsilon=0.0,
        branch_fraction=0.0, optimal_actions=optimal,
    )  # fmt: skip


def chosen_manifest(config: RolloutConfig) -> Manifest:
    """The tasks that a configuration plays; its digest is cited beside results.

    Raises:
        InvalidTask: there are none.
    """
    tasks = list_tasks(config)
    if not len(tasks):
        raise InvalidTask(f"The split {config.split!r} of {config.env_id} has no tasks.")
    kept = set(choose_tasks(tasks, config.max_tasks))
    return Manifest(config.env_id, config.split, [task for task in tasks if task.task_id in kept])


@dataclass(frozen=True)
class Decoding:
    """How an evaluation draws responses, and how often."""

    temperature: float = 0.0
    """0: the likeliest response at every step; above: sampled."""
    seeds: tuple[int, ...] = ()
    """Every task is played once with each; empty: with the configuration's seed alone."""

    def __post_init__(self) -> None:
        if not 0.0 <= self.temperature <= 100.0:
            raise ConfigError(f"temperature is {self.temperature!r}; give a number from 0 to 100.")
        if len(set(self.seeds)) < len(self.seeds):
            raise ConfigError(f"seeds are {self.seeds!r}; give each once, since equal seeds play equal episodes.")

    def jobs(self, config: RolloutConfig, tasks: Iterable[Task]) -> list[Job]:
        """One episode per task and seed. With a seed an episode is the same whatever other seeds stand beside it."""
        return [
            Job(task.task_id, number, derive_seed(seed, task.task_id, 0), self.temperature)
            for task in tasks
            for number, seed in enumerate(self.seeds or (config.seed,))
        ]


def evaluate_policy(
    load: Callable[[], Policy],
    config: RolloutConfig,
    out: Path,
    *,
    label: str,
    decode: Decoding | None = None,
    scoring: Scoring | None = None,
    recipe: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """Play every task, once per seed, and write ``trajectories.jsonl`` and ``metrics.json`` into ``out``.

    Episodes that ``out`` already holds are not played again.

    Args:
        load: gives who acts; called once it is clear what is to be played.
        config: environment, split and tasks; exploration settings are ignored.
        out: the folder.
        label: what the policy is called in tables.
        decode: temperature and seeds; default: greedily, once.
        scoring: how episodes become numbers.
        recipe: how the policy is made again, for the record.

    Returns:
        What stands in ``metrics.json``.
    """
    decode, scoring = decode or Decoding(), scoring or Scoring()
    config = greedy(config, config.split, config.max_tasks, optimal=config.optimal_actions)
    manifest, policy = chosen_manifest(config), load()
    jobs = decode.jobs(config, manifest)
    played = play_all(policy, config, manifest, out / "trajectories.jsonl", jobs=jobs)
    rows = make_rows(played, scoring)
    metrics, over_seeds = numbers_of(rows)
    result = Result(
        label=label, metrics=metrics, episodes=rows, seeds=decode.seeds or (config.seed,), over_seeds=over_seeds,
        decoding=decoding(policy, config, decode.temperature), scoring=scoring, recipe=dict(recipe or {}),
        **circumstances(policy, config, manifest, played),
    ).to_json()  # fmt: skip
    write_json(out / "metrics.json", result)
    return result


def circumstances(
    policy: Policy, config: RolloutConfig, manifest: Manifest, played: Iterable[Trajectory]
) -> dict[str, Any]:
    """The fields of a `Result` that say who played what and with which settings, prompt, packages and code."""
    environment = environment_facts(config)
    return {
        "policy": policy.name, "env_id": config.env_id, "env_kwargs": dict(config.env_kwargs), "split": config.split,
        "manifest_digest": manifest.digest, "n_tasks": len(manifest), "settings": to_mapping(config),
        "prompt_digest": prompt_digest(played, environment["example"]),
        "versions": {**environment["versions"], **package_versions(policy)}, "code": code_version(),
    }  # fmt: skip


def play_all(
    policy: Policy, config: RolloutConfig, manifest: Manifest, out: Path, *, jobs: Sequence[Job] | None = None
) -> list[Trajectory]:
    """Play every planned episode that ``out`` does not hold; see `play_in_order`."""
    return play_in_order(policy, config, plan_jobs(config, manifest) if jobs is None else jobs, out)


def decoding(policy: Policy, config: RolloutConfig, temperature: float = 0.0) -> dict[str, Any]:
    """How responses were produced: what must be equal for two results to be compared."""
    dtype = getattr(policy, "dtype", None)
    return {
        **({"dtype": dtype} if isinstance(dtype, str) else {}),
        "temperature": temperature,
        "max_new_tokens": getattr(policy, "max_new_tokens", None),
        "window": config.window,
        "brief": config.brief,
        "example": config.example,
        "max_episode_steps": config.max_episode_steps,
    }


class MemoryStore(TrajectoryStore):
    """A store that keeps its trajectories in memory: probes are looked at and forgotten."""

    def __init__(self) -> None:
        super().__init__("memory")
        self.kept: list[Trajectory] = []

    def append(self, trajectory: Trajectory) -> None:
        self.kept.append(trajectory)

    def __iter__(self) -> Iterator[Trajectory]:
        return iter(self.kept)


def make_probe(
    config: RolloutConfig,
    probe: ProbeConfig,
    playing: Callable[[Any, Any], AbstractContextManager[Policy]],
    *,
    known: Sequence[Trajectory] = (),
    keep: Callable[[int], Path] | None = None,
) -> Callable[[int, Any, Any], dict[str, float]] | None:
    """A function for trainers: ``probe(step, model, tokenizer)`` plays a few tasks with the live model.

    Args:
        config: the environment.
        probe: which tasks and how many.
        playing: puts a policy around a model and its tokenizer, for the time of a ``with`` block.
        known: what the weights before the first step (step 0) have played; those tasks are not played again.
        keep: in which file the episodes of a step are kept; None: they are looked at and forgotten.

    Returns:
        None where the policy is not to be watched.
    """
    if probe.tasks == 0:
        return None
    played = greedy(config, probe.split, probe.tasks)
    played = replace(played, workers=without_replicas(played.workers))  # the live model is here alone
    jobs = plan_jobs(played)
    planned = {job.task_id: place for place, job in enumerate(jobs)}
    before = [item for item in known if item.task_id in planned]

    def look(step: int, model: Any, tokenizer: Any) -> dict[str, float]:
        there, store = [] if step else before, MemoryStore()
        left = [job for job in jobs if job.task_id not in {item.task_id for item in there}]
        if left:
            with playing(model, tokenizer) as policy:
                rollout(policy, played, left, store, progress=False)
        episodes = sorted([*there, *store.kept], key=lambda item: planned[item.task_id])
        if keep:
            write_records(keep(step), episodes)
        numbers = probe_numbers(episodes)
        logger.info("step %d: %s", step, ", ".join(f"{name} {value:.3f}" for name, value in numbers.items()))
        return {**numbers, **{f"{COST}{name}": float(count) for name, count in tokens_of(store.kept).items()}}

    return look


PROBE_METRICS = ("dev/success_rate", "dev/average_reward")
"""What a probe always measures and more of is better, so that weights may be chosen by it."""


COST = "cost/"
"""Before the names of what a probe cost, among what it measured."""


def probe_numbers(trajectories: list[Trajectory]) -> dict[str, float]:
    """Success rate, average reward and share of invalid actions of a few episodes, and the share of each failure."""
    steps, episodes = [step for trajectory in trajectories for step in trajectory.steps], max(len(trajectories), 1)
    causes = count_causes(trajectories)
    return {
        "dev/success_rate": sum(trajectory.success for trajectory in trajectories) / episodes,
        "dev/average_reward": sum(trajectory.score for trajectory in trajectories) / episodes,
        "dev/invalid_action_share": sum(not step.valid for step in steps) / max(len(steps), 1),
        **{f"failures/{cause}": count / episodes for cause, count in causes.items() if cause != "success"},
    }
