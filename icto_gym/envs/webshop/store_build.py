"""Building the catalogue on disk: raw files are streamed once, in bounded memory; whole or absent.

Everything is written to ``<out>.building`` and takes the name ``<out>`` at the very end. A run of products and the
place reached in the raw file are committed in one transaction, so a build that was killed goes on after the last run.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import shutil
import sqlite3
import time
from collections.abc import Iterator, Mapping
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np

from icto_gym.envs.webshop.catalog import read_product
from icto_gym.envs.webshop.index_build import Run, merge_runs
from icto_gym.envs.webshop.raw import default_build, raw_files
from icto_gym.envs.webshop.store import Store, packed, to_bytes
from icto_gym.envs.webshop.store_files import (
    building,
    clear_errors,
    connect,
    locked,
    note,
    progress_bar,
    progress_of,
    sync,
)
from icto_gym.envs.webshop.store_goals import READY, write_ready
from icto_gym.envs.webshop.store_inputs import BuildConfig, identity_of, sound_instructions
from icto_gym.envs.webshop.store_manifest import (
    DATABASE,
    FAULTS,
    KEPT,
    MANIFEST,
    PRICING,
    file_stamp,
    is_built,
    read_manifest,
)
from icto_gym.envs.webshop.stream import Place, Record, iter_records
from icto_gym.errors import ConfigError, DataError, check_name
from icto_gym.files import write_json

logger = logging.getLogger(__name__)

ON_FAULT = ("refuse", "skip")
RUN_PRODUCTS, RUN_POSTINGS = 50_000, 6_000_000
"""A run ends, and with it a transaction, after so many records or postings."""
LONGEST_TITLE = 10_000
"""Letters. A longer title is a fault: every result page would carry it."""
SHOWN_FAULTS = 20
_ROOM = 1.6
"""Disk that a build needs, in sizes of the products' file."""
_TABLES = """
CREATE TABLE products (position INTEGER PRIMARY KEY, asin BLOB NOT NULL, category BLOB NOT NULL, query BLOB NOT NULL,
                       low REAL NOT NULL, high REAL, record BLOB NOT NULL, wish BLOB);
CREATE TABLE human (position INTEGER PRIMARY KEY, written BLOB NOT NULL);
CREATE TABLE progress (stage TEXT PRIMARY KEY, facts TEXT NOT NULL);
CREATE TABLE faults (file TEXT NOT NULL, record INTEGER NOT NULL, message TEXT NOT NULL);
"""


def build(folder: Path, config: BuildConfig | None = None) -> dict[str, Any]:
    """Build the catalogue of a raw folder, or find that it is there; returns its manifest.

    Raises:
        ConfigError: no such folder, an argument out of range, or another build under way.
        DataError: a file that cannot be used: file, record, field; a full disk; a folder that cannot be written.
    """
    config = config or BuildConfig()
    check_name(config.on_fault, ON_FAULT, "on_fault")
    if config.num_products is not None and config.num_products < 1:
        raise ConfigError(f"num_products is {config.num_products!r}; give a number from 1, or leave it out for all.")
    files = raw_files(folder)
    out = config.out or default_build(folder, config.num_products)
    if out.exists() and not is_built(out) and (not out.is_dir() or any(out.iterdir())):
        raise ConfigError(f"{out} exists and is no catalogue; name another folder with --out.")
    with clear_errors(out):
        identity = identity_of(files, config)
        found = _equal(out, identity)
        if found is not None and found["raw"] == identity["raw"]:  # nothing to write: the folder may be read-only
            logger.info("%s is up to date", out)
            return found
        with locked(out):
            return (found and _renewed(out, identity)) or _Build(files, out, identity).run()


def _equal(out: Path, identity: Mapping[str, Any]) -> dict[str, Any] | None:
    """The manifest of a whole catalogue of the same data, if one lies there."""
    if not is_built(out):
        return None
    try:
        manifest = read_manifest(out)
    except DataError as error:
        logger.warning("%s", error)
        return None
    names = ("sums", "num_products") if not manifest["faults"] else ("sums", "num_products", "on_fault")
    return manifest if all(manifest[name] == identity[name] for name in names) else None


def _renewed(out: Path, identity: Mapping[str, Any]) -> dict[str, Any] | None:
    """`_equal`, with the dates of raw files that were touched or copied."""
    manifest = _equal(out, identity)
    if manifest is not None and manifest["raw"] != identity["raw"]:
        manifest |= {"raw": identity["raw"]}
        write_json(out / MANIFEST, manifest)
    return manifest


class _Build:
    def __init__(self, files: tuple[Path, Path, Path], out: Path, identity: dict[str, Any]) -> None:
        self._items, self._ins, self._human = files
        self._out, self._identity = out, identity
        self._folder = building(out)
        self._skip = identity["on_fault"] == "skip"
        self._started = time.monotonic()
        self._shown = 0

    def run(self) -> dict[str, Any]:
        """All stages; those that are done are passed over."""
        self._open_folder()
        self._database = connect(self._folder / DATABASE)
        self._attributes = connect(self._folder / "attributes.sqlite")
        try:
            if not progress_of(self._database, "finish", {}):  # else what they read may be tidied up already
                self._read_attributes()
                self._read_products()
                self._read_instructions()
            facts = self._finish()
            faults = self._write_faults()
        finally:
            self._attributes.close()
            self._database.close()
        return self._publish(facts, faults)

    def _open_folder(self) -> None:
        """Go on in the folder of a build of the same data; begin anew where there is none."""
        state = self._folder / "state.json"
        try:
            same = json.loads(state.read_text()) == self._identity
        except (OSError, ValueError):
            same = False
        if same:
            logger.info("going on with the build in %s", self._folder)
            return
        for entry in self._folder.iterdir():
            if entry.name != "lock":
                shutil.rmtree(entry) if entry.is_dir() else entry.unlink()
        free = shutil.disk_usage(self._folder).free
        if free < _ROOM * self._items.stat().st_size:
            logger.warning(
                "%s has %.1f GB free; the build may need about %.1f GB", self._folder, free / 1e9,
                _ROOM * self._items.stat().st_size / 1e9,
            )  # fmt: skip
        database = connect(self._folder / DATABASE)
        database.executescript(_TABLES)
        database.close()
        attributes = connect(self._folder / "attributes.sqlite")
        attributes.executescript(
            "CREATE TABLE attributes (asin BLOB NOT NULL, record BLOB NOT NULL);"
            "CREATE TABLE progress (stage TEXT PRIMARY KEY, facts TEXT NOT NULL);"
            "CREATE TABLE faults (file TEXT NOT NULL, record INTEGER NOT NULL, message TEXT NOT NULL);"
        )
        attributes.close()
        write_json(state, self._identity)

    # ---- stages ------------------------------------------------------------------------------------
    def _read_attributes(self) -> None:
        """The attribute file, into a database of its own: products are looked up in it while they stream by."""
        progress = progress_of(self._attributes, "attributes", {"byte": 0, "number": 0, "done": False})
        if progress["done"]:
            return
        with progress_bar(self._ins.stat().st_size, "attributes", "B", progress["byte"]) as bar:
            batch: list[tuple[bytes, str]] = []
            for record in iter_records(self._ins, "{", Place(progress["byte"], progress["number"])):
                if record.fault:
                    self._report(self._attributes, self._ins, record.number, record.fault)
                else:
                    batch.append((to_bytes(record.key), json.dumps(record.value, separators=(",", ":"))))
                if len(batch) >= RUN_PRODUCTS:
                    self._keep_attributes(batch, {"byte": record.end, "number": record.number + 1, "done": False})
                    bar.update(record.end - bar.n)
                    batch = []
            self._attributes.execute("CREATE INDEX IF NOT EXISTS by_asin ON attributes (asin)")
            self._keep_attributes(batch, {"byte": 0, "number": 0, "done": True})

    def _keep_attributes(self, batch: list[tuple[bytes, str]], progress: dict[str, Any]) -> None:
        with self._attributes:
            self._attributes.executemany("INSERT INTO attributes VALUES (?, ?)", batch)
            note(self._attributes, "attributes", progress)

    def _read_products(self) -> None:
        """The products' file, in runs: rows and index of a run are whole before the place reached is."""
        start = {"byte": 0, "number": 0, "runs": 0, "dropped": 0, "skipped": 0, "done": False}
        self._at = progress_of(self._database, "products", start)
        if self._at["done"]:
            return
        codes = self._codes()
        self._rows: list[tuple[Any, ...]] = []
        self._known, self._run = {code.decode("utf-8", "surrogatepass") for code in codes}, Run()
        self._first = len(codes)
        with progress_bar(self._items.stat().st_size, "products", "B", self._at["byte"]) as bar:
            for record in self._wanted_records():
                self._take(record)
                if len(self._rows) >= RUN_PRODUCTS or self._run.postings >= RUN_POSTINGS:
                    self._end_run(record.end, record.number + 1, False)
                    bar.update(record.end - bar.n)
            self._end_run(0, 0, True)

    def _wanted_records(self) -> Iterator[Record]:
        limit = self._identity["num_products"]
        for record in iter_records(self._items, "[", Place(self._at["byte"], self._at["number"])):
            if limit is not None and record.number >= limit:
                return
            yield record

    def _take(self, record: Record) -> None:
        """One product into the run, or into the list of faults."""
        try:
            if record.fault:
                raise DataError(f"{self._items}: {record.fault}.")
            item = record.value
            asin = item.get("asin") if isinstance(item, dict) else None
            wish = self._attributes_of(asin)
            where = (str(self._items), f"record {record.number}")
            ins = {} if wish is None else {str(asin): json.loads(wish)}
            product = read_product(item, ins, where, str(self._ins), self._known)
            if product is not None and len(product.title) > LONGEST_TITLE:
                size = f"{len(product.title):,} letters; at most {LONGEST_TITLE:,} are taken"
                raise DataError(f"{self._items}: record {record.number} ({asin}): field 'name' has {size}.")
        except DataError as error:
            self._report(self._database, self._items, record.number, str(error))
            self._at["skipped"] += 1
            return
        if product is None:
            self._at["dropped"] += 1
            return
        low, high = product.pricing if len(product.pricing) > 1 else (product.pricing[0], None)
        self._rows.append((
            self._first + len(self._rows), to_bytes(product.asin), to_bytes(product.category), to_bytes(product.query),
            low, high, packed(product), wish,
        ))  # fmt: skip
        self._known.add(product.asin)
        self._run.add(product.document())

    def _attributes_of(self, asin: Any) -> str | None:
        if not isinstance(asin, str):
            return None
        question = "SELECT record FROM attributes WHERE asin = ? ORDER BY rowid DESC LIMIT 1"  # the last of equal names
        found = self._attributes.execute(question, (to_bytes(asin),)).fetchone()
        return None if found is None else found[0]

    def _end_run(self, byte: int, number: int, done: bool) -> None:
        at = {**self._at, "byte": byte, "number": number, "done": done}
        if self._rows:
            self._run.write(self._folder / f"run-{at['runs']:05d}", self._first)
            at["runs"] += 1
        with self._database:
            self._database.executemany("INSERT INTO products VALUES (?, ?, ?, ?, ?, ?, ?, ?)", self._rows)
            note(self._database, "products", at)
        self._first += len(self._rows)
        self._at, self._run, self._rows = at, Run(), []

    def _read_instructions(self) -> None:
        """Human instructions of the products that are there, tried out as goals."""
        if progress_of(self._database, "human", {"done": False})["done"]:
            return
        places = {code: position for position, code in enumerate(self._codes())}
        with self._database:
            self._database.execute("DELETE FROM human")
            for record in iter_records(self._human, "{"):
                if record.fault:
                    self._report(self._database, self._human, record.number, record.fault)
                    continue
                position = places.get(to_bytes(record.key))
                if position is not None:
                    written = sound_instructions(record, self._human, self._report_instruction)
                    row = (position, json.dumps(written))
                    self._database.execute("INSERT OR REPLACE INTO human VALUES (?, ?)", row)
            note(self._database, "human", {"done": True})

    def _report_instruction(self, number: int, message: str) -> None:
        self._report(self._database, self._human, number, message)

    def _finish(self) -> dict[str, Any]:
        """Merge the runs, and index the database."""
        at = progress_of(self._database, "products", {})
        done = progress_of(self._database, "finish", {})
        if not done:
            codes = self._codes()
            runs = [self._folder / f"run-{number:05d}" for number in range(at["runs"])]
            total = sum((run / "docs.bin").stat().st_size // 4 for run in runs)
            with progress_bar(total, "search index", " postings") as bar, self._database:
                merged = merge_runs(runs, codes, self._folder, self._database, bar.update)
            self._write_pricing()
            for index in ("UNIQUE INDEX by_asin ON products (asin)", "INDEX by_category ON products (category)",
                          "INDEX by_query ON products (query)"):  # fmt: skip
                self._database.execute(f"CREATE {index.replace('INDEX', 'INDEX IF NOT EXISTS')}")
            done = {"products": len(codes), **merged._asdict()}
            with self._database:
                faults = self._attributes.execute("SELECT file, record, message FROM faults").fetchall()
                self._database.executemany("INSERT INTO faults VALUES (?, ?, ?)", faults)
                note(self._database, "finish", done)
        return {**done, "dropped": at["dropped"], "skipped": at["skipped"]}

    def _write_pricing(self) -> None:
        """Lowest prices of all products, then the highest; NaN where there is no range."""
        prices = np.full((2, self._database.execute("SELECT COUNT(*) FROM products").fetchone()[0]), np.nan)
        for position, low, high in self._database.execute("SELECT position, low, high FROM products"):
            prices[0, position] = low
            if high is not None:
                prices[1, position] = high
        prices.tofile(self._folder / PRICING)

    def _publish(self, facts: dict[str, Any], faults: list[tuple[Any, ...]]) -> dict[str, Any]:
        """Tidy up, write the manifest, and take the name."""
        if [file_stamp(path) for path in (self._items, self._ins, self._human)] != self._identity["raw"]:
            raise DataError(f"The raw files in {self._items.parent} changed while they were read; build again.")
        with closing(Store(self._folder, facts["products"], facts["filled"])) as store:
            write_ready(self._folder, *store.drawn(*READY))
        for entry in self._folder.iterdir():
            if entry.is_dir():
                shutil.rmtree(entry)
            elif entry.name not in (*KEPT, "state.json", "lock"):
                entry.unlink()
        for name in KEPT:
            sync(self._folder / name)
        manifest = {
            **self._identity, **facts, "faults": len(faults), "digest": self._digest(faults),
            "files": {name: (self._folder / name).stat().st_size for name in KEPT},
        }  # fmt: skip
        write_json(self._folder / MANIFEST, manifest)
        sync(self._folder)
        old = self._out.with_name(f"{self._out.name}.old")
        shutil.rmtree(old, ignore_errors=True)
        if self._out.exists():
            os.rename(self._out, old)  # whoever plays in it keeps its mapped files
        os.rename(self._folder, self._out)
        sync(self._out.parent)
        shutil.rmtree(old, ignore_errors=True)
        for name in ("state.json", "lock"):
            (self._out / name).unlink(missing_ok=True)
        size = sum(manifest["files"].values())
        seconds = time.monotonic() - self._started
        logger.info("%s: %d products, %.2f GB, %.0f s", self._out, facts["products"], size / 1e9, seconds)
        return manifest

    # ---- shared ------------------------------------------------------------------------------------
    def _codes(self) -> list[bytes]:
        return [bytes(row[0]) for row in self._database.execute("SELECT asin FROM products ORDER BY position")]

    def _report(self, database: sqlite3.Connection, path: Path, number: int, message: str) -> None:
        """A broken record: refused, or noted and left out."""
        message = message if message.startswith(str(path)) or ".json: " in message else f"{path}: {message}."
        if not self._skip:
            raise DataError(f"{message} Mend the file, or leave such records out with --on-fault skip.")
        if self._shown < SHOWN_FAULTS:
            logger.warning("skipped: %s", message)
        self._shown += 1
        row = (path.name, number, message.encode("utf-8", "backslashreplace").decode())
        database.execute("INSERT INTO faults VALUES (?, ?, ?)", row)

    def _digest(self, faults: list[tuple[Any, ...]]) -> str:
        """SHA-256 (hex) of what the catalogue follows from: the raw files, how many records, which were left out."""
        left_out = [row[:2] for row in faults]
        parts = (self._identity["sums"], self._identity["num_products"], left_out)
        return hashlib.sha256(json.dumps(parts).encode()).hexdigest()

    def _write_faults(self) -> list[tuple[Any, ...]]:
        rows = self._database.execute("SELECT DISTINCT file, record, message FROM faults ORDER BY rowid").fetchall()
        with open(self._folder / FAULTS, "w", encoding="utf-8") as handle:
            handle.writelines(
                json.dumps(dict(zip(("file", "record", "message"), row, strict=True))) + "\n" for row in rows
            )
        return rows
