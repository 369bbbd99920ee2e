"""Verdicts that outlive a judging that was cut off."""

from __future__ import annotations

import logging

import pytest
from episodes import play

from icto_gym.errors import ConfigError
from trainers.feedback import judge_kept
from trainers.records import Verdict, read_records


class Slow:
    """A judge of a user's own: it fails at one episode."""

    name = "slow"

    def __init__(self, fails_at=None):
        self.fails_at, self.asked = fails_at, []

    def judge(self, trajectory):
        self.asked.append(trajectory.trajectory_id)
        if trajectory.trajectory_id == f"t/1@p#{self.fails_at}":
            raise RuntimeError("out of power")
        return Verdict(trajectory.trajectory_id, True, 1.0, "well", self.name)


class Whole(Slow):
    """One that compares all of them."""

    def judge_all(self, trajectories):
        return [self.judge(trajectory) for trajectory in trajectories]


@pytest.fixture
def episodes():
    return [play(["look"], attempt=number) for number in range(4)]


def test_a_judge_that_fails_keeps_its_verdicts_and_is_not_asked_for_them_again(tmp_path, episodes, caplog):
    caplog.set_level(logging.INFO)
    answered = tmp_path / "answered.jsonl"
    with pytest.raises(RuntimeError, match="out of power"):
        judge_kept(Slow(fails_at=2), episodes, answered)
    ids = [item.trajectory_id for item in episodes]
    assert [verdict.trajectory_id for verdict in read_records(answered, Verdict)] == ids[:2] and not caplog.text
    again = Slow()
    assert [verdict.trajectory_id for verdict in judge_kept(again, episodes, answered)] == ids
    assert again.asked == ids[2:]
    assert f"2 verdicts of a judging that was cut off stand; to ask anew, remove {answered}" in caplog.text


def test_a_judge_that_wants_all_of_them_gets_them_at_once(tmp_path, episodes):
    judge = Whole()
    assert len(judge_kept(judge, episodes, tmp_path / "answered.jsonl")) == 4 == len(judge.asked)
    assert not (tmp_path / "answered.jsonl").exists()


def test_what_is_no_verdict_is_not_kept(tmp_path, episodes):
    judge = Slow()
    judge.judge = lambda trajectory: "fine"
    with pytest.raises(ConfigError, match="gave a str"):
        judge_kept(judge, episodes, tmp_path / "answered.jsonl")
    assert not (tmp_path / "answered.jsonl").exists()
