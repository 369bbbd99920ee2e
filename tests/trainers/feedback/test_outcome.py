"""The judge by rules: every rule by an example, and a reason for every verdict."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from icto_gym.errors import ConfigError
from icto_gym.trajectory import Step, Trajectory
from trainers.evaluation.failures import failure_cause
from trainers.evaluation.metrics import summarize
from trainers.feedback.base import judge_all
from trainers.feedback.outcome import RuleConfig, RuleJudge, find_loop


def play(commands, *, score=1.0, truncated=False, responses=None, invalid=(), observations=None, attempt=0, error=None):
    responses = responses or [f"Thought: so\nAction: {command}" for command in commands]
    observations = observations or [f"o{t}" for t in range(len(commands) + 1)]
    steps = tuple(
        Step(observations[t], responses[t], "so", command, 0.0, t not in invalid) for t, command in enumerate(commands)
    )
    return Trajectory(
        f"t/1@p#{attempt}", "e", "t/1", "", "", steps, observations[-1], score, score >= 1, not truncated, truncated,
        "p", 0, error,
    )  # fmt: skip


def reason(trajectory, **config):
    return RuleJudge(RuleConfig(**config)).judge(trajectory).reason


def test_a_whole_episode_is_accepted_with_a_reason():
    verdict = RuleJudge().judge(play(["a", "b"]))
    assert verdict.accepted and verdict.score == 1.0 and verdict.judge == "rules"
    assert verdict.reason == "well-formed, 2 steps, score 1"


def test_success_is_not_asked_for():
    assert RuleJudge().judge(play(["a", "b"], score=0.3)).accepted


@pytest.mark.parametrize(
    ("trajectory", "words"),
    [
        (play(["a"], error="BackendError: gone"), "broken: BackendError: gone"),
        (play([]), "empty: no step"),
        (play(["", ""], responses=["", " \n"]), "empty: nothing was written"),
    ],
)
def test_what_teaches_nothing_scores_zero(trajectory, words):
    verdict = RuleJudge().judge(trajectory)
    assert not verdict.accepted and verdict.score == 0.0 and verdict.reason.startswith(words)


def test_a_truncated_episode_is_incomplete_unless_it_succeeded():
    assert reason(play(["a"], score=0.5, truncated=True)).startswith("truncated")
    assert reason(play(["a"], score=1.0, truncated=True)).startswith("well-formed")
    assert reason(play(["a"], score=0.5, truncated=True), reject_truncated=False).startswith("well-formed")


def test_responses_without_a_command_are_malformed():
    bad = play(["a", "hm", "b"], responses=["Action: a", "hm", "Action: b"], invalid=(1,))
    verdict = RuleJudge().judge(bad)
    assert verdict.reason == "malformed: 1 of 3 responses have no command" and verdict.score == pytest.approx(2 / 3)
    assert reason(bad, min_parse_rate=0.5).startswith("well-formed")


def test_commands_that_are_not_understood_are_low_quality():
    assert reason(play(["a", "b", "c"], invalid=(0, 2))) == "low quality: 2 of 3 commands were not understood"


def test_a_failure_of_bad_steps_still_teaches():
    verdict = RuleJudge().judge(play(["a", "b"], score=0.0, invalid=(0, 1)))
    assert not verdict.accepted and verdict.score == 0.01


def test_a_loop_need_not_be_in_a_row():
    there_and_back = play(["in", "out"] * 3, score=0.0, observations=["hall", "room"] * 3 + ["hall"])
    assert find_loop(there_and_back).times == 3
    assert reason(there_and_back) == "loop: 'in' gave the same observation 3 times"
    assert reason(there_and_back, loop_repeats=4).startswith("well-formed")
    assert reason(there_and_back, loop_repeats=0).startswith("well-formed")


def test_the_same_command_with_new_observations_is_no_loop():
    assert find_loop(play(["next"] * 5)) is None


def test_waiting_in_an_episode_that_succeeded_is_no_loop_but_knocking_in_vain_is():
    waiting = play(["wait"] * 4, observations=["steam"] * 5)
    assert find_loop(waiting) is None
    assert find_loop(replace(waiting, score=0.0, success=False)) == ("wait", 4, True, 0)
    assert find_loop(play(["wiat"] * 4, observations=["What?"] * 5, invalid=range(4))).valid is False


def test_later_episodes_with_the_same_commands_are_duplicates():
    verdicts = judge_all(RuleJudge(), [play(["a"]), play(["a"], attempt=1), play(["b"], attempt=2)])
    assert [verdict.accepted for verdict in verdicts] == [True, False, True]
    assert verdicts[1].reason == "duplicate: the same commands as t/1@p#0" and verdicts[1].score == 0.0
    kept = RuleJudge(RuleConfig(reject_duplicates=False)).judge_all([play(["a"]), play(["a"], attempt=1)])
    assert all(verdict.accepted for verdict in kept)


def test_of_duplicates_the_one_the_policy_played_itself_is_kept():
    lucky, own = replace(play(["a"]), extra={"random_steps": [0]}), play(["a"], attempt=1)
    verdicts = RuleJudge().judge_all([lucky, own])
    assert [verdict.accepted for verdict in verdicts] == [False, True]
    assert verdicts[0].reason == "duplicate: the same commands as t/1@p#1"


def test_a_broken_episode_does_not_make_the_next_one_a_duplicate():
    verdicts = judge_all(RuleJudge(), [play(["a"], error="x"), play(["a"], attempt=1)])
    assert [verdict.accepted for verdict in verdicts] == [False, True]


@pytest.mark.parametrize("wrong", [{"min_parse_rate": 1.2}, {"max_invalid_share": -1}, {"loop_repeats": 1}])
def test_a_rule_that_cannot_be_is_refused(wrong):
    with pytest.raises(ConfigError, match=next(iter(wrong))):
        RuleConfig(**wrong)


@given(st.lists(st.tuples(st.text(st.characters(), max_size=20), st.booleans()), max_size=6), st.booleans())
def test_any_text_gets_a_verdict_with_a_reason(steps, truncated):
    commands = [text for text, _ in steps]
    invalid = [t for t, (_, valid) in enumerate(steps) if not valid]
    verdict = RuleJudge().judge(play(commands, score=0.0, responses=commands, invalid=invalid, truncated=truncated))
    assert verdict.reason and 0.0 <= verdict.score <= 1.0 and verdict.accepted <= (verdict.score > 0)


def test_an_end_at_the_last_allowed_step_is_no_cut():
    """TimeLimit says truncated then as well as terminated."""
    both = replace(play(["a"], score=0.5, truncated=True), terminated=True)
    assert reason(both).startswith("well-formed")


def test_an_episode_that_broke_before_its_first_step_has_no_loop_and_counts_as_zero():
    broken = play([], score=0.0, error="BackendError: gone")
    assert find_loop(broken) is None
    assert failure_cause(broken).startswith("broke")
    assert summarize([broken, play(["a"])])


def test_a_judge_that_answers_with_something_else_is_told_what_is_wanted():
    class Mine(RuleJudge):
        name = "mine"

        def judge_all(self, trajectories):
            return self.answers

    asked, judge = [play(["a"])], Mine()
    other = replace(RuleJudge().judge(asked[0]), trajectory_id="t/2@p#0")
    for answers, words in (
        ([{}], "gave a dict; it must give Verdict records"),
        ([], "gave 0 verdicts on 1 trajectories"),
        ([other], "was asked of 't/1@p#0' and spoke of 't/2@p#0'"),
    ):
        judge.answers = answers
        with pytest.raises(ConfigError, match=words):
            judge_all(judge, asked)
