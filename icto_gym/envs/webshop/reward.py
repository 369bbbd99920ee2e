"""What a purchase pays.

total = r_type x (attributes matched + options matched + price ok) / (goal attributes + goal options + 1)
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from icto_gym.envs.webshop.fuzzy import token_set_ratio
from icto_gym.envs.webshop.nouns import tagged_nouns

ENOUGH = 85
"""Two texts are the same if their token-set score is above this."""

# The first of these that occurs anywhere in an option stands for the whole option; the order counts.
COLORS = tuple(
    """
    alabaster apricot aqua ash asphalt azure banana beige black blue blush bordeaux bronze brown burgundy camel camo
    caramel champagne charcoal cheetah chestnut chocolate christmas coffee cognac copper coral cranberry cream crystal
    dark denim eggplant elephant espresso fuchsia gold granite grape graphite grass gray green grey heather indigo
    ivory ivy khaki lavender lemon leopard light lilac lime magenta maroon mauve merlot midnight mint mocha multicolor
    mushroom mustard natural navy nude olive orange peach pewter pink plum purple rainbow red rose royal rust sand
    sapphire seashell silver skull slate steel stone stonewash sunflower tan taupe teal tiger turquoise violet walnut
    wheat white wine yellow
    """.split()  # noqa: SIM905
)

Option = str | tuple[str, str]


@dataclass(frozen=True, slots=True)
class PurchaseReward:
    """The reward of a purchase and its parts, each in [0, 1]."""

    total: float
    r_type: float
    """1, 0.5, 0.1 or 0: how far the product is of the wanted kind."""
    r_att: float
    """Share of the wanted attributes."""
    r_option: float | None
    """Share of the wanted options; None where none is wanted."""
    r_price: bool
    """The price does not exceed the ceiling."""
    query_match: bool
    category_match: bool
    title_score: float
    """Nouns shared by both titles over the wanted title's nouns."""


def purchase_reward(
    product: Mapping[str, Any],
    goal: Mapping[str, Any],
    price: float | None,
    options: Mapping[str, str],
    *,
    nouns: Callable[[str], Sequence[str]] | None = None,
) -> PurchaseReward:
    """Judge a purchase.

    Args:
        product: ``name``, ``query``, ``product_category``, ``Attributes``, ``Title``, ``BulletPoints``,
            ``Description``.
        goal: ``name``, ``query``, ``product_category``, ``attributes``, ``goal_options`` (a list of values, or a
            mapping of option names to values), ``price_upper`` in dollars.
        price: what the product costs, in dollars.
        options: bought option values by option name.
        nouns: title -> its nouns; None: spaCy's tagger.

    Where the original raises (no price, a ceiling of 0 or below, no attribute wanted, a value that is no text) the
    part counts as unmet, a wanted list that is missing counts as empty, and a value counts as its text.
    """
    wanted_attributes = tuple(goal["attributes"] or ())
    wanted_options = _wanted_options(goal["goal_options"])
    kind = _kind(product, goal, nouns)
    attributes = matched_attributes(product, wanted_attributes)
    matched_options = _matched_options(wanted_options, [_text(value) for value in options.values()])
    ceiling = goal["price_upper"]
    r_price = bool(price is not None and ceiling > 0 and price <= ceiling)
    share = (attributes + matched_options + r_price) / (len(wanted_attributes) + len(wanted_options) + 1)
    return PurchaseReward(
        total=share * kind[0],
        r_type=kind[0],
        r_att=attributes / len(wanted_attributes) if wanted_attributes else 0.0,
        r_option=matched_options / len(wanted_options) if wanted_options else None,
        r_price=r_price,
        query_match=kind[1],
        category_match=kind[2],
        title_score=kind[3],
    )


def _text(value: Any) -> str:
    return value if isinstance(value, str) else str(value)


# ---- kind ------------------------------------------------------------------------------------------
def _kind(
    product: Mapping[str, Any], goal: Mapping[str, Any], nouns: Callable[[str], Sequence[str]] | None
) -> tuple[float, bool, bool, float]:
    """(r_type, query_match, category_match, title_score)."""
    query_match = product["query"] == goal["query"]
    category_match = len(_levels(product["product_category"]) & _levels(goal["product_category"])) >= 2
    title_score = _title_score(product["name"], goal["name"], nouns)
    if title_score == 0:
        r_type = 0.0
    elif title_score < 0.1:
        r_type = 0.1
    else:
        r_type = 1.0 if query_match or category_match or title_score > 0.2 else 0.5
    return r_type, query_match, category_match, title_score


@lru_cache(maxsize=4096)
def _levels(category: str) -> frozenset[str]:
    return frozenset(level.strip() for level in category.split("\u203a"))


def _title_score(bought: str, wanted: str, nouns: Callable[[str], Sequence[str]] | None) -> float:
    nouns = nouns if nouns is not None else tagged_nouns
    wanted_nouns = nouns(wanted)
    if not wanted_nouns:
        return 0.2
    return len(set(nouns(bought)) & set(wanted_nouns)) / len(wanted_nouns)


# ---- attributes ------------------------------------------------------------------------------------
def matched_attributes(product: Mapping[str, Any], wanted: Sequence[str]) -> int:
    """How many wanted attributes the product lists, or tells of in its title, bullets or description."""
    listed = product["Attributes"]
    matched = 0
    texts: tuple[str, ...] | None = None
    for attribute in wanted:
        if any(token_set_ratio(own, attribute) > ENOUGH for own in listed):
            matched += 1
            continue
        if texts is None:
            texts = _texts(product)
        matched += any(attribute in text for text in texts)
    return matched


def _texts(product: Mapping[str, Any]) -> tuple[str, ...]:
    bullets = " ".join(bullet or "" for bullet in product["BulletPoints"])
    return product["Title"].lower(), bullets.lower(), product["Description"].lower()


# ---- options ---------------------------------------------------------------------------------------
def _wanted_options(wanted: Any) -> list[Option]:
    if isinstance(wanted, Mapping):
        return [(name, value) for name, value in wanted.items()]
    return [value if isinstance(value, tuple) else _text(value) for value in wanted or ()]


def _matched_options(wanted: Iterable[Option], bought: Iterable[str]) -> int:
    """How many wanted options some bought value meets; one value may meet several."""
    reduced = [normalize_color(value) for value in bought]
    return sum(any(_same_option(value, normalize_color(option)) for value in reduced) for option in wanted)


@lru_cache(maxsize=1 << 15)
def normalize_color(option: Option) -> Option:
    """The first known colour in an option; the option itself if it holds none.

    In a text, any part of it may be the colour (``standard`` is ``tan``); in a (name, value) pair, a whole member.
    """
    return next((color for color in COLORS if color in option), option)


def _same_option(bought: Option, wanted: Option) -> bool:
    return token_set_ratio(bought, wanted) > ENOUGH
