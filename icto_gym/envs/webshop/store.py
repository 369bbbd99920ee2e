"""The catalogue on disk: opened in a moment, read product by product, shared by all processes of a machine.

``icto data webshop`` builds it (`icto_gym.envs.webshop.store_build`). It holds what `build_catalog` makes of the
same files, and prices, ceilings and goals are drawn in the same order, so a task is the same task either way.
"""

from __future__ import annotations

import json
import logging
import os
import random
import sqlite3
import threading
from collections.abc import Iterator, Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any, TypeVar, overload

import numpy as np

from icto_gym.envs.webshop.catalog import Catalog, Goal, Product, human_goals, shuffled, synthetic_goals
from icto_gym.envs.webshop.mapped import MappedEngine
from icto_gym.envs.webshop.store_goals import READY, ready_goals, ready_prices
from icto_gym.envs.webshop.store_manifest import DATABASE, PRICING, read_manifest
from icto_gym.errors import DataError

KEPT_PRODUCTS = 2048
MANY_SYNTHETIC = 100_000
"""Products from which on synthetic goals are warned of."""
logger = logging.getLogger(__name__)
V = TypeVar("V")


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

    def close(self) -> None:
        """Close this thread's connection."""
        if getattr(self._local, "process", None) == os.getpid():
            self._local.connection.close()
            self._local.process = None

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

    Args:
        folder: of the catalogue.
        products: how many it holds.
        filled: how many of them hold a term.
    """

    def __init__(self, folder: Path, products: int, filled: int) -> None:
        self.folder = folder
        self.database = Database(folder)
        self.engine = MappedEngine(folder, products, filled, self.database)
        self.codes = Codes(self.engine, products)
        self.found = lru_cache(maxsize=KEPT_PRODUCTS)(self._find)

    def close(self) -> None:
        """Let go of all files; for a build, which moves them."""
        self.engine.close()
        self.database.close()

    def _find(self, asin: str) -> tuple[int, Product] | None:
        row = self.database.row("SELECT position, record FROM products WHERE asin = ?", to_bytes(asin))
        return None if row is None else (row[0], unpacked(asin, row[1]))

    def with_text(self, column: str, text: str) -> tuple[str, ...]:
        """Codes of the products with this category or query, in catalogue order."""
        question = f"SELECT position FROM products WHERE {column} = ? ORDER BY position"
        return tuple(self.engine.code_at(row[0]) for row in self.database.rows(question, to_bytes(text)))

    def catalog(self, goals: str, catalog_seed: int) -> StoredCatalog:
        """The shop with prices and goals exactly as `build_catalog` draws them."""
        if (goals, catalog_seed) == READY:
            found, digests = ready_goals(self.folder)
            return StoredCatalog(self, Prices(self, ready_prices(self.folder)), found, digests)
        return self.drawn(goals, catalog_seed)[0]

    def drawn(self, goals: str, catalog_seed: int) -> tuple[StoredCatalog, np.ndarray]:
        """Draw the shop's goals and prices; the prices also in catalogue order."""
        draw = random.Random(catalog_seed)
        drawn = self._drawn_prices(draw)
        prices, products = Prices(self, drawn), Products(self)
        names = [f"{self.folder / DATABASE} ({name})" for name in ("instructions", "attributes")]
        if goals == "human":
            written = self._written()
            found = human_goals({asin: products[asin] for asin in written}, prices, written, names[0], draw)
        else:
            if len(self.codes) > MANY_SYNTHETIC:
                logger.warning(
                    "synthetic goals are all made in memory, some seven for each of %s's %s products: this takes "
                    "minutes and gigabytes; goals='human' opens at once", self.folder, f"{len(self.codes):,}",
                )  # fmt: skip
            found = synthetic_goals(products, prices, Wishes(self.database), names[1], draw)
        return StoredCatalog(self, prices, shuffled(found)), drawn

    def _written(self) -> dict[str, Any]:
        """Code -> human instructions, in catalogue order."""
        rows = self.database.rows("SELECT position, written FROM human ORDER BY position")
        return {self.engine.code_at(position): json.loads(written) for position, written in rows}

    def _drawn_prices(self, draw: random.Random) -> np.ndarray:
        """One price per product, in catalogue order: those of ranges take the generator's next numbers in turn."""
        low, high = np.fromfile(self.folder / PRICING, dtype=np.float64).reshape(2, -1)
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

    def __init__(
        self, store: Store, prices: Prices, goals: list[Goal], digests: Mapping[str, str] | None = None
    ) -> None:
        super().__init__(
            Products(store), prices, goals, _engine=store.engine, _codes=store.codes, _digests=digests
        )  # fmt: skip
        self._store = store

    def with_category(self, category: str) -> tuple[str, ...]:
        return self._store.with_text("category", category)

    def with_query(self, query: str) -> tuple[str, ...]:
        return self._store.with_text("query", query)


@lru_cache(maxsize=4)
def opened(folder: str, stamp: int) -> Store:
    """The catalogue of a folder, opened once per process; ``stamp`` tells a new build from an old one.

    Raises:
        DataError: see `read_manifest`.
    """
    manifest = read_manifest(Path(folder))
    return Store(Path(folder), manifest["products"], manifest["filled"])


@lru_cache(maxsize=4)
def stored_catalog(folder: str, stamp: int, goals: str, catalog_seed: int) -> StoredCatalog:
    """`Store.catalog`, made once per process."""
    return opened(folder, stamp).catalog(goals, catalog_seed)
