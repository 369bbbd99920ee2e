"""The recorder writes finished episodes, whole, and nothing else."""

import gymnasium as gym
import pytest

from icto_gym import ConfigError, TrajectoryStore
from icto_gym.dialogue import trajectory_messages
from icto_gym.testing import ScriptedEnv
from icto_gym.wrappers import ReAct, RecordTrajectory

if "Scripted-v0" not in gym.registry:
    gym.register("Scripted-v0", entry_point="icto_gym.testing:ScriptedEnv", max_episode_steps=6)


def play(env, responses, **options):
    env.reset(options={"task_id": "scripted/train/00", **options})
    for response in responses:
        result = env.step(response)
    return result


def test_a_finished_episode_is_on_disk_before_the_step_returns(tmp_path):
    path = tmp_path / "t.jsonl"
    env = RecordTrajectory(ReAct(ScriptedEnv()), path, policy="me")
    *_, info = play(env, ["Thought: a\nAction: knock", "Action: take apple from bowl 1"])
    (stored,) = TrajectoryStore(path)
    assert stored == env.last_trajectory
    assert stored.trajectory_id == "scripted/train/00@me#0"
    assert [step.reward for step in stored.steps] == [0.25, 0.75]
    assert stored.episode_return == stored.score == 1.0 and stored.success and stored.terminated
    assert stored.steps[0].thought == "a" and stored.actions == ("knock", "take apple from bowl 1")
    assert trajectory_messages(stored) == info["messages"][:-1], "training sees what acting saw"


def test_attempts_count_on_per_task_and_over_restarts(tmp_path):
    for expected in (0, 1):
        env = RecordTrajectory(ReAct(ScriptedEnv()), tmp_path / "t.jsonl", policy="me")
        play(env, ["Action: take apple from bowl 2"])
        assert env.last_trajectory.trajectory_id.endswith(f"#{expected}")
    play(env, ["Action: take apple from bowl 2"], attempt=7)
    assert env.last_trajectory.trajectory_id.endswith("#7")


def test_an_abandoned_episode_is_not_written(tmp_path):
    store = TrajectoryStore(tmp_path / "t.jsonl")
    env = RecordTrajectory(ReAct(ScriptedEnv()), store)
    play(env, ["Action: look"])
    env.reset(seed=3)
    env.close()
    assert len(store) == 0


def test_attempts_named_and_counted_never_share_an_id(tmp_path):
    store = TrajectoryStore(tmp_path / "t.jsonl")

    def episode(env, **options):
        env.reset(options={"task_id": "scripted/train/03", **options})
        env.step("Action: take apple from bowl 1"), env.step("Action: take pear from bowl 2")
        return env.last_trajectory.trajectory_id.rpartition("#")[2]

    env = RecordTrajectory(ReAct(gym.make("Scripted-v0", max_episode_steps=1)), store)
    assert [episode(env), episode(env, attempt=4), episode(env), episode(env, attempt=2)] == ["0", "4", "5", "2"]
    again = RecordTrajectory(ReAct(gym.make("Scripted-v0", max_episode_steps=1)), store)
    assert episode(again) == "6" and len(store.ids()) == 5
    for wrong in ("x", -1, 1.0):
        with pytest.raises(ConfigError, match="'attempt' is"):
            episode(env, attempt=wrong)


def test_a_full_disk_ends_the_last_step_with_a_clear_error_and_loses_no_episode():
    env = RecordTrajectory(ReAct(ScriptedEnv()), "/dev/full")
    with pytest.raises(OSError, match="free space"):
        play(env, ["Action: take apple from bowl 1"])
    assert env.last_trajectory.success


def test_steps_after_the_end_are_not_recorded(tmp_path):
    store = TrajectoryStore(tmp_path / "t.jsonl")
    env = RecordTrajectory(ReAct(ScriptedEnv()), store)
    play(env, ["Action: take apple from bowl 2", "Action: look", "Action: look"])
    assert [len(trajectory.steps) for trajectory in store] == [1]


def test_a_limit_is_recorded_as_truncation(tmp_path):
    env = RecordTrajectory(ReAct(gym.make("Scripted-v0", max_episode_steps=2)), None)
    play(env, ["Action: look", "nonsense"])
    assert env.last_trajectory.truncated and not env.last_trajectory.terminated
    assert env.last_trajectory.env_id == "Scripted-v0"
    assert [step.valid for step in env.last_trajectory.steps] == [True, False]


def test_without_react_the_response_is_the_action():
    env = RecordTrajectory(ScriptedEnv(), None)
    play(env, ["take apple from bowl 1"])
    assert env.last_trajectory.actions == ("take apple from bowl 1",) and env.last_trajectory.success
