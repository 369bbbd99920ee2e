"""Tasks, manifests and named lists: what can be played, the same on every machine."""

from __future__ import annotations

import hashlib
import importlib
import itertools
import logging
import operator
import os
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, SupportsIndex, overload

import gymnasium as gym

from icto_gym.errors import DataError, InvalidTask, check_name, did_you_mean
from icto_gym.files import read_json

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Task:
    """One goal of one benchmark."""

    task_id: str
    """Stable across runs and machines, such as ``"webshop-mini/test/0017"``."""
    split: str
    """The disjoint split it belongs to, whatever list it was read from."""
    env_id: str
    task_type: str
    """The benchmark's own kind of goal: a department, a task name, a task type."""
    digest: str
    """SHA-256 (hex) of the task's content."""


class Manifest(Sequence[Task]):
    """A named, ordered list of tasks with a digest to cite beside results."""

    def __init__(self, env_id: str, name: str | None, tasks: Iterable[Task]) -> None:
        self.env_id = env_id
        self.name = name
        self._tasks = tuple(tasks)
        self._by_id = {task.task_id: task for task in self._tasks}
        if len(self._by_id) != len(self._tasks):
            raise DataError(f"The list {name!r} of {env_id} names a task twice.")

    @property
    def digest(self) -> str:
        """SHA-256 (hex) over ids and contents, in order."""
        state = hashlib.sha256()
        for task in self._tasks:
            state.update(f"{task.task_id}\0{task.digest}\n".encode())
        return state.hexdigest()

    def find(self, task_id: str) -> Task:
        """Return the task with this id.

        Raises:
            InvalidTask: naming the closest id there is.
        """
        if task_id in self._by_id:
            return self._by_id[task_id]
        where = f"the list {self.name!r}" if self.name else "its tasks"
        raise InvalidTask(
            f"{self.env_id} has no task {task_id!r} in {where} ({len(self)} tasks)."
            f"{did_you_mean(str(task_id), self._by_id)}"
        )

    def at(self, index: int) -> Task:
        """Return the task at ``index``; unlike ``[]`` it refuses negative numbers and explains."""
        whole = isinstance(index, SupportsIndex) and not isinstance(index, bool)  # NumPy's integers are such too
        if not (whole and 0 <= operator.index(index) < len(self)):
            raise InvalidTask(f"Index {index!r} is not in 0..{len(self) - 1} of {self.env_id} list {self.name!r}.")
        return self._tasks[index]

    def __contains__(self, item: object) -> bool:
        return (item.task_id if isinstance(item, Task) else item) in self._by_id

    @overload
    def __getitem__(self, index: int) -> Task: ...
    @overload
    def __getitem__(self, index: slice) -> tuple[Task, ...]: ...
    def __getitem__(self, index: Any) -> Any:
        return self._tasks[index]

    def __len__(self) -> int:
        return len(self._tasks)

    def __iter__(self) -> Iterator[Task]:
        return iter(self._tasks)

    def __repr__(self) -> str:
        return f"Manifest({self.env_id!r}, {self.name!r}, {len(self)} tasks)"


def content_digest(*parts: str) -> str:
    """SHA-256 (hex) of texts, unambiguous about where one ends."""
    state = hashlib.sha256()
    for part in parts:
        data = part.encode("utf-8", "surrogatepass")
        state.update(len(data).to_bytes(8, "little") + data)
    return state.hexdigest()


def check_split(split: Any) -> None:
    """Refuse what is no name of a split or list: a text, a path, or None for all tasks.

    Raises:
        InvalidTask: showing the value.
    """
    if split is not None and not isinstance(split, (str, os.PathLike)):
        raise InvalidTask(f"The split is {split!r:.80}; give its name as text, the path of a JSON list, or None.")


def is_list_path(name: str | None) -> bool:
    """A list name that ends in ``.json`` is a file of the user's."""
    return bool(name) and str(name).endswith(".json")


def read_task_list(
    path: str,
    tasks_by_id: Mapping[str, Task],
    env_id: str,
    pair_prefix: str | None = None,
    pair_name: Callable[[str], str] = str,
) -> Manifest:
    """Read a user's list: a JSON array of task ids, or of (task, variation) pairs.

    If a list of another role lies beside it (``my_train.json`` beside ``my_dev.json``) and shares tasks
    with it, a warning says how many.

    Args:
        path: the JSON file. An object with one key, holding the array, is accepted too.
        tasks_by_id: every task of the benchmark.
        env_id: for the manifest and messages.
        pair_prefix: if given, ``["boil", 3]`` means the id ``<pair_prefix>/boil/3``.
        pair_name: today's name for the task name in a pair, where older lists spell it otherwise.

    Raises:
        InvalidTask: there is no such file.
        DataError: naming file, record number and what is wrong.
    """
    if not Path(path).is_file():
        raise InvalidTask(f"There is no list file {str(path)!r}. Give a JSON file, or the name of a split of {env_id}.")
    entries = _read_entries(path)
    found: dict[str, Task] = {}
    for number, entry in enumerate(entries):
        task_id = _entry_id(entry, pair_prefix, pair_name)
        if task_id is None or task_id not in tasks_by_id:
            hint = did_you_mean(task_id, tasks_by_id) if task_id else ""
            raise DataError(f"{path}: record {number} ({entry!r}) names no task of {env_id}.{hint}")
        found[task_id] = tasks_by_id[task_id]
    if len(found) < len(entries):
        logger.warning("%s: %d of %d records repeat an earlier one", path, len(entries) - len(found), len(entries))
    for sibling in _lists_beside(path):
        _warn_of_shared(path, found, sibling, pair_prefix, pair_name)
    return Manifest(env_id, path, found.values())


def _read_entries(path: str | Path) -> list[Any]:
    entries = read_json(path)
    if isinstance(entries, list):
        return entries
    inside = list(entries.values()) if isinstance(entries, dict) else []
    if len(inside) == 1 and isinstance(inside[0], list):
        return inside[0]
    raise DataError(f"{path}: expected a JSON array of task ids, found {type(entries).__name__}.")


def _entry_id(entry: Any, pair_prefix: str | None, pair_name: Callable[[str], str]) -> str | None:
    if isinstance(entry, str):
        return entry
    if pair_prefix and isinstance(entry, (list, tuple)) and len(entry) == 2:
        return f"{pair_prefix}/{pair_name(str(entry[0]))}/{entry[1]}"
    return None


_ROLES = ("train", "dev", "valid", "test")


def _lists_beside(path: str) -> list[Path]:
    """Lists in the same folder whose names differ from this one's by the role: train, dev, valid or test."""
    here = Path(path)
    names = {
        re.sub(rf"(?<![a-z]){mine}(?![a-z])", other, here.name)
        for mine, other in itertools.permutations(_ROLES, 2)
    } - {here.name}  # fmt: skip
    return sorted(folder_entry for folder_entry in map(here.with_name, names) if folder_entry.is_file())


def _warn_of_shared(
    path: str, found: Mapping[str, Task], sibling: Path, pair_prefix: str | None, pair_name: Callable[[str], str]
) -> None:
    try:
        others = {_entry_id(entry, pair_prefix, pair_name) for entry in _read_entries(sibling)}
    except (DataError, OSError):
        return  # not asked for, so not complained about
    shared = [task_id for task_id in found if task_id in others]
    if shared:
        logger.warning(
            "%s: %d of its %d tasks stand in %s too (%s, ...); what is trained on one is not unseen in the other",
            path, len(shared), len(found), sibling.name, shared[0],
        )  # fmt: skip


def shared_tasks(first: Manifest, second: Manifest) -> list[str]:
    """Ids that stand in both lists; training on one and measuring on the other should know."""
    return [task.task_id for task in first if task.task_id in second]


def tasks(env_id: str, split: str | None = None, **kwargs: Any) -> Manifest:
    """List the tasks of a benchmark without starting its simulator.

    Args:
        env_id: such as ``"icto/ALFWorld-v0"``.
        split: a split, a named list, or the path of a JSON list; None: every task once.
        kwargs: those of the environment's constructor that choose data.

    Raises:
        InvalidTask: unknown environment or split, with the closest name.
    """
    known = [name for name in gym.registry if name.startswith("icto/")]
    check_name(env_id, known, "environment", InvalidTask)
    check_split(split)
    entry_point = gym.registry[env_id].entry_point
    module, _, name = str(entry_point).partition(":")
    env_class = getattr(importlib.import_module(module), name)
    return env_class.tasks(split, **kwargs)
