"""The shop's tasks: splits, ids, digests.

The original's data: goals in its own shuffled order; the first 500 are the test set, the next 1,000 the development
set, the rest is for training. The built-in data brings its own splits.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from functools import lru_cache

from icto_gym.envs.webshop.catalog import Catalog, Goal
from icto_gym.envs.webshop.raw import id_prefix, load_catalog
from icto_gym.errors import InvalidTask, check_name
from icto_gym.tasks import Manifest, Task, is_list_path, read_task_list

ENV_ID = "icto/WebShop-v0"
TEST_GOALS, DEV_GOALS = 500, 1000
_FIRST_SPLITS = ("train", "dev", "test")


class ShopTasks:
    """The tasks of one catalogue.

    Args:
        catalog: with goals in shuffled order.
        prefix: of the ids: ``"webshop"``, ``"webshop-mini"`` or ``"webshop-<digest>"``, with ``-synthetic`` for
            synthetic goals.
    """

    def __init__(self, catalog: Catalog, prefix: str) -> None:
        self._goals: dict[str, Goal] = {}
        self._splits: dict[str, list[Task]] = {}
        own = catalog.splits is not None
        for split, name, goal in _own_splits(catalog) if own else _published_splits(catalog.goals):
            task_id = f"{prefix}/{name}"
            task = Task(task_id, split, ENV_ID, goal.category, catalog.task_digest(goal))
            self._goals[task_id] = goal
            self._splits.setdefault(split, []).append(task)
        self._in_order = [task for tasks in self._splits.values() for task in tasks]
        if not own:
            for split in _FIRST_SPLITS:  # a small catalogue may leave some empty
                self._splits.setdefault(split, [])
        self._manifests: dict[str | None, Manifest] = {}
        self._lists: dict[str, tuple[int, Manifest]] = {}

    def goal(self, task: Task) -> Goal:
        """The goal behind a task.

        Raises:
            InvalidTask: the task belongs to other data.
        """
        if task.task_id not in self._goals:
            raise InvalidTask(f"The task {task.task_id!r} does not belong to this shop's data.")
        return self._goals[task.task_id]

    def manifest(self, split: str | None) -> Manifest:
        """The tasks of a split or of a list file; None: all, the original's in shuffled order."""
        if is_list_path(split):
            return self._read_list(str(split))
        if split not in self._manifests:
            if split is not None:
                check_name(split, self._splits, "split", InvalidTask)
            tasks: Sequence[Task] = self._in_order if split is None else self._splits[split]
            self._manifests[split] = Manifest(ENV_ID, split, tasks)
        return self._manifests[split]

    def _read_list(self, path: str) -> Manifest:
        """A user's list, read again only if the file has changed."""
        stamp = os.stat(path).st_mtime_ns if os.path.exists(path) else 0
        if path not in self._lists or self._lists[path][0] != stamp:
            known = {task.task_id: task for task in self._in_order}
            self._lists[path] = (stamp, read_task_list(path, known, ENV_ID))
        return self._lists[path][1]


def shop_tasks(data: str, goals: str = "human", num_products: int | None = None, catalog_seed: int = 0) -> ShopTasks:
    """The tasks for these constructor arguments, made once per loaded catalogue."""
    prefix = id_prefix(data)
    catalog = load_catalog(data, goals, num_products, catalog_seed)
    return _tasks_of(catalog, prefix if goals == "human" else f"{prefix}-synthetic")


@lru_cache(maxsize=8)
def _tasks_of(catalog: Catalog, prefix: str) -> ShopTasks:
    return ShopTasks(catalog, prefix)


def _published_splits(goals: Sequence[Goal]) -> Iterator[tuple[str, str, Goal]]:
    for number, goal in enumerate(goals):
        split = "test" if number < TEST_GOALS else "dev" if number < TEST_GOALS + DEV_GOALS else "train"
        yield split, str(number), goal


def _own_splits(catalog: Catalog) -> Iterator[tuple[str, str, Goal]]:
    """Goals in the order of the data's own lists; those of products that were not loaded are left out."""
    by_key = {goal.key: goal for goal in catalog.goals}
    splits = catalog.splits or {}
    for split in _ordered(splits):
        for number, key in enumerate(splits[split]):
            if key in by_key:
                yield split, f"{split}/{number:04d}", by_key[key]


def _ordered(names: Iterable[str]) -> list[str]:
    known = [name for name in _FIRST_SPLITS if name in names]
    return known + sorted(name for name in names if name not in known)
