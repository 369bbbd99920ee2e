"""Files that are whole or absent, and where caches live."""

from __future__ import annotations

import glob
import json
import os
import re
import shutil
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

from icto_gym.errors import DataError

_DRAFT = re.compile(r"\..+\.[a-z0-9_]{8}\.tmp")  # as `atomic_open` names them


def cache_dir(name: str) -> Path:
    """Return (and make) this project's cache folder ``name``.

    ``$ICTO_CACHE`` names the root; else ``$XDG_CACHE_HOME/icto-gym``, else ``~/.cache/icto-gym``.
    """
    root = os.environ.get("ICTO_CACHE")
    if not root:
        base = os.environ.get("XDG_CACHE_HOME") or os.path.join(os.path.expanduser("~"), ".cache")
        root = os.path.join(base, "icto-gym")
    folder = Path(root) / name
    folder.mkdir(parents=True, exist_ok=True)
    return folder


@contextmanager
def atomic_open(path: str | os.PathLike[str], mode: str = "w") -> Iterator[IO[Any]]:
    """Open a temporary sibling for writing; it takes the name ``path`` only if the block succeeds."""
    target = Path(path)
    target.parent.mkdir(parents=True, exist_ok=True)
    descriptor, temporary = tempfile.mkstemp(prefix=f".{target.name}.", suffix=".tmp", dir=target.parent)
    try:
        encoding = None if "b" in mode else "utf-8"
        with os.fdopen(descriptor, mode, encoding=encoding) as handle:
            yield handle
            handle.flush()
            os.fsync(handle.fileno())
        os.chmod(temporary, 0o644)
        os.replace(temporary, target)
    except BaseException:
        if os.path.exists(temporary):
            os.unlink(temporary)
        raise


def remove(path: Path, spare: str = "") -> None:
    """Remove a file or folder that may not be there; what in the folder matches the pattern ``spare`` stays."""
    kept = set(path.glob(spare)) if spare else set[Path]()
    if not path.is_dir():
        path.unlink(missing_ok=True)
    elif not kept:
        shutil.rmtree(path)
    else:
        for inner in set(path.iterdir()) - kept:
            remove(inner)


def drop_drafts(paths: Iterable[Path]) -> None:
    """Remove what `atomic_open` of these files (or within these folders) left when a process was killed in it."""
    for path in paths:
        drafts = path.parent.glob(f".{glob.escape(path.name)}.*.tmp")
        for draft in [*drafts, *path.rglob(".*.*.tmp")]:
            if _DRAFT.fullmatch(draft.name):  # another's file stays
                draft.unlink(missing_ok=True)


def write_text(path: str | os.PathLike[str], text: str) -> None:
    """Write a text file atomically."""
    with atomic_open(path) as handle:
        handle.write(text)


def write_json(path: str | os.PathLike[str], value: Any) -> None:
    """Write JSON atomically, with sorted keys, so that equal values are equal files."""
    write_text(path, json.dumps(value, indent=2, sort_keys=True) + "\n")


def read_json(path: str | os.PathLike[str]) -> Any:
    """Read a JSON file; a byte order mark, as Windows writes it, is passed over.

    Raises:
        DataError: naming the file and the place if it is not JSON or not UTF-8.
    """
    try:
        with open(path, encoding="utf-8-sig") as handle:
            return json.load(handle)
    except (json.JSONDecodeError, UnicodeDecodeError, RecursionError) as error:
        raise DataError(f"{path}: not valid JSON ({error}).") from error


_CHUNK = 1 << 22


def iter_json_array(path: str | os.PathLike[str], what: str = "records") -> Iterator[Any]:
    """Read the elements of a JSON array one by one, so that the file may be larger than memory.

    Args:
        path: the file.
        what: the noun for messages.

    Raises:
        DataError: naming the file and the number of the record that cannot be read.
    """
    decoder = json.JSONDecoder()
    with open(path, encoding="utf-8-sig") as handle:
        try:
            buffer = handle.read(_CHUNK)
            start = _blank(buffer, 0)
            if buffer[start : start + 1] != "[":
                raise DataError(f"{path}: expected a JSON array of {what}, found {buffer[start : start + 20]!r}.")
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
                raise DataError(f"{path}: after the array of {number} {what} stands more: {rest[:20]!r}.")
        except UnicodeDecodeError as error:
            raise DataError(f"{path}: not valid UTF-8 ({error}).") from error


def _blank(text: str, start: int) -> int:
    """The first place at or after ``start`` that is not white space."""
    while start < len(text) and text[start] in " \t\r\n":
        start += 1
    return start
