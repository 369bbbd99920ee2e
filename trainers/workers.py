"""Where environments run, and how their episodes get from there to the policy and back.

A crew of threads serves one room each: a `Playroom` in the thread itself, or one in a process or a Ray
actor (`trainers.rooms`). An episode stays in its room. What comes of a call is put on one queue, from which
the rollout takes it; so nobody waits for the slowest. The calls to a room that was lost are known (an
episode is its job and what the policy said), so its episodes are played again elsewhere, and the rollout
does not notice.
"""

from __future__ import annotations

import contextlib
import logging
import queue
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, NamedTuple

from icto_gym.errors import BackendError
from icto_gym.trajectory import Trajectory
from trainers.episodes import Playroom, Setting, lost_trajectory, trajectory_id
from trainers.policies.base import Answer, Turn
from trainers.rooms import CLOSE_SECONDS, NoRoom, ProcessRoom, RayRoom, Room, RoomLost, ray_cluster
from trainers.sampling import Job, RolloutConfig, WorkerPlan, waits_elsewhere

logger = logging.getLogger(__name__)

MOST_THREADS = 32
"""Of a crew whose size nobody named."""
REPLAYS = 2
"""So often an episode is played again after its room was lost within one of its own steps; then it is recorded."""


class _Outcome(NamedTuple):
    """What a room answered; ``answers`` counts what the policy had said in the episode until then."""

    name: str
    answers: int
    result: Turn | Trajectory


class _Loss(NamedTuple):
    """A room is gone, with these episodes, in the middle of a step of one of them (or of none, ``""``)."""

    hand: _Hand
    episodes: frozenset[str]
    during: str
    error: Exception


@dataclass
class _Charge:
    """An episode under way."""

    job: Job
    hand: _Hand | None
    """Who serves its room; None: this thread."""
    said: list[Answer] = field(default_factory=list)
    asked: bool = False
    """Its turn has been handed out and not been answered."""
    losses: int = 0


class Workers:
    """Episodes in rooms: `begin` and `answer` them, and `next` says what comes of it."""

    def __init__(self, plan: WorkerPlan | None, setting: Setting, size: int, timeout: float = 600.0) -> None:
        """Args:
        plan: kind and number of workers (`trainers.sampling.parse_workers`); None: threads for the sources that
            wait for other processes, this thread for the others.
        setting: what is played. Turns that come from other processes hold a computed list of actions, or none
            where it says so.
        size: episodes under way at once, at most; more workers than that are not started.
        timeout: seconds after which a call to another process counts as hanging.
        """
        plan_or_own = plan or WorkerPlan("threads", min(size, MOST_THREADS))
        kind, number = plan_or_own.kind, plan_or_own.number
        self._setting, self._charges = setting, dict[str, _Charge]()
        self._events: queue.SimpleQueue[Any] = queue.SimpleQueue()
        self._elsewhere = [kind != "none" and (plan is not None or _waits(source)) for source in setting.sources]
        self._here = Playroom(_in_one_process(setting))
        self._cluster = contextlib.ExitStack()
        if kind == "ray":
            self._cluster.enter_context(ray_cluster())
        kinds: dict[str, Callable[[], Room]] = {
            "threads": partial(Playroom, _in_one_process(setting)),
            "processes": partial(ProcessRoom, setting, timeout),
            "ray": partial(RayRoom, setting, timeout, plan_or_own),
        }
        open_room = kinds.get(kind, kinds["threads"])
        self._crew = [_Hand(open_room, self._events) for _ in range(min(number, size) if any(self._elsewhere) else 0)]

    def begin(self, job: Job) -> None:
        """Start an episode."""
        hand = self._idlest() if self._elsewhere[job.source] else None
        name = trajectory_id(job, self._setting.policy)
        self._charges[name] = _Charge(job, hand)
        if hand is None:
            self._events.put(_Outcome(name, 0, self._here.begin(job)))
        else:
            hand.call(name, 0, "begin", job)

    def answer(self, name: str, answer: Answer) -> None:
        """Carry out the answer to an episode's turn."""
        charge = self._charges[name]
        charge.asked = False
        charge.said.append(answer)
        if charge.hand is None:
            self._events.put(_Outcome(name, len(charge.said), self._here.answer(name, answer)))
        else:
            charge.hand.call(name, len(charge.said), "answer", name, answer)

    def post(self, event: Any) -> None:
        """Have `next` return this too: what else the rollout waits for."""
        self._events.put(event)

    def next(self, seconds: float | None) -> Any:
        """The next turn, trajectory or posted event; None where none comes within so many seconds (None: waits).

        Raises:
            BackendError: no room is left. Anything else that a room raised comes out here too.
        """
        while True:
            try:
                event = self._events.get(timeout=seconds) if seconds != 0 else self._events.get_nowait()
            except queue.Empty:
                return None
            if isinstance(event, BaseException):
                raise event
            if isinstance(event, _Loss):
                self._replace(event)
            elif not isinstance(event, _Outcome):
                return event
            elif self._is_news(event):
                return event.result

    def close(self) -> None:
        """Close all rooms; those that do not close are ended, or left alone where they are threads."""
        for hand in self._crew:
            hand.stop()
        until = time.monotonic() + CLOSE_SECONDS
        for hand in self._crew:
            hand.leave(max(0.0, until - time.monotonic()))
        self._here.close()
        self._cluster.close()

    def _idlest(self) -> _Hand:
        return min(self._crew, key=lambda hand: hand.load)

    def _is_news(self, event: _Outcome) -> bool:
        """False for a turn that was handed out before its room was lost and has now been reached again."""
        charge = self._charges.get(event.name)
        if charge is None:
            return False
        if isinstance(event.result, Trajectory):
            self._release(event.name)
            return True
        if charge.asked or event.answers != len(charge.said):
            return False
        charge.asked = True
        return True

    def _release(self, name: str) -> None:
        charge = self._charges.pop(name)
        if charge.hand is not None:
            charge.hand.load -= 1

    def _replace(self, loss: _Loss) -> None:
        """Play the episodes of a lost room again in others; one that keeps losing its room is recorded as broken."""
        lost = [name for name in loss.episodes if name in self._charges]
        if isinstance(loss.error, NoRoom):  # its hand has left, and what was handed to it since is lost too
            lost = [name for name, charge in self._charges.items() if charge.hand is loss.hand]
            self._crew.remove(loss.hand)
        logger.warning("%s %d episodes are played again elsewhere", loss.error, len(lost))
        if not self._crew:
            raise BackendError(f"No worker is left: {loss.error}") from loss.error
        for name in lost:
            charge = self._charges[name]
            charge.losses += name == loss.during
            loss.hand.load -= 1
            if charge.losses > REPLAYS:
                charge.hand = None
                record = lost_trajectory(charge.job, self._setting, loss.error)
                self._events.put(_Outcome(name, len(charge.said), record))
            else:
                charge.hand = self._idlest()
                charge.hand.call(name, len(charge.said), "begin", charge.job, tuple(charge.said))


class _Hand(threading.Thread):
    """Serves one room, opened at the first call; what comes of a call goes onto the common queue."""

    def __init__(self, open_room: Callable[[], Room], events: queue.SimpleQueue[Any]) -> None:
        super().__init__(daemon=True)  # one that hangs does not keep Python from ending
        self.load = 0
        """Episodes in this room, as the `Workers` count them."""
        self._open, self._events = open_room, events
        self._room: Room | None = None
        self._episodes: set[str] = set()
        self._calls: queue.SimpleQueue[tuple[Any, ...] | None] = queue.SimpleQueue()
        self._leaving = False

    def call(self, name: str, answers: int, method: str, *arguments: Any) -> None:
        """Carry out a call to the room, after those before it."""
        if method == "begin":
            self.load += 1
        self._calls.put((name, answers, method, *arguments))
        if self.ident is None:
            self.start()

    def run(self) -> None:
        try:
            while (call := self._calls.get()) is not None and not self._leaving:
                self._carry_out(*call)
        except NoRoom as error:
            self._events.put(_Loss(self, frozenset(self._episodes), "", error))
        except BaseException as error:  # an environment that calls sys.exit too, else nobody hears of it
            self._events.put(error)
        finally:
            if self._room is not None:
                self._room.close()

    def _carry_out(self, name: str, answers: int, method: str, *arguments: Any) -> None:
        if method == "begin":
            self._episodes.add(name)
        elif name not in self._episodes:  # lost with an earlier room; it is played again elsewhere
            return
        self._room = self._room or self._open()
        try:
            result = getattr(self._room, method)(*arguments)
        except RoomLost as error:
            self._events.put(_Loss(self, frozenset(self._episodes), name, error))
            self._episodes.clear()
            self._room = None
            return
        if isinstance(result, Trajectory):
            self._episodes.discard(name)
        self._events.put(_Outcome(name, answers, result))

    def stop(self) -> None:
        """Carry out no further call."""
        self._leaving = True
        self._calls.put(None)

    def leave(self, seconds: float) -> None:
        """Wait for the room to close; end it where it takes longer."""
        if self.ident is None:
            return
        self.join(seconds)
        kill = getattr(self._room, "kill", None)
        if self.is_alive() and kill is not None:
            kill()
            self.join(CLOSE_SECONDS)
        if self.is_alive():
            logger.warning("an environment still works on its last step and was left alone")


def _waits(source: Any) -> bool:
    return isinstance(source, RolloutConfig) and waits_elsewhere(source.env_id)


def _in_one_process(setting: Setting) -> Setting:
    """Here a list of actions is computed when read, so nothing is spared by leaving it out."""
    return replace(setting, lists_actions=True)
