"""Visits: one episode each, played through pages, and found again by a name that nobody can guess."""

from __future__ import annotations

import secrets
import threading
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, cast

import gymnasium as gym

from icto_gym.envs.webshop.env import WebShopEnv

KEPT = 1_000
"""How many visits a site remembers; the one longest unused goes first."""


@dataclass(frozen=True, slots=True)
class Deed:
    """An action of a visit, as the page lists it."""

    action: str
    reward: float
    valid: bool


class Visit:
    """An episode that pages are shown of.

    Args:
        env: already reset; `WebShopEnv` with or without wrappers. The visit owns it.
        info: what its reset gave.
        respond: makes of (thought, action) what ``env.step`` takes; None: the action as it is.
    """

    def __init__(
        self, env: gym.Env[str, str], info: dict[str, Any], respond: Callable[[str, str], str] | None = None
    ) -> None:
        self.env = env
        self.info = info
        self.deeds: list[Deed] = []
        self.terminated = False
        self.truncated = False
        self.notice = ""
        """What the next page tells the person once."""
        self._respond = respond or (lambda thought, action: action)

    @property
    def shop(self) -> WebShopEnv:
        return cast(WebShopEnv, self.env.unwrapped)

    @property
    def over(self) -> bool:
        return self.terminated or self.truncated

    @property
    def step_limit(self) -> int | None:
        """Gymnasium's limit, None where there is none."""
        return None if self.env.spec is None else self.env.spec.max_episode_steps

    def act(self, action: str, thought: str = "") -> None:
        """Carry out an action; nothing happens once the episode is over."""
        if self.over:
            return
        _, reward, self.terminated, self.truncated, self.info = self.env.step(self._respond(thought, action))
        self.deeds.append(Deed(action, float(reward), bool(self.info["valid_action"])))


class Visits:
    """Visits by their names. A name is 192 random bits, so knowing it is the right to see the visit.

    Args:
        limit: how many are kept.
    """

    def __init__(self, limit: int = KEPT) -> None:
        self._limit = limit
        self._visits: OrderedDict[str, Visit] = OrderedDict()
        self._lock = threading.Lock()

    def open(self, visit: Visit) -> str:
        """Keep a visit; returns its name."""
        name = secrets.token_urlsafe(24)
        with self._lock:
            self._visits[name] = visit
            gone = [self._visits.popitem(last=False)[1] for _ in range(len(self._visits) - self._limit)]
        for old in gone:
            old.env.close()
        return name

    def find(self, name: str) -> Visit | None:
        """The visit of this name, None if there is none (any more)."""
        with self._lock:
            if name in self._visits:
                self._visits.move_to_end(name)
            return self._visits.get(name)

    def leave(self, name: str) -> None:
        """Forget a visit."""
        with self._lock:
            visit = self._visits.pop(name, None)
        if visit is not None:
            visit.env.close()
