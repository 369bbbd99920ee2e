"""Facts to words: every sentence that a game can say."""

from __future__ import annotations

from collections.abc import Iterable

from icto_gym.envs.alfworld.world import State, World

NOTHING_HAPPENS = "Nothing happens."
WELCOME = "-= Welcome to TextWorld, ALFRED! =-"

_HELP = (
    ("look", "look around your current location"),
    ("inventory", "check your current inventory"),
    ("go to (receptacle)", "move to a receptacle"),
    ("open (receptacle)", "open a receptacle"),
    ("close (receptacle)", "close a receptacle"),
    ("take (object) from (receptacle)", "take an object from a receptacle"),
    ("move (object) to (receptacle)", "place an object in or on a receptacle"),
    ("examine (something)", "examine a receptacle or an object"),
    ("use (object)", "use an object"),
    ("heat (object) with (receptacle)", "heat an object using a receptacle"),
    ("clean (object) with (receptacle)", "clean an object using a receptacle"),
    ("cool (object) with (receptacle)", "cool an object using a receptacle"),
    ("slice (object) with (object)", "slice an object using a sharp object"),
)
_NARROW = "move (object) to (receptacle)"  # its line is the one that is not padded to the column


def _help_line(command: str, meaning: str) -> str:
    label = f"{command}:"
    return f"  {label}  {meaning}\n" if command == _NARROW else f"  {label:<34}{meaning}\n"


_HELP_TEXT = "Available commands:\n" + "".join(_help_line(command, meaning) for command, meaning in _HELP)


def help_text(put_verb: str) -> str:
    """The answer to ``help``, with laying down worded as it is understood (``"move"`` or ``"put"``)."""
    if put_verb == "move":
        return _HELP_TEXT
    return _HELP_TEXT.replace("  move (object) to (receptacle):", "  put (object) in/on (receptacle):")


def enumerate_names(names: list[str]) -> str:
    """``nothing``; ``x``; ``x, and y``; ``x, y, and z``."""
    if not names:
        return "nothing"
    if len(names) == 1:
        return names[0]
    return f"{', '.join(names[:-1])}, and {names[-1]}"


def with_articles(names: Iterable[str]) -> str:
    """The names as a list in which each has the article ``a``, before vowels too."""
    return enumerate_names([f"a {name}" for name in names])


def task_sentence(task: str) -> str:
    """The goal in the game's words."""
    return f"Your task is to: {task}."


def introduction(world: World, state: State) -> str:
    """What a game says when it begins."""
    return f"{WELCOME}\n\n{_first_look(world, state)}\n\n{task_sentence(world.task)}"


def _first_look(world: World, state: State) -> str:
    if world.at.get(state.location):
        return look(world, state)
    standing = [world.receptacles[number] for number, place in enumerate(world.place_of) if place >= 0]
    return f"You are in the middle of a room. Looking quickly around you, you see {with_articles(standing)}."


def look(world: World, state: State) -> str:
    """The answer to ``look``."""
    here = world.at.get(state.location)
    if not here:
        return "You are in the middle of a room. Looking quickly around you, you see nothing."
    facing = enumerate_names([world.receptacles[number] for number in here])
    return f"You are facing the {facing}. Next to it, you see {with_articles(_beside(world, state, here))}."


def _beside(world: World, state: State, here: tuple[int, ...]) -> list[str]:
    """Objects that lie here by one fact and were taken from a receptacle here by another, once for each."""
    if not state.taken:
        return []
    found = sorted(
        (thing, receptacle)
        for thing, receptacle in state.taken
        if receptacle in here and (thing, state.location) in state.lying
    )
    return [world.objects[thing] for thing, _ in found]


def receptacle(world: World, state: State, number: int) -> str:
    """What is seen of a receptacle."""
    name = world.receptacles[number]
    if number not in world.openable:
        return f"On the {name}, you see {with_articles(world.objects[thing] for thing in state.inside[number])}."
    if number not in state.opened:
        return f"The {name} is closed."
    seen = with_articles(world.objects[thing] for thing in state.inside[number])
    return f"The {name} is open. In it, you see {seen}."


def thing(world: World, state: State, number: int) -> str:
    """What is seen of an object in hand; the first that fits, in the grammar's order."""
    name = world.objects[number]
    if number in world.vessels:
        seen = with_articles(world.objects[inner] for inner in world.vessels[number])
        return f"This is a normal {name}. In it, you see {seen}."
    words = _condition(state, number)
    if words:
        return f"This is a {words} {name}."
    if number in world.toggleable and number in state.toggled:
        return f"This {name} is on."
    if number in world.sliceable and number in state.sliced:
        return f"This is a sliced {name}."
    return f"There's nothing special about {name}."


def _condition(state: State, number: int) -> str:
    hot, cool, clean = number in state.hot, number in state.cool, number in state.clean
    if not (hot or cool or clean):
        return ""
    if number in state.sliced:
        if clean:
            return ("hot and clean" if hot else "cool and clean" if cool else "clean") + " sliced"
        return "hot sliced" if hot else "cool sliced"
    if clean and (hot or cool):
        return "hot and clean" if hot else "cool and clean"
    return "hot" if hot else "clean" if clean else "cold"


def inventory(world: World, state: State) -> str:
    """The answer to ``inventory``."""
    if not state.hands_full:
        return "You are not carrying anything."
    return f"You are carrying: {with_articles(world.objects[thing] for thing in state.holding)}."
