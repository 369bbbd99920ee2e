"""Processes killed for real: what breaks is recorded, and nothing stays behind."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import threading
import time
from typing import Any

import psutil
import pytest

from icto_gym.envs.scienceworld.pool import the_pool

BOIL = {"task_id": "scienceworld/boil/3"}


def gone(pid: int, seconds: float = 20.0) -> bool:
    """The process ends within ``seconds`` (a zombie has ended)."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        try:
            if psutil.Process(pid).status() == psutil.STATUS_ZOMBIE:
                return True
        except psutil.NoSuchProcess:
            return True
        time.sleep(0.05)
    return False


def java_of(env: Any) -> int:
    return env.unwrapped._session.simulator.process.process.pid


@pytest.mark.parametrize("delay", [0.0, 0.004, 0.02])
def test_java_killed_in_a_step_ends_that_episode_and_the_next_reset_works(new_env: Any, delay: float) -> None:
    env = new_env(max_episode_steps=100_000)
    first, _ = env.reset(options=BOIL)
    _, _, _, _, info = env.step("look in kitchen")
    java = java_of(env)
    killer = threading.Timer(delay, os.kill, (java, signal.SIGKILL))
    killer.start()
    terminated = False
    while not terminated:
        before = info
        observation, reward, terminated, truncated, info = env.step("wait1")
    killer.join()
    assert info["error"] and "Java" in info["error"]
    assert (reward, truncated, info["score"], info["success"]) == (0.0, False, before["score"], False)
    assert list(info["admissible_actions"]) == []
    assert env.step("look around")[0] == observation  # ended stays ended
    assert gone(java)
    assert env.reset(options=BOIL)[0] == first
    assert env.step("look in kitchen")[4]["error"] is None


def test_java_killed_between_episodes_is_not_noticed(new_env: Any) -> None:
    env = new_env()
    first, _ = env.reset(options=BOIL)
    os.kill(java_of(env), signal.SIGKILL)
    observation, info = env.reset(options=BOIL)
    assert (observation, info["error"]) == (first, None)


def test_a_list_is_still_read_after_java_was_killed(new_env: Any) -> None:
    env = new_env()
    _, info = env.reset(options=BOIL)
    expected = len(env.reset(options=BOIL)[1]["admissible_actions"])
    _, info = env.reset(options=BOIL)
    java = java_of(env)
    os.kill(java, signal.SIGKILL)
    assert len(info["admissible_actions"]) == expected  # another simulator lists them
    assert env.step("look around")[4]["error"]  # and the episode is over all the same


def test_one_environments_dead_java_leaves_the_others_alone(new_env: Any) -> None:
    envs = [new_env() for _ in range(5)]  # four in one process, the fifth in another
    for env in envs:
        env.reset(options=BOIL)
    javas = [java_of(env) for env in envs]
    assert len(set(javas)) == 2
    victim = max(set(javas), key=javas.count)
    os.kill(victim, signal.SIGKILL)
    for env, java in zip(envs, javas, strict=True):
        assert bool(env.step("look around")[4]["error"]) == (java == victim)


def test_a_hanging_call_times_out_and_its_java_does_not_stay(new_env: Any) -> None:
    env = new_env()
    env.reset(options=BOIL)
    simulator, java = env.unwrapped._session.simulator, java_of(env)
    simulator.wire.timeout = 0.5
    os.kill(java, signal.SIGSTOP)
    _, _, terminated, _, info = env.step("wait1")
    assert terminated and "did not answer 'step' within 0.5 s" in info["error"]
    assert gone(java)  # it was alone in there
    assert env.reset(options=BOIL)[1]["error"] is None
    assert env.unwrapped._session.simulator.wire.timeout == 60.0


def test_an_interrupt_in_the_middle_of_a_call_never_mixes_up_answers(
    new_env: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    env = new_env()
    first, _ = env.reset(options=BOIL)
    wire = env.unwrapped._session.simulator.wire

    def interrupted() -> bytes:
        raise KeyboardInterrupt

    monkeypatch.setattr(wire, "_read_line", interrupted)
    with pytest.raises(KeyboardInterrupt):
        env.step("look in kitchen")
    monkeypatch.undo()
    assert "interrupted" in env.step("wait1")[4]["error"]
    assert env.reset(options=BOIL)[0] == first


START = """
import sys, time
import gymnasium as gym, icto_gym
from icto_gym.envs.scienceworld.gateway import JavaProcess, find_java
from icto_gym.envs.scienceworld.pool import the_pool
how = sys.argv[1]
if how == "bare":  # the process without a game in it starts quickest
    process = JavaProcess(find_java())
    print(process.process.pid, flush=True)
    time.sleep(120)
lease = the_pool().lease(find_java(), 60)
print(lease.simulator.process.process.pid, flush=True)
if how == "episode":
    env = gym.make("icto/ScienceWorld-v0", max_episode_steps=10**6)
    env.reset(options={"task_id": "scienceworld/boil/3"})
    print("playing", flush=True)
    while True:
        env.step("wait1")
elif how == "child":
    import os
    child = os.fork()
    if child == 0:
        time.sleep(120)
    print(child, flush=True)
    time.sleep(120)
elif how == "exception":
    raise RuntimeError("somebody else's bug")
elif how == "close":
    lease.close()
"""


def start(how: str) -> tuple[subprocess.Popen[str], int]:
    """A Python that uses Java in some way, and the Java's process id."""
    python = subprocess.Popen(
        [sys.executable, "-c", START, how], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    )
    assert python.stdout is not None
    return python, int(python.stdout.readline())


def test_kill_9_of_python_takes_java_along_every_one_of_20_times() -> None:
    """Five at a time, so that starting them is quick; each is killed at a moment of its own."""
    chance = random.Random(20)
    for _ in range(4):
        started = [start("bare") for _ in range(5)]
        time.sleep(chance.random() / 5)
        for python, _ in started:
            python.kill()
            python.wait()
        assert all(gone(java) for _, java in started)


def test_kill_9_in_the_middle_of_an_episode_takes_java_along() -> None:
    python, java = start("episode")
    assert python.stdout is not None and python.stdout.readline() == "playing\n"
    python.kill()
    python.wait()
    assert gone(java)


def test_a_forked_child_that_lives_on_does_not_keep_java_alive() -> None:
    python, java = start("child")
    assert python.stdout is not None
    child = int(python.stdout.readline())
    python.kill()
    python.wait()
    try:
        assert gone(java) and psutil.pid_exists(child)
    finally:
        os.kill(child, signal.SIGKILL)


@pytest.mark.parametrize("how", ["exception", "close"])
def test_an_exception_or_a_close_leaves_no_java(how: str) -> None:
    python, java = start(how)
    python.wait(60)
    assert gone(java)


def test_closing_the_last_environment_ends_java_soon(new_env: Any) -> None:
    env = new_env()
    env.reset(options=BOIL)
    javas = the_pool().processes()
    env.close()
    env.close()
    assert all(gone(java) for java in javas)
