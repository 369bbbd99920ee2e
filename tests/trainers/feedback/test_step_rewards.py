"""Step rewards: as recorded, as learned, and what the reward model is fitted to."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from icto_gym.errors import ConfigError, DataError
from icto_gym.trajectory import Step, Trajectory
from trainers.feedback import (
    JudgeConfig,
    RuleConfig,
    StepRewardConfig,
    make_judge,
    make_reward_targets,
    make_step_rewarder,
    return_to_go,
    reward_targets,
    score_all,
)
from trainers.feedback.learned import LearnedStepRewards
from trainers.pairing import cumulative_contrast
from trainers.records import StepRewards, Verdict


def play(rewards, error=None, attempt=0):
    steps = tuple(Step("o", "Action: a", "", "a", reward, True) for reward in rewards)
    return Trajectory(f"t@p#{attempt}", "e", "t", "", "", steps, "end", sum(rewards), False, True, False, "p", 0, error)


class Values:
    def __init__(self, *values):
        self.values = values

    def score(self, trajectory):
        return list(self.values)


def test_recorded_rewards_are_the_environments_own():
    found = score_all(make_step_rewarder("recorded"), [play([0.25, 0.0])])
    assert found == [StepRewards("t@p#0", (0.25, 0.0), "recorded")]


def test_return_to_go_by_hand():
    assert return_to_go([1.0, 0.0, 2.0], 0.5) == [1.5, 1.0, 2.0]
    assert return_to_go([0.0, 0.0, 1.0]) == [1.0, 1.0, 1.0]
    assert return_to_go([]) == []


def test_targets_leave_out_broken_episodes():
    episodes = [play([0.0, 1.0]), play([0.5], error="gone", attempt=1)]
    assert reward_targets(episodes, gamma=0.5) == {"t@p#0": [0.5, 1.0]}
    assert reward_targets(episodes, "recorded") == {"t@p#0": [0.0, 1.0]}
    with pytest.raises(ConfigError, match="Did you mean 'return_to_go'"):
        reward_targets(episodes, "return-to-go")


def test_targets_can_be_written_as_step_rewards():
    config = StepRewardConfig(source="learned", gamma=0.5)
    assert make_reward_targets(config).score_steps(play([0.0, 1.0])).rewards == (0.5, 1.0)
    literal = StepRewardConfig(source="learned", targets="recorded")
    assert make_reward_targets(literal).score_steps(play([0.0, 1.0])).rewards == (0.0, 1.0)


def test_increments_sum_up_to_the_values_so_that_eq_2_contrasts_the_values():
    good = LearnedStepRewards(Values(0.5, 0.75, 0.25)).score_steps(play([0, 0, 0]))
    bad = LearnedStepRewards(Values(0.25, 0.5, 0.125)).score_steps(play([0, 0, 0]))
    assert good.rewards == (0.5, 0.25, -0.5) and good.source == "learned:increment"
    assert cumulative_contrast(good.rewards, bad.rewards) == [0.25, 0.25, 0.125]


def test_the_literal_reading_takes_the_values_as_rewards():
    found = LearnedStepRewards(Values(0.5, 0.75), literal=True).score_steps(play([0, 0]))
    assert found.rewards == (0.5, 0.75) and found.source == "learned:literal"


def test_a_model_that_scores_other_steps_is_an_error():
    with pytest.raises(DataError, match="2 steps and 1 step rewards"):
        LearnedStepRewards(Values(0.5)).score_steps(play([0, 0]))


@given(st.lists(st.floats(-1, 1), max_size=8), st.floats(0.1, 1.0))
def test_each_return_is_its_reward_and_the_discounted_next_one(rewards, gamma):
    found = return_to_go(rewards, gamma)
    for t, value in enumerate(found):
        ahead = found[t + 1] if t + 1 < len(found) else 0.0
        assert value == pytest.approx(rewards[t] + gamma * ahead)


# ---- by name


class Strict:
    name = "strict"

    def judge(self, trajectory):
        return Verdict(trajectory.trajectory_id, False, 0.5, "nothing pleases me", self.name)


class Nothing:
    pass


def test_judges_are_made_by_name():
    assert make_judge().name == make_judge("rules").name == "rules"
    assert make_judge(JudgeConfig(rules=RuleConfig(loop_repeats=5))).config.loop_repeats == 5


def test_a_dotted_path_names_any_judge(monkeypatch):
    import sys
    from types import ModuleType

    module = ModuleType("my_own.judges")
    module.Strict, module.Nothing = Strict, Nothing
    monkeypatch.setitem(sys.modules, "my_own", ModuleType("my_own"))
    monkeypatch.setitem(sys.modules, "my_own.judges", module)
    assert make_judge("my_own.judges:Strict").judge(play([0.0])).reason == "nothing pleases me"
    with pytest.raises(ConfigError, match="it needs name: str and judge"):
        make_judge("my_own.judges:Nothing")
    with pytest.raises(ConfigError, match="could not be loaded"):
        make_judge("my_own.judges:Missing")


@pytest.mark.parametrize("name", ["rule", "endpoint", "endpoint:", "nonsense"])
def test_an_unknown_judge_is_met_with_what_there_is(name):
    with pytest.raises(ConfigError, match=r"Give 'rules', 'endpoint:<model>'"):
        make_judge(name)


def test_step_rewarders_say_what_they_lack():
    with pytest.raises(ConfigError, match="no reward model was given"):
        make_step_rewarder("learned")
    with pytest.raises(ConfigError, match="Did you mean 'recorded'"):
        StepRewardConfig(source="record")
    with pytest.raises(ConfigError, match="gamma"):
        StepRewardConfig(gamma=0.0)
