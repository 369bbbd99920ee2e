"""ScienceWorld as a text environment."""

from __future__ import annotations

import contextlib
import inspect
import weakref
from collections.abc import Sequence
from typing import Any, NamedTuple

from icto_gym.core import LazyActions, Outcome, TextEnv
from icto_gym.envs.scienceworld import tasks as table
from icto_gym.envs.scienceworld.expert import GoldPath, gold_path, rationale, read_progress
from icto_gym.envs.scienceworld.gateway import find_jars, find_java
from icto_gym.envs.scienceworld.prompt import system_prompt
from icto_gym.envs.scienceworld.session import Moment, Session
from icto_gym.errors import BackendError, ConfigError, InvalidTask, check_name
from icto_gym.tasks import Manifest, Task

_NOT_KNOWN = "No known action matches that input."
_CANCELLED = "Unknown action.  Type 'help'"  # an open question was answered by something else
_IDLE = ("look around", "inventory", "task", "help", "objects")
"""Commands that change nothing: done on the way, they leave the demonstrated path where it was."""


class Snapshot(NamedTuple):
    """A moment of an episode as data; it pickles."""

    task: Task
    simplification: str
    instruction: str
    actions: tuple[str, ...]
    idle: tuple[bool, ...]
    """Which of the actions changed nothing."""
    outcome: Outcome


class ScienceWorldEnv(TextEnv):
    """The ``scienceworld`` package's simulator, made reproducible and shared.

    ``info`` also holds ``best_score`` (highest so far, in [0, 1]), ``subgoals_done`` and ``subgoals_total``
    (the simulator's own goals, optional ones included), and ``moves`` (ticks of its clock: not steps).
    """

    recorded_info = ("best_score", "subgoals_done", "subgoals_total", "moves")
    packages = ("scienceworld", "py4j")
    program_arguments = ("java",)
    waits_elsewhere = True

    def __init__(
        self,
        *,
        simplification: str = "easy",
        task_types: Sequence[str] | None = None,
        java: str | None = None,
        call_timeout: float = 60.0,
        list_eagerly: bool = False,
        split: str | None = "train",
        expert: bool = False,
        render_mode: str | None = None,
    ) -> None:
        """Args:
        simplification: ``""``, ``"easy"``, or names of the package's simplifications between commas.
        task_types: only these (the package's names or numbers such as ``"1-1"``); None: all.
        java: path of a Java runtime; None: the one on PATH, else the packaged one.
        call_timeout: seconds after which a call to the simulator counts as hanging.
        list_eagerly: list the commands after every step and let that draw from the game's generator, as
            the package does. Slow; for exact replay of play recorded with the package.
        split: the split, named list or list file that seeds and bare indexes draw from; None: all.
        expert: put the demonstrated next command and its reason into ``info``.
        render_mode: ``"ansi"`` returns the observation from `render`.
        """
        super().__init__(split=split, expert=expert, render_mode=render_mode)
        if isinstance(call_timeout, bool) or not isinstance(call_timeout, (int, float)) or not call_timeout > 0:
            raise ConfigError(f"call_timeout={call_timeout!r:.80} must be a number above 0, in seconds.")
        find_jars()  # or say now what to install
        self.simplification = table.check_simplification(simplification)
        self.task_types = table.check_task_types(task_types)
        self.system_prompt = system_prompt(self.simplification)
        self._session = Session(find_java(java), call_timeout, self.simplification, list_eagerly=list_eagerly)
        self._manifests: dict[str | None, Manifest] = {}
        self._goal = ""
        self._idle: list[bool] = []

    # ---- tasks -------------------------------------------------------------------------------
    @classmethod
    def tasks(  # type: ignore[override]
        cls,
        split: str | None = None,
        *,
        simplification: str = "easy",
        task_types: Sequence[str] | None = None,
        **others: Any,
    ) -> Manifest:
        """List tasks without starting a simulator; see `icto_gym.envs.scienceworld.tasks.list_tasks`.

        Arguments of the constructor that do not choose tasks are accepted and make no difference.
        """
        for name in others:
            check_name(name, inspect.signature(cls).parameters, "argument of ScienceWorld")
        return table.list_tasks(split, simplification, task_types)

    def manifest(self, split: str | None = None) -> Manifest:
        """`tasks` with this environment's simplification and task types; list files are read once."""
        if split not in self._manifests:
            self._manifests[split] = table.list_tasks(split, self.simplification, self.task_types)
        return self._manifests[split]

    @property
    def step_limit(self) -> int | None:
        """The limit of agent turns for the present task's type."""
        return None if self.task is None else table.BY_NAME[self.task.task_type].step_limit

    # ---- the game ----------------------------------------------------------------------------
    def _begin(self, task: Task) -> Outcome:
        self._check_playable(task)
        observation = self._session.start(task.task_id)
        self._goal, self._idle = self._session.simulator.description(), []
        return self._read(observation, None)

    def _check_playable(self, task: Task) -> None:
        electrical = "power-component" in task.task_type or "conductivity" in task.task_type
        if electrical and "noElectricalAction" in self.simplification:
            raise InvalidTask(
                f"{task.task_id} is about electricity, which the simplification 'noElectricalAction' forbids. "
                "Drop it, or choose other task_types."
            )

    def _advance(self, action: str) -> Outcome:
        before = self._outcome
        observation = self._session.step(self._moment(self._actions[:-1]), action)
        self._idle.append(_is_idle(action, observation))
        try:
            return self._read(observation, before)
        except BackendError as error:
            self._session.drop(error)
            raise

    def _moment(self, actions: Sequence[str]) -> Moment:
        return Moment(self._need_task().task_id, tuple(actions), self._outcome.observation)

    def _read(self, observation: str, before: Outcome | None) -> Outcome:
        """Score, ending and progress after ``observation``."""
        simulator = self._session.simulator
        points = simulator.score()
        score = max(points, 0) / 100
        goals = read_progress(simulator.progress())
        return Outcome(
            observation,
            score=score,
            raw_score=float(points),
            valid=before is None or not observation.startswith((_NOT_KNOWN, _CANCELLED)),
            terminated=points < 0 or simulator.completed(),
            success=points >= 100,
            extra={
                "best_score": max(score, before.extra["best_score"] if before else 0.0),
                "subgoals_done": sum(goal.done for goal in goals),
                "subgoals_total": len(goals),
                "moves": simulator.moves(),
            },
        )

    def _instruction(self) -> str:
        return self._goal

    # ---- what can be done --------------------------------------------------------------------
    def _admissible(self) -> Sequence[str]:
        """The commands at this moment, listed when read: in this game if it still stands here, else in another."""
        moment, me = self._moment(self._actions), weakref.ref(self)
        if self._session.list_eagerly:
            return self._session.valid_actions(moment)
        twin = self._session.twin()

        def listed() -> Sequence[str]:
            env = me()
            if env is not None and env._is_at(moment):
                return env._session.valid_actions(moment)
            with contextlib.closing(twin) as aside:
                return aside.valid_actions(moment)

        return LazyActions(listed)

    def _is_at(self, moment: Moment) -> bool:
        return self.task is not None and self._moment(self._actions) == moment

    # ---- the expert --------------------------------------------------------------------------
    def expert_actions(self) -> list[str] | None:
        """The rest of the gold path, if all that was done lies on it; else None.

        Commands that change nothing (looking, what is not understood) may stand between.
        """
        if self._outcome.terminated:
            return None
        position = self._place_on_path()
        return None if position is None else list(self._gold().actions[position:]) or None

    def expert_rationale(self, action: str) -> str:
        """The sub-goal that the gold path serves here, in a sentence about ``action``."""
        position = self._place_on_path()
        goals = () if position is None else self._gold().goals
        return rationale(action, goals[position]) if position is not None and position < len(goals) else ""

    def _place_on_path(self) -> int | None:
        """How much of the gold path is done; None if something else was done."""
        path, position = self._gold().actions, 0
        for action, idle in zip(self._actions, self._idle, strict=False):
            if position < len(path) and action == path[position]:
                position += 1
            elif not idle:
                return None
        return position

    def _gold(self) -> GoldPath:
        task_id = self._need_task().task_id
        return gold_path(task_id, self.simplification, self._session.java, self._session.timeout)

    def progress(self) -> float | None:
        extra = self._outcome.extra
        return extra["subgoals_done"] / extra["subgoals_total"] if extra.get("subgoals_total") else None

    # ---- continuing elsewhere ----------------------------------------------------------------
    def snapshot(self) -> Snapshot:
        """The moment as data; any environment of the same simplification continues from it."""
        task, idle = self._need_task(), tuple(self._idle)
        return Snapshot(task, self.simplification, self._goal, tuple(self._actions), idle, self._outcome)

    def restore(self, state: Snapshot) -> tuple[str, dict[str, Any]]:
        """Return to a snapshot. The actions are played again when the game is next needed, not before."""
        if state.simplification != self.simplification:
            raise ConfigError(
                f"The snapshot was taken with simplification {state.simplification!r}; this is {self.simplification!r}."
            )
        self.task, self._actions, self._idle = state.task, list(state.actions), list(state.idle)
        self._goal, self._outcome = state.instruction, state.outcome
        return self._outcome.observation, self._info()

    def close(self) -> None:
        """Give the simulator back; its process ends soon if nobody else plays."""
        self._session.close()

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_manifests": {}}


def _is_idle(action: str, observation: str) -> bool:
    """Nothing came of it: not understood (and no question was open), or only looked."""
    if observation.startswith((_NOT_KNOWN, _CANCELLED)):
        return observation.startswith(_NOT_KNOWN)
    return " ".join(action.lower().split()) in _IDLE
