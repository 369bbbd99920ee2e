"""The shop in a real browser: Chromium plays on the web site, and what it shows is the observation."""

from __future__ import annotations

import json
import os
import sys
from typing import Any

import numpy as np

from icto_gym.core import Outcome
from icto_gym.envs.webshop.chromium import BROWSERS, DRIVERS, Chromium, find_program, typeable
from icto_gym.envs.webshop.env import WebShopEnv
from icto_gym.envs.webshop.markup import document, write_tree
from icto_gym.envs.webshop.pages import SEPARATOR, read_back
from icto_gym.envs.webshop.session import ShopState, parse_action
from icto_gym.errors import BackendError, ConfigError, check_name, require
from icto_gym.tasks import Task

MODES = ("text", "html")
SMALLEST, LARGEST = 200, 4_000
FORM_LIMIT = 256 * 1024 * 1024
"""Bytes of an action on its way to this environment's own site: any text is a legal action."""


class WebShopBrowserEnv(WebShopEnv):
    """`WebShopEnv` played through Chromium and the web site, each environment with its own of both.

    Tasks, actions, observations, rewards and info are those of ``icto/WebShop-v0``; the observation is read from the
    page that the browser shows. A click presses the page's button, a search is typed into its search bar, and what the
    page has no control for goes through its form for typed actions. A browser that breaks ends the episode with
    ``info["error"]``; the next reset starts another.
    """

    metadata = {"render_modes": ["ansi", "rgb_array", "human"], "render_fps": 4}  # noqa: RUF012
    waits_elsewhere = True

    def __init__(
        self,
        data: str = "mini",
        observation_mode: str = "text",
        goals: str = "human",
        num_products: int | None = None,
        catalog_seed: int = 0,
        search: str = "bm25",
        *,
        browser: str | None = None,
        driver: str | None = None,
        width: int = 1280,
        height: int = 800,
        **others: Any,
    ) -> None:
        """Args:
        data, goals, num_products, catalog_seed, search: see `WebShopEnv`.
        observation_mode: ``"text"`` or ``"html"``.
        browser, driver: programs; None: Chromium and its driver on PATH.
        width, height: of the page and of a screenshot, in pixels.
        others: the further arguments of `WebShopEnv`.

        Raises:
            DependencyNotInstalled: a package, Chromium or its driver is missing; says what to install.
        """
        check_name(observation_mode, MODES, "observation mode")
        for name, value in (("width", width), ("height", height)):
            if isinstance(value, bool) or not isinstance(value, int) or not SMALLEST <= value <= LARGEST:
                raise ConfigError(f"{name} is {value!r}; give {SMALLEST} to {LARGEST} pixels.")
        for module in ("selenium", "starlette", "uvicorn", "jinja2", "PIL"):
            require(module, extra="browser")
        self._programs = (find_program(browser, BROWSERS, "browser"), find_program(driver, DRIVERS, "driver"))
        self._size = (width, height)
        self._machine: _Machine | None = None
        super().__init__(data, observation_mode, goals, num_products, catalog_seed, search, **others)
        if self.render_mode == "human" and os.name == "posix" and not _has_screen():
            raise ConfigError("render_mode='human' shows a window and needs a screen, but DISPLAY is not set.")
        shop = {name: value for name, value in others.items() if name not in ("expert", "render_mode")}
        self._behind = WebShopEnv(data, observation_mode, goals, num_products, catalog_seed, search, **shop)

    def __getstate__(self) -> dict[str, Any]:
        return {**super().__getstate__(), "_machine": None}

    # ---- play ------------------------------------------------------------------------------------------
    def _begin(self, task: Task) -> Outcome:
        self._goal = self._tasks.goal(task)
        self._seed = task.task_id if self._next_seed is None else int(self._next_seed)
        self._behind.reset(seed=self._next_seed, options={"task_id": task.task_id})
        return self._look(fresh=True, valid=True)

    def _advance(self, action: str) -> Outcome:
        machine = self._machine
        if machine is None:
            raise BackendError("The browser is closed; reset starts another.")
        try:
            machine.act(self._state, self._tree, action)
            return self._look(fresh=False, valid=machine.visit.deeds[-1].valid)
        except BackendError:
            self._put_away()
            raise

    def _look(self, *, fresh: bool, valid: bool) -> Outcome:
        """The page as the browser shows it; ``fresh``: of a new visit, in a new browser if the old one broke."""
        if fresh:
            self._open_visit()
        assert self._machine is not None
        self._state = self._behind.state
        self._tree = self._machine.chromium.read()
        return self._outcome_of(valid)

    def _open_visit(self) -> None:
        if self._machine is not None:
            try:
                return self._machine.open(self._behind)
            except BackendError:  # it broke between two episodes
                self._put_away()
        self._machine = _Machine(self._programs, self._size, self.render_mode == "human")
        try:
            self._machine.open(self._behind)
        except BackendError:
            self._put_away()
            raise
        return None

    def _observation(self) -> str:
        if self.observation_mode == "html":
            return document("".join(map(write_tree, self._tree[2])))
        return SEPARATOR.join(node.strip() for text in _texts(self._tree) for node in read_back(text))

    def restore(self, state: Any) -> tuple[str, dict[str, Any]]:
        """Return to a snapshot; the browser is taken to its page."""
        task = state[0]
        self._behind.reset(options={"task_id": task.task_id})
        self._behind.restore(state)
        answer = super().restore(state)
        self._open_visit()
        assert self._machine is not None
        self._tree = self._machine.chromium.read()
        return answer

    # ---- showing ---------------------------------------------------------------------------------------
    def render(self) -> Any:
        """The observation (``"ansi"``), a screenshot (``"rgb_array"``: height, width, 3; uint8), or nothing."""
        if self.render_mode != "rgb_array":
            return super().render()
        self._need_task()
        if self._machine is None:  # the browser broke: there is nothing to see
            return np.zeros((self._size[1], self._size[0], 3), np.uint8)
        return self._machine.chromium.screenshot()

    def close(self) -> None:
        """End browser and site; harmless when called again."""
        self._put_away()
        super().close()

    def _put_away(self) -> None:
        machine, self._machine = self._machine, None
        if machine is not None:
            machine.close()


class _Machine:
    """A site with one visit, and a browser in it."""

    def __init__(self, programs: tuple[str, str], size: tuple[int, int], window: bool) -> None:
        from icto_gym.envs.webshop.site.app import Site
        from icto_gym.envs.webshop.site.serve import SiteThread
        from icto_gym.envs.webshop.site.visits import Visit, Visits

        self._make_visit = Visit
        self._visits = Visits()
        self._name = ""
        self._server = SiteThread(Site(self._visits, body_limit=FORM_LIMIT))
        try:
            self.chromium = Chromium(*programs, size, window=window)
        except BaseException:
            self._server.stop()
            raise

    def open(self, env: WebShopEnv) -> None:
        """A new visit of ``env``, as it stands."""
        self._visits.leave(self._name)
        self.visit = self._make_visit(env, {**env._info()})
        self._name = self._visits.open(self.visit)
        self.chromium.open(f"{self._server.address}/visits/{self._name}")
        self.chromium.await_step(0)

    def act(self, state: ShopState, tree: Any, action: str) -> None:
        """Do as a person would: press the button, type the words; else use the form for typed actions."""
        before = len(self.visit.deeds)
        name, argument = parse_action(action)
        number = None if argument is None or name != "click" else _button(tree, argument)
        if number is not None:
            self.chromium.click(number)
        elif name == "search" and argument is not None and state.page == "start" and typeable(argument):
            self.chromium.search(argument)
        else:
            self.chromium.submit(json.dumps(action))
        self.chromium.await_step(before + 1)

    def close(self) -> None:
        self.chromium.close()
        self._server.stop()


def _button(tree: Any, text: str) -> int | None:
    """Which of the page's action buttons has this text; the last of them where several have."""
    wanted = f"click[{text}]".lower()
    matches = [number for number, value in enumerate(_button_values(tree)) if value.lower() == wanted]
    return matches[-1] if matches else None


def _button_values(tree: Any) -> list[str]:
    """Values of the buttons named ``action``, in page order."""
    if isinstance(tree, str):
        return []
    name, attributes, children = tree
    found = dict(attributes)
    mine = [found["value"]] if name == "button" and found.get("name") == "action" else []
    return mine + [value for child in children for value in _button_values(child)]


def _texts(tree: Any) -> list[str]:
    """The text nodes, hidden ones too, as the original's reader lists them."""
    return [tree] if isinstance(tree, str) else [text for child in tree[2] for text in _texts(child)]


def _has_screen() -> bool:
    return sys.platform == "darwin" or bool(os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY"))
