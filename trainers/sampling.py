"""What is played: how often each task, how greedily, and from where."""

from __future__ import annotations

import hashlib
import importlib
import random
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import gymnasium as gym
from gymnasium.envs.registration import load_env_creator

from icto_gym.core import TextEnv
from icto_gym.errors import ConfigError, check_name
from icto_gym.tasks import Manifest, Task
from trainers.config import MACHINE
from trainers.policies.base import derive_seed


@dataclass(frozen=True)
class RolloutConfig:
    """Which tasks are played, how often, and how far the play explores."""

    env_id: str = "icto/WebShop-v0"
    """Gymnasium id of the environment."""
    env_kwargs: dict[str, Any] = field(default_factory=dict)
    """Keyword arguments for making it, such as the folder of its data."""
    split: str = "train"
    """Split, named list, or path of a JSON list of tasks."""
    max_tasks: int | None = None
    """Play at most so many tasks of the split: a fixed draw that grows with the number; None: all."""
    attempts: int = 4
    """Episodes per task."""
    greedy_first: bool = True
    """The first attempt at a task takes the likeliest response at every step and explores nothing."""
    temperature: float = 0.7
    """Sampling temperature of the other attempts; 0 makes them greedy too."""
    epsilon: float = 0.1
    """Chance, per step of the other attempts, that a uniformly drawn admissible command replaces the policy's."""
    branch_fraction: float = 0.25
    """Share of the other attempts that start from a random prefix of the expert's path, where there is one."""
    batch_size: int = field(default=32, metadata=MACHINE)
    """Episodes in flight at once; results do not depend on it."""
    seed: int = 0
    """Every random draw derives from it, the task and the attempt."""
    window: int | None = None
    """How many of the latest observations the conversation keeps in full; None: all."""
    brief: bool = False
    """Observations leave out what the agent has just read: the goal, and a page that has not changed."""
    example: bool = False
    """Show the environment's worked example in every conversation."""
    max_episode_steps: int | None = None
    """Step limit; None: the environment's published one."""
    optimal_actions: bool = False
    """Note at every step whether the action begins a shortest way to success, where the environment knows."""
    workers: str | None = field(default=None, metadata=MACHINE)
    """Where environments run: none (in this thread), threads:N, processes:N or ray:N; results do not depend on it.
    Left out: in threads where they wait for another process (a Java machine, a browser), else in this thread.
    ray:N,replicas: each of N Ray actors also holds a copy of the policy and plays whole episodes. What an actor takes
    of its machine: ray:N,replicas,cpus=2,gpus=0.5 (default: one processor, no graphics card)."""
    step_timeout: float = field(default=600.0, metadata=MACHINE)
    """Seconds after which a step in a process or Ray worker counts as hanging; the worker is replaced."""

    def __post_init__(self) -> None:
        parse_workers(self.workers)
        for name, low, high in _RANGES:
            value = getattr(self, name)
            if value is not None and not low <= value <= high:
                raise ConfigError(f"rollout.{name} is {value!r}; give a number from {low:g} to {high:g}.")


_RANGES = (
    ("max_tasks", 1, float("inf")),
    ("attempts", 1, float("inf")),
    ("temperature", 0.0, 100.0),
    ("epsilon", 0.0, 1.0),
    ("branch_fraction", 0.0, 1.0),
    ("batch_size", 1, float("inf")),
    ("window", 1, float("inf")),
    ("max_episode_steps", 1, float("inf")),
    ("step_timeout", 0.001, 1e9),
)

WORKER_KINDS = ("none", "threads", "processes", "ray")


class WorkerPlan(NamedTuple):
    """What `RolloutConfig.workers` says."""

    kind: str
    number: int
    replicas: bool = False
    """Each worker holds a copy of the policy."""
    cpus: float = 1.0
    """Processors of the Ray cluster that one worker takes."""
    gpus: float = 0.0
    """Graphics cards that one worker takes; below 1: it shares one."""


def parse_workers(text: str | None) -> WorkerPlan | None:
    """``"threads:4"`` -> 4 threads; ``"none"`` -> none, 0 of them; None: each environment's own kind.

    Raises:
        ConfigError: it says something else.
    """
    if text is None:
        return None
    first, *words = str(text).split(",")
    kind, _, number = first.partition(":")
    check_name(kind, WORKER_KINDS, "kind of workers")
    if kind == "none" and not number and not words:
        return WorkerPlan(kind, 0)
    if kind == "none" or not number.isdecimal() or not 1 <= int(number) <= 10_000:
        raise ConfigError(f"workers is {text!r}; write none, threads:N, processes:N or ray:N with N from 1.")
    if words and kind != "ray":
        raise ConfigError(f"workers is {text!r}; only ray:N takes more words, such as ray:{number},{','.join(words)}.")
    plan = WorkerPlan(kind, int(number))
    for word in words:
        plan = _with_word(plan, word.strip(), str(text))
    return plan


def _with_word(plan: WorkerPlan, word: str, text: str) -> WorkerPlan:
    name, _, amount = word.partition("=")
    check_name(name, ("replicas", "cpus", "gpus"), "word in workers")
    if name == "replicas" and word == name:
        return plan._replace(replicas=True)
    try:
        number = float(amount)
    except ValueError:
        number = -1.0
    # Ray lends a part of one processor or card, or whole ones
    if name == "replicas" or not 0 <= number <= 10_000 or (number > 1 and not number.is_integer()):
        raise ConfigError(
            f"workers is {text!r}, where {word!r} is not understood; write such as ray:4,replicas,cpus=2,gpus=0.5. "
            "Of cpus and gpus a part of one or a whole number can be taken."
        )
    return plan._replace(cpus=number) if name == "cpus" else plan._replace(gpus=number)


def without_replicas(text: str | None) -> str | None:
    """The same workers with environments alone, for a policy that cannot be copied, such as one in training."""
    return text and ",".join(word for word in text.split(",") if word.strip() != "replicas")


class Job(NamedTuple):
    """One episode to play."""

    task_id: str
    attempt: int
    """Counts the episodes of one task and policy."""
    seed: int
    temperature: float = 0.0
    epsilon: float = 0.0
    """Chance per step of an admissible command drawn at random."""
    prefix_fraction: float = 0.0
    """Where on the expert's path the policy takes over, in [0, 1); 0: at the start."""
    source: int = 0
    """Which of a rollout's environments plays it, counted in the order they are given."""
    prefix: tuple[str, ...] = ()
    """Responses that are carried out before the policy is asked: the episode goes on from where they lead."""


def plan_jobs(config: RolloutConfig | Sequence[RolloutConfig], tasks: Iterable[Task | str] | None = None) -> list[Job]:
    """The episodes of a run: every attempt at the first task, then the next task.

    Args:
        config: what to play; of several, the episodes come in turn, so that all end at about the same time.
        tasks: tasks or task ids in place of those that ``config.split`` names; ``max_tasks`` holds for them too.
    """
    if not isinstance(config, RolloutConfig):
        if tasks is not None:
            raise ConfigError("Tasks can be named for one configuration only; plan each by itself.")
        return _in_turn([[job._replace(source=n) for job in plan_jobs(one)] for n, one in enumerate(config)])
    chosen = choose_tasks(list_tasks(config) if tasks is None else tasks, config.max_tasks)
    return [_plan_job(config, task_id, attempt) for task_id in chosen for attempt in range(config.attempts)]


def _in_turn(plans: Sequence[Sequence[Job]]) -> list[Job]:
    """Several plans as one, each spread evenly over the whole."""
    placed = [((place + 0.5) / len(plan), job) for plan in plans for place, job in enumerate(plan)]
    return [job for _, job in sorted(placed, key=lambda item: item[0])]


def choose_tasks(tasks: Iterable[Task | str], count: int | None) -> list[str]:
    """Ids of all tasks, or of ``count`` of them whose hashes come first, in the order given.

    Such a draw mixes task types, is the same for every seed, and a larger one contains a smaller one.
    """
    ids = [task.task_id if isinstance(task, Task) else task for task in tasks]
    if count is None or count >= len(ids):
        return ids
    kept = set(
        sorted(ids, key=lambda task_id: hashlib.sha256(task_id.encode("utf-8", "surrogatepass")).digest())[:count]
    )
    return [task_id for task_id in ids if task_id in kept]


def _plan_job(config: RolloutConfig, task_id: str, attempt: int) -> Job:
    seed = derive_seed(config.seed, task_id, attempt)
    if attempt == 0 and config.greedy_first:
        return Job(task_id, attempt, seed)
    draw = random.Random(derive_seed(seed, "branch"))
    branched = draw.random() < config.branch_fraction
    prefix_fraction = draw.random() if branched else 0.0
    return Job(task_id, attempt, seed, config.temperature, config.epsilon, prefix_fraction)


def list_tasks(config: RolloutConfig) -> Manifest:
    """The tasks of the configured split, by the environment's own data arguments."""
    env = make_env(config)
    try:
        return text_env(env).manifest(config.split)
    finally:
        env.close()


def make_env(config: RolloutConfig, *, expert: bool = False) -> gym.Env[str, str]:
    """The configured environment under Gymnasium's step limit, not yet wrapped.

    Raises:
        ConfigError: no such environment, or it does not take one of ``env_kwargs``.
    """
    kwargs = dict(config.env_kwargs)
    if expert:
        kwargs["expert"] = True
    if config.max_episode_steps is not None:
        kwargs["max_episode_steps"] = config.max_episode_steps
    try:
        return gym.make(config.env_id, disable_env_checker=True, **kwargs)
    except (gym.error.UnregisteredEnv, ModuleNotFoundError) as error:
        known = [name for name in gym.registry if name.startswith("icto/")]
        raise ConfigError(f"Unknown environment {config.env_id!r} ({error}). Known: {', '.join(known)}.") from error
    except TypeError as error:
        if "unexpected keyword argument" not in str(error):
            raise
        raise ConfigError(f"{config.env_id} cannot be made with env_kwargs {config.env_kwargs!r}: {error}.") from error


def waits_elsewhere(env_id: str) -> bool:
    """Whether most of a step is waiting for another process, as the environment's class says of itself."""
    module, _, name = env_id.rpartition(":")
    try:
        if module:
            importlib.import_module(module)
        entry = gym.spec(name).entry_point
        kind = load_env_creator(entry) if isinstance(entry, str) else entry
    except (gym.error.Error, ImportError):  # making it will say so, in its own words
        return False
    return bool(getattr(kind, "waits_elsewhere", False))


def text_env(env: gym.Env[str, str]) -> TextEnv:
    """The innermost environment, which knows tasks, expert and optimal actions."""
    inner = env.unwrapped
    if not isinstance(inner, TextEnv):
        raise ConfigError(f"{type(inner).__name__} is not a TextEnv, so there is no list of its tasks to play.")
    return inner


def configured_example(config: RolloutConfig) -> Sequence[Any]:
    """The messages of the worked example that this play shows; none where it shows none."""
    if not config.example:
        return ()
    env = make_env(config)
    try:
        return worked_example(env)
    finally:
        env.close()


def worked_example(env: gym.Env[str, str]) -> Sequence[Any]:
    """The messages of the environment's worked example.

    Raises:
        ConfigError: it has none.
    """
    example = getattr(env.unwrapped, "example", None)
    if not example:
        raise ConfigError(f"{type(env.unwrapped).__name__} has no worked example; set rollout.example to false.")
    return tuple(example)
