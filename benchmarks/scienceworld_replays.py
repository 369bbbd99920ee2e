"""Replay recordings of the package through the public interface and count what differs.

    python benchmarks/scienceworld_replays.py FOLDER --out benchmarks/results/scienceworld_replays.json

Every row up to the end of the episode is compared: observation, score, ticks. Without ``--exact`` what follows
``open bee hive`` is skipped: the package's lists draw from the generator that moves the bees, ours do not.
With ``--exact`` the lists draw here too (``list_eagerly``), nothing is skipped, and each list is compared.
"""

from __future__ import annotations

import argparse
import gzip
import hashlib
import json
from collections import Counter
from pathlib import Path
from typing import Any

import gymnasium as gym

import icto_gym
from icto_gym.files import write_json

ENV_ID = "icto/ScienceWorld-v0"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--exact", action="store_true")
    parser.add_argument("--out")
    arguments = parser.parse_args()
    counts: Counter[str] = Counter()
    for file in sorted(arguments.folder.glob("*.json.gz")):
        recording = json.loads(gzip.decompress(file.read_bytes()))
        env = gym.make(
            ENV_ID,
            simplification=recording["simplification"],
            list_eagerly=arguments.exact,
            max_episode_steps=1000,
        )
        for trace in ("gold_trace", "walk_trace"):
            replay(env, recording, recording[trace], arguments.exact, counts)
            counts["traces"] += 1
        counts["recordings"] += 1
        env.close()
    result = {"exact": arguments.exact, "differences": 0, **counts}
    print(result)
    if arguments.out:
        write_json(arguments.out, result)


def replay(
    env: gym.Env[str, str], recording: dict[str, Any], rows: list[dict[str, Any]], exact: bool, counts: Counter[str]
) -> None:
    observation, info = env.reset(options={"task_id": f"scienceworld/{recording['task']}/{recording['variation']}"})
    terminated = False
    for number, row in enumerate(rows):
        if number:
            if "open bee hive" in row["action"] and not exact:
                counts["skipped_after_bee_hive"] += len(rows) - number
                return
            observation, _, terminated, _, info = env.step(row["action"])
        counts["rows"] += 1
        ours = (observation, info["raw_score"], info["moves"])
        counts["differences"] += ours != (row["observation"], row["score"], row["moves"])
        if terminated:
            return
        if exact:
            listed = "\n".join(sorted(info["admissible_actions"]))
            counts["lists"] += 1
            counts["differences"] += hashlib.sha256(listed.encode()).hexdigest()[:16] != row["valid_sha256_16"]


if __name__ == "__main__":
    assert icto_gym
    main()
