"""ALFWorld behind the common text interface."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any, Protocol

from icto_gym.core import LazyActions, Outcome, TextEnv
from icto_gym.envs.alfworld import texts
from icto_gym.envs.alfworld.engine import Game
from icto_gym.envs.alfworld.gamefile import WORLDS, GameFile
from icto_gym.envs.alfworld.grammar import ACTION_GRAMMARS, split_task
from icto_gym.envs.alfworld.pddl import UnsupportedGame
from icto_gym.envs.alfworld.prompt import system_prompt
from icto_gym.envs.alfworld.tasks import FILES_SPLIT, collection
from icto_gym.envs.alfworld.textworld import TextWorldGame
from icto_gym.errors import DependencyNotInstalled, check_name
from icto_gym.tasks import Manifest, Task

ENGINES = ("native", "textworld")


class Engine(Protocol):
    """What plays a game: `engine.Game` or `textworld.TextWorldGame`."""

    name: str
    valid: bool
    won: bool

    def reset(self) -> str: ...
    def step(self, command: str) -> str: ...
    def admissible(self) -> list[str]: ...
    def snapshot(self) -> Any: ...
    def restore(self, state: Any) -> None: ...


class ALFWorldEnv(TextEnv):
    """A household task in text. ``info`` also holds ``engine`` and ``task_type``."""

    def __init__(
        self,
        *,
        data: str | os.PathLike[str] | None = None,
        engine: str = "native",
        game_files: Sequence[str] | None = None,
        action_grammar: str | None = None,
        split: str | None = "train",
        expert: bool = False,
        render_mode: str | None = None,
    ) -> None:
        """Args:
        data: folder of the published games, or ``"mini"`` for the built-in ones; None:
            ``$ALFWORLD_DATA`` if set, else the built-in ones.
        engine: ``"native"``, or ``"textworld"`` for the original (extra ``alfworld``). Games whose
            rules the native engine does not know go to TextWorld; ``info["engine"]`` tells.
        game_files: paths of ``.tw-pddl`` files to play instead, by ``options={"index": i}``.
        action_grammar: ``"move"`` (``move X to Y``), ``"put"`` (``put X in/on Y``) or ``"both"``;
            None: as each game's own grammar says. The native engine only.
        split: what seeds and bare indexes draw from.
        expert: put the demonstrated next command and its reason into ``info``.
        render_mode: ``"ansi"`` or None.
        """
        self._collection = collection(data, game_files)
        if game_files is not None:
            split = FILES_SPLIT
        super().__init__(split=split, expert=expert, render_mode=render_mode)
        self.engine = check_name(engine, ENGINES, "engine")
        if action_grammar is not None:
            check_name(action_grammar, ACTION_GRAMMARS, "action grammar")
        self.action_grammar = action_grammar
        self.system_prompt = system_prompt(action_grammar or "move")
        self.game: Engine | None = None
        self._goal_line = ""

    @classmethod
    def tasks(cls, split: str | None = None, **kwargs: Any) -> Manifest:
        """List tasks.

        Args:
            split: a split, ``"dev"`` (valid_seen), ``"test"`` (valid_unseen), or a list file; None: all.
            kwargs: ``data`` or ``game_files`` as of the constructor.
        """
        for name in kwargs:
            check_name(name, ("data", "game_files"), "argument")
        return collection(kwargs.get("data"), kwargs.get("game_files")).manifest(split)

    def manifest(self, split: str | None = None) -> Manifest:
        return self._collection.manifest(split)

    # ---- the life of an episode -----------------------------------------------------------
    def _begin(self, task: Task) -> Outcome:
        game = self._collection.read(task.task_id)
        self._leave_game()
        self.game = self._start(game)
        observation = self.game.reset()
        self._goal_line = texts.task_sentence(game.task or split_task(game.grammar)[0])
        return self._outcome_of(observation, started=True)

    def _start(self, game: GameFile) -> Engine:
        if self.engine == "native":
            try:
                return Game(WORLDS.get(game), self.action_grammar)
            except UnsupportedGame as unsupported:
                reason = str(unsupported)
            try:
                return TextWorldGame(game)
            except DependencyNotInstalled as error:
                raise DependencyNotInstalled(
                    f"{game.source}: the native engine does not play it: {reason}. For TextWorld: {error}"
                ) from error
        return TextWorldGame(game)

    def _leave_game(self) -> None:
        if isinstance(self.game, TextWorldGame):
            self.game.close()
        self.game = None

    def _advance(self, action: str) -> Outcome:
        return self._outcome_of(self._playing().step(action))

    def _outcome_of(self, observation: str, started: bool = False) -> Outcome:
        game = self._playing()
        # The original tells `won` when a game begins with its goal fulfilled, but scores and ends at the first command.
        score = 0.0 if started else float(game.won)
        return Outcome(
            observation, score, score, valid=game.valid, terminated=game.won and not started, success=game.won,
            extra={"engine": game.name, "task_type": self._need_task().task_type},
        )  # fmt: skip

    def _playing(self) -> Engine:
        assert self.game is not None, "reset() comes first"
        return self.game

    def _admissible(self) -> Sequence[str]:
        game = self._playing()
        if isinstance(game, Game):
            state = game.snapshot()
            return LazyActions(lambda: game.admissible(state))
        return game.admissible()

    def _instruction(self) -> str:
        return self._goal_line

    # ---- states ---------------------------------------------------------------------------
    def snapshot(self) -> Any:
        """The current state; immutable and cheap with the native engine, a replay with TextWorld."""
        return (self._need_task(), self._playing().snapshot(), self._outcome, tuple(self._actions))

    def restore(self, state: Any) -> tuple[str, dict[str, Any]]:
        task, inner, outcome, actions = state
        if self.task != task or self.game is None:
            self.task = task
            self._begin(task)
        self._playing().restore(inner)
        self._outcome, self._actions = outcome, list(actions)
        return outcome.observation, self._info()

    def close(self) -> None:
        self._leave_game()
        super().close()
