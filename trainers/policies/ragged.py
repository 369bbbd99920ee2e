"""Rows of different lengths through a model without padding, over the keys and values of earlier turns.

The new tokens of all rows stand one after another in a single sequence, so that every linear layer sees one
matrix with nothing wasted; only attention knows where a row begins, and reads its past from the `KVCache`.
It enters a Transformers model as an attention implementation of its own, without changes to the model.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

from trainers.policies.kv_cache import KVCache, Row

IMPLEMENTATION = "icto_ragged"
QUERY_BLOCK = 512
"""Most queries of one row that attend at once; bounds the memory of the mask."""

PADS = False
"""Rows with fewer tokens than their neighbours are padded to attend with them: on a GPU, always, for a call of its own
costs more there than what is computed for nothing; on a processor it is the other way round."""

_current = threading.local()


class Piece(NamedTuple):
    """The new tokens of one row within a packed sequence."""

    row: Row
    tokens: list[int]


class Run(NamedTuple):
    """Rows that attend together when few tokens of each are new."""

    slot: int
    """Of the first row; the others follow."""
    rows: int
    offset: int
    """Of the first row's first token in the packed sequence."""
    new: int
    """Tokens of each row."""
    longest: int
    """Keys of the longest row, these tokens included."""
    mask: Tensor | None
    """Added to the scores, (rows, 1, query positions, longest); None: every row sees every key."""
    padding: tuple[Tensor, Tensor] | None
    """Where rows have fewer tokens than others: the place of each in the packed sequence, and which are the row's own,
    shape (rows * new,)."""


class RaggedPass:
    """One forward pass over packed pieces: where each row's tokens stand, and how they attend."""

    def __init__(self, cache: KVCache, pieces: Sequence[Piece], *, decoding: bool = False) -> None:
        """Args:
        cache: holds the rows' earlier tokens, and will hold these.
        pieces: what is new of each row.
        decoding: a few tokens for each of many rows, which attend together, and the logits after all of them are
            wanted; else long pieces, each of which attends by itself, and the logits at their ends.
        """
        self._cache, self._pieces = cache, pieces
        self._starts = [len(piece.row.ids) for piece in pieces]
        self._lengths = [len(piece.tokens) for piece in pieces]
        self._decoding = decoding
        self._pads = PADS or cache.shape.device.type != "cpu"
        if self._decoding:
            self._plan_runs()
        else:
            self._plan_spans()

    def inputs(self) -> dict[str, Tensor]:
        """Token ids and positions, shape (1, tokens), and which tokens' logits are wanted."""
        device = self._cache.shape.device
        ids = [token for piece in self._pieces for token in piece.tokens]
        spans = zip(self._starts, self._lengths, strict=True)
        positions = [position for start, length in spans for position in range(start, start + length)]
        wanted = torch.arange(len(ids)) if self._decoding else torch.tensor(self._lengths).cumsum(0) - 1
        return {
            "input_ids": torch.tensor([ids], device=device),
            "position_ids": torch.tensor([positions], device=device),
            "logits_to_keep": wanted.to(device),
        }

    def attend(self, layer: int, query: Tensor, key: Tensor, value: Tensor, scaling: float | None) -> Tensor:
        """Store the new keys and values, shape (1, heads, tokens, width), and attend; returns query's shape."""
        if self._decoding:
            return self._attend_runs(layer, query, key, value, scaling)
        return self._attend_spans(layer, query, key, value, scaling)

    def commit(self) -> None:
        """The pass is over: the rows hold their new tokens."""
        for piece in self._pieces:
            piece.row.ids += piece.tokens

    def _plan_runs(self) -> None:
        """Rows in neighbouring slots attend together, each masked to its own length."""
        device, lengths = self._cache.shape.device, self._lengths
        slots = [piece.row.slot for piece in self._pieces]
        places = [range(start, start + length) for start, length in zip(self._starts, lengths, strict=True)]
        self._slots = torch.tensor(slots).repeat_interleave(torch.tensor(lengths)).to(device)
        self._places = torch.tensor([place for row in places for place in row], device=device)
        self._runs: list[Run] = []
        first = offset = 0
        for number in range(1, len(slots) + 1):
            beside = number < len(slots) and slots[number] == slots[number - 1] + 1
            if not beside or (lengths[number] != lengths[first] and not self._pads):
                self._runs.append(self._run(first, number, offset))
                offset += sum(lengths[first:number])
                first = number

    def _run(self, first: int, end: int, offset: int) -> Run:
        lengths, new = self._lengths[first:end], max(self._lengths[first:end])
        padding = None
        if min(lengths) < new:
            own, place = torch.tensor(lengths)[:, None], torch.arange(new)
            begins = offset + own.cumsum(0) - own
            index = begins + torch.minimum(place, own - 1)
            device = self._cache.shape.device
            padding = index.flatten().to(device), (place < own).flatten().to(device)
        return Run(self._pieces[first].row.slot, end - first, offset, new, *self._mask(first, end), padding)

    def _plan_spans(self) -> None:
        """Each row attends by itself, long ones in blocks: (row, first query, end, keys seen, causal mask)."""
        self._spans: list[tuple[Row, int, int, int, Tensor]] = []
        device, offset = self._cache.shape.device, 0
        for piece, start, length in zip(self._pieces, self._starts, self._lengths, strict=True):
            for block in range(0, length, QUERY_BLOCK):
                count = min(QUERY_BLOCK, length - block)
                seen = start + block + count
                mask = torch.ones(count, seen, dtype=torch.bool, device=device).tril(seen - count)
                self._spans.append((piece.row, offset + block, offset + block + count, seen, mask))
            offset += length

    def _mask(self, first: int, end: int) -> tuple[int, Tensor | None]:
        """The most keys that a row of a run sees, and what hides those that others do not see from them."""
        count, device, dtype = max(self._lengths[first:end]), self._cache.shape.device, self._cache.shape.dtype
        seen = [start + length for start, length in zip(self._starts, self._lengths, strict=True)]
        longest = max(seen[first:end])
        if count == 1 and min(self._starts[first:end]) + 1 == longest:
            return longest, None
        starts = torch.tensor(self._starts[first:end], device=device)[:, None, None]
        own = torch.arange(count, device=device)[:, None]
        hidden = torch.arange(longest, device=device) > starts + own
        groups = self._cache.shape.groups if count > 1 else 1  # of one token, one mask serves all heads
        mask = torch.zeros(hidden.shape, dtype=dtype, device=device).masked_fill_(hidden, float("-inf"))
        return longest, mask.repeat(1, groups, 1)[:, None]

    def _attend_runs(self, layer: int, query: Tensor, key: Tensor, value: Tensor, scaling: float | None) -> Tensor:
        """A few new tokens per row. Query heads that share a key-value head stand in for query positions."""
        keys, values = self._cache.keys[layer], self._cache.values[layer]
        keys[self._slots, :, self._places] = key[0].transpose(0, 1)
        values[self._slots, :, self._places] = value[0].transpose(0, 1)
        shared = key.shape[1]
        parts: list[Tensor] = []
        for slot, rows, offset, new, longest, mask, padding in self._runs:
            asked = query[0, :, offset : offset + rows * new] if padding is None else query[0, :, padding[0]]
            asked = asked.unflatten(1, (rows, new)).unflatten(0, (shared, -1))
            attended = scaled_dot_product_attention(
                asked.permute(2, 0, 1, 3, 4).flatten(2, 3),
                keys[slot : slot + rows, :, :longest],
                values[slot : slot + rows, :, :longest],
                attn_mask=mask,
                scale=scaling,
            )
            part = attended.unflatten(2, (-1, new)).permute(0, 3, 1, 2, 4).flatten(2, 3).flatten(0, 1)
            parts.append(part if padding is None else part[padding[1]])
        return torch.cat(parts)[None]

    def _attend_spans(self, layer: int, query: Tensor, key: Tensor, value: Tensor, scaling: float | None) -> Tensor:
        """Several new tokens per row: causal among themselves, all of the row's past before them."""
        keys, values = self._cache.keys[layer], self._cache.values[layer]
        attended = []
        for row, first, end, seen, mask in self._spans:
            keys[row.slot, :, seen - (end - first) : seen] = key[0, :, first:end]
            values[row.slot, :, seen - (end - first) : seen] = value[0, :, first:end]
            past = keys[row.slot, :, :seen], values[row.slot, :, :seen]
            attended.append(_attend_masked(query[0, :, first:end], *past, mask, scaling))
        return torch.cat(attended)[None]


def _attend_masked(query: Tensor, keys: Tensor, values: Tensor, mask: Tensor, scaling: float | None) -> Tensor:
    """Queries (heads, n, width) of one row over keys (key-value heads, seen, width); gives (n, heads, width)."""
    heads, count, width = query.shape
    groups = heads // len(keys)
    attended = scaled_dot_product_attention(
        query.reshape(len(keys), groups, count, width),
        keys[:, None].expand(-1, groups, -1, -1),
        values[:, None].expand(-1, groups, -1, -1),
        attn_mask=mask,
        scale=scaling,
    )
    return attended.reshape(heads, count, width).transpose(0, 1)


def _attention(
    module: Any, query: Tensor, key: Tensor, value: Tensor, mask: Any, **options: Any
) -> tuple[Tensor, None]:
    """What Transformers calls in each layer; returns shape (1, tokens, heads, width)."""
    for option in ("sliding_window", "softcap", "position_bias", "s_aux"):
        if options.get(option) is not None:
            raise NotImplementedError(f"attention with {option}")
    running: RaggedPass = _current.value
    return running.attend(module.layer_idx, query, key, value, options.get("scaling")), None


@contextmanager
def ragged_attention(model: Any, running: RaggedPass) -> Iterator[None]:
    """Let the model attend by `RaggedPass` for one pass, and as before afterwards."""
    from transformers import AttentionInterface

    AttentionInterface.register(IMPLEMENTATION, _attention)
    before = [(config, config._attn_implementation) for config in _configurations(model)]
    for config, _ in before:
        config._attn_implementation = IMPLEMENTATION
    _current.value = running
    try:
        yield
    finally:
        _current.value = None
        for config, implementation in before:
            config._attn_implementation = implementation


def _configurations(model: Any) -> list[Any]:
    """Of the model and of its layers, which may have their own: in training they read a copy without dropout."""
    found = [getattr(module, "config", None) for module in model.modules()]
    return list({id(config): config for config in found if hasattr(config, "_attn_implementation")}.values())
