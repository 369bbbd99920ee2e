"""Policies by name, and the two that need no model."""

import logging
import subprocess
import sys

import gymnasium as gym
import pytest

from icto_gym.errors import ConfigError
from icto_gym.wrappers import ReAct, parse_response
from trainers.policies import make_policy
from trainers.policies.base import Turn, derive_seed

if "Scripted-v0" not in gym.registry:
    gym.register("Scripted-v0", entry_point="icto_gym.testing:ScriptedEnv", max_episode_steps=6)


class Constant:
    def __init__(self, *, name="constant", text="look"):
        self.name, self.text = name, text

    def act(self, turns):
        return [self.text for _ in turns]


FINISHED = Constant(name="finished")
NOT_A_POLICY = 3


def make_nameless():
    return object()


def turn(info, **fields):
    return Turn(info.get("messages", ()), info, **fields)


@pytest.fixture
def here(monkeypatch):
    """This module under a dotted name that make_policy can import."""
    monkeypatch.setitem(sys.modules, "tests.here", sys.modules[__name__])
    return "tests.here"


def test_a_random_policy_draws_uniformly_and_by_the_turn_seed_alone():
    policy = make_policy("random")
    info = {"admissible_actions": ["a", "b", "c [ö]"], "task_id": "t"}
    turns = [turn(info, seed=seed) for seed in range(300)]
    answers = policy.act(turns)
    assert answers == [policy.act([one])[0] for one in turns]
    drawn = [parse_response(answer).action for answer in answers]
    assert {action: drawn.count(action) > 70 for action in drawn} == {"a": True, "b": True, "c [ö]": True}


@pytest.mark.parametrize("actions", [None, []])
def test_a_random_policy_without_admissible_actions_says_so(actions):
    with pytest.raises(ConfigError, match="lists no admissible actions"):
        make_policy("random").act([turn({"admissible_actions": actions, "task_id": "t"})])


def test_the_expert_plays_an_episode_to_success():
    env = ReAct(gym.make("Scripted-v0", expert=True))
    policy = make_policy("expert")
    _, info = env.reset(options={"index": 1})
    assert policy.act([turn(info)]) == ["Thought: I should see where it is.\nAction: look"]
    *_, info = env.step(policy.act([turn(info)])[0])
    *_, terminated, _, info = env.step(policy.act([turn(info)])[0])
    assert terminated and info["success"]


def test_an_expert_at_a_loss_writes_no_action_and_warns(caplog):
    with caplog.at_level(logging.WARNING):
        (answer,) = make_policy("expert").act([turn({"expert_action": None, "task_id": "t"})])
    assert parse_response(answer).problem == "no action"
    assert "expert=True" in caplog.text


def test_an_expert_without_an_expert_environment_says_what_to_do():
    with pytest.raises(ConfigError, match="expert=True"):
        make_policy("expert").act([turn({})])


def test_a_dotted_path_gives_a_class_a_function_or_a_finished_policy(here):
    assert make_policy(f"{here}:Constant", text="knock").act([turn({})]) == ["knock"]
    assert make_policy(f"{here}:FINISHED") is FINISHED


@pytest.mark.parametrize(
    ("spec", "options", "words"),
    [
        ("radnom", {}, "Did you mean 'random'"),
        ("opnai:gpt", {}, "Did you mean 'openai'"),
        ("", {}, "Unknown policy ''"),
        ("hf", {}, "write it as 'hf:<model name or checkpoint folder>'"),
        ("random:x", {}, "write it as 'random'"),
        ("no.such_module:X", {}, "could not be loaded"),
        ("trainers.policies.random:RandmPolicy", {}, "could not be loaded"),
        ("tests.here:NOT_A_POLICY", {}, "is a int"),
        ("tests.here:make_nameless", {}, "has name: str and act"),
        ("tests.here:FINISHED", {"text": "x"}, "takes no options"),
        ("tests.here:Constant", {"txt": "x"}, "Did you mean 'text'"),
        ("random", {"nam": "x"}, "Did you mean 'name'"),
    ],
)
def test_a_policy_that_cannot_be_made_names_the_mend(here, spec, options, words):
    with pytest.raises(ConfigError) as caught:
        make_policy(spec, **options)
    assert words in str(caught.value)


def test_light_policies_do_not_import_torch():
    code = (
        "import sys; from trainers.policies import make_policy; make_policy('random'); make_policy('expert');"
        "import trainers.rollout; print([m for m in ('torch', 'transformers', 'openai') if m in sys.modules])"
    )
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert shown.stdout.strip() == "[]"


def test_derived_seeds_are_the_same_on_every_machine():
    assert derive_seed(0, "a", 1) == derive_seed(0, "a", 1) != derive_seed(0, "a1")
    assert derive_seed(0, "webshop-mini/train/0001", 2) == 4717103818991043800
