"""Markers: where they stand, which class they mean, and that training and acting read the same."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from icto_gym.dialogue import Message, to_messages, trajectory_messages
from icto_gym.errors import ConfigError, DataError
from icto_gym.trajectory import Step, Trajectory
from trainers.markers import Marker, MarkerConfig, recorded_markers, training_messages

EPISODE = Trajectory(
    "t/1@p#0", "e", "t/1", "Act.", "Bring the fig.",
    (Step("Three bowls.", "Action: look", "", "look", 0.0, True),), "end", 0.0, False, True, False, "p", 0,
)  # fmt: skip


@pytest.mark.parametrize(
    ("score", "marker"),
    [(1.0, "[Correct]"), (0.99, "[Mostly Correct]"), (0.4, "[Mostly Correct]"), (0.39, "[Mostly Incorrect]"),
     (0.001, "[Mostly Incorrect]"), (0.0, "[Totally Incorrect]")],
)  # fmt: skip
def test_four_classes_are_cut_at_none_two_fifths_and_all(score, marker):
    assert MarkerConfig().of(score).text == marker


def test_a_marker_stands_in_the_task_and_nowhere_else():
    plain = trajectory_messages(EPISODE)
    for place, content in (
        ("prefix", "[Good] Bring the fig.\nThree bowls."),
        ("suffix", "Bring the fig.\nThree bowls. [Good]"),
    ):
        marked = Marker("[Good]", place).apply(plain, EPISODE.instruction)
        assert marked[2].content == content
        assert [*marked[:2], *marked[3:]] == [*plain[:2], *plain[3:]]


def test_what_is_trained_is_what_is_read_when_acting():
    marker = MarkerConfig().best
    trained = replace(EPISODE, extra={"marker": {"text": marker.text, "place": marker.place}})
    acting = marker.apply(trajectory_messages(EPISODE)[:3], EPISODE.instruction)
    assert training_messages(trained)[:3] == acting
    assert training_messages(EPISODE) == trajectory_messages(EPISODE)


def test_a_conversation_without_its_task_is_an_error():
    with pytest.raises(DataError, match="has no place"):
        Marker("[Good]").apply(trajectory_messages(EPISODE), "Bring the moon.")


@pytest.mark.parametrize(
    "wrong",
    [{"cuts": (1.0,)}, {"cuts": (0.0, 0.4, 1.0)}, {"cuts": (2.0, 0.4, 0.0)}, {"markers": ("a", "a", "b", "c")},
     {"markers": ("a", " ", "b", "c")}, {"place": "middle"}],
)  # fmt: skip
def test_classes_that_make_no_sense_are_refused(wrong):
    with pytest.raises(ConfigError):
        MarkerConfig(**wrong)


@given(st.floats(0, 1))
def test_every_score_has_a_class(score):
    assert MarkerConfig().of(score).text in MarkerConfig().markers


def test_a_record_gives_back_what_was_written():
    config = MarkerConfig("suffix", (1.0,), ("well done", "badly done"))
    assert recorded_markers({"markers": config.to_dict()}) == config
    assert recorded_markers({}) is None


@pytest.mark.parametrize("env_id", ["icto/WebShop-v0", "icto/ALFWorld-v0", "icto_gym.testing:Scripted-v0"])
@pytest.mark.parametrize("brief", [False, True])
def test_every_benchmark_states_its_task_where_the_marker_looks_for_it(env_id, brief):
    import gymnasium as gym

    import icto_gym  # noqa: F401  (registers)
    from icto_gym.wrappers import BriefObservation, ReAct

    env = gym.make(env_id, disable_env_checker=True)
    env = ReAct(BriefObservation(env) if brief else env)
    _, info = env.reset(seed=0)
    marked = Marker("[Good]", "prefix").apply(info["messages"], info["instruction"])
    assert marked[2].content.startswith("[Good] ") and len(marked) == len(info["messages"])
    env.close()


def test_a_marker_stands_in_the_task_behind_a_worked_example_of_the_same_task():
    example = [Message("user", "Bring the fig.\nTwo bowls."), Message("assistant", "Action: wait")]
    steps = (EPISODE.steps[0], replace(EPISODE.steps[0], observation="Bring the fig. A bowl."))
    messages = to_messages("Act.", EPISODE.instruction, steps, "end", example=example)
    marked = Marker("[Good]", "prefix").apply(messages, EPISODE.instruction)
    changed = [number for number, pair in enumerate(zip(marked, messages, strict=True)) if pair[0] != pair[1]]
    assert changed == [4] and marked[4].content.startswith("[Good] Bring the fig.\nThree")
