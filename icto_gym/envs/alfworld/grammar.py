"""Which rules a game file plays by, told by the hash of the domain and the grammar inside of it.

Two wordings were published: games before 2025 say ``put X in/on Y`` and ``You arrive at loc 5.``; since
alfworld 0.4 they say ``move X to Y`` and ``You arrive at cabinet 1.``, and know ``help``. Anything else
is not ours to guess: such games go to TextWorld.
"""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass

from icto_gym.envs.alfworld.pddl import UnsupportedGame
from icto_gym.errors import ConfigError

UNKNOWN_TASK = "UNKNOWN GOAL"
ACTION_GRAMMARS = ("move", "put", "both")

_TASK_LINE = "Your task is to: "
_MARKUP = re.compile(r"[#{}\[\]|\\;<>\n\r\t]|//")
_PUT = re.compile(r"put (?P<object>.+) in/on (?P<receptacle>.+)", re.DOTALL)
_MOVE = re.compile(r"move (?P<object>.+) to (?P<receptacle>.+)", re.DOTALL)


@dataclass(frozen=True, slots=True)
class Rules:
    """Where the published wordings differ."""

    name: str
    """``"0.2"`` (games published until 2024), ``"2.1.2"`` (the same games, patched) or ``"0.4"``."""
    put_verb: str
    """``"move"`` or ``"put"``: how an object is laid down."""
    names_locations: bool
    """``go to`` answers with the location's name instead of the receptacle's."""
    has_help: bool
    """``help`` is a command."""


_OLD = Rules("0.2", "put", True, False)
_PATCHED = Rules("2.1.2", "move", False, True)
NEW = Rules("0.4", "move", False, True)
"""The rules of alfworld 0.4, by which the built-in games are played."""

# SHA-256 of (domain, grammar with the task line blanked). The first two come with alfworld 0.2 to 0.3 and
# 0.4; the third is what upstream's script for patching published games makes of the first.
KNOWN_RULES: dict[tuple[str, str], Rules] = {
    (
        "e64e8c0002648c403e05adedc25be5ea8b9863924f32cc7611051bed1f386e46",
        "d955e6db384c68ac5797e881b795fd36d788e87a03547f9a87e48fbd7c5b361b",
    ): _OLD,
    (
        "f1473041ed01da514de1f87adfd7ef0804862361f83ccf63c75e43633b0eb280",
        "c5b22f0f73309a7fd7c8e5b71de42ad4803b60766ab4a51cc2feb34162be036b",
    ): NEW,
    (
        "63cfcb5503be4035dea34a3f1f3be26df19c64ff639242d7ca53c167f1163759",
        "cce0702cd250cc6af6c3ea047a21f6c4c1c8d29a1739efefb5221ef4c3dcac57",
    ): _PATCHED,
}


def split_task(grammar: str) -> tuple[str, str]:
    """Return the task sentence of a grammar (without its full stop) and the grammar with it blanked."""
    start = grammar.find(_TASK_LINE)
    end = grammar.find('"', start)
    if start < 0 or end < 0:
        return "", grammar
    start += len(_TASK_LINE)
    sentence = grammar[start:end]
    return sentence.removesuffix("."), f"{grammar[:start]}{UNKNOWN_TASK}.{grammar[end:]}"


def recognise(domain: str, grammar: str) -> tuple[Rules, str]:
    """Return the rules and the task sentence of a game file.

    Raises:
        UnsupportedGame: an unknown domain or grammar, or a task sentence that the grammar would expand.
    """
    task, blanked = split_task(grammar)
    key = (_sha256(domain), _sha256(blanked))
    if key not in KNOWN_RULES:
        raise UnsupportedGame(f"unknown domain {key[0][:12]} or grammar {key[1][:12]} (SHA-256)")
    if _MARKUP.search(task) or task != task.strip():
        raise UnsupportedGame(f"the task sentence {task!r:.80} holds marks of the grammar")
    return KNOWN_RULES[key], task


def _sha256(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()


def to_move(command: str) -> str:
    """``put X in/on Y`` as ``move X to Y``; any other command as it stands."""
    match = _PUT.fullmatch(command)
    return f"move {match['object']} to {match['receptacle']}" if match else command


def to_put(command: str) -> str:
    """``move X to Y`` as ``put X in/on Y``; any other command as it stands."""
    match = _MOVE.fullmatch(command)
    return f"put {match['object']} in/on {match['receptacle']}" if match else command


def translate_command(command: str, to: str) -> str:
    """Write a command in the grammar ``to``, ``"move"`` or ``"put"``."""
    if to not in ("move", "put"):
        raise ConfigError(f"A command is translated to 'move' or to 'put', not to {to!r}.")
    return to_move(command) if to == "move" else to_put(command)
