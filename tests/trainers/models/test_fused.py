"""Models of known kinds compute the same in fewer passes, and all others are left as they are."""

from __future__ import annotations

import copy

import pytest
from packages import installed

torch = installed("torch", extra="train")
transformers = installed("transformers", extra="train")

from trainers.models import fused  # noqa: E402
from trainers.models.elementwise import GatedProduct, RootMeanSquareNorm, RotaryPositions  # noqa: E402
from trainers.models.fused import fuse  # noqa: E402

SIZES = {
    "vocab_size": 50, "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2, "num_attention_heads": 4,
    "num_key_value_heads": 2, "initializer_range": 0.2,
}  # fmt: skip
IDS = torch.randint(3, 50, (2, 300), generator=torch.Generator().manual_seed(0))
KINDS = {"Llama": {}, "Qwen2": {"use_sliding_window": True, "sliding_window": 7, "max_window_layers": 1}}


def model_of(kind, **more):
    config = getattr(transformers, f"{kind}Config")(**SIZES, **more)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return getattr(transformers, f"{kind}ForCausalLM")._from_config(config, attn_implementation="sdpa").train()


def learned(model):
    model.zero_grad()
    loss = model(input_ids=IDS, labels=IDS, use_cache=False).loss
    loss.backward()
    return loss.detach(), {name: value.grad for name, value in model.named_parameters() if value.grad is not None}


@pytest.fixture
def calls(monkeypatch):
    """Which functions computed, a word for each call."""
    counted = []
    for function in (GatedProduct, RootMeanSquareNorm, RotaryPositions):
        apply = function.apply
        monkeypatch.setattr(
            function, "apply", lambda *given, apply=apply, name=function.__name__: counted.append(name) or apply(*given)
        )
    return counted


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("frozen", [False, True])
def test_loss_and_gradients_stay_the_same(kind, frozen, calls):
    model = model_of(kind, **KINDS[kind])
    for name, value in model.named_parameters():
        value.requires_grad_(not frozen or "down_proj" in name or "q_proj" in name)
    other = copy.deepcopy(model)
    assert fuse(model) == 2 * 4 + 1  # two norms, an MLP and an attention layer, and the last norm
    calls.clear()
    (loss, gradients), (own, expected) = learned(model), learned(other)
    counts = {name: calls.count(name) for name in set(calls)}
    assert counts == {"GatedProduct": 2, "RootMeanSquareNorm": 5, "RotaryPositions": 4}
    torch.testing.assert_close(loss, own, rtol=1e-6, atol=1e-6)
    assert gradients.keys() == expected.keys()
    for name, gradient in gradients.items():
        torch.testing.assert_close(gradient, expected[name], rtol=1e-3, atol=1e-5)


def test_it_is_done_once_and_copies_compute_on_their_own(calls):
    model = model_of("Llama")
    assert fuse(model) == 9 and fuse(model) == 0
    other = copy.deepcopy(model)
    with torch.no_grad():
        other.model.norm.weight.mul_(2.0)
        assert not torch.equal(other(IDS).logits, model(IDS).logits)


def test_a_policy_that_plays_computes_as_ever(calls):
    model = model_of("Llama").eval()
    other = copy.deepcopy(model)
    fuse(model)
    calls.clear()
    with torch.inference_mode():
        assert torch.equal(model(IDS).logits, other(IDS).logits)
    assert not calls


def test_few_tokens_a_cache_and_autocast_are_computed_as_ever(calls):
    model = model_of("Llama")
    other = copy.deepcopy(model)
    fuse(model)
    calls.clear()
    assert torch.equal(model(IDS[:1, :9]).logits, other(IDS[:1, :9]).logits)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(model(IDS).logits, other(IDS).logits)
    assert not calls
    model(IDS, use_cache=True)
    assert "RotaryPositions" not in calls


def test_attention_that_is_told_to_compute_plainly_later_does(calls):
    model = model_of("Llama")
    fuse(model)
    model.set_attn_implementation("eager")
    other = copy.deepcopy(model)
    for module in other.modules():
        vars(module).pop("forward", None)
    calls.clear()
    torch.testing.assert_close(model(IDS).logits, other(IDS).logits)
    assert "RotaryPositions" not in calls and "GatedProduct" in calls


@pytest.mark.parametrize("kind", ["Gemma", "Cohere"])
def test_other_norms_and_other_attention_are_left_alone(kind, calls):
    model = model_of(kind, head_dim=16) if kind == "Gemma" else model_of(kind)
    other = copy.deepcopy(model)
    assert fuse(model) == 2  # their MLPs alone are of a known kind
    (loss, gradients), (own, expected) = learned(model), learned(other)
    torch.testing.assert_close(loss, own, rtol=1e-6, atol=1e-6)
    for name, gradient in gradients.items():
        torch.testing.assert_close(gradient, expected[name], rtol=1e-3, atol=1e-5)


def test_what_a_known_name_does_otherwise_is_left_alone(monkeypatch):
    from transformers.models.llama import modeling_llama

    model = model_of("Llama")
    monkeypatch.setattr(modeling_llama.LlamaRMSNorm, "forward", lambda self, x: x * (1 + self.weight))
    turn = modeling_llama.apply_rotary_pos_emb
    monkeypatch.setattr(modeling_llama, "apply_rotary_pos_emb", lambda q, k, cos, sin: turn(q, k, cos, -sin))
    monkeypatch.setattr(modeling_llama.LlamaMLP, "forward", lambda self, x: x)
    assert fuse(model) == 0


def test_in_double_precision_it_computes_as_ever(calls):
    model = model_of("Llama").double()
    other = copy.deepcopy(model)
    fuse(model)
    calls.clear()
    assert torch.equal(model(IDS).logits, other(IDS).logits)
    assert not calls


def test_layers_that_cannot_be_tried_are_left_alone():
    class Packed(torch.nn.Module):
        """Weights in buffers, as quantised layers have them."""

        def __init__(self, layer):
            super().__init__()
            self.in_features = layer.in_features
            self.register_buffer("packed", layer.weight.detach())

        def forward(self, x):
            return torch.nn.functional.linear(x, self.packed)

    model = model_of("Llama")
    for layer in model.model.layers:
        layer.mlp.gate_proj = Packed(layer.mlp.gate_proj)
        layer.self_attn.q_proj = Packed(layer.self_attn.q_proj)
    assert fuse(model) == 5


def test_someone_who_hangs_on_a_call_is_not_left_out():
    model = model_of("Llama")
    model.model.norm.register_forward_hook(lambda *_: None)
    model.model.layers[0].mlp.forward = lambda x: x
    assert fuse(model) == 7
    assert "forward" not in vars(model.model.norm)
    assert fused.computes_as_ever(model.model.layers[1].mlp) and not fused.computes_as_ever(model.model.layers[0].mlp)
