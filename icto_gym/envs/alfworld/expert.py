"""The demonstrated player. It knows the goal, what is usually where, and what it has been told so far.

It never looks at the state of the game: `Memory` reads answers, `Expert` decides on memory and on the list
of admissible commands, which every player gets.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple, Protocol

from icto_gym.envs.alfworld.outline import Outline

_SEEN = re.compile(r"(?:On the|The) (?P<receptacle>[^.]+?)(?: is open\. In it)?, you see (?P<things>.*)\.$", re.DOTALL)
_CLOSED = re.compile(r"The (?P<receptacle>[^.]+) is closed\.$")
_TAKEN = re.compile(r"You pick up the (?P<thing>.+) from the (?P<receptacle>.+)\.")
_LAID = re.compile(r"You (?:move|put) the (?P<thing>.+) (?:to|in/on) the (?P<receptacle>.+)\.")
_TREATED = re.compile(r"You (?P<verb>heat|cool|clean) the (?P<thing>.+) using the ")

_TREATMENTS = {"ishot": ("heat", "hot", ("microwave",)), "iscool": ("cool", "cool", ("fridge",)),
               "isclean": ("clean", "clean", ("sinkbasin", "bathtubbasin"))}  # fmt: skip
_USUALLY_CLOSED = frozenset({"cabinet", "drawer", "fridge", "microwave", "safe", "box"})
_CLOSED_WEIGHT = 0.4
_NOTHING = "nothing"


class Choice(NamedTuple):
    """A command and why."""

    command: str
    thought: str


@dataclass(slots=True)
class Memory:
    """What a player can know from the commands it gave and the answers it got."""

    places: tuple[str, ...]
    """The receptacles of the room."""
    here: str = ""
    """Where it last went, ``""``: nowhere yet."""
    contents: dict[str, list[str]] = field(default_factory=dict)
    """What was last seen in each receptacle; no entry: never looked into."""
    closed: set[str] = field(default_factory=set)
    held: str = ""
    treated: dict[str, set[str]] = field(default_factory=dict)
    """What was done to each object: ``"heat"``, ``"cool"``, ``"clean"``; the last of heat and cool counts."""
    failed: set[tuple[str, str]] = field(default_factory=set)
    """(here, command) pairs that did nothing."""

    def observe(self, command: str, answer: str) -> None:
        """Learn from an answer."""
        command = command.strip()
        if answer == "Nothing happens.":
            self.failed.add((self.here, command))
            return
        if command.startswith("go to ") and answer.startswith("You arrive at "):
            self.here = command.removeprefix("go to ")
        taken, laid, treated = _TAKEN.match(answer), _LAID.match(answer), _TREATED.match(answer)
        if taken:
            self.held = taken["thing"]
            self._forget(taken["thing"])
        elif laid:
            self.held = ""
            self.contents.setdefault(laid["receptacle"], []).append(laid["thing"])
        elif treated:
            done = self.treated.setdefault(treated["thing"], set())
            if treated["verb"] in ("heat", "cool"):
                done -= {"heat", "cool"}
            done.add(treated["verb"])
        elif command.startswith("close "):
            self.closed.add(command.removeprefix("close "))
        else:
            self._read_place(answer)

    def _read_place(self, answer: str) -> None:
        text = answer[answer.find(". ") + 2 :] if answer.startswith(("You arrive at ", "You open the ")) else answer
        seen, closed = _SEEN.match(text), _CLOSED.match(text)
        if closed:
            self.closed.add(closed["receptacle"])
        elif seen and seen["receptacle"] in self.places:
            self.closed.discard(seen["receptacle"])
            self.contents[seen["receptacle"]] = listed(seen["things"])

    def _forget(self, thing: str) -> None:
        for things in self.contents.values():
            if thing in things:
                things.remove(thing)

    def where(self, thing: str) -> str:
        """The receptacle in which it was last seen, ``""`` if unknown."""
        return next((place for place, things in self.contents.items() if thing in things), "")


def listed(text: str) -> list[str]:
    """The names in ``a mug 2, a mug 1, and a plate 1``."""
    if text == _NOTHING:
        return []
    return [item.removeprefix("and ").removeprefix("a ") for item in text.split(", ")]


def begin(admissible: Iterable[str]) -> Memory:
    """The memory at the start of a game."""
    names = (command.partition(" ")[2] for command in admissible if command.startswith("examine "))
    goes = (command.removeprefix("go to ") for command in admissible if command.startswith("go to "))
    return Memory(tuple(sorted({*names, *goes})))


def kind(name: str) -> str:
    """``"mug"`` of ``"mug 2"``."""
    return name.rpartition(" ")[0]


class Expert:
    """Decides for one goal."""

    def __init__(self, goal: Outline, fits: Mapping[str, Collection[str]]) -> None:
        """Args:
        goal: what is to be reached.
        fits: kind of object to the kinds of receptacles that such things are kept in.
        """
        self.goal = goal
        self.fits = fits

    def decide(self, memory: Memory, admissible: Sequence[str]) -> Choice | None:
        """The next command, or None if nothing is left to try."""
        possible = {command for command in admissible if (memory.here, command) not in memory.failed}
        if memory.held and kind(memory.held) not in self.goal.target_kinds:
            return self._free_hands(memory, possible)
        if self.goal.lamp_kinds:
            return self._examine_in_light(memory, possible)
        if memory.held:
            return self._deliver(memory, possible)
        return self._fetch(memory, possible, self.goal.target_kinds)

    # ---- getting hold of something -----------------------------------------------------------
    def _fetch(self, memory: Memory, possible: set[str], kinds: tuple[str, ...]) -> Choice | None:
        """Take a wanted object if its place is known, else look for one."""
        destination = self._destination_in_use(memory)
        known = [
            (place, thing)
            for place, things in memory.contents.items()
            for thing in things
            if kind(thing) in kinds and not (place == destination and self._is_ready(memory, thing))
        ]
        known.sort(key=lambda entry: (entry[0] != memory.here, entry))
        for place, thing in known:
            take = f"take {thing} from {place}"
            if take in possible:
                return Choice(take, f"Here is {thing}; I take it.")
            step = self._reach(memory, possible, place, f"I saw {thing} at {place}.")
            if step:
                return step
        return self._search(memory, possible, kinds)

    def _search(self, memory: Memory, possible: set[str], kinds: tuple[str, ...]) -> Choice | None:
        wanted = " or ".join(kinds)
        another = "another " if self._destination_in_use(memory) else "a "
        if memory.here in memory.closed and f"open {memory.here}" in possible:
            return Choice(f"open {memory.here}", f"{memory.here} is closed; {another}{wanted} may be inside.")
        unseen = [place for place in memory.places if place not in memory.contents]
        before = f"No {'other ' if another == 'another ' else ''}{wanted} at {memory.here}. " if memory.here else ""
        for place in sorted(unseen, key=lambda place: (-self._promise(place, kinds, memory), _in_order(place))):
            step = self._reach(memory, possible, place, f"{before}I look for {another}{wanted} at {place}.")
            if step:
                return step
        return None

    def _promise(self, place: str, kinds: tuple[str, ...], memory: Memory) -> float:
        """How likely it is to find such a thing there, per command that looking takes."""
        own = kind(place)
        if not any(self.fits.get(wanted) for wanted in kinds):  # lamps are furniture: they stand on something
            return 0.0 if own in _USUALLY_CLOSED else 0.1
        if not any(own in self.fits.get(wanted, ()) for wanted in kinds):
            return 0.0
        alike = sum(kind(other) == own for other in memory.places)
        shut = own in _USUALLY_CLOSED
        return (_CLOSED_WEIGHT / 2 if shut else 1.0) / alike

    def _reach(self, memory: Memory, possible: set[str], place: str, thought: str) -> Choice | None:
        """One step towards seeing into a receptacle."""
        go = f"go to {place}"
        if go in possible:
            return Choice(go, thought)
        for command in (f"open {place}", f"examine {place}"):  # it stands where the player stands
            if command in possible and not (command.startswith("examine") and place in memory.contents):
                return Choice(command, f"{thought} It is right here.")
        return None

    # ---- doing something with it -------------------------------------------------------------
    def _deliver(self, memory: Memory, possible: set[str]) -> Choice | None:
        for mark in self.goal.marks:
            verb, state, tools = _TREATMENTS[mark]
            if verb not in memory.treated.get(memory.held, ()):
                return self._treat(memory, possible, verb, state, tools)
        ready = f"{memory.held} is {_TREATMENTS[self.goal.marks[0]][1]}" if self.goal.marks else f"I have {memory.held}"
        places = sorted(
            (place for place in memory.places if kind(place) in self.goal.place_kinds),
            key=lambda place: (
                place != self._destination_in_use(memory), place != memory.here,
                kind(place) in _USUALLY_CLOSED and place not in memory.contents, _in_order(place),
            ),
        )  # fmt: skip
        for place in places:
            put = _laying(memory.held, place, possible)
            if put:
                return Choice(put, f"{ready} and this is {place}; I put it here.")
            if place == memory.here and f"open {place}" in possible:
                return Choice(f"open {place}", f"{place} is closed; I open it to put {memory.held} in.")
            if f"go to {place}" in possible:
                return Choice(f"go to {place}", f"{ready}; it belongs in {place}.")
            if f"open {place}" in possible:
                return Choice(f"open {place}", f"{place} is right here and closed; I open it.")
        return None

    def _treat(
        self, memory: Memory, possible: set[str], verb: str, state: str, tools: tuple[str, ...]
    ) -> Choice | None:
        for place in sorted(
            (place for place in memory.places if kind(place) in tools),
            key=lambda place: (place != memory.here, tools.index(kind(place)), _in_order(place)),
        ):
            command = f"{verb} {memory.held} with {place}"
            if command in possible:
                return Choice(command, f"At {place} I can {verb} {memory.held}.")
            if f"go to {place}" in possible and (place, command) not in memory.failed:
                return Choice(f"go to {place}", f"{memory.held} must be {state}, so I go to {place}.")
        return None

    def _examine_in_light(self, memory: Memory, possible: set[str]) -> Choice | None:
        if not memory.held:
            return self._fetch(memory, possible, self.goal.target_kinds)
        lamps = self.goal.lamp_kinds
        for command in sorted(possible):
            if command.startswith("use ") and kind(command[4:]) in lamps:
                return Choice(command, f"I hold {memory.held} and {command[4:]} is here; I turn it on.")
        for place, things in sorted(memory.contents.items()):
            if any(kind(thing) in lamps for thing in things) and f"go to {place}" in possible:
                return Choice(f"go to {place}", f"I have {memory.held}; the {lamps[0]} is at {place}.")
        return self._search(memory, possible, lamps)

    def _free_hands(self, memory: Memory, possible: set[str]) -> Choice | None:
        """Lay down what is not wanted, here if it can be, else where such things are kept."""
        thought = f"I do not need {memory.held}; I lay it down."
        for place in (memory.here, *memory.places):
            put = _laying(memory.held, place, possible)
            if put:
                return Choice(put, thought)
        own = self.fits.get(kind(memory.held), ())
        for place in sorted(memory.places, key=lambda place: (kind(place) in _USUALLY_CLOSED, _in_order(place))):
            if kind(place) in own:
                if f"open {place}" in possible:
                    return Choice(f"open {place}", f"{thought} {place} is closed.")
                if f"go to {place}" in possible:
                    return Choice(f"go to {place}", thought)
        return None

    # ---- two of a kind -----------------------------------------------------------------------
    def _destination_in_use(self, memory: Memory) -> str:
        """For two objects: the place where one lies already, as far as is known."""
        if self.goal.count < 2:
            return ""
        for place, things in memory.contents.items():
            if kind(place) in self.goal.place_kinds and any(self._is_ready(memory, thing) for thing in things):
                return place
        return ""

    def _is_ready(self, memory: Memory, thing: str) -> bool:
        done = memory.treated.get(thing, set())
        return kind(thing) in self.goal.target_kinds and all(_TREATMENTS[mark][0] in done for mark in self.goal.marks)


class Playable(Protocol):
    """A game to show the demonstration on."""

    won: bool

    def step(self, command: str) -> str: ...
    def admissible(self) -> list[str]: ...


def demonstrate(expert: Expert, memory: Memory, game: Playable, limit: int = 80) -> list[Choice]:
    """Play a game from where it stands to its end, or until nothing is left to try; changes both arguments."""
    choices: list[Choice] = []
    while not game.won and len(choices) < limit:
        choice = expert.decide(memory, game.admissible())
        if choice is None:
            break
        choices.append(choice)
        memory.observe(choice.command, game.step(choice.command))
    return choices


def _laying(thing: str, place: str, possible: set[str]) -> str:
    for command in (f"move {thing} to {place}", f"put {thing} in/on {place}"):
        if command in possible:
            return command
    return ""


def _in_order(name: str) -> tuple[str, int]:
    own, _, number = name.rpartition(" ")
    return own, int(number) if number.isdigit() else 0
