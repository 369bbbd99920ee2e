"""How many shop steps one process makes per CPU second, against the original text environment.

    python benchmarks/webshop_speed.py [--json benchmarks/results/webshop_speed.json]

An episode searches, opens a product, chooses an option, reads the description, goes back and buys: the mix over which
the original (commit 64fa2a5, real Lucene, 1,000 products) made 36 steps per CPU second. Every episode of every run is
another task and so another query: no search is answered from memory. Resets count as time, not as steps.
"""

from __future__ import annotations

import argparse
import os
import platform
import time
from typing import Any

import gymnasium as gym

import icto_gym
from icto_gym.files import write_json

ORIGINAL_STEPS_PER_CPU_SECOND = 36.0
WANTED_RATIO = 100.0


def episode(env: gym.Env, task_id: str) -> int:
    """Play one episode of the mix; returns the number of steps."""
    _, info = env.reset(options={"task_id": task_id})
    words = info["instruction"].split(", and price lower")[0]
    _, _, _, _, info = env.step(f"search[{words}]")
    product = next(text for text in info["clickables"] if text.startswith("b0"))
    _, _, _, _, info = env.step(f"click[{product}]")
    value = info["clickables"][-1]
    terminated = False
    rest = (f"click[{value}]", "click[Description]", "click[< Prev]", "click[Buy Now]")
    for action in rest:
        _, _, terminated, _, info = env.step(action)
        assert info["valid_action"], (task_id, action)
    assert terminated
    return 2 + len(rest)


def measure(env: gym.Env, task_ids: list[str]) -> dict[str, Any]:
    """Steps per CPU second over one episode of each task, and what the parts cost."""
    start, wall = time.process_time(), time.perf_counter()
    steps = sum(episode(env, task_id) for task_id in task_ids)
    seconds, elapsed = time.process_time() - start, time.perf_counter() - wall
    return {
        "episodes": len(task_ids), "steps": steps, "cpu_seconds": round(seconds, 3),
        "wall_seconds": round(elapsed, 3), "steps_per_cpu_second": round(steps / seconds, 1),
    }  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--runs", type=int, default=3, help="each over other tasks; the median is reported")
    parser.add_argument("--mode", default="text", choices=("text", "text_rich", "html"))
    parser.add_argument("--json", help="write the result here")
    options = parser.parse_args()
    start = time.process_time()
    env = gym.make("icto/WebShop-v0", observation_mode=options.mode)
    loading = time.process_time() - start
    task_ids = [task.task_id for task in icto_gym.tasks("icto/WebShop-v0")]
    episode(env, task_ids.pop())  # the index is built at the first search
    parts = [task_ids[number :: options.runs] for number in range(options.runs)]
    runs = sorted((measure(env, part) for part in parts), key=lambda run: run["steps_per_cpu_second"])
    median = runs[len(runs) // 2]
    ratio = median["steps_per_cpu_second"] / ORIGINAL_STEPS_PER_CPU_SECOND
    result = {
        **median, "mode": options.mode, "loading_cpu_seconds": round(loading, 3),
        "original_steps_per_cpu_second": ORIGINAL_STEPS_PER_CPU_SECOND, "ratio": round(ratio, 1),
        "all_runs": [run["steps_per_cpu_second"] for run in runs],
        "python": platform.python_version(), "machine": platform.machine(), "cpus": os.cpu_count(),
    }  # fmt: skip
    print(
        f"{median['steps_per_cpu_second']:,.0f} steps per CPU second in {options.mode}: {ratio:.0f} times the original"
    )
    print(f"loading the built-in shop: {loading:.2f} CPU seconds; runs: {result['all_runs']}")
    if options.mode == "text" and ratio < WANTED_RATIO:
        raise SystemExit(f"slower than {WANTED_RATIO:.0f} times the original")
    if options.json:
        write_json(options.json, result)


if __name__ == "__main__":
    main()
