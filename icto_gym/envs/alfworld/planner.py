"""Shortest continuations, on the full state.

A search over what matters to the goal: the objects it names, the one in hand, and the locations at which
something can be done with them. Locations that no one could tell apart (ten empty drawers) are searched
once. The estimate that steers the search counts commands that cannot be saved; a test compares the result
with plain breadth-first search over the whole game.
"""

from __future__ import annotations

from collections import defaultdict
from itertools import permutations
from typing import NamedTuple

from icto_gym.envs.alfworld.ways import TREATMENTS, Way, goal_ways
from icto_gym.envs.alfworld.world import State, World

_UNDONE_BY = {"ishot": "iscool", "iscool": "ishot"}
_SLACK = 8
"""How far above the estimate the search looks before it gives up."""


class Node(NamedTuple):
    """The part of a `State` that matters."""

    location: int
    held: int
    """-1: nothing."""
    where: tuple[int, ...]
    """Receptacle of each thing that matters, -1: in no receptacle."""
    marks: frozenset[tuple[int, str]]
    opened: frozenset[int]


class Move(NamedTuple):
    """A command: kind, receptacle (or location for ``go``), thing."""

    kind: str
    place: int
    thing: int


class Planner:
    """Plans for one game; keeps what does not depend on the state."""

    def __init__(self, world: World, put_verb: str | None = None) -> None:
        """Args:
        world: the game.
        put_verb: ``"move"`` or ``"put"`` for the commands it gives; None: the game's own.
        """
        self.world = world
        self.put_verb = put_verb or world.rules.put_verb
        self.ways = goal_ways(world.goal.formula)
        """None: the goal asks for something the planner does not cover."""
        self.roles = _roles(self.ways or [])

    def distance(self, state: State) -> int | None:
        """Commands of a shortest continuation; None: unknown or there is none."""
        search = self._search(state)
        return search.distance() if search else None

    def optimal_actions(self, state: State) -> set[str] | None:
        """All commands that begin a shortest continuation; empty if the goal holds already."""
        search = self._search(state)
        if search is None or search.distance() is None:
            return None
        return {command for move in search.best_moves() for command in search.commands(move)}

    def plan(self, state: State) -> list[str] | None:
        """One shortest continuation, the first in alphabetical order at each step."""
        from icto_gym.envs.alfworld.engine import Game

        game = Game(self.world, self.put_verb)
        game.restore(state)
        commands: list[str] = []
        while not game.won:
            best = self.optimal_actions(game.state)
            if not best:
                return None
            commands.append(min(best))
            game.step(commands[-1])
        return commands

    def _search(self, state: State) -> Search | None:
        if self.ways is None or len(state.holding) > 1 or bool(state.holding) != state.hands_full:
            return None
        search = Search(self, state)
        return None if search.stuck else search


class Search:
    """One question about one state."""

    def __init__(self, planner: Planner, state: State) -> None:
        self.world, self.put_verb = planner.world, planner.put_verb
        ways = planner.ways or []
        self.things = sorted({need.thing for way in ways for need in way.needs} | set(state.holding))
        self.slot = {thing: number for number, thing in enumerate(self.things)}
        self.wanted_marks = {(need.thing, mark) for way in ways for need in way.needs for mark in need.marks}
        self.lamps = {need.thing for way in ways for need in way.needs if need.toggled}
        self.start = self._node(state)
        self.stuck = self._is_stuck(state)
        self.classes = self._location_classes(planner, state)
        kept = {members[0] for members in self.classes.values()}
        self.kept = sorted(kept)
        self.ways = [way for way in ways if self._is_kept(way, kept)]
        self._failed: dict[Node, int] = {}
        self._solved: dict[Node, int] = {}
        self._distance: int | None = -1

    # ---- the answer --------------------------------------------------------------------------
    def distance(self) -> int | None:
        """Length of a shortest continuation."""
        if self._distance == -1:
            first = self.estimate(self.start)
            bounds = range(first, first + _SLACK) if first < _FAR else range(0)
            self._distance = next((bound for bound in bounds if self.within(self.start, bound)), None)
        return self._distance

    def best_moves(self) -> list[Move]:
        """The moves that begin a shortest continuation."""
        distance = self.distance()
        if not distance:
            return []
        return [move for move, node in self.successors(self.start) if self.within(node, distance - 1)]

    def commands(self, move: Move) -> list[str]:
        """The commands that a move stands for: several where locations are alike."""
        world = self.world
        if move.kind == "go":
            members = next(members for members in self.classes.values() if members[0] == move.place)
            return [f"go to {world.receptacles[number]}" for place in members for number in world.at[place]]
        receptacle = world.receptacles[move.place] if move.place >= 0 else ""
        thing = world.objects[move.thing] if move.thing >= 0 else ""
        if move.kind == "put":
            joint = "to" if self.put_verb == "move" else "in/on"
            return [f"{self.put_verb} {thing} {joint} {receptacle}"]
        if move.kind == "open":
            return [f"open {receptacle}"]
        if move.kind == "use":
            return [f"use {thing}"]
        return [f"{move.kind} {thing} {'from' if move.kind == 'take' else 'with'} {receptacle}"]

    # ---- the search --------------------------------------------------------------------------
    def within(self, node: Node, bound: int) -> bool:
        """Can the goal be reached from here in at most ``bound`` commands?"""
        least = self.estimate(node)
        if least == 0:
            return True
        if least > bound or self._failed.get(node, -1) >= bound:
            return False
        if self._solved.get(node, _FAR) <= bound:
            return True
        if any(self.within(after, bound - 1) for _, after in self.successors(node)):
            self._solved[node] = min(bound, self._solved.get(node, _FAR))
            return True
        self._failed[node] = bound
        return False

    def successors(self, node: Node) -> list[tuple[Move, Node]]:
        """What can be done, as far as it can matter."""
        world = self.world
        found = []
        for number in world.at.get(node.location, ()):
            if number in world.openable and number not in node.opened:
                found.append((Move("open", number, -1), node._replace(opened=node.opened | {number})))
                reachable = False
            else:
                reachable = True
            found += self._handling(node, number, reachable)
        return found + [(Move("go", place, -1), node._replace(location=place))
                        for place in self.kept if place != node.location]  # fmt: skip

    def _handling(self, node: Node, receptacle: int, reachable: bool) -> list[tuple[Move, Node]]:
        world, found = self.world, []
        held = node.held
        if held >= 0:
            if reachable and receptacle in world.fits[held]:
                where = _with(node.where, self.slot[held], receptacle)
                found.append((Move("put", receptacle, held), node._replace(held=-1, where=where)))
            for mark, verb in TREATMENTS.items():
                if (held, mark) in self.wanted_marks and receptacle in self._tools(mark) and held in self._able(mark):
                    marks = (node.marks - {(held, _UNDONE_BY.get(mark, ""))}) | {(held, mark)}
                    found.append((Move(verb, receptacle, held), node._replace(marks=marks)))
        for thing, inside in zip(self.things, node.where, strict=True):
            if inside != receptacle:
                continue
            if held < 0 and reachable and thing in world.pickupable:
                after = node._replace(held=thing, where=_with(node.where, self.slot[thing], -1))
                found.append((Move("take", receptacle, thing), after))
            if thing in self.lamps and thing in world.toggleable and (thing, "istoggled") not in node.marks:
                after = node._replace(marks=node.marks | {(thing, "istoggled")})
                found.append((Move("use", receptacle, thing), after))
        return found

    def _tools(self, mark: str) -> frozenset[int]:
        return {"ishot": self.world.heaters, "iscool": self.world.coolers, "isclean": self.world.cleaners}[mark]

    def _able(self, mark: str) -> frozenset[int]:
        return {"ishot": self.world.heatable, "iscool": self.world.coolable, "isclean": self.world.cleanable}[mark]

    # ---- the estimate ------------------------------------------------------------------------
    def estimate(self, node: Node) -> int:
        """A lower bound on the commands still needed; 0 exactly where the goal holds."""
        return min((self._estimate_way(node, way) for way in self.ways), default=_FAR)

    def _estimate_way(self, node: Node, way: Way) -> int:
        world = self.world
        commands = 0
        to_open: set[int] = set()
        trips: list[list[int]] = []
        takes = False
        held_counted = node.held < 0
        for need in way.needs:
            thing = need.thing
            if need.toggled and (thing, "istoggled") not in node.marks:
                commands += 1
            missing = [mark for mark in need.marks if (thing, mark) not in node.marks]
            where = node.where[self.slot[thing]]
            is_held = node.held == thing
            placed = need.receptacle < 0 or where == need.receptacle
            if not missing and placed and (is_held or not need.held):
                continue
            if not is_held:
                if where < 0 or thing not in world.pickupable or world.place_of[where] < 0:
                    return _FAR
                takes = True
                commands += 1
                if where in world.openable and where not in node.opened:
                    to_open.add(where)
            stops = [] if is_held else [world.place_of[where]]
            for mark in missing:
                places = {world.place_of[tool] for tool in self._tools(mark)} - {-1}
                if not places or thing not in self._able(mark):
                    return _FAR
                commands += 1
                stops.append(next(iter(places)) if len(places) == 1 else _ANYWHERE)
            if need.receptacle >= 0:
                if need.receptacle not in world.fits[thing]:
                    return _FAR
                commands += 1
                stops.append(world.place_of[need.receptacle])
                held_counted = held_counted or is_held
                if need.receptacle in world.openable and need.receptacle not in node.opened:
                    to_open.add(need.receptacle)
            trips.append(stops)
        if takes and not held_counted:
            commands += 1  # what is in hand must be laid down first
        return commands + len(to_open) + _moves(node.location, trips, way.location)

    # ---- what matters ------------------------------------------------------------------------
    def _node(self, state: State) -> Node:
        inside: dict[int, int] = {}
        for number, contents in enumerate(state.inside):
            for thing in contents:
                if thing in self.slot and self.world.place_of[number] >= 0:
                    inside.setdefault(thing, number)
        marks = {(thing, mark) for mark, things in (("ishot", state.hot), ("iscool", state.cool),
                 ("isclean", state.clean), ("istoggled", state.toggled)) for thing in things}  # fmt: skip
        kept = frozenset(entry for entry in marks if entry in self.wanted_marks or entry[0] in self.lamps)
        held = state.holding[0] if state.holding else -1
        where = tuple(inside.get(thing, -1) for thing in self.things)
        return Node(state.location, held, where, kept, state.opened)

    def _is_stuck(self, state: State) -> bool:
        """Beyond the search: an object in two places at once, or one in hand that fits nowhere."""
        inside = [thing for number, contents in enumerate(state.inside) if self.world.place_of[number] >= 0
                  for thing in contents if thing in self.slot]  # fmt: skip
        if len(set(inside)) < len(inside):
            return True
        if not state.holding:
            return False
        return not any(self.world.place_of[number] >= 0 for number in self.world.fits[state.holding[0]])

    def _location_classes(self, planner: Planner, state: State) -> dict[object, list[int]]:
        """Locations that cannot be told apart, the agent's own and those with things in them each alone."""
        world = self.world
        occupied = {number for number in self.start.where if number >= 0}
        classes: dict[object, list[int]] = defaultdict(list)
        for place, numbers in sorted(world.at.items()):
            if place == state.location or occupied.intersection(numbers):
                classes["own", place].append(place)
                continue
            kinds = tuple(sorted(self._kind_of(planner, number, state) for number in numbers))
            if any(any(kind[1:]) for kind in kinds):
                classes[kinds].append(place)
        return classes

    def _kind_of(self, planner: Planner, number: int, state: State) -> tuple[int, ...]:
        world = self.world
        shut = number in world.openable and number not in state.opened
        tool = 4 * (number in world.heaters) + 2 * (number in world.coolers) + (number in world.cleaners)
        fits = sum(1 << slot for slot, thing in enumerate(self.things) if number in world.fits[thing])
        return (int(shut), planner.roles.get(number, 0), tool, fits)

    def _is_kept(self, way: Way, kept: set[int]) -> bool:
        places = [self.world.place_of[need.receptacle] for need in way.needs if need.receptacle >= 0]
        return all(place in kept for place in places) and (way.location < 0 or way.location in kept)


_FAR = 1_000
_ANYWHERE = -2
"""One of several locations; the estimate does not say which."""


def _with(values: tuple[int, ...], slot: int, value: int) -> tuple[int, ...]:
    return (*values[:slot], value, *values[slot + 1 :])


def _moves(start: int, trips: list[list[int]], end: int) -> int:
    """Fewest changes of location over all orders of the trips; a trip with something in hand comes first."""
    least = _FAR
    for order in permutations(trips) if len(trips) > 1 else (trips,):
        here, moves = start, 0
        for stops in order:
            for stop in stops:
                if stop in (_ANYWHERE, here):
                    continue
                here, moves = stop, moves + 1
        least = min(least, moves + (end >= 0 and end != here))
    return least


def _roles(ways: list[Way]) -> dict[int, int]:
    """A number per receptacle; equal numbers: the goal cannot tell the receptacles apart."""
    asked: dict[int, set[object]] = defaultdict(set)
    for way in ways:
        for receptacle in {need.receptacle for need in way.needs} - {-1}:
            shape = tuple((need.thing, need.receptacle == receptacle or need.receptacle, need.marks, need.held,
                           need.toggled) for need in way.needs)  # fmt: skip
            asked[receptacle].add((shape, way.location))
    numbers: dict[frozenset[object], int] = {}
    return {receptacle: numbers.setdefault(frozenset(shapes), len(numbers) + 1) for receptacle, shapes in asked.items()}
