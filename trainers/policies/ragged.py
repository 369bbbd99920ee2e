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
        """Rows in neighbouring slots with as many tokens attend together, each masked to its own length."""
        device, lengths = self._cache.shape.device, self._lengths
        slots = [piece.row.slot for piece in self._pieces]
        places = [range(start, start + length) for start, length in zip(self._starts, lengths, strict=True)]
        self._slots = torch.tensor(slots).repeat_interleave(torch.tensor(lengths)).to(device)
        self._places = torch.tensor([place for row in places for place in row], device=device)
        self._runs: list[Run] = []
        first = offset = 0
        for number in range(1, len(slots) + 1):
            ended = number == len(slots) or (slots[number], lengths[number]) != (slots[number - 1] + 1, lengths[first])
            if ended:
                longest, mask = self._mask(first, number)
                self._runs.append(Run(slots[first], number - first, offset, lengths[first], longest, mask))
                offset += (number - first) * lengths[first]
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
        """The most keys that a row of a run sees, and what hides those that others do not see from them."""
        count, device, dtype = self._lengths[first], self._cache.shape.device, self._cache.shape.dtype
        longest = max(self._starts[first:end]) + count
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
        for slot, rows, offset, new, longest, mask in self._runs:
            asked = query[0, :, offset : offset + rows * new].unflatten(1, (rows, new)).unflatten(0, (shared, -1))
            attended = scaled_dot_product_attention(
                asked.permute(2, 0, 1, 3, 4).flatten(2, 3),
                keys[slot : slot + rows, :, :longest],
                values[slot : slot + rows, :, :longest],
                attn_mask=mask,
                scale=scaling,
            )
            parts.append(attended.unflatten(2, (-1, new)).permute(0, 3, 1, 2, 4).flatten(2, 3).flatten(0, 1))
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

    def advance(self, kept: Sequence[int], tokens: Sequence[Sequence[int]]) -> Tensor:
        self._rows = [self._rows[number] for number in kept]
        order = sorted(range(len(kept)), key=lambda number: self._rows[number].slot)
        pieces = [Piece(self._rows[number], list(tokens[number])) for number in order]
        logits = self._forward(pieces, decoding=True)
        if order == sorted(order):
            return logits
        found = dict(zip(order, logits.split([len(piece.tokens) for piece in pieces]), strict=True))
        return torch.cat([found[number] for number in range(len(order))])

    def retract(self, counts: Sequence[int]) -> None:
        for row, count in zip(self._rows, counts, strict=True):
            row.ids = row.ids[: len(row.ids) - count]

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

    def _forward(self, pieces: list[Piece], *, decoding: bool = False) -> Tensor:
        """Logits after each piece, or after each token when decoding, shape (pieces or tokens, vocabulary)."""
        running = RaggedPass(self.cache, pieces, decoding=decoding)
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
    return CacheShape(config.num_hidden_layers, key_heads, width, model.dtype, model.device, heads // key_heads)


def reproduces(engine: CachedEngine, model: Any) -> str:
    """Why the engine does not compute what the model does on its own, or ``""`` where it does.

    Two rows are read in parts, of which one is taken back, and compared with one plain pass over each of them.
    """
    generator = torch.Generator().manual_seed(0)
    size = model.config.get_text_config().vocab_size
    rows = [torch.randint(size, (length,), generator=generator).tolist() for length in (9, 5)]
    try:
        engine.begin([Request(f"\0check {number}", row[:4], 0.0, 0) for number, row in enumerate(rows)], 8)
        engine.begin([Request(f"\0check {number}", row, 0.0, 0) for number, row in enumerate(rows)], 8)
        engine.advance([0, 1], [[5], [6]])
        engine.retract([1, 0])
        packed = engine.advance([0, 1], [[3], [4, 5]])
        rows = [[*rows[0], 3], [*rows[1], 6, 4, 5]]
        plain = [model(torch.tensor([row], device=model.device)).logits[0] for row in rows]
        plain = [plain[0][-1], plain[1][-2], plain[1][-1]]
    except (NotImplementedError, TypeError, AttributeError, RuntimeError, IndexError) as error:
        return f"{type(error).__name__}: {error}"
    finally:
        engine.clear()
        engine.encoded_tokens = 0
    difference = float((packed - torch.stack(plain).float()).abs().max())
    scale = max(1.0, float(torch.stack(plain).float().abs().max()))
    tolerance = 1e-3 if model.dtype in (torch.float32, torch.float64) else 0.1
    return "" if difference <= tolerance * scale else f"logits differ by {difference:.2g}"
