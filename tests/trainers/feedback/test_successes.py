"""Which of a policy's episodes are worth imitating, and why the others are not."""

from __future__ import annotations

from dataclasses import replace

import pytest
from episodes import play

from trainers.feedback import best_attempts, distinct_successes, worth_imitating

WON = play(["search", "buy"], [0, 1.0])
OTHERS = {
    "broken": play(["search", "look"], [0, 1.0], attempt=1, error="server died"),
    "below the threshold": play(["search", "leave"], [0, 0.9], attempt=2),
    "refused": play(["search", "open", "buy"], [0, 0, 1.0], attempt=3),
    "with random steps": replace(play(["knock", "buy"], [0, 1.0], attempt=4), extra={"random_steps": [0]}),
    "repeated": replace(WON, trajectory_id="t/1@p#5"),
}


@pytest.mark.parametrize("reason", OTHERS)
def test_every_episode_is_kept_or_counted_under_one_reason(reason):
    accepted = {item.trajectory_id for item in [WON, *OTHERS.values()]} - {OTHERS["refused"].trajectory_id}
    assert distinct_successes([WON, OTHERS[reason]], (), 1.0, accepted) == ([WON], {reason: 1})


def test_what_is_broken_or_too_low_is_counted_so_whatever_a_judge_says_of_it():
    low, broken = OTHERS["below the threshold"], replace(OTHERS["broken"], score=0.0)
    kept, counts = distinct_successes([low, broken], (), 1.0, accepted=set())
    assert not kept and counts == {"below the threshold": 1, "broken": 1}
    assert distinct_successes([low], [replace(low, trajectory_id="shown", steps=())], None)[0] == [low]


def attempt(number, score, actions=("search", "buy"), **changes):
    rewards = [0.0] * (len(actions) - 1) + [score]
    return replace(play(list(actions), rewards, attempt=number), **changes)


GOOD, BAD = attempt(0, 0.75), attempt(1, 0.5)
IN_VAIN = tuple(replace(step, valid=step.action != "search") for step in GOOD.steps)


@pytest.mark.parametrize(
    ("attempts", "kept"),
    [
        ([BAD, GOOD], [GOOD]),
        ([GOOD, attempt(1, 0.7)], []),  # as good as alike
        ([GOOD], []),
        ([attempt(2, 0.75, ("search", "open", "buy")), GOOD, BAD], [GOOD]),  # the shorter one
        ([replace(GOOD, steps=IN_VAIN), BAD, attempt(2, 0.25)], [BAD]),
        ([replace(GOOD, extra={"random_steps": [0]}), BAD], []),
        ([GOOD, attempt(1, 0.0, error="server died")], []),
        ([replace(GOOD, error="server died"), BAD], []),
    ],
)
def test_the_best_attempt_at_a_task_is_kept_where_another_is_worse(attempts, kept):
    assert best_attempts(attempts, (), 0.1) == kept
    assert best_attempts(attempts, {"t/1"}, 0.1) == []


def test_of_one_that_was_taken_up_again_only_what_came_then_counts():
    again = replace(GOOD, steps=IN_VAIN, extra={"retried_step": 1})
    assert best_attempts([again, BAD], (), 0.25) == [again]
    assert best_attempts([replace(again, extra={"retried_step": 0}), BAD], (), 0.25) == []


def test_each_task_has_its_own_best():
    other = [replace(item, task_id="t/2", trajectory_id=f"t/2@p#{n}") for n, item in enumerate((BAD, GOOD))]
    assert best_attempts([GOOD, *other, BAD], (), 0.1) == [GOOD, other[1]]


def test_the_best_stands_beside_the_successes_of_other_tasks_if_asked():
    shown = replace(WON, task_id="t/3")
    tried = [GOOD, BAD, replace(WON, task_id="t/2", trajectory_id="2")]
    tried += [replace(item, task_id="t/3", trajectory_id=f"3{item.score}") for item in (GOOD, BAD)]
    kept, counts = worth_imitating(tried, [shown], 1.0)
    assert kept == [tried[2]] and counts == {"below the threshold": 4}
    kept, counts = worth_imitating(tried, [shown], 1.0, best_margin=0.1)
    assert kept == [tried[2], GOOD] and counts == {"best": 1, "below the threshold": 3}
