"""Values by playing on, worked by hand and on the toy game."""

from __future__ import annotations

from dataclasses import replace

import pytest

from icto_gym.errors import DataError
from icto_gym.store import TrajectoryStore
from icto_gym.trajectory import Step, Trajectory
from trainers.feedback.monte_carlo import (
    MonteCarloConfig,
    MonteCarloStepRewards,
    continuation_jobs,
    jobs_behind,
)
from trainers.policies import make_policy
from trainers.rollout import RolloutConfig, rollout


def episode(actions, score, prefix=0, attempt=0, who="p"):
    steps = tuple(
        Step("after " + " ".join(actions[:t]), f"Action: {action}", "", action, 0.0, True)
        for t, action in enumerate(actions)
    )
    return Trajectory(
        f"t/1@{who}#{attempt}", "e", "t/1", "Act.", "Do it.", steps, "end", score, score >= 1, True, False, who, 0,
        extra={"prefix_steps": prefix},
    )  # fmt: skip


BOUGHT = episode(["search", "open", "buy"], 0.6)
SAMPLES = [
    episode(["search", "x"], 1.0, 1, 0, "mc"), episode(["search", "y"], 0.0, 1, 1, "mc"),
    episode(["search", "open", "z"], 0.9, 2, 2, "mc"), episode(["search", "open", "buy"], 0.3, 2, 3, "mc"),
]  # fmt: skip


def test_a_step_is_worth_the_mean_outcome_of_what_went_on_from_it():
    values = MonteCarloStepRewards(SAMPLES, "value").score_steps(BOUGHT)
    assert values.rewards == pytest.approx((0.5, 0.6, 0.6))  # (1 + 0) / 2, (0.9 + 0.3) / 2, the outcome


def test_increments_add_up_to_the_values():
    found = MonteCarloStepRewards(SAMPLES).score_steps(BOUGHT).rewards
    assert found == pytest.approx((0.5, 0.1, 0.0))


def test_a_step_that_nobody_continued_is_worth_its_own_outcome():
    assert MonteCarloStepRewards([], "value").score_steps(BOUGHT).rewards == pytest.approx((0.6, 0.6, 0.6))


def test_the_last_step_gets_no_samples_and_equal_beginnings_are_continued_once():
    jobs = continuation_jobs([BOUGHT, episode(["search", "open", "wait"], 0.0, attempt=1)], MonteCarloConfig(3), 0)
    assert [job.prefix for job in jobs] == [("Action: search",)] * 3 + [("Action: search", "Action: open")] * 3
    assert len({(job.task_id, job.attempt) for job in jobs}) == len({job.seed for job in jobs}) == 6
    assert {job.temperature for job in jobs} == {1.0}


def test_only_the_first_step_of_its_own_is_continued_where_that_is_asked_for():
    tried = episode(["search", "open", "look", "buy"], 1.0, prefix=1)
    jobs = continuation_jobs([tried], MonteCarloConfig(1, steps="decision"), 0)
    assert [job.prefix for job in jobs] == [("Action: search", "Action: open")]
    assert (
        continuation_jobs([episode(["search", "buy"], 1.0, prefix=1)], MonteCarloConfig(1, steps="decision"), 0) == []
    )


def test_named_steps_are_continued_but_for_what_is_known_and_the_last():
    steps = [(BOUGHT, 0), (BOUGHT, 1), (BOUGHT, 1), (BOUGHT, 2)]
    jobs = jobs_behind(steps, MonteCarloConfig(2), 0)
    assert [job.prefix for job in jobs] == [("Action: search",)] * 2 + [("Action: search", "Action: open")] * 2
    assert [job.prefix for job in jobs_behind(steps, MonteCarloConfig(2), 0, SAMPLES[:2])] == [
        ("Action: search", "Action: open")
    ] * 2
    broken = [replace(SAMPLES[0], error="the game is gone")]
    assert jobs_behind(steps, MonteCarloConfig(2), 0, broken) == jobs


def test_a_game_that_answers_otherwise_is_an_error():
    other = replace(SAMPLES[2], steps=(replace(SAMPLES[2].steps[0], observation="elsewhere"), *SAMPLES[2].steps[1:]))
    with pytest.raises(DataError, match="sees something else"):
        MonteCarloStepRewards([other]).score_steps(BOUGHT)


def test_replayed_steps_lead_to_the_same_state_and_an_ended_replay_asks_nobody(tmp_path):
    environment = RolloutConfig(env_id="icto_gym.testing:Scripted-v0", attempts=1)
    store = TrajectoryStore(tmp_path / "expert.jsonl")
    from trainers.rollout import plan_jobs

    rollout(make_policy("expert"), environment, plan_jobs(environment, ["scripted/train/00"]), store)
    (expert,) = list(store)
    jobs = continuation_jobs([expert], MonteCarloConfig(2), 0)
    over = jobs[0]._replace(attempt=9, prefix=tuple(step.response for step in expert.steps))
    asked = []

    class Watching:
        name = "watching"

        def act(self, turns):
            asked.extend(turns)
            return ["Action: look"] * len(turns)

    played = TrajectoryStore(tmp_path / "continued.jsonl")
    rollout(Watching(), environment, [*jobs, over], played)
    found = {item.trajectory_id: item for item in played}
    assert found["scripted/train/00@watching#9"].steps == expert.steps
    assert {turn.episode for turn in asked} == {"scripted/train/00@watching#0", "scripted/train/00@watching#1"}
    for item in found.values():
        assert item.steps[0] == expert.steps[0]


def test_what_was_continued_before_is_not_continued_again():
    config = MonteCarloConfig(samples=2)
    known = [episode(["a", "x"], 1.0, prefix=1, attempt=n) for n in range(2)]
    jobs = continuation_jobs([episode(["a", "b", "c"], 0.0)], config, 0, known)
    assert {len(job.prefix) for job in jobs} == {2} and len(jobs) == 2
