"""From chat messages to token ids, with an exact account of which tokens the policy wrote.

A conversation is rendered with the model's own chat template, prefix by prefix, and cut where a reply begins and
where its end-of-turn token ends. The pieces are tokenized one by one. Two things follow by construction: the mask
is exact, and the tokens a policy reads when it acts are the tokens it is trained on::

    encode_conversation(messages).input_ids  begins with  encode_prompt(messages[:k]) + tokens of reply k
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple
from weakref import WeakKeyDictionary

from icto_gym.dialogue import ACKNOWLEDGEMENT, Message
from icto_gym.errors import IctoError


class TokenizationError(IctoError, ValueError):
    """A conversation whose token mask cannot be built exactly."""


@dataclass(frozen=True, slots=True)
class Encoded:
    """One tokenized conversation; both lists are equally long."""

    input_ids: list[int]
    turns: list[int]
    """For each token the number of the trained reply it belongs to, counted from 0; -1 where nothing is trained."""

    @property
    def n_turns(self) -> int:
        """How many replies have at least one token here."""
        return max(self.turns, default=-1) + 1

    def cut(self, max_length: int | None) -> Encoded:
        """Keep the first ``max_length`` tokens (None: all)."""
        if max_length is None or len(self.input_ids) <= max_length:
            return self
        return Encoded(self.input_ids[:max_length], self.turns[:max_length])

    def cut_between_replies(self, max_length: int) -> Encoded:
        """As `cut`, and without the beginning of a reply that does not end before the cut."""
        short = self.cut(max_length)
        torn = -1 if short is self else self.turns[max_length]
        return short.cut(short.turns.index(torn)) if torn >= 0 and torn in short.turns else short


def encode_conversation(
    tokenizer: Any, messages: Sequence[Message], *, trainable_from: int = 0, train_acknowledgement: bool = False
) -> Encoded:
    """Tokenize a whole conversation; the end-of-turn token that closes a reply belongs to the reply.

    Args:
        tokenizer: a Transformers tokenizer with a chat template.
        messages: ends with the last reply; a trailing user message is left out.
        trainable_from: replies among ``messages[:trainable_from]`` are not trained.
        train_acknowledgement: also train the literal ``OK`` that answers the instruction.

    Raises:
        TokenizationError: naming the message at which the template does not allow an exact mask.
    """
    input_ids: list[int] = []
    turns: list[int] = []
    turn = 0
    for piece in _pieces(tokenizer, messages).pieces:
        number = piece.message
        trained = number is not None and number >= trainable_from
        trained = trained and (train_acknowledgement or not _is_acknowledgement(messages, number))
        input_ids += piece.ids
        turns += [turn if trained else -1] * len(piece.ids)
        turn += trained
    return Encoded(input_ids, turns)


def encode_prompt(tokenizer: Any, messages: Sequence[Message]) -> list[int]:
    """Tokenize what a policy reads before it writes the next reply, generation prompt included."""
    if not messages or messages[-1].role == "assistant":
        raise TokenizationError(f"A prompt must end with a user message; got {[m.role for m in messages]}.")
    beginning = _pieces(tokenizer, messages)
    prompt = _render(tokenizer, messages, prompt=True)
    _check_appended(beginning.text, prompt, messages, len(messages) - 1)
    ids = [token for piece in beginning.pieces for token in piece.ids]
    return ids + _piece_ids(tokenizer, prompt[len(beginning.text) :])


def end_of_turn_ids(tokenizer: Any) -> list[int]:
    """Token ids at which generation should stop: what closes a reply in the template, and the tokenizer's own end."""
    probe = [Message("user", "a"), Message("assistant", "b")]
    ids = [encode_conversation(tokenizer, probe).input_ids[-1]]
    end = tokenizer.eos_token_id
    return ids if end is None or end in ids else [*ids, end]


def _is_acknowledgement(messages: Sequence[Message], number: int | None) -> bool:
    """The literal OK is the first reply, and something other than the task's own steps comes before it."""
    return (
        number is not None
        and messages[number].content.strip() == ACKNOWLEDGEMENT
        and not any(message.role == "assistant" for message in messages[:number])
    )


class _Piece(NamedTuple):
    ids: list[int]
    message: int | None
    """Number of the message that this is the reply of; None for what is read."""


class _Beginning(NamedTuple):
    """A conversation up to and including the end of one of its replies."""

    text: str
    pieces: tuple[_Piece, ...]


# A policy asks for the same conversation again and again, each time two messages longer.
_REMEMBERED: WeakKeyDictionary[Any, dict[Any, _Beginning]] = WeakKeyDictionary()
_REMEMBER_AT_MOST = 128


def _pieces(tokenizer: Any, messages: Sequence[Message]) -> _Beginning:
    """Tokenize up to the end of the last reply: what is read and what is written by turns."""
    memory = _REMEMBERED.setdefault(tokenizer, {})
    replies = [number for number, message in enumerate(messages) if message.role == "assistant"]
    beginning, done = _Beginning("", ()), 0
    for count in range(len(replies), 0, -1):
        key = (tokenizer.chat_template, tuple(messages[: replies[count - 1] + 1]))
        if key in memory:
            beginning, done = memory[key], count
            break
    for number in replies[done:]:
        beginning = _with_reply(tokenizer, messages, number, beginning)
    if replies[done:]:
        if len(memory) >= _REMEMBER_AT_MOST:
            memory.pop(next(iter(memory)), None)
        memory[tokenizer.chat_template, tuple(messages[: replies[-1] + 1])] = beginning
    return beginning


def _with_reply(tokenizer: Any, messages: Sequence[Message], number: int, before: _Beginning) -> _Beginning:
    """Go on to the end of reply ``number``, which follows ``before``."""
    prompt = _render(tokenizer, messages[:number], prompt=True)
    whole = _render(tokenizer, messages[: number + 1])
    _check_appended(before.text, prompt, messages, number)
    if not whole.startswith(prompt):
        raise TokenizationError(
            f"{_name(number, messages[number])}: the chat template does not continue its own generation prompt with "
            "the reply, so what is trained would differ from what is generated. Use a template that does."
        )
    end = _end_of_reply(whole, len(prompt), messages[number], number, _special_texts(tokenizer))
    read = _Piece(_piece_ids(tokenizer, prompt[len(before.text) :]), None)
    written = _Piece(_piece_ids(tokenizer, whole[len(prompt) : end]), number)
    return _Beginning(whole[:end], (*before.pieces, read, written))


def _check_appended(before: str, text: str, messages: Sequence[Message], number: int) -> None:
    if not text.startswith(before):
        raise TokenizationError(
            f"{_name(number, messages[number])}: the chat template writes earlier messages differently once later ones "
            "follow, so no exact token mask exists. Use a template that only appends."
        )


def _end_of_reply(whole: str, start: int, message: Message, number: int, specials: Sequence[str]) -> int:
    """Where the token ends that closes the reply which begins at ``start``."""
    content = _encodable(message.content, specials).strip()
    found = whole.find(content, start)
    if found < 0 or whole[start:found].strip():
        raise TokenizationError(
            f"{_name(number, message)}: the chat template changes the text of the reply; it renders "
            f"{whole[start:][:80]!r}. Use a template that writes replies as they are."
        )
    after = found + len(content)
    ends = [place + len(text) for text in specials if (place := whole.find(text, after)) >= 0]
    if not ends or whole[after : min(ends)].strip() not in specials:
        raise TokenizationError(
            f"{_name(number, message)}: no end-of-turn token follows the reply ({whole[after:][:40]!r}), so the "
            "model could not learn to stop. Use a template that closes replies with a special token."
        )
    return min(ends)


def _render(tokenizer: Any, messages: Sequence[Message], *, prompt: bool = False) -> str:
    specials = _special_texts(tokenizer)
    conversation = [{"role": message.role, "content": _encodable(message.content, specials)} for message in messages]
    try:
        return tokenizer.apply_chat_template(conversation, tokenize=False, add_generation_prompt=prompt)
    except Exception as error:  # templates raise their own errors for roles they do not know
        roles = ", ".join(message.role for message in messages[-4:])
        raise TokenizationError(
            f"The chat template refused a conversation of {len(messages)} messages (last roles: {roles}): {error}. "
            "Give the tokenizer a chat template that takes these roles."
        ) from error


def _piece_ids(tokenizer: Any, text: str) -> list[int]:
    """Token ids of one piece, as if it stood in the middle of a text."""
    ids = tokenizer.encode(text, add_special_tokens=False)
    plain = tokenizer.encode("a", add_special_tokens=False)
    if tokenizer.decode(plain + plain) == "aa":
        return ids
    # Tokenizers of the SentencePiece kind put a blank before every text: hide it behind a line break.
    anchor = tokenizer.encode("\n", add_special_tokens=False)
    ids = tokenizer.encode("\n" + text, add_special_tokens=False)
    if ids[: len(anchor)] != anchor:
        raise TokenizationError(f"The tokenizer cannot encode a piece of text by itself: {text[:60]!r}.")
    return ids[len(anchor) :]


def _special_texts(tokenizer: Any) -> list[str]:
    """Tokens that may begin or end a turn: those flagged as special, and added ones that the chat template writes."""
    template = str(tokenizer.chat_template)
    added = tokenizer.added_tokens_decoder.values()
    texts = {token.content for token in added if token.special or (token.content.strip() and token.content in template)}
    return sorted(texts | set(tokenizer.all_special_tokens))


def _encodable(text: str, specials: Sequence[str]) -> str:
    """What the tokenizer may read of a message.

    Lone surrogates have no UTF-8 form; they become question marks. A special token written out in a message, such as
    a page that says ``<|im_end|>``, is broken by a blank: what a page says must never end or begin a turn.
    """
    text = text.encode("utf-8", "replace").decode("utf-8")
    for special in specials:
        if len(special) > 1 and special in text:
            text = text.replace(special, f"{special[0]} {special[1:]}")
    return text


def _name(number: int, message: Message) -> str:
    return f"Message {number} ({message.role}: {message.content[:40]!r})"
