"""The goal of a problem, evaluated as it is written.

Quantifiers are expanded once, with everything that never changes already decided; what is left is a
formula over facts that can change, checked after every command.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import product
from typing import TYPE_CHECKING, Any

from icto_gym.envs.alfworld.pddl import PREDICATES, TYPES, Problem, UnsupportedGame
from icto_gym.errors import DataError, did_you_mean

if TYPE_CHECKING:
    from icto_gym.envs.alfworld.world import State, World

Formula = Any
"""True, False, ``("atom", Atom)``, ``("not", f)``, ``("and", (f, ...))`` or ``("or", (f, ...))``."""
Atom = tuple[Any, ...]
"""A predicate and numbers: ``("inreceptacle", object, receptacle)``, ``("holds", object)``, ..."""
Test = Callable[["State"], bool]

CHANGING = frozenset({
    "atlocation", "objectatlocation", "opened", "inreceptacle", "holds", "holdsany", "isclean", "ishot", "iscool",
    "ison", "istoggled", "issliced",
})  # fmt: skip
"""Predicates that commands change; all others are decided when the game is loaded."""
_UNTRACKED = frozenset({"checked"})
_MARKS = {"ishot": "hot", "iscool": "cool", "isclean": "clean", "issliced": "sliced", "istoggled": "toggled",
          "ison": "on", "opened": "opened"}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Goal:
    """A formula and how to check it."""

    formula: Formula
    holds: Test
    """Does the goal hold in a state?"""
    predicates: frozenset[str]
    """The changing predicates it depends on."""
    relaxed: Callable[[], Formula]
    """The formula as if all things were different from one another, as the original's planner takes it on loading."""

    def check_reachable(self, world: World, source: str) -> None:
        """Refuse a goal that nothing can ever bring about, as the original fails on loading it.

        Like the original it lets pass a goal of two things of which the game has one, which can be played and not won.

        Raises:
            DataError: naming the file.
        """
        if not _possible(self.formula, world) and not _possible(self.relaxed(), world):
            raise DataError(f"{source}: goal: it can never be reached; nothing in this game brings it about.")


def ground_goal(problem: Problem, index: dict[str, dict[str, int]], agent: str, source: str) -> Goal:
    """Expand the goal of a problem; ``index`` numbers its receptacles, objects and locations."""
    formula = _Grounder(problem, index, agent, source).ground(problem.goal, {})
    predicates: set[str] = set()
    _collect(formula, predicates)

    def relaxed() -> Formula:
        return _Grounder(problem, index, agent, source, relaxed=True).ground(problem.goal, {})

    return Goal(formula, _compile(formula), frozenset(predicates), relaxed)


class _Grounder:
    def __init__(
        self, problem: Problem, index: dict[str, dict[str, int]], agent: str, source: str, *, relaxed: bool = False
    ) -> None:
        self.problem, self.index, self.agent, self.source, self.relaxed = problem, index, agent, source, relaxed
        self.facts: dict[str, set[tuple[str, ...]]] = {}

    def fail(self, message: str) -> DataError:
        return DataError(f"{self.source}: goal: {message}")

    def ground(self, node: Any, binding: dict[str, str]) -> Formula:
        """Substitute, decide what is decided, simplify."""
        if not isinstance(node, list) or not node or not isinstance(node[0], str):
            if node == []:
                return True
            raise self.fail(f"{node!r:.60} is no condition.")
        head, rest = node[0], node[1:]
        if head == "and":
            return _join("and", (self.ground(part, binding) for part in rest))
        if head == "or":
            return _join("or", (self.ground(part, binding) for part in rest))
        if head == "not":
            if self.relaxed and rest and isinstance(rest[0], list) and rest[0][:1] == ["="]:
                return True
            return _negate(self.ground(self.only(rest, head), binding))
        if head == "imply" and len(rest) == 2:
            return _join("or", iter((_negate(self.ground(rest[0], binding)), self.ground(rest[1], binding))))
        if head == "exists":
            return _join("or", self.exists(rest, binding))
        if head == "forall":
            names, body = self.quantified(rest)
            choices = product(*(self.domain(kind) for kind in names.values()))
            bound = ({**binding, **dict(zip(names, choice, strict=True))} for choice in choices)
            return _join("and", (self.ground(body, one) for one in bound))
        if head == "=":
            left, right = (self.value(term, binding) for term in self.pair(rest))
            return left == right
        return self.atom(head, rest, binding)

    def only(self, rest: list[Any], head: str) -> Any:
        if len(rest) != 1:
            raise self.fail(f"{head!r} takes one condition, found {len(rest)}.")
        return rest[0]

    def pair(self, rest: list[Any]) -> list[Any]:
        if len(rest) != 2:
            raise self.fail(f"'=' takes two names, found {len(rest)}.")
        return rest

    def quantified(self, rest: list[Any]) -> tuple[dict[str, str], Any]:
        """The variables (name to type) and the body of a quantifier."""
        if len(rest) != 2 or not isinstance(rest[0], list):
            raise self.fail("a quantifier takes a list of variables and one condition.")
        names: dict[str, str] = {}
        pending: list[str] = []
        words = iter(rest[0])
        for word in words:
            if word == "-":
                kind = next(words, "(nothing)")
                if kind not in TYPES:
                    raise self.fail(f"unknown type {kind!r}.{did_you_mean(str(kind), TYPES)}")
                names.update(dict.fromkeys(pending, kind))
                pending = []
            else:
                pending.append(word)
        names.update(dict.fromkeys(pending, "object"))
        return names, rest[1]

    def domain(self, kind: str) -> list[str]:
        """Names of a type; ``object`` is what the planner calls the type of everything."""
        return [name for name, own in self.problem.objects.items() if kind in (own, "object")]

    def value(self, term: Any, binding: dict[str, str]) -> str:
        if isinstance(term, str) and term.startswith("?"):
            if term not in binding:
                raise self.fail(f"the variable {term!r} is not bound.{did_you_mean(term, binding)}")
            return binding[term]
        if term not in self.problem.objects:
            raise self.fail(f"{term!r} is not declared.{did_you_mean(str(term), self.problem.objects)}")
        return term

    def atom(self, head: str, rest: list[Any], binding: dict[str, str]) -> Formula:
        if head not in PREDICATES:
            raise self.fail(f"unknown predicate {head!r}.{did_you_mean(head, PREDICATES)}")
        if len(rest) != len(PREDICATES[head]):
            raise self.fail(f"{head!r} takes {len(PREDICATES[head])} names, found {len(rest)}.")
        if head in _UNTRACKED:
            raise UnsupportedGame(f"the goal asks for {head!r}")
        values = tuple(self.value(term, binding) for term in rest)
        if head not in CHANGING:
            return values in self.facts_of(head)
        numbers = []
        for value, kind in zip(values, PREDICATES[head], strict=True):
            if self.problem.objects[value] != kind:
                return False  # nothing makes a fact about the wrong type true
            if kind != "agent":
                numbers.append(self.index[kind][value])
        return ("atom", (head, *numbers))

    def facts_of(self, predicate: str) -> set[tuple[str, ...]]:
        if predicate not in self.facts:
            self.facts[predicate] = set(self.problem.facts[predicate])
        return self.facts[predicate]

    def exists(self, rest: list[Any], binding: dict[str, str]) -> Iterator[Formula]:
        """One formula per way to bind the variables, led by the facts that never change."""
        names, body = self.quantified(rest)
        while isinstance(body, list) and body[:1] == ["exists"]:
            more, inner = self.quantified(body[1:])
            if names.keys() & more.keys():
                break
            names, body = {**names, **more}, inner
        parts = body[1:] if isinstance(body, list) and body[:1] == ["and"] else [body]
        fixed = [part for part in parts if self.is_fixed(part)]
        open_parts = [part for part in parts if not self.is_fixed(part)]
        inherited = {name: value for name, value in binding.items() if name not in names}
        for bound in self.bindings(fixed, names, inherited):
            yield _join("and", (self.ground(part, bound) for part in open_parts))

    def is_fixed(self, part: Any) -> bool:
        return (
            isinstance(part, list) and bool(part) and part[0] in PREDICATES and part[0] not in CHANGING | _UNTRACKED
            and len(part) - 1 == len(PREDICATES[part[0]])
        )  # fmt: skip

    def bindings(self, fixed: list[Any], names: dict[str, str], binding: dict[str, str]) -> Iterator[dict[str, str]]:
        """Join the fixed conditions, the one with the fewest facts first; then try every name."""
        if not fixed:
            free = [name for name in names if name not in binding]
            for choice in product(*(self.domain(names[name]) for name in free)):
                yield {**binding, **dict(zip(free, choice, strict=True))}
            return
        matches = [self.matches(part, names, binding) for part in fixed]
        best = min(range(len(fixed)), key=lambda number: len(matches[number]))
        remaining = fixed[:best] + fixed[best + 1 :]
        for match in matches[best]:
            yield from self.bindings(remaining, names, {**binding, **match})

    def matches(self, part: list[Any], names: dict[str, str], binding: dict[str, str]) -> list[dict[str, str]]:
        """What each fact that fits a condition binds."""
        free: list[tuple[int, str]] = []
        facts = self.problem.facts[part[0]]
        for position, term in enumerate(part[1:]):
            if term in names and term not in binding:
                free.append((position, term))
            else:
                value = self.value(term, binding)
                facts = [fact for fact in facts if fact[position] == value]
        found = []
        for fact in facts:
            bound = {term: fact[position] for position, term in free}
            same = all(bound[term] == fact[position] for position, term in free)
            if same and all(self.is_kind(value, names[term]) for term, value in bound.items()):
                found.append(bound)
        return found

    def is_kind(self, value: str, kind: str) -> bool:
        return kind in (self.problem.objects[value], "object")


def _join(kind: str, parts: Iterator[Formula]) -> Formula:
    """Simplified conjunction or disjunction."""
    decisive = kind == "or"
    kept: list[Formula] = []
    for part in parts:
        if part is decisive:
            return decisive
        if part is (not decisive):
            continue
        kept.extend(part[1] if part[0] == kind else (part,))
    if not kept:
        return not decisive
    return kept[0] if len(kept) == 1 else (kind, tuple(kept))


def _negate(formula: Formula) -> Formula:
    return (not formula) if isinstance(formula, bool) else ("not", formula)


def _collect(formula: Formula, predicates: set[str]) -> None:
    if isinstance(formula, bool):
        return
    if formula[0] == "atom":
        predicates.add(formula[1][0])
    else:
        for part in formula[1] if formula[0] != "not" else (formula[1],):
            _collect(part, predicates)


def _compile(formula: Formula) -> Test:
    if isinstance(formula, bool):
        return lambda state: formula
    if formula[0] == "atom":
        return atom_test(formula[1])
    if formula[0] == "not":
        inner = _compile(formula[1])
        return lambda state: not inner(state)
    tests = tuple(_compile(part) for part in formula[1])
    return _any(tests) if formula[0] == "or" else _all(tests)


def _any(tests: tuple[Test, ...]) -> Test:
    def test(state: State) -> bool:
        for one in tests:  # noqa: SIM110 - a generator costs more than the loop
            if one(state):
                return True
        return False

    return test


def _all(tests: tuple[Test, ...]) -> Test:
    def test(state: State) -> bool:
        for one in tests:  # noqa: SIM110
            if not one(state):
                return False
        return True

    return test


def atom_test(atom: Atom) -> Test:
    """A check of one fact."""
    head, numbers = atom[0], atom[1:]
    if head == "inreceptacle":
        thing, receptacle = numbers
        return lambda state: thing in state.inside[receptacle]
    if head == "holds":
        return lambda state: numbers[0] in state.holding
    if head == "atlocation":
        return lambda state: state.location == numbers[0]
    if head == "holdsany":
        return lambda state: state.hands_full
    if head == "objectatlocation":
        return lambda state: numbers in state.lying
    mark, number = _MARKS[head], numbers[0]
    return lambda state: number in getattr(state, mark)


def _possible(formula: Formula, world: World) -> bool:
    """Could the formula ever hold, if nothing ever got in the way? (What a planner calls relaxed.)"""
    if isinstance(formula, bool):
        return formula
    if formula[0] == "not":
        return True
    if formula[0] == "atom":
        return atom_test(formula[1])(world.start) or _can_become(formula[1], world)
    check = any if formula[0] == "or" else all
    return check(_possible(part, world) for part in formula[1])


def _can_become(atom: Atom, world: World) -> bool:
    head, numbers = atom[0], atom[1:]
    stands = [number for number, place in enumerate(world.place_of) if place >= 0]
    if head == "atlocation":
        return numbers[0] in world.at
    if head == "opened":
        return numbers[0] in world.openable and numbers[0] in stands
    if head == "holdsany":
        return any(_can_hold(number, world) for number in world.pickupable)
    thing = numbers[0]
    if head in ("istoggled", "ison"):
        return thing in world.toggleable and any(thing in world.start.inside[number] for number in stands)
    if head == "issliced":
        return thing in world.sliceable and any(_can_hold(knife, world) for knife in world.knives)
    if head == "holds":
        return _can_hold(thing, world)
    if head == "inreceptacle":
        return _can_hold(thing, world) and numbers[1] in world.fits[thing] and world.place_of[numbers[1]] >= 0
    if head == "objectatlocation":
        return _can_hold(thing, world) and any(
            world.place_of[number] == numbers[1] for number in world.fits[thing] if number in stands
        )
    able, tools = {
        "ishot": (world.heatable, world.heaters),
        "iscool": (world.coolable, world.coolers),
        "isclean": (world.cleanable, world.cleaners),
    }[head]
    return thing in able and _can_hold(thing, world) and any(number in stands for number in tools)


def _can_hold(thing: int, world: World) -> bool:
    if thing in world.start.holding:
        return True
    return thing in world.pickupable and any(
        thing in contents for number, contents in enumerate(world.start.inside) if world.place_of[number] >= 0
    )
