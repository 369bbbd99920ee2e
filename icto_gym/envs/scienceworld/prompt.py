"""How to act in ScienceWorld: what the agent is told before its task."""

from __future__ import annotations

_COMMANDS = """\
look around | look at OBJ | look in OBJ | examine OBJ | inventory | task | read OBJ
open OBJ | close OBJ | activate OBJ | deactivate OBJ | use OBJ on OBJ
pick up OBJ | put down OBJ | move OBJ to OBJ | pour OBJ into OBJ | dunk OBJ into OBJ | mix OBJ | eat OBJ | flush OBJ
focus on OBJ | wait (10 ticks) | wait1 (1 tick) | reset task
go to LOC"""


def system_prompt(simplification: str = "easy") -> str:
    """Grammar and format of a reply; what the simplification allows or forbids is said.

    Args:
        simplification: the environment's own, such as ``"easy"`` or ``"openDoors,teleportAction"``.
    """
    names = simplification.split(",")
    commands = _COMMANDS
    if "easy" in names or "teleportAction" in names:
        commands += " | teleport to LOC"
    if "noElectricalAction" not in names:
        commands += " | connect OBJ to OBJ | disconnect OBJ"
    return (
        "You do science tasks in a house with several rooms. Commands, where OBJ is an object and LOC a place:\n"
        f"{commands}\n"
        "focus on OBJ says that OBJ is what the task asks for; the wrong one fails the task. "
        "If the reply asks which action you mean, answer with its number.\n"
        "Reply each time with:\nThought: why\nAction: one command"
    )


SYSTEM_PROMPT = system_prompt()
