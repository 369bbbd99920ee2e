"""How likely a policy finds recorded actions: sums over exactly the tokens that training sees."""

from __future__ import annotations

import pytest
from packages import installed

torch = installed("torch", extra="train")

from icto_gym.store import TrajectoryStore  # noqa: E402
from icto_gym.trajectory import Step  # noqa: E402
from trainers.cli.main import main  # noqa: E402
from trainers.evaluation.likelihood import _command_place, rate_responses  # noqa: E402
from trainers.models.config import ModelConfig  # noqa: E402
from trainers.models.loading import load_model  # noqa: E402
from trainers.records import Likelihoods, read_records  # noqa: E402
from trainers.stages import rate  # noqa: E402


@pytest.fixture(scope="module")
def episodes(tmp_path_factory):
    out = tmp_path_factory.mktemp("played") / "t.jsonl"
    words = ["--env-id", "icto_gym.testing:Scripted-v0", "--max-tasks", "2", "--attempts", "1", "--out", str(out)]
    assert main(["--quiet", "rollout", "expert", *words]) == 0
    return list(TrajectoryStore(out))


def test_a_command_is_a_part_of_its_response(episodes):
    loaded = load_model(ModelConfig(name="tiny-random"))
    for item, episode in zip(rate_responses(episodes, loaded, policy="p", weights="w"), episodes, strict=True):
        assert len(item.responses) == len(item.commands) == len(episode.steps)
        for whole, command in zip(item.responses, item.commands, strict=True):
            assert whole < command < 0  # the thought costs something too


@pytest.mark.parametrize(
    ("response", "thought", "action"),
    [
        ("Thought: I look.\nAction: look", "I look.", "look"),
        ("Action: look", "", "look"),
        ("I look. Action: look", "I look.", "look"),
        ("Thought: on it.\nAction: on", "on it.", "on"),
    ],
)
def test_the_command_is_found_behind_the_thought(response, thought, action):
    step = Step("", response, thought, action, 0.0, True)
    place = _command_place(step)
    assert response[place:] == action and response[:place].rstrip().endswith("Action:")


def test_what_is_known_is_not_asked_again_and_other_weights_are(episodes, tmp_path):
    out, model = tmp_path / "likelihoods" / "base.jsonl", ModelConfig(name="tiny-random")
    assert rate(out, episodes[:1], model, "base", "w") == 1
    assert rate(out, episodes, model, "base", "w") == len(episodes) - 1
    assert rate(out, episodes, model, "base", "w") == 0
    assert rate(out, episodes, model, "base", "other") == len(episodes)
    assert {item.weights for item in read_records(out, Likelihoods)} == {"other"}
