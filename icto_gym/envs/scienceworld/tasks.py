"""The 30 task types of ScienceWorld 1.2.3, their splits, step limits and named lists.

All of it is known without starting a simulator; a test compares the table with the package.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from functools import lru_cache
from typing import NamedTuple

from icto_gym.errors import ConfigError, InvalidTask, check_name
from icto_gym.tasks import Manifest, Task, content_digest, is_list_path, read_task_list

ENV_ID = "icto/ScienceWorld-v0"
SPLITS = ("train", "dev", "test")
NAMED_LISTS = ("eto-test", "ood-train", "ood-test")
SIMPLIFICATIONS = (
    "easy", "teleportAction", "selfWateringFlowerPots", "openContainers", "openDoors", "noElectricalAction",
)  # fmt: skip
"""What `simplification` may be made of; ``easy`` is the package's choice for each task type."""
JAR_SHA256 = "f4e1fdce0cdabe1bab7128a7e78ea820210d9db3c28d7272bcbbc3f3a1c5f0d7"
"""Of ``scienceworld.jar`` in the package 1.2.3: the content of every task."""


class TaskType(NamedTuple):
    """One row of the table. Variations are numbered through: train first, then dev, then test."""

    number: str
    """The package's id, such as ``"1-1"``; what stands before the dash is the topic."""
    name: str
    train: int
    dev: int
    test: int
    step_limit: int
    """Agent turns per episode. The published ones, where there are; else see `STEP_LIMITS_OF_OURS`."""

    def variations(self, split: str) -> range:
        """The variation numbers of a split."""
        start = {"train": 0, "dev": self.train, "test": self.train + self.dev}[split]
        return range(start, start + getattr(self, split))


TASK_TYPES: tuple[TaskType, ...] = tuple(
    TaskType(*row)
    for row in (
        ("1-1", "boil", 14, 7, 9, 100),
        ("1-2", "melt", 14, 7, 9, 80),
        ("1-3", "freeze", 14, 7, 9, 80),
        ("1-4", "change-the-state-of-matter-of", 14, 7, 9, 80),
        ("2-1", "use-thermometer", 270, 135, 135, 30),
        ("2-2", "measure-melting-point-known-substance", 218, 109, 109, 120),
        ("2-3", "measure-melting-point-unknown-substance", 150, 75, 75, 120),
        ("3-1", "power-component", 10, 5, 5, 20),
        ("3-2", "power-component-renewable-vs-nonrenewable-energy", 10, 5, 5, 30),
        ("3-3", "test-conductivity", 450, 225, 225, 30),
        ("3-4", "test-conductivity-of-unknown-substances", 300, 150, 150, 30),
        ("4-1", "find-living-thing", 150, 75, 75, 15),
        ("4-2", "find-non-living-thing", 150, 75, 75, 15),
        ("4-3", "find-plant", 150, 75, 75, 15),
        ("4-4", "find-animal", 150, 75, 75, 15),
        ("5-1", "grow-plant", 62, 31, 33, 30),
        ("5-2", "grow-fruit", 62, 31, 33, 60),
        ("6-1", "chemistry-mix", 16, 8, 8, 60),
        ("6-2", "chemistry-mix-paint-secondary-color", 18, 9, 9, 15),
        ("6-3", "chemistry-mix-paint-tertiary-color", 18, 9, 9, 30),
        ("7-1", "lifespan-longest-lived", 62, 31, 32, 10),
        ("7-2", "lifespan-shortest-lived", 62, 31, 32, 10),
        ("7-3", "lifespan-longest-lived-then-shortest-lived", 62, 31, 32, 12),
        ("8-1", "identify-life-stages-1", 6, 3, 5, 30),
        ("8-2", "identify-life-stages-2", 4, 2, 4, 30),
        ("9-1", "inclined-plane-determine-angle", 84, 42, 42, 120),
        ("9-2", "inclined-plane-friction-named-surfaces", 692, 346, 348, 120),
        ("9-3", "inclined-plane-friction-unnamed-surfaces", 80, 40, 42, 200),
        ("10-1", "mendelian-genetics-known-plant", 60, 30, 30, 200),
        ("10-2", "mendelian-genetics-unknown-plant", 240, 120, 120, 200),
    )
)
BY_NAME = {kind.name: kind for kind in TASK_TYPES}
BY_NUMBER = {kind.number: kind for kind in TASK_TYPES}
STEP_LIMITS_OF_OURS = ("2-3", "9-1", "9-2", "9-3", "10-1", "10-2")
"""Types the published protocol leaves out: 2-3 as its sibling 2-2, the others by the length of gold paths."""
HELD_OUT_TYPES = ("1-4", "2-3", "3-4", "4-4", "5-2", "6-3", "7-3", "8-2", "9-3", "10-2")
"""The last task type of each of the ten topics: never in ``ood-train``, alone in ``ood-test``."""
PROTOCOL_VARIATIONS = 10
"""At most so many variations per task type stand in ``eto-test`` and ``ood-test``."""


def package_name(name: str) -> str:
    """A task name as the package 1.2.3 writes it, from an older or a numbered one.

    ``"task-10-use-thermometer"``, ``"task-6-lifespan-(longest-lived)"`` and ``"2-1"`` are understood.
    """
    if name in BY_NUMBER:
        return BY_NUMBER[name].name
    bare = re.sub(r"^task-\d+[ab]?-", "", name)
    return bare.replace("(", "").replace(")", "").replace("mendellian", "mendelian")


def check_task_types(task_types: Sequence[str] | None) -> tuple[str, ...] | None:
    """Task types (names or numbers) as the package's names, in the table's order.

    Raises:
        InvalidTask: unknown, with the closest name.
        ConfigError: no list of names, or an empty one.
    """
    if task_types is None:
        return None
    chosen = [task_types] if isinstance(task_types, str) else task_types
    if not isinstance(chosen, (list, tuple, set, frozenset)):
        raise ConfigError(f"task_types is {task_types!r:.80}; give a list of task types, such as ['boil'].")
    odd = [name for name in chosen if not isinstance(name, str)]
    if odd or not chosen:
        found = f"holds {odd[0]!r:.80}" if odd else "is empty"
        raise ConfigError(f"task_types {found}; give names or numbers as texts, such as ['boil', '1-1'], or None: all.")
    names = {check_name(package_name(name), BY_NAME, "task type", InvalidTask) for name in chosen}
    return tuple(kind.name for kind in TASK_TYPES if kind.name in names)


def check_simplification(simplification: str) -> str:
    """The comma-separated simplifications without blanks; ``""`` is none.

    Raises:
        ConfigError: unknown, with the closest name; or beside ``easy``, which the simulator knows only alone.
    """
    if not isinstance(simplification, str):
        raise ConfigError(f"simplification is {simplification!r:.80}; give names joined by commas, such as 'easy'.")
    names = [name.strip() for name in simplification.split(",") if name.strip()]
    if "easy" in names and len(names) > 1:
        raise ConfigError(f"simplification is {simplification!r:.80}; 'easy' stands for several and is given alone.")
    return ",".join(check_name(name, SIMPLIFICATIONS, "simplification") for name in names)


def task_parts(task_id: str) -> tuple[str, int]:
    """Name and variation of an id ``scienceworld/<name>/<variation>``."""
    _, name, variation = task_id.split("/")
    return name, int(variation)


def list_tasks(split: str | None, simplification: str = "easy", task_types: Sequence[str] | None = None) -> Manifest:
    """Tasks of a split, named list or JSON list of ids or (task, variation) pairs; None: each once.

    Task names in a list may be those of older packages, as in the lists of the ETO line.

    Raises:
        InvalidTask: no such list or task type.
        DataError: a list file that cannot be used.
    """
    kinds, simplification = check_task_types(task_types), check_simplification(simplification)
    if split is not None and is_list_path(split):
        return _only(kinds, read_task_list(split, _by_id(simplification), ENV_ID, "scienceworld", package_name))
    if split is not None:
        check_name(split, (*SPLITS, *NAMED_LISTS), "ScienceWorld split", InvalidTask)
    return _built_in(split, simplification, kinds)


def _only(kinds: Iterable[str] | None, manifest: Manifest) -> Manifest:
    if kinds is None:
        return manifest
    return Manifest(ENV_ID, manifest.name, (task for task in manifest if task.task_type in kinds))


@lru_cache(maxsize=64)
def _built_in(split: str | None, simplification: str, kinds: tuple[str, ...] | None) -> Manifest:
    found: list[Task] = []
    for kind in TASK_TYPES:
        if kinds is None or kind.name in kinds:
            found += _MEMBERS[split](kind, simplification)
    return Manifest(ENV_ID, split, found)


@lru_cache(maxsize=8)
def _by_id(simplification: str) -> dict[str, Task]:
    return {task.task_id: task for task in _built_in(None, simplification, None)}


@lru_cache(maxsize=1024)
def _split_of(kind: TaskType, split: str, simplification: str) -> tuple[Task, ...]:
    return tuple(
        Task(
            task_id=f"scienceworld/{kind.name}/{variation}",
            split=split,
            env_id=ENV_ID,
            task_type=kind.name,
            digest=content_digest(JAR_SHA256, kind.name, str(variation), simplification),
        )
        for variation in kind.variations(split)
    )


def _every(kind: TaskType, simplification: str) -> list[Task]:
    return [task for split in SPLITS for task in _split_of(kind, split, simplification)]


def _eto_test(kind: TaskType, simplification: str) -> Sequence[Task]:
    topic = kind.number.split("-")[0]
    if kind.number == "2-3" or topic in ("9", "10"):
        return ()
    return _split_of(kind, "test", simplification)[:PROTOCOL_VARIATIONS]


def _ood_train(kind: TaskType, simplification: str) -> Sequence[Task]:
    return () if kind.number in HELD_OUT_TYPES else _split_of(kind, "train", simplification)


def _ood_test(kind: TaskType, simplification: str) -> Sequence[Task]:
    return _split_of(kind, "test", simplification)[:PROTOCOL_VARIATIONS] if kind.number in HELD_OUT_TYPES else ()


_MEMBERS: dict[str | None, Callable[[TaskType, str], Sequence[Task]]] = {
    None: _every,
    "train": lambda kind, simplification: _split_of(kind, "train", simplification),
    "dev": lambda kind, simplification: _split_of(kind, "dev", simplification),
    "test": lambda kind, simplification: _split_of(kind, "test", simplification),
    "eto-test": _eto_test,
    "ood-train": _ood_train,
    "ood-test": _ood_test,
}
