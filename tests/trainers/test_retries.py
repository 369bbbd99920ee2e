"""Where episodes are taken up again, what is asked there, and what is played."""

from __future__ import annotations

from dataclasses import replace

import pytest
from episodes import play

from icto_gym.errors import ConfigError, DataError
from trainers.policies.prompted import Shown
from trainers.retries import (
    Branches,
    Place,
    RetryConfig,
    as_own,
    ask_branches,
    choose_places,
    retry_jobs,
    went_wrong,
)

LOST = play(["search", "open b", "size 9", "buy"], [0, 0, 0, 0.4])
WRONG = replace(LOST, steps=tuple(replace(step, valid=step.action != "size 9") for step in LOST.steps))
WON = play(["search", "open a", "buy"], [0, 0, 1.0], attempt=1)


def branches(place, *texts):
    return Branches(*place.key, texts, 10, 5)


class Branching:
    """Answers with the number of the branch."""

    name, branches = "branching", True

    def __init__(self):
        self.asked, self.forgotten = [], []

    def act(self, turns):
        self.asked.append(list(turns))
        return [f"Thought: {turn.branch}\nAction: way {turn.branch}" for turn in turns]

    def forget(self, episode):
        self.forgotten.append(episode)


def test_the_first_command_that_is_none_is_where_it_went_wrong():
    assert went_wrong(WRONG) == 2
    assert went_wrong(LOST) is None and went_wrong(WON) is None
    assert went_wrong(replace(WRONG, success=True)) is None
    assert went_wrong(replace(WRONG, error="the shop burned down")) is None
    silent = replace(LOST, steps=(LOST.steps[0], replace(LOST.steps[1], response="hm", action="hm"), *LOST.steps[2:]))
    assert went_wrong(silent) == 1


def test_a_loop_went_wrong_when_it_was_gone_into_again():
    loop = play(["search", *["look"] * 4], view=["start", "found", *["nothing"] * 4])
    assert went_wrong(loop) == 2


def test_episodes_with_the_same_commands_share_a_place():
    again = replace(WRONG, trajectory_id="t@agent#7")
    assert choose_places([WRONG, again, WON], RetryConfig(branches=2), 0) == [Place(WRONG, 2)]


def test_a_share_of_the_others_is_taken_up_again_too():
    many = [replace(WON, trajectory_id=f"t{n}@agent#0", task_id=f"t{n}") for n in range(60)]
    assert choose_places(many, RetryConfig(branches=2), 0) == []
    some = choose_places(many, RetryConfig(branches=2, others=0.5), 0)
    assert 15 < len(some) < 45 and {place.step for place in some} == {0, 1, 2}
    assert some == choose_places(many, RetryConfig(branches=2, others=0.5), 0)
    assert some != choose_places(many, RetryConfig(branches=2, others=0.5), 1)
    assert len(choose_places(many, RetryConfig(branches=2, others=1.0), 0)) == 60


@pytest.mark.parametrize("extra", [{"prefix_steps": 3}, {"random_steps": [2]}])
def test_steps_of_others_are_not_the_policys_mistakes(extra):
    given = replace(WRONG, extra=extra)
    assert choose_places([given], RetryConfig(branches=2), 0) == []
    ((_, step),) = choose_places([given], RetryConfig(branches=2, others=1.0), 0)
    assert step in ({3} if "prefix_steps" in extra else {0, 1, 3})


@pytest.mark.parametrize(("extra", "step"), [({"prefix_steps": 3}, 3), ({"random_steps": [2]}, 3)])
def test_the_policys_own_mistake_is_found_behind_one_that_was_given(extra, step):
    loop = play(["search", *["look"] * 4], view=["start", "found", *["nothing"] * 4])
    assert went_wrong(replace(loop, extra=extra)) == step


def test_every_place_is_asked_for_every_branch_with_what_was_seen_there():
    policy = Branching()
    places = [Place(WRONG, 2), *[Place(replace(WON, trajectory_id=f"t@agent#{n}"), 1) for n in range(2, 6)]]
    found = list(ask_branches(policy, places, 3, Shown()))
    assert [len(batch) for batch in policy.asked] == [12, 3]
    assert [item.responses[2] for item in found] == ["Thought: 2\nAction: way 2"] * 5
    assert [(item.trajectory_id, item.step) for item in found] == [place.key for place in places]
    first = policy.asked[0][0]
    assert first.messages[-1].content == f"Observation: {WRONG.steps[2].observation}" and len(first.messages) == 7
    assert (first.temperature, first.info["task_id"]) == (0.0, WRONG.task_id)
    assert len(set(policy.forgotten)) == 15


def test_a_policy_that_cannot_branch_is_refused():
    policy = Branching()
    policy.branches = False
    with pytest.raises(ConfigError, match=r"'branching' cannot branch.*retries\.branches to 0"):
        list(ask_branches(policy, [Place(WRONG, 2)], 3, Shown()))


def test_commands_that_are_new_at_a_place_are_played_once_each():
    place, other = Place(WRONG, 2), Place(WON, 1)
    said = ["Action: size 9", "Thought: no\nAction: back", "Thought: away\nAction: back", "mumble", "Action: buy"]
    found = [branches(place, *said), branches(other, "Action: open b", "Action: open c")]
    jobs = retry_jobs([place, other], found, [WRONG, replace(WON, seed=3)])
    assert [(which.key, job.attempt, job.prefix[-1]) for which, job in jobs] == [
        (place.key, 2, "Thought: no\nAction: back"), (place.key, 3, "Action: buy"), (other.key, 4, "Action: open c"),
    ]  # fmt: skip
    assert jobs[0][1].prefix[:2] == tuple(step.response for step in WRONG.steps[:2])
    assert {job.temperature for _, job in jobs} == {0.0}
    assert [job.seed for _, job in jobs] == [which.trajectory.seed for which, _ in jobs]


def test_a_retry_is_the_policys_own_but_for_what_was_given_before():
    source = replace(WRONG, extra={"prefix_steps": 1, "random_steps": [1, 3]})
    played = replace(WON, extra={"prefix_steps": 3, "random_steps": [], "response_tokens": 9})
    assert as_own(played, Place(source, 2)).extra == {
        "prefix_steps": 1, "random_steps": [1], "response_tokens": 9, "retried_step": 2,
    }  # fmt: skip


def test_branches_survive_their_file():
    import json

    item = branches(Place(WRONG, 2), "a", "ü\n")
    assert Branches.from_dict(json.loads(item.to_json())) == item


@pytest.mark.parametrize(
    ("change", "problem"),
    [({"step": "2"}, "step"), ({"responses": [1]}, "responses"), ({"responses": "ab"}, "responses"), ({"x": 1}, "x")],
)  # fmt: skip
def test_a_line_that_is_no_branches_names_its_field(change, problem):
    record = {"trajectory_id": "a", "step": 2, "responses": ["x"], "prompt_tokens": 0, "response_tokens": 0}
    with pytest.raises(DataError, match=problem):
        Branches.from_dict({**record, **change})


@pytest.mark.parametrize("settings", [{"branches": -1}, {"others": 1.5}, {"others": float("nan")}])
def test_settings_out_of_range_are_named(settings):
    with pytest.raises(ConfigError, match=f"retries.{next(iter(settings))}"):
        RetryConfig(**settings)


def test_a_share_of_others_without_branches_would_do_nothing():
    with pytest.raises(ConfigError, match=r"retries\.branches is 0, so nothing is taken up again"):
        RetryConfig(others=0.25)
