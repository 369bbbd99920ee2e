"""Kill Java in the middle of steps, and Python in the middle of episodes, and see what is left.

python benchmarks/scienceworld_faults.py --times 20 --out benchmarks/results/scienceworld_faults.json
"""

from __future__ import annotations

import argparse
import os
import random
import signal
import subprocess
import sys
import threading
import time
from typing import Any

import gymnasium as gym
import psutil

import icto_gym
from icto_gym.files import write_json

ENV_ID = "icto/ScienceWorld-v0"
BOIL = {"task_id": "scienceworld/boil/3"}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--times", type=int, default=20)
    parser.add_argument("--out")
    parser.add_argument("--play", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.play:
        play_forever()
    result = {"java_killed": kill_java(arguments.times), "python_killed": kill_python(arguments.times)}
    print(result)
    if arguments.out:
        write_json(arguments.out, result)


def kill_java(times: int) -> dict[str, Any]:
    """Java dies while a step runs: is the error recorded, and does the next reset give the same game?"""
    chance = random.Random(1)
    env = gym.make(ENV_ID, max_episode_steps=100_000)
    recorded = recovered = 0
    first = env.reset(options=BOIL)[0]
    for number in range(times):
        java = java_of(env)
        killer = threading.Timer(chance.random() / 5, os.kill, (java, signal.SIGKILL))
        killer.start()
        ended = False
        while not ended:
            _, _, ended, _, info = env.step("wait1")
        recorded += bool(info["error"])
        recovered += env.reset(options=BOIL)[0] == first
        print(f"java {number}: {info['error']}", file=sys.stderr, flush=True)
    env.close()
    return {"times": times, "error_recorded": recorded, "next_reset_works": recovered}


def java_of(env: gym.Env[str, str]) -> int:
    inner: Any = env.unwrapped
    return inner._session.simulator.process.process.pid


def kill_python(times: int) -> dict[str, Any]:
    """Python dies by ``kill -9`` while it plays: how long does its Java live on?"""
    chance = random.Random(2)
    seconds = []
    for number in range(times):
        python = subprocess.Popen([sys.executable, __file__, "--play"], stdout=subprocess.PIPE, text=True)
        assert python.stdout is not None
        java = int(python.stdout.readline())
        time.sleep(chance.random() / 2)
        python.kill()
        python.wait()
        start = time.perf_counter()
        while psutil.pid_exists(java) and time.perf_counter() - start < 30:
            time.sleep(0.02)
        seconds.append(round(time.perf_counter() - start, 2))
        print(f"python {number}: java gone after {seconds[-1]} s", file=sys.stderr, flush=True)
    return {"times": times, "java_left": sum(value >= 30 for value in seconds), "slowest_seconds": max(seconds)}


def play_forever() -> None:
    env = gym.make(ENV_ID, max_episode_steps=10**6)
    env.reset(options=BOIL)
    print(java_of(env), flush=True)
    while True:
        env.step("wait1")


if __name__ == "__main__":
    assert icto_gym
    main()
