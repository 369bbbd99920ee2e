"""The catalogue on disk: opened in a moment, read product by product, shared by all processes of a machine.

``icto data webshop`` builds it (`icto_gym.envs.webshop.store_build`). It holds what `build_catalog` makes of the
same files, and prices, ceilings and goals are drawn in the same order, so a task is the same task either way.
"""

from __future__ import annotations

import json
import os
import random
import sqlite3
import threading
from collections.abc import Iterator, Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any, TypeVar, overload

import numpy as np

from icto_gym.envs.webshop.catalog import Catalog, Product, human_goals, shuffled, synthetic_goals
from icto_gym.envs.webshop.mapped import MappedEngine
from icto_gym.errors import DataError
from icto_gym.files import read_json

FORMAT = 1
MANIFEST, DATABASE = "catalog.json", "catalog.sqlite"
KEPT_PRODUCTS = 2048
V = TypeVar("V")


def is_built(folder: Path) -> bool:
    """Whether a finished catalogue lies there."""
    return (folder / MANIFEST).is_file()


def read_manifest(folder: Path) -> dict[str, Any]:
    """What the build wrote last: counts, digest, raw files, sizes of all files.

    Raises:
        DataError: it cannot be read, is of another format, or a file is missing or has another size.
    """
    manifest = read_json(folder / MANIFEST)
    again = "Build it again with: icto data webshop FOLDER-WITH-THE-RAW-FILES"
    if not isinstance(manifest, dict) or manifest.get("format") != FORMAT:
        found = manifest.get("format") if isinstance(manifest, dict) else type(manifest).__name__
        raise DataError(f"{folder / MANIFEST}: format {found!r}; this version reads format {FORMAT}. {again}")
    for name, size in manifest["files"].items():
        path = folder / name
        found = path.stat().st_size if path.is_file() else None
        if found != size:
            what = "is missing" if found is None else f"has {found:,} bytes instead of {size:,}"
            raise DataError(f"{path} {what}; the catalogue was damaged or copied in part. {again}")
    return manifest


def file_stamp(path: Path) -> dict[str, Any]:
    """What tells whether a raw file has changed: name, size in bytes, time of its last change in ns."""
    found = path.stat()
    return {"name": path.name, "size": found.st_size, "mtime_ns": found.st_mtime_ns}


class Database:
    """Read-only connections to the catalogue's database: one for each thread, and anew in a forked child."""

    def __init__(self, folder: Path) -> None:
        self._path = (folder / DATABASE).absolute()
        self._local = threading.local()

    def __call__(self) -> sqlite3.Connection:
        if getattr(self._local, "process", None) != os.getpid():
            # immutable: a finished catalogue never changes, so no locks, no journal, and read-only folders will do
            self._local.connection = sqlite3.connect(f"{self._path.as_uri()}?immutable=1", uri=True)
            self._local.process = os.getpid()
        return self._local.connection

    def rows(self, question: str, *values: Any) -> Iterator[tuple[Any, ...]]:
        """Rows of an answer.

        Raises:
            DataError: the file is damaged.
        """
        try:
            yield from self().execute(question, values)
        except sqlite3.DatabaseError as error:
            raise DataError(f"{self._path}: {error}. Build the catalogue again with: icto data webshop") from error

    def row(self, question: str, *values: Any) -> tuple[Any, ...] | None:
        """The first row, if any."""
        return next(iter(self.rows(question, *values)), None)


# ---- products ------------------------------------------------------------------------------------------
def to_bytes(text: str) -> bytes:
    """A text as the database keeps it: any text, lone surrogates too, in an order that is the text's own."""
    return text.encode("utf-8", "surrogatepass")


def packed(product: Product) -> bytes:
    """A product as the database keeps it."""
    facts = (
        product.title, product.description, product.bullets, product.category, product.query,
        product.product_category, product.attributes, product.options, product.price_text, product.pricing,
        product.image,
    )  # fmt: skip
    return json.dumps(facts, separators=(",", ":")).encode()


def unpacked(asin: str, record: bytes) -> Product:
    """`packed`, turned back."""
    title, description, bullets, category, query, levels, attributes, options, price_text, pricing, image = json.loads(
        record
    )
    return Product(
        asin, title, description, tuple(bullets), category, query, levels, tuple(attributes),
        {name: tuple(values) for name, values in options.items()}, price_text, tuple(pricing), image,
    )  # fmt: skip


class _ByCode(Mapping[str, V]):
    """What a catalogue knows of each product, by code, in catalogue order."""

    def __init__(self, store: Store) -> None:
        self._store = store

    def __len__(self) -> int:
        return len(self._store.codes)

    def __iter__(self) -> Iterator[str]:
        return iter(self._store.codes)

    def __contains__(self, asin: object) -> bool:
        return isinstance(asin, str) and self._store.found(asin) is not None

    def _entry(self, asin: str) -> tuple[int, Product]:
        entry = self._store.found(asin) if isinstance(asin, str) else None
        if entry is None:
            raise KeyError(asin)
        return entry


class Products(_ByCode[Product]):
    """Code -> product, read when asked for."""

    def __getitem__(self, asin: str) -> Product:
        return self._entry(asin)[1]


class Prices(_ByCode[float]):
    """Code -> drawn price in dollars."""

    def __init__(self, store: Store, drawn: np.ndarray) -> None:
        super().__init__(store)
        self._drawn = drawn

    def __getitem__(self, asin: str) -> float:
        return float(self._drawn[self._entry(asin)[0]])


class Codes(Sequence[str]):
    """Codes in catalogue order, read when asked for."""

    def __init__(self, engine: MappedEngine, size: int) -> None:
        self._engine, self._size = engine, size

    def __len__(self) -> int:
        return self._size

    @overload
    def __getitem__(self, place: int) -> str: ...
    @overload
    def __getitem__(self, place: slice) -> tuple[str, ...]: ...
    def __getitem__(self, place: int | slice) -> str | tuple[str, ...]:
        if isinstance(place, slice):
            return tuple(map(self._engine.code_at, range(*place.indices(self._size))))
        if not -self._size <= place < self._size:
            raise IndexError(f"place {place} of {self._size} products")
        return self._engine.code_at(place % self._size)


class Wishes(Mapping[str, Any]):
    """Code -> record of the attribute file, as synthetic goals need it."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def __getitem__(self, asin: str) -> Any:
        row = self._database.row("SELECT wish FROM products WHERE asin = ?", to_bytes(asin))
        if row is None or row[0] is None:
            raise KeyError(asin)
        return json.loads(row[0])

    def __iter__(self) -> Iterator[str]:
        return (bytes(row[0]).decode("utf-8", "surrogatepass") for row in self._database.rows(
            "SELECT asin FROM products WHERE wish IS NOT NULL ORDER BY position"))  # fmt: skip

    def __len__(self) -> int:
        row = self._database.row("SELECT COUNT(*) FROM products WHERE wish IS NOT NULL")
        return int(row[0]) if row else 0


# ---- the whole -----------------------------------------------------------------------------------------
class Store:
    """An opened catalogue; any number of `Catalog` share it.

    Raises:
        DataError: see `read_manifest`.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.manifest = read_manifest(folder)
        self.database = Database(folder)
        size = int(self.manifest["products"])
        self.engine = MappedEngine(folder, size, int(self.manifest["filled"]), self.database)
        self.codes = Codes(self.engine, size)
        self.found = lru_cache(maxsize=KEPT_PRODUCTS)(self._find)

    def _find(self, asin: str) -> tuple[int, Product] | None:
        row = self.database.row("SELECT position, record FROM products WHERE asin = ?", to_bytes(asin))
        return None if row is None else (row[0], unpacked(asin, row[1]))

    def with_text(self, column: str, text: str) -> tuple[str, ...]:
        """Codes of the products with this category or query, in catalogue order."""
        question = f"SELECT position FROM products WHERE {column} = ? ORDER BY position"
        return tuple(self.engine.code_at(row[0]) for row in self.database.rows(question, to_bytes(text)))

    def catalog(self, goals: str, catalog_seed: int) -> StoredCatalog:
        """The shop with prices and goals drawn anew, exactly as `build_catalog` draws them."""
        draw = random.Random(catalog_seed)
        prices = Prices(self, self._drawn_prices(draw))
        products = Products(self)
        names = [f"{self.folder / DATABASE} ({name})" for name in ("instructions", "attributes")]
        if goals == "human":
            written = self._written()
            found = human_goals({asin: products[asin] for asin in written}, prices, written, names[0], draw)
        else:
            found = synthetic_goals(products, prices, Wishes(self.database), names[1], draw)
        return StoredCatalog(products, prices, shuffled(found), _engine=self.engine, _codes=self.codes, store=self)

    def _written(self) -> dict[str, Any]:
        """Code -> human instructions, in catalogue order."""
        rows = self.database.rows("SELECT position, written FROM human ORDER BY position")
        return {self.engine.code_at(position): json.loads(written) for position, written in rows}

    def _drawn_prices(self, draw: random.Random) -> np.ndarray:
        """One price per product, in catalogue order: those of ranges take the generator's next numbers in turn."""
        low, high = np.fromfile(self.folder / "pricing.bin", dtype=np.float64).reshape(2, -1)
        ranges = np.flatnonzero(~np.isnan(high))
        version, state, gauss = draw.getstate()
        twin = np.random.RandomState()  # the same generator, drawn from in bulk
        twin.set_state(("MT19937", np.array(state[:-1], dtype=np.uint32), state[-1], 0, 0.0))
        drawn = low.copy()
        drawn[ranges] = low[ranges] + (high[ranges] - low[ranges]) * twin.random_sample(len(ranges))
        _, words, place, _, _ = twin.get_state(legacy=True)
        draw.setstate((version, (*map(int, words), int(place)), gauss))
        return drawn


class StoredCatalog(Catalog):
    """A `Catalog` whose products stay on disk."""

    def __init__(self, *parts: Any, store: Store, **others: Any) -> None:
        super().__init__(*parts, **others)
        self._store = store

    def with_category(self, category: str) -> tuple[str, ...]:
        return self._store.with_text("category", category)

    def with_query(self, query: str) -> tuple[str, ...]:
        return self._store.with_text("query", query)


@lru_cache(maxsize=4)
def opened(folder: str, stamp: int) -> Store:
    """The catalogue of a folder, opened once per process; ``stamp`` tells a new build from an old one."""
    return Store(Path(folder))


@lru_cache(maxsize=4)
def stored_catalog(folder: str, stamp: int, goals: str, catalog_seed: int) -> StoredCatalog:
    """`Store.catalog`, made once per process."""
    return opened(folder, stamp).catalog(goals, catalog_seed)
