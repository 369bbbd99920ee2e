"""What a goal asks for, in words and in steps: read off its formula, not off the task sentence."""

from __future__ import annotations

from dataclasses import dataclass

from icto_gym.envs.alfworld.ways import Need, Way, goal_ways
from icto_gym.envs.alfworld.world import State, World

_DONE = {"ishot": "heated", "iscool": "cooled", "isclean": "cleaned"}
_STATES = {"ishot": "hot", "iscool": "cool", "isclean": "clean"}


@dataclass(frozen=True, slots=True)
class Outline:
    """The shape of a goal."""

    targets: frozenset[int]
    """Objects that shall be moved, treated or held."""
    lamps: frozenset[int]
    target_kinds: tuple[str, ...]
    """Their kinds as in their names, such as ``("mug",)``."""
    lamp_kinds: tuple[str, ...]
    place_kinds: tuple[str, ...]
    """Kinds of receptacles that the targets go to; empty if they are to be held."""
    marks: tuple[str, ...]
    """What is to be done to them: ``"ishot"``, ``"iscool"``, ``"isclean"``."""
    count: int
    """How many targets a way to the goal takes."""
    ways: tuple[Way, ...]


def outline(world: World) -> Outline | None:
    """The outline of a game's goal; None for a goal of another shape than ALFWorld's."""
    if "outline" not in world.memo:
        world.memo["outline"] = _outline(world)
    found: Outline | None = world.memo["outline"]
    return found


def _outline(world: World) -> Outline | None:
    ways = goal_ways(world.goal.formula)
    if not ways:
        return None
    needs = [need for way in ways for need in way.needs]
    wanted = [need for need in needs if not need.toggled]
    return Outline(
        targets=frozenset(need.thing for need in wanted),
        lamps=frozenset(need.thing for need in needs if need.toggled),
        target_kinds=_kinds(world.objects, {need.thing for need in wanted}),
        lamp_kinds=_kinds(world.objects, {need.thing for need in needs if need.toggled}),
        place_kinds=_kinds(world.receptacles, {need.receptacle for need in wanted} - {-1}),
        marks=tuple(sorted({mark for need in wanted for mark in need.marks})),
        count=max(len([need for need in way.needs if not need.toggled]) for way in ways),
        ways=tuple(ways),
    )


def _kinds(names: list[str], numbers: set[int]) -> tuple[str, ...]:
    return tuple(sorted({_kind(names[number]) for number in numbers}))


def subgoals(world: World, state: State, seen: frozenset[int], touched: frozenset[int]) -> dict[str, bool]:
    """How far the goal has come, in the order in which its parts are usually reached.

    Args:
        world: the game.
        state: the state to judge.
        seen: objects seen so far in the episode.
        touched: objects taken so far.

    Returns:
        ``found`` and ``held`` (ever, a target); ``heated`` / ``cooled`` / ``cleaned`` (now, one that was
        held: what lies cold in the fridge does not count before); ``lamp_on`` (now); ``placed`` and
        ``second_placed`` (now, with everything the goal asks of the object); only the parts the goal
        has. Empty for a goal of another shape.
    """
    goal = outline(world)
    if goal is None:
        return {}
    found = {"found": bool(goal.targets & seen), "held": bool(goal.targets & touched)}
    for mark in goal.marks:
        found[_DONE[mark]] = bool(goal.targets & touched & getattr(state, _STATES[mark]))
    if goal.lamps:
        found["lamp_on"] = bool(goal.lamps & state.toggled)
    if goal.place_kinds:
        met = _met(state, goal)
        found["placed"] = bool(met)
        if goal.count > 1:
            found["second_placed"] = len(met) > 1 and any(
                sum(need in met for need in way.needs) > 1 for way in goal.ways
            )
    return found


def _met(state: State, goal: Outline) -> set[Need]:
    """Needs for a place that are met now, treatment included."""
    return {
        need
        for way in goal.ways
        for need in way.needs
        if need.receptacle >= 0
        and not need.toggled
        and need.thing in state.inside[need.receptacle]
        and all(need.thing in getattr(state, _STATES[mark]) for mark in need.marks)
    }


def kept_in(world: World) -> dict[str, frozenset[str]]:
    """Kind of object to the kinds of receptacles it can be kept in: what everyone knows of a household."""
    if "kept_in" not in world.memo:
        found: dict[str, set[str]] = {}
        for thing, receptacles in zip(world.objects, world.fits, strict=True):
            names = {_kind(world.receptacles[number]) for number in receptacles if world.place_of[number] >= 0}
            found.setdefault(_kind(thing), set()).update(names)
        world.memo["kept_in"] = {name: frozenset(kinds) for name, kinds in found.items()}
    homes: dict[str, frozenset[str]] = world.memo["kept_in"]
    return homes


def _kind(name: str) -> str:
    return name.rpartition(" ")[0]
