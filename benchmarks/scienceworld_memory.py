"""Resident memory of all Java processes while 1, 4 and 8 environments of one Python process play.

    python benchmarks/scienceworld_memory.py --out benchmarks/results/scienceworld_memory.json

Every environment plays a gold path with the list of commands read at each step; the highest sum seen is
reported, and whether the traces equal those of an environment that plays alone.
"""

from __future__ import annotations

import argparse
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import gymnasium as gym
import psutil

import icto_gym
from icto_gym.envs.scienceworld.pool import the_pool
from icto_gym.files import write_json

ENV_ID = "icto/ScienceWorld-v0"
TASKS = (
    "find-plant/225", "power-component/15", "use-thermometer/405", "chemistry-mix/24", "test-conductivity/675",
    "identify-life-stages-2/6", "find-animal/225", "chemistry-mix-paint-secondary-color/27",
)  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out")
    parser.add_argument("--counts", type=int, nargs="*", default=[1, 4, 8])
    arguments = parser.parse_args()
    for task in TASKS:
        play(task, expert_only=True)  # makes the gold paths, if they are not on disk yet
    the_pool().close()
    alone = [play(task) for task in TASKS]
    rows = {}
    for count in arguments.counts:
        the_pool().close()
        with Watch() as watch, ThreadPoolExecutor(count) as threads:
            traces = list(threads.map(play, TASKS[:count]))
            rows[str(count)] = {
                "megabytes": round(watch.highest / 2**20),
                "java_processes": watch.processes,
                "traces_as_alone": traces == alone[:count],
            }
        print(count, rows[str(count)])
    if arguments.out:
        write_json(arguments.out, rows)


class Watch:
    """The highest sum of resident memory of the Java processes, in bytes, looked at ten times a second."""

    def __enter__(self) -> Watch:
        self.highest = self.processes = 0
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._look)
        self._thread.start()
        return self

    def _look(self) -> None:
        while not self._over.wait(0.1):
            javas = the_pool().processes()
            self.highest = max(self.highest, sum(psutil.Process(java).memory_info().rss for java in javas))
            self.processes = max(self.processes, len(javas))

    def __exit__(self, *_: Any) -> None:
        self._over.set()
        self._thread.join()


def play(task: str, expert_only: bool = False) -> list[Any]:
    env = gym.make(ENV_ID, max_episode_steps=10_000)
    observation, info = env.reset(options={"task_id": f"scienceworld/{task}"})
    inner: Any = env.unwrapped
    trace: list[Any] = [observation]
    for action in inner.expert_actions():
        if expert_only:
            break
        trace.append(list(info["admissible_actions"]))
        observation, reward, _, _, info = env.step(action)
        trace.append((observation, reward, info["raw_score"], info["subgoals_done"]))
    env.close()
    return trace


if __name__ == "__main__":
    assert icto_gym
    main()
