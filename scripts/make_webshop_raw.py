"""Write a shop of any size in the original's raw format, for trying out and measuring the catalogue on disk.

    python scripts/make_webshop_raw.py FOLDER --products 1181436       # 2.8 GB, about ten minutes
    python scripts/make_webshop_raw.py FOLDER --products 1000 --seed 5

Every product is another: words follow Zipf's law over a vocabulary of some 60,000 invented words and the words that
shops use most, each shelf prefers words of its own, and part numbers that occur once make the vocabulary grow with the
catalogue, as it does in a real one. Prices, ranges of prices, options, empty descriptions and missing attributes occur
about as often as in the original's files. Equal arguments give equal files.
"""

from __future__ import annotations

import argparse
import itertools
import json
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from tqdm import tqdm

from icto_gym.envs.webshop.mini_vocabulary import DEPARTMENTS, OPTION_VALUES, Section
from icto_gym.files import atomic_open

FULL_SIZE, INSTRUCTIONS = 1_181_436, 12_087
"""The original's full catalogue and its human instructions."""
BATCH = 1000
INVENTED, OWN_WORDS = 60_000, 600
"""Words in all; words that a shelf prefers."""
SHARES = {"common": 0.42, "shelf": 0.20, "invented": 0.33, "measure": 0.04, "part": 0.01}
"""Where a word of a text comes from."""
COMMON = """
    the
""".split()  # noqa: SIM905
CONSONANTS = "b br c d dr f g gl h k kr l m n p pr r s st t tr v w z"
SYLLABLES = [consonant + vowel for consonant in CONSONANTS.split() for vowel in "aeiou"]
PATTERNS = (
    "i am looking for {wish} {kind}", "i need {wish} {kind}", "find me {wish} {kind}", "i want to buy {wish} {kind}",
    "looking for {kind} that are {wish}", "can you get me {wish} {kind}", "i would like {wish} {kind} for my home",
)  # fmt: skip


class Shelf(NamedTuple):
    """A section of a department with the words and shares of its own."""

    department: str
    section: Section
    kinds: list[str]
    words: np.ndarray


class Vocabulary:
    """Words by how often they occur; all follow from the seed."""

    def __init__(self, seed: int) -> None:
        draw = np.random.default_rng([seed, 0])
        words: dict[str, None] = {}
        while len(words) < INVENTED:
            for parts in draw.choice(len(SYLLABLES), size=(INVENTED, 4)).tolist():
                words["".join(SYLLABLES[part] for part in parts[: 2 + parts[0] % 3])] = None
        self.invented = np.array(list(words)[:INVENTED], dtype=object)
        self.common = np.array(COMMON, dtype=object)
        self.brands = np.array([word.title() for word in self.invented[20_000:50_000]], dtype=object)
        self.shelves = [self._shelf(draw, name, part) for name, parts in DEPARTMENTS.items() for part in parts]
        self._ladders = {size: _ladder(size) for size in (len(COMMON), OWN_WORDS, INVENTED, len(self.brands))}

    def _shelf(self, draw: np.random.Generator, department: str, section: Section) -> Shelf:
        known = [word for phrase in (*section.features, *section.makes, *section.extras) for word in phrase.split()]
        own = np.concatenate([np.array(known, dtype=object), draw.choice(self.invented, OWN_WORDS, replace=False)])
        return Shelf(department, section, section.kinds.split(), draw.permutation(own[:OWN_WORDS]))

    def zipf(self, draw: np.random.Generator, words: np.ndarray, count: int) -> np.ndarray:
        """Draw words, the n-th of the list in proportion to 1 / (n + 2.7)."""
        return words[np.searchsorted(self._ladders[len(words)], draw.random(count))]

    def text(self, draw: np.random.Generator, shelf: Shelf, count: int) -> list[str]:
        """Words of running text of a shelf."""
        source = draw.choice(len(SHARES), count, p=list(SHARES.values()))
        words = np.empty(count, dtype=object)
        for number, pool in enumerate((self.common, shelf.words, self.invented)):
            where = np.flatnonzero(source == number)
            words[where] = self.zipf(draw, pool, len(where))
        for where in np.flatnonzero(source == 3).tolist():
            size, unit = int(draw.integers(1, 400)), ("oz", "cm", " inch", "ml", "w", ".5", " pack", "gb")
            words[where] = f"{size}{unit[size % len(unit)]}"
        for where in np.flatnonzero(source == 4).tolist():
            words[where] = np.base_repr(int(draw.integers(36**6, 36**7)), 36)
        return words.tolist()


def _ladder(size: int) -> np.ndarray:
    shares = np.cumsum(1.0 / (np.arange(size) + 2.7))
    ladder = shares / shares[-1]
    ladder[-1] = 1.0
    return ladder


# ---- products ----------------------------------------------------------------------------------------
def products(count: int, seed: int) -> Iterator[tuple[dict[str, Any], dict[str, Any]]]:
    """Records of ``items_shuffle.json`` with their records of ``items_ins_v2.json``."""
    vocabulary = Vocabulary(seed)
    for first in range(0, count, BATCH):
        draw = np.random.default_rng([seed, 1, first])
        for number in range(first, min(first + BATCH, count)):
            yield _product(draw, vocabulary, number)


def _product(draw: np.random.Generator, vocabulary: Vocabulary, number: int) -> tuple[dict[str, Any], dict[str, Any]]:
    shelf = vocabulary.shelves[int(draw.integers(len(vocabulary.shelves)))]
    section, kind = shelf.section, _pick(draw, shelf.kinds)
    feature, make, extra = _pick(draw, section.features), _pick(draw, section.makes), _pick(draw, section.extras)
    lengths = draw.lognormal((1.6, 3.9, 3.2), (0.5, 0.8, 0.4)).astype(int).clip(1, (24, 600, 90))
    in_title, in_description, in_bullet = lengths.tolist()
    bullets = int(draw.integers(1, 6))
    words = iter(vocabulary.text(draw, shelf, in_title + in_description + in_bullet * bullets))
    brand = str(vocabulary.zipf(draw, vocabulary.brands, 1)[0])
    code = _code(number)
    tail = " ".join(itertools.islice(words, in_title)).title()
    item = {
        "name": f"{brand} {feature.title()} {make.title()} {kind.title()}, {tail}",
        "product_information": {"ASIN": code, "Manufacturer": brand},
        "brand": f"Visit the {brand} Store",
        "full_description": "" if draw.random() < 0.2 else _sentences(itertools.islice(words, in_description)),
        "pricing": _pricing(draw, section),
        "list_price": "",
        "availability_status": "In Stock.",
        "images": [f"https://example.invalid/{code}_{n}.jpg" for n in range(int(draw.integers(1, 5)))],
        "product_category": " › ".join((shelf.department.title(), section.name, kind.title())),
        "average_rating": round(float(draw.uniform(2, 5)), 1),
        "small_description": [
            f"{extra.upper()} - {_sentences(itertools.islice(words, in_bullet))}" for _ in range(bullets)
        ],
        "total_reviews": int(draw.lognormal(3, 2)),
        "customization_options": _options(draw, section, code),
        "asin": code,
        "category": shelf.department,
        "query": kind,
        "page": int(draw.integers(1, 40)),
        "small_description_old": "",
    }  # fmt: skip
    listed = [feature, make, extra] if draw.random() < 0.9 else []
    wished = listed[: 1 + int(draw.integers(2))]
    record = {
        "attributes": listed, "instruction": f"Find me {', '.join(wished)} {kind}" if listed else None,
        "instruction_attributes": wished,
    }  # fmt: skip
    return item, record if listed else {"instruction": None}


def _pick(draw: np.random.Generator, values: Any) -> Any:
    return values[int(draw.integers(len(values)))]


def _code(number: int) -> str:
    """A code of ten signs; the multiplier shares no factor with 36, so none comes twice."""
    return "B0" + np.base_repr((number * 1_500_450_271 + 77_777_777) % 36**8, 36).rjust(8, "0")


def _sentences(words: Iterator[str]) -> str:
    written = []
    while part := list(itertools.islice(words, 12)):
        written.append(" ".join(part).capitalize() + ".")
    return " ".join(written)


def _pricing(draw: np.random.Generator, section: Section) -> str:
    chance, price = draw.random(), float(draw.uniform(*section.prices))
    if chance < 0.03:
        return ""
    return f"${price:,.2f}" if chance < 0.78 else f"${price:,.2f}${price * draw.uniform(1.05, 12):,.2f}"


def _options(draw: np.random.Generator, section: Section, code: str) -> dict[str, Any] | None:
    if draw.random() < 0.35:
        return None
    options: dict[str, Any] = {}
    for entry in section.options[: int(draw.integers(1, 3))]:
        name, _, values = entry.partition(":")
        pool = OPTION_VALUES[values or name]
        chosen = draw.permutation(len(pool))[: int(draw.integers(2, 9))].tolist()
        options[name.title()] = [
            {"is_selected": not place, "url": f"https://example.invalid/dp/{code}?th={place}", "value": pool[n].title(),
             "price_string": "", "price": 0, "image": None}
            for place, n in enumerate(chosen)
        ]  # fmt: skip
    return options


# ---- people --------------------------------------------------------------------------------------------
def _instruction(draw: np.random.Generator, item: dict[str, Any], wished: list[str]) -> dict[str, Any]:
    options = item["customization_options"] or {}
    values = [str(_pick(draw, contents)["value"]).lower() for contents in options.values()]
    text = str(_pick(draw, PATTERNS)).format(wish=" and ".join(wished), kind=item["query"])
    return {
        "asin": item["asin"], "instruction": f"{text} in {', '.join(values)}." if values else f"{text}.",
        "attributes": wished, "options": [], "instruction_attributes": wished, "instruction_options": values,
    }  # fmt: skip


def write(folder: Path, count: int, seed: int) -> None:
    """Write the three files; each appears when it is whole."""
    draw = np.random.default_rng([seed, 2])
    asked = set(draw.permutation(count)[:INSTRUCTIONS].tolist())
    human: dict[str, list[dict[str, Any]]] = {}
    with ExitStack() as stack:
        items = stack.enter_context(atomic_open(folder / "items_shuffle.json"))
        ins = stack.enter_context(atomic_open(folder / "items_ins_v2.json"))
        for number, (item, record) in enumerate(
            tqdm(products(count, seed), total=count, unit=" products", disable=None)
        ):
            items.write(("[" if not number else ",\n") + json.dumps(item))
            ins.write(("{" if not number else ",\n") + json.dumps(item["asin"]) + ": " + json.dumps(record))
            if number in asked and record["instruction"]:
                human[item["asin"]] = [_instruction(draw, item, record["instruction_attributes"])]
        items.write("]\n" if count else "[]\n")
        ins.write("}\n" if count else "{}\n")
        with atomic_open(folder / "items_human_ins.json") as handle:
            json.dump(human, handle)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--products", type=int, default=FULL_SIZE)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    if options.products < 0:
        parser.error(f"--products is {options.products}; give a number from 0")
    write(options.folder, options.products, options.seed)
    print(f"{options.folder}: {options.products} products", file=sys.stderr)


if __name__ == "__main__":
    main()
