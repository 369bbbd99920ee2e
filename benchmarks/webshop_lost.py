"""Where episodes in the shop are lost: the first command that is none, by the page it is given on.

    python benchmarks/webshop_lost.py runs/methods/brief-seed-0/*/evaluation/sft/test > lost.json

Reads the ``trajectories.jsonl`` of evaluations and plays nothing. Scores are averages.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from icto_gym.store import TrajectoryStore
from icto_gym.trajectory import Trajectory

SAME = "(same as before)"
BACK = ("click[< prev]", "click[back to search]")


def group(episodes: Iterable[Trajectory]) -> dict[str, Any]:
    """How many, and what they earn."""
    scores = [item.score for item in episodes]
    return {"episodes": len(scores), "score": round(sum(scores) / len(scores), 4) if scores else None}


def lost_on(item: Trajectory) -> str | None:
    """The page of the first command that is none; None: there is no such command."""
    wrong = next((t for t, step in enumerate(item.steps) if not step.valid), None)
    if wrong is None:
        return None
    page = next(step.observation for step in reversed(item.steps[: wrong + 1]) if step.observation != SAME)
    if "Total results: 0" in page:
        return "an empty search"
    return "a list of products" if "Total results" in page else "a product" if "Buy Now" in page else "another page"


def lost(episodes: Sequence[Trajectory]) -> dict[str, Any]:
    """The figures of one evaluation."""
    places = {item.trajectory_id: lost_on(item) for item in episodes}
    pages = sorted({page for page in places.values() if page})
    return {
        "all": group(episodes),
        "without such a command": group(item for item in episodes if places[item.trajectory_id] is None),
        "with one": group(item for item in episodes if places[item.trajectory_id]),
        **{f"on {page}": group(i for i in episodes if places[i.trajectory_id] == page) for page in pages},
        "that go back": group(i for i in episodes if any(s.valid and s.action.lower() in BACK for s in i.steps)),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("evaluations", type=Path, nargs="+", help="folders with trajectories.jsonl")
    folders = parser.parse_args().evaluations
    for folder in folders:
        if not (folder / "trajectories.jsonl").exists():
            parser.error(f"{folder} holds no trajectories.jsonl.")
    found = {folder.as_posix(): lost(list(TrajectoryStore(folder / "trajectories.jsonl"))) for folder in folders}
    print(json.dumps(found, indent=2))


if __name__ == "__main__":
    main()
