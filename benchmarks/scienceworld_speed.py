"""Steps per second of the environment against the package's own ``env.step``, on gold paths, with loading.

    python benchmarks/scienceworld_speed.py --out benchmarks/results/scienceworld_speed.json

Both play the same tasks and commands in one run, turn by turn, each in a Java process of its own that was
warmed up on the same tasks before. The package gets the two options that make its play reproducible, else
it would not always follow the path; all its other settings are its own. The processor seconds are those of
Python and Java together: on a busy machine they are the figure to trust.
"""

from __future__ import annotations

import argparse
import os
import time
from collections.abc import Callable
from typing import Any

import gymnasium as gym
import psutil
from scienceworld import ScienceWorldEnv as Package

import icto_gym
from icto_gym.files import write_json

ENV_ID = "icto/ScienceWorld-v0"
TASKS = (
    "power-component/15", "find-plant/225", "use-thermometer/405", "chemistry-mix/24", "test-conductivity/675",
    "lifespan-longest-lived/93", "identify-life-stages-2/6", "find-animal/225",
)  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--warm-ups", type=int, default=3)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--out")
    arguments = parser.parse_args()
    env = gym.make(ENV_ID, max_episode_steps=10_000)
    paths = {task: expert_path(env, task) for task in TASKS}
    os.environ["JDK_JAVA_OPTIONS"] = "-XX:+UnlockExperimentalVMOptions -XX:hashCode=2"
    package = Package("", envStepLimit=10**9)
    del os.environ["JDK_JAVA_OPTIONS"]
    players: dict[str, Callable[[str, list[str]], None]] = {
        "package": lambda task, path: play_package(package, task, path),
        "ours": lambda task, path: play_ours(env, task, path, reads=False),
        "ours, lists read": lambda task, path: play_ours(env, task, path, reads=True),
    }
    spent = {name: [0.0, 0.0] for name in players}
    for turn in range(arguments.warm_ups + arguments.rounds):
        for task, path in paths.items():
            for name, player in players.items():
                processor, wall = processor_seconds(), time.perf_counter()
                player(task, path)
                if turn >= arguments.warm_ups:
                    spent[name][0] += processor_seconds() - processor
                    spent[name][1] += time.perf_counter() - wall
    steps = arguments.rounds * sum(map(len, paths.values()))
    rows = {
        name: {
            "steps_per_processor_second": round(steps / processor, 1),
            "steps_per_second": round(steps / wall, 1),
            "ratio_processor": round(spent["package"][0] / processor, 2),
            "ratio_wall": round(spent["package"][1] / wall, 2),
        }
        for name, (processor, wall) in spent.items()
    }
    for name, row in rows.items():
        print(name, row)
    result = {"tasks": len(paths), "steps": steps, "rows": rows, "restore_and_one_step": restoring(env, paths)}
    print(result["restore_and_one_step"])
    if arguments.out:
        write_json(arguments.out, result)
    env.close()
    package.close()


def processor_seconds() -> float:
    """Of this process and its children, user and system."""
    total = 0.0
    for process in (psutil.Process(), *psutil.Process().children(recursive=True)):
        times = process.cpu_times()
        total += times.user + times.system
    return total


def expert_path(env: gym.Env[str, str], task: str) -> list[str]:
    env.reset(options={"task_id": f"scienceworld/{task}"})
    inner: Any = env.unwrapped
    return list(inner.expert_actions())


def play_package(package: Any, task: str, path: list[str]) -> None:
    name, variation = task.split("/")
    package.load(name, int(variation), "easy")
    package.reset()
    for action in path:
        _, _, done, _ = package.step(action)
    assert done


def play_ours(env: gym.Env[str, str], task: str, path: list[str], *, reads: bool) -> None:
    _, info = env.reset(options={"task_id": f"scienceworld/{task}"})
    for action in path:
        if reads:
            len(info["admissible_actions"])
        *_, info = env.step(action)
    assert info["success"]


def restoring(env: gym.Env[str, str], paths: dict[str, list[str]]) -> dict[str, float]:
    """Go on from the middle of each path, from a simulator that stands at its end."""
    inner: Any = env.unwrapped
    played, processor, wall = 0, 0.0, 0.0
    for task, path in paths.items():
        half = len(path) // 2
        env.reset(options={"task_id": f"scienceworld/{task}"})
        for action in path[:half]:
            env.step(action)
        moment = inner.snapshot()
        expected, *_ = [env.step(action) for action in path[half:]]
        processor, wall = processor - processor_seconds(), wall - time.perf_counter()
        inner.restore(moment)
        assert env.step(path[half])[:3] == expected[:3]
        processor, wall = processor + processor_seconds(), wall + time.perf_counter()
        played += half + 1
    return {
        "actions_played_again_each": round(played / len(paths), 1),
        "processor_milliseconds_each": round(1000 * processor / len(paths)),
        "milliseconds_each": round(1000 * wall / len(paths)),
    }


if __name__ == "__main__":
    assert icto_gym
    main()
