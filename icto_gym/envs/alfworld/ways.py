"""A goal as alternatives: what each way to fulfil it asks of which object."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import product

from icto_gym.envs.alfworld.goal import Atom, Formula

TREATMENTS = {"ishot": "heat", "iscool": "cool", "isclean": "clean"}
"""Marks on objects to the verbs that make them."""
_KNOWN = frozenset({*TREATMENTS, "inreceptacle", "holds", "atlocation", "istoggled"})
_MAX_WAYS = 20_000


@dataclass(frozen=True, slots=True)
class Need:
    """What a way to the goal asks of one object."""

    thing: int
    receptacle: int
    """Where it shall be, -1: anywhere."""
    marks: frozenset[str]
    """``"ishot"``, ``"iscool"``, ``"isclean"``."""
    held: bool
    toggled: bool


@dataclass(frozen=True, slots=True)
class Way:
    """One conjunction that fulfils the goal."""

    needs: tuple[Need, ...]
    location: int
    """Where the agent shall be, -1: anywhere."""


def goal_ways(formula: Formula) -> list[Way] | None:
    """The goal as alternatives; None if it holds something that the planner does not cover."""
    conjunctions = _alternatives(formula)
    if conjunctions is None:
        return None
    return [_way(atoms) for atoms in sorted(conjunctions, key=sorted)]


def _alternatives(formula: Formula) -> set[frozenset[Atom]] | None:
    if isinstance(formula, bool):
        return {frozenset()} if formula else set()
    if formula[0] == "atom":
        return {frozenset({formula[1]})} if formula[1][0] in _KNOWN else None
    if formula[0] == "not":
        return None
    parts = [_alternatives(part) for part in formula[1]]
    known = [part for part in parts if part is not None]
    if len(known) < len(parts):
        return None
    if formula[0] == "or":
        return set().union(*known)
    size = 1
    for part in known:
        size *= len(part)
    if size > _MAX_WAYS:
        return None
    return {frozenset().union(*choice) for choice in product(*known)}


def _way(atoms: frozenset[Atom]) -> Way:
    things = sorted({atom[1] for atom in atoms if atom[0] != "atlocation"})
    needs = []
    for thing in things:
        own = [atom for atom in atoms if atom[0] != "atlocation" and atom[1] == thing]
        names = {atom[0] for atom in own}
        receptacles = [atom[2] for atom in own if atom[0] == "inreceptacle"]
        needs.append(
            Need(thing, receptacles[0] if receptacles else -1, frozenset(names & TREATMENTS.keys()),
                 "holds" in names, "istoggled" in names)
        )  # fmt: skip
    places = [atom[1] for atom in atoms if atom[0] == "atlocation"]
    return Way(tuple(needs), places[0] if places else -1)
