"""Which games there are: the built-in ones, the published folders, or files named one by one."""

from __future__ import annotations

import logging
import os
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from icto_gym.envs.alfworld import games
from icto_gym.envs.alfworld.gamefile import GameFile, read_game_file
from icto_gym.errors import ConfigError, DataError, InvalidTask, check_name
from icto_gym.files import cache_dir, read_json, write_json
from icto_gym.tasks import Manifest, Task, content_digest, is_list_path, read_task_list

logger = logging.getLogger(__name__)

ENV_ID = "icto/ALFWorld-v0"
SPLITS = ("train", "valid_seen", "valid_unseen")
ALIASES = {"dev": "valid_seen", "test": "valid_unseen"}
"""Names that other benchmarks use; named lists here."""
TASK_TYPES = (
    "pick_and_place_simple", "look_at_obj_in_light", "pick_clean_then_place_in_recep",
    "pick_heat_then_place_in_recep", "pick_cool_then_place_in_recep", "pick_two_obj_and_place",
)  # fmt: skip
BUILT_IN = "mini"
FILES_SPLIT = "files"


@dataclass(frozen=True, slots=True)
class Collection:
    """Tasks and a way to read the game of each."""

    tasks: tuple[Task, ...]
    read: Callable[[str], GameFile]
    """From a task id to its game."""

    def manifest(self, split: str | None) -> Manifest:
        """The tasks of a split, alias or list file; None: all.

        Raises:
            InvalidTask: no such split.
        """
        if is_list_path(split):
            return read_task_list(str(split), {task.task_id: task for task in self.tasks}, ENV_ID)
        if split is None:
            return Manifest(ENV_ID, None, self.tasks)
        present = {task.split for task in self.tasks}
        known = [FILES_SPLIT] if present == {FILES_SPLIT} else [*SPLITS, *ALIASES]
        check_name(split, known, "split", InvalidTask)
        wanted = ALIASES.get(split, split)
        return Manifest(ENV_ID, split, [task for task in self.tasks if task.split == wanted])


def collection(data: str | os.PathLike[str] | None, game_files: Sequence[str] | None = None) -> Collection:
    """The games that constructor arguments name.

    Args:
        data: the folder of the published data, ``"mini"`` for the built-in games, or None:
            ``$ALFWORLD_DATA`` if that is set, else the built-in games.
        game_files: paths of ``game.tw-pddl`` files, instead.
    """
    if game_files is not None:
        if isinstance(game_files, (str, os.PathLike)):
            raise ConfigError("game_files is a list of paths; got a single one. Put it in a list.")
        if not game_files:
            raise ConfigError("game_files is empty; name at least one game.tw-pddl file, or leave it out.")
        if data is not None:
            raise ConfigError("Give either data or game_files, not both.")
        return _files(tuple(str(path) for path in game_files))
    if data is None:
        data = _data_named_by_environment() or BUILT_IN
    return built_in() if data == BUILT_IN else _published(os.path.abspath(os.path.expanduser(data)))


def _data_named_by_environment() -> str | None:
    """``$ALFWORLD_DATA``, unless it is what importing alfworld sets it to and nothing was ever put there."""
    named = os.environ.get("ALFWORLD_DATA")
    own_default = os.path.expanduser("~/.cache/alfworld")
    if named == own_default and not _splits_below(named):
        return None
    return named or None


@lru_cache(maxsize=1)
def built_in() -> Collection:
    """The games that come with the package."""
    tasks = [
        Task(f"alfworld-mini/{split}/{entry.name}", split, ENV_ID, entry.task_type, entry.digest)
        for split in SPLITS
        for entry in games.entries(split).values()
    ]
    return Collection(tuple(tasks), _read_built_in)


def _read_built_in(task_id: str) -> GameFile:
    _, split, name = task_id.split("/", 2)
    return games.game_file(split, name)


@lru_cache(maxsize=8)
def _files(paths: tuple[str, ...]) -> Collection:
    found: dict[str, str] = {}
    tasks = []
    for number, path in enumerate(paths):
        task_id = f"alfworld-files/{number:04d}/{Path(path).name}"
        found[task_id] = path
        tasks.append(Task(task_id, FILES_SPLIT, ENV_ID, _type_beside(path), _file_digest(path)))
    return Collection(tuple(tasks), lambda task_id: read_game_file(found[task_id]))


def _type_beside(path: str) -> str:
    """The task type by the ``traj_data.json`` in the same folder, if there is one."""
    beside = Path(path).parent / "traj_data.json"
    return str(_task_type(beside)) if beside.is_file() else "unknown"


def _file_digest(path: str) -> str:
    if not Path(path).is_file():
        raise DataError(f"{path}: there is no such game file.")
    return content_digest(Path(path).read_bytes().decode("utf-8", "replace"))


@lru_cache(maxsize=8)
def _published(root: str) -> Collection:
    base = _split_root(root)
    tasks = [task for split in SPLITS if (base / split).is_dir() for task in _scan_split(base, split)]
    if not tasks:
        raise DataError(f"{root}: no playable game in its folders {', '.join(SPLITS)} (see docs/alfworld.md).")
    prefix = "alfworld/"
    return Collection(
        tuple(tasks), lambda task_id: read_game_file(base / task_id.removeprefix(prefix) / "game.tw-pddl")
    )


def _split_root(root: str) -> Path:
    """The folder that holds the splits: the root itself or the newest ``json_*`` in it."""
    if not Path(root).is_dir():
        raise DataError(f"{root}: there is no such folder. Set ALFWORLD_DATA or data= to the published data.")
    folder = _splits_below(root)
    if folder is not None:
        return folder
    raise DataError(f"{root}: neither it nor a folder 'json_*' in it has the folders {', '.join(SPLITS)}.")


def _splits_below(root: str) -> Path | None:
    candidates = [Path(root), *sorted(Path(root).glob("json_*"), reverse=True)]
    return next((folder for folder in candidates if any((folder / split).is_dir() for split in SPLITS)), None)


def _scan_split(base: Path, split: str) -> Iterator[Task]:
    """Games of a split in the order of their ids; what was read of unchanged files is remembered."""
    folder = base / split
    remembered_at = cache_dir("alfworld") / f"{content_digest(str(folder))[:32]}.json"
    remembered: dict[str, Any] = read_json(remembered_at) if remembered_at.is_file() else {}
    seen: dict[str, Any] = {}
    skipped: Counter[str] = Counter()
    for trajectory in sorted(folder.rglob("traj_data.json")):
        trial = trajectory.parent
        name = trial.relative_to(base).as_posix()
        stamp = _stamp(trajectory, trial / "game.tw-pddl")
        known = remembered.get(name)
        entry: dict[str, Any] = {"stamp": stamp}
        entry.update(known if known and known["stamp"] == stamp else _inspect(name, trial))
        seen[name] = entry
        if entry["reason"]:
            skipped[entry["reason"]] += 1
        else:
            yield Task(f"alfworld/{name}", split, ENV_ID, entry["task_type"], entry["digest"])
    if seen != remembered:
        write_json(remembered_at, seen)
    if skipped:
        logger.info("%s: skipped %s", folder, ", ".join(f"{n} ({why})" for why, n in sorted(skipped.items())))


def _stamp(*paths: Path) -> list[list[int]]:
    return [[stat.st_size, stat.st_mtime_ns] for path in paths if path.exists() and (stat := path.stat())]


def _inspect(name: str, trial: Path) -> dict[str, str]:
    """Whether a game counts, by upstream's rules, and if not why."""
    out = {"reason": "", "task_type": "", "digest": ""}
    game_path = trial / "game.tw-pddl"
    if "movable" in name or "Sliced" in name:
        return {**out, "reason": "movable or sliced"}
    out["task_type"] = _task_type(trial / "traj_data.json")
    if out["task_type"] not in TASK_TYPES:
        return {**out, "reason": "other task type"}
    if not game_path.is_file():
        return {**out, "reason": "no game.tw-pddl"}
    data = read_json(game_path)
    if not isinstance(data, dict) or not data.get("solvable"):
        return {**out, "reason": "not marked solvable"}
    texts = (str(data.get(key)) for key in ("pddl_domain", "grammar", "pddl_problem"))
    return {**out, "digest": content_digest(*texts)}


def _task_type(path: Path) -> str:
    data = read_json(path)
    if not isinstance(data, dict) or not isinstance(data.get("task_type"), str):
        raise DataError(f"{path}: the key 'task_type' is missing.")
    return data["task_type"]
