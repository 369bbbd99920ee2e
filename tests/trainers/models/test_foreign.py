"""Folders of weights from elsewhere: a clear error, and nothing in them is run."""

import json
import os
import pickle
import shutil
import sys

import pytest
import torch

from icto_gym.errors import ConfigError, DataError, IctoError
from icto_gym.files import write_json
from trainers.models import LoRAConfig, ModelConfig
from trainers.models.loading import checkpoint_record, load_model, save_weights
from trainers.models.tiny import tiny_folder

CODE = "import pathlib\npathlib.Path({mark!r}).touch()\n"


@pytest.fixture()
def mark(tmp_path, monkeypatch):
    """A file that any code of a hostile folder would make; it must not be there afterwards."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    path = tmp_path / "executed"
    yield path
    assert not path.exists(), "code out of the folder was run"


class Payload:
    def __init__(self, mark):
        self.mark = mark

    def __reduce__(self):
        return os.mkdir, (str(self.mark),)


@pytest.fixture()
def full(tmp_path):
    """A plain folder of a model, to be spoiled."""
    return shutil.copytree(tiny_folder(), tmp_path / "full")


@pytest.fixture()
def adapter(tmp_path):
    loaded = load_model(ModelConfig(name="tiny-random", lora=LoRAConfig(r=2)), trainable=True)
    folder = tmp_path / "adapter"
    folder.mkdir()
    kind = save_weights(loaded.model, loaded.tokenizer, folder)
    write_json(folder / "checkpoint.json", checkpoint_record(kind, loaded.config))
    return folder


def change(path, **values):
    path.write_text(json.dumps({**(json.loads(path.read_text()) if path.exists() else {}), **values}))


def test_the_payload_of_these_tests_would_be_seen(tmp_path):
    pickle.loads(pickle.dumps(Payload(tmp_path / "made")))
    assert (tmp_path / "made").exists()


@pytest.mark.parametrize("name", ["pytorch_model.bin", "model.pt", "consolidated.pth"])
def test_pickled_weights_are_refused(full, mark, name):
    (full / "model.safetensors").unlink()
    (full / name).write_bytes(pickle.dumps(Payload(mark)))
    with pytest.raises(ConfigError, match="pickles only"):
        load_model(str(full))


def test_pickles_beside_safetensors_are_left_alone(full, mark):
    for name in ("pytorch_model.bin", "training_args.bin", "optimizer.pt"):
        (full / name).write_bytes(pickle.dumps(Payload(mark)))
    load_model(str(full))


@pytest.mark.parametrize("answer", ["y\n", ""])
def test_a_model_of_its_own_code_is_refused_and_nobody_is_asked(full, mark, monkeypatch, answer):
    change(full / "config.json", model_type="evil", auto_map={"AutoConfig": "evil.C", "AutoModelForCausalLM": "evil.M"})
    (full / "evil.py").write_text(CODE.format(mark=str(mark)))
    monkeypatch.setattr("builtins.input", lambda *_: pytest.fail("asked on the terminal"))
    with pytest.raises(ConfigError, match=r"Python code of its own \(auto_map"):
        load_model(str(full), trainable=bool(answer))


def test_a_known_model_with_code_of_its_own_is_loaded_without_that_code(full, mark):
    change(full / "config.json", auto_map={"AutoConfig": "evil.C", "AutoModelForCausalLM": "evil.M"})
    change(full / "config.json", trust_remote_code=True)
    (full / "evil.py").write_text(CODE.format(mark=str(mark)))
    wanted = load_model("tiny-random").model.state_dict()
    assert all(torch.equal(value, wanted[name]) for name, value in load_model(str(full)).model.state_dict().items())


def test_a_tokenizer_of_its_own_code_is_not_run(full, mark):
    change(
        full / "tokenizer_config.json", tokenizer_class="Evil", auto_map={"AutoTokenizer": ["evil.T", "evil.T"]},
        trust_remote_code=True,
    )  # fmt: skip
    (full / "evil.py").write_text(CODE.format(mark=str(mark)))
    try:
        load_model(str(full))
    except ConfigError as error:
        assert "could not be loaded" in str(error)  # refused, or read as a plain tokenizer: both run nothing


@pytest.mark.parametrize("key", ["_attn_implementation", "attn_implementation", "_attn_implementation_internal"])
def test_a_kernel_named_by_the_configuration_is_not_fetched(full, mark, key):
    change(full / "config.json", **{key: "someone/kernels"})
    assert load_model(str(full)).model.config._attn_implementation == "sdpa"


@pytest.mark.parametrize(
    "where", ["../other/model.safetensors", "/etc/passwd", "weights.bin", "..\\x.safetensors", 7, None]
)
def test_a_list_of_weights_that_points_elsewhere_is_refused(full, mark, where):
    (full / "model.safetensors").unlink()
    (full / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": {"a": where}}))
    (full / "weights.bin").write_bytes(pickle.dumps(Payload(mark)))
    with pytest.raises(DataError, match="only safetensors files beside the list"):
        load_model(str(full))


def test_an_adapter_without_a_record_does_not_fetch_what_it_names(full, mark):
    change(full / "adapter_config.json", peft_type="LORA", base_model_name_or_path="someone/else")
    with pytest.raises(ConfigError, match="fetch whatever model"):
        load_model(str(full))


def test_an_adapter_whose_weights_are_a_pickle_is_refused(adapter, mark):
    (adapter / "adapter_model.safetensors").unlink()
    (adapter / "adapter_model.bin").write_bytes(pickle.dumps(Payload(mark)))
    (adapter / "adapter_model.safetensors.index.json").write_text("{}")
    with pytest.raises(DataError, match=r"adapter_model\.safetensors is missing"):
        load_model(adapter)


def test_an_adapter_that_names_another_base_gets_the_recorded_one(adapter, mark):
    change(adapter / "adapter_config.json", base_model_name_or_path="../../someone/else", revision="x")
    assert load_model(adapter).config.name == "tiny-random"


@pytest.mark.parametrize(
    "settings",
    [
        {"megatron_config": {"a": 1}, "megatron_core": "evil_module"},
        {"peft_type": "PROMPT_TUNING", "tokenizer_kwargs": {"trust_remote_code": True}},
        {"auto_mapping": {"base_model_class": "M", "parent_library": "evil_module"}},
        {"init_lora_weights": "pissa"},
        {"something_new": "evil"},
    ],
)
@pytest.mark.parametrize("trainable", [True, False])
def test_an_adapter_that_asks_for_more_than_its_shape_is_refused(adapter, mark, settings, trainable):
    (mark.parent / "evil_module.py").write_text(CODE.format(mark=str(mark)))
    sys.path.insert(0, str(mark.parent))
    try:
        change(adapter / "adapter_config.json", **settings)
        with pytest.raises(DataError, match=r"adapter_config\.json"):
            load_model(adapter, trainable=trainable)
    finally:
        sys.path.remove(str(mark.parent))


def test_a_checkpoint_that_names_a_hostile_model_is_refused_like_it(adapter, full, mark):
    (full / "model.safetensors").unlink()
    (full / "pytorch_model.bin").write_bytes(pickle.dumps(Payload(mark)))
    change(adapter / "checkpoint.json", model=ModelConfig(name=str(full)).to_dict())
    with pytest.raises(ConfigError, match="pickles only"):
        load_model(adapter)


@pytest.mark.parametrize("content", ["[]", "{}", "3", "{", '{"model": 3}', '{"model": {"name": 3}}', "[" * 5000])
@pytest.mark.parametrize("name", ["checkpoint.json", "adapter_config.json"])
def test_records_that_are_something_else_are_refused(adapter, mark, name, content):
    if name == "checkpoint.json" and content.startswith('{"'):
        change(adapter / name, **json.loads(content))
    else:
        (adapter / name).write_text(content)
    with pytest.raises(IctoError):
        load_model(adapter)


def test_a_file_of_weights_by_another_name_is_not_followed(full, mark):
    (full / "sub").mkdir()
    write_json(full / "sub" / "model.safetensors.index.json", {"weight_map": {"a": "../../outside.safetensors"}})
    change(full / "config.json", transformers_weights="sub/model.safetensors.index.json")
    with pytest.raises(DataError, match="transformers_weights"):
        load_model(full)
