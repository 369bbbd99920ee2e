"""Game files (``game.tw-pddl``): read, checked, compiled, and remembered."""

from __future__ import annotations

import os
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from threading import Lock
from typing import Any

from icto_gym.envs.alfworld.grammar import Rules, recognise
from icto_gym.envs.alfworld.pddl import parse_problem
from icto_gym.envs.alfworld.world import World, build_world
from icto_gym.errors import DataError
from icto_gym.files import read_json
from icto_gym.tasks import content_digest

_TEXT_KEYS = ("pddl_domain", "grammar", "pddl_problem")
_KEPT_WORLDS = 256


@dataclass(frozen=True, slots=True)
class GameFile:
    """One game as text: what a ``game.tw-pddl`` holds."""

    source: str
    """Where it comes from, for messages."""
    problem: str
    domain: str = ""
    """``""`` for a built-in game, which is played by the rules of alfworld 0.4."""
    grammar: str = ""
    task: str = ""
    """The task sentence of a built-in game; otherwise it stands in the grammar."""
    rules: Rules | None = None
    """The rules of a built-in game; None: those that domain and grammar are recognised as."""

    @property
    def digest(self) -> str:
        """SHA-256 (hex) of the content."""
        return content_digest(self.domain, self.grammar, self.problem, self.task)


def game_from_mapping(data: Any, source: str) -> GameFile:
    """Check the keys of a game.

    Raises:
        DataError: naming the source and the key.
    """
    if not isinstance(data, Mapping):
        raise DataError(f"{source}: expected a JSON object with {', '.join(_TEXT_KEYS)}; found {type(data).__name__}.")
    for key in _TEXT_KEYS:
        if key not in data:
            raise DataError(f"{source}: the key {key!r} is missing; a game file has {', '.join(_TEXT_KEYS)}.")
        if not isinstance(data[key], str):
            raise DataError(f"{source}: {key!r} is {type(data[key]).__name__}, not text.")
    return GameFile(source, data["pddl_problem"], data["pddl_domain"], data["grammar"])


def read_game_file(path: str | os.PathLike[str]) -> GameFile:
    """Read a ``game.tw-pddl``.

    Raises:
        DataError: naming the file and what is wrong with it.
    """
    if not Path(path).is_file():
        raise DataError(f"{path}: there is no such game file.")
    return game_from_mapping(read_json(path), str(path))


class WorldCache:
    """Compiled games, the latest few hundred: many environments playing one game share its `World`."""

    def __init__(self, size: int = _KEPT_WORLDS) -> None:
        self.size = size
        self._worlds: OrderedDict[str, World] = OrderedDict()
        self._lock = Lock()

    def get(self, game: GameFile) -> World:
        """The compiled game.

        Raises:
            UnsupportedGame: rules or facts that the native engine does not know.
            DataError: a broken game.
        """
        key = game.digest
        with self._lock:
            if key in self._worlds:
                self._worlds.move_to_end(key)
                return self._worlds[key]
        world = compile_game(game)
        with self._lock:
            self._worlds[key] = world
            while len(self._worlds) > self.size:
                self._worlds.popitem(last=False)
        return world

    def clear(self) -> None:
        """Forget all."""
        with self._lock:
            self._worlds.clear()


def compile_game(game: GameFile) -> World:
    """Parse and compile a game without remembering it."""
    rules, task = (game.rules, game.task) if game.rules else recognise(game.domain, game.grammar)
    return build_world(parse_problem(game.problem, game.source), task, rules, game.source)


WORLDS = WorldCache()
