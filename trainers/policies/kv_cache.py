"""Keys and values kept over the turns of many episodes, in bounded memory.

One buffer per layer holds every row side by side, shape (slots, key-value heads, capacity, head width), so
a decoding step reads it as it lies: nothing is concatenated or gathered. A row knows which tokens its slot
holds; a new prompt keeps the longest prefix that agrees and computes only the rest. A row that starts
afresh copies what it shares with any other row, so the instruction, the worked example, and the first
observation of a task that is played several times, are computed once.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

logger = logging.getLogger(__name__)

WORTH_COPYING = 16
"""Tokens; a shorter shared beginning is computed again."""
FIRST_CAPACITY = 1024
"""Tokens per row to begin with, where memory allows it."""
ENDED_KEPT = 4
"""So many rows of ended episodes stay, as sources for further attempts at the same tasks."""


@dataclass(eq=False)
class Row:
    """One conversation in the cache."""

    episode: str
    slot: int
    ids: list[int] = field(default_factory=list)
    """Tokens whose keys and values are in the slot."""
    ended: bool = False
    """The episode is over; the row stays as a source of shared beginnings until its room is needed."""
    last_used: int = 0


@dataclass(frozen=True)
class CacheShape:
    """What one token of one row takes."""

    layers: int
    heads: int
    """Key-value heads."""
    width: int
    """Numbers per head."""
    dtype: torch.dtype
    device: torch.device
    groups: int = 1
    """Query heads that share a key-value head."""

    @property
    def bytes_per_token(self) -> int:
        """Keys and values of all layers."""
        return 2 * self.layers * self.heads * self.width * self.dtype.itemsize


class KVCache:
    """The rows of many episodes; see the module's text."""

    def __init__(self, shape: CacheShape, max_bytes: int) -> None:
        self.shape, self.max_bytes = shape, max_bytes
        self.keys: list[Tensor] = []
        self.values: list[Tensor] = []
        self.slots = self.capacity = 0
        self.evictions = self.reused_tokens = 0
        self._rows: dict[str, Row] = {}
        self._clock = 0

    def __len__(self) -> int:
        return len(self._rows)

    @property
    def bytes(self) -> int:
        """Memory of the buffers."""
        return self.slots * self.capacity * self.shape.bytes_per_token

    def rows_that_fit(self, tokens: int) -> int:
        """How many rows of so many tokens the memory bound allows; at least one, or nothing could be done."""
        return max(1, self._slots_of(_tight(tokens)))

    def open(self, episodes: Sequence[str], tokens: int) -> list[Row]:
        """The rows of these episodes, each with room for so many tokens.

        Rows of other episodes give way where the memory bound wants it: first those whose episode has
        ended, the longest unused first, then the most lately used, which will be asked for last.
        """
        self._clock += 1
        wanted = set(episodes)
        for episode in wanted & self._rows.keys():
            self._rows[episode].last_used = self._clock
        self._make_room(wanted, tokens)
        return [self._rows.get(episode) or self._add(episode) for episode in episodes]

    def forget(self, episode: str) -> None:
        """The episode has ended."""
        if episode in self._rows:
            self._rows[episode].ended = True

    def clear(self) -> None:
        """Drop everything, the memory too."""
        self._rows.clear()
        self.keys, self.values, self.slots, self.capacity = [], [], 0, 0

    def best_source(self, prompt: Sequence[int], at_least: int) -> tuple[int, Row | None]:
        """The row that shares the longest beginning with a prompt, and how many tokens that is (0: too few)."""
        best, source = 0, None
        for row in self._rows.values():
            shared = shared_beginning(prompt, row.ids, max(at_least, best + 1))
            if shared:
                best, source = shared, row
        return best, source

    def copy(self, source: Row, target: Row, tokens: int) -> None:
        """Give a row the first tokens of another."""
        self.reused_tokens += tokens
        for buffer in (*self.keys, *self.values):
            buffer[target.slot, :, :tokens] = buffer[source.slot, :, :tokens]
        target.ids = source.ids[:tokens]

    def _add(self, episode: str) -> Row:
        taken = {row.slot for row in self._rows.values()}
        slot = next(number for number in range(self.slots) if number not in taken)
        self._rows[episode] = Row(episode, slot, last_used=self._clock)
        return self._rows[episode]

    def _make_room(self, wanted: set[str], tokens: int) -> None:
        """Drop rows until the wanted ones fit, then make the buffers large enough."""
        self._drop_long_and_ended(wanted, tokens)
        others = [row for row in self._rows.values() if row.episode not in wanted]
        capacity = self._capacity_for(tokens, len(wanted) + sum(not row.ended for row in others))
        most = max(len(wanted), self._slots_of(capacity))
        others.sort(key=lambda row: (not row.ended, row.last_used if row.ended else -row.last_used))
        while len(wanted) + len(others) > most:
            self._drop(others.pop(0))
        needed = len(wanted) + len(others)
        too_large = self.bytes > max(self.max_bytes, needed * capacity * self.shape.bytes_per_token)
        if needed > self.slots or capacity > self.capacity or self.slots > most or too_large:
            slots = min(most, max(needed + ENDED_KEPT, self.slots))
            roomy = self.max_bytes // (slots * self.shape.bytes_per_token)  # moving costs more than room does
            self._resize(slots, max(capacity, min(FIRST_CAPACITY, roomy)))

    def _drop_long_and_ended(self, wanted: set[str], tokens: int) -> None:
        """Of ended episodes few rows stay, and of the others none so long that the wanted ones would not fit beside."""
        for row in self._rows.values():
            if row.episode in wanted:
                row.ids = row.ids[:tokens]
        others = [row for row in self._rows.values() if row.episode not in wanted]
        ended = sorted((row for row in others if row.ended), key=lambda row: row.last_used)
        room = max(_tight(tokens), self._slots_of(1) // max(1, len(wanted)) // 64 * 64)
        for row in [*ended[:-ENDED_KEPT], *(row for row in others if len(row.ids) > room)]:
            if row.episode in self._rows:
                self._drop(row)

    def _drop(self, row: Row) -> None:
        self.evictions += not row.ended
        del self._rows[row.episode]

    def _capacity_for(self, tokens: int, rows: int) -> int:
        """Tokens per row: with room to grow, or where so many rows would not fit then, without."""
        roomy = max(_rounded(tokens), self.capacity)
        tight = _tight(max([tokens, *(len(row.ids) for row in self._rows.values())]))
        return roomy if self._slots_of(roomy) >= min(rows, max(1, self._slots_of(tight))) else tight

    def _slots_of(self, capacity: int) -> int:
        return self.max_bytes // (capacity * self.shape.bytes_per_token)

    def _resize(self, slots: int, capacity: int) -> None:
        """Move every row to buffers of a new size, layer by layer, slots numbered anew from 0."""
        rows = sorted(self._rows.values(), key=lambda row: row.slot)
        shape = self.shape
        if not self.keys:
            empty = torch.empty(0, shape.heads, 0, shape.width, dtype=shape.dtype, device=shape.device)
            self.keys, self.values = [empty] * shape.layers, [empty] * shape.layers
        for buffers in (self.keys, self.values):
            for layer, old in enumerate(buffers):
                new = _zeros((slots, shape.heads, capacity, shape.width), shape)
                for number, row in enumerate(rows):
                    new[number, :, : len(row.ids)] = old[row.slot, :, : len(row.ids)]
                buffers[layer] = new
        for number, row in enumerate(rows):
            row.slot = number
        self.slots, self.capacity = slots, capacity
        logger.debug("key-value cache: %d slots of %d tokens, %.0f MB", slots, capacity, self.bytes / 1e6)


def _zeros(size: tuple[int, ...], shape: CacheShape) -> Tensor:
    """A buffer of zeros (masked keys must be numbers); on a processor its pages are taken only when written."""
    if shape.device.type != "cpu":
        return torch.zeros(size, dtype=shape.dtype, device=shape.device)
    data = np.zeros(math.prod(size) * shape.dtype.itemsize, dtype=np.uint8)
    return torch.from_numpy(data).view(shape.dtype).view(size)


def shared_beginning(first: Sequence[int], second: Sequence[int], at_least: int) -> int:
    """`common_prefix`, or 0 where it is shorter than ``at_least``; that is found out quickly."""
    if len(second) < at_least or first[:at_least] != second[:at_least]:
        return 0
    return common_prefix(first, second)


def common_prefix(first: Sequence[int], second: Sequence[int]) -> int:
    """How many tokens two sequences share at their beginning."""
    low, high = 0, min(len(first), len(second))
    while low < high:  # comparing slices is quick, so halve the question
        middle = (low + high + 1) // 2
        if first[low:middle] == second[low:middle]:
            low = middle
        else:
            high = middle - 1
    return low


def _tight(tokens: int) -> int:
    return max(256, -(-tokens // 64) * 64)


def _rounded(tokens: int) -> int:
    """Capacities grow by half at least, so that buffers seldom move."""
    capacity = 256
    while capacity < tokens:
        capacity = -(-capacity * 3 // 2 // 64) * 64
    return capacity
