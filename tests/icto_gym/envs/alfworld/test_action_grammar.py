"""`move X to Y` and `put X in/on Y`: recognised, understood on request, translated both ways."""

from __future__ import annotations

from typing import Any

import gymnasium as gym
import pytest

import icto_gym  # noqa: F401
from icto_gym.envs.alfworld import grammar
from icto_gym.envs.alfworld.trajectories import translate_trajectory
from icto_gym.errors import ConfigError


@pytest.mark.parametrize(
    ("put", "move"),
    [
        ("put mug 1 in/on shelf 2", "move mug 1 to shelf 2"),
        ("put soapbar 12 in/on garbagecan 1", "move soapbar 12 to garbagecan 1"),
        ("go to shelf 2", "go to shelf 2"),
        ("take mug 1 from shelf 2", "take mug 1 from shelf 2"),
    ],
)
def test_commands_translate_in_both_directions(put: str, move: str) -> None:
    assert grammar.translate_command(put, "move") == move
    assert grammar.translate_command(move, "put") == put
    with pytest.raises(ConfigError):
        grammar.translate_command(put, "lay")


def play(action_grammar: str | None, wording: str) -> tuple[str, bool, bool]:
    """Finish a built-in game with the optimal commands; the last one in the given wording."""
    arguments: dict[str, Any] = {} if action_grammar is None else {"action_grammar": action_grammar}
    env = gym.make("icto/ALFWorld-v0", data="mini", **arguments)
    env.reset(options={"split": "valid_seen", "index": 20})
    while True:
        action = min(env.unwrapped.optimal_actions())
        final = action.startswith(("move", "put"))
        observation, _, terminated, _, info = env.step(grammar.translate_command(action, wording) if final else action)
        if final:
            return observation, terminated, info["valid_action"]


@pytest.mark.parametrize(
    ("action_grammar", "wording", "understood"),
    [
        (None, "move", True), (None, "put", False), ("move", "move", True), ("move", "put", False),
        ("put", "put", True), ("put", "move", False), ("both", "put", True), ("both", "move", True),
    ],
)  # fmt: skip
def test_each_grammar_understands_its_own_wording(action_grammar: str | None, wording: str, understood: bool) -> None:
    observation, terminated, valid = play(action_grammar, wording)
    assert (terminated, valid) == (understood, understood)
    said = {"move": "You move the ", "put": "You put the "}[wording]
    assert observation.startswith(said if understood else "Nothing happens.")


def test_admissible_commands_expert_and_prompt_speak_the_chosen_grammar() -> None:
    env = gym.make("icto/ALFWorld-v0", data="mini", action_grammar="put", expert=True)
    _, info = env.reset(options={"split": "valid_seen", "index": 20})
    assert "put OBJECT in/on RECEPTACLE" in info["system_prompt"]
    listed = False
    terminated = False
    while not terminated:
        listed = listed or any(command.startswith("put ") for command in info["admissible_actions"])
        assert not any(command.startswith("move ") for command in info["admissible_actions"])
        _, _, terminated, _, info = env.step(info["expert_action"])
    assert listed
    assert info["success"]


def test_unknown_rules_are_told_apart_by_hash(original_rules: tuple[str, str]) -> None:
    domain, text = original_rules
    rules, task = grammar.recognise(domain, text.replace("UNKNOWN GOAL", "put a mug in cabinet"))
    assert (rules.name, task) == ("0.4", "put a mug in cabinet")
    for changed in ((domain + " ", text), (domain, text.replace("You close", "You shut"))):
        with pytest.raises(grammar.UnsupportedGame):
            grammar.recognise(*changed)


CONVERSATION = [
    {"from": "human", "value": "Interact with a household ..."},
    {"from": "gpt", "value": "OK"},
    {"from": "human", "value": "You are in the middle of a room. ...\nYour task is to: put some mug on shelf."},
    {"from": "gpt", "value": "Thought: I go to the desk.\nAction: go to desk 1"},
    {"from": "human", "value": "Observation: You arrive at loc 4. On the desk 1, you see a mug 1."},
    {"from": "gpt", "value": "Thought: I take it.\nAction: take mug 1 from desk 1"},
    {"from": "human", "value": "Observation: You pick up the mug 1 from the desk 1."},
    {"from": "gpt", "value": "Thought: Now put it.\nAction: put mug 1 in/on shelf 2"},
    {"from": "human", "value": "Observation: You put the mug 1 in/on the shelf 2."},
]


def test_a_public_conversation_translates_and_comes_back() -> None:
    texts = [turn["value"] for turn in CONVERSATION]
    new = translate_trajectory(texts, "move")
    assert new[4] == "Observation: You arrive at desk 1. On the desk 1, you see a mug 1."
    assert new[7] == "Thought: Now put it.\nAction: move mug 1 to shelf 2"
    assert new[8] == "Observation: You move the mug 1 to the shelf 2."
    assert new[:4] == texts[:4]
    back = translate_trajectory(new, "put", locations={"desk 1": "loc 4"})
    assert back == texts
