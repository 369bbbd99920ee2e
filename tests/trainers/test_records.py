"""Records between the stages: what is written is read back, and what is wrong is named."""

from __future__ import annotations

import json

import pytest
from episodes import play
from hypothesis import given
from hypothesis import strategies as st

from icto_gym.dialogue import Message
from icto_gym.errors import DataError
from trainers.records import (
    PreferencePair,
    StepRewards,
    Verdict,
    append_record,
    read_episodes,
    read_records,
    write_records,
)

TEXT = st.text(st.characters(), max_size=40)  # lone surrogates included
FILLED = TEXT.filter(bool)


def pair(**changes):
    values = {
        "task_id": "shop/1",
        "prompt": (Message("user", "How to act."), Message("assistant", "OK"), Message("user", "Task")),
        "chosen": (Message("assistant", "Action: a"), Message("user", "Observation: o"), Message("assistant", "b")),
        "rejected": (Message("assistant", "Action: c"),),
        "margin": 0.5,
        "granularity": "step",
        "chosen_id": "shop/1@p#0",
        "rejected_id": "shop/1@p#1",
        "step_weights": (1.0,),
    }
    return PreferencePair(**{**values, **changes})


@given(st.lists(st.builds(Verdict, FILLED, st.booleans(), st.floats(0, 1), FILLED, FILLED), max_size=3))
def test_verdicts_with_any_text_survive_a_file(tmp_path_factory, verdicts):
    path = tmp_path_factory.mktemp("v") / "verdicts.jsonl"
    write_records(path, verdicts)
    assert read_records(path, Verdict) == verdicts


def test_a_verdict_carries_the_tokens_of_a_judge_that_counts_them():
    counted, plain = (Verdict("t#0", True, 1.0, "well", "wise", *tokens) for tokens in ((10, 2), ()))
    assert Verdict.from_dict(json.loads(counted.to_json())) == counted and "tokens" not in plain.to_json()
    with pytest.raises(DataError, match="field prompt_tokens is -1, expected a whole number from 0"):
        Verdict("t#0", True, 1.0, "well", "wise", -1)


@given(FILLED, st.lists(st.floats(allow_nan=False, allow_infinity=False), max_size=5))
def test_step_rewards_survive_a_line(name, rewards):
    item = StepRewards(name, tuple(rewards), "recorded")
    assert StepRewards.from_dict(json.loads(item.to_json())) == item


@given(TEXT, TEXT)
def test_pairs_with_any_text_survive_a_line(left, right):
    item = (
        pair(chosen=(Message("assistant", left + "x"),), rejected=(Message("assistant", right),))
        if (left + "x" != right)
        else pair()
    )
    assert PreferencePair.from_dict(json.loads(item.to_json())) == item


def test_appended_records_are_read_in_order_and_a_torn_line_is_set_aside(tmp_path, caplog):
    path = tmp_path / "verdicts.jsonl"
    first, second = (Verdict(f"t{n}", True, 1.0, "fine", "rules") for n in range(2))
    append_record(path, first)
    with open(path, "ab") as handle:
        handle.write(b'{"trajectory_id": "to')
    assert read_records(path, Verdict) == [first]
    assert "torn" in caplog.text
    append_record(path, second)
    assert read_records(path, Verdict) == [first, second]


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("[]", "expected an object"),
        ("{", "not valid JSON"),
        ('{"trajectory_id": "a"}', "field accepted is missing"),
        ('{"trajectory_id": "a", "accepted": 1, "score": 0, "reason": "r", "judge": "j"}', "field accepted is 1"),
        ('{"trajectory_id": "a", "accepted": true, "score": 2, "reason": "r", "judge": "j"}', "field score is 2"),
        ('{"trajectory_id": "a", "accepted": true, "score": NaN, "reason": "r", "judge": "j"}', "field score is nan"),
        ('{"trajectory_id": "a", "accepted": true, "score": 1, "reason": "", "judge": "j"}', "field reason is ''"),
        ('{"trajectory_id": "a", "accepted": true, "score": 1, "reason": "r", "judge": "j", "x": 1}', "x is unknown"),
    ],
)
def test_a_wrong_line_is_named_with_file_line_and_field(tmp_path, line, words):
    path = tmp_path / "verdicts.jsonl"
    path.write_text(Verdict("a", True, 1.0, "r", "j").to_json() + "\n" + line + "\n")
    with pytest.raises(DataError, match="line 2") as caught:
        read_records(path, Verdict)
    assert words in str(caught.value) and str(path) in str(caught.value)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"margin": 0}, "margin"),
        ({"margin": float("inf")}, "margin"),
        ({"granularity": "token"}, "granularity"),
        ({"prompt": ()}, "prompt"),
        ({"prompt": (Message("assistant", "OK"),)}, "prompt"),
        ({"chosen": ()}, "chosen"),
        ({"chosen": (Message("assistant", "a"), Message("user", "o"))}, "chosen"),
        ({"rejected": (Message("user", "a"),)}, "rejected"),
        ({"rejected": ({"role": "assistant", "text": "a"},)}, r"rejected\[0\]"),
        ({"rejected": (("wizard", "a"),)}, r"rejected\[0\].role"),
        ({"step_weights": (1.0, 1.0)}, "step_weights"),
        ({"step_weights": ("heavy",)}, r"step_weights\[0\]"),
        ({"chosen": (Message("assistant", "Action: c"),)}, "teaches nothing"),
        ({"task_id": 7}, "task_id"),
    ],
)
def test_a_pair_that_cannot_be_trained_on_is_refused(changes, words):
    with pytest.raises(DataError, match=words):
        pair(**changes)


def test_a_written_pair_holds_chat_messages():
    record = json.loads(pair().to_json())
    assert record["rejected"] == [{"role": "assistant", "content": "Action: c"}]


def test_episodes_whose_ids_or_scores_cannot_be_gone_by_are_refused(tmp_path):
    one, high = play(["a"], [0.5]), play(["a"], [7.0], attempt=1)
    path = write_records(tmp_path / "t.jsonl", [one])
    assert read_episodes(path) == [one]
    with pytest.raises(DataError, match=r"holds 't/1@p#0' more than once\. Remove the copies"):
        read_episodes(write_records(path, [one, one]))
    with pytest.raises(DataError, match="the score of 't/1@p#1' is 7, outside of 0 to 1"):
        read_episodes(write_records(path, [one, high]))


def test_a_file_of_trajectories_is_no_file_of_verdicts(tmp_path):
    with pytest.raises(DataError, match="this is a trajectory, and a verdict is expected"):
        read_records(write_records(tmp_path / "t.jsonl", [play(["a"])]), Verdict)
