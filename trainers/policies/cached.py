"""Next-token logits of many conversations, over the keys and values that are kept of their earlier turns."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

from trainers.policies.decoding import Request
from trainers.policies.kv_cache import WORTH_COPYING, CacheShape, KVCache, Row, common_prefix, shared_beginning
from trainers.policies.ragged import Piece, RaggedPass, ragged_attention

logger = logging.getLogger(__name__)
PACKED_TOKENS = 1024
"""Most new tokens in one pass: enough to keep the processor busy, and it bounds the memory of activations."""

MOVING = {"dynamic", "longrope"}
"""Kinds of rotary positions whose frequencies depend on the longest row of a pass."""


class CachedEngine:
    """Computes only new tokens, over the kept keys and values of each episode (see `decoding.Engine`)."""

    def __init__(self, model: Any, *, max_bytes: int) -> None:
        """Raises:
        NotImplementedError: the model attends in a way that this engine does not reproduce.
        """
        self._model = model
        self.cache = KVCache(cache_shape(model), max_bytes)
        self._rows: list[Row] = []
        self._prompts: list[int] = []
        """Tokens of each row's prompt."""
        self._nameless: list[str] = []
        self.encoded_tokens = 0
        """Tokens computed so far, prompts and responses."""
        self._warned = False

    def rows_that_fit(self, tokens: int) -> int:
        """How many conversations of so many tokens may be computed together."""
        return self.cache.rows_that_fit(tokens)

    def begin(self, requests: Sequence[Request], room: int) -> Tensor:
        longest = max(len(request.prompt) for request in requests) + room
        self._nameless, names = _row_names(requests)
        self._rows, self._prompts = self.cache.open(names, longest), [len(request.prompt) for request in requests]
        self._warn_of_evictions()
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

    def _warn_of_evictions(self) -> None:
        if self.cache.evictions and not self._warned:
            self._warned = True
            logger.warning(
                "The conversations under way do not all fit %.1f GB of keys and values, so some are read anew every "
                "turn, which takes several times as long; raise the policy's cache_bytes, or have fewer episodes under "
                "way (rollout.batch_size).",
                self.cache.max_bytes / 1e9,
            )

    def advance(self, kept: Sequence[int], written: Sequence[Sequence[int]]) -> Tensor:
        self._rows, self._prompts = [self._rows[n] for n in kept], [self._prompts[n] for n in kept]
        order = sorted(range(len(kept)), key=lambda number: self._rows[number].slot)
        pieces = [self._lacking(self._rows[number], self._prompts[number], written[number]) for number in order]
        logits = self._forward(pieces, decoding=True)
        if order == sorted(order):
            return logits
        found = dict(zip(order, logits.split([len(piece.tokens) for piece in pieces]), strict=True))
        return torch.cat([found[number] for number in range(len(order))])

    def _lacking(self, row: Row, prompt: int, written: Sequence[int]) -> Piece:
        """What a row lacks of the tokens behind its prompt; those that it holds otherwise it forgets."""
        same = common_prefix(row.ids[prompt:], written)
        row.ids = row.ids[: prompt + same]
        return Piece(row, list(written[same:]))

    def end(self) -> None:
        for name in self._nameless:
            self.cache.forget(name)
        self._rows, self._prompts = [], []

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
        with ragged_attention(self._model, running):
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


def _kinds(rope: Any) -> Sequence[Any]:
    """One kind of rotary positions, or those of each kind of layer."""
    return list(rope.values()) if isinstance(rope, dict) else [rope] if isinstance(rope, str) else rope


def reproduces(engine: CachedEngine, model: Any) -> str:
    """Why the engine does not compute what the model does on its own, or ``""`` where it does.

    Two rows are read in parts, one of them otherwise at first, and compared with one plain pass over each of them.
    Positions whose frequencies change with the longest row are refused unseen: what was kept would have had others.
    """
    ropes = {str(kind) for module in model.modules() for kind in _kinds(getattr(module, "rope_type", ()))}
    if ropes & MOVING:
        return f"positions of kind {', '.join(sorted(ropes & MOVING))} change with the longest row"
    generator = torch.Generator().manual_seed(0)
    size = model.config.get_text_config().vocab_size
    rows = [torch.randint(size, (length,), generator=generator).tolist() for length in (9, 5)]
    try:
        engine.begin([Request(f"\0check {number}", row[:4], 0.0, 0) for number, row in enumerate(rows)], 8)
        engine.begin([Request(f"\0check {number}", row, 0.0, 0) for number, row in enumerate(rows)], 8)
        engine.advance([0, 1], [[5], [6]])
        packed = engine.advance([0, 1], [[3], [6, 4, 5]])
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
