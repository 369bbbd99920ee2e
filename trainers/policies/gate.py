"""The gate before an endpoint: every question passes it, so that what one is told slows all.

How many may be under way follows TCP's congestion control (Jacobson, 1988): a busy endpoint halves the number, every
round of answers adds one. Questions that went out together and come back busy together halve it once. Behind an
endpoint that is away only one question tries; when it is answered the number doubles with every round, up to half
of what it was. So those who waited never rush in together. Pauses double, with jitter from a generator of its own:
no result depends on it.
"""

from __future__ import annotations

import random
import threading
import time
from dataclasses import dataclass

from icto_gym.errors import BackendError

LONGEST_PAUSE = 60.0
"""Seconds; no pause of our own is longer. One that the endpoint asks for may be."""


@dataclass(eq=False)
class Pass:
    """One question's way through the gate, from its first try to its answer."""

    void: str = ""
    """Why it may not go on."""
    cuts: int = 0
    """How often the number had been lowered when it last went out."""


class Gate:
    """Counts the questions under way; safe to use from many threads."""

    def __init__(self, most: int, pause: float, patience: float) -> None:
        """Args:
        most: questions under way at once, at most.
        pause: seconds of the first pause; each further one without an answer in between is twice as long.
        patience: seconds; the last pause of our own ends when the endpoint has been silent for so long.
        """
        self._most, self._pause, self._patience = float(most), pause, patience
        self._limit = self._threshold = self._most
        self._under_way = self._cuts = self._failures = 0
        self._resume_at = 0.0
        self._silent_since: float | None = None
        self._passes: set[Pass] = set()
        self._changed = threading.Condition()
        self._random = random.Random()

    @property
    def limit(self) -> int:
        """Questions that may be under way now."""
        return int(self._limit)

    def issue(self) -> Pass:
        """A pass for one question; `take_back` it in the end."""
        with self._changed:
            self._passes.add(ticket := Pass())
            return ticket

    def take_back(self, ticket: Pass) -> None:
        """The question is done with."""
        with self._changed:
            self._passes.discard(ticket)

    def enter(self, ticket: Pass) -> None:
        """Wait until the question may go out. Then call `answered`, `spoiled` or `turned_away`.

        Raises:
            BackendError: its pass became void.
        """
        with self._changed:
            while True:
                self._check(ticket)
                seconds = self._resume_at - time.monotonic()
                if seconds <= 0 and self._under_way < self.limit:
                    break
                self._changed.wait(seconds if seconds > 0 else None)
            self._under_way += 1
            ticket.cuts = self._cuts

    def answered(self) -> None:
        """The endpoint is well: one more may be under way, at once or, near the number it bore, after a round."""
        with self._changed:
            self._silent_since, self._failures = None, 0
            self._limit = min(self._most, self._limit + (1.0 if self._limit < self._threshold else 1.0 / self._limit))
            self._leave()

    def spoiled(self) -> None:
        """The endpoint is there, and this one answer is of no use."""
        with self._changed:
            self._leave()

    def turned_away(self, ticket: Pass, *, away: bool, wish: float | None) -> float:
        """The endpoint is busy, or ``away``: all pause.

        Args:
            ticket: the question's pass.
            away: it cannot be reached at all.
            wish: seconds it asks us to wait.

        Returns:
            Seconds until the next question goes out; 0 where one that went out together with this has told it.
        """
        with self._changed:
            now = time.monotonic()
            if ticket.void:  # it came back after the stop, and says nothing to those who begin anew
                self._leave()
                return 0.0
            if self._silent_since is None:
                self._silent_since = now
            first = ticket.cuts == self._cuts  # to come back of those that went out together
            if first:
                self._cut(away)
                left = max(0.0, self._patience - (now - self._silent_since))
                self._resume_at = max(self._resume_at, now + min(left, self.backoff(self._failures)))
                self._failures += 1
            if wish is not None:
                self._resume_at = max(self._resume_at, now + wish + self._random.uniform(0.0, self._pause))
            self._leave()
            return max(0.0, self._resume_at - now) if first else 0.0

    def silent(self) -> float:
        """Seconds since the endpoint began to turn away every question; 0: it answers."""
        with self._changed:
            return 0.0 if self._silent_since is None else time.monotonic() - self._silent_since

    def backoff(self, failures: int) -> float:
        """Seconds to wait after so many earlier failures, drawn a little shorter so that callers spread."""
        return min(LONGEST_PAUSE, self._pause * 2.0 ** min(failures, 60)) * self._random.uniform(0.75, 1.0)

    def rest(self, ticket: Pass, seconds: float) -> None:
        """Wait, while others go on.

        Raises:
            BackendError: its pass became void.
        """
        with self._changed:
            self._changed.wait_for(lambda: ticket.void, seconds)
            self._check(ticket)

    def void(self, ticket: Pass, reason: str) -> None:
        """Let this question go on no further."""
        with self._changed:
            ticket.void = ticket.void or reason
            self._passes.discard(ticket)
            self._changed.notify_all()

    def stop(self, reason: str) -> None:
        """Let none of the present questions go on; those asked later begin anew."""
        with self._changed:
            for ticket in self._passes:
                ticket.void = ticket.void or reason
            self._passes.clear()
            self._resume_at, self._silent_since, self._failures = 0.0, None, 0
            self._changed.notify_all()

    def _cut(self, away: bool) -> None:
        self._cuts += 1
        half = max(1.0, self._limit / 2)
        if not away or not self._failures:  # of an absence only the first cut knows what the endpoint bore
            self._threshold = half
        self._limit = 1.0 if away else half

    def _leave(self) -> None:
        self._under_way -= 1
        self._changed.notify_all()

    @staticmethod
    def _check(ticket: Pass) -> None:
        if ticket.void:
            raise BackendError(ticket.void)
