"""What is exported to Minari is loaded with Minari."""

import json
from pathlib import Path

import pytest
from packages import installed

from icto_gym.errors import ConfigError, DataError
from icto_gym.trajectory import Step, Trajectory
from trainers.exchange import ExportOptions, export_file
from trainers.records import write_records

STEPS = (Step("see", "Thought: x\nAction: go", "x", "go", 0.5, True), Step("née", "Action: b", "", "b", 0.25, False))


def trajectory(steps=STEPS, number=0):
    score = sum(step.reward for step in steps)
    return Trajectory(
        f"t@p#{number}", "toy/E-v0", "t", "how", "goal", steps, "end", score, False, True, False, "p", 3
    )  # fmt: skip


@pytest.fixture
def minari(tmp_path, monkeypatch):
    module = installed("minari", extra="export")
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path / "datasets"))
    return module


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_minari_loads_texts_rewards_endings_and_tasks(minari, tmp_path):
    write_records(tmp_path / "t.jsonl", [trajectory(), trajectory((), 1), trajectory(STEPS[:1], 2)])
    options = ExportOptions(dataset_id="icto/toy-v0")
    told = export_file(tmp_path / "t.jsonl", "minari", tmp_path / "datasets", options)
    assert told == {"written": 2, "not_kept": {"episodes without a step": 1}}
    dataset = minari.load_dataset("icto/toy-v0")
    first, second = dataset.iterate_episodes()
    assert list(first.observations) == ["see", "née", "end"]
    assert list(first.actions) == ["go", "b"]
    assert first.rewards.tolist() == [0.5, 0.25]
    assert (first.terminations.tolist(), first.truncations.tolist()) == ([False, True], [False, False])
    assert first.infos["valid_action"].tolist() == [True, True, False]
    assert len(second.actions) == 1
    assert dataset.observation_space.contains("née")
    facts = next(iter(dataset.storage.get_episode_metadata([0])))["options"]
    facts = json.loads(facts) if isinstance(facts, str) else facts
    assert (facts["task_id"], facts["score"]) == ("t", 0.75)
    with pytest.raises(ConfigError, match="--dataset-id"):
        export_file(tmp_path / "t.jsonl", "minari", tmp_path / "datasets", options)


def test_wrong_ids_and_files_without_a_step_are_refused(minari, tmp_path):
    write_records(tmp_path / "t.jsonl", [trajectory(())])
    with pytest.raises(DataError, match="no episode with a step"):
        export_file(tmp_path / "t.jsonl", "minari", tmp_path / "datasets", ExportOptions(dataset_id="icto/toy-v0"))
    for dataset_id in ("../x-v0", "no version", "/tmp/x-v0"):
        with pytest.raises(ConfigError, match="dataset-id"):
            export_file(tmp_path / "t.jsonl", "minari", tmp_path / "datasets", ExportOptions(dataset_id=dataset_id))
    assert not list((tmp_path / "datasets").rglob("*.hdf5")) if (tmp_path / "datasets").exists() else True


def test_a_relative_folder_is_written_and_what_a_killed_export_left_is_removed(minari, tmp_path, monkeypatch):
    write_records(tmp_path / "t.jsonl", [trajectory()])
    (tmp_path / "datasets" / ".minari-icto.toy-v0@killed").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    export_file(Path("t.jsonl"), "minari", Path("datasets"), ExportOptions(dataset_id="icto/toy-v0"))
    assert len(minari.load_dataset("icto/toy-v0")) == 1
    assert not list((tmp_path / "datasets").glob(".minari-*"))


@pytest.mark.parametrize("text", ["a\0b", "a\ud800b"])
def test_what_hdf5_cannot_store_is_named(minari, tmp_path, text):
    write_records(tmp_path / "t.jsonl", [trajectory(), trajectory((Step(text, "Action: b", "", "b", 0.0, True),), 1)])
    with pytest.raises(DataError, match=r"t@p#1 holds the character '\\\\?(x00|ud800)'"):
        export_file(tmp_path / "t.jsonl", "minari", tmp_path / "datasets", ExportOptions(dataset_id="icto/toy-v0"))
    assert not list((tmp_path / "datasets").rglob("*.hdf5"))
