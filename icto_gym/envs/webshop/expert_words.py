"""What the expert says: one or two short sentences per step, worded differently from task to task."""

from __future__ import annotations

import difflib
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from icto_gym.envs.webshop.catalog import NO_CEILING, Goal, Product
from icto_gym.envs.webshop.words import analyze, tokenize


@dataclass(frozen=True)
class Words:
    """Sentences about one goal; the wording is drawn from the goal's key, so it is the same every time."""

    goal: Goal
    prices: Mapping[str, float]
    names: Mapping[str, str]
    """Wanted option value -> name of its option."""

    def _say(self, moment: str, *wordings: str) -> str:
        return wordings[zlib.crc32(f"{self.goal.key}|{moment}".encode()) % len(wordings)]

    @property
    def _limit(self) -> str:
        """The price ceiling as ``$40``, or ``""``."""
        return "" if self.goal.price_upper >= NO_CEILING else f"${self.goal.price_upper:g}"

    @property
    def _under(self) -> str:
        return f" under {self._limit}" if self._limit else ""

    def _named(self, value: str) -> str:
        """An option value; a bare number with its option's name."""
        return f"{self.names[value]} {value}" if value.isdigit() and value in self.names else value

    def search(self, query: str) -> str:
        """Why this query: all wishes in order, then the words to start with."""
        wishes = ", ".join([*self.goal.attributes, *(self._named(_value(wanted)) for wanted in self.goal.options)])
        wishes = f"{wishes}{',' if self._limit else ''}{self._under}"
        if len(query.split()) > 6:
            return f"Wanted: {wishes}. I search for all words that matter."
        odd = self._odd_spelling(query)
        if odd:
            return f"Wanted: {wishes}. '{odd}' must mean {query.split()[-1]}, so I search {query}."
        return self._say(
            "search",
            f"Wanted: {wishes}. I search {query}.",
            f"The wishes are {wishes}. I start with {query}.",
            f"It must be {wishes}. First I look for {query}.",
            f"I need {wishes}. Few words find most, so I search {query}.",
        )

    def _odd_spelling(self, query: str) -> str:
        """The word of the instruction that the last search word stands for, if it is spelt otherwise there."""
        asked, noun = tokenize(self.goal.instruction.lower()), query.split()[-1]
        if set(analyze(noun)) & {stem for word in asked for stem in analyze(word)}:
            return ""
        return next(iter(difflib.get_close_matches(noun, asked, 1, 0.75)), "")

    def choose(self, choice: Product, dear: Sequence[Product], seen: Sequence[Product], check: Sequence[str]) -> str:
        """Why this product: what is wanted, what speaks against the ones before it, and its price.

        Args:
            choice: the first product that fits by title and price.
            dear: products before it whose title fits and whose price does not.
            seen: products before it that were opened and left.
            check: wishes that no title shows.
        """
        traits = ", ".join(wish for wish in self.goal.attributes if wish in choice.title.lower())
        need = f"{traits or 'what was asked'}{self._under}"
        start = self._say("need", f"Needs {need}.", f"I want {need}.", f"It should be {need}.", f"Looking for {need}.")
        if seen:
            start = f"{seen[-1].asin} was not right. {start}"
        facts = [f"{product.asin} at {product.price_text} is over" for product in dear[-2:]]
        verdict = self._say("fits", "fits", "is right", "is fine", "matches")
        facts.append(f"{choice.asin} at {choice.price_text} {verdict}")
        hidden = f" No title says {check[0]}, I will check." if check else ""
        return f"{start} {'; '.join(facts)}.{hidden}"

    def turn(self, number: int) -> str:
        return self._say(f"turn{number}", "Nothing here fits, I try the next page.", "Not on this page: next one.")

    def turn_back(self) -> str:
        return self._say("turn back", "I went too far, back a page.", "The better ones were before: back a page.")

    def lost(self) -> str:
        return self._say("lost", "These results do not fit, I search anew.", "Nothing suitable here: a new search.")

    def look(self, page: str, unseen: Sequence[str]) -> str:
        """Why a sub-page is read."""
        return self._say(
            f"look{page}",
            f"The title does not say {unseen[0]}, so I look at the {page.lower()}.",
            f"Is it {unseen[0]}? The {page.lower()} should tell.",
            f"I check the {page.lower()} for {unseen[0]}.",
        )

    def read(self, page: str, found: Sequence[str], lacking: Sequence[str]) -> str:
        """What a sub-page said."""
        name = page.lower()
        if found:
            return self._say(
                "found", f"The {name} list {found[0]}, good. Back.", f"{found[0]} is there. Back to the item."
            )
        if lacking:
            return self._say(
                "absent", f"No {lacking[0]} in the {name}. Back.", f"The {name} do not say {lacking[0]}. Back."
            )
        return self._say("read", "Nothing more to learn here, back.", "I know enough, back to the item.")

    def option(self, name: str, value: str, chosen: str | None) -> str:
        """Why an option is clicked."""
        if chosen is not None:
            return f"I chose {chosen}, but the {name} must be {value}."
        return self._say(
            f"option {name}",
            f"The {name} must be {value}, so I click it.",
            f"{value} is the {name} asked for.",
            f"For {name} the wish is {value}.",
            f"Next the {name}: {value}.",
        )

    def reject(self, product: Product, missing: Sequence[str], unseen: Sequence[str]) -> str:
        """Why a product is left."""
        if self.prices[product.asin] > self.goal.price_upper:
            return f"{product.price_text} is over {self._limit}, so I go back."
        if missing:
            lack = self._named(missing[0])
            return self._say("missing", f"There is no {lack} here, so I go back.", f"It lacks {lack}: back.")
        if unseen:
            return self._say(
                "wrong", f"It is not {unseen[0]}, so I go back.", f"It is not {unseen[0]}: back to the list."
            )
        return "This is not the kind of product that is wanted, so I go back."

    def buy(self, product: Product, options: Sequence[tuple[str, str]]) -> str:
        """Why it is time to buy."""
        chosen = " and ".join(self._named(value) for _, value in options)
        price = f"{product.price_text} is under {self._limit}" if self._limit else f"the price is {product.price_text}"
        if self.prices[product.asin] > self.goal.price_upper:
            price = "nothing better was found"
        if not chosen:
            return self._say("buy", f"It fits and {price}: I buy it.", f"Nothing to choose and {price}, so I buy.")
        return self._say(
            "buy",
            f"I set {chosen}, and {price}: I buy it.",
            f"All is chosen ({chosen}) and {price}. Time to buy.",
            f"{chosen} chosen, {price}: buy.",
        )


def _value(wanted: str | tuple[str, str]) -> str:
    return wanted if isinstance(wanted, str) else wanted[1]
