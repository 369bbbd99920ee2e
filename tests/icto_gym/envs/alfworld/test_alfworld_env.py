"""ALFWorld behind the common interface."""

from __future__ import annotations

import copy
import pickle
import subprocess
import sys
import threading
import warnings
from typing import Any

import gymnasium as gym
import pytest
from gymnasium.utils.env_checker import check_env

import icto_gym
from icto_gym.errors import ConfigError, InvalidTask
from icto_gym.wrappers import parse_response

ENV = "icto/ALFWorld-v0"


def make(**arguments: Any) -> gym.Env[str, str]:
    return gym.make(ENV, data="mini", **arguments)


def test_gymnasiums_checker_passes_without_a_warning() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        check_env(make(expert=True).unwrapped, skip_render_check=True)


def test_info_has_the_same_keys_after_reset_and_step_and_the_return_is_the_score() -> None:
    env = make(expert=True)
    _, first = env.reset(seed=3)
    total, terminated, info = 0.0, False, first
    while not terminated:
        _, reward, terminated, truncated, info = env.step(info["expert_action"])
        total += reward
        assert info.keys() == first.keys()
        assert not truncated
    assert total == info["score"] == info["raw_score"] == 1.0
    assert info["success"]
    env.close()
    env.close()


def test_seeds_draw_tasks_and_equal_play_gives_equal_info() -> None:
    drawn = []
    for _ in range(2):
        env = make(split="dev")
        seen = []
        for seed in range(6):
            observation, info = env.reset(seed=seed)
            seen.append((observation, info, env.step("look")))
        drawn.append(seen)
    assert drawn[0] == drawn[1]
    assert len({info["task_id"] for _, info, _ in drawn[0]}) > 3
    assert {info["split"] for _, info, _ in drawn[0]} == {"valid_seen"}


def test_tasks_are_chosen_by_id_and_by_index() -> None:
    env = make()
    task = icto_gym.tasks(ENV, split="valid_unseen", data="mini")[17]
    first = env.reset(options={"task_id": task.task_id})
    second = env.reset(options={"split": "test", "index": 17})
    assert first == second
    assert first[1]["task_id"] == task.task_id
    with pytest.raises(InvalidTask, match="Did you mean"):
        env.reset(options={"task_id": task.task_id + "x", "split": "test"})
    with pytest.raises(InvalidTask):
        env.reset(options={"index": 10_000})


def test_the_instruction_is_the_task_line_of_the_first_observation() -> None:
    observation, info = make().reset(seed=0)
    assert observation.endswith(f"\n\n{info['instruction']}")
    assert info["instruction"].startswith("Your task is to: ")


def test_the_worked_example_is_a_conversation_in_the_chosen_grammar() -> None:
    for grammar, last in ((None, "move bowl 1 to shelf 1"), ("put", "put bowl 1 in/on shelf 1")):
        messages = make(action_grammar=grammar).unwrapped.example
        assert [message.role for message in messages] == ["user", "assistant"] * (len(messages) // 2)
        assert not any(parse_response(message.content).problem for message in messages[1::2])
        assert parse_response(messages[-1].content).action == last


def test_wrong_arguments_are_named() -> None:
    textworld = {"engine": "textworld", "action_grammar": "put"}
    for wrong in (
        textworld,
        {"engine": "nativ"},
        {"action_grammar": "lay"},
        {"game_files": "one.tw-pddl", "data": None},
    ):
        with pytest.raises(ConfigError):
            gym.make(ENV, **wrong)


def test_snapshots_bring_back_state_info_and_expert() -> None:
    env = make(expert=True)
    _, info = env.reset(options={"split": "valid_unseen", "index": 5})
    for _ in range(3):
        _, _, _, _, info = env.step(info["expert_action"])
    inner = env.unwrapped
    snapshot, optimal = inner.snapshot(), inner.optimal_actions()
    first = [env.step(action) for action in ("look", "inventory", info["expert_action"])]
    env.reset(seed=1)
    _, again = inner.restore(snapshot)
    assert again == info
    assert inner.optimal_actions() == optimal
    assert [inner.step(action) for action in ("look", "inventory", info["expert_action"])] == first


def test_environments_pickle_and_copy_in_the_middle_of_an_episode() -> None:
    env = make(expert=True).unwrapped
    assert pickle.loads(pickle.dumps(env)).reset(seed=2) == env.reset(seed=2)
    for _ in range(3):
        env.step(env.expert_actions()[0])
    for twin in (pickle.loads(pickle.dumps(env)), copy.deepcopy(env)):
        assert twin.expert_actions() == env.expert_actions()
        assert twin.optimal_actions() == env.optimal_actions()
        assert twin.restore(twin.snapshot()) == env.restore(env.snapshot())
        assert twin.step("inventory") == copy.deepcopy(env).step("inventory")
    assert len(pickle.dumps(env)) < 100_000


def test_a_snapshot_of_an_ended_episode_stays_ended() -> None:
    env = make(expert=True).unwrapped
    _, info = env.reset(seed=0)
    terminated = False
    while not terminated:
        _, _, terminated, _, info = env.step(info["expert_action"])
    snapshot, listed = env.snapshot(), list(info["admissible_actions"])
    env.reset(seed=1)
    _, info = env.restore(snapshot)
    assert env.step("look")[2]
    assert info["admissible_actions"] == listed


def test_subgoals_are_reached_in_turn_on_the_way_to_each_goal() -> None:
    env = make(expert=True)
    shapes = {
        "pick_and_place_simple": ["found", "held", "placed"],
        "look_at_obj_in_light": ["found", "held", "lamp_on"],
        "pick_clean_then_place_in_recep": ["found", "held", "cleaned", "placed"],
        "pick_heat_then_place_in_recep": ["found", "held", "heated", "placed"],
        "pick_cool_then_place_in_recep": ["found", "held", "cooled", "placed"],
        "pick_two_obj_and_place": ["found", "held", "placed", "second_placed"],
    }
    for task in icto_gym.tasks(ENV, split="valid_unseen", data="mini"):
        expected = shapes.pop(task.task_type, None)
        if expected is None:
            continue
        _, info = env.reset(options={"task_id": task.task_id})
        reached: list[str] = []
        terminated = False
        while not terminated:
            assert list(info["subgoals"]) == expected
            _, _, terminated, _, info = env.step(info["expert_action"])
            reached += [name for name, done in info["subgoals"].items() if done and name not in reached]
        assert reached == expected, task.task_id
        assert all(info["subgoals"].values())
    assert not shapes


@pytest.mark.parametrize("mode", ["sync", "async"])
def test_vectors_play_in_one_process_and_in_several(mode: str) -> None:
    envs = gym.make_vec(ENV, num_envs=2, vectorization_mode=mode, data="mini", split="valid_seen")
    single = make(split="valid_seen")
    observations, infos = envs.reset(seed=[4, 5])
    for number, seed in enumerate((4, 5)):
        observation, info = single.reset(seed=seed)
        assert observations[number] == observation
        assert infos["task_id"][number] == info["task_id"]
    observations, rewards, *_ = envs.step(("look", "inventory"))
    assert observations[1] == "You are not carrying anything."
    assert list(rewards) == [0.0, 0.0]
    envs.close()


def test_environments_in_threads_do_not_disturb_each_other() -> None:
    def play(index: int, out: dict[int, list[str]]) -> None:
        env = make(expert=True)
        _, info = env.reset(options={"split": "valid_seen", "index": index})
        out[index], terminated = [], False
        while not terminated:
            observation, _, terminated, _, info = env.step(info["expert_action"])
            out[index].append(observation)

    alone: dict[int, list[str]] = {}
    for index in range(8):
        play(index, alone)
    together: dict[int, list[str]] = {}
    threads = [threading.Thread(target=play, args=(index, together)) for index in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert together == alone


def test_the_native_engine_needs_neither_alfworld_nor_textworld() -> None:
    code = (
        "import sys; sys.modules['alfworld'] = sys.modules['textworld'] = sys.modules['fast_downward'] = None\n"
        "import gymnasium, icto_gym\n"
        "env = gymnasium.make('icto/ALFWorld-v0', data='mini', expert=True); _, info = env.reset(seed=0)\n"
        "done = False\n"
        "while not done: _, _, done, _, info = env.step(info['expert_action'])\n"
        "print(info['success'], 'torch' in sys.modules)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.stdout.split() == ["True", "False"], done.stderr


def test_a_thousand_environments_take_less_than_a_gigabyte() -> None:
    code = (
        "import gymnasium, icto_gym, psutil\n"
        "envs = [gymnasium.make('icto/ALFWorld-v0', data='mini') for _ in range(1000)]\n"
        "for i, env in enumerate(envs):\n"
        "    _, info = env.reset(options={'index': 3 * i}); env.step(info['admissible_actions'][0])\n"
        "print(psutil.Process().memory_info().rss)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert int(done.stdout) < 1_000_000_000, done.stderr
