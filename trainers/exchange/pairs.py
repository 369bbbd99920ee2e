"""One row of a preference format to one pair, and back."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from icto_gym.dialogue import Message
from icto_gym.errors import DataError
from trainers.exchange.conversation import read_messages, translated
from trainers.exchange.options import BadField
from trainers.exchange.reading import Reading, is_number, name_task
from trainers.records import PreferencePair

SIDES = ("prompt", "chosen", "rejected")


def read_pair(row: Mapping[str, Any], reading: Reading) -> PreferencePair:
    """Build a pair; a prompt that stands within both sides is found as what they share.

    Raises:
        BadField: naming the field and the mend.
    """
    prompt, chosen, rejected = _sides(row, reading)
    if not prompt or prompt[-1].role != "user":
        raise BadField("field prompt does not end with a user message, so there is nothing to respond to")
    _, chosen = _worded(prompt, chosen, reading)
    prompt, rejected = _worded(prompt, rejected, reading)
    task_id = name_task(row, reading)
    number = reading.attempts[task_id]
    reading.attempts[task_id] += 1
    try:
        return PreferencePair(
            task_id=task_id,
            prompt=tuple(prompt),
            chosen=tuple(chosen),
            rejected=tuple(rejected),
            margin=_margin(row, reading),
            granularity=row.get("granularity") or "trajectory",
            chosen_id=row.get("chosen_id") or f"{task_id}@chosen#{number}",
            rejected_id=row.get("rejected_id") or f"{task_id}@rejected#{number}",
            step_weights=row.get("step_weights") or (),
        )
    except DataError as error:
        raise error if isinstance(error, BadField) else BadField(str(error)) from error


def _sides(row: Mapping[str, Any], reading: Reading) -> list[list[Message]]:
    chosen, rejected = (_side(row, name, reading) for name in ("chosen", "rejected"))
    if row.get("prompt") is not None:
        return [_side(row, "prompt", reading), chosen, rejected]
    shared = 0
    while shared < min(len(chosen), len(rejected)) and chosen[shared] == rejected[shared]:
        shared += 1
    while shared and chosen[shared - 1].role != "user":
        shared -= 1
    reading.notes["prompts found as what both sides share"] += 1
    return [chosen[:shared], chosen[shared:], rejected[shared:]]


def _side(row: Mapping[str, Any], name: str, reading: Reading) -> list[Message]:
    value = row.get(name)
    if isinstance(value, str):  # TRL's standard format
        return [Message("user" if name == "prompt" else "assistant", value)]
    messages = read_messages(value, name, reading.notes)
    if name != "prompt" and messages[-1].role == "user":
        reading.notes["last observations behind the last response (dropped)"] += 1
        return messages[:-1]
    return messages


def _worded(
    prompt: Sequence[Message], side: Sequence[Message], reading: Reading
) -> tuple[list[Message], list[Message]]:
    """Prompt and side in the wording that was asked for."""
    both = (*prompt, *side)
    texts = translated([message.content for message in both], reading.options, reading.notes)
    changed = [Message(message.role, text) for message, text in zip(both, texts, strict=True)]
    return changed[: len(prompt)], changed[len(prompt) :]


def _margin(row: Mapping[str, Any], reading: Reading) -> float:
    value: Any = row.get("score_margin", row.get("margin"))
    scores = row.get("score_chosen"), row.get("score_rejected")
    if value is None and all(map(is_number, scores)):
        value = scores[0] - scores[1]  # type: ignore[operator]
    if value is None:
        if reading.options.margin is None:
            raise BadField("there is neither margin nor scores. Say what the chosen side is better by with --margin")
        reading.notes["margins given by --margin"] += 1
        return reading.options.margin
    if not is_number(value):
        raise BadField(f"field margin is {value!r:.40}, expected a number above 0")
    return float(value)
