"""Public trajectories: from the wording before 2025 to today's, and back."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

from icto_gym.envs.alfworld.grammar import to_move, to_put
from icto_gym.errors import ConfigError

_ACTION = re.compile(r"(?P<label>Action:[ \t]*)(?P<command>[^\n]*?)(?P<end>[ \t]*)$", re.MULTILINE)
_OLD_ANSWER = re.compile(r"You put the (?P<thing>[^\n]+?) in/on the (?P<place>[^\n.]+)\.")
_NEW_ANSWER = re.compile(r"You move the (?P<thing>[^\n]+?) to the (?P<place>[^\n.]+)\.")
_ARRIVAL = re.compile(r"You arrive at (?P<place>[^\n.]+)\.")
_GO = re.compile(r"go to (?P<place>[^\n]+)")


def translate_trajectory(texts: Sequence[str], to: str, *, locations: Mapping[str, str] | None = None) -> list[str]:
    """Translate a conversation or a list of alternating commands and answers.

    A text is a response (``Thought: ... Action: ...``), a bare command, or an answer (with or without
    ``Observation:``). Games before 2025 answered ``go to`` with the name of a location, which says nothing;
    today's name the receptacle.

    Args:
        texts: in the order of the conversation.
        to: ``"move"`` (today's wording) or ``"put"`` (the one before).
        locations: receptacle to location name, to write arrivals in the old way; without it arrivals
            keep the receptacle's name, since what the location was called cannot be known.

    Returns:
        One text for each; what is neither command nor answer stays as it is.
    """
    if to not in ("move", "put"):
        raise ConfigError(f"A trajectory is translated to 'move' or to 'put', not to {to!r}.")
    translated = []
    went_to = ""
    for text in texts:
        command = _command(text)
        if command is not None:
            going = _GO.fullmatch(command)
            went_to = going["place"] if going else ""
            translated.append(_with_command(text, to_move(command) if to == "move" else to_put(command)))
        else:
            translated.append(_answer(text, to, went_to, locations or {}))
    return translated


def _command(text: str) -> str | None:
    """The command in a response, or the text itself if it is one; None for anything else."""
    found = _ACTION.search(text)
    if found:
        return found["command"]
    verbs = ("go to ", "take ", "put ", "move ", "open ", "close ", "heat ", "cool ", "clean ", "use ", "examine ")
    bare = "\n" not in text and (text.startswith(verbs) or text in ("look", "inventory"))
    return text if bare else None


def _with_command(text: str, command: str) -> str:
    if not _ACTION.search(text):
        return command
    return _ACTION.sub(lambda match: match["label"] + command + match["end"], text, count=1)


def _answer(text: str, to: str, went_to: str, locations: Mapping[str, str]) -> str:
    if to == "move":
        text = _OLD_ANSWER.sub(r"You move the \g<thing> to the \g<place>.", text, count=1)
        if went_to:
            text = _ARRIVAL.sub(lambda match: f"You arrive at {went_to}.", text, count=1)
        return text
    text = _NEW_ANSWER.sub(r"You put the \g<thing> in/on the \g<place>.", text, count=1)
    if went_to in locations:
        text = _ARRIVAL.sub(lambda match: f"You arrive at {locations[went_to]}.", text, count=1)
    return text
