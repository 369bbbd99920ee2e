"""ETO's pair rules (1 to 7), on episodes written by hand."""

from __future__ import annotations

from dataclasses import replace

import pytest
from episodes import play

from icto_gym.errors import ConfigError
from trainers.pairing.whole import WholePairingConfig, against_expert

EXPERT = play(["search", "open a", "buy"], [0, 0, 0.8], who="expert")


def made(*attempts, expert=(EXPERT,), **settings):
    result = against_expert(attempts, config=WholePairingConfig(**settings), expert=expert)
    return list(result.pairs), {name: count for name, count in result.counts.items() if count}


def test_the_expert_wins_over_a_worse_attempt():
    (pair,), counts = made(play(["search", "open b", "buy"], [0, 0, 0.5]))
    assert counts == {"expert won": 1, "pairs": 1}
    assert pair.chosen_id == "t/1@expert#0" and pair.margin == pytest.approx(0.3)


def test_the_agent_wins_where_it_did_better_than_the_recorded_expert():
    (pair,), counts = made(play(["search", "open c", "buy"], [0, 0, 1.0]))
    assert counts == {"agent won": 1, "pairs": 1}
    assert pair.chosen_id == "t/1@p#0" and pair.rejected_id == "t/1@expert#0"


def test_equal_outcomes_make_no_pair():
    assert made(play(["search", "buy"], [0, 0.8])) == ([], {"ties": 1})


def test_the_expert_may_count_as_a_full_success():
    (pair,), _ = made(play(["search", "buy"], [0, 0.8]), expert_score=1.0)
    assert pair.margin == pytest.approx(0.2)


def test_an_attempt_that_repeats_the_expert_word_for_word_teaches_nothing():
    again = play(["search", "open a", "buy"], [0, 0, 0.8])
    assert made(again, expert_score=1.0) == ([], {"identical": 1})


def test_broken_attempts_and_tasks_without_a_demonstration_are_counted():
    _, counts = made(play(["search"], error="out of context"), play(["buy"], task="t/2"), play([]))
    assert counts == {"broken": 1, "without a demonstration": 1, "nothing trainable": 1}


def test_an_attempt_whose_conversation_overflowed_is_left_out_under_a_reason_of_its_own():
    lost = play(["search", "open b", "buy"], [0, 0, 0.5])
    assert made(replace(lost, extra={"overflowed_steps": [2]})) == ([], {"overflowed": 1})
    (_,), counts = made(replace(lost, extra={"shortened_steps": [1], "cut_steps": [2]}))
    assert counts == {"expert won": 1, "pairs": 1}


def test_a_rejected_attempt_keeps_the_experts_messages_and_ten():
    loop = play(["search", *["back"] * 20])
    (pair,), counts = made(loop)
    assert len(pair.chosen) == 5 and len(pair.rejected) == 15  # 3 responses and 2 observations, and five rounds
    assert pair.rejected[-1].role == "assistant" and counts["cut"] == 1
    (whole,), counts = made(loop, max_extra_messages=None)
    assert len(whole.rejected) == 41 and "cut" not in counts


def test_a_rejected_expert_is_never_cut():
    long = play([*["look"] * 20, "buy"], [0.0] * 20 + [0.5], who="expert")
    (pair,), _ = made(play(["buy"], [1.0]), expert=(long,))
    assert len(pair.rejected) == 41


def test_the_prompt_is_the_opening_alone_although_the_first_steps_are_shared():
    (pair,), _ = made(play(["search", "open b", "buy"], [0, 0, 0.5]))
    assert [message.role for message in pair.prompt] == ["user", "assistant", "user"]
    assert pair.chosen[0] == pair.rejected[0]


def test_a_cut_in_the_middle_of_a_round_is_refused():
    with pytest.raises(ConfigError, match="even number"):
        WholePairingConfig(max_extra_messages=3)
