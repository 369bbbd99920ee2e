"""Playing: a policy and environments in, finished trajectories out, each on disk before the next question.

    until every episode has ended:
        begin episodes until `batch_size` are under way
        take what comes:
            an episode's turn:        it waits for the policy
            an ended episode:         store it, begin another in its place
        when nothing more comes soon: the policy answers every turn that waits,
                                      and each answer goes to its episode's environment

Environments step in the meantime (`trainers.workers`), so a slow one holds nobody back. Every random draw
derives from an episode's own seed, so its result depends on neither the batch, the order nor the workers.
"""

from __future__ import annotations

import contextlib
import logging
import os
import sys
import time
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import Future
from pathlib import Path
from typing import Any, NamedTuple

from tqdm import tqdm

from icto_gym.errors import BackendError, ConfigError
from icto_gym.store import TrajectoryStore
from icto_gym.trajectory import Trajectory
from trainers.episodes import Setting, Source, trajectory_id
from trainers.policies.base import Answer, Policy, Turn, ask, checked
from trainers.records import write_records
from trainers.replicas import play_in_replicas
from trainers.sampling import Job, RolloutConfig, parse_workers, plan_jobs
from trainers.workers import Workers

__all__ = ["Job", "RolloutConfig", "play_in_order", "plan_jobs", "rollout", "trajectory_id"]

logger = logging.getLogger(__name__)

BROKEN_IN_A_ROW = 8
"""So many broken episodes without a sound one between them (or twice a full batch of them) end the run."""
PATIENCE = 0.1
"""How long turns that are ready wait for others before the policy is asked, as a share of its last answering."""


def rollout(
    policy: Policy,
    source: Source | Sequence[Source],
    jobs: Iterable[Job],
    store: TrajectoryStore,
    *,
    batch_size: int | None = None,
    workers: str | None = None,
    step_timeout: float | None = None,
    progress: bool | None = None,
) -> None:
    """Play the jobs that the store does not hold yet.

    Args:
        policy: who acts.
        source: how to make an environment: a configuration, or a function that returns a text
            environment with `ReAct` around it. Or several; a job's ``source`` says which.
        jobs: the episodes, such as `plan_jobs` gives.
        store: finished episodes go here, one by one; those in it are not played again.
        batch_size: episodes in flight; default: the (first) configuration's, else 8.
        workers: where environments run, such as ``"threads:4"``; default: the (first) configuration's.
        step_timeout: seconds after which a step in another process counts as hanging; default likewise.
        progress: show a progress bar; default: where standard error is a terminal or ``ICTO_PROGRESS=1``.

    Raises:
        BackendError: the policy's endpoint is broken, or every environment or episode. What was stored stays.
        ConfigError: there is no source, or not the one of a job; two different jobs would have the same trajectory
            id; or a number is below its least.
    """
    _check_numbers(batch_size, step_timeout)
    sources, jobs = tuple(source) if isinstance(source, Sequence) else (source,), tuple(jobs)
    _check_sources(len(sources), jobs)
    first = sources[0] if isinstance(sources[0], RolloutConfig) else RolloutConfig(batch_size=8)
    pending = _not_stored(policy, jobs, store)
    anew = len(pending) == len({trajectory_id(job, policy) for job in jobs})
    size = batch_size or first.batch_size
    setting = Setting(
        sources, policy.name, bool(getattr(policy, "needs_expert", False)), bool(getattr(policy, "reads_actions", True))
    )
    plan = parse_workers(workers if workers is not None else first.workers)
    log = _Log(store, len(pending), max(BROKEN_IN_A_ROW, 2 * size), progress)
    logger.info("playing %d episodes with %s, %d at a time", len(pending), policy.name, size)
    size, timeout = min(size, len(pending)), step_timeout or first.step_timeout
    try:
        if plan is not None and plan.replicas:
            play_in_replicas(policy, plan, setting, pending, log.keep, size, timeout, _Play)
        else:
            with contextlib.closing(Workers(plan, setting, size, timeout)) as places:
                _Play(policy, places, pending, log.keep, size).to_the_end()
        log.end(anew)
    except BackendError as error:
        raise BackendError(
            f"{error} {log.stored} of {log.total} episodes were finished and are stored in {store.path}; "
            "the same command plays the rest."
        ) from error
    finally:
        log.bar.close()
    logger.info("played %d episodes with %s: %d successes, %d broken", log.done, policy.name, log.successes, log.broken)


def _check_numbers(batch_size: int | None, step_timeout: float | None) -> None:
    if (batch_size is not None and batch_size < 1) or (step_timeout is not None and not step_timeout > 0):
        raise ConfigError(
            f"batch_size counts from 1 and step_timeout is above 0; got batch_size={batch_size}, "
            f"step_timeout={step_timeout}."
        )


def _check_sources(count: int, jobs: Sequence[Job]) -> None:
    if not count:
        raise ConfigError(
            "There is no environment to play in. Pass a RolloutConfig, a function that returns an environment with "
            "ReAct around it, or a list of at least one of these."
        )
    beyond = next((job for job in jobs if not 0 <= job.source < count), None)
    if beyond is not None:
        raise ConfigError(
            f"The job of {beyond.task_id} plays in source {beyond.source}, but the sources are {count}, counted from 0."
        )


def play_in_order(
    policy: Policy, source: Source | Sequence[Source], jobs: Sequence[Job], out: Path
) -> list[Trajectory]:
    """Play every job that the file ``out`` does not hold, then put the file into the jobs' order.

    Episodes are stored as they end, and which ends first depends on where a run was interrupted; what
    is made of the file must not. What else the file holds stays, behind them.
    """
    store = TrajectoryStore(out)
    rollout(policy, source, jobs, store)
    found = {trajectory.trajectory_id: trajectory for trajectory in store}
    ordered = [found[name] for name in (trajectory_id(job, policy) for job in jobs)]
    planned = {item.trajectory_id for item in ordered}
    write_records(out, [*ordered, *(item for name, item in found.items() if name not in planned)])
    return ordered


def _not_stored(policy: Policy, jobs: Iterable[Job], store: TrajectoryStore) -> deque[Job]:
    """The jobs still to be played, each once."""
    present, chosen = store.ids(), dict[str, Job]()
    for job in jobs:
        name = trajectory_id(job, policy)
        if chosen.setdefault(name, job) != job:
            raise ConfigError(
                f"Two different jobs would both be stored as {name}: {chosen[name]} and {job}. "
                "Number the attempts at a task, and play configurations that share tasks into files of their own."
            )
    return deque(job for name, job in chosen.items() if name not in present)


class _Answered(NamedTuple):
    """A policy that computes elsewhere has answered."""

    episode: str
    future: Future[Answer]


class _Play:
    """The loop; see the module's text."""

    def __init__(
        self, policy: Policy, workers: Workers, pending: deque[Job], keep: Callable[[Trajectory], Any], size: int
    ) -> None:
        self._policy, self._workers, self._pending, self._store, self._size = policy, workers, pending, keep, size
        self._under_way: set[str] = set()
        self._waiting: dict[str, Turn] = {}
        self._futures: dict[str, Future[Answer]] = {}
        self._answering_seconds = 0.0
        self._ask_at = 0.0

    def to_the_end(self) -> None:
        """Play every pending job."""
        try:
            self.go_on((), lambda: False)
        except BackendError:
            self._keep_finished()
            raise
        finally:
            for future in self._futures.values():
                future.cancel()
            for name in self._under_way:
                getattr(self._policy, "forget", _nothing)(name)

    def _keep_finished(self) -> None:
        """The run ends: store the episodes that have ended and were not seen yet."""
        with contextlib.suppress(BackendError):
            while (event := self._workers.next(0)) is not None:
                if isinstance(event, Trajectory) and event.error is None:
                    self._store(event)

    def go_on(self, jobs: Iterable[Job], enough: Callable[[], bool]) -> None:
        """Take on further jobs, and play until it is enough or nothing is under way."""
        self._pending.extend(jobs)
        self._begin_episodes()
        while self._under_way and not enough():
            event = self._next_event()
            if event is None:
                self._ask()
            elif isinstance(event, Trajectory):
                self._keep(event)
            elif isinstance(event, _Answered):
                self._pass_on(event)
            else:
                self._wait(event)

    def _begin_episodes(self) -> None:
        while self._pending and len(self._under_way) < self._size:
            job = self._pending.popleft()
            self._under_way.add(trajectory_id(job, self._policy))
            self._workers.begin(job)

    def _next_event(self) -> Turn | Trajectory | _Answered | None:
        """What comes next; None where the policy should be asked now."""
        if not self._waiting:
            return self._workers.next(None)
        all_wait = len(self._waiting) == len(self._under_way)
        return self._workers.next(0 if all_wait else max(0.0, self._ask_at - time.monotonic()))

    def _wait(self, turn: Turn) -> None:
        if not self._waiting:
            self._ask_at = time.monotonic() + PATIENCE * self._answering_seconds
        self._waiting[turn.episode] = turn

    def _keep(self, trajectory: Trajectory) -> None:
        """An episode has ended: store it, and begin another."""
        name = trajectory.trajectory_id
        self._under_way.remove(name)
        self._waiting.pop(name, None)
        self._futures.pop(name, None)
        self._store(trajectory)
        getattr(self._policy, "forget", _nothing)(name)
        self._begin_episodes()

    def _ask(self) -> None:
        """Have the policy answer every turn that waits."""
        turns = list(self._waiting.values())
        self._waiting.clear()
        if hasattr(self._policy, "submit"):
            for turn in turns:
                self._submit(turn)
            return
        begin = time.monotonic()
        answers = ask(self._policy, turns)
        self._answering_seconds = time.monotonic() - begin
        for turn, answer in zip(turns, answers, strict=True):
            self._workers.answer(turn.episode, answer)

    def _submit(self, turn: Turn) -> None:
        future: Future[Answer] = self._policy.submit(turn)  # type: ignore[attr-defined]
        self._futures[turn.episode] = future
        future.add_done_callback(lambda done: self._workers.post(_Answered(turn.episode, done)))

    def _pass_on(self, answered: _Answered) -> None:
        if self._futures.get(answered.episode) is answered.future:  # else its episode has ended without it
            del self._futures[answered.episode]
            self._workers.answer(answered.episode, checked(self._policy, answered.future.result()))


def _nothing(episode: str) -> None:
    """Most policies keep nothing between turns."""


class _Log:
    """Keeps finished episodes and shows how it goes.

    Broken episodes are held back until a sound one, or the end of a rollout that had one, shows that it is alive.
    Where too many break in a row, or all, nothing of them is recorded, and the same command plays those tasks again
    once it is mended.
    """

    def __init__(self, store: TrajectoryStore, total: int, limit: int, progress: bool | None) -> None:
        self._store, self._limit, self.total = store, limit, total
        self._held: list[Trajectory] = []
        self.done = self.stored = self.successes = self.broken = 0
        shown = progress if progress is not None else sys.stderr.isatty() or os.environ.get("ICTO_PROGRESS") == "1"
        self.bar = tqdm(total=total, desc="episodes", unit="ep", disable=not shown, file=sys.stderr)

    def keep(self, trajectory: Trajectory) -> None:
        """Store an episode, or hold it back.

        Raises:
            BackendError: too many in a row were broken.
        """
        self.done += 1
        self.successes += trajectory.success
        self.bar.update()
        self.bar.set_postfix_str(f"success {self.successes / self.done:.0%}")
        if trajectory.error is None:
            self.settle()
            self._append(trajectory)
            return
        logger.warning("%s broke: %s", trajectory.trajectory_id, trajectory.error)
        self.broken += 1
        self._held.append(trajectory)
        if len(self._held) >= self._limit:
            raise BackendError(
                f"The last {len(self._held)} episodes all broke; the latest: {trajectory.error} "
                "They were not recorded; mend the environment and run again, and they are played."
            )

    def end(self, anew: bool) -> None:
        """Every episode has ended.

        Args:
            anew: the store held none of them before; else that it holds shows that the environments can be sound.

        Raises:
            BackendError: all were broken.
        """
        if anew and self._held and self.broken == self.done:
            first = self._held[0]
            raise BackendError(
                f"Every episode broke ({self.broken} of {self.done}); the first, {first.trajectory_id}: {first.error} "
                "They were not recorded; mend the environment and run again, and they are played."
            )
        self.settle()

    def settle(self) -> None:
        """Store what was held back."""
        for trajectory in self._held:
            self._append(trajectory)
        self._held.clear()

    def _append(self, trajectory: Trajectory) -> None:
        self._store.append(trajectory)
        self.stored += 1
