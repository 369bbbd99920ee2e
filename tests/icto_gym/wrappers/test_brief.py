"""Short observations: nothing is said twice, nothing is lost."""

import gymnasium as gym
import pytest

from icto_gym.dialogue import trajectory_messages
from icto_gym.testing import ScriptedEnv
from icto_gym.wrappers import BriefObservation, ReAct, RecordTrajectory
from icto_gym.wrappers.brief import SAME


def test_an_observation_that_did_not_change_is_said_once():
    env = BriefObservation(ScriptedEnv())
    first, _ = env.reset(options={"index": 0})
    assert first == "Three bowls stand here."
    assert env.step("look")[0] == "The apple lies in bowl 1."
    assert env.step("look")[0] == SAME
    assert env.step("look")[0] == SAME
    assert env.step("knock")[0] == "Knock, knock."


@pytest.mark.parametrize("mode", ["text", "text_rich", "html"])
def test_shop_pages_lose_the_instruction_they_repeat_and_nothing_else(mode):
    plain = gym.make("icto/WebShop-v0", observation_mode=mode)
    brief = BriefObservation(gym.make("icto/WebShop-v0", observation_mode=mode))
    options = {"split": "test", "index": 3}
    assert plain.reset(options=options)[0] == brief.reset(options=options)[0]
    for action in plain.unwrapped.expert_actions()[:-1]:
        long, *_, info = plain.step(action)
        short = brief.step(action)[0]
        if short == SAME:
            continue
        if mode == "text":
            assert long.split(" [SEP] ") == ["Instruction:", info["instruction"], *short.split("\n")]
        else:
            assert short == long


def test_training_sees_what_acting_saw():
    env = RecordTrajectory(ReAct(BriefObservation(ScriptedEnv())), None)
    env.reset(options={"task_id": "scripted/train/00"})
    for response in ("Action: look", "Action: look", "Action: take apple from bowl 1"):
        *_, info = env.step(response)
    assert trajectory_messages(env.last_trajectory) == info["messages"][:-1]
    assert env.last_trajectory.steps[2].observation == SAME
