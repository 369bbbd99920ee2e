"""The benchmarks that `methods.py` can compare methods on, and which of their tasks play which part."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

from icto_gym.files import write_json
from trainers.sampling import choose_tasks, list_tasks


class Env(NamedTuple):
    """A benchmark."""

    title: str
    rollout: dict[str, Any]
    """How it is played."""
    splits: dict[str, str | None]
    """Which split plays the part of dev, test and ood; None: training tasks that nobody explores or is shown."""
    results: str
    """Name of the table's files."""
    asked: dict[str, int]
    """Where it differs from the budget's: how many tasks of the final splits."""
    presets: dict[str, str]
    """What rows do otherwise there."""

    def split(self, part: str, seed: Path) -> str:
        """The split, or list of tasks, that plays a part in a seed's folder."""
        return self.splits.get(part, part) or str(seed / f"{part}.json")

    def place(self, part: str, seed: Path) -> str:
        """The folder's name of what was played there."""
        return self.split(part, seed).replace("/", "_")


ENVS = {
    "webshop": Env(
        "WebShop mini",
        {"env_id": "icto/WebShop-v0", "brief": True, "batch_size": 32},
        {"dev": "dev", "test": "test", "ood": "ood"},
        "methods",
        {},
        {},
    ),
    # its two validation splits are what is reported of it, so the choices are made on tasks held out of training; the
    # expert ends 96 of 100 games within 20 commands, and a policy that has not goes in circles, at the cost of several
    "alfworld": Env(
        "ALFWorld mini",
        {"env_id": "icto/ALFWorld-v0", "brief": True, "batch_size": 32, "max_episode_steps": 20},
        {"dev": None, "test": "valid_seen", "ood": "valid_unseen"},
        "methods_alfworld",
        {"test": 140, "ood": 134},  # all there are
        {"nat": "nat-two-classes"},  # a game is won or not
    ),
}  # fmt: skip


def hold_out(path: Path, rollout: Any, taken: int, number: int) -> Path:
    """Write a list of ``number`` training tasks beyond the first ``taken`` of the fixed draw."""
    tasks = list_tasks(rollout)
    others = set(choose_tasks(tasks, taken))
    write_json(path, [task for task in choose_tasks(tasks, taken + number) if task not in others])
    return path
