"""What a catalogue on disk is built from: the raw files as they are now, and instructions that can be used."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from icto_gym.envs.webshop.catalog import human_goals
from icto_gym.envs.webshop.store_files import progress_bar
from icto_gym.envs.webshop.store_manifest import FORMAT, file_stamp
from icto_gym.envs.webshop.stream import Record
from icto_gym.errors import DataError


@dataclass(frozen=True)
class BuildConfig:
    """Build the full-size shop's catalogue on disk, once, from the original's raw files."""

    out: Path | None = None
    """Folder for the catalogue; left out: "catalog" in the raw folder, where environments look for it."""
    num_products: int | None = None
    """Read only so many records of the products' file; left out: all."""
    on_fault: str = "refuse"
    """What to do with a broken record: refuse (stop and name it) or skip (leave it out and list it)."""


def identity_of(files: tuple[Path, Path, Path], config: BuildConfig) -> dict[str, Any]:
    """What the catalogue follows from: the raw files' contents, and the arguments that choose among their records."""
    stamps = [file_stamp(path) for path in files]
    total = sum(stamp["size"] for stamp in stamps)
    with progress_bar(total, "reading raw files", "B") as bar:
        sums = [_checksum(path, bar.update) for path in files]
    wanted = {"sums": sums, "num_products": config.num_products, "on_fault": config.on_fault}
    return {"format": FORMAT, "raw": stamps, **wanted}


def _checksum(path: Path, progress: Callable[[int], object]) -> str:
    state = hashlib.sha256()
    with open(path, "rb") as handle:
        while piece := handle.read(1 << 22):
            state.update(piece)
            progress(len(piece))
    return state.hexdigest()


def sound_instructions(record: Record, path: Path, report: Callable[[int, str], object]) -> list[Any]:
    """The instructions of a product with broken ones made void, so that the others keep their numbers."""
    if not isinstance(record.value, list):
        report(record.number, f"{path}: record {record.key!r}: content should be a list; found {record.value!r:.60}.")
        return []
    sound: list[Any] = []
    for number, instruction in enumerate(record.value):
        tried = [{"instruction_attributes": []}] * number + [instruction]  # so that messages count right
        try:
            human_goals({record.key: _ANY}, {record.key: 1.0}, {record.key: tried}, str(path), random.Random(0))
        except DataError as error:
            report(record.number, str(error))
            instruction = tried[0] if number else {"instruction_attributes": []}
        sound.append(instruction)
    return sound


class _AnyProduct:
    """Stands in for a product while an instruction is tried out."""

    category = query = title = product_category = asin = ""


_ANY: Any = _AnyProduct()
