"""How to act in ALFWorld, in few words: it is read at every step."""

from __future__ import annotations

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
