"""IPR's step and trajectory pairs, on episodes written by hand."""

from __future__ import annotations

from dataclasses import replace

import pytest
from episodes import play

from icto_gym.errors import ConfigError
from trainers.pairing.along import AlongPairingConfig, along_expert, compared_steps
from trainers.records import StepRewards

EXPERT = play(["search", "open a", "buy"], [0, 0, 1.0], who="expert")


def attempt(actions, score, start):
    rewards = [0.0] * (len(actions) - 1) + [score]
    return replace(play(actions, rewards, attempt=start), extra={"prefix_steps": start})


def valued(*pairs):
    return [StepRewards(item.trajectory_id, tuple(values), "monte_carlo:value") for item, values in pairs]


def made(tried, rewards=(), **settings):
    result = along_expert([tried], None, rewards, AlongPairingConfig(**settings), expert=[EXPERT])
    return list(result.pairs), next(name for name, count in result.counts.items() if count and name != "pairs")


WORSE = attempt(["search", "open b", "back", "buy"], 0.4, 1)


def test_a_trajectory_pair_needs_the_outcome_alone():
    (pair,), outcome = made(attempt(["open b", "buy"], 0.4, 0))
    assert outcome == "expert won" and pair.granularity == "trajectory" and len(pair.prompt) == 3
    assert made(attempt(["open b", "buy"], 0.995, 0)) == ([], "ties")  # within 0.01


def test_a_step_pair_needs_outcome_and_step_reward_in_the_same_direction():
    agree = valued((EXPERT, [0.5, 0.9, 1.0]), (WORSE, [0.5, 0.3, 0.4, 0.4]))
    (pair,), outcome = made(WORSE, agree)
    assert outcome == "expert won at a step" and pair.margin == pytest.approx(0.6)
    assert [message.role for message in pair.prompt] == ["user", "assistant", "user", "assistant", "user"]
    assert [m.content for m in pair.rejected if m.role == "assistant"] == [s.response for s in WORSE.steps[1:]]
    disagree = valued((EXPERT, [0.5, 0.3, 1.0]), (WORSE, [0.5, 0.6, 0.4, 0.4]))
    assert made(WORSE, disagree) == ([], "step rewards disagree")
    close = valued((EXPERT, [0.5, 0.6, 1.0]), (WORSE, [0.5, 0.595, 0.4, 0.4]))
    assert made(WORSE, close) == ([], "step rewards disagree")


def test_a_step_that_both_took_is_worth_the_same_in_both():
    tried = attempt(["search", "open a", "back", "leave"], 0.4, 1)
    values = valued((EXPERT, [0.5, 1.0, 1.0]), (tried, [0.5, 0.4, 0.4, 0.4]))  # of a step that nobody continued
    assert made(tried, values) == ([], "step rewards disagree")


def test_rewards_are_needed_of_those_steps_alone_that_pairing_asks_for():
    tried = {
        "a step of their own": WORSE,
        "the expert's step": attempt(["search", "open a", "back", "leave"], 0.4, 1),
        "from the start": attempt(["open b", "buy"], 0.4, 0),
        "a tie": attempt(["search", "open b", "buy"], 1.0, 1),
        "broken": replace(attempt(["search", "open c", "buy"], 0.0, 1), error="gone"),
        "another task": replace(attempt(["search", "open c", "buy"], 0.0, 1), task_id="t/other"),
    }

    def compared(*episodes, **settings):
        found = compared_steps(episodes, AlongPairingConfig(**settings), expert=[EXPERT])
        return [([step.action for step in item.steps], number) for item, number in found]

    of_the_expert = [step.action for step in EXPERT.steps]
    assert compared(*tried.values()) == [(["search", "open b", "back", "buy"], 1), (of_the_expert, 1)]
    assert compared(*tried.values(), step_margin=None) == [] == compared(*tried.values(), step_pairs=False)
    early = compared(tried["from the start"], trajectory_pairs=False, first_step=True)
    assert early == [(["open b", "buy"], 0), (of_the_expert, 0)]
    assert made(tried["a tie"], shorter_wins=True) == ([], "ties")
    shorter = attempt(["search", "buy"], 1.0, 1)
    assert compared(shorter, shorter_wins=True) == [(["search", "buy"], 1), (of_the_expert, 1)]


def test_the_first_step_may_make_a_step_pair_in_the_place_of_a_trajectory_pair():
    tried = attempt(["open b", "buy"], 0.4, 0)
    alone = {"step_margin": None, "trajectory_pairs": False, "remainder": False}
    assert made(tried, **alone) == ([], "not asked for")
    (pair,), outcome = made(tried, **alone, first_step=True)
    assert outcome == "expert won at a step" and pair.granularity == "step"
    assert len(pair.prompt) == 3 and len(pair.chosen) == len(pair.rejected) == 1
    by_value = valued((EXPERT, [0.2, 0.9, 1.0]), (tried, [0.6, 0.4]))
    assert made(tried, by_value, trajectory_pairs=False, first_step=True) == ([], "step rewards disagree")


def test_the_remainder_is_trained_or_one_response_alone():
    rewards = valued((EXPERT, [0, 1.0, 1.0]), (WORSE, [0, 0, 0, 0.4]))
    assert [len(side) for side in (made(WORSE, rewards)[0][0].chosen, made(WORSE, rewards)[0][0].rejected)] == [3, 5]
    (single,), _ = made(WORSE, rewards, remainder=False)
    assert len(single.chosen) == len(single.rejected) == 1


def test_a_shorter_remainder_may_count_as_a_win_and_step_rewards_decide():
    short = attempt(["search", "buy"], 1.0, 1)
    rewards = valued((EXPERT, [0, 0.5, 1.0]), (short, [0, 1.0]))
    assert made(short, rewards) == ([], "ties")
    (pair,), outcome = made(short, rewards, shorter_wins=True)
    assert outcome == "agent won at a step" and pair.chosen_id == short.trajectory_id


def test_an_episode_that_ended_on_the_experts_path_asks_nobody():
    assert made(attempt(["search", "open a", "buy"], 1.0, 3)) == ([], "ended on the expert's path")


def test_another_path_than_the_experts_is_no_contrast():
    assert made(attempt(["look", "open b"], 0.0, 1)) == ([], "without a demonstration")


def test_missing_step_rewards_are_an_error_unless_outcomes_decide():
    with pytest.raises(ConfigError, match="no step rewards"):
        made(WORSE)
    (pair,), _ = made(WORSE, step_margin=None)
    assert pair.margin == pytest.approx(0.6)


def test_a_shorter_failure_does_not_escape_where_outcomes_decide():
    """Without step rewards being shorter decides nothing: the expert's better outcome does."""
    short = attempt(["search", "buy"], 0.0, 1)
    (pair,), outcome = made(short, shorter_wins=True, step_margin=None)
    assert outcome == "expert won at a step" and pair.rejected_id == short.trajectory_id
