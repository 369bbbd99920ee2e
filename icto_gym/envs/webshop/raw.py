"""Where a catalogue comes from: the original's files in a folder, or the built-in data; loaded once per process."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path
from typing import Any

from icto_gym.envs.webshop.catalog import Catalog, build_catalog
from icto_gym.envs.webshop.store import stored_catalog
from icto_gym.envs.webshop.store_manifest import MANIFEST, file_stamp, is_built, read_manifest
from icto_gym.errors import ConfigError, DataError, check_name
from icto_gym.files import iter_json_array, read_json

MINI = "mini"
GOALS = ("human", "synthetic")
_LARGE = 300_000_000
"""Bytes of a products' file from which on a catalogue on disk is worth a hint."""

logger = logging.getLogger(__name__)


def load_catalog(data: str, goals: str = "human", num_products: int | None = None, catalog_seed: int = 0) -> Catalog:
    """The catalogue for these constructor arguments; equal arguments share one object within a process.

    Raises:
        ConfigError: a folder that is not there, or an argument out of range.
        DataError: a file that cannot be used: file, record, field.
    """
    check_name(goals, GOALS, "goals")
    whole = isinstance(num_products, int) and not isinstance(num_products, bool)
    if num_products is not None and not (whole and num_products > 0):
        raise ConfigError(f"num_products is {num_products!r}; give a number from 1, or None for all.")
    if data == MINI:
        return _mini_catalog(goals, num_products, catalog_seed)
    folder = Path(data).expanduser()
    built = find_build(folder, num_products)
    if built is not None:
        built = built.resolve()
        return stored_catalog(str(built), os.stat(built / MANIFEST).st_mtime_ns, goals, catalog_seed)
    files = raw_files(folder)
    if os.stat(files[0]).st_size > _LARGE and num_products is None:
        logger.warning(
            "%s is read into memory, which takes minutes and gigabytes; build a catalogue on disk once with: "
            "icto data webshop %s", files[0], folder,
        )  # fmt: skip
    stamps = tuple((str(file), os.stat(file).st_mtime_ns, os.stat(file).st_size) for file in files)
    return _folder_catalog(stamps, goals, num_products, catalog_seed)


def default_build(folder: Path, num_products: int | None) -> Path:
    """Where the catalogue of a raw folder is looked for."""
    return folder / ("catalog" if num_products is None else f"catalog-{num_products}")


def find_build(folder: Path, num_products: int | None) -> Path | None:
    """The catalogue on disk to use for ``data=folder``: the folder itself, or an up-to-date build in a raw folder.

    Raises:
        ConfigError: the folder holds a catalogue of another number of products.
        DataError: it holds a damaged one.
    """
    if is_built(folder):
        built_for = read_manifest(folder)["num_products"]
        if num_products not in (None, built_for):
            raise ConfigError(
                f"num_products is {num_products}, but {folder} was built with {built_for or 'all products'}. Build "
                f"another with: icto data webshop RAW-FOLDER --num-products {num_products}"
            )
        return folder
    inside = default_build(folder, num_products)
    if not is_built(inside):
        return None
    if read_manifest(inside)["raw"] == [file_stamp(path) for path in raw_files(folder)]:
        return inside
    logger.warning(
        "%s was built from other files than those in %s now, so it is not used; renew it with: icto data webshop %s",
        inside, folder, folder,
    )  # fmt: skip
    return None


def id_prefix(data: str) -> str:
    """What the ids of tasks begin with: the digest belongs to it where a catalogue on disk is named."""
    if data == MINI:
        return "webshop-mini"
    folder = Path(data).expanduser()
    return f"webshop-{read_manifest(folder)['digest'][:12]}" if is_built(folder) else "webshop"


def raw_files(folder: Path) -> tuple[Path, Path, Path]:
    """Find products, attributes and human instructions in a folder of the original's raw files.

    The original ships two sizes: ``items_shuffle.json`` and ``items_shuffle_1000.json``, with attribute files named
    alike. The whole one is taken where both are there.
    """
    if not folder.is_dir():
        raise ConfigError(
            f"No folder {str(folder)!r} with the shop's data. Give data='mini' (built in) or the path of a folder that "
            "holds items_shuffle*.json, items_ins_v2*.json and items_human_ins.json."
        )
    items = _only(folder, "items_shuffle")
    ending = items.stem.removeprefix("items_shuffle")
    own = folder / f"items_ins_v2{ending}.json"
    return items, own if own.exists() else _only(folder, "items_ins_v2"), _only(folder, "items_human_ins")


def _only(folder: Path, stem: str) -> Path:
    if (folder / f"{stem}.json").exists():
        return folder / f"{stem}.json"
    found = sorted(folder.glob(f"{stem}*.json"))
    if not found:
        raise DataError(f"{folder}: there is no {stem}*.json; found: {', '.join(sorted(os.listdir(folder))[:8])}.")
    return found[0]


@lru_cache(maxsize=4)
def _folder_catalog(
    stamps: tuple[tuple[str, int, int], ...], goals: str, num_products: int | None, seed: int
) -> Catalog:
    items, ins, human = (stamp[0] for stamp in stamps)
    return build_catalog(
        iter_array(items), read_json(ins), read_json(human) if goals == "human" else {},
        goals=goals, num_products=num_products, catalog_seed=seed, names=(items, ins, human),
    )  # fmt: skip


@lru_cache(maxsize=4)
def _mini_catalog(goals: str, num_products: int | None, seed: int) -> Catalog:
    from icto_gym.envs.webshop.mini import build_mini

    mini = build_mini()
    catalog = build_catalog(
        mini.items, mini.ins, mini.human_ins, goals=goals, num_products=num_products, catalog_seed=seed,
        names=("mini items", "mini attributes", "mini instructions"),
    )  # fmt: skip
    catalog.nouns = mini.nouns
    catalog.splits = mini.splits if goals == "human" else None
    return catalog


def iter_array(path: str | os.PathLike[str]) -> Iterator[Any]:
    """Read the elements of a JSON array one by one; the full catalogue does not fit a small machine at once.

    Raises:
        DataError: naming the file and the number of the record that cannot be read.
    """
    return iter_json_array(path, "products")
