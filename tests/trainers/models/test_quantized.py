"""Weights in 4 and 8 bits under the real trainers: what is learned, kept and played is what unrounded numbers say."""

import pytest
import torch
from packages import installed

from icto_gym.dialogue import Message
from trainers.batches import collate
from trainers.models import LoRAConfig, ModelConfig
from trainers.models.loading import load_model
from trainers.models.scoring import score_tokens
from trainers.policies.base import Turn
from trainers.policies.hf import HFPolicy
from trainers.tokenization import Encoded
from trainers.training.config import OptimizerConfig
from trainers.training.engine import prepare

bitsandbytes = installed("bitsandbytes", extra="quantization")

BATCH = collate([Encoded([*range(3, 23)], [-1] * 10 + [0] * 10)], packed=False)
SAID = [Message("user", "Shop."), Message("assistant", "OK"), Message("user", "Find a hat.")]


def settings(quantization):
    return ModelConfig(name="tiny-random", quantization=quantization, lora=LoRAConfig(r=4, alpha=8))


def adapted(quantization):
    """With an adapter that does something."""
    model = load_model(settings(quantization), trainable=True).model
    generator = torch.Generator().manual_seed(1)
    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter.data += 0.02 * torch.randn(parameter.shape, generator=generator)
    return model


def unpack(model):
    """Every quantised layer becomes a plain one with the very same weights, in float32."""
    for layer in [layer for layer in model.modules() if hasattr(layer, "base_layer")]:
        weight = layer.base_layer.weight
        if weight.dtype == torch.int8:
            values = weight.data * weight.SCB[:, None] / 127
        else:
            values = bitsandbytes.functional.dequantize_4bit(weight.data, weight.quant_state)
        layer.base_layer = torch.nn.Linear(*values.T.shape, bias=False)
        layer.base_layer.weight = torch.nn.Parameter(values.float(), requires_grad=False)
    return model


def gradients(model):
    score_tokens(model, BATCH).mean().backward()
    return torch.cat([parameter.grad.flatten() for parameter in model.parameters() if parameter.requires_grad])


@pytest.mark.parametrize("quantization", ["nf4", "int8"])
def test_gradients_pass_through_all_layers_also_after_the_model_was_checked_and_has_played(quantization):
    wanted = gradients(unpack(adapted(quantization)).train())
    model = adapted(quantization)
    prepare(model, OptimizerConfig(packing=False), dropout=False)
    HFPolicy(model, load_model("tiny-random").tokenizer, max_new_tokens=3).act([Turn(SAID, {}, "a", 0.0, seed=0)])
    assert (gradients(model) - wanted).norm() < 1e-3 * wanted.norm()
