"""Which of a policy's episodes are worth imitating, and why the others are not."""

from __future__ import annotations

from dataclasses import replace

import pytest
from episodes import play

from trainers.feedback import distinct_successes

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
