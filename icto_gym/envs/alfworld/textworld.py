"""The original engine: TextWorld playing the game file, as alfworld's ``AlfredTWEnv`` has it played.

For reference, and for games whose rules the native engine does not know. TextWorld parses its grammar
for every text and translates the problem at every reset; both are remembered here, which changes no
answer. What it does to the process (``sys.argv``, ``sys.stdout``, ``$ALFWORLD_DATA``) stays in here.
"""

from __future__ import annotations

import copy
import io
import os
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import lru_cache
from types import SimpleNamespace
from typing import Any, TextIO

from icto_gym.envs.alfworld.gamefile import GameFile
from icto_gym.errors import BackendError, DataError, require

_LOCK = threading.RLock()
_KEPT_TRANSLATIONS = 16


class TextWorldGame:
    """One game in play; answers like `engine.Game` and needs the extra ``alfworld``."""

    name = "textworld"

    def __init__(self, game: GameFile) -> None:
        """Raises:
        DependencyNotInstalled: alfworld is not installed.
        DataError: TextWorld refuses the game.
        """
        self._parts = _load_parts()
        self.source = game.source
        self.valid = True
        self.won = False
        self._actions: list[str] = []
        self._admissible: list[str] = []
        with _LOCK:
            self._env = self._parts.idle.pop() if self._parts.idle else self._parts.make()
            try:
                self._env.load(with_original_rules(game))
            except Exception as error:  # anything can come out of the parsers
                raise DataError(
                    f"{game.source}: TextWorld cannot load it ({type(error).__name__}: {error}). "
                    "A KeyError 'val1' means a goal that can never be reached."
                ) from error

    @property
    def score(self) -> int:
        """1 while the goal holds, else 0."""
        return int(self.won)

    def reset(self) -> str:
        """Begin anew; gives the whole introduction."""
        with _LOCK:
            state = self._env.reset()
        self._actions, self.valid = [], True
        return self._read(state)

    def step(self, command: str) -> str:
        """Carry out a command and answer it."""
        self._actions.append(command)
        with _LOCK:
            try:
                state, _, _ = self._env.step(command)
            except Exception as error:
                raise BackendError(f"{self.source}: TextWorld broke ({type(error).__name__}: {error}).") from error
        self.valid = state["_last_action"] is not None
        return self._read(state)

    def admissible(self) -> list[str]:
        """The commands that would do something now, sorted, each once."""
        return list(self._admissible)

    def snapshot(self) -> tuple[str, ...]:
        """The commands so far: this engine goes back by playing them again."""
        return tuple(self._actions)

    def restore(self, state: tuple[str, ...]) -> None:
        """Play a snapshot's commands again from the start."""
        self.reset()
        for command in state:
            self.step(command)

    def close(self) -> None:
        """Leave the loaded planner library to the next game: unloading it would bring the process down at exit."""
        env, self._env = self._env, None
        if env is not None:
            with _LOCK:
                self._parts.idle.append(env)

    def _read(self, state: Any) -> str:
        self.won = bool(state["won"])
        self._admissible = list(state["admissible_commands"])
        return str(state.feedback)


def with_original_rules(game: GameFile) -> dict[str, Any]:
    """The mapping that TextWorld loads; a built-in game gets domain and grammar from the alfworld package."""
    domain, grammar = game.domain, game.grammar
    if not domain:
        domain, template = original_rules()
        grammar = template.replace("UNKNOWN GOAL", game.task)
    return {"pddl_domain": domain, "grammar": grammar, "pddl_problem": game.problem}


@lru_cache(maxsize=1)
def original_rules() -> tuple[str, str]:
    """Domain and grammar (with ``UNKNOWN GOAL`` for the task) of the installed alfworld."""
    from importlib.resources import files

    require("alfworld", extra="alfworld")
    folder = files("alfworld") / "data"
    return (folder / "alfred.pddl").read_text("utf-8"), (folder / "alfred.twl2").read_text("utf-8")


@lru_cache(maxsize=1)
def _load_parts() -> SimpleNamespace:
    """Import the packages and put a memory in front of their parsers."""
    with _LOCK, _kept_process_state():
        require("alfworld", extra="alfworld")
        pddl = require("textworld.envs.pddl.pddl", extra="alfworld")
        logic = require("textworld.envs.pddl.logic", extra="alfworld")
        textgen = require("textworld.envs.pddl.textgen", extra="alfworld")
        wrappers = require("alfworld.agents.environment.alfred_tw_env", extra="alfworld")
        core = require("textworld.core", extra="alfworld")
        downward = require("fast_downward", extra="alfworld")
        sys.argv = ["translate.py", "domain", "task"]  # the translator reads its options at its first import
        require("fast_downward.translate.translate", extra="alfworld")
        _remember(logic, textgen, downward)
    infos = core.EnvInfos(won=True, admissible_commands=True)

    def make() -> Any:
        with _kept_process_state():
            return wrappers.AlfredDemangler(pddl.PddlEnv(infos), shuffle=False)

    return SimpleNamespace(make=make, idle=[])


def _remember(logic: Any, textgen: Any, downward: Any) -> None:
    """Answer equal questions to the parsers and the translator from memory."""
    textgen._parse_and_convert = _fresh_copies(textgen._parse_and_convert)
    textgen.copy_context = _own_dictionaries  # TextWorld copies deeply what it only reads
    parse_query = lru_cache(maxsize=4096)(textgen.Rule.parse_conjunctive_query)
    textgen.Rule = SimpleNamespace(parse_conjunctive_query=parse_query)
    logic._parse_and_convert = lru_cache(maxsize=8)(logic._parse_and_convert)
    translate = lru_cache(maxsize=_KEPT_TRANSLATIONS)(_translate)
    names = {name: getattr(downward, name) for name in ("Atom", "Operator", "translate", "load_lib", "close_lib")}
    logic.fast_downward = SimpleNamespace(
        **names, pddl2sas=lambda domain, problem, verbose=False, optimize=False: translate(domain, problem, optimize)
    )


def _fresh_copies(parse: Callable[..., Any]) -> Callable[..., Any]:
    """Remember parses, handing out copies: TextWorld writes into what it gets."""
    remembered = lru_cache(maxsize=4096)(parse)
    return lambda *args, **kwargs: copy.deepcopy(remembered(*args, **kwargs))


def _own_dictionaries(context: dict[str, Any]) -> dict[str, Any]:
    return {**context, "variables": dict(context["variables"]), "mapping": dict(context["mapping"])}


def _translate(domain: str, problem: str, optimize: bool) -> tuple[Any, str]:
    """PDDL to the planner's format, with the options that textworld's own door sets, and silently."""
    from fast_downward.translate import normalize, options, translate
    from fast_downward.translate.pddl_parser import lisp_parser, parsing_functions

    options.filter_unimportant_vars = options.filter_unreachable_facts = optimize
    options.use_partial_encoding = options.add_implied_preconditions = optimize
    options.skip_variable_reordering = not optimize
    options.invariant_generation_max_candidates = 0
    with _silence():
        task = parsing_functions.parse_task(
            lisp_parser.parse_nested_list(domain.split("\n")), lisp_parser.parse_nested_list(problem.split("\n"))
        )
        normalize.normalize(task)
        text = io.StringIO()
        translate.pddl_to_sas(task).output(text)
    return task, text.getvalue()


@contextmanager
def _kept_process_state() -> Iterator[None]:
    argv, data = list(sys.argv), os.environ.get("ALFWORLD_DATA")
    try:
        with _silence():
            yield
    finally:
        sys.argv = argv
        if data is None:  # importing alfworld sets it to a folder of its own
            os.environ.pop("ALFWORLD_DATA", None)


class _OneThreadSilent(io.TextIOBase):
    """Swallows what one thread writes and passes on what the others do."""

    def __init__(self, out: TextIO) -> None:
        self.out, self.thread = out, threading.get_ident()

    def write(self, text: str) -> int:
        return len(text) if threading.get_ident() == self.thread else self.out.write(text)

    def flush(self) -> None:
        if threading.get_ident() != self.thread:
            self.out.flush()


@contextmanager
def _silence() -> Iterator[None]:
    before = sys.stdout
    quiet = _OneThreadSilent(before)
    sys.stdout = quiet  # type: ignore[assignment]
    try:
        yield
    finally:
        if sys.stdout is quiet:
            sys.stdout = before
