"""Activations that are made again: the same numbers to the last bit, and no longer in memory."""

from __future__ import annotations

import copy
import weakref

import pytest
from packages import installed

torch = installed("torch", extra="train")
transformers = installed("transformers", extra="train")

from trainers.models.elementwise import GatedProduct  # noqa: E402
from trainers.models.remade import Recipe, Remade, remake_activations  # noqa: E402

SIZES = {
    "vocab_size": 50, "hidden_size": 16, "intermediate_size": 40, "num_hidden_layers": 2, "num_attention_heads": 4,
    "num_key_value_heads": 2,
}  # fmt: skip
IDS = torch.arange(3, 21)[None]


@pytest.fixture
def model():
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return transformers.LlamaForCausalLM(transformers.LlamaConfig(**SIZES, initializer_range=0.3)).train()


def loss_of(model):
    return model(input_ids=IDS, labels=IDS, use_cache=False).loss


def learned(model):
    loss = loss_of(model)
    loss.backward()
    return loss.detach(), {name: value.grad for name, value in model.named_parameters()}


def test_loss_and_gradients_are_the_same_to_the_last_bit(model):
    other = copy.deepcopy(model)
    assert remake_activations(model.model.layers) == 2
    (loss, gradients), (own, expected) = learned(model), learned(other)
    assert torch.equal(loss, own) and gradients.keys() == expected.keys()
    for name, gradient in gradients.items():
        assert torch.equal(gradient, expected[name]), name


def test_what_can_be_made_again_is_gone_while_the_loss_is_held(model, monkeypatch):
    made, kept = [], []
    remember, pack = Remade.remember, Remade.pack
    monkeypatch.setattr(
        Remade, "remember", lambda self, one, make: made.append(weakref.ref(one)) or remember(self, one, make)
    )
    monkeypatch.setattr(Remade, "pack", lambda self, one: kept.append(pack(self, one)) or kept[-1])
    remake_activations(list(model.model.layers))
    loss = loss_of(model)
    assert len(made) == 2 * 3 and loss.requires_grad
    assert not any(one() is not None for one in made)
    recipes = [item for item in kept if isinstance(item, Recipe)]
    assert len(recipes) == 2 * 6  # q, k, v; gate, up; down
    assert {item.shape[-1] for item in recipes} == {16, 40}


def test_it_is_done_once_however_often_it_is_asked_for(model):
    assert remake_activations(model.model.layers) == remake_activations(model.model.layers) == 2
    assert [len(layer.input_layernorm._forward_hooks) for layer in model.model.layers] == [1, 1]
    assert torch.isfinite(learned(model)[0])


def test_a_layer_that_somebody_else_stands_in_for_stays_as_it_is(model):
    first, second = model.model.layers
    first.forward = there = lambda *given, **options: type(first).forward(first, *given, **options)
    assert remake_activations([first, second]) == 1
    assert first.forward is there and not first.input_layernorm._forward_hooks


def test_without_gradients_and_under_autocast_a_layer_runs_as_ever(model, monkeypatch):
    remake_activations(list(model.model.layers))
    monkeypatch.setattr(Remade, "remember", lambda *_: pytest.fail("something was remembered"))
    with torch.no_grad():
        loss_of(model)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss_of(model).backward()


class Alike(torch.nn.Module):
    """Has a gated MLP's parts and does something else."""

    def __init__(self):
        super().__init__()
        self.gate_proj, self.up_proj = torch.nn.Linear(16, 40), torch.nn.Linear(16, 40)
        self.down_proj, self.act_fn = torch.nn.Linear(40, 16), torch.nn.SiLU()

    def forward(self, x):
        return self.down_proj(self.act_fn(self.up_proj(x)) * self.gate_proj(x))


def test_a_module_that_only_looks_like_a_gated_mlp_stays_as_it_is(model):
    layer = model.model.layers[0]
    layer.mlp = Alike()
    assert remake_activations([layer]) == 1  # for its norms
    assert "forward" not in vars(layer.mlp)


def test_a_failed_layer_leaves_nothing_behind(model):
    remake_activations(list(model.model.layers))
    handle = model.model.layers[0].mlp.down_proj.register_forward_hook(lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        loss_of(model)
    handle.remove()
    assert torch.isfinite(learned(model)[0])


def test_a_part_of_what_was_made_is_no_such_thing():
    remade, whole = Remade(), torch.arange(6.0)
    remade.remember(whole, whole.clone)
    for other in (whole[:3], whole.view(torch.int32), whole.view(2, 3).T):
        assert remade.pack(other) is other
    again = remade.pack(whole.view(2, 3))
    assert isinstance(again, Recipe) and torch.equal(remade.unpack(again), whole.view(2, 3))
    remade.forget()
    assert remade.pack(whole) is whole


@pytest.mark.parametrize("act", [torch.nn.functional.silu, torch.nn.functional.gelu, torch.tanh])
def test_the_gradients_of_a_gated_product_are_those_of_small_differences(act):
    draw = torch.Generator().manual_seed(1)
    gate, up = (torch.randn(3, 5, generator=draw, dtype=torch.float64).requires_grad_() for _ in range(2))
    assert torch.autograd.gradcheck(lambda one, other: GatedProduct.apply(one, other, act), (gate, up))
