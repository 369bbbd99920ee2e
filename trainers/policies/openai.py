"""Any endpoint that speaks the OpenAI chat protocol, as a policy."""

from __future__ import annotations

import logging
import os
import random
import threading
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

from icto_gym.dialogue import Message
from icto_gym.errors import BackendError, ConfigError, check_name, require
from trainers.policies.base import Turn, Usage

logger = logging.getLogger(__name__)

LONGEST_PAUSE = 60.0
"""Seconds; no wait between two tries is longer."""


class OpenAIPolicy:
    """Asks an endpoint, many conversations at once, in order.

    Busy (429), broken (5xx), unreachable, slow and garbled answers are tried again with pauses that double;
    a busy endpoint's own wish (``Retry-After``) is heeded, and by every thread. Any other refusal ends the
    run at once. A conversation too long for the model is answered with ``""`` and a warning.

    The key is read from the environment, never from a setting, and appears in no log, error or record.
    """

    packages = ("openai",)
    reads_actions = False

    def __init__(
        self,
        model: str,
        *,
        name: str | None = None,
        base_url: str | None = None,
        key_variable: str = "OPENAI_API_KEY",
        max_new_tokens: int = 256,
        limit_field: str = "max_tokens",
        concurrency: int = 16,
        timeout: float = 60.0,
        retries: int = 6,
        pause: float = 1.0,
        extra_body: Mapping[str, Any] | None = None,
    ) -> None:
        """Args:
        model: the name the endpoint knows.
        name: who acts, for the record; default: the model's name.
        base_url: where the endpoint is; default: ``$OPENAI_BASE_URL``, else OpenAI's own.
        key_variable: the environment variable that holds the key; endpoints of one's own may need none.
        max_new_tokens: longest response, in tokens.
        limit_field: how the endpoint calls that limit, ``"max_tokens"`` or ``"max_completion_tokens"``.
        concurrency: conversations under way at once.
        timeout: seconds to wait for one answer.
        retries: further tries after the first.
        pause: seconds before the first further try; then twice as long each time, at most a minute.
        extra_body: further fields of the request, such as ``{"top_p": 0.9}``.
        """
        check_name(limit_field, ("max_tokens", "max_completion_tokens"), "limit_field")
        if concurrency < 1 or retries < 0 or timeout <= 0 or max_new_tokens < 1:
            raise ConfigError(
                "concurrency and max_new_tokens count from 1, retries from 0, and timeout is above 0; got "
                f"concurrency={concurrency}, max_new_tokens={max_new_tokens}, retries={retries}, timeout={timeout}."
            )
        self.name, self.model = name or model, model
        self.usage = Usage(0, 0)
        """Tokens of all answers so far, where the endpoint counts them."""
        self.last_usage: list[Usage | None] = []
        self._openai = require("openai", extra="openai")
        base_url = base_url or os.environ.get("OPENAI_BASE_URL") or None
        self._key = _key(key_variable, base_url)
        self._client = self._openai.OpenAI(api_key=self._key, base_url=base_url, timeout=timeout, max_retries=0)
        self._fields = {limit_field: max_new_tokens}
        self._extra_body = dict(extra_body or {})
        self._concurrency, self._retries, self._pause = concurrency, retries, pause
        self._resume_at, self._lock = 0.0, threading.Lock()

    def act(self, turns: Sequence[Turn]) -> list[str]:
        """One response per turn, in order.

        Raises:
            BackendError: the endpoint refused, or gave no usable answer after all tries.
        """
        pool = ThreadPoolExecutor(max_workers=max(1, min(self._concurrency, len(turns))))
        try:
            answers = list(pool.map(self._ask, turns))
        finally:
            pool.shutdown(wait=True, cancel_futures=True)
        self.last_usage = [answer.usage for answer in answers]
        counted = [usage for usage in self.last_usage if usage is not None]
        self.usage = Usage(
            self.usage.prompt_tokens + sum(usage.prompt_tokens for usage in counted),
            self.usage.response_tokens + sum(usage.response_tokens for usage in counted),
        )
        return [answer.text for answer in answers]

    def close(self) -> None:
        """Close the connections."""
        self._client.close()

    def _ask(self, turn: Turn) -> _Answer:
        """Try, and try again where that may help."""
        number = 0
        while True:
            self._wait_for_endpoint()
            answer = self._try(turn)
            if isinstance(answer, _Answer):
                return answer
            if not answer.passing:
                raise BackendError(f"{self._where()} refused: {answer.reason}")
            if number == self._retries:
                raise BackendError(
                    f"{self._where()} gave no usable answer in {number + 1} tries; the latest: {answer.reason} "
                    "What was finished is stored: run again when the endpoint is well."
                )
            self._back_off(number, answer)
            number += 1

    def _try(self, turn: Turn) -> _Answer | _Trouble:
        """One request. Errors are told as text without the key, and never chained: their causes may hold it."""
        try:
            completion = self._client.chat.completions.create(
                model=self.model,
                messages=[_encodable(message) for message in turn.messages],
                temperature=turn.temperature,
                seed=turn.seed,
                extra_body=self._extra_body,
                **self._fields,
            )
            return _read(completion)
        except self._openai.APIStatusError as error:
            return self._refusal(error, turn)
        except self._openai.APIConnectionError as error:  # timeouts are among its children
            return _Trouble(self._redacted(f"{type(error).__name__}: {error.__cause__ or error}"), passing=True)
        except (self._openai.APIError, ValueError, TypeError, AttributeError, IndexError) as error:
            return _Trouble(self._redacted(f"the answer could not be read ({error!r:.200})"), passing=True)

    def _refusal(self, error: Any, turn: Turn) -> _Answer | _Trouble:
        status, text = error.status_code, self._redacted(f"HTTP {error.status_code}: {error.message!s:.500}")
        if status in (400, 413, 422) and _too_long(error):
            logger.warning("%s: the conversation is too long for %s; answered with ''", turn.episode, self.model)
            return _Answer("", None)
        if status in (408, 429) or status >= 500:
            return _Trouble(text, passing=True, wish=_retry_after(error.response.headers))
        return _Trouble(text, passing=False)

    def _back_off(self, number: int, trouble: _Trouble) -> None:
        """Wait, the longer the more tries failed; a wish of the endpoint's holds for every thread."""
        seconds = min(LONGEST_PAUSE, self._pause * 2.0**number) * random.uniform(0.75, 1.0)
        if trouble.wish is not None:
            seconds = min(LONGEST_PAUSE, max(seconds, trouble.wish))
            with self._lock:
                self._resume_at = max(self._resume_at, time.monotonic() + seconds)
        logger.warning("%s: %s; trying again in %.1f s", self._where(), trouble.reason, seconds)
        time.sleep(seconds)

    def _wait_for_endpoint(self) -> None:
        with self._lock:
            seconds = self._resume_at - time.monotonic()
        if seconds > 0:
            time.sleep(seconds)

    def _where(self) -> str:
        url = self._client.base_url
        return self._redacted(
            f"{self.model} at {url.scheme}://{url.host}{f':{url.port}' if url.port else ''}{url.path}"
        )

    def _redacted(self, text: str) -> str:
        return text.replace(self._key, "[key]")


class _Answer(NamedTuple):
    text: str
    usage: Usage | None


class _Trouble(NamedTuple):
    """Why there is no answer."""

    reason: str
    passing: bool
    """Trying again may help."""
    wish: float | None = None
    """Seconds the endpoint asks us to wait."""


def _key(variable: str, base_url: str | None) -> str:
    key = os.environ.get(variable, "").strip()  # a key read from a file often brings its line break
    if not (key.isascii() and key.isprintable()):
        raise ConfigError(f"The environment variable {variable} holds characters that no key has; set it again.")
    if not key and base_url is None:
        raise ConfigError(
            f"The environment variable {variable} holds no key. Set it, or name an endpoint of your own "
            "with base_url or OPENAI_BASE_URL."
        )
    return key or "no-key-needed"


def _encodable(message: Message) -> dict[str, str]:
    """Lone surrogates have no UTF-8 form; they become question marks."""
    return {"role": message.role, "content": message.content.encode("utf-8", "replace").decode("utf-8")}


def _read(completion: Any) -> _Answer:
    message = completion.choices[0].message
    text = message.content
    if text is not None and not isinstance(text, str):
        raise ValueError(f"content is {type(text).__name__}, not text")
    usage = getattr(completion, "usage", None)
    if usage is None or not isinstance(usage.prompt_tokens, int) or not isinstance(usage.completion_tokens, int):
        return _Answer(text or "", None)
    return _Answer(text or "", Usage(usage.prompt_tokens, usage.completion_tokens))


def _too_long(error: Any) -> bool:
    words = f"{getattr(error, 'code', '')} {error.message}".lower()
    return any(phrase in words for phrase in ("context_length", "context length", "maximum context", "too many tokens"))


def _retry_after(headers: Mapping[str, str]) -> float | None:
    try:
        return max(0.0, float(headers["retry-after"]))
    except (KeyError, ValueError):  # absent, or a date: then our own pauses do
        return None
