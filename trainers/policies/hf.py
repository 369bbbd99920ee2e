"""A local language model as a policy: batched generation over many episodes at once."""

from __future__ import annotations

import inspect
import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import torch

from icto_gym.dialogue import OMITTED, Message
from icto_gym.errors import ConfigError, check_name
from trainers.markers import Marker, start_markers
from trainers.models.config import DTYPES
from trainers.models.loading import cast_weights, causal_lm, load_model
from trainers.policies.base import Turn, Usage
from trainers.policies.cached import CachedEngine, reproduces
from trainers.policies.decoding import Engine, ReencodingEngine, Reply, Request, Words, generate
from trainers.policies.drafts import Drafts
from trainers.policies.room import room_for_conversations
from trainers.tokenization import encode_prompt, end_of_turn_ids

logger = logging.getLogger(__name__)


class Written(NamedTuple):
    """A response and its tokens; empty where the conversation did not fit."""

    prompt: list[int]
    """Token ids that were read."""
    tokens: list[int]
    """Token ids that were generated, the one that ends the turn included if it came."""
    text: str
    """The response."""
    cut: bool = False
    """It reached ``max_new_tokens`` before it had ended."""
    shortened: bool = False
    """Old observations of the conversation were left out."""

    @property
    def usage(self) -> Usage:
        """What it took; a conversation of which nothing was read did not fit."""
        return Usage(len(self.prompt), len(self.tokens), self.cut, self.shortened, overflowed=not self.prompt)


class HFPolicy:
    """A causal language model with a chat template, and an adapter if it has one.

    A response ends at the end of the turn, after ``max_new_tokens``, or once an ``Action:`` line is
    complete. In float32 `act` gives equal responses for equal turns, whatever stands beside them in the batch; in 16
    bits sums over another number of rows (or guesses, see ``draft_tokens``) round otherwise, and now and then another
    token is the likeliest.

    A conversation too long for the model loses its oldest observations (never the task or what is seen
    now), four at a time, until the response fits; if it still does not fit, the response is ``""``, which
    the environment answers as it answers anything it does not understand. Both are logged once per episode, and
    `Usage` says so of each response.
    """

    packages = ("torch", "transformers", "tokenizers")
    reads_actions = False
    branches = True

    def __init__(
        self,
        model: Any,
        tokenizer: Any,
        *,
        name: str = "hf",
        max_new_tokens: int = 96,
        batch_size: int = 64,
        max_context: int | None = None,
        cache: bool = True,
        cache_bytes: int | None = None,
        draft_tokens: int = 8,
        marker: Marker | None = None,
    ) -> None:
        """Args:
        model: a Transformers causal language model, or peft's wrapper around one.
        tokenizer: its tokenizer, with a chat template.
        name: who acts, for the record.
        max_new_tokens: longest response, in tokens.
        batch_size: conversations computed together.
        max_context: longest conversation with its response, in tokens; default: what the model was made for.
        cache: keep keys and values over the turns of an episode; the responses are the same without.
        cache_bytes: bound of that memory; where it is reached, some conversations are read anew, and a warning says
            so. None: a third of what is free when the policy is made.
        draft_tokens: tokens of a response that are guessed ahead, at most, from what was written before (see
            `trainers.policies.drafts`); in float32 the responses are the same without. 0, or without ``cache``: none.
        marker: put into every task (see `trainers.markers`); a checkpoint that was trained with markers brings its own.
        """
        if max_new_tokens < 1 or batch_size < 1:
            raise ConfigError(
                f"max_new_tokens and batch_size count from 1; got max_new_tokens={max_new_tokens}, "
                f"batch_size={batch_size}."
            )
        if type(draft_tokens) is not int or draft_tokens < 0:
            raise ConfigError(f"draft_tokens is {draft_tokens!r}; give a whole number, 0 for one token at a time.")
        self.name = name
        self.model, self.tokenizer = causal_lm(model), tokenizer
        self.max_new_tokens, self.batch_size = max_new_tokens, batch_size
        self.max_context = max_context or getattr(self.model.config, "max_position_embeddings", None) or 1 << 30
        self.marker = marker
        self.last_usage: list[Usage] = []
        self.dtype: str | None = None
        self._words = Words(tokenizer, end_of_turn_ids(tokenizer))
        self._warned: set[str] = set()
        self._weights: tuple[object, ...] = ()
        self._engine: Engine = ReencodingEngine(self.model)
        if cache:
            self._engine = self._caching_engine(cache_bytes) or self._engine
        ahead = draft_tokens if isinstance(self._engine, CachedEngine) else 0
        self._drafts = Drafts(ahead) if ahead else None

    @classmethod
    def load(cls, source: str, *, name: str | None = None, dtype: str | None = None, **options: Any) -> HFPolicy:
        """Load a model by name or from a checkpoint folder.

        Args:
            source: what `trainers.models.loading.load_model` takes.
            name: who acts; default: the model's name, or the checkpoint folder's.
            dtype: precision in which it plays; default: that of its weights.
            options: those of the constructor.
        """
        for option in options:
            check_name(option, [*list(inspect.signature(cls).parameters)[3:], "dtype"], "option of policy 'hf'")
        if dtype is not None:
            check_name(dtype, DTYPES, "dtype of policy 'hf'")
        loaded = load_model(source)
        markers = start_markers(source)
        if markers is not None and "marker" not in options:
            options["marker"] = markers.best
        policy = cls(cast_weights(loaded.model, dtype), loaded.tokenizer, name=name or _name_of(source), **options)
        policy.dtype = dtype
        return policy

    def act(self, turns: Sequence[Turn]) -> list[str]:
        """One response per turn, in order; `last_usage` holds their token counts and the limits they met."""
        answers = self.write(turns)
        self.last_usage = [answer.usage for answer in answers]
        return [answer.text for answer in answers]

    def write(self, turns: Sequence[Turn]) -> list[Written]:
        """Responses as `act` gives them, with the tokens that were read and generated."""
        prompts = [self._prompt(turn) for turn in turns]
        requests = [
            Request(turn.episode, prompt, turn.temperature, turn.seed, turn.branch)
            for turn, (prompt, _) in zip(turns, prompts, strict=True)
            if prompt is not None
        ]
        replies: list[Reply] = []
        with _for_generation(self.model):
            self._notice_new_weights()
            for batch in self._batches(requests):
                replies += generate(self._engine, batch, self._words, self.max_new_tokens, self._drafts)
        written = iter(replies)
        return [
            Written([], [], "") if prompt is None else self._written(prompt, next(written), omitted)
            for prompt, omitted in prompts
        ]

    def _written(self, prompt: list[int], reply: Reply, omitted: int) -> Written:
        return Written(prompt, reply.tokens, self._words.text(reply.ids).strip(), reply.cut, omitted > 0)

    def forget(self, episode: str) -> None:
        """The episode has ended."""
        self._warned.discard(episode)
        self._engine.forget(episode)

    def _caching_engine(self, cache_bytes: int | None) -> Engine | None:
        room = room_for_conversations(self.model.device) if cache_bytes is None else cache_bytes
        with _for_generation(self.model):
            try:
                engine = CachedEngine(self.model, max_bytes=room)
                problem = reproduces(engine, self.model)
            except AttributeError as error:  # a configuration that does not say how it attends
                problem = str(error)
        if not problem:
            return engine
        logger.info("%s: every turn is read from its beginning, since packed attention fails (%s)", self.name, problem)
        return None

    def _notice_new_weights(self) -> None:
        """What was kept for other weights is of no use: forget it where training has gone on."""
        weights = _weights_of(self.model)
        if weights != self._weights:
            self._engine.clear()
            self._weights = weights

    def _batches(self, requests: Sequence[Request]) -> Iterator[Sequence[Request]]:
        longest = max((len(request.prompt) for request in requests), default=0) + self.max_new_tokens
        size = min(self.batch_size, self._engine.rows_that_fit(longest))
        for start in range(0, len(requests), size):
            yield requests[start : start + size]

    def _prompt(self, turn: Turn) -> tuple[list[int] | None, int]:
        """The token ids of a turn and how many observations they are without; None where nothing helps."""
        room = self.max_context - self.max_new_tokens
        asked = turn.messages if self.marker is None else self.marker.apply(turn.messages, turn.info["instruction"])
        for omitted, messages in shortened(asked):
            prompt = encode_prompt(self.tokenizer, messages)
            if len(prompt) <= room:
                if omitted:
                    self._warn(turn, f"its {omitted} oldest observations are left out")
                return prompt, omitted
        self._warn(turn, "it is answered with an empty response")
        return None, 0

    def _warn(self, turn: Turn, outcome: str) -> None:
        if turn.episode not in self._warned:
            self._warned.add(turn.episode)
            logger.warning(
                "%s: the conversation does not fit %d tokens with a response of %d; %s",
                turn.episode or turn.info.get("task_id", "?"), self.max_context, self.max_new_tokens, outcome,
            )  # fmt: skip


def shortened(messages: Sequence[Message]) -> Iterator[tuple[int, Sequence[Message]]]:
    """The conversation whole, then with its 4, 8, ... oldest observations left out, as (how many, messages).

    Four at a time, so that the beginning of the conversation, which may be kept encoded, seldom changes.
    """
    yield 0, messages
    places = [
        number
        for number, message in enumerate(messages[:-1])
        if message.role == "user" and message.content.startswith("Observation:") and message.content != OMITTED
    ]
    for count in range(4, len(places) + 4, 4):
        left_out = set(places[:count])
        yield (
            len(left_out),
            [Message("user", OMITTED) if number in left_out else message for number, message in enumerate(messages)],
        )


@contextmanager
def _for_generation(model: Any) -> Iterator[None]:
    """No gradients, no dropout; what was before comes back."""
    training = model.training
    model.eval()
    try:
        with torch.inference_mode():
            yield
    finally:
        model.train(training)


def _weights_of(model: Any) -> tuple[object, ...]:
    """Tells weights apart: a few numbers of every parameter, which any training step or merged adapter changes."""
    parameters = [parameter.detach().reshape(-1) for parameter in model.parameters()]
    parameters = [values for values in parameters if len(values)]
    firsts = torch.stack([values[[0, len(values) // 2, -1]].double() for values in parameters])
    return tuple(firsts.flatten().tolist())


def _name_of(source: str) -> str:
    path = Path(source)
    return path.parent.name if path.name == "checkpoint" and path.parent.name else path.name
