"""The shop's search engine: BM25 with the arithmetic of the original's Lucene index.

Single-precision scores, document lengths rounded to one byte, ties by product code: without these the order of near
equal products differs in most lists.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Sequence
from functools import lru_cache
from typing import Protocol

import numpy as np

from icto_gym.envs.webshop.words import analyze

K1, B = np.float32(0.9), np.float32(0.4)
REMEMBERED_QUERIES, LONGEST_REMEMBERED = 2048, 1000
LONGEST_QUERY = 50_000
"""Letters of a query that count. The original breaks at 1,024 different words."""


class SearchEngine(Protocol):
    """What the shop asks: the ids of the best ``k`` products, best first."""

    def search(self, query: str, k: int) -> list[str]: ...


def rounded_length(length: int) -> int:
    """A document length as Lucene's one-byte norm keeps it: exact below 40, then four significant bits."""
    if length < 40:
        return length
    rest = length - 24
    shift = max(rest.bit_length() - 4, 0)
    return 24 + (rest >> shift << shift)


class BM25Engine:
    """An inverted index over product texts.

    Args:
        ids: product codes.
        texts: one text per product, in the same order.
    """

    def __init__(self, ids: Sequence[str], texts: Iterable[str]) -> None:
        order = sorted(range(len(ids)), key=lambda i: ids[i])
        rank = {old: new for new, old in enumerate(order)}
        self._ids = [ids[i] for i in order]
        postings: dict[str, tuple[list[int], list[int]]] = {}
        lengths = np.zeros(len(ids), dtype=np.int64)
        for number, text in enumerate(texts):
            counts = Counter(analyze(text))
            lengths[rank[number]] = sum(counts.values())
            for term, count in counts.items():
                documents, frequencies = postings.setdefault(term, ([], []))
                documents.append(rank[number])
                frequencies.append(count)
        self._index = _weigh(postings, lengths)
        self._remembered = lru_cache(maxsize=REMEMBERED_QUERIES)(self._codes)  # turning a page asks the same again

    def search(self, query: str, k: int) -> list[str]:
        """The codes of the best ``k`` products that share a term with the query, best first."""
        if len(query) > LONGEST_REMEMBERED:
            return list(self._codes(query, k))
        return list(self._remembered(query, k))

    def _codes(self, query: str, k: int) -> tuple[str, ...]:
        return tuple(self._ids[i] for i, _ in self._ranked(query, k))

    def scored(self, query: str, k: int) -> list[tuple[str, float]]:
        """`search` with the scores."""
        return [(self._ids[i], score) for i, score in self._ranked(query, k)]

    def _ranked(self, query: str, k: int) -> list[tuple[int, float]]:
        scores = np.zeros(len(self._ids), dtype=np.float64)
        for term, count in Counter(analyze(query[:LONGEST_QUERY])).items():
            if term in self._index:
                documents, idf, saturation = self._index[term]
                weight = np.float32(count) * idf
                scores[documents] += weight - weight / saturation
        single = scores.astype(np.float32)
        found = np.flatnonzero(single)
        if len(found) > k:
            cut = np.partition(single[found], len(found) - k)[len(found) - k]
            found = found[single[found] >= cut]
        best = found[np.argsort(-single[found], kind="stable")][:k]
        return list(zip(best.tolist(), single[best].tolist(), strict=True))


def inverse_lengths(lengths: np.ndarray) -> np.ndarray:
    """1 / (k1 (1 - b + b len/avg)) per document, ``len`` rounded to one byte; empty ones do not count in ``avg``."""
    one = np.float32(1)
    filled = int((lengths > 0).sum())
    average = np.float32(lengths.sum() / max(filled, 1)) if filled else one
    distinct, place = np.unique(lengths, return_inverse=True)
    rounded = np.array([rounded_length(int(n)) for n in distinct], dtype=np.float32)[place]
    return one / (K1 * ((one - B) + B * rounded / average))


_Postings = tuple[np.ndarray, np.float32, np.ndarray]


def _weigh(postings: dict[str, tuple[list[int], list[int]]], lengths: np.ndarray) -> dict[str, _Postings]:
    """Per term: documents (ascending), idf, and 1 + tf / (k1 (1 - b + b len/avg)) per document."""
    one = np.float32(1)
    filled = int((lengths > 0).sum())
    inverse = inverse_lengths(lengths)
    index = {}
    for term, (documents, frequencies) in postings.items():
        where = np.array(documents, dtype=np.int32)
        tf = np.array(frequencies, dtype=np.float32)
        by_code = np.argsort(where)
        where, tf = where[by_code], tf[by_code]
        idf = np.float32(math.log(1 + (filled - len(where) + 0.5) / (len(where) + 0.5)))
        index[term] = (where, idf, one + tf * inverse[where])
    return index
