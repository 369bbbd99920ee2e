"""How often and how fast the honest expert solves the built-in games, beside shortest plans.

    python benchmarks/alfworld_expert.py --out benchmarks/results/alfworld_expert.json

The expert acts on answers alone; plans know everything. An episode counts as solved if it is won within 40 steps.
`--fixtures DIR` also plays recorded games (the folder `games` of the recordings) that the package does not hold.
"""

from __future__ import annotations

import argparse
import gzip
import json
import time
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from icto_gym.envs.alfworld import games
from icto_gym.envs.alfworld.engine import Game
from icto_gym.envs.alfworld.expert import Expert, begin, demonstrate
from icto_gym.envs.alfworld.gamefile import compile_game
from icto_gym.envs.alfworld.outline import kept_in, outline
from icto_gym.envs.alfworld.pddl import parse_problem
from icto_gym.envs.alfworld.planner import Planner
from icto_gym.envs.alfworld.world import World, build_world
from icto_gym.files import write_json

LIMIT = 40


def built_in(split: str) -> Iterator[tuple[str, World]]:
    for name, entry in games.entries(split).items():
        yield entry.task_type, compile_game(games.game_file(split, name))


def recorded(folder: Path) -> Iterator[tuple[str, World]]:
    """Recorded games, without those that begin won."""
    for path in sorted(folder.glob("*.json.gz")):
        with gzip.open(path, "rt", encoding="utf-8") as handle:
            game = json.load(handle)
        if game["special"] != "won_at_start":
            yield game["task_type"], build_world(parse_problem(game["pddl_problem"], game["id"]), game["task"])


def measure(worlds: Iterator[tuple[str, World]]) -> dict[str, dict[str, Any]]:
    """Per task type: games, share solved, mean commands of the solved ones and of their shortest plans."""
    played: dict[str, list[tuple[bool, int, int, float]]] = defaultdict(list)
    for task_type, world in worlds:
        goal, game = outline(world), Game(world)
        assert goal is not None
        game.reset()
        choices = demonstrate(Expert(goal, kept_in(world)), begin(game.admissible()), game, LIMIT)
        planner, started = Planner(world), time.process_time()
        shortest = planner.distance(world.start) or 0
        played[task_type].append((game.won, len(choices), shortest, time.process_time() - started))
    return {task_type: summary(entries) for task_type, entries in sorted(played.items())}


def summary(entries: list[tuple[bool, int, int, float]]) -> dict[str, Any]:
    solved = [entry for entry in entries if entry[0]]
    return {
        "games": len(entries),
        "solved": len(solved),
        "share": round(len(solved) / len(entries), 4),
        "mean_commands": round(sum(entry[1] for entry in solved) / len(solved), 2),
        "mean_shortest": round(sum(entry[2] for entry in solved) / len(solved), 2),
        "plan_milliseconds": round(1000 * sum(entry[3] for entry in entries) / len(entries), 2),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--fixtures", type=Path)
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    result = {split: measure(built_in(split)) for split in ("train", "valid_seen", "valid_unseen")}
    if arguments.fixtures:
        result["recorded"] = measure(recorded(arguments.fixtures))
    for split, rows in result.items():
        for task_type, row in rows.items():
            print(f"{split:13}{task_type:33}{row}")
    if arguments.out:
        write_json(arguments.out, result)


if __name__ == "__main__":
    main()
