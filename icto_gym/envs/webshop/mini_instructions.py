"""How people ask for things in the built-in shop: sentence patterns, wordings of options, slips of the keyboard."""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import TypeVar

from icto_gym.envs.webshop.mini_vocabulary import MASS_NOUNS

T = TypeVar("T")


class Dice:
    """Draws that are the same on every machine and Python version: only `random.Random.random` is used,
    whose sequence Python promises to keep."""

    def __init__(self, seed: int | str) -> None:
        self._random = random.Random(seed).random

    def chance(self, probability: float) -> bool:
        return self._random() < probability

    def below(self, limit: int) -> int:
        return int(self._random() * limit)

    def between(self, low: int, high: int) -> int:
        """A whole number from low to high, both possible."""
        return low + self.below(high - low + 1)

    def pick(self, items: Sequence[T]) -> T:
        return items[self.below(len(items))]

    def shuffled(self, items: Sequence[T]) -> list[T]:
        return [item for _, item in sorted(((self._random(), item) for item in items), key=lambda pair: pair[0])]


PATTERNS: tuple[str, ...] = (
    # {thing}: "a waterproof suede hat"; {bare}: the same without article; {noun}: "a hat"; {traits}: "waterproof and
    # suede"; {options}: "in navy, size 9"; {be}: "is" or "are"; {it}: "it" or "them"
    "i am looking for {thing} {options}",
    "i'm looking for {thing} {options}",
    "i need {thing} {options}",
    "i want {thing} {options}",
    "i want to buy {thing} {options}",
    "i would like {thing} {options}",
    "i'd like to order {thing} {options}",
    "find me {thing} {options}",
    "please find {thing} {options}",
    "can you find me {thing} {options}",
    "could you get me {thing} {options}",
    "help me find {thing} {options}",
    "looking for {bare}, {options}",
    "searching for {bare} {options}",
    "get me {thing}, {options}",
    "show me {bare} {options}",
    "do you have {bare} {options}",
    "{bare} {options}",
    "{bare}, {options} please",
    "need {bare} {options} asap",
    "i am shopping for {thing} {options}",
    "i am after {thing}, {options}",
    "my sister asked for {thing} {options}",
    "my dad needs {thing} {options}",
    "buying a present: {bare}, {options}",
    "i have to replace my old one, so {thing} {options}",
    "i want {noun} that {be} {traits}, {options}",
    "i need {noun}. should be {traits}, {options}",
    "looking for {noun} and i want {it} {traits} and {options}",
    "find {noun} {options} that {be} {traits}",
    "get {noun} {options}. must be {traits}",
    "i am trying to find {noun} {options}, {traits}",
    "{noun} please, {traits}, {options}",
    "are there any {bare} {options}",
    "i would love {thing} {options}",
    "we are out of stock at home, order {thing} {options}",
    "it has to be {traits}: {noun}, {options}",
    "for my trip i need {thing} {options}",
    "pick out {thing} for me {options}",
    "i'll take {thing} {options}",
    "hello, i need {thing} {options}. thanks",
    "add {thing} {options} to my cart",
    "i really want {thing} {options}",
    "{options}, i want {bare}",
    "hunting for {thing} {options}",
    "time to buy {thing} {options}",
    "where can i find {bare} {options}",
    "only {traits} will do, i want {noun} {options}",
)

OPTION_WORDINGS: dict[str, tuple[str, ...]] = {
    "color": ("in {}", "in {}", "in {} color", "color {}", "the {} one"),
    "shade": ("in {}", "shade {}", "in the {} shade"),
    "size": ("in size {}", "size {}", "in {}"),
    "pattern": ("{} pattern", "with {} pattern", "in {}"),
    "scent": ("with {} scent", "{} scent", "scent {}"),
    "skin type": ("for {} skin", "{} skin type", "skin is {}"),
    "pack": ("pack of {}", "in a pack of {}", "{} pack"),
    "flavor": ("{} flavor", "with {} flavor", "flavor {}"),
    "package": ("in the {}", "as {}", "{} package"),
    "length": ("{} long", "length {}", "{} length"),
    "bundle": ("bundle {}", "the {} bundle"),
    "connection": ("with {} connection", "{} connection", "for {}"),
    "memory": ("with {} memory", "{} memory", "memory of {}"),
    "width": ("{} wide", "width {}", "{} width"),
    "bulb": ("with {} bulb", "{} bulb"),
}

SPELLINGS = (
    ("gray", "grey"),
    ("color", "colour"),
    ("flavor", "flavour"),
    ("pack of 2", "pack of two"),
    ("pack of 6", "pack of six"),
)
"""Other ways to write the same; the second one appears now and then."""

SLIPS = {
    "looking": "lookin", "please": "plese", "want": "wnat", "need": "ned", "would": "woud", "find": "fnd",
    "with": "wiht", "size": "szie", "searching": "serching", "shopping": "shoping", "that": "taht",
    "could": "coud", "order": "oder", "really": "realy", "should": "shoud", "i'm": "im", "i'd": "id",
    "i'll": "ill", "color": "colr", "replace": "repalce", "present": "presant", "trying": "tryng", "thanks": "thx",
    "asked": "aksed", "hello": "helo",
}  # fmt: skip
"""Typing errors in words that carry no requirement."""


def write_instruction(
    dice: Dice, pattern: str, noun: str, title_traits: Sequence[str], extra: str, options: dict[str, str]
) -> str:
    """Write one request, without the price part, which the loader adds.

    Args:
        dice: draws wordings and errors.
        pattern: one of `PATTERNS`.
        noun: the kind of product.
        title_traits: required features and makes, in the order of the title.
        extra: a required trait that titles do not show, or ``""``.
        options: required option values by shown name.
    """
    title_traits = [_joined(dice, trait) for trait in title_traits]
    plural = noun.endswith("s") and noun not in MASS_NOUNS
    bare = " ".join([*title_traits, noun])
    wishes = [dice.pick(OPTION_WORDINGS[name]).format(value) for name, value in options.items()]
    if extra:
        wishes.append(dice.pick(("also {}", "must be {}", "{}", "and {}")).format(extra))
    text = pattern.format(
        thing=_with_article(dice, bare, noun, plural),
        bare=bare,
        noun=_with_article(dice, noun, noun, plural),
        traits=" and ".join(title_traits),
        options=dice.pick((", ", " ", " and ")).join(dice.shuffled(wishes)),
        be="are" if plural else "is",
        it="them" if plural else "it",
    )
    return _mistyped(dice, _spelt_otherwise(dice, text.replace(" and and ", " and ")), noun)


def _with_article(dice: Dice, phrase: str, noun: str, plural: bool) -> str:
    if plural:
        return dice.pick((phrase, phrase, f"some {phrase}"))
    if noun in MASS_NOUNS:
        return f"some {phrase}"
    return f"{'an' if phrase[0] in 'aeiou' else 'a'} {phrase}"


def _joined(dice: Dice, trait: str) -> str:
    """Now and then a trait of two words is written as one, or with a hyphen."""
    if " " not in trait or not dice.chance(0.12):
        return trait
    return trait.replace(" ", dice.pick(("", "-")))


def _spelt_otherwise(dice: Dice, text: str) -> str:
    for usual, other in SPELLINGS:
        if usual in text and dice.chance(0.3):
            text = text.replace(usual, other)
    return text


def _mistyped(dice: Dice, text: str, noun: str) -> str:
    """About one request in four has a slip; one in thirty has it in the noun itself; one in eight has capitals."""
    if dice.chance(0.3):
        wrong = [word for word in text.split() if word in SLIPS]
        if wrong:
            word = dice.pick(wrong)
            text = " ".join(SLIPS[part] if part == word else part for part in text.split())
    if dice.chance(0.035):
        place = dice.between(1, len(noun) - 3)
        text = text.replace(noun, noun[:place] + noun[place + 1] + noun[place] + noun[place + 2 :])
    if dice.chance(0.12):
        text = text[0].upper() + text[1:]
    return text
