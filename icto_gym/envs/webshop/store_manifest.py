"""What a finished catalogue on disk says of itself, and whether it is all there."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from icto_gym.envs.webshop.mapped import FILES
from icto_gym.errors import DataError
from icto_gym.files import read_json

FORMAT = 3
"""Counts up whenever files change, or the drawing or digesting of goals: they are kept in the catalogue."""
MANIFEST, DATABASE, FAULTS = "catalog.json", "catalog.sqlite", "faults.jsonl"
PRICING, PRICES, GOALS = "pricing.bin", "prices.bin", "goals.json"
KEPT = (DATABASE, PRICING, PRICES, GOALS, FAULTS, *(f"{name}.bin" for name in FILES))
"""The files of a catalogue, besides its manifest."""
_WHOLE, _TEXT = (int, "a whole number"), (str, "a text")
_FIELDS: dict[str, tuple[Any, str]] = {
    "products": _WHOLE, "filled": _WHOLE, "faults": _WHOLE, "digest": _TEXT, "on_fault": _TEXT,
    "num_products": ((int, type(None)), "a whole number or null"), "raw": (list, "a list"), "sums": (list, "a list"),
    "files": (dict, "an object"),
}  # fmt: skip
_AGAIN = "Build it again with: icto data webshop FOLDER-WITH-THE-RAW-FILES"


def is_built(folder: Path) -> bool:
    """Whether a finished catalogue lies there."""
    return (folder / MANIFEST).is_file()


def read_manifest(folder: Path) -> dict[str, Any]:
    """What the build wrote last: counts, digest, raw files, sizes of all files.

    Raises:
        DataError: it cannot be read, is of another format, lacks a field, or a file is missing or has another size.
    """
    manifest = read_json(folder / MANIFEST)
    if not isinstance(manifest, dict) or manifest.get("format") != FORMAT:
        found = manifest.get("format") if isinstance(manifest, dict) else type(manifest).__name__
        raise DataError(f"{folder / MANIFEST}: format {found!r}; this version reads format {FORMAT}. {_AGAIN}")
    _check_fields(folder / MANIFEST, manifest)
    for name in KEPT:
        path, size = folder / name, manifest["files"].get(name)
        if not isinstance(size, int):
            raise DataError(f"{folder / MANIFEST}: field 'files' has no size of {name}. {_AGAIN}")
        found = path.stat().st_size if path.is_file() else None
        if found != size:
            what = "is missing" if found is None else f"has {found:,} bytes instead of {size:,}"
            raise DataError(f"{path} {what}; the catalogue was damaged or copied in part. {_AGAIN}")
    priced = manifest["files"][PRICES] / 8
    if manifest["products"] != priced:
        what = f"field 'products' is {manifest['products']}, but {PRICES} holds {priced:g} prices"
        raise DataError(f"{folder / MANIFEST}: {what}; was the file edited? {_AGAIN}")
    return manifest


def _check_fields(path: Path, manifest: Mapping[str, Any]) -> None:
    for name, (kinds, wanted) in _FIELDS.items():
        if name not in manifest:
            raise DataError(f"{path}: the field {name!r} is missing; was the file edited? {_AGAIN}")
        value = manifest[name]
        if not isinstance(value, kinds) or isinstance(value, bool):
            raise DataError(f"{path}: field {name!r} should be {wanted}; found {value!r:.60}. {_AGAIN}")


def file_stamp(path: Path) -> dict[str, Any]:
    """What tells whether a raw file has changed: name, size in bytes, time of its last change in ns."""
    found = path.stat()
    return {"name": path.name, "size": found.st_size, "mtime_ns": found.st_mtime_ns}
