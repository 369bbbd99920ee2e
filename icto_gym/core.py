"""The text-action environment that every benchmark here is.

A benchmark says how a task begins, what an action does and what can be done; this class keeps the
promises that are the same for all: tasks by id, index or seed, reward as the change of score, one info
schema, endings that stay ended, snapshots.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, TypedDict

import gymnasium as gym

from icto_gym.errors import BackendError, ConfigError, InvalidTask, check_name
from icto_gym.spaces import FreeText
from icto_gym.tasks import Manifest, Task, check_split

RESET_OPTIONS = ("task_id", "split", "index")


class EnvInfo(TypedDict, total=False):
    """What stands beside every observation: the same keys after reset and after step."""

    task_id: str
    split: str
    system_prompt: str
    instruction: str
    admissible_actions: Sequence[str] | None
    """None: the benchmark does not tell. Computed when read; reading never changes the game."""
    expert_action: str | None
    """The demonstrated next command; only when made with ``expert=True``, else None."""
    expert_thought: str | None
    """Why the expert would do that; only with ``expert=True``, else None."""
    valid_action: bool
    """The last action was understood; True after reset."""
    score: float
    """In [0, 1]."""
    raw_score: float
    """The benchmark's own number."""
    success: bool
    error: str | None
    """What broke the episode, if anything did."""


class LazyActions(Sequence[str]):
    """A list of commands that is computed at first reading.

    Compares equal to any sequence of the same commands and pickles as a computed list.
    """

    __slots__ = ("_compute", "_items")

    def __init__(self, compute: Callable[[], Sequence[str]]) -> None:
        self._compute: Callable[[], Sequence[str]] | None = compute
        self._items: tuple[str, ...] = ()

    def _read(self) -> tuple[str, ...]:
        if self._compute is not None:
            self._items, self._compute = tuple(self._compute()), None
        return self._items

    def __getitem__(self, index: Any) -> Any:
        return self._read()[index]

    def __len__(self) -> int:
        return len(self._read())

    def __iter__(self) -> Iterator[str]:
        return iter(self._read())

    def __contains__(self, item: object) -> bool:
        return item in self._read()

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Sequence) and not isinstance(other, str) and self._read() == tuple(other)

    __hash__ = None  # type: ignore[assignment]

    def __reduce__(self) -> tuple[Any, ...]:
        return (_computed, (self._read(),))

    def __deepcopy__(self, memo: Any) -> LazyActions:
        return _computed(self._read())

    def __repr__(self) -> str:
        return repr(list(self._read()))


def _computed(items: Sequence[str]) -> LazyActions:
    return LazyActions(lambda: items)


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a benchmark answers to a reset or an action."""

    observation: str
    score: float = 0.0
    """In [0, 1]; the reward is its change."""
    raw_score: float = 0.0
    valid: bool = True
    terminated: bool = False
    success: bool = False
    error: str | None = None
    extra: dict[str, Any] = field(default_factory=dict)
    """The benchmark's own info keys: the same ones every time."""


class TextEnv(gym.Env[str, str]):
    """Base of the benchmarks. Observation and action are `str`; any string is a legal action.

    A benchmark implements `tasks` (class method), `_begin`, `_advance` and `_admissible`, and
    where it can `expert_actions`, `optimal_actions`, `snapshot` and `restore`.
    """

    metadata = {"render_modes": ["ansi"], "render_fps": 1}  # noqa: RUF012  (Gymnasium declares it so)
    system_prompt: str = ""
    """How to act: the benchmark's grammar and the expected format."""
    recorded_info: ClassVar[tuple[str, ...]] = ()
    """Info keys of the benchmark's own (JSON values) whose last value a trajectory keeps."""
    lists_after_end: ClassVar[bool] = False
    """The benchmark goes on listing commands when the task has ended (none of them does anything here)."""
    packages: ClassVar[tuple[str, ...]] = ()
    """Distributions whose version may change an episode: results cite them."""
    program_arguments: ClassVar[tuple[str, ...]] = ()
    """Arguments of the constructor that name a program to run: never taken from a file unasked."""
    waits_elsewhere: ClassVar[bool] = False
    """Most of a step is waiting for another process, so that many episodes gain from threads."""

    def __init__(self, *, split: str | None = "train", expert: bool = False, render_mode: str | None = None) -> None:
        """Args:
        split: the split, named list or list file that seeds and bare indexes draw from; None: all.
        expert: put the demonstrated next command and its reason into ``info``.
        render_mode: ``"ansi"`` returns the observation from `render`.
        """
        self.observation_space = FreeText()
        self.action_space = FreeText()
        if render_mode is not None and render_mode not in self.metadata["render_modes"]:
            check_name(render_mode, self.metadata["render_modes"], "render mode")
        check_split(split)
        self.render_mode = render_mode
        self.split = split
        self.expert = expert
        self.task: Task | None = None
        self._actions: list[str] = []
        self._outcome = Outcome("")

    # ---- what a benchmark implements -------------------------------------------------------
    @classmethod
    def tasks(cls, split: str | None = None, **kwargs: Any) -> Manifest:
        """List tasks without starting a simulator; see `icto_gym.tasks`."""
        raise NotImplementedError

    def manifest(self, split: str | None = None) -> Manifest:
        """`tasks` with this environment's own data arguments (a benchmark with such overrides it)."""
        return self.tasks(split)

    def _begin(self, task: Task) -> Outcome:
        """Start the task. Raise `BackendError` if the simulator breaks."""
        raise NotImplementedError

    def _advance(self, action: str) -> Outcome:
        """Carry out one action. Raise `BackendError` if the simulator breaks."""
        raise NotImplementedError

    def _admissible(self) -> Sequence[str] | None:
        """Commands that would be understood now, or None if the benchmark does not tell.

        Return a `LazyActions` where listing is costly.
        """
        return None

    def _instruction(self) -> str:
        """The goal in the benchmark's words."""
        raise NotImplementedError

    def expert_actions(self) -> list[str] | None:
        """Commands of a demonstrated continuation from the current state, or None."""
        return None

    def expert_rationale(self, action: str) -> str:
        """A sentence on why the expert would do ``action`` now; ``""`` if it has none."""
        return ""

    @property
    def example(self) -> Sequence[Any]:
        """A worked example as messages, where the benchmark has one; see `ReAct`."""
        return ()

    def brief_observation(self, observation: str) -> str:
        """``observation`` without what every one repeats, such as the goal; see `BriefObservation`."""
        return observation

    def optimal_actions(self) -> set[str] | None:
        """Commands that begin a shortest continuation to success, or None where unknown."""
        return None

    def progress(self) -> float | None:
        """Share of the benchmark's sub-goals that stand fulfilled, in [0, 1]; None where it has none."""
        return None

    # ---- the Gymnasium interface ------------------------------------------------------------
    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[str, dict[str, Any]]:
        """Start an episode.

        Args:
            seed: seeds the generator that draws the task.
            options: ``task_id``; or ``index`` with optionally ``split``; or ``split`` to draw from.

        Raises:
            InvalidTask: no such task, split or index.
            ConfigError: an option that does not exist.
        """
        super().reset(seed=seed)
        task = self._choose_task(options or {})
        self.task, self._actions = task, []
        self._outcome = self._begin(task)
        return self._outcome.observation, self._info()

    def step(self, action: str) -> tuple[str, float, bool, bool, dict[str, Any]]:
        """Carry out ``action``; an ended episode stays ended and answers the same again."""
        if not isinstance(action, str):
            raise ConfigError(f"An action is a str; got {type(action).__name__} {action!r:.80}.")
        if self.task is None:
            raise gym.error.ResetNeeded("Call reset() before step().")
        before = self._outcome
        if before.terminated:
            return before.observation, 0.0, True, False, self._info()
        self._actions.append(action)
        try:
            self._outcome = self._advance(action)
        except BackendError as error:
            self._outcome = Outcome(
                before.observation, before.score, before.raw_score, valid=False,
                terminated=True, error=str(error), extra=before.extra,
            )  # fmt: skip
        now = self._outcome
        return now.observation, now.score - before.score, now.terminated, False, self._info()

    def render(self) -> str | None:  # type: ignore[override]
        """The last observation as text, in render mode ``"ansi"``."""
        return self._outcome.observation if self.render_mode == "ansi" else None

    def snapshot(self) -> Any:
        """The current state; `restore` continues exactly from it.

        The default remembers the actions and plays them again. The step count of Gymnasium's
        ``TimeLimit`` lies outside of the state.
        """
        self._need_task()
        return (self.task, tuple(self._actions))

    def restore(self, state: Any) -> tuple[str, dict[str, Any]]:
        """Return to a snapshot; gives the observation and info of that moment."""
        task, actions = state
        self.task, self._actions = task, []
        self._outcome = self._begin(task)
        for action in actions:
            if not self._outcome.terminated:
                self._actions.append(action)
                self._outcome = self._advance(action)
        return self._outcome.observation, self._info()

    # ---- shared parts ------------------------------------------------------------------------
    def _need_task(self) -> Task:
        if self.task is None:
            raise gym.error.ResetNeeded("Call reset() first.")
        return self.task

    def _choose_task(self, options: dict[str, Any]) -> Task:
        if not isinstance(options, Mapping):
            raise ConfigError(
                f"The options of reset are {options!r:.80}; give a dictionary such as {{'split': 'test'}}."
            )
        for name in options:
            check_name(name, RESET_OPTIONS, "reset option")
        check_split(options.get("split"))
        if "task_id" in options:
            if "index" in options:
                raise ConfigError("Give reset either 'task_id' or 'index', not both.")
            return self.manifest(options.get("split")).find(options["task_id"])
        if "index" in options:
            return self._task_at(options.get("split"), options["index"])
        manifest = self.manifest(options.get("split", self.split))
        if not len(manifest):
            where = f"the list {manifest.name!r} of {manifest.env_id}" if manifest.name else f"{manifest.env_id}'s data"
            raise InvalidTask(f"There is no task in {where}, so none can be drawn.")
        return manifest[int(self.np_random.integers(len(manifest)))]

    def _task_at(self, split: str | None, index: int) -> Task:
        """The task counted by a bare index; benchmarks with their own numbering override it."""
        return self.manifest(split or self.split).at(index)

    def _info(self) -> dict[str, Any]:
        task, now = self._need_task(), self._outcome
        return {
            "task_id": task.task_id,
            "split": task.split,
            "system_prompt": self.system_prompt,
            "instruction": self._instruction(),
            "admissible_actions": self._admissible() if self._lists() else [],
            **self._expert_step(),
            "valid_action": now.valid,
            "score": now.score,
            "raw_score": now.raw_score,
            "success": now.success,
            "error": now.error,
            **now.extra,
        }

    def _lists(self) -> bool:
        now = self._outcome
        return not now.terminated or (self.lists_after_end and now.error is None)

    def _expert_step(self) -> dict[str, str | None]:
        actions = self.expert_actions() if self.expert and not self._outcome.terminated else None
        if not actions:
            return {"expert_action": None, "expert_thought": None}
        return {"expert_action": actions[0], "expert_thought": self.expert_rationale(actions[0])}
