"""Where environments run changes nothing of what is played, and a worker that dies or hangs stops nobody."""

import os
import signal
import sys
import threading
import time
from concurrent.futures import Future
from dataclasses import replace
from functools import partial
from pathlib import Path

import gymnasium as gym
import pytest
from packages import installed

from icto_gym.errors import BackendError, ConfigError
from icto_gym.store import TrajectoryStore
from icto_gym.testing import ScriptedEnv
from icto_gym.wrappers import ReAct
from trainers.policies import make_policy
from trainers.policies.base import Answer
from trainers.rollout import RolloutConfig, plan_jobs, rollout
from trainers.sampling import WorkerPlan, parse_workers, waits_elsewhere, without_replicas

CONFIG = RolloutConfig(env_id="icto_gym.testing:Scripted-v0", epsilon=0.3, attempts=2)
SHOP = RolloutConfig(env_id="icto/WebShop-v0", attempts=2, max_tasks=4, epsilon=0.2)


def play(path, source, jobs, policy="random", **options):
    store = TrajectoryStore(path)
    rollout(make_policy(policy) if isinstance(policy, str) else policy, source, jobs, store, **options)
    return sorted(path.read_bytes().splitlines())


class Troubled(ScriptedEnv):
    """At ``knock`` in task 03 it does what its file says, as often as that file has lines."""

    def __init__(self, folder, **kwargs):
        super().__init__(**kwargs)
        self.folder = Path(folder)

    def _advance(self, action):
        if action == "knock" and self.task.task_id.endswith("03"):
            lines = (self.folder / "trouble").read_text().split()
            if lines:
                (self.folder / "trouble").write_text(" ".join(lines[1:]))
                self.trouble(lines[0])
        return super()._advance(action)

    def trouble(self, kind):
        if kind == "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        elif kind == "stop":
            os.kill(os.getpid(), signal.SIGSTOP)
        elif kind == "exit":
            sys.exit("The simulator is done.")
        raise ValueError("No such trouble.")


class Making:
    """Makes environments in any process."""

    def __init__(self, folder):
        self.folder = str(folder)

    def __call__(self):
        return ReAct(gym.wrappers.TimeLimit(Troubled(self.folder), 3))


class Knocks:
    name = "knocks"

    def act(self, turns):
        return ["Thought: hm\nAction: knock" for _ in turns]


@pytest.mark.parametrize("workers", ["none", "threads:3", "processes:2"])
def test_results_are_equal_to_the_byte_wherever_environments_run(tmp_path, workers):
    both = [CONFIG, SHOP]
    jobs = plan_jobs(both)
    expected = play(tmp_path / "alone.jsonl", both, jobs, batch_size=1)
    assert len(expected) == 24 + 8
    assert play(tmp_path / "crew.jsonl", both, jobs[::-1], workers=workers, batch_size=7) == expected


def test_a_mix_is_played_in_turn_and_jobs_that_would_share_an_id_are_refused(tmp_path):
    jobs = plan_jobs([CONFIG, SHOP])
    assert [job.source for job in jobs[:8]] == [0, 0, 1, 0, 0, 0, 1, 0]
    with pytest.raises(ConfigError, match="Two different jobs"):
        both = [CONFIG, replace(CONFIG, window=1)]
        play(tmp_path / "t.jsonl", both, plan_jobs(both))


def test_a_slow_environment_holds_nobody_back(tmp_path):
    """Task 03 does not answer its first step before all others have ended."""
    others_ended, ended = threading.Event(), []

    class Slow(ScriptedEnv):
        def _advance(self, action):
            if self.task.task_id.endswith("03"):
                assert others_ended.wait(60), "the others wait for this one"
            return super()._advance(action)

    class Counting(Knocks):
        def forget(self, episode):
            ended.append(episode)
            if len(ended) == 11:
                others_ended.set()

    jobs = plan_jobs(replace(CONFIG, attempts=1))
    found = play(
        tmp_path / "t.jsonl", lambda: ReAct(gym.wrappers.TimeLimit(Slow(), 3)), jobs, Counting(),
        workers="threads:4", batch_size=4,
    )  # fmt: skip
    assert len(found) == 12 and ended[-1] == "scripted/train/03@knocks#0"


@pytest.mark.parametrize("trouble", ["kill", "stop"])
def test_a_worker_that_dies_or_hangs_is_replaced_and_its_episodes_are_played_again(tmp_path, trouble):
    jobs = plan_jobs(replace(CONFIG, attempts=1))
    (tmp_path / "trouble").write_text("")
    expected = play(tmp_path / "calm.jsonl", Making(tmp_path), jobs, Knocks())
    (tmp_path / "trouble").write_text(trouble)
    sources = [Making(tmp_path)]
    found = play(tmp_path / "t.jsonl", sources, jobs, Knocks(), workers="processes:2", batch_size=6, step_timeout=5.0)
    assert (tmp_path / "trouble").read_text() == "" and found == expected


def test_an_episode_that_kills_every_worker_is_recorded_with_its_error(tmp_path):
    (tmp_path / "trouble").write_text("kill " * 9)
    jobs = plan_jobs(replace(CONFIG, attempts=1))
    play(tmp_path / "t.jsonl", Making(tmp_path), jobs, Knocks(), workers="processes:1", batch_size=6)
    stored = list(TrajectoryStore(tmp_path / "t.jsonl"))
    (broken,) = [trajectory for trajectory in stored if trajectory.error]
    assert len(stored) == 12 and broken.task_id.endswith("03") and "exit code -9" in broken.error


def test_what_an_environment_raises_in_a_worker_ends_the_run_with_the_same_error(tmp_path):
    (tmp_path / "trouble").write_text("bug")
    jobs = plan_jobs(replace(CONFIG, attempts=1))
    for workers in ("none", "threads:2", "processes:1"):
        with pytest.raises(ValueError, match="No such trouble"):
            (tmp_path / "trouble").write_text("bug")
            play(tmp_path / f"{workers[:4]}.jsonl", Making(tmp_path), jobs, Knocks(), workers=workers)


def test_an_environment_that_ends_python_ends_the_run_from_a_thread_too(tmp_path):
    jobs = plan_jobs(replace(CONFIG, attempts=1))
    for workers in ("none", "threads:2"):
        (tmp_path / "trouble").write_text("exit")
        with pytest.raises(SystemExit, match="The simulator is done"):
            play(tmp_path / f"{workers[:4]}.jsonl", Making(tmp_path), jobs, Knocks(), workers=workers)


class Sleepy(ScriptedEnv):
    """Every step takes 0.4 s; the sixth ends the process where the file is there, and takes it away."""

    def __init__(self, folder):
        super().__init__()
        self.file, self.steps_taken = Path(folder) / "trouble", 0

    def _advance(self, action):
        time.sleep(0.4)
        self.steps_taken += 1
        if self.steps_taken == 6 and self.file.exists():
            self.file.unlink()
            os.kill(os.getpid(), signal.SIGKILL)
        return super()._advance(action)


def make_sleepy(folder):
    return ReAct(gym.wrappers.TimeLimit(Sleepy(folder), 7))


def test_the_time_limit_is_that_of_one_step_also_where_many_are_played_again(tmp_path):
    (tmp_path / "trouble").touch()
    job = plan_jobs(replace(CONFIG, attempts=1))[:1]
    make = partial(make_sleepy, str(tmp_path))
    play(tmp_path / "t.jsonl", make, job, Knocks(), workers="processes:1", step_timeout=1.8)
    (stored,) = TrajectoryStore(tmp_path / "t.jsonl")
    assert not (tmp_path / "trouble").exists() and stored.error is None and len(stored.steps) == 7


class Lock(gym.Wrapper):
    """Says something that no other process can be told."""

    def reset(self, **options):
        observation, info = self.env.reset(**options)
        return observation, {**info, "lock": threading.Lock()}


def make_locked():
    return Lock(ReAct(gym.wrappers.TimeLimit(ScriptedEnv(), 3)))


def test_info_that_cannot_be_sent_is_a_config_error(tmp_path):
    with pytest.raises(ConfigError, match=r"says in info cannot be sent.*threads:N"):
        play(tmp_path / "t.jsonl", make_locked, plan_jobs(CONFIG), Knocks(), workers="processes:1")


@pytest.mark.parametrize("wrong", [{"batch_size": -1}, {"batch_size": 0}, {"step_timeout": 0.0}])
def test_a_number_below_its_least_is_named(tmp_path, wrong):
    with pytest.raises(ConfigError, match=f"{next(iter(wrong))}={next(iter(wrong.values()))}"):
        play(tmp_path / "t.jsonl", CONFIG, plan_jobs(CONFIG), **wrong)


def test_an_environment_that_cannot_be_sent_is_a_config_error(tmp_path):
    with pytest.raises(ConfigError, match=r"cannot be sent to another process.*threads:N"):
        play(tmp_path / "t.jsonl", lambda: None, plan_jobs(CONFIG), workers="processes:1")


def test_a_policy_that_computes_elsewhere_never_waits_for_a_batch(tmp_path):
    """Every question but one is answered at once; that one only when nobody else plays any more."""
    held = []

    class Elsewhere(Knocks):
        ended = 0

        def submit(self, turn):
            future = Future()
            if "/03@" in turn.episode and not held:
                held.append(future)
            else:
                future.set_result(Answer("Action: wait"))
            return future

        def forget(self, episode):
            self.ended += 1
            if self.ended == 23:
                held[0].set_result(Answer("Action: wait"))

    assert len(play(tmp_path / "t.jsonl", CONFIG, plan_jobs(CONFIG), Elsewhere(), batch_size=5)) == 24


def test_a_policy_that_fails_elsewhere_ends_the_run(tmp_path):
    class Failing(Knocks):
        def submit(self, turn):
            future = Future()
            future.set_exception(BackendError("The endpoint is dead."))
            return future

    with pytest.raises(BackendError, match="dead"):
        play(tmp_path / "t.jsonl", CONFIG, plan_jobs(CONFIG), Failing(), workers="threads:2")


def test_each_environment_says_whether_it_gains_from_threads():
    assert waits_elsewhere("icto/ScienceWorld-v0") and waits_elsewhere("icto_gym:icto/ScienceWorld-v0")
    assert waits_elsewhere("icto/WebShopBrowser-v0")
    assert not waits_elsewhere("icto/WebShop-v0") and not waits_elsewhere("no/such-v0")


@pytest.mark.parametrize(
    "text",
    [
        "threads",
        "threads:0",
        "none:2",
        "proceses:2",
        "ray:x",
        "ray:2,replica",
        "ray:2,replicas=2",
        "ray:2,cpus=1.5",
        "ray:2,gpus=-1",
        "ray:2,gpus=nan",
        "processes:2,replicas",
    ],
)
def test_wrong_workers_are_named(text):
    with pytest.raises(ConfigError, match="workers"):
        RolloutConfig(workers=text)
    assert parse_workers("ray:2") == WorkerPlan("ray", 2) and parse_workers(None) is None
    assert parse_workers("ray:3, replicas,gpus=0.5,cpus=2") == WorkerPlan("ray", 3, True, 2.0, 0.5)
    assert without_replicas("ray:3,replicas,gpus=0.5") == "ray:3,gpus=0.5" and without_replicas(None) is None


@pytest.mark.slow
def test_scienceworld_in_threads_plays_as_in_one(tmp_path):
    installed("scienceworld", extra="scienceworld")
    config = RolloutConfig(
        env_id="icto/ScienceWorld-v0", env_kwargs={"task_types": ["find-non-living-thing"]},
        max_tasks=3, attempts=2, epsilon=0.3, branch_fraction=0.5, max_episode_steps=5,
    )  # fmt: skip
    jobs = plan_jobs(config)
    one = play(tmp_path / "1.jsonl", config, jobs, workers="none", batch_size=1)
    assert play(tmp_path / "2.jsonl", config, jobs, batch_size=3) == one and len(one) == 6
