"""The built-in shop: same everywhere, solvable, honest splits, and near misses that cost something."""

from __future__ import annotations

import itertools
import json
import os
import re
from dataclasses import replace

import pytest

from icto_gym.envs.webshop import mini
from icto_gym.envs.webshop.catalog import Catalog, Goal, Product
from icto_gym.envs.webshop.fuzzy import token_set_ratio
from icto_gym.envs.webshop.mini_instructions import PATTERNS
from icto_gym.envs.webshop.mini_vocabulary import DEPARTMENTS, HELD_OUT_DEPARTMENTS, OPTION_VALUES
from icto_gym.envs.webshop.raw import load_catalog
from icto_gym.envs.webshop.reward import ENOUGH, normalize_color, purchase_reward
from icto_gym.envs.webshop.words import analyze

DIGEST = "214aedee5ac5244fdecaa4b80bf76a9fd33cb5d12a6279587411c3d1ccc5441e"


@pytest.fixture(scope="module")
def data() -> mini.MiniData:
    return mini.generate()


@pytest.fixture(scope="module")
def catalog() -> Catalog:
    return load_catalog("mini")


@pytest.fixture(scope="module")
def alike(catalog) -> dict[str, list[Product]]:
    """Products by kind."""
    found: dict[str, list[Product]] = {}
    for product in catalog.products.values():
        found.setdefault(product.query, []).append(product)
    return found


def requests(data: mini.MiniData) -> dict[str, dict]:
    return {f"{asin}#{n}": entry for asin, entries in data.human_ins.items() for n, entry in enumerate(entries)}


def pay(catalog: Catalog, product: Product, goal: Goal, values: tuple[str, ...]) -> float:
    options = {name: value for name, listed in product.options.items() for value in values if value in listed}
    price = catalog.prices[product.asin]
    return purchase_reward(product.record(), goal.record(), price, options, nouns=catalog.nouns).total


def test_the_generated_data_are_the_same_on_every_machine(data):
    assert data.digest == DIGEST


def test_there_are_a_thousand_products_in_five_departments_and_enough_goals(data):
    assert len(data.items) == len({item["asin"] for item in data.items}) == 1000
    assert len({item["category"] for item in data.items}) == 5
    assert all(re.fullmatch(r"B0[A-Z]{8}", item["asin"]) for item in data.items)
    assert all(len(item["name"].split()) <= 8 for item in data.items)
    sizes = {split: len(keys) for split, keys in data.splits.items()}
    assert set(sizes) == {"train", "dev", "test", "ood"} and sum(sizes.values()) >= 1500
    assert sizes["train"] >= 900 and sizes["dev"] >= 150 and sizes["test"] >= 300 and sizes["ood"] >= 250


def test_every_goal_is_in_one_split_and_no_product_serves_two(data):
    keys = [key for split in data.splits.values() for key in split]
    assert len(keys) == len(set(keys)) and set(keys) == set(requests(data))
    products = [{key.split("#")[0] for key in split} for split in data.splits.values()]
    assert all(first.isdisjoint(second) for first, second in itertools.combinations(products, 2))


def test_no_two_goals_ask_the_same_of_the_same_product(data):
    asked = [
        (entry["asin"], tuple(sorted(entry["instruction_attributes"])), tuple(sorted(entry["instruction_options"])))
        for entry in requests(data).values()
    ]
    assert len(asked) == len(set(asked))


def test_held_out_departments_are_asked_for_in_ood_alone(data):
    department = {item["asin"]: item["category"] for item in data.items}
    seen = {split: {department[key.split("#")[0]] for key in keys} for split, keys in data.splits.items()}
    assert seen["ood"] == set(HELD_OUT_DEPARTMENTS)
    assert seen["train"] == seen["dev"] == seen["test"] == set(DEPARTMENTS) - set(HELD_OUT_DEPARTMENTS)


def test_at_least_forty_sentence_patterns_are_used(data):
    texts = [entry["instruction"].lower() for entry in requests(data).values()]
    frames = {pattern: re.split(r"\{\w+\}", pattern) for pattern in PATTERNS}
    used = set()
    for pattern, frame in frames.items():
        form = re.compile(".+".join(re.escape(part) for part in frame))
        used |= {pattern for text in texts if form.fullmatch(text)}
    assert len(PATTERNS) == len(set(PATTERNS)) >= 40 and len(used) >= 40


def test_some_instructions_have_slips_odd_spellings_and_capitals(data):
    texts = [entry["instruction"] for entry in requests(data).values()]
    for part in ("lookin ", "szie", "colour", "grey", "pack of two"):
        assert any(part in text for text in texts), part
    assert 0.05 < sum(text[0].isupper() for text in texts) / len(texts) < 0.3
    query = {item["asin"]: item["query"] for item in data.items}
    unlike = sum(query[entry["asin"]] not in entry["instruction"].lower() for entry in requests(data).values())
    assert 0.01 < unlike / len(texts) < 0.1


def test_a_kind_has_a_word_of_its_own_so_that_a_search_for_it_lists_exactly_its_products(catalog):
    for query in {product.query for product in catalog.products.values()}:
        hits = catalog.engine.search(query, 50)
        assert set(hits) == {asin for asin, product in catalog.products.items() if product.query == query}
        assert catalog.nouns([catalog.products[hits[0]].title][0])[-1] == query


def test_values_of_one_option_never_count_as_equal():
    for name, values in OPTION_VALUES.items():
        for first, second in itertools.combinations(values, 2):
            assert token_set_ratio(normalize_color(first), normalize_color(second)) <= ENOUGH, (name, first, second)


def test_values_of_the_two_options_of_a_section_never_count_as_equal():
    for section in (section for sections in DEPARTMENTS.values() for section in sections):
        pools = [OPTION_VALUES[entry.split(":")[-1]] for entry in section.options]
        for first, second in itertools.product(*pools):
            assert token_set_ratio(normalize_color(first), normalize_color(second)) <= ENOUGH, (section.name, first)


def test_traits_of_one_section_never_count_as_equal_and_name_no_kind():
    kinds = {
        word for sections in DEPARTMENTS.values() for section in sections for word in analyze(section.kinds)
    }  # fmt: skip
    for section in (section for sections in DEPARTMENTS.values() for section in sections):
        traits = section.features + section.makes + section.extras
        assert kinds.isdisjoint(analyze(" ".join(traits)))
        for first, second in itertools.permutations(traits, 2):
            assert token_set_ratio(first, second) <= ENOUGH and first not in second, (section.name, first, second)


def test_the_wanted_product_with_the_wanted_options_pays_one_for_every_goal(catalog):
    for goal in catalog.goals:
        assert pay(catalog, catalog.products[goal.asin], goal, goal.options) == 1.0, goal.key


def test_a_forgotten_or_wrong_option_always_costs(catalog):
    for goal in catalog.goals:
        product = catalog.products[goal.asin]
        assert goal.options and pay(catalog, product, goal, ()) < 1.0
        for name, values in product.options.items():
            for value in set(values) - set(goal.options):
                if set(values) & set(goal.options):
                    rest = tuple(other for other in goal.options if other not in values)
                    assert pay(catalog, product, goal, (*rest, value)) < 1.0, (goal.key, name, value)


def test_most_goals_have_one_product_that_pays_fully_among_several_near_misses(catalog, alike):
    paying = [sum(pay(catalog, p, goal, goal.options) == 1.0 for p in alike[goal.query]) for goal in catalog.goals]
    near = [any(0.5 < pay(catalog, p, goal, goal.options) < 1.0 for p in alike[goal.query]) for goal in catalog.goals]
    assert min(paying) >= 1 and paying.count(1) / len(paying) > 0.85 and sum(near) / len(near) > 0.95


def test_another_seed_of_the_ceilings_leaves_every_goal_payable(catalog):
    other = load_catalog("mini", catalog_seed=1)
    assert {g.key: g.price_upper for g in other.goals} != {g.key: g.price_upper for g in catalog.goals}
    for goal in other.goals:
        assert pay(other, other.products[goal.asin], goal, goal.options) == 1.0


def test_dear_near_misses_are_above_every_ceiling_that_could_be_drawn(catalog, alike):
    dear = 0
    for goal in catalog.goals:
        highest = catalog.prices[goal.asin] // 10 * 10 + 40
        loose = replace(goal, price_upper=1000.0)
        for twin in alike[goal.query]:
            if catalog.prices[twin.asin] > goal.price_upper and pay(catalog, twin, loose, goal.options) == 1.0:
                dear += catalog.prices[twin.asin] > highest
    assert dear / len(catalog.goals) > 0.08


def test_the_first_hit_bought_without_options_pays_about_half(catalog):
    total = 0.0
    for goal in catalog.goals:
        first = catalog.products[catalog.engine.search(goal.instruction, 50)[0]]
        total += pay(catalog, first, goal, ())
    assert 0.35 <= total / len(catalog.goals) <= 0.65


# ---- the cache ---------------------------------------------------------------------------------------
@pytest.fixture
def fresh(monkeypatch, tmp_path):
    monkeypatch.setenv("ICTO_CACHE", str(tmp_path))
    mini.build_mini.cache_clear()
    yield tmp_path
    mini.build_mini.cache_clear()


def test_a_second_process_reads_what_the_first_made(fresh, data, monkeypatch):
    assert mini.build_mini() == data
    mini.build_mini.cache_clear()
    monkeypatch.setattr(mini, "generate", lambda: pytest.fail("made again"))
    assert mini.build_mini() == data


@pytest.mark.parametrize("content", [b"", b"{", b"\xff\xfe", b"[]", b'{"digest": "x", "data": {}}', b'{"data": 3}'])
def test_a_broken_cache_file_is_replaced(fresh, data, content):
    mini.build_mini()
    (path,) = fresh.glob("webshop-mini/mini-*.json")
    sound = path.read_bytes()
    path.write_bytes(content)
    mini.build_mini.cache_clear()
    assert mini.build_mini() == data and path.read_bytes() == sound


def test_a_changed_number_in_the_cache_is_noticed(fresh, data):
    mini.build_mini()
    (path,) = fresh.glob("webshop-mini/mini-*.json")
    path.write_bytes(path.read_bytes().replace(b'"pricing":"$', b'"pricing":"$1', 1))
    mini.build_mini.cache_clear()
    assert mini.build_mini() == data


def test_a_cache_that_can_not_be_written_breaks_nothing(fresh, data, monkeypatch):
    (fresh / "file").write_text("in the way")
    monkeypatch.setenv("ICTO_CACHE", os.fspath(fresh / "file"))
    assert mini.build_mini() == data
    monkeypatch.setenv("ICTO_CACHE", os.fspath(fresh))
    mini.build_mini.cache_clear()
    monkeypatch.setattr(mini, "write_text", lambda *_: (_ for _ in ()).throw(OSError(28, "No space left on device")))
    assert mini.build_mini() == data


def test_the_process_that_generates_the_data_sees_what_others_read_from_the_cache(tmp_path, monkeypatch):
    """In the same order too, which a digest over sorted keys does not tell: pages list options in it."""
    monkeypatch.setenv("ICTO_CACHE", str(tmp_path))
    mini.build_mini.cache_clear()
    try:
        first = mini.build_mini()
        mini.build_mini.cache_clear()
        again = mini.build_mini()
    finally:
        mini.build_mini.cache_clear()
    assert first is not again and list(tmp_path.rglob("mini-*.json"))
    for part in ("items", "ins", "human_ins", "splits"):
        assert json.dumps(getattr(first, part)) == json.dumps(getattr(again, part))
