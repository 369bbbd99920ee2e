"""Play the simulator's gold path of some variations of every task type through the public interface.

    python benchmarks/scienceworld_gold.py --variations 2 --out benchmarks/results/scienceworld_gold.json

Counts paths that reach 100 points, and lists those longer than the published limit of agent turns.
"""

from __future__ import annotations

import argparse
import sys

import gymnasium as gym

import icto_gym
from icto_gym.envs.scienceworld.tasks import TASK_TYPES
from icto_gym.files import write_json

ENV_ID = "icto/ScienceWorld-v0"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--variations", type=int, default=1, help="first so many of each task type's test split")
    parser.add_argument("--simplification", default="easy")
    parser.add_argument("--types", nargs="*", help="only these task types")
    parser.add_argument("--out")
    arguments = parser.parse_args()
    env = gym.make(ENV_ID, simplification=arguments.simplification, max_episode_steps=10_000, expert=True)
    rows = []
    for kind in TASK_TYPES:
        if not arguments.types or kind.name in arguments.types or kind.number in arguments.types:
            chosen = icto_gym.tasks(ENV_ID, "test", task_types=[kind.name])[: arguments.variations]
            rows += [play(env, task.task_id, kind.step_limit) for task in chosen]
    env.close()
    over = [row["task_id"] for row in rows if row["steps"] > row["step_limit"]]
    summary = {
        "simplification": arguments.simplification,
        "paths": len(rows),
        "task_types": len({row["task_id"].split("/")[1] for row in rows}),
        "reach_100": sum(row["points"] == 100 for row in rows),
        "longer_than_the_limit": over,
        "rows": rows,
    }
    print({key: value for key, value in summary.items() if key != "rows"})
    if arguments.out:
        write_json(arguments.out, summary)


def play(env: gym.Env[str, str], task_id: str, step_limit: int) -> dict[str, object]:
    """Follow ``expert_action`` to the end."""
    _, info = env.reset(options={"task_id": task_id})
    steps = numbers = 0
    ended = False
    while not ended and info["expert_action"] is not None:
        numbers += info["expert_action"].isdigit()
        _, _, ended, _, info = env.step(info["expert_action"])
        steps += 1
    row = {
        "task_id": task_id,
        "points": info["raw_score"],
        "steps": steps,
        "step_limit": step_limit,
        "numbers_answered": numbers,
        "moves": info["moves"],
        "error": info["error"],
    }
    print(row, file=sys.stderr, flush=True)
    return row


if __name__ == "__main__":
    main()
