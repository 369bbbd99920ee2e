"""Any endpoint that speaks the OpenAI chat protocol, as a policy."""

from __future__ import annotations

import logging
import math
import os
import threading
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import Future
from datetime import datetime, timezone
from email.utils import parsedate_to_datetime
from typing import Any, NamedTuple

from icto_gym.dialogue import Message
from icto_gym.errors import BackendError, ConfigError, check_name, require
from icto_gym.wrappers import parse_response
from trainers.policies.base import Answer, Turn, Usage
from trainers.policies.gate import Gate, Pass
from trainers.policies.threads import LeftThreads

logger = logging.getLogger(__name__)

AWAY = (502, 504)
"""What a proxy says when nobody is behind it."""


class OpenAIPolicy:
    """Asks an endpoint, hundreds of conversations at once; each answer is passed on when it comes.

    A busy endpoint (429, 503) slows every conversation, for as long as it asks (``Retry-After``); one that is away
    (no connection, 502, 504) pauses them all but for one that tries; see `trainers.policies.gate`. When it has
    answered nobody for ``patience`` seconds the run ends. An answer that is broken (other 5xx), late or garbled
    is asked for again, that conversation waiting alone. Any other refusal ends the run at once. A conversation too
    long for the model is answered with ``""`` and a warning.

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
        concurrency: int = 64,
        timeout: float = 60.0,
        retries: int = 6,
        pause: float = 1.0,
        patience: float = 600.0,
        extra_body: Mapping[str, Any] | None = None,
    ) -> None:
        """Args:
        model: the name the endpoint knows.
        name: who acts, for the record; default: the model's name.
        base_url: where the endpoint is; default: ``$OPENAI_BASE_URL``, else OpenAI's own.
        key_variable: the environment variable that holds the key; endpoints of one's own may need none.
        max_new_tokens: longest response, in tokens.
        limit_field: how the endpoint calls that limit, ``"max_tokens"`` or ``"max_completion_tokens"``.
        concurrency: requests under way at once, at most.
        timeout: seconds to wait for one answer.
        retries: further tries of a question whose answers are broken, late or garbled.
        pause: seconds before the first further try; then twice as long each time, at most a minute.
        patience: seconds for which an endpoint may be busy or away, answering nobody, before the run ends.
        extra_body: further fields of the request, such as ``{"top_p": 0.9}``.
        """
        check_name(limit_field, ("max_tokens", "max_completion_tokens"), "limit_field")
        if concurrency < 1 or retries < 0 or timeout <= 0 or max_new_tokens < 1 or not (pause >= 0 and patience >= 0):
            raise ConfigError(
                "concurrency and max_new_tokens count from 1, retries, pause and patience from 0, and timeout is above "
                f"0; got concurrency={concurrency}, max_new_tokens={max_new_tokens}, retries={retries}, "
                f"pause={pause}, patience={patience}, timeout={timeout}."
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
        self._retries, self._patience, self._lock = retries, patience, threading.Lock()
        self._gate = Gate(concurrency, pause, patience)
        self._threads = LeftThreads(concurrency)
        self._passes: dict[str, Pass] = {}

    def act(self, turns: Sequence[Turn]) -> list[str]:
        """One response per turn, in order.

        Raises:
            BackendError: the endpoint refused, or gave no usable answer.
        """
        futures = [self._threads.submit(self._ask, turn, self._gate.issue()) for turn in turns]
        try:
            answers = [future.result() for future in futures]
        except BaseException as error:
            for future in futures:
                future.cancel()
            self._gate.stop(str(error) or f"The questions were left ({type(error).__name__}).")
            raise
        self.last_usage = [answer.usage for answer in answers]
        return [answer.text for answer in answers]

    def submit(self, turn: Turn) -> Future[Answer]:
        """The response when it comes; its errors are those of `act`."""
        ticket = self._passes[turn.episode] = self._gate.issue()
        return self._threads.submit(self._ask, turn, ticket)

    def forget(self, episode: str) -> None:
        """Nobody waits for this episode's answer any more."""
        ticket = self._passes.pop(episode, None)
        if ticket is not None:
            self._gate.void(ticket, f"Nobody waits for the answer to {episode} any more.")

    def close(self) -> None:
        """Close the connections."""
        self._gate.stop("The policy was closed.")
        self._threads.shutdown(cancel_futures=True)
        self._client.close()

    def _ask(self, turn: Turn, ticket: Pass) -> Answer:
        """Try, and try again where that may help."""
        try:
            answer = self._persist(turn, ticket)
        except BackendError as error:
            if not ticket.void:
                self._gate.stop(str(error))  # whoever waits is told the same
            raise
        finally:
            self._gate.take_back(ticket)
        with self._lock:
            self._count(answer.usage)
        return answer

    def _persist(self, turn: Turn, ticket: Pass) -> Answer:
        tries, begin = 0, time.monotonic()
        while True:
            self._gate.enter(ticket)
            answer = _LOST
            try:
                answer = self._try(turn)
            finally:
                pause = self._leave_gate(ticket, answer)
            tries += 1
            if isinstance(answer, Answer):
                return answer
            if not answer.passing:
                raise BackendError(f"{self._where()} refused: {answer.reason}")
            if answer.shared:
                self._check_patience(answer, tries, time.monotonic() - begin)
                if pause:
                    logger.warning("%s: %s; all pause %.1f s", self._where(), answer.reason, pause)
                continue
            if tries > self._retries:
                raise BackendError(
                    f"{self._where()} gave no usable answer in {tries} tries; the latest: {answer.reason.rstrip('.')}. "
                    "Run the same command again when the endpoint is well."
                )
            seconds = self._gate.backoff(tries - 1)
            logger.warning("%s: %s; asking again in %.1f s", self._where(), answer.reason, seconds)
            self._gate.rest(ticket, seconds)

    def _leave_gate(self, ticket: Pass, answer: Answer | _Trouble) -> float:
        """Say at the gate how it went; seconds that all pause."""
        if isinstance(answer, _Trouble) and answer.shared:
            wish = None if answer.wish is None else min(answer.wish, self._patience)  # a longer one ends the run
            return self._gate.turned_away(ticket, away=answer.away, wish=wish)
        if isinstance(answer, Answer):
            self._gate.answered()
        else:
            self._gate.spoiled()
        return 0.0

    def _check_patience(self, trouble: _Trouble, tries: int, seconds: float) -> None:
        """End the run where the endpoint answers nobody, or will not answer this question, for too long."""
        silent, again = self._gate.silent(), "Run the same command again when the endpoint is well."
        if trouble.wish is not None and trouble.wish > self._patience:
            raise BackendError(
                f"{self._where()} asks to wait {trouble.wish:.0f} s, more than patience={self._patience:g}: "
                f"{trouble.reason.rstrip('.')}. {again}"
            )
        if silent >= self._patience or (tries > self._retries and seconds >= self._patience):
            did = "answered nobody" if silent >= self._patience else "turned one question away"
            raise BackendError(
                f"{self._where()} {did} for {max(silent, self._patience):.0f} s "
                f"(patience={self._patience:g}); the latest: {trouble.reason.rstrip('.')}. {again}"
            )

    def _count(self, usage: Usage | None) -> None:
        if usage is not None:
            self.usage = Usage(
                self.usage.prompt_tokens + usage.prompt_tokens, self.usage.response_tokens + usage.response_tokens
            )

    def _try(self, turn: Turn) -> Answer | _Trouble:
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
            reason = self._redacted(f"{type(error).__name__}: {error.__cause__ or error}")
            late = isinstance(error, self._openai.APITimeoutError)
            away = not late or type(error.__cause__).__name__ == "ConnectTimeout"
            return _Trouble(reason, passing=True, shared=away, away=away)
        except (self._openai.APIError, ValueError, TypeError, AttributeError, IndexError) as error:
            return _Trouble(f"the answer could not be read ({self._redacted(repr(error)):.200})", passing=True)

    def _refusal(self, error: Any, turn: Turn) -> Answer | _Trouble:
        status, text = error.status_code, f"HTTP {error.status_code}: {self._redacted(str(error.message)):.500}"
        if status in (400, 413, 422) and _too_long(error):
            logger.warning("%s: the conversation is too long for %s; answered with ''", turn.episode, self.model)
            return Answer("", Usage(0, 0, overflowed=True))
        if getattr(error, "code", None) == "insufficient_quota":  # a 429 that no waiting mends
            return _Trouble(text, passing=False)
        if status in (408, 429) or status >= 500:
            away, wish = status in AWAY, _retry_after(error.response.headers)
            return _Trouble(text, passing=True, shared=away or status in (429, 503), away=away, wish=wish)
        return _Trouble(text, passing=False)

    def _where(self) -> str:
        url = self._client.base_url
        return self._redacted(
            f"{self.model} at {url.scheme}://{url.host}{f':{url.port}' if url.port else ''}{url.path}"
        )

    def _redacted(self, text: str) -> str:
        return text.replace(self._key, "[key]")


class _Trouble(NamedTuple):
    """Why there is no answer."""

    reason: str
    passing: bool
    """Trying again may help."""
    shared: bool = False
    """Every other question would meet it too."""
    away: bool = False
    """The endpoint could not be reached."""
    wish: float | None = None
    """Seconds the endpoint asks us to wait."""


_LOST: Answer | _Trouble = _Trouble("the question was left", passing=False)


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


def _read(completion: Any) -> Answer:
    message = completion.choices[0].message
    text = message.content
    if text is not None and not isinstance(text, str):
        raise ValueError(f"content is {type(text).__name__}, not text")
    usage, cut = getattr(completion, "usage", None), _is_cut(completion.choices[0].finish_reason, text or "")
    if usage is None or not isinstance(usage.prompt_tokens, int) or not isinstance(usage.completion_tokens, int):
        return Answer(text or "", Usage(0, 0, cut) if cut else None)
    return Answer(text or "", Usage(usage.prompt_tokens, usage.completion_tokens, cut))


def _is_cut(reason: str | None, text: str) -> bool:
    """It reached the longest length with no complete ``Action:`` line; what follows such a line does not count."""
    return reason == "length" and parse_response(text.rpartition("\n")[0]).problem != ""


def _too_long(error: Any) -> bool:
    words = f"{getattr(error, 'code', '')} {error.message}".lower()
    return any(phrase in words for phrase in ("context_length", "context length", "maximum context", "too many tokens"))


def _retry_after(headers: Mapping[str, str]) -> float | None:
    """Seconds, given as such or as a date (RFC 9110, 10.2.3), which counts from the endpoint's own clock."""
    text = headers.get("retry-after", "")
    try:
        seconds = float(text)
    except ValueError:
        then, now = _date(text), _date(headers.get("date", "")) or datetime.now(timezone.utc)
        return None if then is None else max(0.0, (then - now).total_seconds())
    return max(0.0, seconds) if math.isfinite(seconds) else None


def _date(text: str) -> datetime | None:
    try:
        found = parsedate_to_datetime(text)
    except (ValueError, TypeError, OverflowError):
        return None
    return found if found.tzinfo is not None else found.replace(tzinfo=timezone.utc)
