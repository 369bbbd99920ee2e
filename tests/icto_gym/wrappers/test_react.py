"""Responses taken apart, and the conversation that the wrapper writes."""

import gymnasium as gym
import pytest
from hypothesis import given
from hypothesis import strategies as st

from icto_gym import ConfigError
from icto_gym.dialogue import Message
from icto_gym.testing import ScriptedEnv
from icto_gym.wrappers import ReAct, parse_response

CASES = {
    "as it should be": ("Thought: I look.\nAction: look", ("I look.", "look", "")),
    "both on one line": ("Thought: I look. Action: look", ("I look.", "look", "")),
    "a label at the start of a line comes first": ("I do Action: x\nAction: knock", ("I do Action: x", "knock", "")),
    "thought over several lines": ("Thought: one\ntwo\nAction: look", ("one\ntwo", "look", "")),
    "no thought": ("Action: look", ("", "look", "")),
    "thought without its label": ("I look.\nAction: look", ("I look.", "look", "")),
    "labels in other case": ("THOUGHT: I look.\naction: look", ("I look.", "look", "")),
    "bold labels": ("**Thought:** I look.\n**Action:** look", ("I look.", "look", "")),
    "bold labels, colon outside": ("**Thought**: I look.\n**Action**: look", ("I look.", "look", "")),
    "list and quote marks": ("> Thought: I look.\n- Action: look", ("I look.", "look", "")),
    "command in backticks": ("Thought: t\nAction: `look`", ("t", "look", "")),
    "command in a fence": ("Thought: t\nAction: ```look```", ("t", "look", "")),
    "command in bold": ("Thought: t\nAction: **look**", ("t", "look", "")),
    "command on the next line": ("Thought: t\nAction:\nlook", ("t", "look", "")),
    "blanks around the command": ("Thought: t\nAction:   look  \n", ("t", "look", "")),
    "two actions: the first counts": ("Thought: t\nAction: look\nAction: knock", ("t", "look", "")),
    "text after the action": ("Thought: t\nAction: look\nand so on", ("t", "look", "")),
    "an observation made up after it": ("Thought: t\nAction: look\nObservation: gold", ("t", "look", "")),
    "an observation made up before it": ("Thought: t\nObservation: gold\nAction: look", ("t", "look", "")),
    "action before thought": ("Action: look\nThought: t", ("", "look", "")),
    "windows line ends": ("Thought: t\r\nAction: look\r\n", ("t", "look", "")),
    "brackets and colons within": ("Thought: t\nAction: click[a: b]", ("t", "click[a: b]", "")),
    "no action": ("Thought: I wonder.", ("I wonder.", "Thought: I wonder.", "no action")),
    "a bare command": ("look", ("look", "look", "no action")),
    "empty action": ("Thought: t\nAction:", ("t", "Thought: t\nAction:", "empty action")),
    "empty action, then an observation": (
        "Thought: t\nAction:\nObservation: x", ("t", "Thought: t\nAction:\nObservation: x", "empty action"),
    ),
    "empty": ("", ("", "", "empty")),
    "blank": (" \n\t", ("", " \n\t", "empty")),
    "the word action within a sentence": ("My action: none", ("My action: none", "My action: none", "no action")),
}  # fmt: skip


@pytest.mark.parametrize("name", CASES)
def test_parsing(name):
    response, (thought, action, problem) = CASES[name]
    parsed = parse_response(response)
    assert (parsed.thought, parsed.action, parsed.problem) == (thought, action, problem)


@given(st.text(st.characters(exclude_categories=()), max_size=200))
def test_any_text_can_be_parsed(text):
    parsed = parse_response(text)
    assert parsed.problem in ("", "empty", "no action", "empty action")
    if parsed.problem:
        assert parsed.action == text
    else:
        assert parsed.action and "\n" not in parsed.action and parsed.action == parsed.action.strip()


def test_five_megabytes_are_parsed_in_one_go():
    assert parse_response("x" * 5_000_000).problem == "no action"
    assert parse_response("Thought: " + "y" * 5_000_000 + "\nAction: look").action == "look"
    assert parse_response("*" * 5_000_000).problem == "no action"
    assert parse_response("\n" * 5_000_000 + "a").problem == "no action"
    assert parse_response(" " * 5_000_000 + "a").problem == "no action"


def test_messages_follow_the_published_layout():
    env = ReAct(ScriptedEnv(), example=[("user", "Bring the kiwi."), Message("assistant", "Action: look")])
    _, info = env.reset(options={"index": 0})
    assert [message.role for message in info["messages"]] == ["user", "assistant", "user", "assistant", "user"]
    assert info["messages"][1].content == "OK"
    assert info["messages"][4].content == "Bring the apple.\nThree bowls stand here."
    *_, info = env.step("Thought: t\nAction: look")
    assert info["messages"][5] == ("assistant", "Thought: t\nAction: look")
    assert info["messages"][6] == ("user", "Observation: The apple lies in bowl 1.")
    assert (info["thought"], info["action"], info["problem"], info["valid_action"]) == ("t", "look", "", True)


def test_info_has_the_same_keys_after_reset_and_step():
    env = ReAct(ScriptedEnv())
    assert set(env.reset(seed=1)[1]) == set(env.step("what")[4])


def test_a_malformed_response_costs_a_step_and_counts_as_invalid():
    env = ReAct(ScriptedEnv())
    env.reset(seed=1)
    observation, reward, terminated, _, info = env.step("I am not sure.")
    assert (observation, reward, terminated) == ("What?", 0.0, False)
    assert info["valid_action"] is False and info["problem"] == "no action"
    assert env.step("look")[4]["valid_action"] is False, "a bare command is carried out, but it is no ReAct response"


def test_the_window_omits_old_observations_but_never_the_task():
    env = ReAct(ScriptedEnv(), window=1)
    env.reset(options={"index": 0})
    for _ in range(3):
        *_, info = env.step("Action: look")
    users = [message.content for message in info["messages"] if message.role == "user"]
    assert users[1].startswith("Bring the apple.")
    assert users[2:] == ["Observation: [omitted]"] * 2 + ["Observation: The apple lies in bowl 1."]


@pytest.mark.parametrize("window", [0, -1, 1.5, True, "3"])
def test_a_senseless_window_is_refused(window):
    with pytest.raises(ConfigError, match="window"):
        ReAct(ScriptedEnv(), window=window)


def test_another_instruction_takes_the_place_of_the_benchmarks_own():
    _, info = ReAct(ScriptedEnv(), instruction="Be quick.").reset(seed=0)
    assert info["messages"][0].content == info["system_prompt"] == "Be quick."


def test_it_wraps_what_gym_makes():
    if "Scripted-v0" not in gym.registry:
        gym.register("Scripted-v0", entry_point="icto_gym.testing:ScriptedEnv", max_episode_steps=6)
    env = ReAct(gym.make("Scripted-v0", max_episode_steps=2))
    env.reset(seed=0)
    assert env.step("Action: look")[3] is False
    assert env.step("Action: look")[3] is True


def test_the_shop_has_a_worked_example_that_stands_before_the_task():
    inner = gym.make("icto/WebShop-v0")
    env = ReAct(inner, example=inner.unwrapped.example)
    _, info = env.reset(seed=0)
    assert len(inner.unwrapped.example) >= 4
    assert tuple(info["messages"][2:-1]) == tuple(inner.unwrapped.example)
    for role, content in inner.unwrapped.example:
        assert role != "assistant" or parse_response(content).problem == ""
