"""Rows of different lengths through a model without padding, over the keys and values of earlier turns.

The new tokens of all rows stand one after another in a single sequence, so that every linear layer sees one
matrix with nothing wasted; only attention knows where a row begins, and reads its past from the `KVCache`.
It enters a Transformers model as an attention implementation of its own, without changes to the model.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

from trainers.policies.decoding import Request
from trainers.policies.kv_cache import WORTH_COPYING, CacheShape, KVCache, Row, common_prefix, shared_beginning

logger = logging.getLogger(__name__)

IMPLEMENTATION = "icto_ragged"
PACKED_TOKENS = 1024
"""Most new tokens in one pass: enough to keep the processor busy, and it bounds the memory of activations."""
QUERY_BLOCK = 512
"""Most queries of one row that attend at once; bounds the memory of the mask."""

_current = threading.local()


class Piece(NamedTuple):
    """The new tokens of one row within a packed sequence."""

    row: Row
    tokens: list[int]


class RaggedPass:
    """One forward pass over packed pieces: where each row's tokens stand, and how they attend."""

    def __init__(self, cache: KVCache, pieces: Sequence[Piece]) -> None:
        self._cache, self._pieces = cache, pieces
        self._starts = [len(piece.row.ids) for piece in pieces]
        self._lengths = [len(piece.tokens) for piece in pieces]
        self._decoding = all(length == 1 for length in self._lengths)
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
        last = torch.tensor(self._lengths).cumsum(0) - 1
        return {
            "input_ids": torch.tensor([ids], device=device),
            "position_ids": torch.tensor([positions], device=device),
            "logits_to_keep": last.to(device),
        }

    def attend(self, layer: int, query: Tensor, key: Tensor, value: Tensor, scaling: float | None) -> Tensor:
        """Store the new keys and values, shape (1, heads, tokens, width), and attend; returns query's shape."""
        if self._decoding:
            return self._attend_single(layer, query, key, value, scaling)
        return self._attend_spans(layer, query, key, value, scaling)

    def commit(self) -> None:
        """The pass is over: the rows hold their new tokens."""
        for piece in self._pieces:
            piece.row.ids += piece.tokens

    def _plan_runs(self) -> None:
        """Rows in neighbouring slots attend together, each masked to its own length."""
        device = self._cache.shape.device
        slots = [piece.row.slot for piece in self._pieces]
        self._slots, self._places = torch.tensor(slots, device=device), torch.tensor(self._starts, device=device)
        self._runs: list[tuple[int, int, int, int, Tensor | None]] = []
        first = 0
        for number in range(1, len(slots) + 1):
            if number == len(slots) or slots[number] != slots[number - 1] + 1:
                self._runs.append((first, number, slots[first], *self._mask(first, number)))
                first = number

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
        """The longest length in a run, this token included, and what hides the rest of the shorter rows."""
        lengths = [start + 1 for start in self._starts[first:end]]
        longest = max(lengths)
        if min(lengths) == longest:
            return longest, None
        places = torch.arange(longest, device=self._places.device)
        hidden = places > self._places[first:end, None]
        mask = torch.zeros(hidden.shape, dtype=self._cache.shape.dtype, device=hidden.device)
        return longest, mask.masked_fill_(hidden, float("-inf"))[:, None, None, :]

    def _attend_single(self, layer: int, query: Tensor, key: Tensor, value: Tensor, scaling: float | None) -> Tensor:
        """One new token per row. Query heads that share a key-value head stand in for query positions."""
        keys, values = self._cache.keys[layer], self._cache.values[layer]
        keys[self._slots, :, self._places] = key[0].transpose(0, 1)
        values[self._slots, :, self._places] = value[0].transpose(0, 1)
        heads, rows, width = query.shape[1:]
        queries = query[0].transpose(0, 1).reshape(rows, key.shape[1], heads // key.shape[1], width)
        parts = [
            scaled_dot_product_attention(
                queries[first:end],
                keys[slot : slot + end - first, :, :longest],
                values[slot : slot + end - first, :, :longest],
                attn_mask=mask,
                scale=scaling,
            )
            for first, end, slot, longest, mask in self._runs
        ]
        return torch.cat(parts).reshape(rows, heads, width)[None]

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
def _ragged_attention(model: Any, running: RaggedPass) -> Iterator[None]:
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


class CachedEngine:
    """Computes only new tokens, over the kept keys and values of each episode (see `decoding.Engine`)."""

    def __init__(self, model: Any, *, max_bytes: int) -> None:
        """Raises:
        NotImplementedError: the model attends in a way that this engine does not reproduce.
        """
        self._model = model
        self.cache = KVCache(cache_shape(model), max_bytes)
        self._rows: list[Row] = []
        self._nameless: list[str] = []
        self.encoded_tokens = 0
        """Tokens computed so far, prompts and responses."""

    def rows_that_fit(self, tokens: int) -> int:
        """How many conversations of so many tokens may be computed together."""
        return self.cache.rows_that_fit(tokens)

    def begin(self, requests: Sequence[Request], room: int) -> Tensor:
        longest = max(len(request.prompt) for request in requests) + room
        self._nameless, names = _row_names(requests)
        self._rows = self.cache.open(names, longest)
        logits: dict[int, Tensor] = {}
        waiting = list(range(len(requests)))
        for number in waiting:
            row, prompt = self._rows[number], requests[number].prompt
            row.ended = False
            # the last token is always computed: its logits are what is asked for
            row.ids = row.ids[: min(common_prefix(row.ids, prompt), len(prompt) - 1)]
        while waiting:
            now, waiting = self._share(requests, waiting)
            for number, row_logits in self._read(now, requests):
                logits[number] = row_logits
        return torch.stack([logits[number] for number in range(len(requests))])

    def advance(self, kept: Sequence[int], tokens: Sequence[int]) -> Tensor:
        self._rows = [self._rows[number] for number in kept]
        order = sorted(range(len(kept)), key=lambda number: self._rows[number].slot)
        logits = self._forward([Piece(self._rows[number], [tokens[number]]) for number in order])
        back = torch.empty(len(order), dtype=torch.long)
        back[torch.tensor(order)] = torch.arange(len(order))
        return logits[back.to(logits.device)]

    def end(self) -> None:
        for name in self._nameless:
            self.cache.forget(name)
        self._rows = []

    def forget(self, episode: str) -> None:
        """The episode has ended."""
        self.cache.forget(episode)

    def clear(self) -> None:
        """Drop what is kept, as when the model's weights have changed."""
        self.cache.clear()

    def _share(self, requests: Sequence[Request], waiting: list[int]) -> tuple[list[int], list[int]]:
        """Copy shared beginnings; rows that would share more with one still to be computed wait for it."""
        now: list[int] = []
        later: list[int] = []
        for number in waiting:
            row, usable = self._rows[number], requests[number].prompt[:-1]
            shared, source = self.cache.best_source(usable, len(row.ids) + WORTH_COPYING)
            wanted = max(shared, len(row.ids)) + WORTH_COPYING
            if any(shared_beginning(usable, requests[other].prompt, wanted) for other in now):
                later.append(number)
                continue
            if source is not None:
                self.cache.copy(source, row, shared)
            now.append(number)
        return now, later

    def _read(self, numbers: Sequence[int], requests: Sequence[Request]) -> Iterator[tuple[int, Tensor]]:
        """Compute what the rows lack, in packs of bounded size; yields each row's logits at its prompt's end."""
        pack: list[Piece] = []
        ending: list[tuple[int, int]] = []
        space = PACKED_TOKENS
        for number in numbers:
            row, rest = self._rows[number], requests[number].prompt[len(self._rows[number].ids) :]
            while rest:
                part, rest = rest[:space], rest[space:]
                pack.append(Piece(row, part))
                space -= len(part)
                if not rest:
                    ending.append((number, len(pack) - 1))
                if space == 0:
                    yield from self._flush(pack, ending)
                    pack, ending, space = [], [], PACKED_TOKENS
        if pack:
            yield from self._flush(pack, ending)

    def _flush(self, pack: list[Piece], ending: list[tuple[int, int]]) -> Iterator[tuple[int, Tensor]]:
        logits = self._forward(pack)
        for number, place in ending:
            yield number, logits[place]

    def _forward(self, pieces: list[Piece]) -> Tensor:
        """Logits after each piece, shape (pieces, vocabulary)."""
        running = RaggedPass(self.cache, pieces)
        with _ragged_attention(self._model, running):
            output = self._model(**running.inputs(), use_cache=False)
        running.commit()
        self.encoded_tokens += sum(len(piece.tokens) for piece in pieces)
        return output.logits[0].float()


def _row_names(requests: Sequence[Request]) -> tuple[list[str], list[str]]:
    """Rows without an episode, or with one that another row has, are named by their place; those names, and all."""
    names: list[str] = []
    nameless: list[str] = []
    for number, request in enumerate(requests):
        name = request.episode
        if not name or name in names:
            name = f"\0{number}"
            nameless.append(name)
        names.append(name)
    return nameless, names


def cache_shape(model: Any) -> CacheShape:
    """What the model keeps per token, read off its configuration."""
    config = model.config.get_text_config()
    heads = config.num_attention_heads
    width = getattr(config, "head_dim", None) or config.hidden_size // heads
    key_heads = getattr(config, "num_key_value_heads", None) or heads
    return CacheShape(config.num_hidden_layers, key_heads, width, model.dtype, model.device)


def reproduces(engine: CachedEngine, model: Any) -> str:
    """Why the engine does not compute what the model does on its own, or ``""`` where it does.

    Two rows are read in two parts each and compared with one plain pass over each of them.
    """
    generator = torch.Generator().manual_seed(0)
    size = model.config.get_text_config().vocab_size
    rows = [torch.randint(size, (length,), generator=generator).tolist() for length in (9, 5)]
    try:
        engine.begin([Request(f"\0check {number}", row[:4], 0.0, 0) for number, row in enumerate(rows)], 8)
        packed = engine.begin([Request(f"\0check {number}", row, 0.0, 0) for number, row in enumerate(rows)], 8)
        packed = engine.advance([0, 1], [3, 4])
        plain = [model(torch.tensor([[*row, 3 + n]], device=model.device)).logits[0, -1] for n, row in enumerate(rows)]
    except (NotImplementedError, TypeError, AttributeError, RuntimeError, IndexError) as error:
        return f"{type(error).__name__}: {error}"
    finally:
        engine.clear()
        engine.encoded_tokens = 0
    difference = float((packed - torch.stack(plain).float()).abs().max())
    scale = max(1.0, float(torch.stack(plain).float().abs().max()))
    tolerance = 1e-3 if model.dtype in (torch.float32, torch.float64) else 0.1
    return "" if difference <= tolerance * scale else f"logits differ by {difference:.2g}"
