"""TRL's own functions and the loaders of datasets take what is exported, and what they write is imported."""

from dataclasses import asdict, fields, replace

import pytest
from packages import installed

from icto_gym import TrajectoryStore
from icto_gym.dialogue import Message, trajectory_messages
from icto_gym.errors import ConfigError, DataError
from icto_gym.trajectory import Step, Trajectory
from trainers.exchange import ImportOptions, export_file, import_file
from trainers.records import PreferencePair, read_records, write_records

datasets = installed("datasets", extra="export")
trl_data = installed("trl.data_utils", extra="dev")

STEPS = (
    Step("a shop", "Thought: look\nAction: search[hat]", "look", "search[hat]", 0.0, True),
    Step("hats", "Thought: buy\nAction: click[buy now]", "buy", "click[buy now]", 1.0, True),
)
EPISODE = Trajectory(
    "t@p#0", "toy/E-v0", "t", "How to act", "buy a hat", STEPS, "thanks", 1.0, True, True, False, "p", 3
)  # fmt: skip
LOST = replace(EPISODE, trajectory_id="t@p#1", success=False, score=0.0)
PAIR = PreferencePair(
    "t", (Message("user", "How"), Message("assistant", "OK"), Message("user", "go")), (Message("assistant", "good"),),
    (Message("assistant", "bad"), Message("user", "no"), Message("assistant", "worse")), 0.5, "trajectory", "a", "b",
)  # fmt: skip


def loaded(tmp_path, records, format_name, ending="parquet"):
    """The exported file as `datasets.load_dataset` reads it."""
    file = tmp_path / f"{format_name}.{ending}"
    write_records(tmp_path / "in.jsonl", records)
    export_file(tmp_path / "in.jsonl", format_name, file)
    reader, cache = {"jsonl": "json"}.get(ending, ending), str(tmp_path / "cache")
    return datasets.load_dataset(reader, data_files=str(file), split="train", cache_dir=cache)


@pytest.fixture(scope="module")
def tokenizer():
    installed("transformers", extra="train")
    from trainers.models.tiny import byte_tokenizer

    return byte_tokenizer()


def test_sft_rows_are_conversations_to_trl(tmp_path, tokenizer):
    (row,) = loaded(tmp_path, [EPISODE], "trl-sft")
    assert trl_data.is_conversational(row)
    rendered = trl_data.apply_chat_template({"messages": row["messages"]}, tokenizer)["text"]
    asked = [message.as_dict() for message in trajectory_messages(EPISODE)]
    assert rendered == tokenizer.apply_chat_template(asked, tokenize=False)


def test_preference_rows_render_to_prompt_chosen_and_rejected(tmp_path, tokenizer):
    (row,) = loaded(tmp_path, [PAIR], "trl-preference")
    sides = {name: row[name] for name in ("prompt", "chosen", "rejected")}
    rendered = trl_data.apply_chat_template(sides, tokenizer)
    assert rendered["prompt"].endswith("assistant\n")
    assert rendered["chosen"].startswith("good") and rendered["rejected"].startswith("bad")
    assert trl_data.extract_prompt({name: row["prompt"] + row[name] for name in ("chosen", "rejected")}) == sides


def test_unpaired_rows_render_to_prompt_completion_and_label(tmp_path, tokenizer):
    rows = loaded(tmp_path, [EPISODE, LOST], "trl-unpaired")
    said = [message.as_dict() for message in trajectory_messages(EPISODE)]
    for row, label in zip(rows, (True, False), strict=True):
        assert trl_data.is_conversational(row)
        rendered = trl_data.maybe_apply_chat_template(row, tokenizer)
        assert rendered.keys() == {"prompt", "completion", "label"} and rendered["label"] is label
        assert rendered["prompt"].endswith("assistant\n") and rendered["completion"].startswith(STEPS[0].response)
        assert rendered["prompt"] + rendered["completion"] == tokenizer.apply_chat_template(said, tokenize=False)


def test_trls_trainer_for_unpaired_preferences_takes_a_step_on_them(tmp_path, tokenizer):
    trl = installed("trl", extra="dev")
    from transformers import AutoModelForCausalLM

    from trainers.models.tiny import tiny_folder

    rows = loaded(tmp_path, [EPISODE, LOST], "trl-unpaired")
    config = trl.KTOConfig(
        output_dir=str(tmp_path / "kto"), max_length=2048, max_steps=1, per_device_train_batch_size=2, logging_steps=1,
        report_to="none", save_strategy="no", use_cpu=True, disable_tqdm=True,
    )  # fmt: skip
    model = AutoModelForCausalLM.from_pretrained(str(tiny_folder()))
    trainer = trl.KTOTrainer(model=model, args=config, train_dataset=rows, processing_class=tokenizer)
    read = [tokenizer.decode(row["prompt_ids"] + row["completion_ids"]) for row in trainer.train_dataset]
    said = [message.as_dict() for message in trajectory_messages(EPISODE)]
    assert read == [tokenizer.apply_chat_template(said, tokenize=False)] * 2
    trainer.train()
    first = trainer.state.log_history[0]
    assert first["loss"] == pytest.approx(0.5) and {"logps/chosen", "logps/rejected"} <= first.keys()


def test_what_trl_unpairs_is_imported_with_its_labels(tmp_path):
    rows = loaded(tmp_path, [PAIR], "trl-preference").select_columns(["prompt", "chosen", "rejected"])
    trl_data.unpair_preference_dataset(rows).save_to_disk(str(tmp_path / "unpaired"))
    options = ImportOptions(env_id="toy/E-v0", score=0.0)
    told = import_file(
        tmp_path / "unpaired", "trl-unpaired", tmp_path / "t.jsonl", options, verdicts=tmp_path / "v.jsonl"
    )
    assert told["written"] == 2
    assert [item.steps[0].response for item in TrajectoryStore(tmp_path / "t.jsonl")] == ["good", "bad"]
    assert '"accepted": true' in (tmp_path / "v.jsonl").read_text().splitlines()[0]


def test_rows_that_datasets_saved_come_back_whole(tmp_path):
    loaded(tmp_path, [EPISODE], "trl-sft").save_to_disk(str(tmp_path / "saved"))
    import_file(tmp_path / "saved", "trl-sft", tmp_path / "t.jsonl")
    assert list(TrajectoryStore(tmp_path / "t.jsonl")) == [EPISODE]
    loaded(tmp_path, [EPISODE, LOST], "trl-unpaired").save_to_disk(str(tmp_path / "unpaired"))
    import_file(tmp_path / "unpaired", "trl-unpaired", tmp_path / "u.jsonl")
    assert list(TrajectoryStore(tmp_path / "u.jsonl")) == [EPISODE, LOST]
    loaded(tmp_path, [PAIR], "trl-preference").to_json(str(tmp_path / "pairs.jsonl"))
    import_file(tmp_path / "pairs.jsonl", "trl-preference", tmp_path / "p.jsonl")
    assert read_records(tmp_path / "p.jsonl", PreferencePair) == [PAIR]


@pytest.mark.parametrize("ending", ["parquet", "jsonl"])
def test_our_own_rows_have_one_column_a_field_and_come_back_from_what_datasets_writes(tmp_path, ending):
    episodes = [replace(EPISODE, extra={"best": 0.5, "read": ["a"]}, error="torn"), LOST]
    rows = loaded(tmp_path, episodes, "trajectories", ending)
    assert set(rows.column_names) == {field.name for field in fields(Trajectory)}
    assert rows[0]["steps"] == [asdict(step) for step in STEPS]
    rows.save_to_disk(str(tmp_path / "saved"))
    rows.to_json(str(tmp_path / "written.jsonl"))
    rows.to_parquet(str(tmp_path / "written.parquet"))
    for name in ("saved", "written.jsonl", "written.parquet"):
        import_file(tmp_path / name, "trajectories", tmp_path / f"{name}-back.jsonl")
        assert list(TrajectoryStore(tmp_path / f"{name}-back.jsonl")) == episodes


def test_stepwise_rows_have_one_label_per_completion_and_come_back(tmp_path):
    rows = loaded(tmp_path, [EPISODE], "trl-stepwise")
    assert rows[0]["labels"] == [False, True] and len(rows[0]["completions"]) == 2
    assert isinstance(rows[0]["prompt"], str)
    rows.to_parquet(str(tmp_path / "again.parquet"))
    import_file(tmp_path / "again.parquet", "trl-stepwise", tmp_path / "t.jsonl")
    assert list(TrajectoryStore(tmp_path / "t.jsonl")) == [EPISODE]


def test_one_split_of_a_saved_dataset_is_asked_for(tmp_path):
    rows = loaded(tmp_path, [EPISODE], "trl-sft")
    datasets.DatasetDict(train=rows, test=rows).save_to_disk(str(tmp_path / "both"))
    with pytest.raises(ConfigError, match=r"holds the splits train, test\. Import one: .*train"):
        import_file(tmp_path / "both", "trl-sft", tmp_path / "t.jsonl")
    assert import_file(tmp_path / "both" / "train", "trl-sft", tmp_path / "t.jsonl")["written"] == 1
    datasets.DatasetDict(train=rows).save_to_disk(str(tmp_path / "one"))
    assert import_file(tmp_path / "one", "trl-sft", tmp_path / "t.jsonl")["written"] == 1


@pytest.mark.parametrize("format_name", ["trl-sft", "trl-unpaired", "trl-stepwise"])
def test_episodes_in_which_nobody_acts_are_left_out_and_counted(tmp_path, format_name):
    empty = replace(EPISODE, trajectory_id="empty", steps=())
    write_records(tmp_path / "in.jsonl", [empty, EPISODE])
    told = export_file(tmp_path / "in.jsonl", format_name, tmp_path / "out.jsonl")
    assert (told["written"], told["not_kept"]["episodes without a step"]) == (1, 1)
    write_records(tmp_path / "in.jsonl", [empty])
    with pytest.raises(DataError, match="no episode with a step"):
        export_file(tmp_path / "in.jsonl", format_name, tmp_path / "none.jsonl")
    assert not (tmp_path / "none.jsonl").exists()
