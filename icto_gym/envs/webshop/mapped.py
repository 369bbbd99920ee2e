"""The search engine over a catalogue on disk: `BM25Engine`'s ranking, ties included, from memory-mapped arrays.

All processes of a machine share the mapped pages. A query is answered term by term, the one that can add most first
(MaxScore: Turtle and Flood, "Query evaluation: strategies and optimizations", 1995): its products are scored in full,
a product is dropped as soon as what is left cannot bring it among the best, and the terms that together cannot do so
are never read. Terms that stand in many products have a dense row of frequencies besides their list, so that looking
them up costs one read for each product still in the running.
"""

from __future__ import annotations

import math
import mmap
import os
import sqlite3
from collections import Counter
from collections.abc import Callable, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from icto_gym.envs.webshop.search import LONGEST_QUERY, LONGEST_REMEMBERED, REMEMBERED_QUERIES
from icto_gym.envs.webshop.words import analyze

FILES = {
    # name: type. Documents are products in the order of their codes, which is the order of ties.
    "docs": np.int32,  # all lists of documents, one after the other
    "frequencies": np.uint8,  # of the term in each of them; `CAPPED` where it does not fit
    "rows": np.uint8,  # the same for all documents, of the terms that stand in many
    "inverses": np.float32,  # per document: 1 / (k1 (1 - b + b len/avg))
    "ranks": np.int32,  # place in the catalogue -> document
    "codes": np.uint8,  # codes in order, one after the other
    "code_ends": np.int64,
    "capped": np.int64,  # pairs: place in `docs`, true frequency
}
CAPPED = 255
LONG_QUERY = 40
"""From so many different terms on, everything is scored: pruning costs the square of their number."""
CROWD = 4096
"""Candidates from which on it pays to score the most promising first."""
SCOUTS = 4
"""How many of those, in multiples of the hits asked for."""
_SLACK = 1 - 1e-6
"""Scores are single-precision sums: nearer than that, two may be equal."""
_BUDGET = 64 << 20
"""Bytes read after which the mapped pages are given back; they stay in the system's cache."""
_ONE = np.float32(1)
Ranked = list[tuple[int, float]]


class Term(NamedTuple):
    """A query's term and where its products stand."""

    start: int
    size: int
    weight: np.float32
    """Its idf, as often as the query names it."""
    bound: float
    """The most it adds to a score."""
    row: int
    """Number of its dense row; -1: none."""


class MappedEngine:
    """BM25 over the arrays that a build wrote into ``folder``.

    Args:
        folder: with the files of `FILES`.
        products: how many.
        filled: how many of them hold a term.
        connect: gives a connection to the database with the table of terms.
    """

    def __init__(self, folder: Path, products: int, filled: int, connect: Callable[[], sqlite3.Connection]) -> None:
        self._arrays = MappedArrays(folder)
        self._size, self._filled, self._connect = products, filled, connect
        self._known = lru_cache(maxsize=1 << 14)(self._looked_up)
        self._remembered = lru_cache(maxsize=REMEMBERED_QUERIES)(self._codes)

    def close(self) -> None:
        """Let go of the files; nothing can be searched any more."""
        self._arrays.close()

    def search(self, query: str, k: int) -> list[str]:
        """The codes of the best ``k`` products that share a term with the query, best first."""
        if len(query) > LONGEST_REMEMBERED:
            return list(self._codes(query, k))
        return list(self._remembered(query, k))

    def scored(self, query: str, k: int) -> list[tuple[str, float]]:
        """`search` with the scores."""
        return [(self.code(document), score) for document, score in self._ranked(query, k)]

    def code(self, document: int) -> str:
        """The code of a product by its place in the order of codes."""
        ends = self._arrays.code_ends
        first = int(ends[document - 1]) if document else 0
        return bytes(self._arrays.codes[first : int(ends[document])]).decode("utf-8", "surrogatepass")

    def code_at(self, position: int) -> str:
        """The code of a product by its place in the catalogue."""
        return self.code(int(self._arrays.ranks[position]))

    def _codes(self, query: str, k: int) -> tuple[str, ...]:
        return tuple(self.code(document) for document, _ in self._ranked(query, k))

    def _ranked(self, query: str, k: int) -> Ranked:
        counts = Counter(analyze(query[:LONGEST_QUERY]))
        terms = [term for word, count in counts.items() if (term := self._term(word, count)) is not None]
        if not terms or k < 1:
            return []
        try:
            return self._everything(terms, k) if len(terms) > LONG_QUERY else self._pruned(terms, k)
        finally:
            self._arrays.give_back()

    # ---- terms -------------------------------------------------------------------------------------
    def _looked_up(self, word: str) -> tuple[int, int, float, int] | None:
        found = self._connect().execute(
            "SELECT start, size, saturation, dense FROM terms WHERE term = ?", (word.encode("utf-8", "surrogatepass"),)
        )
        return found.fetchone()

    def _term(self, word: str, count: int) -> Term | None:
        found = self._known(word)
        if found is None:
            return None
        start, size, saturation, row = found
        weight = np.float32(count) * np.float32(math.log(1 + (self._filled - size + 0.5) / (size + 0.5)))
        return Term(start, size, weight, float(weight - weight / np.float32(saturation)), row)

    def _added(self, term: Term, documents: np.ndarray, frequencies: np.ndarray) -> np.ndarray:
        """What a term adds to the scores of documents, in single precision; 0 where it does not occur."""
        saturation = _ONE + frequencies.astype(np.float32) * self._arrays.inverses[documents]
        return term.weight - term.weight / saturation

    def _list(self, term: Term) -> tuple[np.ndarray, np.ndarray]:
        """A term's documents, ascending, and its frequencies in them."""
        here = slice(term.start, term.start + term.size)
        self._arrays.touched += 5 * term.size
        documents = self._arrays.docs[here].astype(np.intp)
        return documents, self._arrays.uncapped(self._arrays.frequencies[here], np.arange(here.start, here.stop))

    def _frequencies(self, term: Term, documents: np.ndarray) -> np.ndarray:
        """A term's frequencies in documents (ascending); 0 where it does not occur."""
        arrays = self._arrays
        if term.row >= 0:
            arrays.touched += min(len(documents) * mmap.PAGESIZE, self._size)
            found = arrays.rows[term.row * self._size : (term.row + 1) * self._size][documents]
            if len(found) and found.max() == CAPPED:
                places = np.searchsorted(arrays.docs[term.start : term.start + term.size], documents) + term.start
                return arrays.uncapped(found, places)
            return found
        own, counts = self._list(term)
        found = np.zeros(len(documents), dtype=counts.dtype)
        if len(documents) <= len(own):
            places = np.minimum(np.searchsorted(own, documents), len(own) - 1)
            return np.where(own[places] == documents, counts[places], found)
        places = np.minimum(np.searchsorted(documents, own), len(documents) - 1)
        hit = documents[places] == own
        found[places[hit]] = counts[hit]
        return found

    # ---- ranking -----------------------------------------------------------------------------------
    def _everything(self, terms: Sequence[Term], k: int) -> Ranked:
        scores = np.zeros(self._size, dtype=np.float64)
        for term in terms:
            documents, frequencies = self._list(term)
            scores[documents] += self._added(term, documents, frequencies)
        return _best(np.arange(self._size), scores, k)

    def _pruned(self, terms: Sequence[Term], k: int) -> Ranked:
        ordered = sorted(terms, key=lambda term: (-term.bound, term.size))
        left = [sum(term.bound for term in ordered[n:]) for n in range(len(ordered) + 1)]
        seen = np.zeros(self._size, dtype=np.bool_) if len(ordered) > 1 else None
        pool, scores = np.empty(0, dtype=np.intp), np.empty(0, dtype=np.float64)
        threshold = 0.0  # the k-th best score so far
        for number, term in enumerate(ordered):
            if left[number] < threshold * _SLACK:
                break
            documents, frequencies = self._list(term)
            if number and seen is not None:
                fresh = ~seen[documents]
                documents, frequencies = documents[fresh], frequencies[fresh]
            if seen is not None:
                seen[documents] = True
            own = self._added(term, documents, frequencies).astype(np.float64)
            rest = list(zip(ordered[number + 1 :], left[number + 1 :], strict=False))
            documents, own, threshold = self._completed(documents, own, rest, threshold, k)
            pool, scores = np.concatenate([pool, documents]), np.concatenate([scores, own])
            if len(pool) >= k:
                threshold = max(threshold, _kth(scores, k))
                kept = scores >= threshold * _SLACK
                pool, scores = pool[kept], scores[kept]
        pool.sort()
        return _best(pool, self._scores(terms, pool), k)  # in the order of the query: sums round as they do in memory

    def _completed(
        self, documents: np.ndarray, scores: np.ndarray, rest: list[tuple[Term, float]], threshold: float, k: int
    ) -> tuple[np.ndarray, np.ndarray, float]:
        """Add what the other terms give, dropping documents on the way that cannot reach the threshold any more."""
        for number, (term, left) in enumerate(rest):
            if len(documents) > max(CROWD, 2 * SCOUTS * k):
                first = np.sort(np.argpartition(scores, len(scores) - SCOUTS * k)[-SCOUTS * k :])
                sums = scores[first]
                for other, _ in rest[number:]:
                    sums += self._added(other, documents[first], self._frequencies(other, documents[first]))
                threshold = max(threshold, _kth(sums, k))
            kept = scores + left >= threshold * _SLACK
            documents, scores = documents[kept], scores[kept]
            if not len(documents):
                break
            scores = scores + self._added(term, documents, self._frequencies(term, documents))
        return documents, scores, threshold

    def _scores(self, terms: Sequence[Term], documents: np.ndarray) -> np.ndarray:
        scores = np.zeros(len(documents), dtype=np.float64)
        for term in terms:
            scores += self._added(term, documents, self._frequencies(term, documents))
        return scores


def _kth(scores: np.ndarray, k: int) -> float:
    return float(np.partition(scores, len(scores) - k)[len(scores) - k])


def _best(documents: np.ndarray, scores: np.ndarray, k: int) -> Ranked:
    """The best k by single-precision score, ties by document; those without a score are no hits."""
    single = scores.astype(np.float32)
    found = np.flatnonzero(single)
    if len(found) > k:
        found = found[single[found] >= np.float32(_kth(single[found], k))]
    best = found[np.argsort(-single[found], kind="stable")][:k]
    return list(zip(documents[best].tolist(), single[best].tolist(), strict=True))


class MappedArrays:
    """The arrays of `FILES`, read-only and shared by all processes."""

    docs: np.ndarray
    frequencies: np.ndarray
    rows: np.ndarray
    inverses: np.ndarray
    ranks: np.ndarray
    codes: np.ndarray
    code_ends: np.ndarray
    capped: np.ndarray

    def __init__(self, folder: Path) -> None:
        self._maps: list[mmap.mmap] = []
        self._folder = folder
        self.touched = 0
        for name, kind in FILES.items():
            setattr(self, name, self._mapped(folder / f"{name}.bin", kind))
        self.capped = self.capped.reshape(-1, 2)

    def _mapped(self, path: Path, kind: Any) -> np.ndarray:
        with open(path, "rb") as handle:
            if not os.fstat(handle.fileno()).st_size:
                return np.empty(0, dtype=kind)
            self._maps.append(mmap.mmap(handle.fileno(), 0, access=mmap.ACCESS_READ))
        return np.frombuffer(self._maps[-1], dtype=kind)

    def uncapped(self, frequencies: np.ndarray, places: np.ndarray) -> np.ndarray:
        """Frequencies with those that did not fit a byte put right; ``places`` are theirs in `docs`."""
        if not len(self.capped) or not len(frequencies) or frequencies.max() < CAPPED:
            return frequencies
        where = np.flatnonzero(frequencies == CAPPED)
        right = frequencies.astype(np.int64)
        right[where] = self.capped[np.searchsorted(self.capped[:, 0], places[where]), 1]
        return right

    def close(self) -> None:
        """Unmap everything."""
        for name in FILES:
            delattr(self, name)  # a map cannot be closed while an array looks into it
        for mapped in self._maps:
            mapped.close()

    def give_back(self) -> None:
        """Unmap pages when many were read: they stay in the system's cache, out of this process's account."""
        if self.touched > _BUDGET and hasattr(mmap, "MADV_DONTNEED"):
            for mapped in self._maps:
                mapped.madvise(mmap.MADV_DONTNEED)
            self.touched = 0
