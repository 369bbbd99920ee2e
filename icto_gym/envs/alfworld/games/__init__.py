"""The built-in games: drawn once by ``scripts/make_alfworld_games.py``, kept small, unfolded on demand.

``plans.json.gz`` holds what games share (kinds, abilities, goals, floor plans); each split has a file of
records, one a line. `problem_text` makes of a record the PDDL problem that a game file would hold.
"""

from __future__ import annotations

import gzip
import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from importlib.resources import files
from typing import Any, NamedTuple

from icto_gym.envs.alfworld.gamefile import GameFile
from icto_gym.envs.alfworld.grammar import NEW
from icto_gym.errors import DataError


@dataclass(frozen=True, slots=True)
class GameRecord:
    """What is peculiar to one game. Numbers index the floor plan's receptacles and spots."""

    name: str
    task_type: str
    task: str
    """The task sentence."""
    target: str
    """Kind of the object to act on, such as ``"Mug"``."""
    place: str
    """Kind of receptacle to put it in; ``""`` if there is none."""
    toggle: str
    """Kind of lamp to use; ``""`` if there is none."""
    plan: int
    start: int
    """The spot where the agent starts."""
    objects: tuple[tuple[int, ...], ...]
    """Per object: kind, receptacle (-1: none), and spot of its own (-1: its receptacle's place)."""
    nested: tuple[tuple[int, int], ...]
    """(object, receptacle object) pairs, told by ``examine``."""

    def as_json(self) -> list[Any]:
        """The form in the data files."""
        objects = [number for entry in self.objects for number in entry]
        nested = [list(pair) for pair in self.nested]
        return [self.name, self.task_type, self.task, self.target, self.place, self.toggle, self.plan, self.start,
                objects, nested]  # fmt: skip

    @classmethod
    def from_json(cls, entry: list[Any]) -> GameRecord:
        """Read the form in the data files."""
        name, task_type, task, target, place, toggle, plan, start, flat, nested = entry
        objects = tuple(tuple(flat[i : i + 3]) for i in range(0, len(flat), 3))
        pairs = tuple((inner, outer) for inner, outer in nested)
        return cls(name, task_type, task, target, place, toggle, plan, start, objects, pairs)


class Entry(NamedTuple):
    """A game in a split's list; the rest is read when it is played."""

    name: str
    task_type: str
    digest: str
    """SHA-256 (hex) of its line."""
    line: str


@dataclass(frozen=True, slots=True)
class Tables:
    """What games share."""

    object_types: tuple[str, ...]
    receptacle_types: tuple[str, ...]
    fits: Mapping[str, tuple[str, ...]]
    """Receptacle kind to the object kinds it can contain."""
    abilities: Mapping[str, frozenset[str]]
    """Predicate to the object kinds it holds of."""
    unmovable: frozenset[str]
    goals: Mapping[str, str]
    """Task type to a goal with ``{obj}``, ``{recep}`` and ``{toggle}`` in it."""
    plans: Mapping[str, Any]
    """Floor plan to ``receptacles`` ([id, kind, location, openable]), ``spots`` and ``kinds``."""

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> Tables:
        """Read the form in the data file."""
        return cls(
            tuple(value["object_types"]), tuple(value["receptacle_types"]),
            {kind: tuple(kinds) for kind, kinds in value["fits"].items()},
            {ability: frozenset(kinds) for ability, kinds in value["abilities"].items()},
            frozenset(value["unmovable"]), dict(value["goals"]), dict(value["plans"]),
        )  # fmt: skip


def _unpacked(name: str) -> bytes:
    return gzip.decompress((files("icto_gym.envs.alfworld.games") / name).read_bytes())


@lru_cache(maxsize=1)
def tables() -> Tables:
    """The shared tables."""
    return Tables.from_json(json.loads(_unpacked("plans.json.gz")))


@lru_cache(maxsize=8)
def entries(split: str) -> dict[str, Entry]:
    """The games of a split by name, in the order of their names."""
    found = {}
    for line in _unpacked(f"{split}.jsonl.gz").decode("utf-8").splitlines():
        _, name, _, task_type, _ = line.split('"', 4)  # a line begins ["name","task type",...
        found[name] = Entry(name, task_type, hashlib.sha256(line.encode()).hexdigest(), line)
    return found


def record(split: str, name: str) -> GameRecord:
    """One built-in game."""
    entry = entries(split).get(name)
    if entry is None:
        raise DataError(f"There is no built-in game {name!r} in {split!r}.")
    return GameRecord.from_json(json.loads(entry.line))


def game_file(split: str, name: str) -> GameFile:
    """A built-in game as text."""
    found = record(split, name)
    return GameFile(f"alfworld-mini/{split}/{name}", problem_text(tables(), found), task=found.task, rules=NEW)


def problem_text(shared: Tables, record: GameRecord) -> str:
    """The PDDL problem of a record."""
    plan = shared.plans[str(record.plan)]
    ids = _object_ids(shared, record, plan["receptacles"])
    places = sorted({entry[2] for entry in plan["receptacles"]} | set(plan["spots"]))
    declared = [("agent1", "agent")]
    declared += [(kind, "object") for kind in shared.object_types]
    declared += [(f"{kind}Type", "otype") for kind in shared.object_types]
    declared += [(f"{kind}Type", "rtype") for kind in shared.receptacle_types]
    declared += [(name, "object") for name in ids]
    declared += [(entry[0], "receptacle") for entry in plan["receptacles"]]
    declared += [(place, "location") for place in places]
    facts = [*_room_facts(shared, plan, record), *_object_facts(shared, plan, record, ids)]
    goal = shared.goals[record.task_type].format(obj=record.target, recep=record.place, toggle=record.toggle)
    lines = [f"(define (problem plan_{record.name.replace('.', '_')})", "(:domain alfred)", "(:objects"]
    lines += [f"{name} - {kind}" for name, kind in declared]
    return "\n".join([*lines, ")", "(:init", *(f"({fact})" for fact in facts), ")", goal, ")", ""])


def _object_ids(shared: Tables, record: GameRecord, receptacles: list[Any]) -> list[str]:
    """Ids made of kind and position; the position is invented from the receptacle's and the object's number."""
    ids = []
    for number, (kind, where, _) in enumerate(record.objects):
        x, y, z = _position(receptacles[where][0]) if where >= 0 else (number * 37 % 700 - 350, 90, number * 53 % 700)
        shift = number * 29 % 60 - 30
        marks = (_mark(x + shift), _mark(y + 10), _mark(z - shift))
        ids.append("_bar_".join((shared.object_types[kind], *marks)))
    return ids


def _position(name: str) -> tuple[int, ...]:
    """The position in an id, in centimetres."""
    parts = name.split("_bar_")[1:4]
    return tuple(
        round(float(part.replace("_plus_", "").replace("_minus_", "-").replace("_dot_", ".")) * 100) for part in parts
    )


def _mark(centimetres: int) -> str:
    sign = "_minus_" if centimetres < 0 else "_plus_"
    return f"{sign}{abs(centimetres) / 100:05.2f}".replace(".", "_dot_")


def _room_facts(shared: Tables, plan: dict[str, Any], record: GameRecord) -> list[str]:
    facts = [f"atLocation agent1 {plan['spots'][record.start]}"]
    for name, kind, place, openable in plan["receptacles"]:
        facts += [f"receptacleType {name} {kind}Type", f"receptacleAtLocation {name} {place}"]
        facts += [f"openable {name}"] if openable else []
    present = sorted({entry[1] for entry in plan["receptacles"]})
    return facts + [f"canContain {kind}Type {inner}Type" for kind in present for inner in shared.fits.get(kind, ())]


def _object_facts(shared: Tables, plan: dict[str, Any], record: GameRecord, ids: list[str]) -> list[str]:
    facts = []
    for name, (number, where, spot) in zip(ids, record.objects, strict=True):
        kind = shared.object_types[number]
        facts.append(f"objectType {name} {kind}Type")
        facts += [f"{ability} {name}" for ability, kinds in shared.abilities.items() if kind in kinds]
        if kind not in shared.unmovable:
            facts.append(f"pickupable {name}")
        receptacle = plan["receptacles"][where] if where >= 0 else None
        if receptacle:
            facts.append(f"inReceptacle {name} {receptacle[0]}")
            if receptacle[1] == "Fridge" and kind == record.target:
                facts.append(f"isCool {name}")  # what lies in the fridge is cold already
        place = plan["spots"][spot] if spot >= 0 or receptacle is None else receptacle[2]
        facts.append(f"objectAtLocation {name} {place}")
    return facts + [f"inReceptacleObject {ids[inner]} {ids[outer]}" for inner, outer in record.nested]
