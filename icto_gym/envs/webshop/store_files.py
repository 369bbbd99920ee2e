"""Where a catalogue is built: its folder, its lock, its databases, and what a disk refuses, in words."""

from __future__ import annotations

import errno
import fcntl
import json
import logging
import os
import shutil
import sqlite3
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tqdm import tqdm

from icto_gym.errors import ConfigError, DataError

logger = logging.getLogger(__name__)


def building(out: Path) -> Path:
    """Where a build lies until it is whole."""
    return out.with_name(f"{out.name}.building")


def connect(path: Path) -> sqlite3.Connection:
    """A database that is being built."""
    database = sqlite3.connect(path)
    database.execute("PRAGMA page_size = 8192")
    database.execute("PRAGMA synchronous = NORMAL")
    database.execute("PRAGMA cache_size = -65536")
    return database


def progress_of(database: sqlite3.Connection, stage: str, start: dict[str, Any]) -> dict[str, Any]:
    """How far a stage has come; ``start`` if it was never begun."""
    row = database.execute("SELECT facts FROM progress WHERE stage = ?", (stage,)).fetchone()
    return start if row is None else json.loads(row[0])


def note(database: sqlite3.Connection, stage: str, facts: dict[str, Any]) -> None:
    """Note how far a stage has come; part of the caller's transaction."""
    database.execute("INSERT OR REPLACE INTO progress VALUES (?, ?)", (stage, json.dumps(facts)))


def sync(path: Path) -> None:
    """Wait until a file or folder is on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def progress_bar(total: int, what: str, unit: str, start: int = 0) -> tqdm:
    """A bar on standard error, where a person watches."""
    shown = logger.isEnabledFor(logging.INFO) and sys.stderr.isatty()
    return tqdm(total=total, initial=start, desc=what, unit=unit, unit_scale=True, disable=not shown, file=sys.stderr)


@contextmanager
def locked(out: Path) -> Iterator[None]:
    """One build at a time; the lock falls with the process that holds it."""
    folder = building(out)
    folder.mkdir(parents=True, exist_ok=True)
    with open(folder / "lock", "w", encoding="utf-8") as handle:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise ConfigError(f"Another process is building {out}; wait for it to end.") from None
        yield
    if not (folder / "state.json").exists():  # nothing was to be done
        shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def clear_errors(out: Path) -> Iterator[None]:
    """What a disk or a folder refuses, in words; what was done stays, and the same command goes on."""
    try:
        yield
    except sqlite3.Error as error:
        if "full" in str(error):
            raise DataError(_full(out)) from error
        if "readonly" in str(error):
            raise ConfigError(f"{building(out)} cannot be written; name another folder with --out.") from error
        what = f"{building(out)}: the database cannot be written ({error})."
        raise DataError(f"{what} If it goes on, delete that folder and build again.") from error
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise DataError(_full(out)) from error
        if error.errno in (errno.EACCES, errno.EROFS, errno.EPERM):
            where = error.filename or building(out)
            raise ConfigError(f"{where}: {error.strerror}; name a folder that can be written with --out.") from error
        raise


def _full(out: Path) -> str:
    return (
        f"The disk of {building(out)} is full. Make room and give the same command again: it goes on where it stopped."
    )
