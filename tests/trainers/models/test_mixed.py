"""Products in bfloat16: near the numbers of float32, and nowhere else."""

from __future__ import annotations

import copy
from types import MethodType

import pytest
from packages import installed

torch = installed("torch", extra="train")
peft = installed("peft", extra="peft")
transformers = installed("transformers", extra="train")

from two_layers import adapted, full  # noqa: E402

from trainers.models.config import LoRAConfig, ModelConfig  # noqa: E402
from trainers.models.folded import fold_adapters  # noqa: E402
from trainers.models.loading import load_model, merged_for_generation  # noqa: E402
from trainers.models.mixed import MixedAdapter, MixedLinear, mix_precision, unmix_precision  # noqa: E402


def learned(model, x):
    """Outputs, the gradient for the input, and those of the weights by name."""
    model.zero_grad()
    x = x.clone().requires_grad_()
    y = model(x)
    y.square().sum().backward()
    return [y.detach(), x.grad, *(value.grad for value in model.parameters() if value.grad is not None)]


def rounded(model):
    """The same model computed by plain autograd: each frozen or full weight and its input rounded, then float32."""

    def forward(layer, x):
        y = (x.bfloat16() @ layer.weight.bfloat16().T).float()
        return y if layer.bias is None else y + layer.bias

    model = copy.deepcopy(model)
    for name, layer in model.named_modules():
        if type(layer) is torch.nn.Linear and "lora" not in name:
            layer.forward = MethodType(forward, layer)
    return model


def assert_close(found, expected, tolerance):
    assert len(found) == len(expected)
    for one, other in zip(found, expected, strict=True):
        assert one.dtype == torch.float32
        assert float((one - other).norm() / other.norm()) < tolerance


ROWS = torch.randn(2, 9, 12, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("make", [adapted, full])
@pytest.mark.parametrize("shape", [(2, 9, 12), (18, 12)])
def test_outputs_and_gradients_are_near_those_of_float32_and_those_of_rounded_products(make, shape):
    model = make()
    exact, by_autograd = learned(model, ROWS.view(shape)), learned(rounded(model), ROWS.view(shape))
    assert mix_precision(model) == 2
    found = learned(model, ROWS.view(shape))
    assert len(found) == (6 if make is adapted else 5)
    assert_close(found, exact, 0.02)
    assert_close(found, by_autograd, 0.01)
    assert not torch.equal(found[0], exact[0])  # something was rounded


def test_adapters_are_added_in_one_go_and_with_dropout_as_peft_does(monkeypatch):
    calls = []
    for function in (MixedAdapter, MixedLinear):
        apply = function.apply
        monkeypatch.setattr(
            function, "apply", lambda *given, _one=function, _apply=apply: calls.append(_one) or _apply(*given)
        )
    for model, function in ((adapted(), MixedAdapter), (adapted(dropout=0.5), MixedLinear)):
        mix_precision(model)
        calls.clear()
        model(ROWS)
        assert calls == [function] * 2
        model.eval()
        calls.clear()
        model(ROWS)
        assert calls == [MixedAdapter] * 2
        with model.disable_adapter():
            calls.clear()
            model(ROWS)
            assert calls == [MixedLinear] * 2
        with torch.inference_mode():
            calls.clear()
            model(ROWS)
            assert calls == []


def test_a_step_of_training_is_seen_through_the_rounding():
    """Folded into a rounded weight, most of a small change is lost; beside it, the change comes through."""
    generator = torch.Generator().manual_seed(3)
    w, x = torch.randn(64, 64, generator=generator), torch.randn(40, 64, generator=generator)
    down, up = torch.randn(4, 64, generator=generator), torch.randn(64, 4, generator=generator) * 1e-5
    wanted = x @ (up @ down).T
    beside = MixedAdapter.apply(x, w, down, up, 1.0, torch.bfloat16)
    without = MixedAdapter.apply(x, w, down, torch.zeros_like(up), 1.0, torch.bfloat16)
    folded = (x.bfloat16() @ (w + up @ down).bfloat16().T).float() - (x.bfloat16() @ w.bfloat16().T).float()
    assert float((beside - without - wanted).norm() / wanted.norm()) < 0.05
    assert float((folded - wanted).norm() / wanted.norm()) > 0.5


def test_a_language_model_keeps_its_output_layer_and_a_second_call_changes_nothing():
    model = load_model(ModelConfig(name="tiny-random", lora=LoRAConfig(r=2)), trainable=True).model
    linear = [layer for name, layer in model.named_modules() if type(layer) is torch.nn.Linear and "lora" not in name]
    head = model.get_output_embeddings()
    assert mix_precision(model) == mix_precision(model) == len(linear) - 1
    assert "forward" not in vars(head) and not hasattr(head, "_mixed")
    assert fold_adapters(model) == 0


def test_an_adapter_on_the_output_layer_stays_exact_as_well():
    config = transformers.LlamaConfig(
        vocab_size=50, hidden_size=16, intermediate_size=24, num_hidden_layers=1, num_attention_heads=2,
        tie_word_embeddings=False,
    )  # fmt: skip
    model = transformers.LlamaForCausalLM(config)
    model = peft.get_peft_model(model, peft.LoraConfig(r=2, target_modules=["q_proj", "lm_head"]))
    assert mix_precision(model) == 7
    head = model.get_output_embeddings()
    assert hasattr(head, "lora_A") and not any("forward" in vars(part) for part in head.modules())


def test_what_was_folded_is_mixed_and_the_other_way_round():
    model = adapted()
    exact = model(ROWS)
    fold_adapters(model)
    mix_precision(model)
    mixed = model(ROWS)
    assert not torch.equal(mixed, exact)
    unmix_precision(model)
    assert torch.equal(model(ROWS), exact)
    assert fold_adapters(model) == 2


def test_generation_is_not_touched():
    ids = torch.arange(3, 40)[None]
    loaded = load_model(ModelConfig(name="tiny-random", lora=LoRAConfig(r=2)), trainable=True)
    with merged_for_generation(loaded.model) as model, torch.inference_mode():
        before = model(ids).logits
    mix_precision(loaded.model)
    with merged_for_generation(loaded.model) as model, torch.inference_mode():
        assert torch.equal(model(ids).logits, before)
    assert not torch.equal(loaded.model(ids).logits, before)


def test_layers_of_another_precision_or_in_other_hands_stay_as_they_are():
    model = full()
    model.second.register_forward_hook(lambda *_: None)
    assert mix_precision(model) == 1
    assert mix_precision(full().double()) == 0
