"""The built-in shop ``mini``: 1,000 products and some 1,900 requests in the original's raw format, made by rule.

Products come in families of three to five that differ in one thing: a feature in the title, a trait that only the
Features page shows, an option value, or the price. A request names enough to tell them apart, so careless
purchases pay a part and careful ones 1.0. Everything follows from `SEED`.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

from icto_gym.envs.webshop import mini_instructions, mini_vocabulary
from icto_gym.envs.webshop.mini_instructions import PATTERNS, Dice, write_instruction
from icto_gym.envs.webshop.mini_vocabulary import (
    BRANDS,
    CLOSING_BULLETS,
    CODE_PARTS,
    DEPARTMENTS,
    DESCRIPTIONS,
    HELD_OUT_DEPARTMENTS,
    OPTION_VALUES,
    TITLE_TAILS,
    Section,
)
from icto_gym.errors import DataError
from icto_gym.files import cache_dir, read_json, write_text

SEED = 1
FAMILIES_PER_KIND = (1,) * 39 + (2,) * 11
"""Of the 50 kinds of a department."""
FAMILY_SIZES = (3,) * 47 + (4,) * 11 + (5,) * 3
"""Of the 61 families of a department: 200 products."""
CONTRASTS = ("feature",) * 8 + ("option",) * 6 + ("extra",) * 4 + ("price",) * 4
"""What the members of a family differ in, and how often. Prices are a minority: small models compare numbers badly."""
DEV_GOALS, TEST_GOALS = 160, 330
"""At least so many; families fill dev, then test, then train, and no product serves two splits."""


@dataclass(frozen=True)
class MiniData:
    """The built-in data in the original's raw format, and what the original has no file for."""

    items: list[dict[str, Any]]
    """As ``items_shuffle.json``."""
    ins: dict[str, Any]
    """As ``items_ins_v2.json``."""
    human_ins: dict[str, list[dict[str, Any]]]
    """As ``items_human_ins.json``."""
    splits: dict[str, list[str]]
    """Split -> ordered goal keys ``<asin>#<number of the instruction>``."""

    @property
    def nouns(self) -> Callable[[str], list[str]]:
        """Title -> its nouns, lower case, known from the vocabulary; no tagger is needed."""
        return title_nouns

    @property
    def digest(self) -> str:
        """SHA-256 (hex) of all of it."""
        return hashlib.sha256(_text(self).encode()).hexdigest()


@lru_cache(maxsize=1)
def build_mini() -> MiniData:
    """The built-in data: from the cache file if that is sound, else made anew (and cached where that is possible)."""
    path = _cache_path()
    if path is not None:
        # absent, torn or foreign: the data can always be made again
        with contextlib.suppress(OSError, DataError, KeyError, TypeError, ValueError, RecursionError):
            return _read_cache(path)
    data = generate()
    if path is not None:
        with contextlib.suppress(OSError):  # a full disk or a read-only folder costs the next process 0.1 s, no more
            write_text(path, f'{{"digest": "{data.digest}", "data": {_text(data)}}}\n')
    return data


def title_nouns(title: str) -> list[str]:
    """Nouns and proper nouns of a title of this data, lower case, in order."""
    known = _noun_set()
    return [word for word in title.lower().split() if word in known]


@lru_cache(maxsize=1)
def _noun_set() -> frozenset[str]:
    kinds = (kind for sections in DEPARTMENTS.values() for section in sections for kind in section.kinds.split())
    return frozenset(kinds) | {brand.lower() for brand in BRANDS}


# ---- the cache ---------------------------------------------------------------------------------------
def _cache_path() -> Path | None:
    """The cache file of exactly this generator, or None where no cache folder can be had."""
    state = hashlib.sha256()
    try:
        for source in (__file__, mini_vocabulary.__file__, mini_instructions.__file__):
            state.update(Path(source).read_bytes())
        return cache_dir("webshop-mini") / f"mini-{state.hexdigest()[:16]}.json"
    except (OSError, RuntimeError):
        return None


def _read_cache(path: Path) -> MiniData:
    stored = read_json(path)
    data = MiniData(**stored["data"])
    if data.digest != stored["digest"]:
        raise DataError(f"{path}: the content does not match its digest.")
    return data


def _text(data: MiniData) -> str:
    parts = {"items": data.items, "ins": data.ins, "human_ins": data.human_ins, "splits": data.splits}
    return json.dumps(parts, sort_keys=True, separators=(",", ":"))


# ---- products ----------------------------------------------------------------------------------------
_Options = dict[str, tuple[str, ...]]
"""Option name -> values."""


class _Member(NamedTuple):
    """One product of a family, with what requests for it may name."""

    item: dict[str, Any]
    feature: str
    make: str
    extra: str
    options: _Options
    """By shown name."""
    telling: _Options
    """The same without values that the near miss has too; empty where options do not tell."""


class _Family(NamedTuple):
    department: str
    contrast: str
    members: list[_Member]


def generate(seed: int = SEED) -> MiniData:
    """Make the data anew; equal seeds give equal data on every machine."""
    dice = Dice(seed)
    families = [family for department in DEPARTMENTS for family in _department(dice, department)]
    codes = _codes(dice, sum(len(family.members) for family in families))
    for member in (member for family in families for member in family.members):
        member.item["asin"] = codes.pop()
    human_ins, splits = _requests(dice, families)
    members = dice.shuffled([member for family in families for member in family.members])
    ins = {member.item["asin"]: _attribute_record(member) for member in members}
    made = MiniData([member.item for member in members], ins, human_ins, splits)
    # The cache's text sorts keys, and that order is seen: it is the order of a page's options. Whoever generates the
    # data must see what all others will read.
    return MiniData(**json.loads(_text(made)))


def _codes(dice: Dice, count: int) -> list[str]:
    pairs = [f"B0{first}{second}" for first in CODE_PARTS for second in CODE_PARTS if first != second]
    return dice.shuffled(pairs)[:count]


def _department(dice: Dice, department: str) -> list[_Family]:
    counts, sizes = dice.shuffled(FAMILIES_PER_KIND), dice.shuffled(FAMILY_SIZES)
    families = []
    for section in DEPARTMENTS[department]:
        for kind in section.kinds.split():
            makes, brands = dice.shuffled(section.makes), dice.shuffled(BRANDS)
            for _ in range(counts.pop()):
                contrast = dice.pick(CONTRASTS)
                drafts = _family_drafts(dice, section, makes.pop(), sizes.pop(), contrast)
                finished = [_member(dice, department, section, kind, brands.pop(), draft) for draft in drafts]
                families.append(_Family(department, contrast, finished))
    return families


class _Draft(NamedTuple):
    feature: str
    make: str
    extra: str
    price: float
    options: _Options
    telling: _Options
    description: str


def _family_drafts(dice: Dice, section: Section, make: str, size: int, contrast: str) -> list[_Draft]:
    """Drafts of a family: pairs alike in all but the contrast, or, for features, members with a feature each."""
    features, extras = dice.shuffled(section.features), dice.shuffled(section.extras)
    base = dice.between(*section.prices)
    shared, telling = _option_sets(dice, section, contrast == "option")
    drafts: list[_Draft] = []
    for number in range(size):
        pair, variant = (number, 0) if contrast == "feature" else divmod(number, 2)
        price = base * (0.9 + 0.05 * dice.below(6))
        if contrast == "price" and variant:
            price = drafts[-1].price + dice.between(45, 75)  # above every ceiling that the cheaper one can get
        extra = extras[variant if contrast == "extra" else 0]
        price = round(price * 2) / 2
        description = _description(dice, telling[1 - variant])
        drafts.append(_Draft(features[pair], make, extra, price, shared[variant], telling[variant], description))
    return drafts


def _description(dice: Dice, elsewhere: _Options) -> str:
    """A short text. It names the option values of the near miss, so that a search for them finds both."""
    for values in elsewhere.values():
        return f"Our other model comes in {' and '.join(values)}."
    return dice.pick(DESCRIPTIONS)


def _option_sets(
    dice: Dice, section: Section, differ: bool
) -> tuple[tuple[_Options, _Options], tuple[_Options, _Options]]:
    """Options of the two variants of a family, and the values that tell them apart."""
    first: _Options = {}
    second: _Options = {}
    own: tuple[_Options, _Options] = ({}, {})
    names = [entry.split(":") for entry in section.options]
    chosen = dice.pick([parts[0] for parts in names if len(OPTION_VALUES[parts[-1]]) >= 4]) if differ else ""
    for parts in names:
        pool = OPTION_VALUES[parts[-1]]
        drawn = dice.shuffled(pool)
        first[parts[0]] = second[parts[0]] = _in_order(drawn[: 2 + dice.below(2)], pool)
        if parts[0] == chosen:
            first[chosen], second[chosen] = _in_order(drawn[:3], pool), _in_order(drawn[2:5], pool)
            own[0][chosen], own[1][chosen] = tuple(drawn[:2]), tuple(drawn[3:5])
    return (first, second), own


def _in_order(values: Sequence[str], pool: Sequence[str]) -> tuple[str, ...]:
    return tuple(value for value in pool if value in values)


def _member(dice: Dice, department: str, section: Section, kind: str, brand: str, draft: _Draft) -> _Member:
    title = f"{brand} {draft.feature} {draft.make} {kind}".title()
    if dice.chance(0.25):
        title = f"{title} {dice.pick(TITLE_TAILS)}"
    bullets = [draft.feature, draft.extra]
    if dice.chance(0.3):
        bullets.append(dice.pick(CLOSING_BULLETS))
    item = {
        "name": title,
        "full_description": draft.description,
        "small_description": bullets,
        "pricing": f"${draft.price:.2f}",
        "category": department,
        "query": kind,
        "product_category": " › ".join((department.title(), section.name, kind.title())),
        "customization_options": {name: _raw_values(values) for name, values in draft.options.items()},
        "brand": brand,
        "images": [],
    }
    return _Member(item, draft.feature, draft.make, draft.extra, draft.options, draft.telling)


def _raw_values(values: Sequence[str]) -> list[dict[str, Any]]:
    return [{"value": value, "is_selected": not number, "image": None} for number, value in enumerate(values)]


def _attribute_record(member: _Member) -> dict[str, Any]:
    return {
        "attributes": [member.feature, member.make, member.extra],
        "instruction": f"Find me {member.feature} {member.make} {member.item['query']}",
        "instruction_attributes": [member.feature, member.make],
    }


# ---- requests ----------------------------------------------------------------------------------------
def _requests(dice: Dice, families: list[_Family]) -> tuple[dict[str, list[dict[str, Any]]], dict[str, list[str]]]:
    """Instructions by product code, and the splits of their keys."""
    human_ins: dict[str, list[dict[str, Any]]] = {}
    splits: dict[str, list[str]] = {"train": [], "dev": [], "test": [], "ood": []}
    for family in dice.shuffled(families):
        split = _split_of(family, splits)
        for number, member in enumerate(family.members):
            asin = member.item["asin"]
            dear = family.contrast == "price" and number % 2
            wanted = 1 if dear or split == "ood" else 2 + dice.below(2)
            human_ins[asin] = _distinct_requests(dice, member, family.contrast, wanted)
            splits[split] += [f"{asin}#{place}" for place in range(len(human_ins[asin]))]
    return human_ins, {name: dice.shuffled(keys) for name, keys in splits.items()}


def _split_of(family: _Family, splits: dict[str, list[str]]) -> str:
    if family.department in HELD_OUT_DEPARTMENTS:
        return "ood"
    if len(splits["dev"]) < DEV_GOALS:
        return "dev"
    return "test" if len(splits["test"]) < TEST_GOALS else "train"


def _distinct_requests(dice: Dice, member: _Member, contrast: str, wanted: int) -> list[dict[str, Any]]:
    """Requests for one product that differ in what they require."""
    written: dict[tuple[Any, ...], dict[str, Any]] = {}
    for _ in range(10 * wanted):
        request = _request(dice, member, contrast)
        written.setdefault((*request["instruction_attributes"], *sorted(request["instruction_options"])), request)
        if len(written) == wanted:
            break
    return list(written.values())


def _request(dice: Dice, member: _Member, contrast: str) -> dict[str, Any]:
    extra = member.extra if contrast == "extra" else ""
    traits = [member.feature, *([member.make] if dice.chance(0.3 if extra else 0.55) else [])]
    options = _wanted_options(dice, member)
    text = write_instruction(dice, dice.pick(PATTERNS), member.item["query"], traits, extra, options)
    return {
        "asin": member.item["asin"],
        "instruction": text,
        "attributes": [member.feature, member.make, member.extra],
        "options": [],
        "instruction_attributes": [*traits, *([extra] if extra else [])],
        "instruction_options": list(options.values()),
    }


def _wanted_options(dice: Dice, member: _Member) -> dict[str, str]:
    """One value of one or both options; where an option tells near misses apart, one that only this product has."""
    names = dice.shuffled(list(member.options))
    must = next(iter(member.telling), names[0])
    chosen = [name for name in member.options if name == must or dice.chance(0.75)]
    return {name: dice.pick(member.telling.get(name) or member.options[name]) for name in chosen}
