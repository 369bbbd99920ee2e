"""The demonstrated way to the purchase, from any state of the shop, with a reason for every step.

The expert searches with few words and opens the first product whose title and price fit every wish that titles show.
Where a wish is not in the title it reads the features; where a wanted value or feature is missing it goes back; else it
chooses the options and buys. It knows which product the goal was written for and uses that for one thing only: it never
settles for less. What it says are facts that stand on the pages it has seen.
"""

from __future__ import annotations

import difflib
import zlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

from icto_gym.envs.webshop.catalog import Goal, Product
from icto_gym.envs.webshop.expert_words import Words
from icto_gym.envs.webshop.fuzzy import token_set_ratio
from icto_gym.envs.webshop.reward import ENOUGH, normalize_color, purchase_reward
from icto_gym.envs.webshop.search import SearchEngine
from icto_gym.envs.webshop.session import END, ITEM, PAGE_SIZE, RESULTS, START, SUB_PAGES, ShopState, parse_action
from icto_gym.envs.webshop.words import analyze, tokenize

if TYPE_CHECKING:
    from icto_gym.envs.webshop.env import ExpertView

STEP_LIMIT = 10
"""The published limit; looks that are not needed to buy well are taken only where they fit in."""
LONGEST_PLAN = 40
PAGES_TO_LEAF = 3
"""A query is good if the wanted product is on one of the first result pages."""
_SPECIAL = {"back to search", "< prev", "next >", "search", "buy now", *SUB_PAGES}

Move = tuple[str, str]
"""(action, thought)."""


def plan(view: ExpertView) -> list[Move]:
    """Actions and thoughts from the current state up to the purchase; empty if the episode has ended."""
    moves: list[Move] = []
    while view.state.page != END and len(moves) < LONGEST_PLAN:
        move = Expert(view).move()
        after = view.after(move[0])
        if after is None or after == view.state:
            return []  # a shop in which the product can neither be found nor chosen
        moves.append(move)
        view = view._replace(state=after, actions=(*view.actions, move[0]))
    return moves if view.state.page == END else []


@dataclass(frozen=True)
class Expert:
    """One decision in one state."""

    view: ExpertView

    def move(self) -> Move:
        """The next action and its reason."""
        state = self.view.state
        if state.page == START:
            query = self.query
            return f"search[{query}]", self.words.search(query)
        if state.page == RESULTS:
            return self._on_results(state)
        if state.page == ITEM:
            return self._on_item(state, self.products[str(state.asin)])
        return self._on_sub_page(state)

    # ---- what it looks at ----------------------------------------------------------------------------
    @property
    def goal(self) -> Goal:
        return self.view.goal

    @property
    def products(self) -> Mapping[str, Product]:
        return self.view.shop.catalog.products

    @cached_property
    def words(self) -> Words:
        offers = {_value(wanted): _offer(self.products[self.goal.asin], wanted) for wanted in self.goal.options}
        names = {value: offer[0] for value, offer in offers.items() if offer is not None}
        return Words(self.goal, self.view.shop.catalog.prices, names)

    @cached_property
    def query(self) -> str:
        return _query(self.goal, self.products[self.goal.asin], self.view.shop.engine)

    # ---- result pages ----------------------------------------------------------------------------------
    def _on_results(self, state: ShopState) -> Move:
        shown = [self.products[asin] for asin in state.shown]
        choice = self._choice(shown)
        if choice is not None:
            alike = [product for product in shown[: shown.index(choice)] if self._titled(product, shown)]
            dear = [product for product in alike if not self._affordable(product)]
            seen = [product for product in alike if product.asin in self._opened and product not in dear]
            check = self._untitled(shown) if self._time_left > 4 + len(self.goal.options) else []
            return f"click[{choice.asin}]", self.words.choose(choice, dear, seen, check)
        if self.goal.asin not in state.hits or (" ".join(state.keywords) != self.query and not self._near(state)):
            return "click[Back to Search]", self.words.lost()
        if state.hits.index(self.goal.asin) >= state.number * PAGE_SIZE:
            return "click[Next >]", self.words.turn(state.number)
        return ("click[< Prev]", self.words.turn_back()) if state.number > 1 else ("click[Next >]", self.words.turn(0))

    def _near(self, state: ShopState) -> bool:
        """The wanted product is at most two page turns away."""
        return abs(state.hits.index(self.goal.asin) // PAGE_SIZE + 1 - state.number) < PAGES_TO_LEAF

    def _choice(self, shown: Sequence[Product]) -> Product | None:
        """The first product that fits by what the page shows and was not opened before."""
        for product in shown:
            if product.asin == self.goal.asin:
                return product
            fits = self._titled(product, shown) and self._affordable(product)
            if fits and product.asin not in self._opened and (self._pays(product) or self._time_to_look(shown)):
                return product
        return None

    @cached_property
    def _opened(self) -> set[str]:
        """Codes of products opened in this episode."""
        return {(parse_action(action)[1] or "").upper() for action in self.view.actions} | self.view.state.opened

    def _titled(self, product: Product, shown: Sequence[Product]) -> bool:
        """It is of the wanted kind, and its title shows every wished feature that some title on the page shows."""
        untitled = self._untitled(shown)
        wished = (attribute for attribute in self.goal.attributes if attribute not in untitled)
        return product.query == self.goal.query and all(_mentions(product.title, wish) for wish in wished)

    def _untitled(self, shown: Sequence[Product]) -> list[str]:
        """Wished features that no title of the wanted kind on the page shows."""
        titles = [product.title for product in shown if product.query == self.goal.query]
        return [wish for wish in self.goal.attributes if not any(_mentions(title, wish) for title in titles)]

    def _affordable(self, product: Product) -> bool:
        return self.view.shop.catalog.prices[product.asin] <= self.goal.price_upper

    def _time_to_look(self, shown: Sequence[Product]) -> bool:
        """A product that turns out wrong costs its click, a look at its features and the ways back."""
        wrong = 4 if self._untitled(shown) else 2
        return wrong + 1 + len(self.goal.options) + 1 <= self._time_left

    @property
    def _time_left(self) -> int:
        return STEP_LIMIT - len(self.view.actions)

    # ---- item pages --------------------------------------------------------------------------------------
    def _on_item(self, state: ShopState, product: Product) -> Move:
        missing = self._missing(product)
        good = product.asin == self.goal.asin or self._pays(product)
        open_wishes = [(name, value) for name, value in self._values(product) if (name, value) not in state.options]
        unseen = [wish for wish in self.goal.attributes if not _mentions(product.title, wish)]
        page = self._worth_reading(product, unseen, good, len(open_wishes))
        if not good and (missing or not self._affordable(product) or page is None):
            return "click[< Prev]", self.words.reject(product, missing, unseen)
        if page is not None:
            return f"click[{page}]", self.words.look(page, unseen)
        if open_wishes:
            name, value = open_wishes[0]
            return f"click[{value}]", self.words.option(name, value, dict(state.options).get(name))
        return "click[Buy Now]", self.words.buy(product, state.options)

    def _worth_reading(self, product: Product, unseen: Sequence[str], good: bool, clicks: int) -> str | None:
        """The sub-page to read next for wishes that the title does not show, if there is time for it."""
        if not unseen or self._time_left < 2 + clicks + 1:
            return None
        bullets = " ".join(bullet or "" for bullet in product.bullets)
        page = "Features"
        if good and not any(_mentions(bullets, wish) for wish in unseen):
            if not any(_mentions(product.description, wish) for wish in unseen):
                return None  # neither page would tell
            page = "Description"
        return None if self._was_read(product, page) else page

    def _was_read(self, product: Product, page: str) -> bool:
        """Whether the page was opened since the product was."""
        for action in reversed(self.view.actions):
            argument = (parse_action(action)[1] or "").lower()
            if argument == page.lower():
                return True
            if argument == product.asin.lower():
                return False
        return False

    def _missing(self, product: Product) -> list[str]:
        """Wanted option values that the product has not."""
        return [_value(wanted) for wanted in self.goal.options if _offer(product, wanted) is None]

    def _values(self, product: Product) -> Iterator[tuple[str, str]]:
        """(name, value) of each wanted option as the product offers it."""
        offers = (_offer(product, wanted) for wanted in self.goal.options)
        return iter(dict.fromkeys(offer for offer in offers if offer is not None))

    def _pays(self, product: Product) -> bool:
        """Bought with the wanted options it would pay 1.0."""
        shop = self.view.shop
        return (
            product.query == self.goal.query
            and purchase_reward(
                product.record(), self.goal.record(), shop.catalog.prices[product.asin], dict(self._values(product)),
                nouns=shop.nouns,
            ).total == 1.0
        )  # fmt: skip

    # ---- sub-pages ----------------------------------------------------------------------------------------
    def _on_sub_page(self, state: ShopState) -> Move:
        product = self.products[str(state.asin)]
        unseen = [wish for wish in self.goal.attributes if not _mentions(product.title, wish)]
        text = product.description if state.sub_page == "Description" else " ".join(b or "" for b in product.bullets)
        text = text if state.sub_page in ("Description", "Features") else ""
        found = [wish for wish in unseen if _mentions(text, wish)]
        return "click[< Prev]", self.words.read(state.sub_page, found, [wish for wish in unseen if wish not in found])


def _mentions(text: str, wish: str) -> bool:
    return wish.lower() in text.lower()


def _value(wanted: str | tuple[str, str]) -> str:
    return wanted if isinstance(wanted, str) else wanted[1]


def _offer(product: Product, wanted: str | tuple[str, str]) -> tuple[str, str] | None:
    """The (name, value) by which a product meets a wanted option: the same value, else one that pays like it."""
    name, value = (None, wanted) if isinstance(wanted, str) else wanted
    found: dict[str, str] = {}  # a value listed under two names sets the later one
    for own, values in product.options.items():
        found.update(dict.fromkeys((v for v in values if v not in _SPECIAL and "[" not in v), own))
    if value in found and name in (None, found[value]):
        return found[value], value
    for other, own in found.items():
        if token_set_ratio(normalize_color(other), normalize_color(wanted)) > ENOUGH:
            return own, other
    return None


# ---- words to search with ------------------------------------------------------------------------------
def _query(goal: Goal, product: Product, engine: SearchEngine) -> str:
    """Few words of the instruction that bring the wanted product to the first pages; its title where none do."""
    best, place = " ".join(tokenize(product.title.lower())), PAGE_SIZE * PAGES_TO_LEAF
    for query in _queries(goal, product):
        hits = engine.search(query, place)
        if product.asin in hits[:PAGE_SIZE]:
            return query
        if product.asin in hits[:place]:
            best, place = query, hits.index(product.asin)
    return best


def _queries(goal: Goal, product: Product) -> Iterator[str]:
    """From the kind alone to all words that instruction and title share."""
    asked = set(analyze(goal.instruction))
    title = product.title.lower()
    shown = [wish for wish in goal.attributes if wish in title and _searchable(wish)]
    if _searchable(goal.query) and _is_asked(goal.query, goal.instruction):
        with_feature = f"{shown[0]} {goal.query}" if shown else goal.query
        usual = zlib.crc32(goal.key.encode()) % 8
        yield from (goal.query, with_feature) if usual else (with_feature, goal.query)
        yield " ".join([*shown, goal.query])
    shared = [word for word in tokenize(title) if asked.intersection(analyze(word))]
    if shared:
        yield " ".join(dict.fromkeys(shared))
    clause = ", and price lower than"
    yield " ".join(tokenize(goal.instruction.split(clause)[0].lower())) or title


def _is_asked(kind: str, instruction: str) -> bool:
    """The instruction names the kind, perhaps in an odd spelling."""
    words = instruction.lower().split()
    return set(analyze(kind)) <= set(analyze(instruction)) or bool(difflib.get_close_matches(kind, words, 1, 0.75))


def _searchable(words: str) -> bool:
    """It survives the way into a command."""
    return bool(words) and not set(words) & set("[]<>\n\r")
