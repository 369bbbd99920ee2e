"""A game that can be brought to any moment of any episode, in whatever simulator is at hand."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from typing import Any, NamedTuple, TypeVar

from icto_gym.envs.scienceworld.pool import Lease, the_pool
from icto_gym.envs.scienceworld.simulator import Simulator
from icto_gym.envs.scienceworld.tasks import task_parts
from icto_gym.errors import BackendError

_T = TypeVar("_T")


class Moment(NamedTuple):
    """A point in an episode: what was played, and what the last answer was."""

    task_id: str
    actions: tuple[str, ...]
    observation: str


class Session:
    """Plays in a leased simulator, which it takes when first needed and keeps from episode to episode.

    It remembers what the simulator has played. Asked for another moment (after `restore`, in a forked
    child, in an unpickled copy) it plays the actions again, as few of them as will do.
    """

    def __init__(self, java: str, timeout: float, simplification: str, *, list_eagerly: bool = False) -> None:
        self.java = java
        self.timeout = timeout
        self.simplification = simplification
        self.list_eagerly = list_eagerly
        self.listed: list[str] = []
        """With ``list_eagerly``, the commands after the last action."""
        self._lease: Lease | None = None
        self._loaded: str | None = None
        self._played: list[str] = []

    @property
    def simulator(self) -> Simulator:
        """The simulator at hand."""
        if self._lease is None:
            raise BackendError("No game is at hand: the environment was closed. Call reset().")
        return self._lease.simulator

    def start(self, task_id: str) -> str:
        """Begin an episode; the first observation."""
        return self._twice(lambda: self._load(task_id))

    def step(self, before: Moment, action: str) -> str:
        """Carry out ``action`` at a moment; the answer.

        Raises:
            BackendError: the simulator broke. The session stays usable.
        """
        try:
            self._reach(before)
            return self._play(action)
        except BackendError as error:
            self.drop(error)
            raise

    def valid_actions(self, now: Moment) -> list[str]:
        """Commands that would be understood at a moment.

        If the simulator at hand fails, another lists them, and the failure is left for the next step to meet.
        """
        try:
            return self._list(now)
        except BackendError:
            with contextlib.closing(self.twin()) as aside:
                return aside._twice(lambda: aside._list(now))

    def _list(self, now: Moment) -> list[str]:
        self._reach(now)
        return self.listed if self.list_eagerly else self.simulator.valid_actions()

    def twin(self) -> Session:
        """A session with the same settings and no game yet."""
        return Session(self.java, self.timeout, self.simplification, list_eagerly=self.list_eagerly)

    def _usable(self) -> bool:
        return self._lease is not None and self._lease.alive

    def _twice(self, attempt: Callable[[], _T]) -> _T:
        """Where nothing was done yet that could be lost, a dead process costs a second attempt only."""
        try:
            return attempt()
        except BackendError as error:
            self.drop(error)
            return attempt()

    def _reach(self, moment: Moment) -> None:
        if self._lease is not None and self._lease.broken:
            raise BackendError("The Java process that played this episode ended (killed, or out of memory).")
        done = len(self._played)
        actions = list(moment.actions)
        if not self._usable() or self._loaded != moment.task_id or self._played != actions[:done]:
            seen, done = self._load(moment.task_id), 0
        elif done == len(actions):
            return
        for action in actions[done:]:
            seen = self._play(action)
        if seen != moment.observation:
            raise BackendError(f"Playing {len(actions)} actions of {moment.task_id} again went another way.")

    def _load(self, task_id: str) -> str:
        if not self._usable():
            self.close()
            self._lease = the_pool().lease(self.java, self.timeout)
        self._loaded, self._played = None, []
        observation = self.simulator.load(*task_parts(task_id), self.simplification)
        self._loaded = task_id
        return self._answered(observation)

    def _play(self, action: str) -> str:
        self._played.append(action)
        return self._answered(self.simulator.step(action))

    def _answered(self, observation: str) -> str:
        if self.list_eagerly:
            self.listed = self.simulator.valid_actions(keep_seed=False)
        return observation

    def drop(self, error: BackendError) -> None:
        """Let go of a simulator that failed."""
        if self._lease is not None:
            self._lease.discard(error)
        self.close()

    def close(self) -> None:
        """Give the simulator back; its process ends soon if nobody else plays."""
        if self._lease is not None:
            self._lease.close()
        self._lease, self._loaded, self._played = None, None, []

    def __getstate__(self) -> dict[str, Any]:
        """All but the simulator, which stays with the original."""
        return {**self.__dict__, "_lease": None, "_loaded": None, "_played": []}
