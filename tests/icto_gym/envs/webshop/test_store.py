"""The catalogue on disk: the same products, tasks and ranking as in memory, and honest about what is broken."""

from __future__ import annotations

import json
import pickle
import random

import gymnasium as gym
import pytest

import icto_gym
from icto_gym.envs.webshop import mapped, raw, store
from icto_gym.envs.webshop.catalog import Catalog
from icto_gym.envs.webshop.mapped import MappedEngine
from icto_gym.envs.webshop.store import Store, StoredCatalog
from icto_gym.envs.webshop.store_build import BuildConfig, build
from icto_gym.envs.webshop.store_files import building
from icto_gym.envs.webshop.store_manifest import MANIFEST
from icto_gym.errors import ConfigError

PRODUCTS = 600


@pytest.fixture(scope="module")
def memory(folder, in_memory) -> Catalog:
    return in_memory(folder)


@pytest.fixture(scope="module")
def disk(folder) -> Catalog:
    return raw.load_catalog(str(folder))


def queries(catalog: Catalog, count: int, seed: int = 1) -> list[str]:
    """Instructions, words of products, and words that stand in nearly all of them."""
    dice = random.Random(seed)
    texts = [product.document().split() for product in catalog.products.values()]
    drawn = [dice.choice(texts) for _ in range(count)]
    found = [" ".join(dice.sample(words, min(len(words), dice.randint(1, 9)))) for words in drawn]
    found += [goal.instruction for goal in dice.sample(catalog.goals, min(count, len(catalog.goals)))]
    return [*found, "black", "your home", "red red black", "", "zzzz", "the", " ".join(texts[0] + texts[1])]


# ---- the same shop -------------------------------------------------------------------------------------
def test_products_prices_and_codes_are_those_of_the_catalogue_in_memory(memory, disk):
    assert isinstance(disk, StoredCatalog)
    assert list(disk.products) == list(disk.codes) == list(memory.products)
    assert dict(disk.products) == dict(memory.products)
    assert dict(disk.prices) == dict(memory.prices)
    assert "B000000000" not in disk.products and disk.codes[-1] == memory.codes[-1]
    assert disk.codes[3:5] == memory.codes[3:5]
    with pytest.raises(KeyError):
        disk.products["nothing"]
    with pytest.raises(IndexError):
        disk.codes[PRODUCTS]


@pytest.mark.parametrize("goals", ["human", "synthetic"])
@pytest.mark.parametrize("seed", [0, 7])
def test_equal_seeds_draw_equal_goals_prices_and_tasks(folder, goals, seed, in_memory):
    memory = in_memory(folder, goals=goals, catalog_seed=seed)
    disk = raw.load_catalog(str(folder), goals, None, seed)
    assert disk.goals == memory.goals
    assert dict(disk.prices) == dict(memory.prices)
    tasks = icto_gym.tasks("icto/WebShop-v0", data=str(folder), goals=goals, catalog_seed=seed)
    from icto_gym.envs.webshop.tasks import ShopTasks

    assert tasks.digest == ShopTasks(memory, "webshop" + "-synthetic" * (goals == "synthetic")).manifest(None).digest


def test_rankings_scores_and_ties_are_those_of_the_engine_in_memory(memory, disk):
    for query in queries(memory, 250):
        assert disk.engine.scored(query, 50) == memory.engine.scored(query, 50), query
    for k in (0, 1, 10, 5000):
        for query in queries(memory, 10, seed=k):
            assert disk.engine.search(query, k) == (memory.engine.search(query, k) if k else [])


def test_pruning_with_few_candidates_changes_nothing(memory, disk, monkeypatch):
    """With a crowd of three and a query too long from two words on, every branch of the engine is taken."""
    monkeypatch.setattr(mapped, "CROWD", 3)
    fresh = MappedEngine(disk.engine._arrays._folder, PRODUCTS, PRODUCTS, disk.engine._connect)
    for query in queries(memory, 60, seed=4):
        assert fresh.scored(query, 5) == memory.engine.scored(query, 5), query
    monkeypatch.setattr(mapped, "LONG_QUERY", 1)
    for query in queries(memory, 20, seed=5):
        assert fresh.scored(query, 50) == memory.engine.scored(query, 50), query


def test_the_original_engine_s_recordings_are_found_on_disk_too(webshop_recordings, tmp_path):
    out = tmp_path / "catalog"
    build(webshop_recordings / "catalogue", BuildConfig(out=out))
    engine = raw.load_catalog(str(out)).engine
    recorded = json.loads((webshop_recordings / "search.json").read_text())["queries"]
    assert [engine.search(query["query"], 50) for query in recorded] == [
        [asin for asin, _ in query["hits"]] for query in recorded
    ]


def test_categories_kinds_and_random_products_come_in_the_same_order(memory, disk):
    assert disk.with_category("beauty") == memory.with_category("beauty") != ()
    assert disk.with_query("tea") == memory.with_query("tea")
    from icto_gym.envs.webshop.session import drawn_products

    assert drawn_products(disk.codes, 2, 5) == drawn_products(memory.codes, 2, 5)


def test_episodes_are_the_same_step_by_step(folder, tmp_path):
    elsewhere = tmp_path / "raw"
    elsewhere.mkdir()
    for path in raw.raw_files(folder):
        (elsewhere / path.name).write_bytes(path.read_bytes())
    one = gym.make("icto/WebShop-v0", data=str(folder), nouns=str.split, expert=True)
    other = gym.make("icto/WebShop-v0", data=str(elsewhere), nouns=str.split, expert=True)
    assert isinstance(one.unwrapped.shop.catalog, StoredCatalog) and type(other.unwrapped.shop.catalog) is Catalog
    for index in range(5):
        (mine, info), (theirs, other_info) = (env.reset(options={"index": index}) for env in (one, other))
        while True:
            assert (mine, info) == (theirs, other_info)
            action = info["expert_action"]
            if not action:
                break
            mine, _, _, _, info = one.step(action)
            theirs, _, _, _, other_info = other.step(action)
        assert info["success"]


# ---- found and used ------------------------------------------------------------------------------------
def test_a_built_folder_puts_the_digest_into_the_ids(folder):
    digest = json.loads((folder / "catalog" / MANIFEST).read_text())["digest"]
    named = icto_gym.tasks("icto/WebShop-v0", data=str(folder / "catalog"))
    assert named[0].task_id == f"webshop-{digest[:12]}/0"
    assert icto_gym.tasks("icto/WebShop-v0", data=str(folder))[0].task_id == "webshop/0"
    env = gym.make("icto/WebShop-v0", data=str(folder / "catalog"), nouns=str.split)
    _, info = env.reset(options={"task_id": named[3].task_id})
    copy = pickle.loads(pickle.dumps(env.unwrapped))
    assert copy.step(f"search[{info['instruction']}]")[0] == env.step(f"search[{info['instruction']}]")[0]


def test_environments_in_other_processes_play_the_same(folder):
    envs = gym.make_vec("icto/WebShop-v0", num_envs=2, vectorization_mode="async", data=str(folder), nouns=None)
    first, _ = envs.reset(seed=[3, 3])
    second = envs.step(["search[black tea]"] * 2)[0]
    envs.close()
    assert first[0] == first[1] and second[0] == second[1] and "Total results" in second[0]


def test_a_build_of_changed_files_is_not_used(caplog, copied):
    build(copied)
    items = json.loads((copied / "items_shuffle.json").read_text())
    (copied / "items_shuffle.json").write_text(json.dumps(items[:50]))
    assert len(raw.load_catalog(str(copied)).products) == 50
    assert "is not used; renew it" in caplog.text
    assert build(copied)["products"] == 50
    assert isinstance(raw.load_catalog(str(copied)), StoredCatalog)


def test_a_second_build_of_the_same_files_changes_nothing_but_their_dates(copied):
    first = build(copied)
    (copied / "items_shuffle.json").touch()
    again = build(copied)
    assert (again["digest"], again["files"]) == (first["digest"], first["files"])
    assert isinstance(raw.load_catalog(str(copied)), StoredCatalog)
    assert not building(copied / "catalog").exists()


def test_a_number_of_products_has_a_catalogue_of_its_own(copied, in_memory):
    build(copied, BuildConfig(num_products=100))
    disk, memory = raw.load_catalog(str(copied), "human", 100), in_memory(copied, num_products=100)
    assert isinstance(disk, StoredCatalog)
    assert disk.goals == memory.goals
    assert disk.engine.scored("black", 50) == memory.engine.scored("black", 50)
    with pytest.raises(ConfigError, match="was built with 100"):
        raw.load_catalog(str(copied / "catalog-100"), "human", 50)


def test_synthetic_goals_of_a_large_shop_are_warned_of(disk, monkeypatch, caplog):
    monkeypatch.setattr(store, "MANY_SYNTHETIC", PRODUCTS - 1)
    assert disk._store.catalog("synthetic", 0).goals
    assert f"{PRODUCTS} products: this takes minutes" in caplog.text


def test_opening_draws_nothing_for_the_default_seed(disk, monkeypatch):
    """Goals and digests are those that are drawn, and no product is read for them."""
    drawn, prices = disk._store.drawn("human", 0)
    read: list[str] = []
    monkeypatch.setattr(Store, "_find", lambda self, asin: read.append(asin))
    ready = Store(disk._store.folder, PRODUCTS, PRODUCTS).catalog("human", 0)
    assert ready.goals == drawn.goals and len(ready.goals) > 100
    ready_digests = [ready.task_digest(goal) for goal in ready.goals]
    assert ready.prices._drawn.tolist() == prices.tolist()
    assert read == []
    assert ready_digests == [drawn.task_digest(goal) for goal in drawn.goals]
