"""Records of a large JSON array or object, one by one, with their places; a broken record costs only itself."""

from __future__ import annotations

import codecs
import json
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from icto_gym.errors import DataError

CHUNK = 1 << 22
"""Bytes read at once."""
LONGEST_RECORD = 1 << 26
"""Letters of a record; a file in which a quote is missing would otherwise be one record to its end."""
_NEAR = 100
"""A mistake this close to the end of what was read may be the end itself."""
_BLANKS = re.compile(r"[ \t\r\n]*")
_STRUCTURE = re.compile(r'"(?:[^"\\]|\\.)*"|[\[\]{}]', re.DOTALL)
_ESCAPED = re.compile("[\udc80-\udcff]")


class Record(NamedTuple):
    """One element of the array, or one member of the object."""

    number: int
    key: str
    """Of a member; ``""`` for elements of arrays."""
    value: Any
    fault: str
    """What is wrong with it, as the end of a sentence; ``""`` if nothing is."""
    end: int
    """The byte after it, from which reading can be taken up again."""
    last: bool = False
    """Nothing after it can be read."""


class Place(NamedTuple):
    """Where reading goes on: after so many bytes, and so many records."""

    byte: int = 0
    number: int = 0


def iter_records(path: str | os.PathLike[str], opening: str, start: Place = Place()) -> Iterator[Record]:  # noqa: B008
    """Read the elements of an array (``opening="["``) or the members of an object (``"{"``).

    Raises:
        DataError: the file does not begin with that sign. Whatever comes later is told in the records.
    """
    with open(path, "rb") as handle:
        yield from _Reader(Path(path), handle, opening, start).records()


class _Reader:
    def __init__(self, path: Path, handle: Any, opening: str, start: Place) -> None:
        self._path, self._handle, self._opening, self._start = path, handle, opening, start
        self._close = "]" if opening == "[" else "}"
        self._decoder = json.JSONDecoder()
        self._bytes = codecs.getincrementaldecoder("utf-8")("surrogateescape")
        self._text, self._at, self._byte = "", 0, start.byte  # the byte belongs to the letter at `_at`

    def records(self) -> Iterator[Record]:
        number = self._start.number
        if self._start.byte:
            self._handle.seek(self._start.byte)
            follows = self._separator()
        else:
            sign = self._peek()
            if sign != self._opening:
                kind = "array of products" if self._opening == "[" else "object"
                raise DataError(
                    f"{self._path}: expected a JSON {kind}, found {self._text[self._at : self._at + 20]!r}."
                )
            self._go(self._at + 1)
            follows = self._peek() != self._close
        while follows:
            record = self._record(number)
            yield record
            if record.last:
                return
            number += 1
            follows = self._separator()
        self._go(self._at + 1)
        if self._peek():
            rest = self._text[self._at : self._at + 20]
            what = f"after the array of {number} products stands more: {rest!r}"
            yield Record(number, "", None, what, self._byte, True)

    def _separator(self) -> bool:
        """Step over a comma; False at the end of the array."""
        more = self._peek() == ","
        if more:
            self._go(self._at + 1)
            self._peek()
        return more

    def _record(self, number: int) -> Record:
        self._peek()
        fault = ""
        while True:
            try:
                key, value, end = self._decoded()
                break
            except RecursionError:
                fault = f"record {number} is nested too deeply to be read"
            except json.JSONDecodeError as error:
                whole = error.pos < len(self._text) - _NEAR and not error.msg.startswith("Unterminated")
                if not whole and len(self._text) - self._at <= LONGEST_RECORD and self._more():
                    continue
                fault = f"record {number} is not valid JSON ({error.msg})"
            return self._passed_over(number, fault)
        text = self._text[self._at : end]
        if not text.isascii() and _ESCAPED.search(text):
            fault, value = f"record {number} is not valid UTF-8", None
        self._go(end)
        return Record(number, key, value, fault, self._byte)

    def _decoded(self) -> tuple[str, Any, int]:
        """Key, value and the place after it, if a separator follows."""
        key, at = "", self._at
        if self._opening == "{":
            key, at = self._decoder.raw_decode(self._text, at)
            at = _blank(self._text, at)
            if not isinstance(key, str) or self._text[at : at + 1] != ":":
                raise json.JSONDecodeError("Expecting a name and ':'", self._text, at)
            at = _blank(self._text, at + 1)
        value, end = self._decoder.raw_decode(self._text, at)
        after = _blank(self._text, end)
        if self._text[after : after + 1] not in (",", self._close) or after >= len(self._text):
            raise json.JSONDecodeError(f"Expecting ',' or '{self._close}'", self._text, after)
        return key, value, end

    def _passed_over(self, number: int, fault: str) -> Record:
        """Step over a broken record by its brackets; where they do not close, the rest cannot be read."""
        depth, at = 0, self._at
        while True:
            for match in _STRUCTURE.finditer(self._text, at):
                sign = match.group()
                if sign[0] == '"':
                    at = match.end()
                    continue
                depth += 1 if sign in "[{" else -1
                at = match.end()
                if depth < 0:
                    return Record(number, "", None, fault, self._byte, True)
                if depth == 0:
                    self._go(at)
                    return Record(number, "", None, fault, self._byte, self._peek() not in (",", self._close))
            before = self._at
            if len(self._text) - self._at > LONGEST_RECORD or not self._more():
                return Record(number, "", None, fault, self._byte, True)
            at -= before - self._at

    # ---- the text read so far ----------------------------------------------------------------------
    def _peek(self) -> str:
        """The next sign that is no white space; ``""`` at the end of the file."""
        while True:
            self._go(_blank(self._text, self._at))
            if self._at < len(self._text) or not self._more():
                return self._text[self._at : self._at + 1]

    def _go(self, at: int) -> None:
        passed = self._text[self._at : at]
        self._byte += len(passed) if passed.isascii() else len(passed.encode("utf-8", "surrogateescape"))
        self._at = at

    def _more(self) -> bool:
        """Read on, dropping what was used; a long record is read in growing pieces, so that it is tried few times."""
        data = self._handle.read(max(CHUNK, len(self._text) - self._at))
        text = self._bytes.decode(data, final=not data)
        self._text, self._at = self._text[self._at :] + text, 0
        return bool(data) or bool(text)


def _blank(text: str, start: int) -> int:
    """The first place at or after ``start`` that is not white space."""
    match = _BLANKS.match(text, start)
    return match.end() if match else start
