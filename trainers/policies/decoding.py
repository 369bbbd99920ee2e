"""Token by token: which token comes next, and when a response is complete.

Each row draws from its own generator, seeded by its turn, and reads only its own logits. So a response
does not depend on what else is in the batch, as far as floating point allows: a matrix product over more
rows may round its last digit differently, which in float32 matters only where two tokens are equally likely to 1e-6
(in 16 bits, to one in a hundred).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor

from icto_gym.wrappers import parse_response
from trainers.policies.drafts import Drafts

DECODED_TOKENS = 1024
"""Most tokens of one pass with guesses, which bounds the memory of their logits."""
THOUGHT = "Thought:"
"""What the thought of a response stands behind."""


class Request(NamedTuple):
    """A prompt to continue."""

    episode: str
    prompt: list[int]
    """Token ids, generation prompt included."""
    temperature: float
    """0: the likeliest token, always."""
    seed: int
    branch: int = 0
    """The first token of the thought is the likeliest but so many (Wang and Zhou, 2024: CoT-decoding)."""


class Engine(Protocol):
    """Computes next-token logits for a batch of rows, of which some end before others."""

    def begin(self, requests: Sequence[Request], room: int) -> Tensor:
        """Read the prompts, to each of which up to ``room`` tokens will be appended.

        Returns:
            Logits of the token that follows each prompt, shape (rows, vocabulary).
        """
        ...

    def advance(self, kept: Sequence[int], written: Sequence[Sequence[int]]) -> Tensor:
        """Read on in each row that goes on.

        Args:
            kept: places of these rows among those of the last call.
            written: all that stands behind each row's prompt by now: its response and, where the engine can, guesses
                at how it goes on. It parts from what was read before where a guess was wrong, and is longer by a
                token at least.

        Returns:
            Logits of what follows each token that was not read before, row after row, shape (tokens, vocabulary).
        """
        ...

    def end(self) -> None:
        """The batch is complete."""
        ...

    def rows_that_fit(self, tokens: int) -> int:
        """How many rows of so many tokens may be computed together."""
        ...

    def forget(self, episode: str) -> None:
        """The episode has ended."""
        ...

    def clear(self) -> None:
        """Drop what is kept between batches, as when the model's weights have changed."""
        ...


class Words:
    """What a tokenizer's tokens mean for ending a response."""

    def __init__(self, tokenizer: Any, end_ids: Sequence[int]) -> None:
        self._tokenizer = tokenizer
        self.end_ids = frozenset(end_ids)
        self._breaks: dict[int, bool] = {}

    def has_line_break(self, token: int) -> bool:
        """True where the token's text holds a line break."""
        if token not in self._breaks:
            self._breaks[token] = "\n" in self._tokenizer.decode([token])
        return self._breaks[token]

    def text(self, ids: Sequence[int]) -> str:
        """The text of a response."""
        return self._tokenizer.decode(ids, skip_special_tokens=True, clean_up_tokenization_spaces=False)

    def action_is_complete(self, ids: Sequence[int]) -> bool:
        """The response holds an ``Action:`` line that has ended; nothing after it would count."""
        if not ids or not self.has_line_break(ids[-1]):
            return False
        ended_lines = self.text(ids).rpartition("\n")[0]
        return parse_response(ended_lines).problem == ""


class Reply:
    """A response being written."""

    def __init__(self, request: Request, words: Words, max_new_tokens: int) -> None:
        self.ids: list[int] = []
        self.tokens: list[int] = []
        """What was generated: `ids`, and the end-of-turn token if it came."""
        self.complete = False
        self.cut = False
        """It is complete only since no more tokens may be generated."""
        self.temperature = request.temperature
        self._words, self._limit = words, max_new_tokens
        self._branch = request.branch
        self._draws: list[float] = []
        if request.temperature > 0:
            generator = torch.Generator().manual_seed(request.seed)
            self._draws = torch.rand(max_new_tokens, generator=generator, dtype=torch.float64).tolist()

    @property
    def written(self) -> int:
        """Tokens generated, the end-of-turn token included."""
        return len(self.tokens)

    def draw(self) -> float:
        """The number in [0, 1) that decides the next token."""
        return self._draws[self.written]

    def branch(self) -> int:
        """The rank of the next token, if this is where the response branches; else 0. It does so once."""
        if not self._branch or self._words.text(self.ids).strip() != THOUGHT:
            return 0
        rank, self._branch = self._branch, 0
        return rank

    @property
    def room(self) -> int:
        """Tokens that may still be generated."""
        return self._limit - self.written

    def take(self, token: int) -> bool:
        """Append a token; False where the response is complete."""
        self.tokens.append(token)
        if token in self._words.end_ids:
            self.complete = True
        else:
            self.ids.append(token)
            ended = self._words.action_is_complete(self.ids)
            self.cut = not ended and not self.room
            self.complete = ended or self.cut
        return not self.complete


def choose_token(logits: Tensor, likeliest: int, reply: Reply) -> int:
    """The next token of a response; logits of shape (vocabulary,), of which the likeliest is known."""
    rank = reply.branch()
    if rank:
        # a stable order breaks ties as argmax does, so no token has two ranks
        order = torch.sort(logits, descending=True, stable=True).indices
        return int(order[min(rank, len(order) - 1)])
    return _sample(logits, reply.temperature, reply.draw()) if reply.temperature > 0 else likeliest


def _sample(logits: Tensor, temperature: float, draw: float) -> int:
    """Inverse of the cumulative distribution at ``draw``, in double precision."""
    cumulative = torch.softmax(logits.double() / temperature, dim=-1).cumsum(dim=-1)
    target = torch.tensor(draw * float(cumulative[-1]), dtype=cumulative.dtype, device=cumulative.device)
    return min(int(torch.searchsorted(cumulative, target, right=True)), len(cumulative) - 1)


def generate(
    engine: Engine, requests: Sequence[Request], words: Words, max_new_tokens: int, drafts: Drafts | None = None
) -> list[Reply]:
    """Continue every prompt to the end of its response; rows that are complete leave the batch.

    Args:
        engine: computes logits.
        requests: the prompts.
        words: what tokens mean.
        max_new_tokens: longest response.
        drafts: guesses at how responses go on, of which each pass tries some; only for an engine that reads rows of
            different lengths. None: one token per row and pass.
    """
    replies = [Reply(request, words, max_new_tokens) for request in requests]
    try:
        logits = engine.begin(requests, max_new_tokens)
        active, guesses = replies, [list[int]() for _ in replies]
        while True:
            right = _take(logits, active, guesses)
            if drafts is not None:
                _remember(drafts, active, guesses, right)
            kept = [row for row, reply in enumerate(active) if not reply.complete]
            if not kept:
                return replies
            active = [active[row] for row in kept]
            room = DECODED_TOKENS // len(active) - 1
            guesses = [drafts.guess(reply.ids, min(room, reply.room - 1)) if drafts else [] for reply in active]
            written = [[*reply.ids, *guess] for reply, guess in zip(active, guesses, strict=True)]
            logits = engine.advance(kept, written)
    finally:
        engine.end()


def _take(logits: Tensor, replies: Sequence[Reply], guesses: Sequence[Sequence[int]]) -> int:
    """Let each response take what follows: as long as its guesses come true, and one token more.

    Returns:
        How many guesses came true.
    """
    likeliest: list[int] = logits.argmax(dim=-1).tolist()
    begin = came = 0
    for reply, guess in zip(replies, guesses, strict=True):
        for place in range(len(guess) + 1):
            token = choose_token(logits[begin + place], likeliest[begin + place], reply)
            right = guess[place : place + 1] == [token]
            came += right
            if not reply.take(token) or not right:
                break
        begin += len(guess) + 1
    return came


def _remember(drafts: Drafts, replies: Sequence[Reply], guesses: Sequence[Sequence[int]], right: int) -> None:
    """Learn from the responses that are complete, and keep count of how well was guessed."""
    drafts.guessed += sum(map(len, guesses))
    drafts.right += right
    for reply in replies:
        if reply.complete:
            drafts.learn(reply.tokens)


class ReencodingEngine:
    """Reads every prompt from its beginning: nothing is kept between turns. Rows are padded on the left."""

    def __init__(self, model: Any) -> None:
        self._model = model
        self._cache: Any = None

    def begin(self, requests: Sequence[Request], room: int) -> Tensor:
        from transformers import DynamicCache

        longest = max(len(request.prompt) for request in requests)
        rows = [[0] * (longest - len(request.prompt)) + request.prompt for request in requests]
        mask = [[0] * (longest - len(request.prompt)) + [1] * len(request.prompt) for request in requests]
        self._mask = torch.tensor(mask, device=self._model.device)
        self._cache = DynamicCache(config=self._model.config)
        return self._forward(torch.tensor(rows, device=self._model.device))

    def advance(self, kept: Sequence[int], written: Sequence[Sequence[int]]) -> Tensor:
        if len(kept) < len(self._mask):
            rows = torch.tensor(kept, device=self._model.device)
            self._mask = self._mask[rows]
            self._cache.batch_select_indices(rows)
        self._mask = torch.cat([self._mask, self._mask.new_ones(len(kept), 1)], dim=1)
        return self._forward(torch.tensor([tokens[-1:] for tokens in written], device=self._model.device))

    def end(self) -> None:
        self._cache = None

    def rows_that_fit(self, tokens: int) -> int:
        return 1 << 30

    def forget(self, episode: str) -> None:
        """Nothing is kept."""

    def clear(self) -> None:
        """Nothing is kept."""

    def _forward(self, ids: Tensor) -> Tensor:
        positions = (self._mask.cumsum(dim=1) - 1).clamp(min=0)[:, -ids.shape[1] :]
        output = self._model(
            input_ids=ids, attention_mask=self._mask, position_ids=positions,
            past_key_values=self._cache, use_cache=True, logits_to_keep=1,
        )  # fmt: skip
        return output.logits[:, -1].float()
