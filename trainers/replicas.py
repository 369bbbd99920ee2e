"""Whole episodes elsewhere: each Ray actor holds environments and a copy of the policy of its own.

    every actor: gets jobs from the common queue, up to its share of the batch
    until every episode has ended:
        wait for whichever actor has something (or has played for a moment)
        what it finished is stored, one trajectory after the other; then it gets as many new jobs
        an actor that died or hangs: another takes its place, its unfinished jobs are played again

Ray places the actors, starts them and says which has something. What crosses the wire is jobs there and
trajectories back. An episode depends on its job alone, so who plays it, and how often it was begun, does not show.
"""

from __future__ import annotations

import logging
import os
import pickle
import sys
import time
from collections import Counter, deque
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from icto_gym.errors import BackendError, ConfigError, require
from icto_gym.trajectory import Trajectory
from trainers.episodes import Setting, lost_trajectory, trajectory_id
from trainers.policies import room
from trainers.policies.base import Policy
from trainers.policies.players import recorded_player
from trainers.rooms import CLOSE_SECONDS, START_SECONDS, RoomLost, ray_actor, ray_cluster, ray_result, taken
from trainers.sampling import Job, WorkerPlan
from trainers.workers import REPLAYS, Workers

logger = logging.getLogger(__name__)

MOMENT = 1.0
"""Seconds after which an actor says that it is alive, where no episode has ended before."""


class Play(Protocol):
    """The loop of a rollout (`trainers.rollout`)."""

    def go_on(self, jobs: Iterable[Job], enough: Callable[[], bool]) -> None: ...


MakePlay = Callable[[Policy, Workers, "deque[Job]", Callable[[Trajectory], Any], int], Play]


class Replica:
    """What one actor does."""

    def open(
        self,
        recipe: Mapping[str, Any],
        folder: str,
        path: list[str],
        setting: Setting,
        size: int,
        make_play: MakePlay,
        sharers: int = 1,
    ) -> None:
        """Make the policy and be ready to play.

        Args:
            recipe: how the policy is made (`trainers.policies.players.Player.recipe`).
            folder: where relative checkpoint folders are found.
            path: where modules were found on the machine of the driver.
            setting: what is played.
            size: episodes under way at once, at most.
            make_play: the loop.
            sharers: actors that may be on the same machine, or card, and want their part of its memory.

        Raises:
            ConfigError: the policy cannot be made here, or is not called as on the driver.
        """
        sys.path.extend(place for place in path if place not in sys.path)
        room.sharers = sharers
        policy = recorded_player(recipe, Path(folder)).load()
        if policy.name != setting.policy:
            raise ConfigError(
                f"The policy made again in a Ray actor is called {policy.name!r}, not {setting.policy!r}. "
                "Give it a name that does not depend on where it is made."
            )
        self._ended: list[Trajectory] = []
        self._workers = Workers(None, setting, size)
        self._play = make_play(policy, self._workers, deque(), self._ended.append, size)

    def play(self, jobs: list[Job]) -> list[Trajectory]:
        """Take on further jobs and play on, until an episode has ended or a moment has passed."""
        until = time.monotonic() + MOMENT
        self._play.go_on(jobs, lambda: bool(self._ended) or time.monotonic() >= until)
        ended = list(self._ended)
        self._ended.clear()
        return ended

    def close(self) -> None:
        """Close the environments."""
        if hasattr(self, "_workers"):
            self._workers.close()


@dataclass(eq=False)
class _Seat:
    """One actor, as the driver sees it."""

    actor: Any
    allowed: float = 0.0
    """Seconds its present call may take."""
    until: float = 0.0
    """When these are over, by `time.monotonic`."""
    opened: bool = False
    jobs: dict[str, Job] = field(default_factory=dict)
    """What it plays."""


def play_in_replicas(
    policy: Policy,
    plan: WorkerPlan,
    setting: Setting,
    pending: deque[Job],
    keep: Callable[[Trajectory], None],
    size: int,
    timeout: float,
    make_play: MakePlay,
) -> None:
    """Play every pending job in Ray actors that hold copies of the policy.

    Args:
        policy: who acts; made by `make_policy` or a `Player`, so that it is known how to make it again.
        plan: how many actors, and what of its machine each takes.
        setting: what is played.
        pending: the jobs; emptied.
        keep: stores a trajectory; an actor gets no further job before.
        size: episodes under way at once, over all actors.
        timeout: seconds after which an actor counts as hanging that neither ends an episode nor goes on with one.
        make_play: the loop that an actor runs.

    Raises:
        ConfigError: the policy cannot be made again from what is known of it, or the environments not be sent.
        BackendError: no actor is left.
    """
    recipe = getattr(policy, "made_by", None)
    if recipe is None:
        raise ConfigError(
            f"Policy {setting.policy!r} ({type(policy).__name__}) is an object of which nobody knows how it is made "
            "again, so Ray workers cannot hold replicas of it. Make it by make_policy('my_package.module:MyPolicy', "
            "...), or leave the word 'replicas' out of workers: then it is asked from here."
        )
    if not pending:
        return
    with ray_cluster():
        crew = _Crew(plan, (recipe, os.getcwd(), list(sys.path), setting), pending, keep, size, timeout, make_play)
        try:
            crew.to_the_end()
        finally:
            crew.close()


class _Crew:
    """All actors and the queue of jobs they share."""

    def __init__(
        self,
        plan: WorkerPlan,
        known: tuple[Mapping[str, Any], str, list[str], Setting],
        pending: deque[Job],
        keep: Callable[[Trajectory], None],
        size: int,
        timeout: float,
        make_play: MakePlay,
    ) -> None:
        self._ray, self._plan, self._setting = require("ray", extra="ray"), plan, known[-1]
        self._pending, self._keep, self._timeout = pending, keep, timeout
        self._number = min(plan.number, size)
        self._share = -(-size // self._number)
        # Ray may place all of them on one machine; a card holds as many as take a fraction of it
        sharers = max(1, int(1 / plan.gpus)) if plan.gpus else self._number
        self._opening = (*known, self._share, make_play, sharers)
        self._suspects: deque[Job] = deque()
        """Lost twice with their actors: each is played alone, so that it alone is to blame for a third loss."""
        self._losses: Counter[str] = Counter()
        self._calls: dict[Any, _Seat] = {}
        self._seats: list[_Seat] = []

    def to_the_end(self) -> None:
        """Play every job."""
        for _ in range(self._number):
            self._open()
        while self._pending or self._suspects or any(seat.jobs for seat in self._calls.values()):
            patience = max(0.0, min(seat.until for seat in self._calls.values()) - time.monotonic())
            ready, _ = self._ray.wait(list(self._calls), timeout=patience)
            now = time.monotonic()
            overdue = [call for call, seat in self._calls.items() if seat.until <= now]
            for call in {*ready, *overdue}:
                self._hear(call, self._calls.pop(call))

    def close(self) -> None:
        """End every actor; those that are not at work close their environments first."""
        closing = [seat.actor.close.remote() for seat in self._not_at_work()]
        if closing:
            self._ray.wait(closing, num_returns=len(closing), timeout=CLOSE_SECONDS)
        for seat in self._seats:
            self._ray.kill(seat.actor)

    def _not_at_work(self) -> list[_Seat]:
        return [seat for seat in self._seats if seat not in self._calls.values()]

    def _open(self) -> None:
        seat = _Seat(ray_actor(Replica, self._plan).remote())
        self._seats.append(seat)
        try:
            self._call(seat, "open", max(START_SECONDS, self._timeout), *self._opening)
        except (TypeError, AttributeError, pickle.PicklingError) as error:
            raise ConfigError(
                f"The environment or the options of the policy cannot be sent to a Ray worker ({error}). "
                "Make them of plain values and of functions or classes of a module."
            ) from error

    def _call(self, seat: _Seat, method: str, allowed: float, *arguments: Any) -> None:
        call = getattr(seat.actor, method).remote(*arguments)
        seat.allowed, seat.until = allowed, time.monotonic() + allowed
        self._calls[call] = seat

    def _hear(self, call: Any, seat: _Seat) -> None:
        """Take what an actor gave, and let it go on."""
        try:
            ended = ray_result(call, 0, seat.allowed)
        except RoomLost as loss:
            self._replace(seat, loss)
            return
        seat.opened = True
        for trajectory in ended or ():
            del seat.jobs[trajectory.trajectory_id]
            self._keep(trajectory)
        self._go_on(seat)

    def _go_on(self, seat: _Seat) -> None:
        """Give an actor jobs in place of those it has finished."""
        new: list[Job] = []
        while self._pending and len(seat.jobs) + len(new) < self._share:
            new.append(self._pending.popleft())
        if self._suspects and not seat.jobs and not new:
            new.append(self._suspects.popleft())
        seat.jobs |= {trajectory_id(job, self._setting.policy): job for job in new}
        if seat.jobs:
            self._call(seat, "play", self._timeout + MOMENT, new)

    def _replace(self, seat: _Seat, loss: RoomLost) -> None:
        """Have the unfinished jobs of a lost actor played by others; one that loses actor after actor is recorded."""
        self._seats.remove(seat)
        self._ray.kill(seat.actor)
        logger.warning("%s %d episodes are played again elsewhere", loss, len(seat.jobs))
        alone = len(seat.jobs) == 1
        for name, job in seat.jobs.items():
            self._losses[name] += 1
            if self._losses[name] > REPLAYS and alone:
                self._keep(lost_trajectory(job, self._setting, loss))
            else:
                (self._pending if self._losses[name] < REPLAYS else self._suspects).append(job)
        if seat.opened:
            self._open()
        else:
            logger.warning("the rollout does without this worker. %s", taken(self._plan))
        for other in self._not_at_work():
            if other.opened:
                self._go_on(other)
        if not self._seats:
            raise BackendError(f"No worker is left: {loss} {taken(self._plan)}") from loss
