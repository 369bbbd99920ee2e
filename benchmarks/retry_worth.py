"""What taking episodes up again was worth in a finished run: where episodes went wrong, and what came of other ways.

    python benchmarks/retry_worth.py runs/methods/small-seed-2/icto_retry/trial-0 --command 'click[< Prev]'

Reads what `icto run icto --retries.branches N` left in ``iteration-01`` and plays nothing. Scores are averages.
"""

from __future__ import annotations

import argparse
import json
from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from icto_gym.store import TrajectoryStore
from icto_gym.trajectory import Trajectory
from icto_gym.wrappers.react import parse_response
from trainers.pairing.balance import deciding_responses
from trainers.records import PreferencePair, read_records, retried_step
from trainers.retries import Branches


def average(values: Iterable[float]) -> float | None:
    found = list(values)
    return round(sum(found) / len(found), 4) if found else None


def greedy_episodes(explored: list[Trajectory]) -> dict[str, Any]:
    """The first attempts, apart by whether all their commands were understood."""
    greedy = [item for item in explored if item.trajectory_id.endswith("#0")]
    wrong = [item for item in greedy if not all(step.valid for step in item.steps)]
    right = [item for item in greedy if all(step.valid for step in item.steps)]
    return {
        "episodes": len(greedy), "with a command that is none": len(wrong),
        "their score": average(item.score for item in wrong), "score of the others": average(i.score for i in right),
    }  # fmt: skip


def worth(folder: Path, command: str) -> dict[str, Any]:
    """The figures of one run; ``command`` is the way that is looked at."""
    here = folder / "iteration-01"
    explored = list(TrajectoryStore(here / "trajectories.jsonl"))
    by_id = {item.trajectory_id: item for item in explored}
    at: dict[tuple[str, tuple[str, ...]], list[Trajectory]] = defaultdict(list)
    for item in explored:
        for step in range(len(item.steps)):
            at[item.task_id, item.actions[:step]].append(item)
    result: dict[str, Any] = {"command": command, "greedy": greedy_episodes(explored)}
    for name, wrong in (("mistakes", True), ("other steps", False)):
        places = [
            item for item in read_records(here / "branches.jsonl", Branches)
            if by_id[item.trajectory_id].steps[item.step].valid is not wrong
        ]  # fmt: skip
        said = [{parse_response(text).action for text in item.responses} for item in places]
        retries = [item for item in TrajectoryStore(here / "retries.jsonl") if _follows(item, command)]
        shared = [(item, at[item.task_id, item.actions[: retried_step(item)]]) for item in retries]
        mine = [
            (item, before) for item, before in shared
            if any(not one.steps[retried_step(item) or 0].valid for one in before) is wrong
        ]  # fmt: skip
        result[name] = {
            "places": len(places), "command among the branches": sum(command in ways for ways in said),
            "retries with it": len(mine), "their score": average(item.score for item, _ in mine),
            "score of the episodes they are of": average(
                sum(one.score for one in before) / len(before) for _, before in mine
            ),
        }  # fmt: skip
    sides = [
        tuple(parse_response(text).action for text in deciding_responses(pair))
        for pair in read_records(here / "pairs.jsonl", PreferencePair)
    ]
    result["pairs"] = {
        "all": len(sides), "command chosen": sum(chosen == command for chosen, _ in sides),
        "command rejected": sum(rejected == command for _, rejected in sides),
    }  # fmt: skip
    return result


def _follows(item: Trajectory, command: str) -> bool:
    return item.actions[retried_step(item) or 0] == command


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", type=Path, nargs="+", help="run folders")
    parser.add_argument("--command", default="click[< Prev]", help="the way that is looked at")
    options = parser.parse_args()
    print(json.dumps({folder.parent.parent.name: worth(folder, options.command) for folder in options.runs}, indent=1))


if __name__ == "__main__":
    main()
