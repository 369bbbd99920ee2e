"""Raw catalogue files to products, prices and goals, with every draw as the original makes it.

The original draws prices of ranges and price ceilings from Python's global generator while it loads, then seeds it with
233 and shuffles the goals. Here an own generator, seeded with ``catalog_seed``, does the first two in the same order.
"""

from __future__ import annotations

import itertools
import json
import random
import re
from collections import Counter
from collections.abc import Callable, Container, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from decimal import Decimal, InvalidOperation
from typing import Any

from icto_gym.envs.webshop.search import BM25Engine, SearchEngine
from icto_gym.errors import DataError
from icto_gym.tasks import content_digest

SHUFFLE_SEED = 233
NO_CEILING = 1_000_000
"""The price ceiling of a goal that names none."""
_CEILINGS = tuple(10.0 * n for n in range(1, 100))
_DEFAULT_PRICE = 100.0
_NO_ATTRIBUTES = ("DUMMY_ATTR",)
_LONGEST_CODE = 10

Nouns = Callable[[str], Sequence[str]]
"""Title -> its nouns and proper nouns, lower case, repeats kept."""


@dataclass(frozen=True, slots=True)
class Product:
    """One product as the shop shows and judges it."""

    asin: str
    title: str
    description: str
    bullets: tuple[str | None, ...]
    category: str
    """The department, such as ``"fashion"``."""
    query: str
    """The query it was collected with, lower case: its kind."""
    product_category: str
    """Levels joined by ``" › "``."""
    attributes: tuple[str, ...]
    options: dict[str, tuple[str, ...]]
    """Option name -> values, all lower case."""
    price_text: str
    """Such as ``"$9.9"`` or ``"$5.0 to $9.9"``."""
    pricing: tuple[float, ...]
    """In dollars: the price, or the two ends of the range it is drawn from."""
    image: str

    def record(self) -> dict[str, Any]:
        """The fields that `purchase_reward` reads, under the original's names."""
        return {
            "asin": self.asin, "name": self.title, "Title": self.title, "query": self.query,
            "category": self.category, "product_category": self.product_category, "Attributes": list(self.attributes),
            "BulletPoints": list(self.bullets), "Description": self.description, "options": self.options,
        }  # fmt: skip

    def document(self) -> str:
        """The text that the search engine knows it by."""
        options = ", and ".join(f"{name}: {', '.join(values)}" for name, values in self.options.items())
        first = self.bullets[0] if self.bullets else None
        return " ".join([self.title, self.description, first or "", options]).lower()


@dataclass(frozen=True, slots=True)
class Goal:
    """What a customer wants."""

    asin: str
    """The product it was written for."""
    category: str
    query: str
    name: str
    product_category: str
    instruction: str
    """The whole instruction, price clause included."""
    attributes: tuple[str, ...]
    price_upper: float
    """In dollars; `NO_CEILING` if the instruction names none."""
    options: tuple[str, ...] | tuple[tuple[str, str], ...]
    """Values (human goals) or (name, value) pairs (synthetic ones)."""
    synthetic: bool
    weight: float = 1.0
    key: str = ""
    """``<asin>#<n>``: the n-th instruction (from 0) written for the product, or its n-th combination of options."""

    def record(self) -> dict[str, Any]:
        """The goal under the original's names."""
        return {
            "asin": self.asin, "category": self.category, "query": self.query, "name": self.name,
            "product_category": self.product_category, "instruction_text": self.instruction,
            "attributes": list(self.attributes), "price_upper": self.price_upper,
            "goal_options": dict(self.options) if self.synthetic else list(self.options),  # type: ignore[arg-type]
            "weight": self.weight,
        }  # fmt: skip


@dataclass(eq=False)
class Catalog:
    """Products, prices and goals of one shop, shared by all environments that were made alike."""

    products: Mapping[str, Product]
    """By code, in catalogue order."""
    prices: Mapping[str, float]
    """Drawn prices in dollars."""
    goals: list[Goal]
    """In the original's shuffled order."""
    nouns: Nouns | None = None
    """Nouns of titles, where the data brings its own; None: spaCy's tagger."""
    splits: Mapping[str, Sequence[str]] | None = None
    """Split -> goal keys, where the data brings its own."""
    _engine: SearchEngine | None = field(default=None, repr=False)
    _codes: Sequence[str] | None = field(default=None, repr=False)
    _digests: Mapping[str, str] | None = field(default=None, repr=False)

    def task_digest(self, goal: Goal) -> str:
        """SHA-256 (hex) of a goal and its product: what a result on this task depends on first."""
        if self._digests is not None:
            return self._digests[goal.key]
        product = self.products[goal.asin]
        facts = (product.title, product.description, product.options, self.prices[goal.asin])
        return content_digest(*(json.dumps(part, sort_keys=True) for part in (goal.record(), facts)))

    @property
    def engine(self) -> SearchEngine:
        """BM25 over the products, built at the first search."""
        if self._engine is None:
            self._engine = BM25Engine(list(self.products), (p.document() for p in self.products.values()))
        return self._engine

    @property
    def codes(self) -> Sequence[str]:
        """The products' codes, in catalogue order."""
        if self._codes is None:
            self._codes = tuple(self.products)
        return self._codes

    def with_category(self, category: str) -> tuple[str, ...]:
        """Codes of all products of a department, in catalogue order."""
        return tuple(asin for asin, product in self.products.items() if product.category == category)

    def with_query(self, query: str) -> tuple[str, ...]:
        """Codes of all products of a kind, in catalogue order."""
        return tuple(asin for asin, product in self.products.items() if product.query == query)


def build_catalog(
    items: Iterable[Any],
    ins: Mapping[str, Any],
    human_ins: Mapping[str, Any],
    *,
    goals: str = "human",
    num_products: int | None = None,
    catalog_seed: int = 0,
    names: tuple[str, str, str] = ("items_shuffle.json", "items_ins_v2.json", "items_human_ins.json"),
) -> Catalog:
    """Make a catalogue from the three raw files' content.

    Args:
        items: records of ``items_shuffle.json``, in order.
        ins: content of ``items_ins_v2.json``: code -> attributes and the synthetic instruction.
        human_ins: content of ``items_human_ins.json``: code -> instructions.
        goals: ``"human"`` or ``"synthetic"``.
        num_products: read only so many records (dropped ones count).
        catalog_seed: drives drawn prices and price ceilings.
        names: what to call the three in messages.

    Raises:
        DataError: naming file, record and field.
    """
    _expect(ins, Mapping, names[1], "the whole", "content")
    _expect(human_ins, Mapping, names[2], "the whole", "content")
    draw = random.Random(catalog_seed)
    products: dict[str, Product] = {}
    for number, item in enumerate(itertools.islice(items, num_products)):
        product = read_product(item, ins, (names[0], f"record {number}"), names[1], products)
        if product is not None:
            products[product.asin] = product
    prices = {asin: _drawn_price(product, draw) for asin, product in products.items()}
    if goals == "human":
        found = human_goals(products, prices, human_ins, names[2], draw)
    else:
        found = synthetic_goals(products, prices, ins, names[1], draw)
    return Catalog(products, prices, shuffled(found))


def shuffled(goals: list[Goal]) -> list[Goal]:
    """Goals in the original's order; shuffles the list it gets."""
    random.Random(SHUFFLE_SEED).shuffle(goals)
    return goals


# ---- reading fields, with errors that say where ---------------------------------------------------
@dataclass(frozen=True, slots=True)
class _Place:
    file: str
    record: str

    def field(self, record: Any, name: str, kinds: Any) -> Any:
        """``record[name]``, or a `DataError` that names file, record and field."""
        _expect(record, Mapping, self.file, self.record, "content")
        if name not in record:
            raise DataError(f"{self.file}: {self.record}: the field {name!r} is missing.")
        return _expect(record[name], kinds, self.file, self.record, f"field {name!r}")

    def texts(self, record: Any, name: str) -> tuple[str, ...]:
        """A list of texts."""
        values = self.field(record, name, list)
        for value in values:
            _expect(value, str, self.file, self.record, f"an entry of the field {name!r}")
        return tuple(values)


def _expect(value: Any, kinds: Any, file: str, record: str, what: str) -> Any:
    if isinstance(value, kinds):
        return value
    wanted = kinds if isinstance(kinds, tuple) else (kinds,)
    listed = " or ".join("null" if kind is type(None) else _JSON_NAMES.get(kind, kind.__name__) for kind in wanted)
    raise DataError(f"{file}: {record}: {what} should be {listed}; found {type(value).__name__} {value!r:.60}.")


_JSON_NAMES = {str: "a text", list: "a list", dict: "an object", Mapping: "an object"}


def read_product(
    item: Any, ins: Mapping[str, Any], where: tuple[str, str], ins_name: str, known: Container[str]
) -> Product | None:
    """A product, or None where the original drops it: code ``nan``, too long, or seen before.

    Args:
        item: the raw record.
        ins: code -> raw attributes.
        where: file and record, for messages.
        ins_name: what to call the file of the attributes.
        known: codes of earlier products.

    Raises:
        DataError: naming file, record and field.
    """
    place = _Place(*where)
    asin = place.field(item, "asin", str)
    if asin == "nan" or len(asin) > _LONGEST_CODE or asin in known:
        return None
    place = _Place(place.file, f"{place.record} ({asin})")
    attributes: tuple[str, ...] = _NO_ATTRIBUTES
    if "attributes" in _expect(ins.get(asin, {}), dict, ins_name, f"record {asin!r}", "content"):
        attributes = _Place(ins_name, f"record {asin!r}").texts(ins[asin], "attributes")
    pricing, price_text = _pricing(item.get("pricing"), place)
    images = item.get("images") or [""]
    return Product(
        asin=asin,
        title=place.field(item, "name", str),
        description=place.field(item, "full_description", str),
        bullets=_bullets(place.field(item, "small_description", (list, str, type(None))), place),
        category=place.field(item, "category", str),
        query=place.field(item, "query", str).lower().strip(),
        product_category=place.field(item, "product_category", str),
        attributes=attributes,
        options=_options(place.field(item, "customization_options", (dict, str, list, type(None))), place),
        price_text=price_text,
        pricing=pricing,
        image=images[0] if isinstance(images, list) and isinstance(images[0], str) else "",
    )


def _bullets(value: Any, place: _Place) -> tuple[str | None, ...]:
    if not isinstance(value, list):
        return (value,)
    for bullet in value:
        _expect(bullet, (str, type(None)), place.file, place.record, "an entry of the field 'small_description'")
    return tuple(value)


def _pricing(value: Any, place: _Place) -> tuple[tuple[float, ...], str]:
    """Prices in dollars and the text shown, from a raw text such as ``"$1,299.00$1,499.00"``."""
    if not value:
        return (_DEFAULT_PRICE,), f"${_DEFAULT_PRICE}"
    _expect(value, str, place.file, place.record, "field 'pricing'")
    try:
        prices = tuple(float(Decimal(re.sub(r"[^\d.]", "", part))) for part in value.split("$")[1:])
    except InvalidOperation:
        prices = ()
    if not prices:
        raise DataError(f"{place.file}: {place.record}: field 'pricing' holds no readable dollar price: {value!r:.60}.")
    if len(prices) == 1:
        return prices, f"${prices[0]}"
    return prices[:2], f"${prices[0]} to ${prices[1]}"


def _options(value: Any, place: _Place) -> dict[str, tuple[str, ...]]:
    if not value:
        return {}
    _expect(value, dict, place.file, place.record, "field 'customization_options'")
    options: dict[str, tuple[str, ...]] = {}
    for name, contents in value.items():
        if contents is not None:
            where = _Place(place.file, f"{place.record}, option {name!r}")
            _expect(contents, list, where.file, where.record, "content")
            texts = (where.field(content, "value", str) for content in contents)
            options[name.lower()] = tuple(text.strip().replace("/", " | ").lower() for text in texts)
    return options


# ---- draws -----------------------------------------------------------------------------------------
def _drawn_price(product: Product, draw: random.Random) -> float:
    return product.pricing[0] if len(product.pricing) == 1 else draw.uniform(*product.pricing)


def _ceiling(price: float, draw: random.Random) -> tuple[float, str]:
    """A price ceiling and its clause: the higher of two of the next four multiples of ten."""
    above = list(itertools.islice((ceiling for ceiling in _CEILINGS if ceiling > price), 4))
    if len(above) < 2:
        return NO_CEILING, ""
    upper = max(draw.sample(above, 2))
    return upper, f", and price lower than {upper:.2f} dollars"


def human_goals(
    products: Mapping[str, Product], prices: Mapping[str, float], human_ins: Mapping[str, Any], name: str,
    draw: random.Random,
) -> list[Goal]:  # fmt: skip
    """Goals that people wrote, in catalogue order; only products with instructions matter."""
    goals = []
    for asin, product in products.items():
        written = _expect(human_ins.get(asin, []), list, name, f"record {asin!r}", "content")
        for number, instruction in enumerate(written):
            place = _Place(name, f"record {asin!r}, instruction {number}")
            attributes = place.texts(instruction, "instruction_attributes")
            if not attributes:
                continue
            upper, clause = _ceiling(prices[asin], draw)
            text = place.field(instruction, "instruction", str).strip(".") + clause
            options = place.texts(instruction, "instruction_options")
            goals.append(_goal(product, text, attributes, upper, options, False, f"{asin}#{number}"))
    return goals


def synthetic_goals(
    products: Mapping[str, Product], prices: Mapping[str, float], ins: Mapping[str, Any], name: str,
    draw: random.Random,
) -> list[Goal]:  # fmt: skip
    """Goals made by rule, in catalogue order: one for each combination of a product's options."""
    drafts: list[Goal] = []
    counts: Counter[str] = Counter()
    for asin, product in products.items():
        if asin not in ins:
            raise DataError(f"{name}: record {asin!r} is missing; synthetic goals need one for every product.")
        if ins[asin].get("instruction") is None:
            continue
        place = _Place(name, f"record {asin!r}")
        text = place.field(ins[asin], "instruction", str)
        attributes = place.texts(ins[asin], "instruction_attributes")
        if not attributes:
            raise DataError(f"{name}: record {asin!r}: field 'instruction_attributes' is empty.")
        upper, clause = _ceiling(prices[asin], draw)
        for number, pairs in enumerate(_combinations(product.options)):
            wish = ", and ".join(f"{option}: {value}" for option, value in pairs)
            whole = text + (f" with {wish}" if wish else "") + clause
            drafts.append(_goal(product, whole, attributes, upper, pairs, True, f"{asin}#{number}"))
            counts.update(attributes)
    return [_weighted(goal, counts) for goal in drafts]


def _combinations(options: Mapping[str, Sequence[str]]) -> Iterable[tuple[tuple[str, str], ...]]:
    """Every choice of one value per option, names sorted; none at all if an option has no value."""
    names = sorted(options)
    for values in itertools.product(*(options[name] for name in names)):
        yield tuple(zip(names, values, strict=True))


def _goal(
    product: Product, text: str, attributes: tuple[str, ...], upper: float, options: Any, synthetic: bool, key: str
) -> Goal:
    return Goal(
        product.asin, product.category, product.query, product.title, product.product_category, text, attributes,
        upper, options, synthetic, 1, key,
    )  # fmt: skip


def _weighted(goal: Goal, counts: Mapping[str, int]) -> Goal:
    weight = sum(1.0 / counts[attribute] for attribute in goal.attributes) / len(goal.attributes)
    return Goal(
        goal.asin, goal.category, goal.query, goal.name, goal.product_category, goal.instruction, goal.attributes,
        goal.price_upper, goal.options, True, weight, goal.key,
    )  # fmt: skip
