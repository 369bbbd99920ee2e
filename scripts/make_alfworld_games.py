"""Generate the built-in ALFWorld games from the tables and floor plans of the alfworld package.

    python scripts/make_alfworld_games.py            # writes icto_gym/envs/alfworld/games/*.json.gz
    python scripts/make_alfworld_games.py --check    # says whether the files there are the ones it would write

Combinations of task type, object, target and floor plan are those of the real set, and so is its split of
floor plans. Where a floor plan names a receptacle type without a position, positions are invented; so are
the places of all movable objects. Every game is solved by the planner before it is kept.
"""

from __future__ import annotations

import argparse
import gzip
import importlib.util
import json
import random
import sys
from collections import Counter, defaultdict
from pathlib import Path
from typing import Any

import numpy as np

from icto_gym.envs.alfworld.games import GameRecord, Tables, problem_text
from icto_gym.envs.alfworld.pddl import parse_problem
from icto_gym.envs.alfworld.planner import Planner
from icto_gym.envs.alfworld.world import build_world

ROOT = Path(__file__).resolve().parents[1]
COMBINATIONS = ROOT.parent / "shared/fixtures/alfworld/real_combos.json"
OUT = ROOT / "icto_gym/envs/alfworld/games"
UNSEEN = (10, 219, 308, 424)
TYPES = ("pick_and_place_simple", "look_at_obj_in_light", "pick_clean_then_place_in_recep",
         "pick_heat_then_place_in_recep", "pick_cool_then_place_in_recep", "pick_two_obj_and_place")  # fmt: skip
COUNTS = {  # per task type in the order above: the real set's counts
    "train": (790, 308, 650, 459, 533, 813),
    "valid_seen": (35, 13, 27, 16, 25, 24),
    "valid_unseen": (24, 18, 31, 23, 21, 17),
}
INVENTED = {"StoveBurner": 4, "HandTowelHolder": 2, "TowelHolder": 1, "Shelf": 2, "Drawer": 3, "Cabinet": 4}
FIXED = {  # objects that stand for themselves: never in a receptacle, never picked up
    "Bathtub", "Blinds", "Chair", "Curtains", "FloorLamp", "Footstool", "LaundryHamperLid", "LightSwitch", "Mirror",
    "Painting", "Poster", "ShowerCurtain", "ShowerDoor", "ShowerGlass", "Sink", "StoveKnob", "Window",
}  # fmt: skip
HEAVY = {"DeskLamp", "HousePlant", "Television"}  # in a receptacle, never picked up
SKIPPED = {"Faucet", "Lamp", "ShowerHead"}
UNTREATED = ("pick_and_place_simple", "pick_two_obj_and_place")  # here the target must not lie where it shall go
CLOSED_WEIGHT = 0.4  # how likely a kind of receptacle that is closed holds something, against an open one
OFF_SPOT = 0.35  # share of objects whose own location is not their receptacle's, as in the real files


def load_package() -> tuple[Any, Any, Path]:
    """The tables (constants, goal library) and the folder of floor plans, without importing the package."""
    spec = importlib.util.find_spec("alfworld")
    if spec is None or not spec.submodule_search_locations:
        sys.exit("This needs the alfworld package: pip install 'icto-gym[alfworld]'.")
    folder = Path(spec.submodule_search_locations[0]) / "gen"
    return _module(folder / "constants.py"), _module(folder / "goal_library.py"), folder / "layouts"


def _module(path: Path) -> Any:
    spec = importlib.util.spec_from_file_location(f"alfworld_{path.stem}", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def pddl_id(text: str) -> str:
    """An id as the problem files write it."""
    for sign, mark in (("-", "_minus_"), ("|", "_bar_"), ("+", "_plus_"), (".", "_dot_"), (",", "_comma_")):
        text = text.replace(sign, mark)
    return text


def location(x: float, z: float, rotation: float, horizon: float) -> str:
    """A standing place: quarter metres, quarter turns, degrees."""
    return pddl_id(f"loc|{round(x / 0.25)}|{round(z / 0.25)}|{round(rotation / 90) % 4}|{round(horizon)}")


def coordinates(x: float, y: float, z: float) -> str:
    return "|".join(f"{value:+06.2f}" for value in (x, y, z))


def make_tables(constants: Any, goals: Any) -> dict[str, Any]:
    """What all games share: kinds, abilities, what fits where, goal templates."""
    movable = set(constants.MOVABLE_RECEPTACLES_SET)
    receptacle_types = sorted(set(constants.RECEPTACLES) - movable)
    fits = constants.VAL_RECEPTACLE_OBJECTS
    return {
        "object_types": sorted(object_kinds(constants)),
        "receptacle_types": receptacle_types,
        "fits": {kind: sorted(k for k in fits.get(kind, ()) if not k.endswith("Sliced")) for kind in receptacle_types},
        "abilities": {
            "isReceptacleObject": sorted(movable),
            **{
                ability.lower(): sorted(kind for kind in kinds if not kind.endswith("Sliced"))
                for ability, kinds in constants.VAL_ACTION_OBJECTS.items()
            },
        },
        "unmovable": sorted(FIXED | HEAVY),
        "goals": {kind: goal_text(goals.gdict[kind]["pddl"]) for kind in TYPES},
        "sentences": {kind: goals.gdict[kind]["templates"] for kind in TYPES},
    }


def object_kinds(constants: Any) -> set[str]:
    """Kinds of things that are no piece of furniture."""
    return set(constants.OBJECTS_SET) - (set(constants.RECEPTACLES) - set(constants.MOVABLE_RECEPTACLES_SET))


def goal_text(template: str) -> str:
    """A goal template in the spelling of problem files, on one line, without the last bracket (the problem's)."""
    text = " ".join(template.replace("#", "-").split())
    return text[: text.rindex(")")].strip()


def make_plan(number: int, layouts: Path, constants: Any, wanted: set[str]) -> dict[str, Any]:
    """One floor plan: its receptacles with ids, kinds, places, and the object kinds it holds."""
    rng = random.Random(f"plan {number}")
    kinds = set(json.loads((layouts / f"FloorPlan{number}-objects.json").read_text()))
    placed = json.loads((layouts / f"FloorPlan{number}-openable.json").read_text())
    points = [tuple(point) for point in np.load(layouts / f"FloorPlan{number}-layout.npy").tolist()]
    receptacles = []
    for name in sorted(placed):
        kind = name.split("|")[0] + ("Basin" if name.count("|") == 4 else "")
        receptacles.append([pddl_id(name), kind, location(*placed[name])])
    present = {kind for _, kind, _ in receptacles}
    furniture = set(constants.RECEPTACLES) - set(constants.MOVABLE_RECEPTACLES_SET)
    for kind in sorted((kinds | wanted) & furniture - present):
        receptacles += invent(kind, rng, points)
    # a cabinet or drawer that upstream could not open from any point is not marked openable
    closed = [kind in constants.OPENABLE_CLASS_SET and rng.random() > 0.05 for _, kind, _ in receptacles]
    always = [kind in ("Fridge", "Microwave", "Safe") for _, kind, _ in receptacles]
    closed = [shut or certain for shut, certain in zip(closed, always, strict=True)]
    spots = sorted({location(x, z, rng.randrange(4) * 90, rng.choice((30, 45, 60))) for x, z in points})
    rng.shuffle(spots)
    standing = {place for _, _, place in receptacles}
    return {
        "receptacles": [[*entry, int(shut)] for entry, shut in zip(receptacles, closed, strict=True)],
        "kinds": sorted((kinds & object_kinds(constants)) - SKIPPED),
        "spots": [spot for spot in spots if spot not in standing][:24],
    }


def invent(kind: str, rng: random.Random, points: list[Any]) -> list[list[str]]:
    """Receptacles of a kind the floor plan names without saying where."""
    made = []
    x, z = rng.choice(points)
    for number in range(INVENTED.get(kind, 1)):
        base = {"SinkBasin": "Sink", "BathtubBasin": "Bathtub"}.get(kind, kind)
        name = f"{base}|{coordinates(x + 0.4 + 0.31 * number, rng.uniform(0.3, 1.2), z + 0.4)}"
        name += f"|{kind}" if base != kind else ""
        made.append([pddl_id(name), kind, location(x, z, rng.randrange(4) * 90, 30)])
        if kind != "StoveBurner":
            x, z = rng.choice(points)
    return made


class Generator:
    """Draws games of one floor plan after another."""

    def __init__(self, tables: dict[str, Any], plans: dict[str, dict[str, Any]]) -> None:
        self.tables, self.plans = tables, plans
        self.read = Tables.from_json({**tables, "plans": plans})

    def draw(self, combination: tuple[str, str, str, int], name: str) -> GameRecord | None:
        """A game of this combination; None if the dice made one that counts for nothing."""
        task_type, target, goal_place, number = combination
        rng = random.Random(name)
        plan = self.plans[str(number)]
        entries = plan["receptacles"]
        lamp = task_type == "look_at_obj_in_light"
        amounts = self.amounts(plan["kinds"], target, task_type, rng)
        objects: list[list[int]] = []
        for kind in sorted(amounts):
            for _ in range(amounts[kind]):
                avoid = goal_place if kind == target and task_type in UNTREATED else ""
                where = -1 if kind in FIXED else self.choose_place(kind, entries, rng, avoid)
                if where == -1 and kind not in FIXED:
                    continue
                spot = rng.randrange(len(plan["spots"])) if where == -1 or rng.random() < OFF_SPOT else -1
                objects.append([self.read.object_types.index(kind), where, spot])
        start = rng.randrange(len(plan["spots"]))
        nested = self.nest(objects, rng)
        names = {"obj": target.lower(), "recep": goal_place.lower(), "toggle": goal_place.lower()}
        sentence = rng.choice(self.tables["sentences"][task_type]).format(**names, mrecep="")
        record = GameRecord(
            name=name, task_type=task_type, task=sentence, target=target, place="" if lamp else goal_place,
            toggle=goal_place if lamp else "", plan=number, start=start,
            objects=tuple(tuple(entry) for entry in objects), nested=nested,
        )  # fmt: skip
        return record if self.is_good(record) else None

    def amounts(self, kinds: list[str], target: str, task_type: str, rng: random.Random) -> Counter[str]:
        amounts: Counter[str] = Counter()
        for kind in kinds:
            if kind == "StoveKnob":
                amounts[kind] = 4
            elif kind in FIXED | HEAVY:
                amounts[kind] = 1
            elif rng.random() < 0.85:
                amounts[kind] = rng.choice((1, 1, 1, 2, 2, 3))
        least = 2 if task_type == "pick_two_obj_and_place" else 1
        amounts[target] = max(least, rng.choice((1, 1, 2, 2, 3)))
        if task_type == "look_at_obj_in_light":
            amounts["DeskLamp"] = 1
        elif "DeskLamp" in amounts and rng.random() < 0.5:
            del amounts["DeskLamp"]
        return amounts

    def choose_place(self, kind: str, entries: list[Any], rng: random.Random, avoid: str) -> int:
        """A receptacle for an object: first its kind (not ``avoid``), then which one; -1 if there is none."""
        by_kind: dict[str, list[int]] = defaultdict(list)
        for number, (_, own, _, _) in enumerate(entries):
            if kind in self.tables["fits"].get(own, ()) and own != avoid:
                by_kind[own].append(number)
        if not by_kind and kind in HEAVY:
            tops = {"Desk", "SideTable", "DiningTable", "Dresser", "Shelf", "CoffeeTable", "TVStand", "CounterTop"}
            for number, (_, own, _, _) in enumerate(entries):
                if own in tops:
                    by_kind[own].append(number)
        if not by_kind:
            return -1
        kinds = sorted(by_kind)
        shut = [CLOSED_WEIGHT if entries[by_kind[own][0]][3] else 1.0 for own in kinds]
        return rng.choice(by_kind[rng.choices(kinds, shut)[0]])

    def nest(self, objects: list[list[int]], rng: random.Random) -> tuple[tuple[int, int], ...]:
        """Some small things lie in a bowl or mug of the same receptacle: a static fact, told by `examine`."""
        vessels = set(self.tables["abilities"]["isReceptacleObject"])
        kinds = self.read.object_types
        outer = [n for n, (kind, where, _) in enumerate(objects) if kinds[kind] in vessels and where >= 0]
        pairs = []
        for number in outer:
            inner = [
                n
                for n, (kind, where, _) in enumerate(objects)
                if where == objects[number][1] and n != number and kinds[kind] not in vessels | FIXED | HEAVY
            ]
            if inner and rng.random() < 0.25:
                pairs.append((rng.choice(inner), number))
        return tuple(pairs)

    def is_good(self, record: GameRecord) -> bool:
        """Solvable, and not won before it begins."""
        world = build_world(parse_problem(problem_text(self.read, record), record.name), record.task)
        if world.goal.holds(world.start):
            return False
        length = Planner(world).distance(world.start)
        return length is not None and 2 <= length <= 20


def choose(combinations: list[tuple[str, str, str, int]], generator: Generator) -> dict[str, list[GameRecord]]:
    """The games of all splits; training and seen validation share rooms but no combination."""
    rng = random.Random("alfworld-mini")
    pools: dict[tuple[bool, str], list[Any]] = defaultdict(list)
    for combination in sorted(combinations):
        pools[combination[3] in UNSEEN, combination[0]].append(combination)
    for pool in pools.values():
        rng.shuffle(pool)
    found: dict[str, list[GameRecord]] = {}
    for split in ("valid_unseen", "valid_seen", "train"):
        records: list[GameRecord] = []
        for task_type, count in zip(TYPES, COUNTS[split], strict=True):
            pool = pools[split == "valid_unseen", task_type]
            if split == "valid_seen":
                pool, pools[False, task_type] = pool[:count], pool[count:]
            records += draw_some(generator, split, pool, count)
        found[split] = sorted(records, key=lambda record: record.name)
    return found


def draw_some(generator: Generator, split: str, pool: list[Any], count: int) -> list[GameRecord]:
    records: list[GameRecord] = []
    trial = 0
    while len(records) < count:
        trial += 1
        for task_type, target, place, number in pool:
            if len(records) == count:
                break
            stem = f"{task_type}-{target}-None-{place}-{number}"
            name = f"{stem}-{split[0]}{'' if split != 'valid_unseen' else 'u'}{trial}"
            for dice in range(20):
                record = generator.draw((task_type, target, place, number), name if not dice else f"{name}.{dice}")
                if record:
                    records.append(record)
                    break
        if trial > 50:
            sys.exit(f"{split}: only {len(records)} of {count} games could be made of {len(pool)} combinations.")
    return records


def compact(value: Any) -> str:
    return json.dumps(value, separators=(",", ":"), sort_keys=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--combinations", type=Path, default=COMBINATIONS, help="the real set's combinations")
    parser.add_argument("--check", action="store_true", help="compare with the files that are there")
    arguments = parser.parse_args()
    constants, goals, layouts = load_package()
    combinations = [tuple(entry) for entry in json.loads(arguments.combinations.read_text())]
    wanted: dict[int, set[str]] = defaultdict(set)
    for _, _, place, number in combinations:
        wanted[number].add(place)
    tables = make_tables(constants, goals)
    plans = {str(number): make_plan(number, layouts, constants, wanted[number]) for number in sorted(wanted)}
    games = choose(combinations, Generator(tables, plans))
    shared = {**{key: value for key, value in tables.items() if key != "sentences"}, "plans": plans}
    texts = {"plans.json.gz": compact(shared)}
    for split, records in games.items():
        texts[f"{split}.jsonl.gz"] = "".join(compact(record.as_json()) + "\n" for record in records)
    for name, text in texts.items():
        path = OUT / name
        if arguments.check:
            same = path.is_file() and gzip.decompress(path.read_bytes()).decode() == text
            print(f"{name}: {'as it would be written' if same else 'DIFFERENT'}")
        else:
            path.write_bytes(gzip.compress(text.encode(), 9, mtime=0))
            print(f"{name}: {path.stat().st_size} bytes")


if __name__ == "__main__":
    main()
