"""Rooms that are elsewhere: the same calls as a `Playroom`, carried out in a process or in a Ray actor.

A room that dies or hangs raises `RoomLost`, once; whoever used it opens another and has its episodes
played again there.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import pickle
import signal
import threading
import traceback
from collections.abc import Iterator, Sequence
from multiprocessing.connection import Connection, wait
from typing import Any, Protocol

from icto_gym.errors import BackendError, ConfigError, IctoError, require
from icto_gym.trajectory import Trajectory
from trainers.episodes import Playroom, Setting
from trainers.policies.base import Answer, Turn
from trainers.sampling import Job, WorkerPlan

START_SECONDS = 120.0
"""How long a room may take to open: imports, or a Ray cluster's finding a processor for it."""
CLOSE_SECONDS = 5.0


class RoomLost(IctoError):
    """A room ended, and its episodes with it."""


class NoRoom(BackendError):
    """A room could not be opened."""


class Room(Protocol):
    """Where episodes are played; see `trainers.episodes.Playroom`."""

    def begin(self, job: Job, said: Sequence[Answer] = ()) -> Turn | Trajectory: ...
    def answer(self, name: str, answer: Answer) -> Turn | Trajectory: ...
    def close(self) -> None: ...


def _steps(job: Job, said: Sequence[Answer]) -> int:
    """What a beginning takes: the reset, and every step that is played again. A limit holds for one of them."""
    return 1 + len(job.prefix) + len(said)


class ProcessRoom:
    """A room in a process of its own, started afresh (spawned), so that it shares no lock with this one."""

    def __init__(self, setting: Setting, timeout: float) -> None:
        """Args:
        setting: what is played.
        timeout: seconds after which a call counts as hanging; the process is ended then.

        Raises:
            ConfigError: the setting cannot be sent to another process.
            NoRoom: the process does not start.
        """
        context = multiprocessing.get_context("spawn")
        self._pipe, theirs = context.Pipe()
        self._process = context.Process(target=_serve, args=(theirs, setting), daemon=True, name="icto room")
        self._timeout, self._hung = timeout, False
        try:
            self._process.start()
        except (pickle.PicklingError, AttributeError, TypeError) as error:
            raise ConfigError(
                f"The environment cannot be sent to another process ({error}). "
                "Make it by a function or class of a module, or choose workers 'threads:N' or 'none'."
            ) from error
        finally:
            theirs.close()
        try:
            self._exchange(None, START_SECONDS)
        except RoomLost as error:
            raise NoRoom(
                f"A worker process did not start: {error} A script that starts one needs its doing under "
                "if __name__ == '__main__'."
            ) from None

    def begin(self, job: Job, said: Sequence[Answer] = ()) -> Turn | Trajectory:
        return self._exchange(("begin", job, said), self._timeout * _steps(job, said))

    def answer(self, name: str, answer: Answer) -> Turn | Trajectory:
        return self._exchange(("answer", name, answer), self._timeout)

    def close(self) -> None:
        """Let the process close its environments and end; end it where it does not."""
        self._pipe.close()
        self._process.join(CLOSE_SECONDS)
        self.kill()

    def kill(self) -> None:
        """End the process, whatever it does."""
        if self._process.is_alive():
            self._process.kill()
        self._process.join()

    def _exchange(self, call: tuple[Any, ...] | None, timeout: float) -> Any:
        """Send a call and wait for its outcome; a stopped process may not even take the call off the pipe."""
        alarm = threading.Timer(timeout, self._end_hanging)
        alarm.daemon = True
        alarm.start()
        try:
            if call is not None:
                self._pipe.send(call)
            outcome, error, where = self._pipe.recv()
        except (EOFError, OSError) as broken:
            raise RoomLost(self._what_happened(timeout)) from broken
        finally:
            alarm.cancel()
        if error is None:
            return outcome
        raise error from BackendError(f"in a worker process:\n{where}")

    def _end_hanging(self) -> None:
        self._hung = True
        self._process.kill()

    def _what_happened(self, timeout: float) -> str:
        self._process.join(CLOSE_SECONDS)
        code = self._process.exitcode
        self.kill()
        if self._hung:
            return f"The worker process did not answer within {timeout:g} s and was ended."
        return f"The worker process ended with exit code {code}."


def _serve(pipe: Connection, setting: Setting) -> None:
    """What a worker process does: calls in, outcomes out, until the other end closes."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's affair, which then closes the pipe
    threading.Thread(target=_end_with_parent, daemon=True).start()
    with contextlib.suppress(EOFError, BrokenPipeError):
        try:
            room = Playroom(setting)
            pipe.send((None, None, ""))
        except Exception as error:
            pipe.send(_failure(error))
            return
        with contextlib.closing(room):
            while True:
                method, *arguments = pipe.recv()
                try:
                    outcome = getattr(room, method)(*arguments)
                except Exception as error:
                    pipe.send(_failure(error))
                else:
                    _send(pipe, outcome)


def _end_with_parent() -> None:
    """A killed parent takes its rooms along, also one that hangs in a step."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        wait([parent.sentinel])
        os._exit(1)


def _send(pipe: Connection, outcome: Turn | Trajectory | None) -> None:
    try:
        pipe.send((outcome, None, ""))
    except (pickle.PicklingError, AttributeError, TypeError) as error:  # nothing has been sent then
        pipe.send(
            _failure(
                ConfigError(
                    f"What the environment says in info cannot be sent from its process ({error}). "
                    "Put plain values there, or choose workers 'threads:N' or 'none'."
                )
            )
        )


def _failure(error: Exception) -> tuple[None, Exception, str]:
    """An error as it is sent; one that does not pickle goes as its words."""
    where = traceback.format_exc()
    try:
        pickle.loads(pickle.dumps(error))
    except Exception:
        error = BackendError(f"{type(error).__name__}: {error}")
    return None, error, where


class RayRoom:
    """A room in a Ray actor, on whichever machine of the cluster has a processor free."""

    def __init__(self, setting: Setting, timeout: float, plan: WorkerPlan) -> None:
        """Args:
        setting: what is played.
        timeout: seconds after which a call counts as hanging; the actor is ended then.
        plan: what of its machine the actor takes.

        Raises:
            NoRoom: the cluster has not that much free, or the actor does not start.
        """
        self._ray, self._timeout = require("ray", extra="ray"), timeout
        try:
            self._actor = ray_actor(Playroom, plan).remote(setting)
            self._call("__ray_ready__", timeout=START_SECONDS)
        except RoomLost as error:
            raise NoRoom(f"Ray gave no worker: {error} {taken(plan)}") from error
        except TypeError as error:  # pages of it
            raise ConfigError(
                f"The environment cannot be sent to a Ray worker ({str(error).splitlines()[0]}). Make it of plain "
                "values and of functions or classes of a module, or choose workers 'threads:N' or 'none'."
            ) from error

    def begin(self, job: Job, said: Sequence[Answer] = ()) -> Turn | Trajectory:
        return self._call("begin", job, said, timeout=self._timeout * _steps(job, said))

    def answer(self, name: str, answer: Answer) -> Turn | Trajectory:
        return self._call("answer", name, answer, timeout=self._timeout)

    def close(self) -> None:
        """Let the actor close its environments, and end it."""
        with contextlib.suppress(RoomLost, IctoError):
            self._call("close", timeout=CLOSE_SECONDS)
        self.kill()

    def kill(self) -> None:
        """End the actor, whatever it does."""
        self._ray.kill(self._actor)

    def _call(self, method: str, *arguments: Any, timeout: float) -> Any:
        try:
            return ray_result(getattr(self._actor, method).remote(*arguments), timeout, timeout)
        except RoomLost:
            self.kill()
            raise


def ray_actor(kind: type, plan: WorkerPlan) -> Any:
    """A class as one of Ray actors, spread over the machines, each taking its share of one."""
    ray = require("ray", extra="ray")
    return ray.remote(num_cpus=plan.cpus, num_gpus=plan.gpus, scheduling_strategy="SPREAD")(kind)


def taken(plan: WorkerPlan) -> str:
    """What one Ray worker needs, in words."""
    cards = f" and gpus={plan.gpus:g}" if plan.gpus else ""
    return f"A worker takes cpus={plan.cpus:g}{cards} of one machine of the cluster."


def ray_result(call: Any, seconds: float, allowed: float) -> Any:
    """What a call to an actor gave, waiting for so many seconds of those it was ``allowed``.

    Raises:
        RoomLost: the actor is gone, or hangs. What the call itself raised comes out as it was.
    """
    ray = require("ray", extra="ray")
    try:
        return ray.get(call, timeout=seconds)
    except ray.exceptions.RayTaskError as error:
        raise error.cause from error
    except ray.exceptions.GetTimeoutError:
        raise RoomLost(f"The Ray worker did not answer within {allowed:g} s and was ended.") from None
    except ray.exceptions.RayError as error:  # the actor, its machine or the way to it is gone
        raise RoomLost(f"The Ray worker is gone ({type(error).__name__}).") from error


@contextlib.contextmanager
def ray_cluster() -> Iterator[None]:
    """The cluster that runs here or that ``$RAY_ADDRESS`` names; else one on this machine, for the time of the block.

    Raises:
        BackendError: there is no cluster at that address.
    """
    ray = require("ray", extra="ray")
    if ray.is_initialized():
        yield
        return
    own = not os.environ.get("RAY_ADDRESS")
    # a cluster of one's own listens to this machine only
    options = {"_node_ip_address": "127.0.0.1", "include_dashboard": False} if own else {}
    try:
        ray.init(address="local" if own else None, log_to_driver=False, **options)
    except (ConnectionError, ValueError, RuntimeError) as error:
        raise BackendError(
            f"Ray did not start, or is not at RAY_ADDRESS={os.environ.get('RAY_ADDRESS')!r}: {error}"
        ) from error
    try:
        yield
    finally:
        ray.shutdown()
