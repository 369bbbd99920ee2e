"""Weights in 4 and 8 bits from cloning over contrast to play, each read back from what the one before it saved."""

import pytest
from packages import installed

from trainers.models import LoRAConfig, ModelConfig
from trainers.models.loading import load_model, read_checkpoint
from trainers.policies import make_policy
from trainers.policies.base import Turn
from trainers.training.config import DPOConfig, SFTConfig
from trainers.training.dpo import PairPlan, train_dpo
from trainers.training.sft import train_sft

bitsandbytes = installed("bitsandbytes", extra="quantization")

SFT = SFTConfig(learning_rate=2e-2, epochs=15, batch_size=4)
DPO = DPOConfig(learning_rate=3e-3, epochs=4, batch_size=3, sft_weight=0.0)


def quantised_layers(model, quantization):
    """All layers of the kind; 4 bits with scales that are quantised too."""
    if quantization == "int8":
        return [layer for layer in model.modules() if isinstance(layer, bitsandbytes.nn.Linear8bitLt)]
    layers = [layer for layer in model.modules() if isinstance(layer, bitsandbytes.nn.Linear4bit)]
    states = [layer.weight.quant_state for layer in layers]
    return [layer for layer, state in zip(layers, states, strict=True) if state.quant_type == "nf4" and state.nested]


@pytest.mark.parametrize("quantization", ["nf4", "int8"])
def test_a_clone_is_contrasted_and_plays_with_quantised_weights(quantization, trajectories, pairs, tmp_path):
    start = ModelConfig(name="tiny-random", quantization=quantization, lora=LoRAConfig(r=8, alpha=16))
    cloning, contrast = [], []
    clone = train_sft(trajectories, start, SFT, tmp_path / "sft", log=cloning.append)
    assert cloning[-1]["train/loss"] < 0.4 * cloning[0]["train/loss"]
    contrasted = train_dpo(pairs, clone, DPO, tmp_path / "dpo", log=contrast.append)
    assert contrast[0]["pairs/chosen_logp_change"] == 0.0
    assert contrast[1]["train/loss"] == pytest.approx(0.693147, abs=1e-3)
    assert contrast[-1]["pairs/reward_accuracy"] == 1.0 and contrast[-1]["pairs/log_ratio_margin"] > 1.0

    for folder in (clone, contrasted):
        assert (read_checkpoint(folder)["kind"], read_checkpoint(folder)["model"]) == ("adapter", start.to_dict())
        assert sum(file.stat().st_size for file in folder.iterdir()) < 200_000  # an adapter, none of the weights
    learned = contrast[-1]["pairs/chosen_logp"], contrast[-1]["pairs/rejected_logp"]
    for trainable, tolerance in ((True, 1e-3), (False, 0.02)):  # what acts rounds in its own way
        loaded = load_model(contrasted, trainable=trainable)
        assert len(quantised_layers(loaded.model, quantization)) == 14
        model = loaded.model.train(trainable)
        sides = PairPlan.make(loaded.tokenizer, pairs, DPO).score(model, range(len(pairs))).sum(-1).mean(0)
        assert sides.tolist() == pytest.approx(learned, rel=tolerance)
    policy = make_policy(f"hf:{contrasted}", max_new_tokens=12)
    turns = [Turn(pair.prompt, {}, pair.task_id, 0.0, seed=0) for pair in pairs]
    said = [text.partition(" ")[0] for text in policy.act(turns)]
    assert said == ["Go"] * len(pairs)
