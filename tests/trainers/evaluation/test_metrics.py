"""Metrics with numbers worked by hand."""

from __future__ import annotations

from dataclasses import replace

import gymnasium as gym
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from icto_gym.errors import ConfigError, DataError
from icto_gym.trajectory import Step, Trajectory
from icto_gym.wrappers import RecordTrajectory
from trainers.evaluation import HIGHER_IS_BETTER, Estimate, estimate, paired_difference, summarize
from trainers.evaluation.metrics import bootstrap_means, metrics_from_json, metrics_to_json


def play(task, rewards, *, valid=None, attempt=0, terminated=True, actions=None, extra=None):
    valid = valid or [True] * len(rewards)
    actions = actions or [f"go {t}" for t in range(len(rewards))]
    steps = tuple(
        Step(f"o{t}", f"Action: {actions[t]}", "", actions[t], reward, valid[t]) for t, reward in enumerate(rewards)
    )
    score = sum(rewards)
    return Trajectory(
        trajectory_id=f"{task}@p#{attempt}", env_id="e", task_id=task, system_prompt="", instruction="", steps=steps,
        final_observation="end", score=score, success=score >= 1, terminated=terminated, truncated=not terminated,
        policy="p", seed=0, extra=extra,
    )  # fmt: skip


FOUR = [
    play("a", [0.0, 1.0]),
    play("b", [0.5, 0.0, 0.0, 0.0], valid=[True, False, False, True], terminated=False),
    play("c", [0.0]),
    play("c", [1.0], attempt=1),
]


def test_means_are_over_tasks_with_attempts_averaged_first():
    found = summarize(FOUR)
    assert found["average_reward"].value == pytest.approx((1 + 0.5 + 0.5) / 3)
    assert found["success_rate"].value == pytest.approx((1 + 0 + 0.5) / 3)
    assert found["mean_actions"].value == pytest.approx((2 + 4 + 1) / 3)
    assert found["mean_actions_success"] == pytest.approx((1.5, 1.0, 2.0, 2))  # a: 2 and c: 1
    assert found["invalid_action_share"].value == pytest.approx(0.5 / 3)
    assert found["ended_by_itself_rate"].value == pytest.approx(2 / 3)
    assert found["success_rate"].n == 3
    assert "optimal_action_rate" not in found and "tokens_per_episode" not in found


def test_reward_is_discounted_from_the_first_step():
    assert summarize([play("a", [0.5, 0.0, 0.5])], gamma=0.5)["average_reward"].value == pytest.approx(0.625)


def test_optimal_actions_come_from_the_record_or_from_the_caller_and_are_not_guessed():
    marked = play("a", [0.0, 1.0], extra={"optimal": [True, False]})
    partly = play("b", [0.0, 1.0], extra={"optimal": [None, True]})
    plain = play("c", [1.0])
    assert summarize([marked, partly, plain])["optimal_action_rate"] == pytest.approx((0.75, 0.5, 1.0, 2))
    given_marks = {"c@p#0": [False]}
    assert summarize([marked, plain], given_marks)["optimal_action_rate"].value == 0.0
    with pytest.raises(DataError, match="1 steps and 2 marks"):
        summarize([plain], {"c@p#0": [True, True]})


def test_tokens_read_and_written_are_summed_where_they_were_counted():
    counted = play("a", [1.0], extra={"prompt_tokens": 100, "response_tokens": 20})
    assert summarize([counted, play("b", [1.0])])["tokens_per_episode"] == (120.0, 120.0, 120.0, 1)


def test_an_episode_in_circles_counts_as_a_loop():
    steps = tuple(Step("hall", "Action: knock", "", "knock", 0.0, False) for _ in range(4))
    circling = Trajectory("a@p#0", "e", "a", "", "", steps, "hall", 0.0, False, False, True, "p", 0)
    assert summarize([circling])["loop_share"].value == 1.0
    assert summarize([FOUR[0]])["loop_share"].value == 0.0


def test_nothing_to_summarize_is_an_error():
    with pytest.raises(DataError, match="no trajectories"):
        summarize([])


def test_the_interval_is_that_of_the_normal_distribution_for_many_tasks():
    values = np.random.default_rng(1).normal(0.4, 0.2, 400)
    found = estimate(values.tolist())
    half = 1.96 * values.std() / 20
    assert found.low == pytest.approx(values.mean() - half, abs=0.002)
    assert found.high == pytest.approx(values.mean() + half, abs=0.002)


def test_the_bootstrap_is_repeatable_and_chunks_do_not_matter():
    assert estimate([0.0, 1.0, 0.5], seed=3) == estimate([0.0, 1.0, 0.5], seed=3)
    assert bootstrap_means([1.0] * 5000, resamples=1700).shape == (1700,)


@given(st.lists(st.floats(0, 1), min_size=1, max_size=20))
def test_the_interval_holds_the_value_and_stays_within_the_data(values):
    found = estimate(values, resamples=200)
    assert min(values) - 1e-9 <= found.low <= found.high <= max(values) + 1e-9
    assert found.n == len(values)


def test_metrics_survive_their_file_form():
    found = summarize(FOUR)
    assert metrics_from_json(metrics_to_json(found)) == found
    with pytest.raises(DataError, match="success_rate"):
        metrics_from_json({"success_rate": {"value": 1}})


def test_every_metric_says_which_way_is_better():
    assert set(summarize(FOUR)) <= set(HIGHER_IS_BETTER)
    assert isinstance(summarize(FOUR)["mean_actions"], Estimate)


# ---- comparing


def tasks(rewards, names=None):
    return [play(f"t{n}", [reward]) for n, reward in enumerate(rewards)]


def test_a_clear_difference_is_said_in_words():
    found = paired_difference(tasks([1.0] * 20), tasks([0.0] * 20), names=("contrast", "cloning"))
    assert (found.difference, found.better, found.n) == (1.0, "first", 20)
    assert found.words.startswith("contrast is better than cloning in success rate")


def test_the_difference_is_paired_by_task_not_by_order():
    left = tasks([1.0, 0.0, 1.0, 0.0])
    found = paired_difference(left, list(reversed(left)))
    assert (found.difference, found.better) == (0.0, "unclear")
    assert found.high == -found.low == pytest.approx(1 - 0.025 ** (1 / 4))  # four equal tasks do not prove equality
    assert found.words.startswith("No difference in success rate is shown")


def test_fewer_actions_are_better():
    long = [play(f"t{n}", [0.0] * 5) for n in range(6)]
    short = [play(f"t{n}", [0.0] * 2) for n in range(6)]
    found = paired_difference(long, short, "mean_actions")
    assert (found.difference, found.better) == (3.0, "second")


def test_different_tasks_are_refused_unless_forced():
    left, right = tasks([1.0, 0.0, 1.0]), tasks([1.0, 1.0])
    with pytest.raises(DataError, match="1 only in the first, 0 only in the second, 2 in both"):
        paired_difference(left, right)
    assert paired_difference(left, right, force=True).n == 2
    with pytest.raises(DataError, match="share no task"):
        paired_difference(tasks([0.0]), tasks([0.0]), "mean_actions_success")


def test_an_unknown_metric_is_met_with_a_suggestion():
    with pytest.raises(ConfigError, match="Did you mean 'success_rate'"):
        paired_difference(FOUR, FOUR, "succes_rate")


# ---- progress, and what the ETO protocol counts


def test_progress_is_the_largest_share_of_sub_goals_reached_and_absent_where_there_are_none():
    risen = play("a", [0.0] * 3, extra={"progress": [0.25, 0.75, 0.5]})
    assert summarize([risen, play("b", [1.0])])["progress"] == (0.75, *summarize([risen])["progress"][1:3], 1)
    older = play("c", [0.0], extra={"subgoals_done": 1, "subgoals_total": 4})
    assert summarize([older])["progress"].value == 0.25
    assert "progress" not in summarize([play("b", [1.0])])
    with pytest.raises(DataError, match="expected shares"):
        summarize([play("d", [0.0], extra={"progress": [2.0]})])


def test_the_best_score_keeps_what_was_lost_again_and_what_was_there_at_the_start():
    lost = play("a", [0.5, -0.5])
    begun = replace(play("b", [0.25, 0.0]), score=0.5)
    assert summarize([lost])["best_score"].value == 0.5
    assert summarize([begun])["best_score"].value == 0.5


def test_a_broken_episode_did_not_end_by_itself():
    assert summarize([replace(play("a", [0.0]), error="gone")])["ended_by_itself_rate"].value == 0.0


def test_the_recorder_keeps_progress_of_every_step_where_the_environment_tells():
    env = RecordTrajectory(gym.make("icto/ALFWorld-v0"), None)
    env.reset(options={"split": "valid_seen", "index": 0})
    for _ in range(40):
        *_, terminated, truncated, _ = env.step((env.unwrapped.expert_actions() or ["look"])[0])
        if terminated or truncated:
            break
    found = env.last_trajectory
    shares = found.extra["progress"]
    assert len(shares) == len(found.steps) and shares[-1] == 1.0 and shares[0] < 1.0
    assert summarize([found])["progress"].value == 1.0


def test_the_difference_of_five_tasks_is_never_enough():
    found = paired_difference([play(f"t{n}", [0.0] * 5) for n in range(5)], tasks([0.0] * 5), "mean_actions")
    assert (found.difference, found.better) == (4.0, "unclear")
