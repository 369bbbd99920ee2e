"""One game of ScienceWorld in a Java process."""

from __future__ import annotations

from pathlib import Path

from icto_gym.envs.scienceworld.gateway import JavaProcess, Ref, Wire
from icto_gym.errors import BackendError

GOLD_PATH_SECONDS = 300.0
"""Time limit of making one gold path, whatever that of other calls is."""
LONGEST_ACTION = 2000
"""Longer texts are not sent: no command is that long, and the simulator's parser takes minutes for them."""
_SCRAMBLE = 0x5DEECE66D
"""What java.util.Random.setSeed combines a seed with by exclusive or."""


class Simulator:
    """A game with a class loader and a connection of its own, so that games in one process never meet.

    The generator, the object counter and the simplifications are static in the simulator: per class
    loader there is one of each. The gateway remembers methods by class name per connection, so two
    loaders must not share one.
    """

    def __init__(self, process: JavaProcess, timeout: float) -> None:
        self.process = process
        self.broken = False
        """Whoever used it last saw it fail."""
        self.wire = process.connect(timeout)
        loader = self._class_loader(process.simulator_jar)
        interface = self.wire.call(loader, "loadClass", "scienceworld.runtime.pythonapi.PythonInterface")
        self._game: Ref = self.wire.call(interface, "newInstance")
        self._seed_field, self._generator = self._find_generator(loader)

    def _class_loader(self, jar: str) -> Ref:
        wire: Wire = self.wire
        url_class = wire.static("java.lang.Class", "forName", "java.net.URL")
        urls = wire.static("java.lang.reflect.Array", "newInstance", url_class, 1)
        wire.static("java.lang.reflect.Array", "set", urls, 0, wire.new("java.net.URL", Path(jar).as_uri()))
        return wire.new("java.net.URLClassLoader", urls)

    def _find_generator(self, loader: Ref) -> tuple[Ref, Ref]:
        """The private field ``java.util.Random.seed`` and the one generator of this class loader."""
        wire: Wire = self.wire
        scala_random = wire.call(loader, "loadClass", "scala.util.Random$")
        module = wire.call(wire.call(scala_random, "getField", "MODULE$"), "get", None)
        field = wire.call(wire.static("java.lang.Class", "forName", "java.util.Random"), "getDeclaredField", "seed")
        wire.call(field, "setAccessible", True)
        return field, wire.call(module, "self")

    @property
    def alive(self) -> bool:
        """Its process runs and belongs to this Python process."""
        return self.process.alive

    def load(self, task: str, variation: int, simplification: str) -> str:
        """Start a task and look around: the first observation.

        Raises:
            BackendError: the simulator does not know the task, variation or simplification.
        """
        self._load(task, variation, simplification, False)
        first = self.step("look around")  # the score stands still at the last game's until a first step
        if first.startswith("ERROR: "):  # what the simulator could not load it says here
            raise BackendError(f"ScienceWorld could not load {task} {variation} ({simplification!r}): {first}")
        return first

    def _load(self, task: str, variation: int, simplification: str, gold: bool) -> None:
        limit = GOLD_PATH_SECONDS if gold else None
        problem = self.wire.call(self._game, "load", task, variation, simplification, gold, timeout=limit)
        if problem:
            raise BackendError(f"ScienceWorld could not load {task} {variation} ({simplification!r}): {problem}")

    def step(self, action: str) -> str:
        """Carry out a command; the answer in the simulator's words."""
        return str(self.wire.call(self._game, "step", sendable(action)))

    def score(self) -> int:
        """Points, -100 to 100; negative after a failure."""
        return round(100 * self.wire.call(self._game, "getScore"))

    def completed(self) -> bool:
        """All goals are met (a failure does not count as completed)."""
        return bool(self.wire.call(self._game, "getCompleted"))

    def moves(self) -> int:
        """Ticks of the simulator's clock, which are no actions: waiting takes many, looking none."""
        return int(self.wire.call(self._game, "getNumMoves"))

    def progress(self) -> str:
        """The simulator's table of sub-goals."""
        return str(self.wire.call(self._game, "getGoalProgressStr"))

    def description(self) -> str:
        """The goal, in the simulator's words."""
        return str(self.wire.call(self._game, "freeActionTaskDesc"))

    def simplifications(self) -> str:
        """What the chosen simplification turned into for this task."""
        return str(self.wire.call(self._game, "getSimplificationsUsed"))

    def valid_actions(self, *, keep_seed: bool = True) -> list[str]:
        """Commands that would be understood now.

        Which of an object's names is used is drawn from the game's generator, some hundred draws a list.
        The generator is left as it was found, unless ``keep_seed`` is False, which is how the package does it.
        """
        if not keep_seed:
            return self._texts("getValidActionObjectCombinations")
        seed = self.wire.call(self._seed_field, "get", self._generator)
        try:
            return self._texts("getValidActionObjectCombinations")
        finally:
            self.wire.call(self._generator, "setSeed", seed ^ _SCRAMBLE)  # setSeed scrambles; twice is not at all

    def gold_path(self, task: str, variation: int, simplification: str) -> list[str]:
        """The simulator's own solution. Takes seconds and leaves no game to go on with."""
        self._load(task, variation, simplification, True)
        return self._texts("getGoldActionSequence")

    def _texts(self, method: str) -> list[str]:
        listed = self.wire.call(self._game, method)
        try:
            joined = self.wire.static("java.lang.String", "join", "\n", listed)
        finally:
            self.wire.release(listed)
        return joined.split("\n") if joined else []

    def close(self) -> None:
        """Close the connection; the process goes on."""
        self.wire.close()


def sendable(action: str) -> str:
    """The action as Java can take it: what no command can contain becomes a text not understood."""
    if len(action) > LONGEST_ACTION:
        return "?"
    return action.encode("utf-8", "replace").decode("utf-8")
