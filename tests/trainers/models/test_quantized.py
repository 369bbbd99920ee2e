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
from trainers.training.engine import check_scoring, prepare

bitsandbytes = installed("bitsandbytes", extra="quantization")

BATCH = collate([Encoded([*range(3, 23)], [-1] * 10 + [0] * 10)], packed=False)
SAID = [Message("user", "Shop."), Message("assistant", "OK"), Message("user", "Find a hat.")]


def settings(quantization):
    return ModelConfig(name="tiny-random", quantization=quantization, lora=LoRAConfig(r=4, alpha=8))


def adapted(quantization, size=0.02):
    """With an adapter that does something."""
    model = load_model(settings(quantization), trainable=True).model
    generator = torch.Generator().manual_seed(1)
    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter.data += size * torch.randn(parameter.shape, generator=generator)
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


def test_a_model_in_8_bits_is_not_refused_for_numbers_that_depend_on_the_rest_of_a_batch():
    model = adapted("int8", 0.2).eval()
    layers = [layer for layer in model.modules() if isinstance(layer, bitsandbytes.nn.Linear8bitLt)]
    ids = torch.arange(3, 63).view(3, 20)
    assert (model(ids[:1]).logits - model(ids).logits[:1]).abs().max() > 1e-2
    before = {layer.state.threshold for layer in layers}
    assert check_scoring(model, packed=True)
    assert {layer.state.threshold for layer in layers} == before != {0.0}


def test_8_bits_do_not_warn_at_every_product(caplog):
    load_model(settings("int8")).model(torch.arange(3, 23)[None])
    assert not [record for record in caplog.records if record.name.startswith("bitsandbytes")]
