"""What goes out comes back: every format and every kind of file, also by the loaders of datasets."""

import json

import pytest
from episodes import play
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from packages import installed

from icto_gym import TrajectoryStore
from icto_gym.dialogue import trajectory_messages
from icto_gym.errors import ConfigError, DataError
from trainers.exchange import ImportOptions, export_file, import_file
from trainers.feedback import RecordedStepRewards, score_all
from trainers.pairing import PairingConfig, build_pairs
from trainers.records import PreferencePair, StepRewards, Verdict, read_records, write_records

from .records import TEXTS, pairs, trajectories

CONVERSATIONS = ("trl-sft", "trl-unpaired", "trl-stepwise", "sharegpt")
ENDINGS = (".jsonl", ".json", ".parquet")
FEW = settings(max_examples=8, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


def sent_and_read(records, format_name, ending, folder):
    source, there, back = folder / "in.jsonl", folder / f"there{ending}", folder / "back.jsonl"
    write_records(source, records)
    told = export_file(source, format_name, there)
    import_file(there, format_name, back)
    return told, back


@pytest.mark.parametrize("ending", ENDINGS)
@pytest.mark.parametrize("format_name", CONVERSATIONS)
@FEW
@given(records=st.lists(trajectories(), min_size=1, max_size=3))
def test_conversations_come_back_word_for_word_and_what_is_lost_is_said(format_name, ending, tmp_path, records):
    if ending == ".parquet":
        installed("pyarrow", extra="export")
    told, path = sent_and_read(records, format_name, ending, tmp_path)
    back = list(TrajectoryStore(path))
    assert [trajectory_messages(item) for item in back] == [trajectory_messages(item) for item in records]
    assert told["written"] == len(records)
    if not told["not_kept"]:
        assert back == records
    for one, other in zip(records, back, strict=True):
        for name in ("trajectory_id", "task_id", "env_id", "score", "success", "seed", "error", "extra", "policy"):
            assert getattr(one, name) == getattr(other, name)
        assert [step.reward for step in one.steps] == [step.reward for step in other.steps]


@pytest.mark.parametrize("ending", ENDINGS)
@FEW
@given(records=st.lists(trajectories(TEXTS), min_size=1, max_size=3))
def test_our_own_fields_come_back_whole_in_every_kind_of_file(ending, tmp_path, records):
    if ending == ".parquet":
        installed("pyarrow", extra="export")
    told, path = sent_and_read(records, "trajectories", ending, tmp_path)
    assert list(TrajectoryStore(path)) == records
    assert told["not_kept"] == {}


@pytest.mark.parametrize("format_name", ["trl-preference", "sharegpt-preference"])
@FEW
@given(records=st.lists(pairs(), min_size=1, max_size=3))
def test_pairs_come_back_whole(format_name, tmp_path, records):
    told, path = sent_and_read(records, format_name, ".jsonl", tmp_path)
    assert read_records(path, PreferencePair) == records
    assert told == {"written": len(records), "not_kept": {}}


@given(records=st.lists(trajectories(TEXTS), min_size=1, max_size=2))
@FEW
def test_white_space_that_a_conversation_drops_is_counted(tmp_path, records):
    told, path = sent_and_read(records, "trl-sft", ".jsonl", tmp_path)
    changed = sum(
        a.response != b.response
        for one, other in zip(records, TrajectoryStore(path), strict=True)
        for a, b in zip(one.steps, other.steps, strict=True)
    )
    assert told["not_kept"].get("steps.response", 0) == changed


def test_half_a_surrogate_pair_is_refused_where_it_cannot_stand_and_kept_where_it_can(tmp_path):
    installed("pyarrow", extra="export")
    from icto_gym.trajectory import Step, Trajectory

    step = Step("see", "Action: say \ud800", "", "say \ud800", 1.0, True)
    record = Trajectory("t@p#0", "e", "t", "how", "goal", (step,), "", 1.0, True, True, False, "p", 0)
    write_records(tmp_path / "in.jsonl", [record])
    with pytest.raises(DataError, match=r"Write \.jsonl instead"):
        export_file(tmp_path / "in.jsonl", "trl-sft", tmp_path / "out.parquet")
    assert [path.name for path in tmp_path.iterdir()] == ["in.jsonl"]  # nothing half-written is left
    _, path = sent_and_read([record], "trl-sft", ".jsonl", tmp_path)
    assert list(TrajectoryStore(path)) == [record]


def test_a_seed_of_more_than_64_bits_is_refused_where_it_cannot_stand(tmp_path):
    installed("pyarrow", extra="export")
    from icto_gym.trajectory import Step, Trajectory

    step = Step("see", "Action: go", "", "go", 1.0, True)
    record = Trajectory("t@p#0", "e", "t", "how", "goal", (step,), "", 1.0, True, True, False, "p", 2**63)
    write_records(tmp_path / "in.jsonl", [record])
    with pytest.raises(DataError, match=r"Record 1 has the seed 9223372036854775808.*Write \.jsonl instead"):
        export_file(tmp_path / "in.jsonl", "trajectories", tmp_path / "out.parquet")
    _, path = sent_and_read([record], "trajectories", ".jsonl", tmp_path)
    assert list(TrajectoryStore(path)) == [record]


def test_labels_of_judges_and_steps_go_out_and_come_back(tmp_path):
    from .records import ETO_WEBSHOP

    (tmp_path / "eto.json").write_text(json.dumps([ETO_WEBSHOP]))
    import_file(tmp_path / "eto.json", "sharegpt", tmp_path / "t.jsonl", ImportOptions(env_id="icto/WebShop-v0"))
    (trajectory,) = TrajectoryStore(tmp_path / "t.jsonl")
    write_records(tmp_path / "v.jsonl", [Verdict(trajectory.trajectory_id, True, 0.8, "fine", "me")])
    write_records(tmp_path / "s.jsonl", [StepRewards(trajectory.trajectory_id, (0.4, 0.0), "me")])
    export_file(tmp_path / "t.jsonl", "trl-unpaired", tmp_path / "u.jsonl", verdicts=tmp_path / "v.jsonl")
    export_file(tmp_path / "t.jsonl", "trl-stepwise", tmp_path / "w.jsonl", step_rewards=tmp_path / "s.jsonl")
    import_file(tmp_path / "u.jsonl", "trl-unpaired", tmp_path / "u2.jsonl", verdicts=tmp_path / "v2.jsonl")
    import_file(tmp_path / "w.jsonl", "trl-stepwise", tmp_path / "w2.jsonl", step_rewards=tmp_path / "s2.jsonl")
    assert [item.accepted for item in read_records(tmp_path / "v2.jsonl", Verdict)] == [True]
    assert [item.rewards for item in read_records(tmp_path / "s2.jsonl", StepRewards)] == [(1.0, 0.0)]
    assert list(TrajectoryStore(tmp_path / "w2.jsonl")) == [trajectory]
    told = import_file(tmp_path / "u.jsonl", "trl-unpaired", tmp_path / "u3.jsonl")
    assert told["notes"] == {"labels not kept (name a file with --verdicts)": 1}


def test_an_export_does_not_take_the_place_of_any_file_that_it_reads(tmp_path):
    source = tmp_path / "trajectories.jsonl"
    write_records(source, [play(["buy"], [1.0])])
    for name, format_name in (("verdicts", "trl-unpaired"), ("step_rewards", "trl-stepwise")):
        beside = tmp_path / f"{name}.jsonl"
        beside.write_text("{}\n")
        with pytest.raises(ConfigError, match="is the input too"):
            export_file(source, format_name, beside, **{name: beside})
        assert beside.read_text() == "{}\n"


def test_an_imported_failure_may_be_the_rejected_side_of_a_pair(tmp_path):
    good, bad = play(["search", "buy"], [0, 1.0], attempt=0), play(["search", "leave"], [0, 0.0], attempt=1)
    write_records(tmp_path / "t.jsonl", [good, bad])
    labels = [Verdict(item.trajectory_id, item.success, item.score, "label", "me") for item in (good, bad)]
    write_records(tmp_path / "v.jsonl", labels)
    export_file(tmp_path / "t.jsonl", "trl-unpaired", tmp_path / "u.jsonl", verdicts=tmp_path / "v.jsonl")
    import_file(tmp_path / "u.jsonl", "trl-unpaired", tmp_path / "t2.jsonl", verdicts=tmp_path / "v2.jsonl")
    verdicts, episodes = read_records(tmp_path / "v2.jsonl", Verdict), list(TrajectoryStore(tmp_path / "t2.jsonl"))
    assert [item.accepted for item in verdicts] == [True, False]
    (pair,) = build_pairs(episodes, verdicts, score_all(RecordedStepRewards(), episodes), PairingConfig()).pairs
    assert (pair.chosen_id, pair.rejected_id) == (good.trajectory_id, bad.trajectory_id)


def test_true_is_no_score(tmp_path):
    said = [("user", "Shop."), ("assistant", "OK"), ("user", "Buy a fig."), ("assistant", "Action: search[fig]")]
    chat = [{"role": role, "content": content} for role, content in said]
    (tmp_path / "in.jsonl").write_text(json.dumps({"task_id": "t", "score": True, "messages": chat}) + "\n")
    with pytest.raises(DataError, match="field score is True, expected a number"):
        import_file(tmp_path / "in.jsonl", "trl-sft", tmp_path / "out.jsonl", ImportOptions(env_id="icto/WebShop-v0"))
