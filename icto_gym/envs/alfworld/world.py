"""What never changes in a game: names, places, kinds and abilities of things.

A `World` is made once per problem and shared by every game that plays it. Receptacles, objects and
locations are numbered in the order of their ids, which is the order of every list in the texts.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from icto_gym.envs.alfworld.goal import Goal, ground_goal
from icto_gym.envs.alfworld.grammar import NEW, Rules
from icto_gym.envs.alfworld.pddl import Problem, UnsupportedGame

HEATER, COOLER, CLEANER = "microwavetype", "fridgetype", "sinkbasintype"
KNIVES = frozenset({"knifetype", "butterknifetype"})


class State(NamedTuple):
    """Everything that can change. Immutable, so that a snapshot costs nothing."""

    location: int
    holding: tuple[int, ...]
    """Objects in hand: at most one, unless the problem starts otherwise."""
    hands_full: bool
    inside: tuple[tuple[int, ...], ...]
    """Per receptacle the objects in it, ascending."""
    lying: frozenset[tuple[int, int]]
    """(object, location) facts; see the fixture notes on how they part from ``inside``."""
    taken: frozenset[tuple[int, int]]
    """(object, receptacle) pairs of which the object was taken out and not put back."""
    opened: frozenset[int]
    hot: frozenset[int]
    cool: frozenset[int]
    clean: frozenset[int]
    sliced: frozenset[int]
    toggled: frozenset[int]
    on: frozenset[int]


@dataclass(slots=True, eq=False)
class World:
    """The static part of a game. Numbers index ``receptacles``, ``objects`` and ``locations``."""

    rules: Rules
    task: str
    """The task sentence, without its full stop."""
    receptacles: list[str]
    """Names, such as ``"cabinet 3"``."""
    objects: list[str]
    locations: list[str]
    object_types: list[tuple[str, ...]]
    receptacle_types: list[tuple[str, ...]]
    place_of: list[int]
    """Location of each receptacle, -1 for one that stands nowhere."""
    at: dict[int, tuple[int, ...]]
    """Location to the receptacles there."""
    openable: frozenset[int]
    pickupable: frozenset[int]
    heatable: frozenset[int]
    coolable: frozenset[int]
    cleanable: frozenset[int]
    sliceable: frozenset[int]
    toggleable: frozenset[int]
    vessels: dict[int, tuple[int, ...]]
    """Receptacle objects (mugs, plates, ...) to what the problem says lies in them."""
    fits: list[frozenset[int]]
    """Per object the receptacles that can contain it."""
    knives: frozenset[int]
    heaters: frozenset[int]
    coolers: frozenset[int]
    cleaners: frozenset[int]
    start: State
    goal: Goal
    memo: dict[str, Any] = field(default_factory=dict)
    """What others derive from this world, kept with it: planners, goal outlines."""
    receptacle_numbers: dict[str, int] = field(default_factory=dict)
    object_numbers: dict[str, int] = field(default_factory=dict)
    standing_commands: dict[int, list[str]] = field(default_factory=dict)
    """Location to the sorted commands that are always possible there."""

    def __post_init__(self) -> None:
        self.receptacle_numbers = {name: number for number, name in enumerate(self.receptacles) if name}
        self.object_numbers = {name: number for number, name in enumerate(self.objects) if name}


def entity_names(ids: set[str]) -> dict[str, str]:
    """Name the ids of a problem as alfworld's demangler does without shuffling.

    The class is what stands before the first ``_bar_``; within a class the first id gets the highest
    number. An id without ``_bar_`` keeps itself as its name, with a blank behind it.
    """
    classes = {name: _class(name) for name in sorted(ids)}
    left = Counter(kind for kind in classes.values() if kind)
    names = {}
    for name, kind in classes.items():
        if kind:
            names[name] = f"{kind} {left[kind]}"
            left[kind] -= 1
        else:
            names[name] = f"{_plain(name)} "
    return names


def _class(name: str) -> str:
    """What stands before the first ``_bar_``; ``""`` if nothing does."""
    kind, bar, _ = name.partition("_bar_")
    if not bar:
        return ""
    return (_plain(kind) if "_" in kind else kind) + ("basin" if "basin" in name else "")


def _plain(text: str) -> str:
    for mark, sign in (("_minus_", "-"), ("_plus_", "+"), ("_dot_", "."), ("_comma_", ",")):
        text = text.replace(mark, sign)
    return text


def build_world(problem: Problem, task: str, rules: Rules = NEW, source: str = "problem") -> World:
    """Compile a problem.

    Raises:
        UnsupportedGame: legal PDDL that the native engine does not cover.
        DataError: a goal that can never hold, or one that cannot be read.
    """
    facts = problem.facts
    agent = _only_agent(problem)
    names = entity_names(set().union(*(entry for entries in facts.values() for entry in entries)))
    of_type = {kind: sorted(name for name, own in problem.objects.items() if own == kind) for kind in
               ("receptacle", "object", "location")}  # fmt: skip
    index = {kind: {name: number for number, name in enumerate(ids)} for kind, ids in of_type.items()}
    receptacle, thing, place = index["receptacle"], index["object"], index["location"]

    def things(predicate: str) -> frozenset[int]:
        return frozenset(thing[entry[0]] for entry in facts[predicate])

    object_types, receptacle_types = _kinds(facts["objecttype"]), _kinds(facts["receptacletype"])
    place_of, at = _places(problem, receptacle, place)
    kinds = [tuple(receptacle_types[name]) for name in of_type["receptacle"]]
    vessels: dict[int, list[int]] = {number: [] for number in sorted(things("isreceptacleobject"))}
    for inner, outer in sorted(facts["inreceptacleobject"]):
        if thing[outer] in vessels:
            vessels[thing[outer]].append(thing[inner])
    start = State(
        location=place[facts["atlocation"][0][1]],
        holding=tuple(sorted(thing[entry[1]] for entry in facts["holds"])),
        hands_full=bool(facts["holdsany"]),
        inside=_inside(facts["inreceptacle"], receptacle, thing),
        lying=frozenset((thing[entry[0]], place[entry[1]]) for entry in facts["objectatlocation"]),
        taken=frozenset(),
        opened=frozenset(receptacle[entry[0]] for entry in facts["opened"]),
        hot=things("ishot"), cool=things("iscool"), clean=things("isclean"),
        sliced=things("issliced"), toggled=things("istoggled"), on=things("ison"),
    )  # fmt: skip
    by_kind: dict[str, set[int]] = defaultdict(set)
    for number, own in enumerate(kinds):
        for kind in own:
            by_kind[kind].add(number)
    world = World(
        rules=rules, task=task,
        receptacles=[names.get(name, "") for name in of_type["receptacle"]],
        objects=[names.get(name, "") for name in of_type["object"]],
        locations=[names.get(name, "") for name in of_type["location"]],
        object_types=[tuple(object_types[name]) for name in of_type["object"]],
        receptacle_types=kinds, place_of=place_of, at=at,
        openable=frozenset(receptacle[entry[0]] for entry in facts["openable"]),
        pickupable=things("pickupable"), heatable=things("heatable"), coolable=things("coolable"),
        cleanable=things("cleanable"), sliceable=things("sliceable"), toggleable=things("toggleable"),
        vessels={outer: tuple(inner) for outer, inner in vessels.items()},
        fits=_fits(facts["cancontain"], of_type["object"], object_types, by_kind),
        knives=frozenset(thing[name] for name in of_type["object"] if KNIVES.intersection(object_types[name])),
        heaters=frozenset(by_kind[HEATER]), coolers=frozenset(by_kind[COOLER]), cleaners=frozenset(by_kind[CLEANER]),
        start=start, goal=ground_goal(problem, index, agent, source),
    )  # fmt: skip
    world.goal.check_reachable(world, source)
    return world


def _only_agent(problem: Problem) -> str:
    agents = [name for name, kind in problem.objects.items() if kind == "agent"]
    if len(agents) != 1 or len(problem.facts["atlocation"]) != 1:
        raise UnsupportedGame(f"{len(agents)} agents at {len(problem.facts['atlocation'])} places")
    return agents[0]


def _kinds(entries: list[tuple[str, ...]]) -> dict[str, list[str]]:
    found: dict[str, list[str]] = defaultdict(list)
    for name, kind in entries:
        found[name].append(kind)
    return found


def _places(
    problem: Problem, receptacle: dict[str, int], place: dict[str, int]
) -> tuple[list[int], dict[int, tuple[int, ...]]]:
    place_of, at = [-1] * len(receptacle), defaultdict(list)
    for name, location in sorted(problem.facts["receptacleatlocation"]):
        if place_of[receptacle[name]] != -1:
            raise UnsupportedGame(f"{name!r} stands in two places")
        place_of[receptacle[name]] = place[location]
        at[place[location]].append(receptacle[name])
    return place_of, {location: tuple(numbers) for location, numbers in at.items()}


def _inside(
    entries: list[tuple[str, ...]], receptacle: dict[str, int], thing: dict[str, int]
) -> tuple[tuple[int, ...], ...]:
    contents: list[list[int]] = [[] for _ in receptacle]
    for name, where in entries:
        contents[receptacle[where]].append(thing[name])
    return tuple(tuple(sorted(numbers)) for numbers in contents)


def _fits(
    entries: list[tuple[str, ...]], objects: list[str], object_types: dict[str, list[str]],
    by_kind: dict[str, set[int]],
) -> list[frozenset[int]]:  # fmt: skip
    accepts: dict[str, set[int]] = defaultdict(set)
    for receptacle_type, object_type in entries:
        accepts[object_type] |= by_kind.get(receptacle_type, set())
    shared = {kind: frozenset(numbers) for kind, numbers in accepts.items()}
    nothing: frozenset[int] = frozenset()
    fits = []
    for name in objects:
        kinds = object_types.get(name, [])
        first = shared.get(kinds[0], nothing) if kinds else nothing
        fits.append(first.union(*(shared.get(kind, nothing) for kind in kinds[1:])) if len(kinds) > 1 else first)
    return fits
