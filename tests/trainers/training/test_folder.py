"""The folder of a training: what it removes is its own, and what is a user's stays."""

import json

import pytest

from icto_gym.errors import ConfigError
from trainers.cli.main import main
from trainers.training.checkpoint import begin, drop_folders, load_state, numbered, saved_step
from trainers.training.config import SFTConfig
from trainers.training.sft import train_sft

FACTS = {"training": "sft", "config": {"learning_rate": 0.1}, "data_digest": "d"}


def files(folder):
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())


@pytest.fixture
def project(tmp_path):
    """Somebody's project, in which a training was killed once."""
    for name in (".git/HEAD", ".venv/x", "state-of-the-art/paper", "best-models/m", "src/.notes.tmp", ".env.tmp"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("mine")
    return tmp_path


def test_a_folder_that_holds_other_things_keeps_them(project):
    mine = files(project)
    assert not begin(project, FACTS)
    left = [".state-000004.a1b2c3d4/state.safetensors", ".checkpoint.zz_zz_zz/x", ".training.json.a1b2c3d4.tmp"]
    for name in left:
        (project / name).parent.mkdir(exist_ok=True)
        (project / name).write_text("half")
    assert not begin(project, FACTS)
    assert files(project) == sorted([*mine, "training.json"])
    for kind in ("state", "best", "rollout"):
        drop_folders(project, kind)
    assert files(project) == sorted([*mine, "training.json"])
    assert numbered(project, "state") == [] and saved_step(project) == 0 and load_state(project) is None


def test_a_whole_training_in_such_a_folder_leaves_the_rest_alone(project, trajectories, tiny):
    mine = files(project)
    train_sft(trajectories[:2], tiny, SFTConfig(epochs=1, batch_size=1, save_every=1), project)
    made = [name for name in files(project) if name not in mine]
    assert set(mine) <= set(files(project)) and {name.split("/")[0] for name in made} == {"checkpoint", "training.json"}


@pytest.mark.parametrize("name", ["checkpoint", "state-000003", "best-000003"])
def test_a_folder_with_the_name_of_a_result_is_not_replaced(tmp_path, name):
    (tmp_path / name).mkdir()
    (tmp_path / name / "mine").write_text("x")
    with pytest.raises(ConfigError, match=f"{name} is there, but .* has no training.json.*remove it first"):
        begin(tmp_path, FACTS)
    assert files(tmp_path) == [f"{name}/mine"]


def test_what_only_one_side_knows_is_another_training_unless_it_is_a_setting(tmp_path):
    begin(tmp_path, FACTS)
    with pytest.raises(ConfigError, match="holds a training with another markers"):
        begin(tmp_path, {**FACTS, "markers": {"place": "prefix"}})
    newer = {**FACTS, "config": {**FACTS["config"], "a_setting_of_a_later_version": 1}}
    assert not begin(tmp_path, newer)
    assert json.loads((tmp_path / "training.json").read_text()) == FACTS
    assert not begin(tmp_path, {**FACTS, "config": {**FACTS["config"], "mixed_precision": None}})
    with pytest.raises(ConfigError, match="another setting mixed_precision"):
        begin(tmp_path, {**FACTS, "config": {**FACTS["config"], "mixed_precision": "bfloat16"}})


def test_a_training_says_which_settings_have_nothing_to_act_on(tmp_path, caplog):
    missing = str(tmp_path / "none.jsonl")
    command = ["train", "dpo", missing, "--out", str(tmp_path / "out"), "--probe-every", "5", "--probe-at-start"]
    assert main([*command, "--start", str(tmp_path), "--model.name", "tiny-random"]) != 0
    assert "--probe-every and --probe-at-start: nothing is played here, so the last weights are kept" in caplog.text
    assert "--model.* is not read: the model is that of the start" in caplog.text
