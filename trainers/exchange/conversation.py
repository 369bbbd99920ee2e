"""Between a list of chat messages and a trajectory: the layout of the ETO line, and what else is met."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from icto_gym.dialogue import ACKNOWLEDGEMENT, Message
from icto_gym.envs.published import published
from icto_gym.trajectory import Step
from icto_gym.wrappers.react import parse_response
from trainers.exchange.options import BadField, ImportOptions

ROLES = {
    "human": "user", "user": "user", "observation": "user",
    "gpt": "assistant", "assistant": "assistant", "system": "system",
}  # fmt: skip
_AGREED = re.compile(r"ok(?:ay)?\b.{0,200}", re.IGNORECASE | re.DOTALL)
_LABEL = "Observation:"


class Episode(NamedTuple):
    """A conversation taken apart; steps have no rewards yet."""

    system_prompt: str
    acknowledgement: str
    instruction: str
    steps: tuple[Step, ...]
    final_observation: str | None


def read_messages(value: Any, field: str, notes: Counter[str]) -> list[Message]:
    """Messages as {from, value} or {role, content}, in either vocabulary of roles.

    Raises:
        BadField: naming the message and what is wrong with it.
    """
    if not isinstance(value, (list, tuple)) or not value:
        found = "missing" if value is None else f"{value!r:.60}"
        raise BadField(f"field {field} is {found}, expected a list of messages. Tasks without play cannot be imported")
    return [_message(item, f"{field}[{place}]", notes) for place, item in enumerate(value)]


def _message(item: Any, where: str, notes: Counter[str]) -> Message:
    if not isinstance(item, Mapping):
        raise BadField(f"field {where} is {item!r:.60}, expected an object with from and value, or role and content")
    role, text = item.get("from", item.get("role")), item.get("value", item.get("content"))
    if not isinstance(role, str) or role not in ROLES:
        raise BadField(f"field {where} has the role {role!r:.40}, expected one of {', '.join(ROLES)}")
    if not isinstance(text, str):
        raise BadField(
            f"field {where} has the text {text!r:.60}, expected a string. Tool calls and images are not read"
        )
    if role in ("gpt", "assistant") and item.get("loss") is False and not _agrees(text):
        notes["responses marked loss: false (all are trained on)"] += 1
    return Message(ROLES[role], text)


def read_episode(messages: Sequence[Message], field: str, options: ImportOptions, notes: Counter[str],
                 instruction: str | None = None) -> Episode:  # fmt: skip
    """Take a conversation apart: instruction and its answer, worked example, task, responses and observations.

    Args:
        messages: the whole conversation.
        field: its name in the record, for messages.
        options: how to act where the conversation does not say it, wording, example.
        notes: what is changed on the way is counted here.
        instruction: the goal where the record tells it apart.

    Raises:
        BadField: the layout cannot be recognised.
    """
    system_prompt, acknowledgement, rest = _opening(list(messages), field, options, notes)
    rest = rest[options.example_messages :]
    for place, message in enumerate(rest):
        expected = "user" if place % 2 == 0 else "assistant"
        if message.role != expected:
            where = len(messages) - len(rest) + place
            raise BadField(
                f"field {field}[{where}] is of the {message.role}, expected the {expected}: messages alternate"
            )
    if len(rest) < 2:
        raise BadField(f"field {field} holds no response to a task")
    texts = translated([message.content for message in rest], options, notes)
    first, goal = _first(texts[0], instruction, options)
    observations = [first] + [_observation(text, notes) for text in texts[2::2]]
    steps = tuple(_step(seen, said) for seen, said in zip(observations, texts[1::2], strict=False))
    final = observations[-1] if len(rest) % 2 else None
    return Episode(system_prompt, acknowledgement, goal, steps, final)


def translated(texts: list[str], options: ImportOptions, notes: Counter[str]) -> list[str]:
    """The messages in the wording that was asked for; every changed one is counted."""
    if options.action_grammar == "as-is":
        return texts
    knowledge = published(options.env_id)
    if knowledge is None:
        raise BadField(f"--action-grammar needs --env-id of the benchmark; {options.env_id!r} is none of ours")
    changed = knowledge.translate(texts, options.action_grammar)
    notes["messages translated to another wording"] += sum(a != b for a, b in zip(texts, changed, strict=True))
    return changed


def _opening(messages: list[Message], field: str, options: ImportOptions, notes: Counter[str]
             ) -> tuple[str, str, list[Message]]:  # fmt: skip
    found = _found_opening(messages, notes)
    if found is not None:
        system_prompt, acknowledgement, rest = found
        if options.system_prompt:
            notes["instructions replaced by --system-prompt"] += 1
        return options.system_prompt or system_prompt, acknowledgement, rest
    if options.system_prompt:
        notes["instructions given by --system-prompt"] += 1
        return options.system_prompt, ACKNOWLEDGEMENT, messages
    roles = ", ".join(message.role for message in messages[:3])
    raise BadField(
        f"field {field} begins with the roles {roles} and no message that tells how to act (a system message, "
        "or a user message answered by OK). Give it with --system-prompt"
    )


def _found_opening(messages: list[Message], notes: Counter[str]) -> tuple[str, str, list[Message]] | None:
    roles = [message.role for message in messages[:3]]
    if roles[:1] == ["system"]:
        notes["system messages (the instruction is a user message here)"] += 1
        if roles[1:] == ["user", "assistant"] and _agrees(messages[2].content):  # the instruction comes behind it
            both = Message("user", f"{messages[0].content.strip()}\n\n{messages[1].content}".strip())
            return _found_opening([both, *messages[2:]], notes)
        return messages[0].content, ACKNOWLEDGEMENT, messages[1:]
    if roles[:2] == ["user", "assistant"] and _agrees(messages[1].content):
        acknowledgement = messages[1].content.strip()
        if acknowledgement != ACKNOWLEDGEMENT:
            notes["acknowledgements other than OK (kept in extra)"] += 1
        return messages[0].content, acknowledgement, messages[2:]
    return None


def _agrees(text: str) -> bool:
    """An acknowledgement: begins with OK, and does nothing yet."""
    return bool(_AGREED.fullmatch(text.strip())) and bool(parse_response(text).problem)


def _first(text: str, instruction: str | None, options: ImportOptions) -> tuple[str, str]:
    """First observation and goal, such that writing them again gives the same message."""
    if instruction is None:
        knowledge = published(options.env_id)
        return text, knowledge.goal(text) if knowledge else ""
    rest = text.removeprefix(instruction + "\n")
    if len(rest) < len(text) and instruction not in rest:
        return rest, instruction
    return ("", instruction) if text == instruction.strip() else (text, instruction)


def _observation(text: str, notes: Counter[str]) -> str:
    if text.startswith(_LABEL):
        return text.removeprefix(_LABEL).removeprefix(" ")
    notes["observations without their label (they gain it)"] += 1
    return text


def _step(observation: str, response: str) -> Step:
    parsed = parse_response(response)
    return Step(observation, response, parsed.thought, parsed.action, 0.0, not parsed.problem)
