"""How to act in ALFWorld, in few words: it is read at every step."""

from __future__ import annotations

from icto_gym.dialogue import Message, observation_message
from icto_gym.envs.alfworld.grammar import to_put

_COMMANDS = """\
go to RECEPTACLE
open RECEPTACLE
close RECEPTACLE
take OBJECT from RECEPTACLE
{put}
heat OBJECT with RECEPTACLE
cool OBJECT with RECEPTACLE
clean OBJECT with RECEPTACLE
use OBJECT
examine THING
look
inventory"""

_PUT = {
    "move": "move OBJECT to RECEPTACLE",
    "put": "put OBJECT in/on RECEPTACLE",
    "both": "move OBJECT to RECEPTACLE (or: put OBJECT in/on RECEPTACLE)",
}


def system_prompt(action_grammar: str = "move") -> str:
    """The instruction for one of the action grammars, ``"move"``, ``"put"`` or ``"both"``."""
    return (
        "You are in a house and do a household task. You can carry one object. Commands:\n"
        f"{_COMMANDS.format(put=_PUT[action_grammar])}\n"
        "Names have numbers, as in 'mug 2'. Answer each time with 'Thought: ...' and, on the next line, 'Action: ...'."
    )


SYSTEM_PROMPT = system_prompt()

_EXAMPLE = (
    (
        "-= Welcome to TextWorld, ALFRED! =-\n\nYou are in the middle of a room. Looking quickly around you, you see "
        "a fridge 1, a microwave 1, a shelf 2, a shelf 1, a sinkbasin 1, and a stove 1.\n\n"
        "Your task is to: clean some bowl and put it in shelf.",
        "I look for a bowl at shelf 1.",
        "go to shelf 1",
    ),
    (
        "You arrive at shelf 1. On the shelf 1, you see a vase 1.",
        "No bowl at shelf 1. I look for a bowl at fridge 1.",
        "go to fridge 1",
    ),
    ("You arrive at fridge 1. The fridge 1 is closed.", "fridge 1 is closed; a bowl may be inside.", "open fridge 1"),
    (
        "You open the fridge 1. The fridge 1 is open. In it, you see a bowl 1, and a egg 2.",
        "Here is bowl 1; I take it.",
        "take bowl 1 from fridge 1",
    ),
    (
        "You pick up the bowl 1 from the fridge 1.",
        "bowl 1 must be clean, so I go to sinkbasin 1.",
        "go to sinkbasin 1",
    ),
    (
        "You arrive at sinkbasin 1. On the sinkbasin 1, you see nothing.",
        "At sinkbasin 1 I can clean bowl 1.",
        "clean bowl 1 with sinkbasin 1",
    ),
    ("You clean the bowl 1 using the sinkbasin 1.", "bowl 1 is clean; it belongs in shelf 1.", "go to shelf 1"),
    (
        "You arrive at shelf 1. On the shelf 1, you see a vase 1.",
        "bowl 1 is clean and this is shelf 1; I put it here.",
        "move bowl 1 to shelf 1",
    ),
)


def worked_example(action_grammar: str = "move") -> tuple[Message, ...]:
    """A worked example as messages, in a room that no data holds; for `icto_gym.wrappers.ReAct(example=...)`."""
    messages: list[Message] = []
    for observation, thought, command in _EXAMPLE:
        seen = observation_message(observation) if messages else observation
        action = to_put(command) if action_grammar == "put" else command
        messages += [Message("user", seen), Message("assistant", f"Thought: {thought}\nAction: {action}")]
    return tuple(messages)
