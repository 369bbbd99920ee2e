"""RLCD's pairs by instruction."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
from episodes import play

from icto_gym.errors import ConfigError, DataError
from trainers.pairing.prompt import (
    PromptContrast,
    PromptPairingConfig,
    label_agreement,
    prompted,
    questions,
    trajectory_pairs,
    turn_pairs,
)

EPISODE = play(["search", "open a", "buy"], [0, 0, 1.0])


def contrast(positive, negative, step=1):
    return PromptContrast(EPISODE.trajectory_id, step, 0, positive, negative)


def test_the_answer_to_the_careful_instruction_is_chosen_under_the_plain_prompt():
    result = turn_pairs([EPISODE], [contrast("Thought: x\nAction: open a", "Thought: y\nAction: open b")])
    (pair,) = result.pairs
    assert pair.chosen[0].content.endswith("open a") and pair.rejected[0].content.endswith("open b")
    assert len(pair.prompt) == 5 and pair.prompt[0].content == "Act."


def test_both_must_parse_and_differ_in_their_command():
    answers = [contrast("Action: Open A", "Thought: other\nAction: open a"), contrast("Action: a", "no command", 0)]
    assert turn_pairs([EPISODE], answers).counts == {"identical": 1, "malformed": 1, "pairs": 0}


def test_an_answer_that_is_empty_or_was_cut_makes_no_pair_though_a_command_may_be_read_from_it():
    whole = contrast("Action: open the door", "Action: knock")
    cut = [replace(whole, positive_complete=False), replace(whole, negative_complete=False)]
    empty = [replace(whole, positive=" "), replace(whole, negative="")]
    assert turn_pairs([EPISODE], [whole, *cut, *empty]).counts == {"pairs": 1, "unfinished": 4}


def test_each_episode_draws_its_instructions_once_and_turns_may_be_limited():
    asked = questions([EPISODE, play(["look"], attempt=1, error="broke")], PromptPairingConfig(max_turns=2))
    assert len(asked) == 2 and len({item.sentence for item in asked}) == 1
    assert len(questions([EPISODE], PromptPairingConfig())) == 3


def test_an_instruction_stands_at_the_end_of_how_to_act():
    messages = turn_pairs([EPISODE], [contrast("Action: a", "Action: b")]).pairs[0].prompt
    changed = prompted(messages, "Be careful.")
    assert changed[0].content == "Act.\nBe careful." and list(changed[1:]) == list(messages[1:])


def test_whole_episodes_are_paired_by_task_and_attempt():
    positive = [replace(EPISODE, trajectory_id="t/1@p-positive#0"), play(["buy"], attempt=1)]
    negative = [replace(play(["search", "knock"]), trajectory_id="t/1@p-negative#0"), play(["buy"], attempt=1)]
    result = trajectory_pairs(positive, negative)
    assert result.counts == {"identical": 1, "pairs": 1}
    assert result.pairs[0].chosen_id == "t/1@p-positive#0"


def test_an_episode_with_a_response_that_is_empty_or_was_cut_is_no_side_of_a_pair():
    def sides(**changes):
        negative = replace(play(["search", "knock"]), trajectory_id="t/1@p-negative#0")
        return [EPISODE], [replace(negative, **changes)]

    cut = {"extra": {"cut_steps": [1]}}
    empty = {"steps": (replace(EPISODE.steps[0], response="", action=""),)}
    for positive, negative in (sides(**cut), sides(**cut)[::-1], sides(**empty)):
        assert trajectory_pairs(positive, negative).counts == {"pairs": 0, "unfinished": 1}
    assert trajectory_pairs(*sides()).counts == {"pairs": 1}


def test_agreement_counts_ties_apart():
    found = label_agreement([(1.0, 0.0), (0.2, 0.4), (0.5, 0.5), (0.6, 0.1)])
    assert found == {"pairs": 4, "agrees": 2, "disagrees": 1, "ties": 1, "agreement": 0.6667}
    assert label_agreement([])["agreement"] is None


def test_a_contrast_is_read_back_with_all_it_holds_and_one_of_before_that_was_kept_without():
    item = replace(
        contrast("Action: a", "Action: b"), prompt_tokens=90, response_tokens=7, asked_again=2, positive_complete=False,
        negative_complete=False,
    )  # fmt: skip
    record = json.loads(item.to_json())
    assert PromptContrast.from_dict(record) == item
    kinds = dict.fromkeys(("prompt_tokens", "response_tokens", "asked_again"), "int")
    for name, kind in {**kinds, "positive_complete": "bool", "negative_complete": "bool"}.items():
        with pytest.raises(DataError, match=f"field {name} is 1.5, expected {kind}"):
            PromptContrast.from_dict({**record, name: 1.5})
        del record[name]
    assert PromptContrast.from_dict(record) == contrast("Action: a", "Action: b")


def test_four_pairs_of_instructions_are_the_least():
    with pytest.raises(ConfigError, match="at least 4"):
        PromptPairingConfig(sentences=(("good", "bad"),) * 3)
