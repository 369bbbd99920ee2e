"""The promises that every environment keeps, shown on the scripted one."""

import copy
import pickle
import subprocess
import sys
import warnings

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env

import icto_gym
from icto_gym.core import LazyActions
from icto_gym.testing import ScriptedEnv

if "Scripted-v0" not in gym.registry:
    gym.register("Scripted-v0", entry_point="icto_gym.testing:ScriptedEnv", max_episode_steps=6)


def test_check_env_is_clean():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warnings.filterwarnings("ignore", message=".*different render modes.*")
        check_env(gym.make("Scripted-v0").unwrapped)


@pytest.mark.parametrize("mode", ["sync", "async"])
def test_make_vec_plays_text(mode):
    envs = gym.make_vec("Scripted-v0", num_envs=3, vectorization_mode=mode)
    try:
        observations, infos = envs.reset(seed=1)
        assert observations == ("Three bowls stand here.",) * 3
        observations, rewards, *_, infos = envs.step(("look", "knock", "öd \ud800"))
        assert observations[1:] == ("Knock, knock.", "What?")
        assert list(rewards) == [0.0, 0.25, 0.0]
        assert list(infos["valid_action"]) == [True, True, False]
    finally:
        envs.close()


def test_an_async_observation_too_long_for_shared_memory_says_what_to_do():
    from gymnasium.vector.utils import create_shared_memory, write_to_shared_memory

    space = icto_gym.FreeText()
    with pytest.raises(ValueError, match="shared_memory"):
        write_to_shared_memory(space, 0, "x" * (2 << 20), create_shared_memory(space, 1))


def test_reward_is_the_change_of_score_and_the_end_stays_the_end():
    env = ScriptedEnv()
    _, info = env.reset(options={"task_id": "scripted/train/03"})
    fruit = info["instruction"].split()[-1].rstrip(".")
    assert env.step("knock")[1] == 0.25
    take = f"take {fruit} from bowl 1"
    assert env.step(take)[1:4] == (0.75, True, False)
    assert env.step(take)[1:4] == (0.0, True, False)


def test_same_seed_draws_the_same_task():
    env = ScriptedEnv()
    first = env.reset(seed=5)[1]["task_id"]
    assert env.reset(seed=5)[1]["task_id"] == first
    assert len({env.reset(seed=seed)[1]["task_id"] for seed in range(30)}) > 5


def test_wrong_options_are_refused_with_the_nearest_name():
    env = ScriptedEnv()
    with pytest.raises(icto_gym.ConfigError, match="Did you mean 'task_id'"):
        env.reset(options={"taskid": "x"})
    with pytest.raises(icto_gym.InvalidTask, match="Did you mean 'scripted/train/01'"):
        env.reset(options={"task_id": "scripted/trian/01"})
    with pytest.raises(icto_gym.InvalidTask, match=r"0\.\.11"):
        env.reset(options={"index": 12})
    with pytest.raises(icto_gym.InvalidTask, match="-1"):
        env.reset(options={"index": -1})
    with pytest.raises(icto_gym.ConfigError, match="not both"):
        env.reset(options={"index": 1, "task_id": "scripted/train/01"})
    with pytest.raises(icto_gym.ConfigError, match="int 3"):
        env.reset() and env.step(3)
    for wrong in (lambda: env.reset(options={"split": ["test"]}), lambda: ScriptedEnv(split=["test"]),
                  lambda: icto_gym.tasks("icto/WebShop-v0", split=["test"])):  # fmt: skip
        with pytest.raises(icto_gym.InvalidTask, match=r"split is \['test'\]"):
            wrong()
    with pytest.raises(icto_gym.ConfigError, match=r"options of reset are \['task_id'\]"):
        env.reset(options=["task_id"])


def test_an_index_may_be_any_whole_number_and_nothing_else():
    env = ScriptedEnv()
    assert env.reset(options={"index": np.int64(3)})[1]["task_id"] == env.reset(options={"index": 3})[1]["task_id"]
    for wrong in (np.int64(12), 3.0, "3", True, None):
        with pytest.raises(icto_gym.InvalidTask, match=r"0\.\.11"):
            env.reset(options={"index": wrong})


def test_snapshot_and_restore_continue_exactly():
    env = ScriptedEnv()
    env.reset(options={"index": 2})
    env.step("knock")
    state = env.snapshot()
    after = env.step("look")[0]
    env.step("nonsense")
    observation, info = env.restore(state)
    assert (observation, info["score"]) == ("Knock, knock.", 0.25)
    assert env.step("look")[0] == after


def test_lazy_actions_compute_once_and_travel():
    calls = []
    actions = LazyActions(lambda: calls.append(1) or ["a", "b"])
    assert not calls
    assert actions == ["a", "b"] and "a" in actions and len(actions) == 2 and actions[0] == "a"
    assert len(calls) == 1
    assert pickle.loads(pickle.dumps(actions)) == copy.deepcopy(actions) == actions


def test_importing_the_package_is_quick_and_without_torch():
    code = "import icto_gym, sys; print([m for m in ('torch', 'transformers', 'spacy', 'py4j') if m in sys.modules])"
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert shown.stdout.strip() == "[]"


def test_an_unknown_environment_suggests_the_nearest():
    with pytest.raises(icto_gym.InvalidTask, match="Did you mean 'icto/WebShop-v0'"):
        icto_gym.tasks("icto/Webshop-v0")
