"""What a stage has spent, over all sessions it took."""

from __future__ import annotations

import logging
import threading
import time
from pathlib import Path
from types import TracebackType
from typing import NamedTuple

from icto_gym.files import read_json, write_json

logger = logging.getLogger(__name__)
EVERY = 20.0
"""Seconds between two entries: a session that is killed loses no more of its time than this."""


class Spent(NamedTuple):
    """Time that passed, and time of the processor, of this process alone."""

    seconds: float = 0.0
    cpu_seconds: float = 0.0


class StageClock:
    """Adds the time within the block to what a record names, every `EVERY` seconds and at the end.

    A process that is killed cannot say how long it worked; what it said last is in the record.
    """

    def __init__(self, record: Path, *, running: bool = True) -> None:
        """Args:
        record: a JSON object, whose ``seconds`` and ``cpu_seconds`` are of earlier sessions.
        running: False: the clock stands still and writes nothing, as in all processes but one.
        """
        self._path, self._running = record, running
        self._end = threading.Event()
        self._ticking = threading.Thread(target=self._tick, name="stage clock", daemon=True)

    def __enter__(self) -> StageClock:
        self._record = read_json(self._path) if self._running else {}
        self._before = Spent(*(self._record.get(name, 0.0) for name in Spent._fields))
        self._begun = time.monotonic(), time.process_time()
        if self._running:
            self._ticking.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._end.set()
        if self._running:
            self._ticking.join()
            self._enter_spent()

    def spent(self) -> Spent:
        """In earlier sessions and in this one."""
        now = time.monotonic(), time.process_time()
        return Spent(*(old + new - begun for old, new, begun in zip(self._before, now, self._begun, strict=True)))

    def _tick(self) -> None:
        while not self._end.wait(EVERY):
            self._enter_spent()

    def _enter_spent(self) -> None:
        spent = {name: round(value, 2) for name, value in self.spent()._asdict().items()}
        try:
            write_json(self._path, {**self._record, **spent})
        except OSError as error:  # the work itself will say what it thinks of a full disk
            logger.debug("%s could not be written: %s", self._path, error)
