"""Few Java processes for many environments, kept warm while anyone plays.

A simulator's class loader compiles as it plays and gets three times faster over its first games; so
simulators are lent and given back, never thrown away while they work. The pool is one per Python
process: a forked child forgets its parent's and starts its own.
"""

from __future__ import annotations

import atexit
import os
import threading
import weakref

from icto_gym.envs.scienceworld.gateway import JavaError, JavaProcess
from icto_gym.envs.scienceworld.simulator import Simulator

GAMES_PER_PROCESS = 4
"""More in one process would save memory, and share its end if one game breaks it."""
LINGER_SECONDS = float(os.environ.get("ICTO_JAVA_LINGER", "3"))
"""How long a Java process waits for a next environment after its last one closed."""


class _Host:
    """One Java process and the simulators in it."""

    def __init__(self, java: str) -> None:
        self.java = java
        self.lock = threading.Lock()  # held while the process starts
        self.process: JavaProcess | None = None
        self.idle: list[Simulator] = []
        self.lent: set[Simulator] = set()
        self.reserved = 0
        """Places promised to simulators that are being made."""
        self.retired = False
        """Something in it hangs: no new games, and it ends with the last one."""
        self.timer: threading.Timer | None = None

    @property
    def games(self) -> int:
        return len(self.idle) + len(self.lent) + self.reserved

    @property
    def usable(self) -> bool:
        return not self.retired and (self.process is None or self.process.alive)

    def make(self, timeout: float) -> Simulator:
        with self.lock:
            if self.process is None:
                self.process = JavaProcess(self.java)
        return Simulator(self.process, timeout)

    def stop(self) -> None:
        if self.timer is not None:
            self.timer.cancel()
        for simulator in self.idle:
            simulator.close()
        if self.process is not None:
            self.process.stop()


class Lease:
    """The right to use one simulator, given back by `close` or when nobody holds the lease any more."""

    def __init__(self, pool: Pool, simulator: Simulator) -> None:
        self.simulator = simulator
        self._give_back = weakref.finalize(self, pool.give_back, simulator)
        self._give_back.atexit = False

    @property
    def alive(self) -> bool:
        """The simulator's process runs, and is this Python process's own."""
        return self._give_back.alive and self.simulator.alive

    @property
    def broken(self) -> bool:
        """The process ended under this Python process's hands (a parent's lease in a child is not broken)."""
        return self._give_back.alive and self.simulator.process.owner == os.getpid() and not self.simulator.alive

    def close(self) -> None:
        """Give the simulator back. Harmless when repeated."""
        self._give_back()

    def discard(self, error: Exception) -> None:
        """Give back a simulator that failed; only after an exception of the game's is it of further use."""
        self.simulator.broken = not isinstance(error, JavaError)
        self._give_back()


class Pool:
    """Lends simulators. Safe to use from several threads."""

    def __init__(self) -> None:
        self.owner = os.getpid()
        # Reentrant: the collector may give a lease back in the middle of anything.
        self._lock = threading.RLock()
        self._hosts: list[_Host] = []

    def lease(self, java: str, timeout: float) -> Lease:
        """Lend a simulator, a warm one if one is free.

        Args:
            java: the runtime's path.
            timeout: seconds after which a call counts as hanging.

        Raises:
            BackendError: Java does not start.
        """
        with self._lock:
            host, simulator = self._free_place(java)
            if simulator is not None:
                host.lent.add(simulator)
        if simulator is None:
            simulator = self._make(host, timeout)
        simulator.wire.timeout = timeout
        return Lease(self, simulator)

    def _free_place(self, java: str) -> tuple[_Host, Simulator | None]:
        self._bury()
        hosts = [host for host in self._hosts if host.java == java and host.usable]
        for host in hosts:
            if host.idle:
                self._keep(host)
                return host, host.idle.pop()
        for host in hosts:
            if host.games < GAMES_PER_PROCESS:
                self._keep(host)
                host.reserved += 1
                return host, None
        host = _Host(java)
        host.reserved = 1
        self._hosts.append(host)
        return host, None

    def _make(self, host: _Host, timeout: float) -> Simulator:
        try:
            simulator = host.make(timeout)
        except BaseException:
            with self._lock:
                host.reserved -= 1
                host.retired = True
                self._rest(host)
            raise
        with self._lock:
            host.reserved -= 1
            host.lent.add(simulator)
        return simulator

    def give_back(self, simulator: Simulator) -> None:
        """Take a simulator back from a lease."""
        if os.getpid() != self.owner:
            return
        with self._lock:
            for host in self._hosts:
                if simulator in host.lent:
                    host.lent.discard(simulator)
                    if simulator.broken or not simulator.alive or not simulator.wire.sound:
                        simulator.close()
                        host.retired = True
                    else:
                        host.idle.append(simulator)
                    self._rest(host)
                    return

    def _keep(self, host: _Host) -> None:
        if host.timer is not None:
            host.timer.cancel()
            host.timer = None

    def _rest(self, host: _Host) -> None:
        """After a game left: a process without games ends, at once or after a while."""
        if host.lent or host.reserved:
            return
        if not host.usable:
            self._end(host)
        elif host.timer is None:
            host.timer = threading.Timer(LINGER_SECONDS, self._expire, (host,))
            host.timer.daemon = True
            host.timer.start()

    def _expire(self, host: _Host) -> None:
        with self._lock:
            if not host.lent and not host.reserved and host.timer is threading.current_thread():
                self._end(host)

    def _bury(self) -> None:
        for host in list(self._hosts):
            if not host.usable and not host.lent and not host.reserved:
                self._end(host)

    def _end(self, host: _Host) -> None:
        if host in self._hosts:
            self._hosts.remove(host)
        host.stop()

    def processes(self) -> list[int]:
        """Process ids of the Java processes at work, for measuring."""
        with self._lock:
            return [host.process.process.pid for host in self._hosts if host.process is not None and host.process.alive]

    def close(self) -> None:
        """End every Java process; environments that still play lose their episode."""
        with self._lock:
            for host in list(self._hosts):
                self._end(host)

    def forget(self) -> None:
        """In a forked child: let go of the parent's pipes and sockets without a word on them."""
        for host in self._hosts:
            for simulator in (*host.idle, *host.lent):
                simulator.close()
            if host.process is not None:
                host.process.forget()
        self._hosts = []


_pool: Pool | None = None
_pool_lock = threading.Lock()


def the_pool() -> Pool:
    """The pool of this Python process."""
    global _pool
    with _pool_lock:
        if _pool is None:
            _pool = Pool()
            atexit.register(_pool.close)
        return _pool


def _after_fork() -> None:
    global _pool, _pool_lock
    inherited, _pool, _pool_lock = _pool, None, threading.Lock()
    if inherited is not None:
        inherited.forget()
        atexit.unregister(inherited.close)


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)
