"""Building a catalogue on disk: broken files, kills, full disks and damage are told; nothing half-made looks whole."""

from __future__ import annotations

import json
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest

from icto_gym.envs.webshop import mapped, raw
from icto_gym.envs.webshop.catalog import Catalog
from icto_gym.envs.webshop.store_build import BuildConfig, build
from icto_gym.envs.webshop.store_files import building
from icto_gym.envs.webshop.store_manifest import MANIFEST, is_built, read_manifest
from icto_gym.errors import ConfigError, DataError

ROOT = Path(__file__).resolve().parents[4]
PRODUCTS = 600


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


def test_codes_that_the_original_drops_are_dropped_and_odd_ones_kept(tmp_path, in_memory):
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


def test_frequencies_beyond_a_byte_and_an_empty_shop_rank_as_in_memory(tmp_path, in_memory):
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


def test_a_build_that_is_killed_anywhere_leaves_nothing_whole_and_goes_on(folder, copied):
    """One build, killed (-9) at eleven points, one after the other; the last run goes on from the last."""
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


def test_two_builds_of_one_folder_do_not_meet(copied):
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


def test_a_damaged_catalogue_is_refused(copied):
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


def test_damaged_goals_are_refused(copied):
    build(copied)
    goals = copied / "catalog/goals.json"
    goals.write_bytes(b"[[1]" + b" " * (goals.stat().st_size - 5) + b"]")
    with pytest.raises(DataError, match=r"goals.json: .*Build the catalogue again"):
        raw.load_catalog(str(copied / "catalog"))


def test_other_folders_are_never_overwritten(tmp_path, folder):
    with pytest.raises(ConfigError, match="exists and is no catalogue"):
        build(folder, BuildConfig(out=folder))
    with pytest.raises(ConfigError, match="Did you mean 'skip'"):
        build(folder, BuildConfig(out=tmp_path / "x", on_fault="skp"))
    with pytest.raises(ConfigError, match="num_products is 0"):
        build(folder, BuildConfig(num_products=0))
