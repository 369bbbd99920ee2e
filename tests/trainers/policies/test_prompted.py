"""Turns answered under either instruction, and what the answers took."""

import pytest
from episodes import play

from icto_gym.dialogue import OMITTED, Message
from icto_gym.errors import ConfigError
from trainers.models.loading import load_model
from trainers.pairing.prompt import PromptPairingConfig, questions
from trainers.policies.base import Usage
from trainers.policies.hf import HFPolicy
from trainers.policies.prompted import RETRIES, Shown, _turn, answer_twice

TINY = load_model("tiny-random")
CONFIG = PromptPairingConfig(seed=3)
EPISODES = [play(["search", "open a", "buy"]), play(["look"], attempt=1)]


class Halting:
    """Gives the answers of a list in turn, and keeps the turns it was asked."""

    name = "halting"

    def __init__(self, *answers):
        self.answers, self.turns, self.last_usage = list(answers), [], []

    def act(self, turns):
        self.turns += turns
        given = [self.answers.pop(0) for _ in turns]
        self.last_usage = [usage for _, usage in given]
        return [text for text, _ in given]


WHOLE, CUT, EMPTY = ("Action: a", Usage(9, 2)), ("Action: open the", Usage(9, 4, cut=True)), (" ", None)


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


def answered(*answers):
    """The contrast of one turn, and the policy that was asked."""
    asking = Halting(*answers)
    (found,) = answer_twice(asking, questions(EPISODES[1:], CONFIG), CONFIG)
    assert not asking.answers
    return found, asking


def test_an_answer_that_is_empty_or_was_cut_is_asked_for_again_with_another_seed():
    found, asking = answered(CUT, WHOLE, EMPTY, WHOLE)
    assert (found.positive, found.positive_complete, found.negative_complete) == ("Action: a", True, True)
    assert (found.asked_again, found.prompt_tokens, found.response_tokens) == (2, 27, 8)
    first, other, second, third = asking.turns
    assert first.messages == second.messages == third.messages != other.messages
    assert first._replace(seed=0) == second._replace(seed=0) and len({first.seed, second.seed, third.seed}) == 3
    assert answered(CUT, WHOLE, EMPTY, WHOLE)[1].turns == asking.turns


def test_an_answer_that_never_ends_is_recorded_as_not_complete():
    found, _ = answered(WHOLE, *[CUT] * (1 + RETRIES))
    assert (found.positive_complete, found.negative_complete, found.asked_again) == (True, False, RETRIES)


def test_a_conversation_without_room_for_an_answer_is_not_asked_again():
    found, _ = answered(("", Usage(0, 0, overflowed=True)), WHOLE)
    assert (found.positive_complete, found.negative_complete, found.asked_again) == (False, True, 0)


def test_each_contrast_holds_the_tokens_read_and_written_for_both_answers(monkeypatch):
    monkeypatch.setattr("trainers.policies.prompted.RETRIES", 0)
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
