"""The shop's rules: one immutable state, and what each action makes of it.

Nothing here draws, renders or remembers; a snapshot is the state itself.
"""

from __future__ import annotations

import json
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from icto_gym.envs.webshop.catalog import Catalog, Goal, Nouns
from icto_gym.envs.webshop.reward import PurchaseReward, purchase_reward
from icto_gym.envs.webshop.search import SearchEngine

SEARCH_DEPTH = 50
"""How many hits a search asks for, and how many products ``<r>`` draws."""
PAGE_SIZE = 10
_MANY = 20_000  # products whose clickable texts are kept before starting afresh
BASE_ADDRESS = "http://127.0.0.1:3000"

START, RESULTS, ITEM, SUB_PAGE, END = "start", "results", "item", "sub page", "end"
SUB_PAGES = {"description": "Description", "features": "Features", "reviews": "Reviews", "attributes": "Attributes"}

# The original finds out where it is by looking for these in the page's address, in this order; a keyword can mislead
# it.
_ADDRESS_PARTS = ("search_results", "item_page", "item_sub_page", "done")

Target = tuple[str, str]
"""What stands behind a clickable text: ("button" or "product", "") or ("option", name of the option)."""
_BUTTON: Target = ("button", "")
_PRODUCT: Target = ("product", "")


@dataclass(frozen=True, slots=True)
class ShopState:
    """Where a customer is and what was chosen."""

    page: str = START
    keywords: tuple[str, ...] = ()
    hits: tuple[str, ...] = ()
    """Codes of all products found, best first."""
    number: int = 1
    """Result page, from 1; the original lets it fall to 0 and below."""
    asin: str | None = None
    """The product looked at."""
    opened: frozenset[str] = frozenset()
    """Products looked at since the start page."""
    options: tuple[tuple[str, str], ...] = ()
    """Chosen (name, value) pairs, in the order of first choice."""
    sub_page: str = ""
    """``"Description"``, ``"Features"``, ``"Reviews"`` or ``"Attributes"``."""
    draws: int = 0
    """How many ``<r>`` searches were made."""
    purchase: PurchaseReward | None = None

    @property
    def shown(self) -> tuple[str, ...]:
        """Codes on the result page (slices count from the end below page 1, as in the original)."""
        return self.hits[(self.number - 1) * PAGE_SIZE : self.number * PAGE_SIZE]


def parse_action(action: str) -> tuple[str, str | None]:
    """Split ``name[argument]``; (action, None) where there is no such form.

    The first line counts; the brackets are the last ``[`` that leaves something before the last ``]``. Same as the
    greedy pattern ``(.+)\\[(.+)\\]``, in linear time.
    """
    end = action.find("\n")
    line = action if end < 0 else action[:end]
    close = line.rfind("]")
    opening = line.rfind("[", 1, close - 1) if close > 2 else -1
    return (action, None) if opening < 0 else (line[:opening], line[opening + 1 : close])


def address(state: ShopState, session: str) -> str:
    """The page's address as the original writes it; `text_rich` marks chosen options by looking into it."""
    if state.page == START:
        return f"{BASE_ADDRESS}/{session}"
    if state.page == END:
        return f"{BASE_ADDRESS}/done/{session}/{state.asin}/{dict(state.options)}"
    words = "+".join(state.keywords)
    if state.page == RESULTS:
        return f"{BASE_ADDRESS}/search_results/{session}/{words}/{state.number}"
    if state.page == ITEM:
        options = json.dumps(dict(state.options))
        return f"{BASE_ADDRESS}/item_page/{session}/{state.asin}/{words}/{state.number}/{options}"
    options = str(dict(state.options))
    return f"{BASE_ADDRESS}/item_sub_page/{session}/{state.asin}/{words}/{state.number}/{state.sub_page}/{options}"


class Shop:
    """The rules over one catalogue.

    Args:
        catalog: products, prices and goals.
        engine: finds products; None: the catalogue's own BM25.
        nouns: for the title score; None: the catalogue's own, else spaCy's tagger.
        show_attributes: item pages have an ``Attributes`` button.
    """

    def __init__(
        self,
        catalog: Catalog,
        engine: SearchEngine | None = None,
        nouns: Nouns | None = None,
        show_attributes: bool = False,
    ) -> None:
        self.catalog = catalog
        self._engine = engine
        self.nouns = nouns if nouns is not None else catalog.nouns
        self.show_attributes = show_attributes
        self._item_targets: dict[str, dict[str, Target]] = {}

    @property
    def engine(self) -> SearchEngine:
        return self._engine if self._engine is not None else self.catalog.engine

    # ---- what can be clicked -----------------------------------------------------------------------
    def targets(self, state: ShopState) -> dict[str, Target]:
        """Clickable text -> what stands behind it, in page order; texts are lower case."""
        if state.page == ITEM:
            return self._targets_of_item(str(state.asin))
        if state.page == RESULTS:
            found = {"back to search": _BUTTON}
            if state.number > 1:
                found["< prev"] = _BUTTON
            found["next >"] = _BUTTON
            found.update((asin.lower(), _PRODUCT) for asin in state.shown)
            return found
        if state.page == SUB_PAGE:
            return {"back to search": _BUTTON, "< prev": _BUTTON}
        return {"search": _BUTTON} if state.page == START else {}

    def _targets_of_item(self, asin: str) -> dict[str, Target]:
        if asin not in self._item_targets:
            if len(self._item_targets) >= _MANY:
                self._item_targets.clear()
            buttons = ["back to search", "< prev", "description", "features", "reviews", "buy now"]
            if self.show_attributes:
                buttons.insert(5, "attributes")
            found = dict.fromkeys(buttons, _BUTTON)
            for name, values in self.catalog.products[asin].options.items():
                found.update((value, ("option", name)) for value in values)
            self._item_targets[asin] = found
        return self._item_targets[asin]

    # ---- what an action does -----------------------------------------------------------------------
    def act(self, state: ShopState, action: str, goal: Goal, seed: int | str) -> ShopState | None:
        """The state after an action; None if it means nothing here, and nothing changes.

        Args:
            state: not ended.
            action: any text.
            goal: what a purchase is judged by.
            seed: of the products that ``<r>`` draws.
        """
        name, argument = parse_action(action)
        if argument is None:
            return None
        argument = argument.lower()
        if name == "search":
            return self._search(state, tuple(argument.split(" ")), 1, seed)
        if name == "click" and argument != "search":
            target = self.targets(state).get(argument)
            if target is not None:
                return self._click(state, argument, target, goal, seed)
        return None

    def _click(self, state: ShopState, text: str, target: Target, goal: Goal, seed: int | str) -> ShopState | None:
        """The text decides first, what stands behind it last: an option called ``buy now`` buys."""
        if text == "buy now":
            return self._buy(state, goal)
        if text == "back to search":
            return ShopState(draws=state.draws)
        where = _believed_page(state) if text in ("next >", "< prev") else ""
        if where == "search_results":
            return self._search(state, state.keywords, state.number + (1 if text == "next >" else -1), seed)
        if text == "< prev" and where == "item_page":
            return self._search(state, state.keywords, state.number, seed)
        if text in SUB_PAGES:
            return replace(state, page=SUB_PAGE, sub_page=SUB_PAGES[text]) if state.asin in self._known else None
        return self._item(state, text, target)

    @property
    def _known(self) -> Mapping[str | None, object]:
        return self.catalog.products  # type: ignore[return-value]

    def _item(self, state: ShopState, text: str, target: Target) -> ShopState | None:
        """Open a product, choose an option, or come back from a sub-page."""
        kind, option = target
        if kind == "product":
            asin = text.upper()
            if asin not in self._known:
                return None  # a code with lower-case letters: the original looks for another and breaks
            return replace(state, page=ITEM, asin=asin, opened=state.opened | {asin}, sub_page="")
        if state.asin not in self._known:
            return None
        if kind == "option":
            chosen = dict(state.options)
            chosen[option.lower()] = text
            return replace(state, page=ITEM, options=tuple(chosen.items()), sub_page="")
        return replace(state, page=ITEM, sub_page="")

    def _buy(self, state: ShopState, goal: Goal) -> ShopState | None:
        if state.asin not in self._known:
            return None
        product = self.catalog.products[str(state.asin)]
        reward = purchase_reward(
            product.record(), goal.record(), self.catalog.prices[product.asin], dict(state.options), nouns=self.nouns
        )
        return replace(state, page=END, purchase=reward, sub_page="")

    # ---- search --------------------------------------------------------------------------------------
    def _search(self, state: ShopState, keywords: tuple[str, ...], number: int, seed: int | str) -> ShopState | None:
        """A result page: the search is made anew on every turn of a page, and forgets product and options."""
        draws = state.draws + (keywords[0] == "<r>")
        hits = self._hits(keywords, draws, seed)
        if hits is None:
            return None
        return ShopState(RESULTS, keywords, hits, number, None, state.opened, (), "", draws)

    def _hits(self, keywords: tuple[str, ...], draws: int, seed: int | str) -> tuple[str, ...] | None:
        """Codes found; None where the original breaks."""
        if keywords[0] == "<r>":
            codes = self.catalog.codes
            return drawn_products(codes, draws, seed) if len(codes) >= SEARCH_DEPTH else None
        if keywords[0] == "<a>":
            return None
        if keywords[0] == "<c>":
            if len(keywords) < 2:
                return None
            return self.catalog.with_category(keywords[1].strip())
        if keywords[0] == "<q>":
            return self.catalog.with_query(" ".join(keywords[1:]).strip())
        found = self.engine.search(" ".join(keywords), SEARCH_DEPTH)
        if self._engine is None:
            return tuple(found)
        return tuple(asin for asin in found if asin in self.catalog.products)  # another's engine may know others


def drawn_products(codes: Sequence[str], draws: int, seed: int | str) -> tuple[str, ...]:
    """The products of an episode's ``draws``-th ``<r>`` search, as Python's generator seeded with ``seed`` samples."""
    draw = random.Random(seed)
    sample: list[str] = []
    for _ in range(draws):
        sample = draw.sample(codes, SEARCH_DEPTH)
    return tuple(sample)


def _believed_page(state: ShopState) -> str:
    """Which page the original takes this for. The session's own name can not mislead: it is a number."""
    where = address(state, "")
    return next((part for part in _ADDRESS_PARTS if part in where), "")
