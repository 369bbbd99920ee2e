"""Turns answered under either instruction, and what the answers took."""

import pytest
from episodes import play

from icto_gym.dialogue import OMITTED, Message
from icto_gym.errors import ConfigError
from trainers.models.loading import load_model
from trainers.pairing.prompt import PromptPairingConfig, questions
from trainers.policies.base import Usage
from trainers.policies.hf import HFPolicy
from trainers.policies.prompted import Shown, _turn, answer_twice

TINY = load_model("tiny-random")
CONFIG = PromptPairingConfig(seed=3)
EPISODES = [play(["search", "open a", "buy"]), play(["look"], attempt=1)]


class Counting:
    """Says the same always, and counts the tokens of some answers."""

    name = "counting"

    def __init__(self, *usages):
        self.usages, self.last_usage = usages, []

    def act(self, turns):
        self.last_usage = [self.usages[number % len(self.usages)] for number in range(len(turns))]
        return ["Action: look"] * len(turns)


def policy():
    return HFPolicy(TINY.model, TINY.tokenizer, max_new_tokens=6)


def test_each_contrast_holds_the_tokens_read_and_written_for_both_answers():
    asked = questions(EPISODES, CONFIG)
    found = {(item.trajectory_id, item.step): item for item in answer_twice(policy(), asked, CONFIG)}
    assert len(found) == 4
    for item in asked:
        written = policy().write([_turn(item, side, CONFIG, Shown()) for side in (0, 1)])
        contrast = found[item.trajectory.trajectory_id, item.step]
        assert [contrast.positive, contrast.negative] == [answer.text for answer in written]
        assert contrast.prompt_tokens == sum(len(answer.prompt) for answer in written) > 0
        assert contrast.response_tokens == sum(len(answer.tokens) for answer in written) > 0


def test_answers_of_a_policy_that_counts_no_tokens_or_not_all_count_as_none():
    asked = questions(EPISODES[:1], CONFIG)
    silent = Counting(None)
    assert {(item.prompt_tokens, item.response_tokens) for item in answer_twice(silent, asked, CONFIG)} == {(0, 0)}
    half = Counting(Usage(10, 3), None)
    assert {(item.prompt_tokens, item.response_tokens) for item in answer_twice(half, asked, CONFIG)} == {(10, 3)}


def test_a_policy_that_answers_too_few_turns_is_named():
    broken = Counting(None)
    broken.act = lambda turns: ["Action: look"]
    with pytest.raises(ConfigError, match="'counting' gave 1 responses to 2 turns"):
        list(answer_twice(broken, questions(EPISODES, CONFIG)[:1], CONFIG))


def test_a_turn_is_answered_with_the_example_and_the_window_it_was_played_with():
    example = [Message("user", "Open b."), Message("assistant", "Action: open b")]
    item = next(found for found in questions(EPISODES, CONFIG) if found.step == 2)
    messages = _turn(item, 0, CONFIG, Shown(window=1, example=example)).messages
    assert list(messages[2:4]) == example and OMITTED in [message.content for message in messages]
    plain = _turn(item, 0, CONFIG, Shown()).messages
    assert len(plain) == len(messages) - 2 and OMITTED not in [message.content for message in plain]
