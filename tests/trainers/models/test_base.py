"""An adapter beside a local folder of weights: found from everywhere, and refused beside other weights."""

import shutil
from dataclasses import replace

import pytest

from icto_gym.errors import ConfigError, DataError
from icto_gym.files import read_json
from trainers.models import LoRAConfig, ModelConfig
from trainers.models.base import base_digest
from trainers.models.loading import load_model
from trainers.models.tiny import tiny_folder
from trainers.training.checkpoint import describe_start, save_checkpoint

LORA = LoRAConfig(r=2, alpha=4)


@pytest.fixture
def saved(tmp_path, monkeypatch):
    """A checkpoint of an adapter whose base was named by a relative path, and the base."""
    shutil.copytree(tiny_folder(), tmp_path / "base")
    monkeypatch.chdir(tmp_path)
    save_checkpoint(tmp_path / "adapter", load_model(ModelConfig("base", lora=LORA), trainable=True), {})
    return tmp_path / "adapter", tmp_path / "base"


def test_a_base_named_by_a_relative_path_is_found_from_elsewhere(saved, tmp_path_factory, monkeypatch):
    folder, base = saved
    monkeypatch.chdir(tmp_path_factory.mktemp("elsewhere"))
    assert load_model(folder).config.name == str(base)


def test_an_adapter_is_not_put_beside_other_weights(saved):
    folder, base = saved
    before = describe_start(folder)
    for file in tiny_folder("tiny-random:1").iterdir():
        shutil.copy(file, base)
    assert describe_start(folder) == before  # the adapter is what it was
    with pytest.raises(DataError, match="are not those that its adapter was trained on"):
        load_model(folder)
    shutil.rmtree(base)
    with pytest.raises(DataError, match=r"which is not there\. Put it back"):
        load_model(folder, trainable=True)


def test_another_base_in_the_same_folder_is_another_start(saved):
    _, base = saved
    before = describe_start("base")
    for file in tiny_folder("tiny-random:1").iterdir():
        shutil.copy(file, base)
    assert describe_start("base") != before
    assert base_digest("tiny-random") is None and "base_digest" not in describe_start("tiny-random")


def test_a_folder_with_a_built_in_models_name_is_not_that_model(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "tiny-random").mkdir()
    save_checkpoint(tmp_path / "adapter", load_model(ModelConfig("tiny-random", lora=LORA), trainable=True), {})
    assert load_model(tmp_path / "adapter").config.name == "tiny-random"


def test_one_changed_weight_file_of_several_changes_the_digest(tmp_path):
    for number in range(2):
        (tmp_path / f"part-{number}.safetensors").write_bytes(bytes([number]) * 1_000_000)
    before = base_digest(str(tmp_path))
    (tmp_path / "part-1.safetensors").write_bytes(b"\2" * 1_000_000)
    assert base_digest(str(tmp_path)) != before
    (tmp_path / "empty.safetensors").write_bytes(b"")
    assert base_digest(str(tmp_path)) is not None


def test_settings_that_an_adapter_cannot_have_are_refused(saved):
    folder, _ = saved
    asked = ModelConfig(str(folder))
    assert load_model(asked).config.lora == LORA  # defaults are nobody's wish
    assert load_model(replace(asked, lora=LORA)).config.lora == LORA
    for wish in ({"dtype": "bfloat16"}, {"lora": LoRAConfig(r=3)}, {"lora": None}, {"quantization": "nf4"}):
        with pytest.raises(ConfigError, match=rf"model\.{next(iter(wish))} .* is asked for"):
            load_model(replace(asked, **wish))


def test_torn_weights_are_named(saved):
    folder, base = saved
    for torn in (folder / "adapter_model.safetensors", base / "model.safetensors"):
        whole = torn.read_bytes()
        torn.write_bytes(whole[:-100])
        if torn.parent == base:  # else the digest would speak first
            with pytest.raises(DataError, match=r"tensors cannot be read"):
                load_model(str(base))
        else:
            with pytest.raises(DataError, match=r"adapter: its tensors cannot be read .*Copy or train it again"):
                load_model(folder)
        torn.write_bytes(whole)
    assert read_json(folder / "checkpoint.json")["model"]["name"] == str(base)


def test_the_folder_of_a_run_names_the_checkpoint_in_it(tmp_path):
    inside = tmp_path / "run" / "sft" / "checkpoint"
    inside.mkdir(parents=True)
    (inside / "checkpoint.json").write_text("{}")
    with pytest.raises(ConfigError, match=rf"run is not a model but holds some\. Did you mean {inside}\?"):
        load_model(ModelConfig(str(tmp_path / "run")))
