"""The catalogue on disk: the same products, tasks and ranking as in memory, and honest about what is broken."""

from __future__ import annotations

import json
import pickle
import random
import sqlite3
import subprocess
import sys
from pathlib import Path

import gymnasium as gym
import pytest

import icto_gym
from icto_gym.envs.webshop import mapped, raw, store
from icto_gym.envs.webshop.catalog import Catalog, build_catalog
from icto_gym.envs.webshop.mapped import MappedEngine
from icto_gym.envs.webshop.store import Store, StoredCatalog
from icto_gym.envs.webshop.store_build import BuildConfig, build
from icto_gym.envs.webshop.store_files import building
from icto_gym.envs.webshop.store_manifest import MANIFEST, is_built, read_manifest
from icto_gym.errors import ConfigError, DataError

ROOT = Path(__file__).resolve().parents[4]
PRODUCTS = 600


def in_memory(folder: Path, **arguments) -> Catalog:
    items, ins, human = (json.loads(path.read_text()) for path in raw.raw_files(folder))
    return build_catalog(items, ins, human, **arguments)


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """Generated products in the raw format, and their catalogue."""
    folder = tmp_path_factory.mktemp("shop")
    script = [sys.executable, str(ROOT / "scripts/make_webshop_raw.py"), str(folder), "--products", str(PRODUCTS)]
    subprocess.run(script, check=True, capture_output=True, cwd=ROOT)
    build(folder)
    return folder


@pytest.fixture(scope="module")
def memory(folder) -> Catalog:
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
def test_equal_seeds_draw_equal_goals_prices_and_tasks(folder, goals, seed):
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


def test_a_build_of_changed_files_is_not_used(tmp_path, folder, caplog):
    copied = copy_of(folder, tmp_path)
    build(copied)
    items = json.loads((copied / "items_shuffle.json").read_text())
    (copied / "items_shuffle.json").write_text(json.dumps(items[:50]))
    assert len(raw.load_catalog(str(copied)).products) == 50
    assert "is not used; renew it" in caplog.text
    assert build(copied)["products"] == 50
    assert isinstance(raw.load_catalog(str(copied)), StoredCatalog)


def test_a_second_build_of_the_same_files_changes_nothing_but_their_dates(tmp_path, folder):
    copied = copy_of(folder, tmp_path)
    first = build(copied)
    (copied / "items_shuffle.json").touch()
    again = build(copied)
    assert (again["digest"], again["files"]) == (first["digest"], first["files"])
    assert isinstance(raw.load_catalog(str(copied)), StoredCatalog)
    assert not building(copied / "catalog").exists()


def test_a_number_of_products_has_a_catalogue_of_its_own(tmp_path, folder):
    copied = copy_of(folder, tmp_path)
    build(copied, BuildConfig(num_products=100))
    disk, memory = raw.load_catalog(str(copied), "human", 100), in_memory(copied, num_products=100)
    assert isinstance(disk, StoredCatalog)
    assert disk.goals == memory.goals
    assert disk.engine.scored("black", 50) == memory.engine.scored("black", 50)
    with pytest.raises(ConfigError, match="was built with 100"):
        raw.load_catalog(str(copied / "catalog-100"), "human", 50)


def copy_of(folder: Path, tmp_path: Path) -> Path:
    copied = tmp_path / "copy"
    copied.mkdir()
    for path in raw.raw_files(folder):
        (copied / path.name).write_bytes(path.read_bytes())
    return copied


# ---- broken and hostile files --------------------------------------------------------------------------
def sound_item(number: int, **fields) -> dict:
    return {
        "asin": f"B{number:09d}", "name": f"Oak Desk {number}", "full_description": "A desk.",
        "small_description": ["oak"],
        "pricing": "$10.00$20.00", "category": "garden", "query": "desks", "product_category": "Home › Desks",
        "customization_options": None, "images": ["u"], **fields,
    }  # fmt: skip


def without(name: str, number: int) -> dict:
    item = sound_item(number)
    del item[name]
    return item


def raw_folder(tmp_path: Path, items: str, ins: str = "{}", human: str = "{}") -> Path:
    folder = tmp_path / "raw"
    folder.mkdir()
    (folder / "items_shuffle.json").write_bytes(items.encode("utf-8", "surrogateescape"))
    (folder / "items_ins_v2.json").write_text(ins)
    (folder / "items_human_ins.json").write_text(human)
    return folder


def joined(*records: str) -> str:
    return "[" + ",\n".join([json.dumps(sound_item(0)), *records, json.dumps(sound_item(9))]) + "]"


BROKEN = {
    "wrong type": (json.dumps(sound_item(1, name=5)), "field 'name' should be a text; found int 5"),
    "missing key": (json.dumps(without("query", 1)), "the field 'query' is missing"),
    "no object": ('"text"', "content should be an object"),
    "odd price": (json.dumps(sound_item(1, pricing="free")), "no readable dollar price"),
    "odd code": (json.dumps(sound_item(1, asin=["B1"])), "field 'asin' should be a text"),
    "title of 1 MB": (json.dumps(sound_item(1, name="x" * 1_000_000)), "1,000,000 letters"),
    "no JSON": ('{"asin": B1, "name": {"a": [1, 2]}}', "record 1 is not valid JSON"),
    "wrong comma": ('{"asin": "B1", "b": [1,, "]}"]}', "record 1 is not valid JSON"),
    "no UTF-8": ('{"asin": "B1", "name": "\udcff"}', "record 1 is not valid UTF-8"),
}


@pytest.mark.parametrize("case", BROKEN)
def test_a_broken_record_is_refused_by_name_or_left_out_and_listed(tmp_path, case):
    record, message = BROKEN[case]
    folder = raw_folder(tmp_path, joined(record))
    with pytest.raises(DataError) as caught:
        build(folder)
    assert (
        message in str(caught.value) and "items_shuffle.json" in str(caught.value) and "record 1" in str(caught.value)
    )
    assert "--on-fault skip" in str(caught.value)
    assert not is_built(folder / "catalog")
    manifest = build(folder, BuildConfig(on_fault="skip"))
    assert (manifest["products"], manifest["skipped"], manifest["faults"]) == (2, 1, 1)
    fault = json.loads((folder / "catalog/faults.jsonl").read_text())
    assert (fault["file"], fault["record"]) == ("items_shuffle.json", 1) and message in fault["message"]
    assert list(raw.load_catalog(str(folder)).products) == ["B000000000", "B000000009"]


@pytest.mark.parametrize(
    ("end", "message"),
    [('{"asin": "B1", "name": "cut', "not valid JSON"), ("[" * 100_000, "nested too deeply"), ("", "not valid JSON")],
)
def test_a_file_that_is_cut_off_gives_what_came_before_or_nothing(tmp_path, end, message):
    folder = raw_folder(tmp_path, f"[{json.dumps(sound_item(0))}, {end}")
    with pytest.raises(DataError, match=f"record 1 is {message}"):
        build(folder)
    assert build(folder, BuildConfig(on_fault="skip"))["products"] == 1


def test_codes_that_the_original_drops_are_dropped_and_odd_ones_kept(tmp_path):
    dropped = [sound_item(1, asin="nan"), sound_item(2, asin="B" * 11), sound_item(0, name=None)]
    odd = [*dropped, sound_item(3, asin="\ud800é\x00"), sound_item(4, asin="")]
    folder = raw_folder(tmp_path, joined(*map(json.dumps, odd)))
    manifest = build(folder)
    assert (manifest["products"], manifest["dropped"]) == (4, 3)
    memory, disk = in_memory(folder), raw.load_catalog(str(folder))
    assert list(disk.products) == list(memory.products)
    assert disk.engine.scored("oak desk", 50) == memory.engine.scored("oak desk", 50)


def test_broken_attributes_and_instructions_are_named_and_their_neighbours_keep_their_numbers(tmp_path):
    wish = {"instruction": "a desk", "instruction_attributes": ["oak"], "instruction_options": []}
    human = {"B000000000": [wish, {**wish, "instruction": 5}, wish], "B000000009": "none"}
    folder = raw_folder(tmp_path, joined(), '{"B000000009": {"attributes": 3}}', json.dumps(human))
    with pytest.raises(DataError, match=r"items_ins_v2.json: record 'B000000009'.*'attributes' should be a list"):
        build(folder)
    manifest = build(folder, BuildConfig(on_fault="skip"))
    assert (manifest["products"], manifest["faults"]) == (
        1,
        3 - 1,
    )  # the instructions of a product left out are not read
    assert sorted(goal.key for goal in raw.load_catalog(str(folder)).goals) == ["B000000000#0", "B000000000#2"]
    assert "instruction 1: field 'instruction'" in (folder / "catalog/faults.jsonl").read_text()


def test_frequencies_beyond_a_byte_and_an_empty_shop_rank_as_in_memory(tmp_path):
    many = [sound_item(n, full_description="oak " * (250 + n)) for n in range(1, 9)]
    folder = raw_folder(tmp_path, joined(*map(json.dumps, many)))
    build(folder)
    memory, disk = in_memory(folder), raw.load_catalog(str(folder))
    for query in ("oak", "oak desk", "desk 3"):
        assert disk.engine.scored(query, 5) == memory.engine.scored(query, 5)
    (tmp_path / "empty").mkdir()
    empty = raw_folder(tmp_path / "empty", "[]")
    assert build(empty)["products"] == 0
    assert raw.load_catalog(str(empty)).engine.search("oak", 5) == []


# ---- killed, full, read-only, damaged ------------------------------------------------------------------
DYING = """
import os, signal, sys
from pathlib import Path
from icto_gym.envs.webshop import store_build
store_build.RUN_PRODUCTS = 100
place, count = sys.argv[2].split(":")
left = [int(count)]
def dying(function):
    def called(*arguments, **others):
        left[0] -= 1
        if left[0] == 0:
            os.kill(os.getpid(), signal.SIGKILL)
        return function(*arguments, **others)
    return called
owner = store_build._Build if hasattr(store_build._Build, place) else store_build
setattr(owner, place, dying(getattr(owner, place)))
store_build.build(Path(sys.argv[1]))
print("finished")
"""
POINTS = (
    "_keep_attributes:3", "_take:250", "_end_run:3", "note:3", "merge_runs:1", "_write_pricing:1", "_publish:1",
    "write_ready:1", "sync:4", "write_json:1", "sync:14",
)  # fmt: skip


def test_a_build_that_is_killed_anywhere_leaves_nothing_whole_and_goes_on(tmp_path, folder):
    """One build, killed (-9) at eleven points, one after the other; the last run goes on from the last."""
    copied = copy_of(folder, tmp_path)
    places = []
    for point in POINTS:
        command = [sys.executable, "-c", DYING, str(copied), point]
        ended = subprocess.run(command, capture_output=True, text=True, cwd=ROOT)
        assert ended.returncode == -9, (point, ended.stdout, ended.stderr)
        assert not is_built(copied / "catalog"), point
        assert type(raw.load_catalog(str(copied))) is Catalog, point
        places.append(reached(copied))
    assert places == sorted(places) and places[-1] == PRODUCTS and 0 < places[2] < PRODUCTS
    manifest = build(copied)
    whole = json.loads((folder / "catalog" / MANIFEST).read_text())
    assert manifest["digest"] == whole["digest"]
    for name in mapped.FILES:
        assert (copied / f"catalog/{name}.bin").read_bytes() == (folder / f"catalog/{name}.bin").read_bytes()
    assert sorted(path.name for path in (copied / "catalog").iterdir()) == sorted([*manifest["files"], MANIFEST])
    assert not building(copied / "catalog").exists()


def reached(folder: Path) -> int:
    """Products that a build has safely kept."""
    database = sqlite3.connect(building(folder / "catalog") / "catalog.sqlite")
    try:
        return database.execute("SELECT COUNT(*) FROM products").fetchone()[0]
    finally:
        database.close()


def test_two_builds_of_one_folder_do_not_meet(tmp_path, folder):
    copied = copy_of(folder, tmp_path)
    from icto_gym.envs.webshop.store_files import locked

    with locked(copied / "catalog"), pytest.raises(ConfigError, match="Another process is building"):
        build(copied)


def test_a_full_disk_and_a_folder_that_cannot_be_written_are_said_clearly(tmp_path, folder):
    with pytest.raises(ConfigError, match="name a folder that can be written with --out"):
        build(folder, BuildConfig(out=Path("/sys/shop")))
    small = tmp_path / "small"
    small.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(small)], capture_output=True)
    if mounted.returncode:
        pytest.skip("a small disk cannot be mounted here (no root)")
    try:
        with pytest.raises(DataError, match=r"is full\. Make room and give the same command again"):
            build(folder, BuildConfig(out=small / "catalog"))
        assert not is_built(small / "catalog")
        subprocess.run(["mount", "-o", "remount,size=64m", str(small)], check=True)
        manifest = build(folder, BuildConfig(out=small / "catalog"))
        assert manifest["products"] == PRODUCTS
        subprocess.run(["mount", "-o", "remount,ro", str(small)], check=True)
        assert build(folder, BuildConfig(out=small / "catalog")) == manifest  # up to date: nothing is written
        with pytest.raises(ConfigError, match="name a folder that can be written"):
            build(folder, BuildConfig(out=small / "catalog", num_products=5))
    finally:
        subprocess.run(["umount", str(small)], check=True)


def test_a_damaged_catalogue_is_refused(tmp_path, folder):
    copied = copy_of(folder, tmp_path)
    build(copied)
    with open(copied / "catalog/docs.bin", "ab") as handle:
        handle.write(b"more")
    with pytest.raises(DataError, match=r"docs.bin has .* bytes instead of"):
        raw.load_catalog(str(copied / "catalog"))
    (copied / "catalog/docs.bin").unlink()
    with pytest.raises(DataError, match=r"docs.bin is missing"):
        raw.load_catalog(str(copied))
    assert build(copied)["products"] == PRODUCTS
    whole = read_manifest(copied / "catalog")
    short = {name: value for name, value in whole.items() if name != "digest"}
    for edited, message in (
        ({"format": 99}, "format 99; this version reads format"),
        ([], "format 'list'"),
        (short, r"catalog.json: the field 'digest' is missing.*Build it again"),
        ({**whole, "filled": True}, "field 'filled' should be a whole number; found True"),
        ({**whole, "products": 5}, f"'products' is 5, but prices.bin holds {PRODUCTS} prices"),
        ({**whole, "files": {}}, "field 'files' has no size of catalog.sqlite"),
    ):
        (copied / "catalog" / MANIFEST).write_text(json.dumps(edited))
        with pytest.raises(DataError, match=message):
            raw.load_catalog(str(copied / "catalog"))


def test_damaged_goals_are_refused(tmp_path, folder):
    copied = copy_of(folder, tmp_path)
    build(copied)
    goals = copied / "catalog/goals.json"
    goals.write_bytes(b"[[1]" + b" " * (goals.stat().st_size - 5) + b"]")
    with pytest.raises(DataError, match=r"goals.json: .*Build the catalogue again"):
        raw.load_catalog(str(copied / "catalog"))


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


def test_other_folders_are_never_overwritten(tmp_path, folder):
    with pytest.raises(ConfigError, match="exists and is no catalogue"):
        build(folder, BuildConfig(out=folder))
    with pytest.raises(ConfigError, match="Did you mean 'skip'"):
        build(folder, BuildConfig(out=tmp_path / "x", on_fault="skp"))
    with pytest.raises(ConfigError, match="num_products is 0"):
        build(folder, BuildConfig(num_products=0))
