"""ALFWorld behind the common text interface."""

from __future__ import annotations

import inspect
import os
from collections.abc import Sequence
from typing import Any, NamedTuple, Protocol

import gymnasium as gym

from icto_gym.core import LazyActions, Outcome, TextEnv
from icto_gym.dialogue import Message
from icto_gym.envs.alfworld import texts
from icto_gym.envs.alfworld.engine import Game
from icto_gym.envs.alfworld.expert import Choice, Expert, begin, demonstrate
from icto_gym.envs.alfworld.gamefile import WORLDS, GameFile
from icto_gym.envs.alfworld.grammar import ACTION_GRAMMARS, split_task
from icto_gym.envs.alfworld.outline import kept_in, outline, subgoals
from icto_gym.envs.alfworld.pddl import UnsupportedGame
from icto_gym.envs.alfworld.planner import Planner
from icto_gym.envs.alfworld.prompt import system_prompt, worked_example
from icto_gym.envs.alfworld.tasks import FILES_SPLIT, collection
from icto_gym.envs.alfworld.textworld import TextWorldGame
from icto_gym.errors import ConfigError, DependencyNotInstalled, check_name
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


class Course(NamedTuple):
    """What an episode has been, as far as experts and sub-goals ask. Immutable: part of a snapshot."""

    steps: tuple[tuple[str, str], ...] = ()
    """(command, answer) pairs."""
    seen: frozenset[int] = frozenset()
    """Objects whose receptacle was looked into with them inside."""
    touched: frozenset[int] = frozenset()
    """Objects that were in hand."""


class ALFWorldEnv(TextEnv):
    """A household task in text.

    ``info`` also holds ``engine``, ``task_type`` and ``subgoals`` (see `outline.subgoals`; empty for goals
    of another shape and for games whose rules only TextWorld knows).
    """

    lists_after_end = True  # as TextWorld does, whose last list belongs to its last answer
    packages = ("alfworld", "textworld")

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
        self._source = (data, game_files)
        self._collection = collection(data, game_files)
        if game_files is not None:
            split = FILES_SPLIT
        super().__init__(split=split, expert=expert, render_mode=render_mode)
        self.engine = check_name(engine, ENGINES, "engine")
        if action_grammar is not None:
            check_name(action_grammar, ACTION_GRAMMARS, "action grammar")
            if engine == "textworld":
                raise ConfigError(
                    "TextWorld speaks each game's own grammar: leave action_grammar out, or play natively."
                )
        self.action_grammar = action_grammar
        self.system_prompt = system_prompt(action_grammar or "move")
        self._goal_line = ""
        self._clear()

    def _clear(self) -> None:
        """No game in play."""
        self.game: Engine | None = None
        self._model: Game | None = None
        self._course = Course()
        self._first_commands: list[str] = []
        self._demonstration: list[Choice] = []
        self._shown_at: Course | None = None

    def __getstate__(self) -> dict[str, Any]:
        left_out = ("_collection", "game", "_model", "_demonstration", "_shown_at")
        kept = {name: value for name, value in self.__dict__.items() if name not in left_out}
        return {**kept, "snapshot": self.snapshot() if self.game is not None else None}

    def __setstate__(self, state: dict[str, Any]) -> None:
        snapshot = state.pop("snapshot")
        self.__dict__.update(state)
        self._collection = collection(*self._source)
        self._clear()
        if snapshot is not None:
            self.restore(snapshot)

    @classmethod
    def tasks(  # type: ignore[override]
        cls,
        split: str | None = None,
        *,
        data: str | os.PathLike[str] | None = None,
        game_files: Sequence[str] | None = None,
        **others: Any,
    ) -> Manifest:
        """List tasks; arguments of the constructor that do not choose data are accepted and make no difference.

        Args:
            split: a split, ``"dev"`` (valid_seen), ``"test"`` (valid_unseen), or a list file; None: all.
            data: as of the constructor.
            game_files: as of the constructor.
            others: other arguments of the constructor.
        """
        for name in others:
            check_name(name, inspect.signature(cls).parameters, "argument of ALFWorld")
        return collection(data, game_files).manifest(split)

    @property
    def example(self) -> tuple[Message, ...]:
        """A worked example in the environment's action grammar, as messages."""
        return worked_example(self.action_grammar or "move")

    def manifest(self, split: str | None = None) -> Manifest:
        return self._collection.manifest(split)

    # ---- the life of an episode -----------------------------------------------------------
    def _begin(self, task: Task) -> Outcome:
        game = self._collection.read(task.task_id)
        self._leave_game()
        self.game, self._model = self._start(game)
        observation = self.game.reset()
        if self._model is not None and self._model is not self.game:
            self._model.reset()
        self._course = Course(touched=frozenset(self._model.state.holding) if self._model else frozenset())
        self._first_commands = self.game.admissible()
        self._shown_at = None
        self._goal_line = texts.task_sentence(game.task or split_task(game.grammar)[0])
        self.system_prompt = system_prompt(self.action_grammar or self._own_grammar(game))
        return self._outcome_of(observation, started=True)

    def _start(self, game: GameFile) -> tuple[Engine, Game | None]:
        """What plays the game, and the native model that experts and planners reason with (None: unknown rules)."""
        reason = ""
        try:
            model = Game(WORLDS.get(game), self.action_grammar)
        except UnsupportedGame as unsupported:
            model, reason = None, str(unsupported)
        if model is not None and self.engine == "native":
            return model, model
        try:
            return TextWorldGame(game), model
        except DependencyNotInstalled as error:
            if not reason:
                raise
            raise DependencyNotInstalled(
                f"{game.source}: the native engine does not play it: {reason}. For TextWorld: {error}"
            ) from error

    def _own_grammar(self, game: GameFile) -> str:
        """How the game itself words laying down."""
        if self._model is not None:
            return self._model.listed_verb
        return "put" if "put {o} in/on {r}" in game.grammar else "move"

    def _leave_game(self) -> None:
        if isinstance(self.game, TextWorldGame):
            self.game.close()
        self.game = None

    def _advance(self, action: str) -> Outcome:
        game, model = self._playing(), self._model
        observation = game.step(action)
        if model is not None:
            if model is not game:
                model.step(action)
            state, shown = model.state, model.shown
            course = self._course
            seen = course.seen.union(state.inside[shown]) if shown >= 0 else course.seen
            self._course = Course((*course.steps, (action, observation)), seen, course.touched.union(state.holding))
        return self._outcome_of(observation)

    def _outcome_of(self, observation: str, started: bool = False) -> Outcome:
        game = self._playing()
        # The original tells `won` when a game begins with its goal fulfilled, but scores and ends at the first command.
        score = 0.0 if started else float(game.won)
        extra = {"engine": game.name, "task_type": self._need_task().task_type, "subgoals": self._subgoals()}
        ended = game.won and not started
        return Outcome(observation, score, score, game.valid, ended, success=game.won, extra=extra)

    def _playing(self) -> Engine:
        if self.game is None:
            raise gym.error.ResetNeeded("Call reset() first.")
        return self.game

    def _subgoals(self) -> dict[str, bool]:
        model, course = self._model, self._course
        return subgoals(model.world, model.state, course.seen, course.touched) if model is not None else {}

    def _admissible(self) -> Sequence[str]:
        game = self._playing()
        if isinstance(game, Game):
            state = game.snapshot()
            return LazyActions(lambda: game.admissible(state))
        return game.admissible()

    def _instruction(self) -> str:
        return self._goal_line

    # ---- demonstrations and optimal play ---------------------------------------------------
    def expert_actions(self) -> list[str] | None:
        """The commands with which the honest expert goes on from here, knowing what this episode has shown.

        None: rules that only TextWorld knows, a goal of another shape, or nothing left to try.
        """
        self._need_task()
        return [choice.command for choice in self._demonstrate()] or None

    def expert_rationale(self, action: str) -> str:
        """Why the expert would give ``action`` now, ``""`` if it would not."""
        demonstration = self._demonstrate()
        return demonstration[0].thought if demonstration and demonstration[0].command == action else ""

    def _demonstrate(self) -> list[Choice]:
        if self._shown_at is not self._course:
            self._demonstration = self._continued() if self._model is not None else []
            self._shown_at = self._course
        return self._demonstration

    def _continued(self) -> list[Choice]:
        """The rest of the last demonstration if it was followed, else a new one."""
        model, course = self._model, self._course
        assert model is not None
        goal = outline(model.world)
        if goal is None or model.won:
            return []
        before, shown = self._shown_at, self._demonstration
        if before is not None and shown and course.steps and course.steps[:-1] == before.steps:  # noqa: SIM102
            if course.steps[-1][0] == shown[0].command:
                return shown[1:]
        memory = begin(self._first_commands)
        for command, answer in course.steps:
            memory.observe(command, answer)
        copy = Game(model.world, self.action_grammar)
        copy.restore(model.state)
        return demonstrate(Expert(goal, kept_in(model.world)), memory, copy)

    def optimal_actions(self) -> set[str] | None:
        """All commands that begin a shortest continuation on the full state; None where unknown."""
        self._need_task()
        if self._model is None:
            return None
        return self._planner(self._model).optimal_actions(self._model.state)

    def _planner(self, model: Game) -> Planner:
        key = f"planner {model.listed_verb}"
        if key not in model.world.memo:
            model.world.memo[key] = Planner(model.world, model.listed_verb)
        planner: Planner = model.world.memo[key]
        return planner

    def progress(self) -> float | None:
        done = list(self._outcome.extra.get("subgoals", {}).values())
        return sum(done) / len(done) if done else None

    # ---- states ---------------------------------------------------------------------------
    def snapshot(self) -> Any:
        """The current state; immutable and cheap with the native engine, a replay with TextWorld."""
        model = self._model.snapshot() if self._model else None
        return (self._need_task(), self._playing().snapshot(), model, self._course, self._outcome, len(self._actions))

    def restore(self, state: Any) -> tuple[str, dict[str, Any]]:
        task, inner, model, course, outcome, count = state
        if self.task != task or self.game is None:
            self.task = task
            self._begin(task)
        self._playing().restore(inner)
        if self._model is not None and self._model is not self.game:
            self._model.restore(model)
        self._course, self._outcome = course, outcome
        self._actions = [command for command, _ in course.steps][:count]
        return outcome.observation, self._info()

    def close(self) -> None:
        self._leave_game()
        super().close()
