"""How the arrays of `MappedEngine` are made, in bounded memory: sorted runs, then one merge."""

from __future__ import annotations

import heapq
import os
import sqlite3
from array import array
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from icto_gym.envs.webshop.mapped import CAPPED, FILES
from icto_gym.envs.webshop.search import inverse_lengths
from icto_gym.envs.webshop.words import analyze
from icto_gym.files import atomic_open

AT_ONCE = 4_000_000
"""Postings that are sorted in memory at a time."""
DENSE_SHARE = 64
"""A term that stands in one of so many products gets a dense row."""
Progress = Callable[[int], object]


class Run:
    """An index of some consecutive products, in memory until it is written."""

    def __init__(self) -> None:
        self._numbers = _Numbers()
        self._terms, self._counts = array("i"), array("i")
        self._distinct, self._lengths = array("i"), array("q")

    @property
    def postings(self) -> int:
        return len(self._terms)

    def add(self, text: str) -> None:
        """Take in the next product's text."""
        counts = Counter(analyze(text))
        self._terms.extend(map(self._numbers.__getitem__, counts))
        self._counts.extend(counts.values())
        self._distinct.append(len(counts))
        self._lengths.append(sum(counts.values()))

    def write(self, folder: Path, first: int) -> None:
        """Write the run; ``first`` is the place in the catalogue of its first product."""
        folder.mkdir(parents=True, exist_ok=True)
        words = sorted(self._numbers)  # by code point, which is the order of the bytes too
        place = np.empty(len(words), dtype=np.int32)
        place[[self._numbers[word] for word in words]] = np.arange(len(words), dtype=np.int32)
        terms = place[np.frombuffer(self._terms, dtype=np.int32)] if len(words) else np.empty(0, dtype=np.int32)
        documents = np.repeat(np.arange(first, first + len(self._distinct), dtype=np.int32), self._distinct)
        order = np.argsort(terms, kind="stable")
        _save(folder / "sizes.bin", np.bincount(terms, minlength=len(words)).astype(np.int32))
        _save(folder / "docs.bin", documents[order])
        _save(folder / "counts.bin", np.array(self._counts, dtype=np.int32)[order])
        _save(folder / "lengths.bin", np.array(self._lengths, dtype=np.int64))
        with atomic_open(folder / "terms.txt", "wb") as handle:
            handle.write("\n".join(words).encode("utf-8", "surrogatepass"))


class _Numbers(dict[str, int]):
    """Words to numbers, in the order they come."""

    def __missing__(self, word: str) -> int:
        self[word] = number = len(self)
        return number


def _save(path: Path, values: np.ndarray) -> None:
    with atomic_open(path, "wb") as handle:
        values.tofile(handle)


class _Stored(NamedTuple):
    """A run on disk."""

    words: list[bytes]
    sizes: np.ndarray
    starts: np.ndarray
    docs: np.ndarray
    counts: np.ndarray

    @classmethod
    def read(cls, folder: Path) -> _Stored:
        text = (folder / "terms.txt").read_bytes()
        sizes = np.fromfile(folder / "sizes.bin", dtype=np.int32)
        starts = np.concatenate([[0], np.cumsum(sizes, dtype=np.int64)])
        names = (folder / "docs.bin", folder / "counts.bin")
        empty = np.empty(0, dtype=np.int32)  # which cannot be mapped
        docs, counts = (np.memmap(path, dtype=np.int32, mode="r") if len(sizes) else empty for path in names)
        return cls(text.split(b"\n") if text else [], sizes, starts, docs, counts)


class Facts(NamedTuple):
    """What the merge found."""

    filled: int
    """Products with a term."""
    terms: int
    postings: int


def merge_runs(
    runs: Sequence[Path], codes: list[bytes], out: Path, database: sqlite3.Connection, progress: Progress
) -> Facts:
    """Join runs into the arrays of `FILES` and the table ``terms``.

    Args:
        runs: folders of the runs, in the order of the catalogue.
        codes: the products' codes, in the same order.
        out: folder for the arrays.
        database: gets the table; committed by the caller.
        progress: is told of postings done.
    """
    lengths = np.concatenate([np.empty(0, np.int64), *(np.fromfile(run / "lengths.bin", np.int64) for run in runs)])
    ranks = _write_codes(codes, out)
    by_code = np.empty(len(codes), dtype=np.int64)
    by_code[ranks] = lengths
    inverses = inverse_lengths(by_code)
    _save(out / "inverses.bin", inverses)
    database.execute("DROP TABLE IF EXISTS terms")
    database.execute(
        "CREATE TABLE terms (term BLOB PRIMARY KEY, start INTEGER, size INTEGER, saturation REAL, dense INTEGER)"
        " WITHOUT ROWID"
    )
    with _Writer(out, len(codes), inverses) as writer:
        for words, terms, documents, counts in _pieces([_Stored.read(run) for run in runs]):
            rows = writer.add(terms, ranks[documents], counts, len(words))
            database.executemany(
                "INSERT INTO terms VALUES (?, ?, ?, ?, ?)", (
                (word, *row) for word, row in zip(words, rows, strict=True)
            ))  # fmt: skip
            progress(len(documents))
    return Facts(int((lengths > 0).sum()), writer.terms, writer.start)


def _write_codes(codes: list[bytes], out: Path) -> np.ndarray:
    """Write the codes in order; returns place in the catalogue -> document."""
    order = np.array(sorted(range(len(codes)), key=codes.__getitem__), dtype=np.int32)
    ranks = np.empty(len(codes), dtype=np.int32)
    ranks[order] = np.arange(len(codes), dtype=np.int32)
    _save(out / "ranks.bin", ranks)
    ordered = [codes[place] for place in order]
    _save(out / "code_ends.bin", np.cumsum([len(code) for code in ordered], dtype=np.int64))
    _save(out / "codes.bin", np.frombuffer(b"".join(ordered), dtype=np.uint8))
    return ranks


def _pieces(runs: list[_Stored]) -> Iterator[tuple[list[bytes], np.ndarray, np.ndarray, np.ndarray]]:
    """(words, number of the word of each posting, places in the catalogue, counts), words in order."""
    at = [0] * len(runs)
    words: list[bytes] = []
    numbers: list[list[int]] = [[] for _ in runs]
    size = 0
    streams = (zip(run.words, [n] * len(run.words), run.sizes.tolist(), strict=True) for n, run in enumerate(runs))
    for word, run, count in heapq.merge(*streams):
        if not words or words[-1] != word:
            if size >= AT_ONCE:
                yield words, *_gathered(runs, at, numbers)
                words, size = [], 0
            words.append(word)
        numbers[run].append(len(words) - 1)
        size += count
    if words:
        yield words, *_gathered(runs, at, numbers)


def _gathered(
    runs: list[_Stored], at: list[int], numbers: list[list[int]]
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The postings of the next words of every run; moves on in them."""
    terms, documents, counts = [], [], []
    for number, run in enumerate(runs):
        first, last = at[number], at[number] + len(numbers[number])
        here = slice(int(run.starts[first]), int(run.starts[last]))
        terms.append(np.repeat(np.array(numbers[number], dtype=np.int64), run.sizes[first:last]))
        documents.append(np.asarray(run.docs[here]))
        counts.append(np.asarray(run.counts[here]))
        at[number], numbers[number] = last, []
    return np.concatenate(terms), np.concatenate(documents), np.concatenate(counts)


class _Writer:
    """Appends postings to the arrays."""

    def __init__(self, out: Path, size: int, inverses: np.ndarray) -> None:
        self._out, self._size, self._inverses = out, size, inverses
        self._files: dict[str, Any] = {}
        self.start = self.terms = self._rows = 0

    def __enter__(self) -> _Writer:
        self._files = {name: (self._out / f"{name}.bin").open("wb") for name in _APPENDED}
        return self

    def __exit__(self, *failed: object) -> None:
        for handle in self._files.values():
            if failed[0] is None:
                handle.flush()
                os.fsync(handle.fileno())
            handle.close()

    def add(
        self, terms: np.ndarray, documents: np.ndarray, counts: np.ndarray, words: int
    ) -> list[tuple[int, int, float, int]]:
        """Append the postings of some words; returns (start, size, highest saturation, dense row) of each."""
        order = np.argsort(terms << 32 | documents)
        documents, counts = documents[order].astype(FILES["docs"]), counts[order]
        sizes = np.bincount(terms, minlength=words)
        starts = np.concatenate([[0], np.cumsum(sizes)[:-1]])
        saturation = np.float32(1) + counts.astype(np.float32) * self._inverses[documents]
        highest = np.maximum.reduceat(saturation, starts)
        short = np.minimum(counts, CAPPED).astype(np.uint8)
        documents.tofile(self._files["docs"])
        short.tofile(self._files["frequencies"])
        large = np.flatnonzero(counts >= CAPPED)
        np.stack([large + self.start, counts[large]], axis=1).astype(np.int64).tofile(self._files["capped"])
        dense = np.full(words, -1)
        for word in np.flatnonzero(sizes * DENSE_SHARE >= self._size).tolist():
            row = np.zeros(self._size, dtype=np.uint8)
            here = slice(int(starts[word]), int(starts[word] + sizes[word]))
            row[documents[here]] = short[here]
            row.tofile(self._files["rows"])
            dense[word] = self._rows
            self._rows += 1
        found = zip((starts + self.start).tolist(), sizes.tolist(), highest.tolist(), dense.tolist(), strict=True)
        self.start += len(documents)
        self.terms += words
        return list(found)


_APPENDED = ("docs", "frequencies", "rows", "capped")
