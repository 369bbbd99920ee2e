"""Where a catalogue comes from: the original's files in a folder, or the built-in data; loaded once per process."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path
from typing import Any

from icto_gym.envs.webshop.catalog import Catalog, build_catalog
from icto_gym.errors import ConfigError, DataError, check_name
from icto_gym.files import read_json

MINI = "mini"
GOALS = ("human", "synthetic")
_CHUNK = 1 << 22


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
    files = raw_files(Path(data).expanduser())
    stamps = tuple((str(file), os.stat(file).st_mtime_ns, os.stat(file).st_size) for file in files)
    return _folder_catalog(stamps, goals, num_products, catalog_seed)


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
    decoder = json.JSONDecoder()
    with open(path, encoding="utf-8") as handle:
        try:
            buffer = handle.read(_CHUNK)
            start = _blank(buffer, 0)
            if buffer[start : start + 1] != "[":
                raise DataError(f"{path}: expected a JSON array of products, found {buffer[start : start + 20]!r}.")
            start, number = _blank(buffer, start + 1), 0
            while buffer[start : start + 1] != "]":
                try:
                    element, end = decoder.raw_decode(buffer, start)
                    end = _blank(buffer, end)
                    if buffer[end : end + 1] not in (",", "]"):  # a number may go on in the next piece
                        raise json.JSONDecodeError("Expecting ',' or ']'", buffer, end)
                except RecursionError as error:
                    raise DataError(f"{path}: record {number} is nested too deeply to be read.") from error
                except json.JSONDecodeError as error:
                    more = handle.read(_CHUNK)
                    if not more:
                        raise DataError(f"{path}: record {number} is not valid JSON ({error.msg}).") from error
                    buffer, start = buffer[start:] + more, 0
                    continue
                yield element
                number += 1
                if buffer[end : end + 1] == "]":
                    start = end
                    break
                start = _blank(buffer, end + 1)
                if start >= len(buffer):
                    buffer, start = handle.read(_CHUNK), 0
                    start = _blank(buffer, 0)
                if start > _CHUNK:  # drop what was read, now and then
                    buffer, start = buffer[start:], 0
            rest = (buffer[start + 1 :] + handle.read(_CHUNK)).strip()
            if rest:
                raise DataError(f"{path}: after the array of {number} products stands more: {rest[:20]!r}.")
        except UnicodeDecodeError as error:
            raise DataError(f"{path}: not valid UTF-8 ({error}).") from error


def _blank(text: str, start: int) -> int:
    """The first place at or after ``start`` that is not white space."""
    while start < len(text) and text[start] in " \t\r\n":
        start += 1
    return start
