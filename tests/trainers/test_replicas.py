"""Ray actors with copies of the policy play whole episodes: as here, and through kills and hangs."""

import json
import sys
from collections import deque
from dataclasses import replace

import gymnasium as gym
import pytest
from packages import installed

from icto_gym.errors import BackendError, ConfigError
from icto_gym.store import TrajectoryStore
from icto_gym.testing import ScriptedEnv
from icto_gym.wrappers import ReAct
from trainers.policies import make_policy
from trainers.policies.players import ActingConfig, model_player
from trainers.replicas import _Crew
from trainers.rollout import RolloutConfig, plan_jobs, rollout
from trainers.sampling import parse_workers

ray = installed("ray", extra="ray")
pytestmark = pytest.mark.slow

CONFIG = RolloutConfig(env_id="icto_gym.testing:Scripted-v0", epsilon=0.3, attempts=2)
SHOP = RolloutConfig(env_id="icto/WebShop-v0", attempts=2, max_tasks=3, epsilon=0.2)
TWO = "ray:2,replicas,cpus=0.5"
OWN_POLICY = '''
"""A user's own policy; at its second turn of task 03 it does what the file `trouble` says, as often as that says."""

import os
import signal
from pathlib import Path

from trainers.policies import room


class Mine:
    def __init__(self, folder):
        self.name, self.folder, self.ended = "mine", Path(folder), []
        (self.folder / "sharers").open("a").write(f"{room.sharers}\\n")

    def act(self, turns):
        return [self.answer(turn) for turn in turns]

    def answer(self, turn):
        begins = len(turn.messages) <= 4
        if begins and (self.folder / "t.jsonl").exists():
            stored = (self.folder / "t.jsonl").read_text()
            assert all(f'"{episode}"' in stored for episode in self.ended), "a job was given before its turn"
        elif not begins and "/03@" in turn.episode:
            self.trouble()
        return f"Thought: {len(turn.messages)}\\nAction: {'knock' if begins else 'wait'}"

    def trouble(self):
        kind, *rest = (self.folder / "trouble").read_text().split() or [""]
        (self.folder / "trouble").write_text(" ".join(rest))
        (self.folder / "begun").open("a").write(f"{os.getpid()}\\n")
        if kind == "bug":
            raise ValueError("No such trouble.")
        if kind:
            os.kill(os.getpid(), {"kill": signal.SIGKILL, "stop": signal.SIGSTOP}[kind])

    def forget(self, episode):
        self.ended.append(episode)
'''


@pytest.fixture(scope="module")
def cluster():
    ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False, object_store_memory=100 << 20,
             _node_ip_address="127.0.0.1")  # fmt: skip
    yield
    ray.shutdown()


@pytest.fixture
def mine(tmp_path, monkeypatch):
    """Makes the policy above by its dotted path; nobody but this path's folder knows its module."""
    name = f"own_policy_{abs(hash(tmp_path))}"
    (tmp_path / f"{name}.py").write_text(OWN_POLICY)
    (tmp_path / "trouble").write_text("")
    monkeypatch.syspath_prepend(tmp_path)
    yield lambda: make_policy(f"{name}:Mine", folder=str(tmp_path))
    sys.modules.pop(name, None)


def play(path, policy, source, **options):
    jobs = plan_jobs(source)
    rollout(policy, source, jobs, TrajectoryStore(path), **options)
    return sorted(path.read_bytes().splitlines())


@pytest.mark.parametrize("spec", ["random", "expert"])
def test_a_mix_played_by_two_replicas_is_equal_to_the_byte(cluster, tmp_path, spec):
    expected = play(tmp_path / "here.jsonl", make_policy(spec), [CONFIG, SHOP])
    found = play(tmp_path / "ray.jsonl", make_policy(spec), [CONFIG, SHOP], workers=TWO, batch_size=6)
    assert found == expected and len(found) == 24 + 6


def test_copies_of_a_language_model_write_what_it_writes_here(cluster, tmp_path):
    from trainers.models.config import ModelConfig

    load = model_player(ModelConfig("tiny-random"), "tiny", ActingConfig(max_new_tokens=8)).load
    config = replace(CONFIG, max_episode_steps=3)
    expected = play(tmp_path / "here.jsonl", load(), config)
    assert play(tmp_path / "ray.jsonl", load(), config, workers=TWO, batch_size=6) == expected
    tokens = [json.loads(line)["extra"].get("response_tokens", 0) for line in expected]
    assert len(expected) == 24 and sum(tokens) > 0


@pytest.mark.parametrize(("cards", "each"), [("", "2"), (",gpus=1", "1"), (",gpus=0.3", "3")])
def test_copies_on_one_machine_or_card_share_its_memory(cards, each):
    crew = _Crew(parse_workers(TWO + cards), ({}, "", [], None), deque(), lambda ended: None, 6, 1.0, None)
    assert str(crew._opening[-1]) == each


def test_each_copy_knows_how_many_share_the_memory(cluster, tmp_path, mine):
    policy = mine()
    (tmp_path / "sharers").unlink()
    play(tmp_path / "t.jsonl", policy, CONFIG, workers=TWO, batch_size=6)
    assert set((tmp_path / "sharers").read_text().split()) == {"2"}


@pytest.mark.parametrize(("trouble", "size"), [("kill", 6), ("kill", 2), ("stop", 6)])
def test_a_killed_or_hanging_replica_has_its_episodes_played_elsewhere(cluster, tmp_path, mine, trouble, size):
    expected = play(tmp_path / "calm.jsonl", mine(), CONFIG)
    (tmp_path / "begun").unlink()
    (tmp_path / "trouble").write_text(trouble)
    assert play(tmp_path / "t.jsonl", mine(), CONFIG, workers=TWO, batch_size=size, step_timeout=4.0) == expected
    players = (tmp_path / "begun").read_text().split()
    assert len(set(players)) >= 2, "the episode was not taken over by another process"


def test_an_episode_that_kills_every_replica_is_recorded_and_those_beside_it_are_sound(cluster, tmp_path, mine):
    (tmp_path / "trouble").write_text("kill " * 9)
    config = replace(CONFIG, attempts=1)
    play(tmp_path / "t.jsonl", mine(), config, workers=TWO, batch_size=6)
    stored = list(TrajectoryStore(tmp_path / "t.jsonl"))
    (broken,) = [trajectory for trajectory in stored if trajectory.error]
    assert len(stored) == 12 and broken.task_id.endswith("03") and "worker is gone" in broken.error
    assert len((tmp_path / "begun").read_text().split()) == 3


def test_what_a_replica_raises_ends_the_run_with_the_same_error_and_the_next_run_continues(cluster, tmp_path, mine):
    expected = play(tmp_path / "calm.jsonl", mine(), CONFIG)
    (tmp_path / "trouble").write_text("bug")
    with pytest.raises(ValueError, match="No such trouble"):
        play(tmp_path / "t.jsonl", mine(), CONFIG, workers=TWO, batch_size=2)
    assert play(tmp_path / "t.jsonl", mine(), CONFIG, workers=TWO, batch_size=2) == expected


def test_a_policy_of_unknown_making_is_refused_before_anything_starts(tmp_path):
    class Mine:
        name = "mine"

        def act(self, turns):
            return ["Action: wait" for _ in turns]

    with pytest.raises(ConfigError, match=r"'mine' \(Mine\).*make_policy.*replicas"):
        play(tmp_path / "t.jsonl", Mine(), CONFIG, workers=TWO)


def test_a_policy_option_that_cannot_be_sent_is_a_config_error(cluster, tmp_path, mine):
    policy = mine()
    policy.made_by["options"]["lock"] = __import__("threading").Lock()
    with pytest.raises(ConfigError, match="cannot be sent to a Ray worker"):
        play(tmp_path / "t.jsonl", policy, CONFIG, workers=TWO)


def test_an_environment_made_by_a_function_is_sent_to_the_replicas(cluster, tmp_path):
    def make():
        return ReAct(gym.wrappers.TimeLimit(ScriptedEnv(), 3))

    store = TrajectoryStore(tmp_path / "t.jsonl")
    rollout(make_policy("random"), make, plan_jobs(CONFIG), store, workers=TWO, batch_size=3)
    assert len(store.ids()) == 24


def test_replicas_for_which_no_machine_has_room_are_an_error_that_says_what_they_take(cluster, tmp_path, monkeypatch):
    monkeypatch.setattr("trainers.replicas.START_SECONDS", 2.0)
    with pytest.raises(BackendError, match=r"No worker is left.*cpus=1 and gpus=1"):
        play(tmp_path / "t.jsonl", make_policy("random"), CONFIG, workers="ray:2,replicas,gpus=1", step_timeout=1.0)
